"""What a batch costs beside its calls: time, memory and script calls, few items against many."""

from __future__ import annotations

import asyncio
import resource
import time
import tracemalloc
from collections.abc import Iterator

import redis

from benchmarks.measure import Work, show
from ratelease import AsyncClient, Client, Limits

FEW, MANY = 5_000, 50_000
TRACED = 2_000, 20_000  # tracing makes everything four times as slow
PLENTY = 10**9
LIMITS = {"bench/model": Limits(rpm=PLENTY, tpm=PLENTY, concurrency=PLENTY)}
HEAD = ("what", "items", "seconds", "items/s", "sends/item", "peak KiB", "RSS + KiB")


def prompts(count: int) -> Iterator[str]:
    """Items that nobody keeps."""
    return (f"prompt {number}: " + "x" * 200 for number in range(count))


async def ask(prompt: str) -> dict[str, object]:
    """A call that is over at once, with an answer that reports what it used."""
    await asyncio.sleep(0)
    return {"text": prompt[:9], "usage": {"prompt_tokens": len(prompt) // 4, "completion_tokens": 5}}


def ask_in_thread(prompt: str) -> dict[str, object]:
    """The same for threads."""
    return {"text": prompt[:9], "usage": {"prompt_tokens": len(prompt) // 4, "completion_tokens": 5}}


class Bench:
    """One server, and the rows that came of it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.look = redis.Redis.from_url(url)
        self.rows: list[tuple[object, ...]] = []

    def note(self, name: str, count: int, seconds: float, work: Work, resident: int) -> None:
        """Add a row; the traced peak is read here."""
        peak = tracemalloc.get_traced_memory()[1] // 1024 if tracemalloc.is_tracing() else 0
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident
        self.rows.append(
            (
                name,
                f"{count:,}",
                f"{seconds:.1f}",
                f"{count / seconds:,.0f}",
                f"{work.scripts / count:.2f}",
                f"{peak:,}" if peak else "",
                f"{grown:,}",
            )
        )

    async def tasks(self, name: str, count: int) -> None:
        """Run a batch of tasks."""
        async with AsyncClient(self.url, limits=LIMITS, namespace="bench") as limiter:
            target = limiter.target("bench", "model", tokens=len)
            async for _ in target.map(ask, prompts(300)):
                pass
            before, resident = Work.of(self.look), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            if tracemalloc.is_tracing():
                tracemalloc.reset_peak()
            began = time.perf_counter()
            async for _ in target.map(ask, prompts(count)):
                pass
            seconds = time.perf_counter() - began
        self.note(name, count, seconds, Work.of(self.look).since(before), resident)

    def threads(self, name: str, count: int) -> None:
        """Run a batch of threads."""
        with Client(self.url, limits=LIMITS, namespace="bench") as limiter:
            target = limiter.target("bench", "model", tokens=len)
            for _ in target.map(ask_in_thread, prompts(300)):
                pass
            before, resident = Work.of(self.look), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            if tracemalloc.is_tracing():
                tracemalloc.reset_peak()
            began = time.perf_counter()
            for _ in target.map(ask_in_thread, prompts(count)):
                pass
            seconds = time.perf_counter() - began
        self.note(name, count, seconds, Work.of(self.look).since(before), resident)


def run(url: str) -> None:
    """Measure both colours: time and resident memory by themselves, the traced peak in runs of their own."""
    bench = Bench(url)
    for count in (FEW, MANY):
        asyncio.run(bench.tasks("256 tasks", count))
    for count in (FEW, MANY):
        bench.threads("32 threads", count)
    tracemalloc.start()
    for count in TRACED:
        asyncio.run(bench.tasks("256 tasks, traced", count))
    tracemalloc.stop()
    show("a batch of calls that are over at once", HEAD, bench.rows)
