"""What every benchmark needs: loops that time themselves, the server's own counters, and a table."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import redis

WARM_UP = 0.2  # seconds before anything is counted: connections, scripts and caches come into being


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass(frozen=True, slots=True)
class Timing:
    """What one loop did: seconds that each call of the body took, and seconds that all of it took."""

    calls: Sequence[float]
    elapsed: float

    @property
    def per_second(self) -> float:
        """Calls of the body per second."""
        return len(self.calls) / self.elapsed

    def milliseconds(self, share: float) -> float:
        """A percentile of the body's time."""
        return 1000 * percentile(self.calls, share)


def in_threads(count: int, seconds: float, body: Callable[[], object]) -> Timing:
    """Call `body` again and again from so many threads at once."""
    barrier = threading.Barrier(count + 1)
    times: list[list[float]] = [[] for _ in range(count)]

    def loop(mine: list[float]) -> None:
        barrier.wait()
        until = time.perf_counter() + seconds
        while (began := time.perf_counter()) < until:
            body()
            mine.append(time.perf_counter() - began)

    threads = [threading.Thread(target=loop, args=(mine,)) for mine in times]
    for thread in threads:
        thread.start()
    barrier.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    return Timing([each for mine in times for each in mine], time.perf_counter() - began)


async def in_tasks(count: int, seconds: float, body: Callable[[], Awaitable[object]]) -> Timing:
    """Await `body` again and again from so many tasks at once."""
    times: list[float] = []
    began = time.perf_counter()

    async def loop() -> None:
        while (start := time.perf_counter()) < began + seconds:
            await body()
            times.append(time.perf_counter() - start)

    await asyncio.gather(*(loop() for _ in range(count)))
    return Timing(times, time.perf_counter() - began)


@dataclass(frozen=True, slots=True)
class Work:
    """What a server has done since it started: script calls, seconds inside them, and seconds of its processor."""

    scripts: int
    inside: float
    cpu: float

    @classmethod
    def of(cls, client: redis.Redis) -> Work:
        """Read the counters of a server."""
        stats: Any = client.info("commandstats")
        usage: Any = client.info("cpu")
        kinds = [stats.get(f"cmdstat_{name}", {}) for name in ("evalsha", "eval")]
        calls, inside = (sum(kind.get(figure, 0) for kind in kinds) for figure in ("calls", "usec"))
        return cls(calls, inside / 1e6, usage["used_cpu_user"] + usage["used_cpu_sys"])

    def since(self, before: Work) -> Work:
        """The difference of two readings."""
        return Work(self.scripts - before.scripts, self.inside - before.inside, self.cpu - before.cpu)

    def per(self, calls: int) -> tuple[str, str]:
        """Microseconds inside scripts and of the processor, for each of so many calls."""
        return f"{1e6 * self.inside / calls:.0f}", f"{1e6 * self.cpu / calls:.0f}"


def show(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table: the first column to the left, figures to the right."""
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    print(f"\n{title}\n")
    for number, row in enumerate(cells):
        figures = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        print("  ".join((row[0].ljust(widths[0]), *figures)).rstrip())
        if number == 0:
            print("  ".join("-" * width for width in widths))
