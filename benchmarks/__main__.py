"""Run the benchmarks: `python -m benchmarks [NAME …]`; `--help` names them."""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable
from contextlib import ExitStack

import redis

from benchmarks import acquire, batch, growth, handoff, rolling, sizes, strategies, window
from ratelease.testing import RedisServer, find_server

Run = Callable[[str, float], None]

# Each gets the address of a server, and the seconds of each figure.
BENCHMARKS: dict[str, Run] = {
    "acquire": acquire.run,
    "growth": growth.run,
    "sizes": lambda url, _seconds: sizes.run(url),
    "handoff": lambda url, _seconds: handoff.run(url),
    "window": lambda _url, _seconds: window.run(),
    "rolling": lambda url, _seconds: rolling.run(url),
    "batch": lambda url, _seconds: batch.run(url),
}

# Needs no server, and minutes: it runs where it is named.
STRATEGIES = "strategies"


def main() -> None:
    """Parse the command line, start a server unless one is named, and print a table a benchmark."""
    options = _options()
    if STRATEGIES in options.names:
        strategies.main(quick=options.quick, seed=options.seed, write_docs=options.write_docs)
    wanted = [name for name in BENCHMARKS if name in options.names or not options.names]
    if not wanted:
        return
    began = time.perf_counter()
    with ExitStack() as running:
        url = options.url
        if url is None:
            url = running.enter_context(RedisServer(find_server(options.server))).url
        _say_where(url)
        for name in wanted:
            BENCHMARKS[name](url, options.seconds)
    print(f"\n{time.perf_counter() - began:.0f} s in all")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="What ratelease costs.")
    known = ", ".join(BENCHMARKS)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{known}; none: all of these. {STRATEGIES}")
    parser.add_argument("--seconds", type=float, default=1.5, help="of each figure of acquire and growth (1.5)")
    parser.add_argument("--server", help="the server binary to start, such as valkey-9")
    parser.add_argument(
        "--url", help="a server to use instead; what is in its database 0 under rl:{bench… is in danger"
    )
    parser.add_argument("--quick", action="store_true", help="strategies: a minute of a small fleet")
    parser.add_argument("--seed", type=int, default=1, help="strategies: of all that is drawn (1)")
    parser.add_argument("--write-docs", action="store_true", help="strategies: write docs/strategies.md and its charts")
    options = parser.parse_args()
    if unknown := set(options.names) - {*BENCHMARKS, STRATEGIES}:
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}")
    return options


def _say_where(url: str) -> None:
    with redis.Redis.from_url(url) as client:
        about = client.info("server")
    kind = "valkey " + about["valkey_version"] if "valkey_version" in about else "redis " + about["redis_version"]
    print(
        f"{kind} on the same machine, redis-py {redis.__version__}, Python {platform.python_version()}, "
        f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    main()
