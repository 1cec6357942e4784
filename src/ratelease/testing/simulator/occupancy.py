"""Count what is in flight at a provider, as the provider counts it: late, with ghosts, and with what others send. Pure.

A call holds its place from the moment at which it is admitted until `lag` seconds after its end: that decides who is
refused. What the provider reports is later on both sides: it is what ran `lag` seconds ago. Calls that are not ours
come by phases. As any client of a full provider they take the places that become free, and hold them until their
phase is over.
"""

from __future__ import annotations

import heapq
import math
from collections import deque

from ratelease.testing.simulator.phases import Schedule


class Occupancy:
    """Hold the places of one provider.

    Args:
        schedule: says how many calls of others want to be in flight, and when the limit shrinks.
        limit: places at full capacity, None for any number; others never go beyond it.
        lag: seconds by which the provider counts late.
        begin: the moment at which it starts.
        in_flight: our calls that are in flight then.
    """

    def __init__(self, schedule: Schedule, limit: int | None, lag: float, begin: float, in_flight: int = 0) -> None:
        self._schedule = schedule
        self._whole = limit
        self._lag = lag
        self._now = begin
        # When those that have ended are counted no more.
        self._lingering: list[float] = []
        # When those that have begun show in the reports, ascending.
        self._unreported: deque[float] = deque()
        self.in_flight = in_flight
        """Calls of ours whose client waits for the answer."""
        self.foreign = 0
        """Calls of others."""
        self.foreign_calls = 0
        """How many of those have come so far."""
        self.peak = in_flight
        """The most that were counted at any moment."""
        self.seconds = 0.0
        """For how long they were counted, the seconds of all calls added."""
        self._settle(begin)

    def limit(self, now: float) -> int | None:
        """Return the places that there are now."""
        return self.scaled(self._whole, now)

    def scaled(self, figure: int | None, now: float) -> int | None:
        """Return what the capacity of this moment leaves of `figure`, 1 at least."""
        return None if figure is None else max(1, math.floor(figure * self._schedule.capacity(now)))

    def begin(self, now: float) -> None:
        """Take a place for one of our calls."""
        self.advance(now)
        self.in_flight += 1
        self._take(now)

    def end(self, now: float, runs_until: float | None = None) -> None:
        """End one of our calls; RuntimeError where there is none. One that the provider goes on with ends later."""
        if self.in_flight == 0:
            raise RuntimeError("end() without a request in flight")
        self.advance(now)
        self.in_flight -= 1
        heapq.heappush(self._lingering, max(now, runs_until or now) + self._lag)

    def counted(self, now: float) -> int:
        """Return how many places are taken: also of calls that have ended of late or run on without a client."""
        self.advance(now)
        return self._counted()

    def reported(self, now: float) -> int:
        """Return what the provider says it has in flight: what had a place `lag` seconds ago and still counts."""
        return self.counted(now) - len(self._unreported)

    def advance(self, now: float) -> None:
        """Let happen what is due by `now`, in its order: ends, phases, and others taking what has become free."""
        while (moment := self._next_moment()) < now:
            self._settle(moment)
        self._settle(now)

    def _next_moment(self) -> float:
        ends = self._lingering[0] if self._lingering else math.inf
        return min(ends, self._schedule.next_change(self._now))

    def _settle(self, moment: float) -> None:
        moment = max(moment, self._now)
        self.seconds += self._counted() * (moment - self._now)
        self._now = moment
        wanted = self._schedule.foreign(moment)
        for _ in range(self.foreign - wanted):
            self.foreign -= 1
            heapq.heappush(self._lingering, moment + self._lag)
        while self._lingering and self._lingering[0] <= moment:
            heapq.heappop(self._lingering)
        limit = self.limit(moment)
        while self.foreign < wanted and (limit is None or self._counted() < limit):
            self.foreign += 1
            self.foreign_calls += 1
            self._take(moment)
        while self._unreported and self._unreported[0] <= moment:
            self._unreported.popleft()

    def _counted(self) -> int:
        return self.in_flight + self.foreign + len(self._lingering)

    def _take(self, moment: float) -> None:
        if self._lag > 0:
            self._unreported.append(moment + self._lag)
        self.peak = max(self.peak, self._counted())
