"""The providers that the strategies meet, and what the users of each believe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ratelease import Limits
from ratelease.testing.simulator import Phase, Settings
from ratelease.testing.simulator.settings import Figures

# Median and 95th percentile of answers, in seconds: a model that writes a few hundred words.
LATENCY = (3.0, 6.0)

SHRINKS_AT, RETURNS_AT = 1 / 3, 8 / 15  # of the run: of 600 s the seconds 200 to 320


@dataclass(frozen=True, slots=True)
class Scenario:
    """Hold one provider, and the limits that its users believe in."""

    name: str
    tells: str
    """What is special about it, for the documentation."""
    declared: Mapping[str, float]
    figures: Figures
    shrinks: bool = False
    overloads: tuple[tuple[float, float], ...] = ()
    """Overloads, each from and to a share of the run."""

    def limits(self, strategy: str | None) -> Limits:
        """Return what the fleet is told; a strategy of None says nothing of it."""
        said = {} if strategy is None else {"strategy": strategy}
        return Limits(**self.declared, **said)

    def settings(self, seconds: float, seed: int) -> Settings:
        """Return the provider of a run of so many seconds."""
        phases = [Phase("overloaded", start * seconds, (end - start) * seconds) for start, end in self.overloads]
        if self.shrinks:
            phases.append(Phase("capacity", SHRINKS_AT * seconds, (RETURNS_AT - SHRINKS_AT) * seconds, share=0.5))
        return Settings(latency=LATENCY, distribution="lognormal", phases=phases, seed=seed, **self.figures)

    def returns_at(self, seconds: float) -> float | None:
        """Return when capacity is back that was away, None if it never is away."""
        if self.shrinks:
            return RETURNS_AT * seconds
        return self.overloads[-1][1] * seconds if self.overloads else None


SCENARIOS = (
    Scenario(
        "strict window",
        "90 requests in any minute, refused ones counted too, declared as they are.",
        {"rpm": 90},
        {"rpm": 90, "count_refused": True},
    ),
    Scenario(
        "continuous bucket",
        "90 requests a minute, refilled continuously, declared as they are.",
        {"rpm": 90},
        {"rpm": 90, "algorithm": "bucket"},
    ),
    Scenario(
        "lagging counter",
        "8 calls in flight, of which the provider counts each for half a second longer than it runs.",
        {"concurrency": 8},
        {"concurrency": 8, "lag": 0.5},
    ),
    Scenario(
        "lag declared",
        "The same, with half a second of cooldown declared.",
        {"concurrency": 8, "cooldown": 0.5},
        {"concurrency": 8, "lag": 0.5},
    ),
    Scenario(
        "halves and returns",
        "8 calls in flight, as declared, but only 4 for a fifth of the time.",
        {"concurrency": 8},
        {"concurrency": 8},
        shrinks=True,
    ),
    Scenario(
        "undeclared limit",
        "32 calls in flight declared, 8 allowed.",
        {"concurrency": 32},
        {"concurrency": 8},
    ),
    Scenario(
        "undeclared rate",
        "90 requests a minute declared, 45 allowed, refused ones counted too.",
        {"rpm": 90},
        {"rpm": 45, "count_refused": True},
    ),
    Scenario(
        "overload",
        "8 calls in flight, as declared; three times it answers 529 to everything.",
        {"concurrency": 8},
        {"concurrency": 8},
        overloads=((0.2, 0.22), (0.4, 0.45), (0.6, 0.7)),
    ),
)
