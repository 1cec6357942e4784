"""The provider and the way to it, in virtual time, and what it counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from benchmarks.strategies.world import World
from ratelease.testing.simulator import Phase, Settings
from ratelease.testing.simulator.model import Verdict

TRAVEL = (0.005, 0.030)  # seconds from caller to provider, and back
REFUSING = 0.15  # seconds that a refusal takes


class Provider:
    """Answer calls as the simulator does, and note when each was admitted, refused and completed."""

    def __init__(self, world: World, settings: Settings, processes: int) -> None:
        self._world = world
        self._settings = settings
        self._model = settings.model(begin=0.0)
        self._latencies = world.random("latencies")
        self._travels = world.random("travels")
        self.admitted: list[float] = []
        self.refused: list[float] = []
        self.completed = [0] * processes

    def call(self, process: int, done: Callable[[Verdict], None]) -> None:
        """Send one request; `done` is called when its answer has come back."""
        self._world.after(self._travels.uniform(*TRAVEL), lambda: self._arrive(process, done))

    def _arrive(self, process: int, done: Callable[[Verdict], None]) -> None:
        verdict = self._model.admit(self._world.now)
        if not verdict.admitted:
            self.refused.append(self._world.now)
            self._answer(REFUSING, verdict, done)
            return
        self.admitted.append(self._world.now)
        latency = self._settings.draw_latency(self._latencies, self._model.in_flight - 1)

        def end() -> None:
            self._model.end(self._world.now)
            self.completed[process] += 1
            self._answer(0.0, verdict, done)

        self._world.after(latency, end)

    def _answer(self, seconds: float, verdict: Verdict, done: Callable[[Verdict], None]) -> None:
        self._world.after(seconds + self._travels.uniform(*TRAVEL), lambda: done(verdict))


class Omniscient:
    """Send each call at the first moment at which the provider admits it: nobody can get more out of it."""

    def __init__(self, world: World, settings: Settings) -> None:
        self._world = world
        self._settings = replace(settings, count_refused=False)
        self._model = self._settings.model(begin=0.0)
        self._latencies = world.random("latencies")
        self._due: float | None = None
        self.admitted: list[float] = []
        for phase in settings.phases:
            if isinstance(phase, Phase):
                for moment in (phase.start, phase.start + phase.seconds):
                    world.at(moment, self._fill)
        world.at(0.0, self._fill)

    def _fill(self) -> None:
        now = self._world.now
        while (verdict := self._model.admit(now)).admitted:
            self.admitted.append(now)
            latency = self._settings.draw_latency(self._latencies, self._model.in_flight - 1)
            self._world.after(latency, self._end)
        wait = verdict.retry_after
        if wait is not None and (self._due is None or self._due <= now):
            self._due = now + wait
            self._world.at(self._due, self._fill)

    def _end(self) -> None:
        self._model.end(self._world.now)
        self._world.after(self._settings.lag, self._fill)
