"""Decide what the provider does with each request: pure, told what time it is.

`ProviderModel` asks every limit first and charges afterwards, so that a refusal changes nothing, unless the
provider counts refused requests too (`count_refused`), as OpenAI does. The HTTP server calls it from one event
loop with real time, tests and benchmarks with a clock that they drive.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from ratelease.testing.simulator.limits import Ramp, RateLimit, Standing
from ratelease.testing.simulator.occupancy import Occupancy
from ratelease.testing.simulator.phases import Phase, Schedule

Reason = Literal["requests", "tokens", "burst", "ramp", "concurrency", "forced", "overloaded", "quota"]

# What a 429 that asks to slow down can name; "forced" is one that no limit has asked for.
REASONS: tuple[Reason, ...] = ("requests", "tokens", "burst", "ramp", "concurrency", "forced")

_REASON_OF_PHASE: dict[str, Reason] = {"overloaded": "overloaded", "throttled": "forced", "quota": "quota"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """Say what happens to one request."""

    reason: Reason | None
    """The first limit that refused, in the order of `REASONS`; None when admitted."""
    limit: int | None
    """The figure of that limit; None where no limit has refused."""
    retry_after: float | None
    """Seconds until the timed limits would admit it; None when nobody can know."""
    standing: Standing | None
    """Of the requests; None where the provider has no limit on them."""
    tokens: Standing | None = None
    """Of the tokens; None where the provider has no limit on them."""
    status: int | None = None
    """The status that a phase asks for; None for what the API in use answers."""

    @property
    def admitted(self) -> bool:
        """Say whether the request is in flight now."""
        return self.reason is None


@dataclass(frozen=True, slots=True)
class Usage:
    """Say what a provider reports of its use."""

    concurrent_sessions: int
    limit: int | None
    """Requests in flight that it allows; None for any number."""
    hard_cap: int | None
    """Those at which it refuses; None where that is the limit."""


class ProviderModel:
    """Decide each request on all limits and phases of the provider together.

    Args:
        requests: limit of requests.
        tokens: limit of tokens.
        burst: second limit of requests, over a short time.
        ramp: limit of growth.
        concurrency: requests in flight at the same moment.
        hard_cap: requests in flight at which it refuses, where it tolerates more than `concurrency`.
        count_refused: whether a request that a limit refuses is charged as an admitted one is.
        lag: seconds by which it counts late what is in flight, see `occupancy`.
        quota: requests after whose admission the account is empty.
        hint: seconds after which a refusal promises success where no limit can tell.
        phases: when the provider behaves otherwise, counted from `begin`.
        begin: the moment at which the schedule of phases begins.
        in_flight: requests that are in flight from the beginning.
        random: draws which requests a phase with a share below 1 refuses.
    """

    def __init__(
        self,
        *,
        requests: RateLimit | None = None,
        tokens: RateLimit | None = None,
        burst: RateLimit | None = None,
        ramp: Ramp | None = None,
        concurrency: int | None = None,
        hard_cap: int | None = None,
        count_refused: bool = False,
        lag: float = 0.0,
        quota: int | None = None,
        hint: float | None = None,
        phases: Sequence[Phase] = (),
        begin: float = 0.0,
        in_flight: int = 0,
        random: Random | None = None,
    ) -> None:
        self._requests, self._tokens, self._ramp = requests, tokens, ramp
        named: list[tuple[Reason, RateLimit | None]] = [("requests", requests), ("tokens", tokens), ("burst", burst)]
        # Each with its figure at full capacity.
        self._rates = [(reason, rate, rate.limit) for reason, rate in named if rate is not None]
        self._hard_cap = hard_cap
        self._count_refused = count_refused
        self._quota = quota
        self._hint = hint
        self._schedule = Schedule(phases, begin, random or Random(0))
        self._capacity = 1.0
        self._admitted = 0
        self.occupancy = Occupancy(self._schedule, concurrency, lag, begin, in_flight)
        self.beyond_limit = 0
        """Requests admitted beyond `concurrency`, up to the hard cap."""

    def admit(self, now: float, tokens: int = 1) -> Verdict:
        """Decide a request of so many tokens that arrives at `now`; when admitted it is in flight until `end`."""
        self._resize(now)
        phase = self._schedule.refusal(now)
        if self._quota is not None and self._admitted >= self._quota:
            phase = Phase("quota")
        if phase is not None and phase.kind != "throttled":
            hint = self._hint if phase.kind == "overloaded" else None
            return self._verdict(now, _REASON_OF_PHASE[phase.kind], None, hint, phase.status)

        refusals = self._refusals(now, tokens)
        if phase is not None:
            refusals.append(("forced", None))
        if not refusals or self._count_refused:
            for reason, rate, _ in self._rates:
                rate.charge(now, tokens if reason == "tokens" else 1)
        if not refusals:
            if self._ramp is not None:
                self._ramp.charge(now)
            self.occupancy.begin(now)
            limit = self.occupancy.limit(now)
            self.beyond_limit += limit is not None and self.occupancy.counted(now) > limit
            self._admitted += 1
            return self._verdict(now, None, None, None)
        reason, limit = refusals[0]
        # Nobody can know when a call in flight ends or why a phase refuses.
        retry_after = self._hint if reason in ("concurrency", "forced") else self._wait(now, tokens)
        return self._verdict(now, reason, limit, retry_after)

    @property
    def in_flight(self) -> int:
        """Return how many of the admitted requests have not ended."""
        return self.occupancy.in_flight

    def end(self, now: float, runs_until: float | None = None) -> None:
        """End one request in flight. A call that the provider goes on with counts until `runs_until`."""
        self.occupancy.end(now, runs_until)

    def counted(self, now: float) -> int:
        """Return how many requests the provider counts as in flight: also those that have ended of late."""
        return self.occupancy.counted(now)

    def usage(self, now: float) -> Usage | Phase:
        """Return what the provider reports of its use, or the phase that breaks the report."""
        fault = self._schedule.usage_fault(now)
        if fault is not None:
            return fault
        occupancy = self.occupancy
        hard_cap = occupancy.scaled(self._hard_cap, now)
        return Usage(occupancy.reported(now), occupancy.limit(now), hard_cap)

    def disturb(self, now: float, phases: Sequence[Phase]) -> None:
        """Add phases whose start counts from `now`."""
        self.occupancy.advance(now)
        self._schedule.add(now, phases)
        self.occupancy.advance(now)

    def _resize(self, now: float) -> None:
        capacity = self._schedule.capacity(now)
        if capacity == self._capacity:
            return
        self._capacity = capacity
        for _, rate, whole in self._rates:
            rate.resize(now, max(1, math.floor(whole * capacity)))

    def _refusals(self, now: float, tokens: int) -> list[tuple[Reason, int | None]]:
        refusals: list[tuple[Reason, int | None]] = [
            (reason, rate.limit)
            for reason, rate, _ in self._rates
            if rate.wait(now, tokens if reason == "tokens" else 1) > 0
        ]
        if self._ramp is not None and self._ramp.wait(now) > 0:
            refusals.append(("ramp", self._ramp.limit))
        most = self.occupancy.scaled(self._hard_cap, now) or self.occupancy.limit(now)
        if most is not None and self.counted(now) >= most:
            refusals.append(("concurrency", most))
        return refusals

    def _wait(self, now: float, tokens: int) -> float | None:
        """Return the seconds until all timed limits would admit it, None if they never will.

        Call it after charging: a refused request that counts has pushed the time further away.
        """
        waits = [rate.wait(now, tokens if reason == "tokens" else 1) for reason, rate, _ in self._rates]
        if self._ramp is not None:
            waits.append(self._ramp.wait(now))
        wait = max(waits)
        return wait if wait < math.inf else None

    def _verdict(
        self, now: float, reason: Reason | None, limit: int | None, retry_after: float | None, status: int | None = None
    ) -> Verdict:
        return Verdict(
            reason,
            limit,
            retry_after,
            None if self._requests is None else self._requests.standing(now),
            None if self._tokens is None else self._tokens.standing(now),
            status,
        )
