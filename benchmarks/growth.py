"""What the server pays for one acquire and its release as limits, leases and waiters grow."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import redis

from benchmarks.direct import Direct
from benchmarks.measure import Work, show
from ratelease import Limits
from ratelease.core.model import Verdict

BATCH = 128


def run(url: str, seconds: float) -> None:
    """Measure each curve at its ends and in between, and print the table."""
    rates = (Limits(rpm=rpm) for rpm in (60, 1_000, 1_000_000))
    slots = Limits(concurrency=10**9)
    rows = [
        *((f"RPM {rpm.rpm:,}, window filled", *_pairs(url, seconds, rpm, used=(rpm.rpm or 0) - 50)) for rpm in rates),
        *((f"{used:,} live leases", *_pairs(url, seconds, slots, used=used)) for used in (10, 1_000, 10_000)),
        *((f"hand-off, {count:,} waiting", *_hand_offs(url, seconds, count)) for count in (1, 1_000, 10_000)),
    ]
    show("server cost of a pair, one call at a time", ("what", "pairs", "script µs", "server µs"), rows)


@contextmanager
def _clean(url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(url) as client:
        yield client
        for key in client.scan_iter(match="rl:{bench-growth}:*", count=1000):
            client.delete(key)


def _timed(client: redis.Redis, seconds: float, pair: Callable[[], None]) -> tuple[str, ...]:
    before, until, pairs = Work.of(client), time.perf_counter() + seconds, 0
    while time.perf_counter() < until:
        pair()
        pairs += 1
    return f"{pairs:,}", *Work.of(client).since(before).per(pairs)


def _pairs(url: str, seconds: float, limits: Limits, *, used: int) -> tuple[str, ...]:
    """Pairs on a scope with so much in use. Under a rate the unit is returned, so that the window stays as it is."""
    with _clean(url) as client:
        direct = Direct(client, "bench-growth", model=limits)
        if limits.concurrency is None:
            _charge(direct, used)
        else:
            for _ in range(0, used, BATCH):
                direct.acquire([direct.request() for _ in range(min(BATCH, used))])

        def pair() -> None:
            request = direct.request()
            assert direct.acquire([request])[0].status is Verdict.GRANTED
            direct.release([request.id], unsent=limits.concurrency is None)

        return _timed(client, seconds, pair)


def _charge(direct: Direct, used: int) -> None:
    """Fill the window: single charges of the whole amount, so that a million takes no longer than sixty."""
    request = direct.request(charge=max(used, 1))
    assert direct.acquire([request])[0].status is Verdict.GRANTED
    direct.release([request.id])


def _hand_offs(url: str, seconds: float, waiters: int) -> tuple[str, ...]:
    """Release, which grants the head; claim it; park one more behind the others: three calls a pair."""
    with _clean(url) as client:
        direct = Direct(client, "bench-growth", model=Limits(concurrency=1))
        holder = direct.request(wait=600)
        assert direct.acquire([holder])[0].status is Verdict.GRANTED
        queue = [direct.request(wait=600) for _ in range(waiters)]
        for at in range(0, waiters, BATCH):
            direct.acquire(queue[at : at + BATCH])
        queue.reverse()

        def pair() -> None:
            nonlocal holder
            queue.insert(0, direct.request(wait=600))
            assert direct.acquire(queue[:1])[0].status is Verdict.PARKED
            direct.release([holder.id])
            holder = queue.pop()
            assert direct.acquire([holder])[0].status is Verdict.GRANTED

        return _timed(client, seconds, pair)
