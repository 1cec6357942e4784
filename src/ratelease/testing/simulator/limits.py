"""Model what a provider meters over time: pure decisions, told what time it is.

Every time is in seconds of one monotonic clock and never goes back. Nothing here sleeps, locks or does I/O.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Literal, Protocol

Algorithm = Literal["strict", "bucket"]

BURST_WINDOW = 1.0  # seconds; what "per second" means in `burst`
ROUNDING = 1e-9  # seconds; the float additions of a bucket drift by less, and no client can tell it apart


@dataclass(frozen=True, slots=True)
class Standing:
    """Say where a rate stands: what the rate limit headers of an answer carry."""

    limit: int
    remaining: int
    reset: float
    """Seconds until the whole limit is free again (not until the next request may be sent)."""


class RateLimit(Protocol):
    """Limit an amount, requests or tokens, over time."""

    limit: int

    def wait(self, now: float, amount: int = 1) -> float:
        """Return the seconds until so much more fits: 0.0 when it fits at once, infinite when it never does."""

    def charge(self, now: float, amount: int = 1) -> None:
        """Count what arrived at `now`."""

    def standing(self, now: float) -> Standing:
        """Return the limit, what is left of it, and when all of it is free again."""

    def resize(self, now: float, limit: int) -> None:
        """Change the limit from `now` on. What was used stays used."""


class StrictWindow:
    """Admit at most `limit` in any half-open interval of `window` seconds.

    Only the newest charges that fill the limit can matter: more fits exactly when the oldest of them have left
    the window. So refused requests can be charged too without the memory growing.
    """

    __slots__ = ("_charges", "_most", "_used", "limit", "window")

    def __init__(self, limit: int, window: float) -> None:
        self.limit = limit
        self.window = window
        self._most = limit
        self._used = 0
        self._charges: deque[tuple[float, int]] = deque()

    def wait(self, now: float, amount: int = 1) -> float:
        """Return the seconds until so much more fits: 0.0 when it fits at once, infinite when it never does."""
        self._expire(now)
        excess = self._used + amount - self.limit
        if excess <= 0:
            return 0.0
        for stamp, charged in self._charges:
            excess -= charged
            if excess <= 0:
                return self.window - (now - stamp)
        return math.inf

    def charge(self, now: float, amount: int = 1) -> None:
        """Count what arrived at `now`."""
        self._charges.append((now, amount))
        self._used += amount
        while self._used - self._charges[0][1] >= self._most:
            self._used -= self._charges.popleft()[1]

    def standing(self, now: float) -> Standing:
        """Return the limit, what is left of it, and when all of it is free again."""
        self._expire(now)
        reset = self.window - (now - self._charges[-1][0]) if self._charges else 0.0
        return Standing(self.limit, max(0, self.limit - self._used), reset)

    def resize(self, _now: float, limit: int) -> None:
        """Change the limit. What was used stays used."""
        self.limit = limit
        self._most = max(self._most, limit)

    def _expire(self, now: float) -> None:
        while self._charges and now - self._charges[0][0] >= self.window:
            self._used -= self._charges.popleft()[1]


class ContinuousBucket:
    """Admit from a bucket of `limit` that refills at `limit` per `window` seconds.

    The state is one number, the time at which the bucket is full again: a charge moves it by the seconds that
    the amount takes to refill, and it is never further ahead than a whole window.
    """

    __slots__ = ("_full_at", "_refill", "limit", "window")

    def __init__(self, limit: int, window: float) -> None:
        self.limit = limit
        self.window = window
        self._refill = window / limit
        self._full_at = -math.inf

    def wait(self, now: float, amount: int = 1) -> float:
        """Return the seconds until so much more fits: 0.0 when it fits at once, infinite when it never does."""
        if amount > self.limit:
            return math.inf
        missing = self._full_at - now - (self.limit - amount) * self._refill
        return missing if missing > ROUNDING else 0.0

    def charge(self, now: float, amount: int = 1) -> None:
        """Count what arrived at `now`."""
        self._full_at = min(max(self._full_at, now) + amount * self._refill, now + self.window)

    def standing(self, now: float) -> Standing:
        """Return the limit, what is left of it, and when all of it is free again."""
        reset = max(0.0, self._full_at - now)
        remaining = math.floor((self.window - reset + ROUNDING) / self._refill)
        return Standing(self.limit, max(0, remaining), reset)

    def resize(self, now: float, limit: int) -> None:
        """Change the size and the refill from `now` on; what is in the bucket stays in it as far as it fits."""
        level = self.limit - max(0.0, self._full_at - now) / self._refill
        self.limit = limit
        self._refill = self.window / limit
        self._full_at = now + (limit - min(level, limit)) * self._refill


class Ramp:
    """Let requests per `period` seconds grow by at most the share `growth` from one period to the next.

    So many as `threshold` are always allowed. Periods follow each other from the moment `begin`.
    """

    __slots__ = ("_before", "_begin", "_index", "_used", "growth", "period", "threshold")

    def __init__(self, threshold: int, growth: float, period: float, begin: float = 0.0) -> None:
        self.threshold = threshold
        self.growth = growth
        self.period = period
        self._begin = begin
        self._index = 0
        self._used = 0
        self._before = 0

    @property
    def limit(self) -> int:
        """Return what this period may hold."""
        return max(self.threshold, math.floor(self._before * (1 + self.growth)))

    def wait(self, now: float) -> float:
        """Return the seconds until one more request fits; 0.0 when it fits at once."""
        self._advance(now)
        return 0.0 if self._used < self.limit else self._begin + (self._index + 1) * self.period - now

    def charge(self, now: float) -> None:
        """Count one request that arrived at `now`."""
        self._advance(now)
        self._used += 1

    def _advance(self, now: float) -> None:
        index = math.floor((now - self._begin) / self.period)
        if index != self._index:
            self._before = self._used if index == self._index + 1 else 0
            self._index, self._used = index, 0


def rate_limit(algorithm: Algorithm, limit: int, window: float) -> RateLimit:
    """Return the model of `limit` per `window` seconds under the named algorithm."""
    return StrictWindow(limit, window) if algorithm == "strict" else ContinuousBucket(limit, window)
