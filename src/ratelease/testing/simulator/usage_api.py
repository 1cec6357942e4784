"""Write what a provider reports of its use in the shapes of real ones, and what none of them should say. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

from ratelease.testing.simulator.chat import to_json
from ratelease.testing.simulator.model import Usage


@dataclass(frozen=True, slots=True)
class Shape:
    """Say where a report is asked for, and how it is written."""

    path: str
    content_type: tuple[bytes, bytes]
    write: Callable[[Usage], bytes]


def gateway_report(usage: Usage) -> bytes:
    """Write JSON with the count at usage.concurrent_sessions and the limits at limits.concurrency."""
    fields = asdict(usage)
    count = fields.pop("concurrent_sessions")
    return to_json({"usage": {"concurrent_sessions": count}, "limits": {"concurrency": fields}})


def featherless_report(usage: Usage) -> bytes:
    """Write what Featherless does, each call at a cost of 1; without the list of requests, which nobody counts by."""
    count = usage.concurrent_sessions
    return to_json({"limit": usage.limit, "used_cost": count, "request_count": count})


def vllm_report(usage: Usage) -> bytes:
    """Write the metrics of a vLLM server that queues nothing, in Prometheus' text format."""
    lines = []
    for name, help_, count in (
        ("vllm:num_requests_running", "Number of requests in model execution batches.", usage.concurrent_sessions),
        ("vllm:num_requests_waiting", "Number of requests waiting to be processed.", 0),
    ):
        labels = '{engine="0",model_name="simulated"}'
        lines += [f"# HELP {name} {help_}", f"# TYPE {name} gauge", f"{name}{labels} {count:.1f}"]
    return "\n".join([*lines, ""]).encode()


_JSON = (b"content-type", b"application/json")

SHAPES = (
    Shape("/v1/usage", _JSON, gateway_report),
    Shape("/account/concurrency", _JSON, featherless_report),
    Shape("/metrics", (b"content-type", b"text/plain; version=0.0.4; charset=utf-8"), vllm_report),
)

# None of it holds a count that could be meant, in any of the shapes.
GARBAGE = (
    b"",
    b"<html><body>It works!</body></html>",
    b'{"usage": {"concurrent_sessions": 2',
    b"null",
    b"vllm:num_requests_running\n",
    b'{"usage": {"concurrent_sessions": -1}, "used_cost": -1}',
    b'{"usage": {"concurrent_sessions": "2"}, "used_cost": "2"}',
    b"vllm:num_requests_running NaN\n",
    b'{"usage": {"concurrent_sessions": 1e400}, "used_cost": NaN}',
    b"vllm:num_requests_running -1\n",
    b'[{"usage": 2}]',
    b"\xff\xfe" * 512,
)


def garbage(number: int) -> bytes:
    """Return the answer of a provider that has lost its mind, another one for each number."""
    return GARBAGE[number % len(GARBAGE)]
