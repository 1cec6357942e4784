"""Model what a provider limits: pure decisions, told what time it is.

Every time is in seconds of one monotonic clock and never goes back. Nothing here sleeps, locks or does I/O:
the server calls it from one event loop, the tests from a driven clock.

`Gate` asks every limit first and charges afterwards, so that a refusal changes nothing, unless the provider
counts refused requests too (`count_refused`), as OpenAI does.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Literal, Protocol

Algorithm = Literal["strict", "bucket"]
Reason = Literal["requests", "burst", "concurrency"]

REASONS: tuple[Reason, ...] = ("requests", "burst", "concurrency")

BURST_WINDOW = 1.0  # seconds; what "per second" means in `burst`
ROUNDING = 1e-9  # seconds; the float additions of a bucket drift by less, and no client can tell it apart


@dataclass(frozen=True, slots=True)
class Standing:
    """Say where a rate stands: what the `x-ratelimit-*` headers of an answer carry."""

    limit: int
    remaining: int
    reset: float
    """Seconds until the whole limit is free again (not until the next request may be sent)."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Say what happens to one request."""

    reason: Reason | None
    """The first limit that refused, in the order of `REASONS`; None when admitted."""
    limit: int | None
    """The figure of that limit."""
    retry_after: float | None
    """Seconds until the timed limits would admit it; None when nobody can know."""
    standing: Standing | None
    """None where the provider has no limit on requests."""

    @property
    def admitted(self) -> bool:
        """Say whether the request is in flight now."""
        return self.reason is None


class RateLimit(Protocol):
    """Limit requests over time."""

    limit: int

    def wait(self, now: float) -> float:
        """Return the seconds until one more request fits; 0.0 when it fits at once."""

    def charge(self, now: float) -> None:
        """Count one request that arrived at `now`."""

    def standing(self, now: float) -> Standing:
        """Return the limit, what is left of it, and when all of it is free again."""


class StrictWindow:
    """Admit at most `limit` requests in any half-open interval of `window` seconds.

    Only the newest `limit` stamps can matter: one more fits exactly when the oldest of them has left the
    window. So refused requests can be charged too without the memory growing.
    """

    __slots__ = ("_stamps", "limit", "window")

    def __init__(self, limit: int, window: float) -> None:
        self.limit = limit
        self.window = window
        self._stamps: deque[float] = deque(maxlen=limit)

    def wait(self, now: float) -> float:
        """Return the seconds until one more request fits; 0.0 when it fits at once."""
        self._expire(now)
        return self.window - (now - self._stamps[0]) if len(self._stamps) == self.limit else 0.0

    def charge(self, now: float) -> None:
        """Count one request that arrived at `now`."""
        self._stamps.append(now)

    def standing(self, now: float) -> Standing:
        """Return the limit, what is left of it, and when all of it is free again."""
        self._expire(now)
        reset = self.window - (now - self._stamps[-1]) if self._stamps else 0.0
        return Standing(self.limit, self.limit - len(self._stamps), reset)

    def _expire(self, now: float) -> None:
        while self._stamps and now - self._stamps[0] >= self.window:
            self._stamps.popleft()


class ContinuousBucket:
    """Admit from a bucket of `limit` requests that refills at `limit` per `window` seconds.

    The state is one number, the time at which the bucket is full again: a charge moves it by the seconds one
    request takes to refill, and it is never further ahead than a whole window.
    """

    __slots__ = ("_full_at", "_refill", "limit", "window")

    def __init__(self, limit: int, window: float) -> None:
        self.limit = limit
        self.window = window
        self._refill = window / limit
        self._full_at = -math.inf

    def wait(self, now: float) -> float:
        """Return the seconds until one more request fits; 0.0 when it fits at once."""
        missing = self._full_at - now - (self.limit - 1) * self._refill
        return missing if missing > ROUNDING else 0.0

    def charge(self, now: float) -> None:
        """Count one request that arrived at `now`."""
        self._full_at = min(max(self._full_at, now) + self._refill, now + self.window)

    def standing(self, now: float) -> Standing:
        """Return the limit, what is left of it, and when all of it is free again."""
        reset = max(0.0, self._full_at - now)
        remaining = math.floor((self.window - reset + ROUNDING) / self._refill)
        return Standing(self.limit, max(0, remaining), reset)


class Gate:
    """Decide each request on all limits of the provider together."""

    def __init__(
        self,
        *,
        requests: RateLimit | None = None,
        burst: RateLimit | None = None,
        concurrency: int | None = None,
        count_refused: bool = False,
    ) -> None:
        self._rates: list[tuple[Reason, RateLimit]] = []
        if requests is not None:
            self._rates.append(("requests", requests))
        if burst is not None:
            self._rates.append(("burst", burst))
        self._requests = requests
        self._concurrency = concurrency
        self._count_refused = count_refused
        self.in_flight = 0

    def arrive(self, now: float) -> Verdict:
        """Decide a request that arrives at `now`; when admitted it is in flight until `leave`."""
        waits = [(reason, rate.limit, rate.wait(now)) for reason, rate in self._rates]
        refusals: list[tuple[Reason, int]] = [(reason, limit) for reason, limit, wait in waits if wait > 0]
        if self._concurrency is not None and self.in_flight >= self._concurrency:
            refusals.append(("concurrency", self._concurrency))

        if not refusals or self._count_refused:
            for _, rate in self._rates:
                rate.charge(now)
        standing = self._requests.standing(now) if self._requests is not None else None
        if not refusals:
            self.in_flight += 1
            return Verdict(None, None, None, standing)
        reason, limit = refusals[0]
        # After charging: a refused request that counts has pushed the time further away. Nobody can know when
        # a call in flight ends, so a refusal for concurrency alone carries no hint.
        retry_after = None if reason == "concurrency" else max(rate.wait(now) for _, rate in self._rates)
        return Verdict(reason, limit, retry_after, standing)

    def leave(self) -> None:
        """End one request in flight."""
        if self.in_flight == 0:
            raise RuntimeError("leave() without a request in flight")
        self.in_flight -= 1


def rate_limit(algorithm: Algorithm, limit: int, window: float) -> RateLimit:
    """Return the model of `limit` requests per `window` seconds under the named algorithm."""
    return StrictWindow(limit, window) if algorithm == "strict" else ContinuousBucket(limit, window)
