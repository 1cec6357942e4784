"""Draw how long answers take. Pure: chance comes from the caller's generator."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from typing import Literal

Distribution = Literal["uniform", "lognormal"]

# Standard deviations between the median and the 95th percentile of a normal distribution.
_TO_P95 = 1.6448536269514722


@dataclass(frozen=True, slots=True)
class Latency:
    """Hold a distribution of latencies.

    `low` and `high` in seconds are the bounds of "uniform", and the median and 95th percentile of "lognormal";
    both the same is a fixed latency. Every further request in flight makes an answer longer by the share
    `slowdown`: at 0.1 an answer beside ten others takes twice as long.
    """

    distribution: Distribution
    low: float
    high: float
    slowdown: float = 0.0

    def draw(self, random: Random, others: int = 0) -> float:
        """Return the seconds of the next answer, while `others` are in flight beside it."""
        return self._alone(random) * (1 + self.slowdown * others)

    def _alone(self, random: Random) -> float:
        if self.low == self.high:
            return self.low
        if self.distribution == "uniform":
            return random.uniform(self.low, self.high)
        return random.lognormvariate(math.log(self.low), math.log(self.high / self.low) / _TO_P95)
