"""A fleet without a limiter: every call is retried as provider libraries do, by itself."""

from __future__ import annotations

from benchmarks.strategies.provider import Provider
from benchmarks.strategies.world import World
from ratelease.testing.simulator.model import Verdict

RETRIES = 2
FIRST, LONGEST = 0.5, 8.0  # seconds
LONGEST_HINT = 60.0  # seconds; a longer Retry-After is not believed


class Alone:
    """Run tasks that call the provider without end; what fails after its retries is given up for the next."""

    def __init__(self, world: World, provider: Provider, processes: int, tasks: int) -> None:
        self._world = world
        self._provider = provider
        self._jitter = world.random("jitter")
        self.given_up = 0
        for process in range(processes):
            for _ in range(tasks):
                self._next(process)

    def _next(self, process: int, attempt: int = 0) -> None:
        def done(verdict: Verdict) -> None:
            if verdict.admitted or attempt == RETRIES:
                self.given_up += not verdict.admitted
                self._next(process)
                return
            self._world.after(self._wait(attempt, verdict.retry_after), lambda: self._next(process, attempt + 1))

        self._provider.call(process, done)

    def _wait(self, attempt: int, hint: float | None) -> float:
        if hint is not None and 0 < hint <= LONGEST_HINT:
            return hint
        return min(LONGEST, FIRST * 2**attempt) * (1 - 0.25 * self._jitter.random())
