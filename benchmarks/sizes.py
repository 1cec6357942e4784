"""How many bytes the keys of a scope, a lease and a waiter take in Redis."""

from __future__ import annotations

from collections.abc import Callable

import redis

from benchmarks.direct import Direct
from benchmarks.measure import show
from ratelease import Limits

NAMESPACE = "bench-sizes"
MANY = 1_000
BATCH = 128


def run(url: str) -> None:
    """Fill scopes, ask MEMORY USAGE, and print the table."""
    with redis.Redis.from_url(url) as client:
        rows = [
            ("scope with RPM and TPM, all slots of both windows in use", _scope(client)),
            ("each further lease, in the model's scope (with its record)", _each(client, _leases, ":m:")),
            ("each further lease, in every other scope", _each(client, _leases, ":t:")),
            ("each further waiter", _each(client, _waiters, ":")),
        ]
    show("memory", ("what", "bytes"), [(what, f"{size:,.0f}") for what, size in rows])


def _clear(client: redis.Redis) -> None:
    for key in client.scan_iter(match=f"rl:{{{NAMESPACE}}}:*", count=1000):
        client.delete(key)


def _used(client: redis.Redis, part: str) -> int:
    keys = [key for key in client.scan_iter(match=f"rl:{{{NAMESPACE}}}:*", count=1000) if part in key.decode()]
    return sum(client.memory_usage(key, samples=0) or 0 for key in keys)


def _scope(client: redis.Redis) -> float:
    """A scope whose windows hold a count in each of their 128 slot fields, the most there can be."""
    direct = Direct(client, NAMESPACE, model=Limits(rpm=10**6, tpm=10**9, concurrency=10))
    request = direct.request()
    direct.acquire([request])
    direct.release([request.id])
    windows = next(key for key in direct.line.keys if key.endswith(":m:bench:model:windows"))
    for rate in ("r60000", "t60000"):
        client.hset(windows, mapping={f"{rate}:{slot}": 999_999 for slot in range(68)})
    size = sum(client.memory_usage(key, samples=0) or 0 for key in direct.line.keys if ":m:bench:model:" in key)
    _clear(client)
    return size


def _each(client: redis.Redis, fill: Callable[[redis.Redis, int], None], part: str) -> float:
    """What one more takes on average, between MANY and twice as many."""
    sizes = []
    for count in (MANY, 2 * MANY):
        fill(client, count)
        sizes.append(_used(client, part))
        _clear(client)
    return (sizes[1] - sizes[0]) / MANY


def _leases(client: redis.Redis, count: int) -> None:
    direct = Direct(client, NAMESPACE, model=Limits(concurrency=10**6), total=Limits(concurrency=10**6))
    for _ in range(0, count, BATCH):
        direct.acquire([direct.request() for _ in range(min(BATCH, count))])


def _waiters(client: redis.Redis, count: int) -> None:
    direct = Direct(client, NAMESPACE, model=Limits(concurrency=1))
    direct.acquire([direct.request()])
    for _ in range(0, count, BATCH):
        direct.acquire([direct.request(wait=600) for _ in range(min(BATCH, count))])
