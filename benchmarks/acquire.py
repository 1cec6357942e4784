"""What an acquire with its release costs where nothing is scarce, beside the least that any client could pay."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import redis
import redis.asyncio

from benchmarks.measure import WARM_UP, Timing, Work, in_tasks, in_threads, show
from ratelease import AsyncClient, Client, Limits

# High enough that nobody ever waits: the cost of deciding is measured, not the waiting.
PLENTY = 10**9
NARROW = {"bench/model": Limits(rpm=PLENTY, concurrency=PLENTY)}
WIDE = {
    "bench/model": Limits(rpm=PLENTY, tpm=PLENTY, concurrency=PLENTY),
    "bench": Limits(rpm=PLENTY, concurrency=PLENTY),
    "total": Limits(concurrency=PLENTY),
}
CONNECTIONS = 64
TRIVIAL = "return 1"

THREADS = (1, 16)
TASKS = (1, 16, 64, 256)
HEAD = ("what", "pairs/s", "p50 ms", "p99 ms", "sends/pair", "script µs", "server µs", "× floor")


class Bench:
    """One server, the seconds that each figure takes, and the rows that came of it."""

    def __init__(self, url: str, seconds: float) -> None:
        self.url = url
        self.seconds = seconds
        self.look = redis.Redis.from_url(url)
        self.rows: list[tuple[object, ...]] = []
        self.floors: dict[str, float] = {}

    def threads(self, name: str, count: int, body: Callable[[], object]) -> None:
        """Time a body that threads call."""
        in_threads(count, WARM_UP, body)
        before = Work.of(self.look)
        self._note(
            name, _plural(count, "thread"), in_threads(count, self.seconds, body), Work.of(self.look).since(before)
        )

    async def tasks(self, name: str, count: int, body: Callable[[], Awaitable[object]]) -> None:
        """Time a body that tasks await."""
        await in_tasks(count, WARM_UP, body)
        before = Work.of(self.look)
        timing = await in_tasks(count, self.seconds, body)
        self._note(name, _plural(count, "task"), timing, Work.of(self.look).since(before))

    def _note(self, name: str, load: str, timing: Timing, work: Work) -> None:
        floor = self.floors.setdefault(load, timing.per_second)
        calls = len(timing.calls)
        self.rows.append(
            (
                f"{name}, {load}",
                f"{timing.per_second:,.0f}",
                f"{timing.milliseconds(0.5):.2f}",
                f"{timing.milliseconds(0.99):.2f}",
                f"{work.scripts / calls:.2f}",
                *work.per(calls),
                f"{timing.per_second / floor:.2f}",
            )
        )


def _plural(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count > 1)}"


def run(url: str, seconds: float) -> None:
    """Measure both colours, and print the table. The floor of a load is two trivial EVALSHA of redis-py's client."""
    bench = Bench(url, seconds)
    _threads(bench)
    asyncio.run(_tasks(bench))
    show("acquire and release, uncontended", HEAD, bench.rows)


def _threads(bench: Bench) -> None:
    pool = redis.BlockingConnectionPool.from_url(bench.url, max_connections=CONNECTIONS)
    client = redis.Redis(connection_pool=pool)
    sha = client.script_load(TRIVIAL)

    def one() -> None:
        client.evalsha(sha, 1, "bench")

    def two() -> None:
        one()
        one()

    for count in THREADS:
        bench.threads("floor: two trivial EVALSHA", count, two)
    bench.threads("one trivial EVALSHA", 1, one)
    pool.disconnect()
    for name, limits in (("ratelease, RPM + concurrency", NARROW), ("ratelease, 3 scopes, 6 limits", WIDE)):
        with Client(bench.url, limits=limits, namespace="bench") as limiter:

            def pair(limiter: Client = limiter) -> None:
                with limiter.acquire("bench", "model"):
                    pass

            for count in THREADS:
                bench.threads(name, count, pair)


async def _tasks(bench: Bench) -> None:
    pool = redis.asyncio.BlockingConnectionPool.from_url(bench.url, max_connections=CONNECTIONS, timeout=None)
    client = redis.asyncio.Redis(connection_pool=pool)
    sha = await client.script_load(TRIVIAL)

    async def two() -> None:
        await client.evalsha(sha, 1, "bench")
        await client.evalsha(sha, 1, "bench")

    for count in TASKS:
        await bench.tasks("floor: two trivial EVALSHA", count, two)
    await client.aclose()
    await pool.disconnect()
    for name, limits in (("ratelease, RPM + concurrency", NARROW), ("ratelease, 3 scopes, 6 limits", WIDE)):
        async with AsyncClient(bench.url, limits=limits, namespace="bench") as limiter:

            async def pair(limiter: AsyncClient = limiter) -> None:
                async with limiter.acquire("bench", "model"):
                    pass

            for count in TASKS:
                await bench.tasks(name, count, pair)
