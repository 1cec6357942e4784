"""Run one strategy against one provider, and say how it did."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.strategies.alone import Alone
from benchmarks.strategies.provider import Omniscient, Provider
from benchmarks.strategies.scenarios import Scenario
from benchmarks.strategies.shared import Member, server
from benchmarks.strategies.world import World

ALONE = "each by itself"
RECOVERED, OVER = 0.9, 20.0  # share of the capacity, and seconds over which it is looked at


@dataclass(frozen=True, slots=True)
class Sizes:
    """Hold how much is run: virtual seconds, processes, tasks in each."""

    seconds: float = 600.0
    processes: int = 4
    tasks: int = 10


@dataclass(frozen=True, slots=True)
class Result:
    """Hold how one strategy did against one provider. Times in virtual seconds."""

    strategy: str
    scenario: Scenario
    seconds: float
    admitted: Sequence[float]
    refused: Sequence[float]
    completed: Sequence[int]
    optimum: Sequence[float]
    """When an omniscient scheduler would have been admitted."""
    given_up: int = 0
    """Calls that failed for good."""

    @property
    def goodput(self) -> float:
        """Return the calls that were admitted, as a share of what an omniscient scheduler gets in."""
        return len(self.admitted) / len(self.optimum)

    @property
    def failures(self) -> float:
        """Return what was given up, of 1 000 pieces of work."""
        return 1000 * self.given_up / max(1, self.given_up + sum(self.completed))

    @property
    def refusals(self) -> float:
        """Return refusals in 1 000 calls."""
        return 1000 * len(self.refused) / max(1, len(self.admitted) + len(self.refused))

    @property
    def recovery(self) -> float | None:
        """Return the seconds from the capacity's return until 90 % of it is used; infinite if it never is."""
        began = self.scenario.returns_at(self.seconds)
        if began is None:
            return None
        moment = began
        while moment + OVER <= self.seconds:
            possible = count_between(self.optimum, moment, moment + OVER)
            if count_between(self.admitted, moment, moment + OVER) >= RECOVERED * possible:
                return moment - began
            moment += 1.0
        return math.inf

    @property
    def fairness(self) -> float:
        """Return Jain's index over what the processes have completed: 1 where all have the same."""
        total = sum(self.completed)
        return total**2 / (len(self.completed) * sum(each**2 for each in self.completed)) if total else 1.0


def count_between(ascending: Sequence[float], start: float, end: float) -> int:
    """Return how many lie in an interval."""
    return bisect.bisect_left(ascending, end) - bisect.bisect_left(ascending, start)


def optimum(scenario: Scenario, sizes: Sizes, seed: int) -> Sequence[float]:
    """Return when an omniscient scheduler is admitted."""
    world = World(seed)
    omniscient = Omniscient(world, scenario.settings(sizes.seconds, seed))
    world.run(sizes.seconds)
    return omniscient.admitted


def run(strategy: str, scenario: Scenario, sizes: Sizes, seed: int, possible: Sequence[float]) -> Result:
    """Run one strategy against one provider of which so much is possible."""
    world, given_up = World(seed), 0
    provider = Provider(world, scenario.settings(sizes.seconds, seed), sizes.processes)
    if strategy == ALONE:
        alone = Alone(world, provider, sizes.processes, sizes.tasks)
        world.run(sizes.seconds)
        given_up = alone.given_up
    else:
        limits = scenario.limits(strategy)
        with server(world) as serving:
            for number in range(sizes.processes):
                Member(world, serving, provider, limits, number, sizes.tasks)
            world.run(sizes.seconds)
    return Result(
        strategy,
        scenario,
        sizes.seconds,
        provider.admitted,
        provider.refused,
        provider.completed,
        possible,
        given_up,
    )
