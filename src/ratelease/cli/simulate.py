"""Run the provider simulator in the foreground."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Mapping
from types import FrameType
from typing import Any

from ratelease.testing import ProviderSimulator


def run_simulator(settings: Mapping[str, Any], *, as_json: bool) -> int:
    """Serve until SIGINT or SIGTERM, then print what the provider saw, and return the exit status."""
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with ProviderSimulator(**settings) as simulator:
            _announce(simulator.url, as_json=as_json)
            stop.wait()
            stats = simulator.stats().to_dict()
    except (ValueError, OSError) as fault:
        sys.stderr.write(f"simulate: {fault}\n")
        return 2 if isinstance(fault, ValueError) else 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    print(json.dumps(stats) if as_json else _describe(stats))
    return 0


def _announce(url: str, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"url": url}), flush=True)
        return
    print(f"provider simulator on {url}  (counts: {url}/_sim/stats; Ctrl-C stops it)")
    print(f"  POST {url}/v1/chat/completions")
    print(f"  POST {url}/v1/messages")
    print(f"  GET  {url}/v1/usage  /account/concurrency  /metrics", flush=True)


def _describe(stats: Mapping[str, Any]) -> str:
    limits = "".join(f", {count} by {reason}" for reason, count in stats["throttled_by"].items() if count)
    limits += "".join(f", {stats[name]} × {name}" for name in ("overloaded", "quota") if stats[name])
    return (
        f"{stats['requests']} requests: {stats['admitted']} admitted, {stats['throttled']} × 429{limits}; "
        f"at most {stats['peak_in_flight']} in flight ({stats['peak_counted']} as the provider counts, "
        f"{stats['beyond_limit']} beyond its limit), {stats['peak_in_window']} in any {stats['window']:g} s; "
        f"{stats['usage_polls']} usage polls"
    )
