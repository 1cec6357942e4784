"""How fast slots pass from hand to hand: processes full of waiters, few slots, short calls."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from typing import Any

import redis

from benchmarks.measure import Work, percentile, show
from ratelease import AsyncClient, Limits

PROCESSES = 4
WAITERS = 50  # tasks in each process, every one of which always wants a slot
SLOTS = 10
HOLD = 0.02  # seconds
SECONDS = 5.0
SETTLE = 1.0  # seconds at the beginning that are not counted: connections, scripts and the first queue come into being
LATE = 0.01  # seconds; an overtaking by less than this is the noise of arrival, not of the queue

# Asked, granted and given back, on the monotonic clock, which processes of one machine share.
Grants = list[tuple[float, float, float]]


def run(url: str) -> None:
    """Let the processes compete, and print the table."""
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    begin: Any = context.Barrier(PROCESSES + 1)
    workers = [context.Process(target=_worker, args=(url, begin, results)) for _ in range(PROCESSES)]
    for worker in workers:
        worker.start()
    begin.wait(timeout=30)
    with redis.Redis.from_url(url) as client:
        time.sleep(SETTLE)
        before, since = Work.of(client), time.monotonic()
        time.sleep(SECONDS)
        work, until = Work.of(client).since(before), time.monotonic()
    grants: Grants = [grant for _ in workers for grant in results.get(timeout=30)]
    for worker in workers:
        worker.join()
    _report(sorted((g for g in grants if since <= g[1] < until), key=lambda g: g[1]), until - since, work)


def _worker(url: str, begin: Any, results: Any) -> None:
    results.put(asyncio.run(_compete(url, begin)))


async def _compete(url: str, begin: Any) -> Grants:
    grants: Grants = []
    async with AsyncClient(
        url, limits={"bench/model": Limits(concurrency=SLOTS)}, namespace="bench-handoff"
    ) as limiter:
        begin.wait()
        until = time.monotonic() + SETTLE + SECONDS + 0.2

        async def loop() -> None:
            while (asked := time.monotonic()) < until:
                async with limiter.acquire("bench", "model"):
                    granted = time.monotonic()
                    await asyncio.sleep(HOLD)
                    grants.append((asked, granted, time.monotonic()))

        await asyncio.gather(*(loop() for _ in range(WAITERS)))
    return grants


def _overtaken(grants: Grants) -> int:
    """Of grants in their order, how many came before one that had been asked for earlier."""
    count, earliest = 0, float("inf")
    for asked, _, _ in reversed(grants):
        count += earliest < asked - LATE
        earliest = min(earliest, asked)
    return count


def _report(grants: Grants, elapsed: float, work: Work) -> None:
    waits = [granted - asked for asked, granted, _ in grants]
    held = sum(ended - granted for _, granted, ended in grants) / len(grants)
    possible = SLOTS / held
    middle, high = 1000 * percentile(waits, 0.5), 1000 * percentile(waits, 0.99)
    rows = [
        ("grants/s", f"{len(grants) / elapsed:,.0f}"),
        ("a slot was held for", f"{1000 * held:.1f} ms"),
        (f"share of the {possible:,.0f}/s that this allows", f"{100 * len(grants) / elapsed / possible:.0f} %"),
        ("from one holder to the next", f"{1000 * (SLOTS * elapsed / len(grants) - held):.1f} ms"),
        ("wait p50", f"{middle:.0f} ms"),
        ("wait p99", f"{high:.0f} ms"),
        ("p99 / p50", f"{high / middle:.2f}"),
        ("client sends per grant, releases included", f"{work.scripts / len(grants):.2f}"),
        ("script µs, server µs per grant", ", ".join(work.per(len(grants)))),
        (f"grants that overtook a wait older by {1000 * LATE:g} ms", f"{100 * _overtaken(grants) / len(grants):.1f} %"),
    ]
    title = f"hand-off: {PROCESSES} processes × {WAITERS} waiters, {SLOTS} slots held {1000 * HOLD:g} ms"
    show(title, ("what", "figure"), rows)
