"""What changing limits costs a busy fleet: an operator that sets them again and again, and a rolling restart."""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import time
from typing import Any

from benchmarks.measure import show
from ratelease import AsyncClient, Limits, Operator

PROCESSES = 4
TASKS = 25  # in each process, every one of which always wants a slot
SLOTS = 20
HOLD = 0.02  # seconds
PHASE = 3.0  # seconds
NAMESPACE = "bench-rolling"
OLD = Limits(concurrency=SLOTS, rpm=10**7)
NEW = Limits(concurrency=SLOTS, rpm=2 * 10**7, burst=10**6)


def run(url: str) -> None:
    """Let a fleet work through the phases, and print the table."""
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    fleet = [_start(context, url, OLD, results) for _ in range(PROCESSES)]
    time.sleep(1.5)  # until all of them work
    marks = [("one configuration", time.monotonic())]
    time.sleep(PHASE)
    marks.append(("an operator sets limits 20 times a second", time.monotonic()))
    changes = _operate(url)
    marks.append(("one process after the other restarts with other limits", time.monotonic()))
    for number in range(PROCESSES):
        process, stop = fleet[number]
        fleet[number] = _start(context, url, NEW, results)
        stop.set()
        time.sleep(PHASE / PROCESSES)
        process.join(0)
    time.sleep(1.0)
    marks.append(("the other configuration", time.monotonic()))
    time.sleep(PHASE)
    ended = time.monotonic()
    for _, stop in fleet:
        stop.set()
    grants = sorted(at for _ in range(2 * PROCESSES) for at in results.get(timeout=30))
    for process, _ in fleet:
        process.join()
    _report(grants, marks, ended, changes)


def _operate(url: str) -> int:
    changes, until = 0, time.monotonic() + PHASE
    with Operator(url, namespace=NAMESPACE) as operator:
        while time.monotonic() < until:
            window = Limits(concurrency=SLOTS + changes % 2, rpm=10**7 + changes)
            operator.set_limits("bench", "model", window)
            changes += 1
            time.sleep(0.05)
        operator.unset_limits("bench", "model")
    return changes


def _report(grants: list[float], marks: list[tuple[str, float]], ended: float, changes: int) -> None:
    ends = [at for _, at in marks[1:]] + [ended]
    rows = []
    for (name, since), until in zip(marks, ends, strict=True):
        inside = [at for at in grants if since <= at < until]
        longest = max((b - a for a, b in itertools.pairwise(inside)), default=0.0)
        rows.append([name, f"{len(inside) / (until - since):,.0f}", f"{longest * 1000:.0f}"])
    show(
        f"Changing limits: {PROCESSES} processes x {TASKS} tasks, {SLOTS} slots held {HOLD * 1000:.0f} ms, "
        f"{changes} changes by the operator",
        ["phase", "grants/s", "longest gap, ms"],
        rows,
    )


def _start(context: Any, url: str, limits: Limits, results: Any) -> tuple[Any, Any]:
    stop = context.Event()
    process = context.Process(target=_worker, args=(url, limits, stop, results))
    process.start()
    return process, stop


def _worker(url: str, limits: Limits, stop: Any, results: Any) -> None:
    results.put(asyncio.run(_work(url, limits, stop)))


async def _work(url: str, limits: Limits, stop: Any) -> list[float]:
    grants: list[float] = []
    async with AsyncClient(url, limits={"bench/model": limits}, namespace=NAMESPACE) as limiter:

        async def loop() -> None:
            while not stop.is_set():
                async with limiter.acquire("bench", "model"):
                    grants.append(time.monotonic())
                    await asyncio.sleep(HOLD)

        await asyncio.gather(*(loop() for _ in range(TASKS)))
    return grants
