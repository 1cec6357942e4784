"""Asking for several leases at once: what acquire_many is in either colour."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

from .core import admission
from .core.admission import Outer
from .core.model import Answer, Refusal, Request, Verdict
from .core.scripts import Ending, withdrawals
from .errors import StoreUnavailable
from .store.hold import Hold
from .store.runtime import Runtime
from .store.waiter import Waiter
from .store.wake import Wake

Arrival = list[Hold] | Exception


class Gathering:
    """
    The requests of one acquire_many, and what has come of them.

    Every grant becomes holds at once, in whatever thread it arrives: it is renewed from then on, whether or not
    anybody asks for it. Holds wait among the arrivals until their owner takes them. The lock decides between a grant
    that arrives and an owner that gives up: a request is either an arrival or withdrawn, never both or neither.
    """

    def __init__(
        self,
        runtime: Runtime,
        requests: Sequence[Request],
        least: int,
        started: float,
        place: str,
        queued: Callable[[Answer], None],
    ) -> None:
        self.runtime = runtime
        self.requests = requests
        self.least = least
        self.deadline = requests[0].deadline
        self.started = started
        self.refused: Refusal | None = None
        self._too_late = False
        self._given_up = False
        self._queued = queued
        self._place = place
        self._arrivals: deque[Arrival] = deque()
        self._pending: dict[Waiter, None] = {}
        # Re-entrant: a finaliser may give up while this very thread is in here.
        self._lock = threading.RLock()
        self._begin()
        self._waiters = [self._expect(request) for request in requests]

    def _begin(self) -> None:
        """Make what the owner waits on. Nothing is expected yet."""
        raise NotImplementedError

    def _wake(self) -> None:
        """Let the owner look at the arrivals again. Called from any thread, under the lock."""
        raise NotImplementedError

    def _expect(self, request: Request) -> Waiter:
        waiter = self.runtime.keeper.expect(request, lambda: self._arrived(waiter))
        self._pending[waiter] = None
        return waiter

    def _arrived(self, waiter: Waiter) -> None:
        with self._lock:
            ours = waiter in self._pending
            self._pending.pop(waiter, None)
            arrival = self._arrival(waiter) if ours and not self._given_up else None
            if arrival is not None:
                self._arrivals.append(arrival)
            self._wake()
        if arrival is None:
            self.runtime.outage.forget(waiter.request)
        self.runtime.keeper.forget(waiter)

    def _arrival(self, waiter: Waiter) -> Arrival | None:
        answer = waiter.answer
        if answer is None:
            return waiter.error
        if answer.status is Verdict.IMPOSSIBLE:
            return admission.impossible(waiter.request, answer)
        if answer.status is not Verdict.GRANTED:
            self._too_late = self._too_late or waiter.request.waits
            if self.refused is None:
                self.refused = admission.refusal(waiter.request.line, answer)
            return None
        now = time.monotonic()
        grant = admission.grant_of(waiter.request, answer)
        holds = Hold.of(self.runtime, grant, now, now - self.started, self._place)
        for hold in holds:
            self.runtime.keeper.keep(hold)
        return holds

    def decided_here(self, error: StoreUnavailable | None = None) -> list[Answer]:
        """What this process says of each request while the store is away; `error` is how that was met."""
        return [self.runtime.outage.decide(waiter, error) for waiter in self._waiters]

    def answered(self, answers: Sequence[Answer], outer: tuple[Outer, ...]) -> None:
        """Take over what the store said of each request; raise what no wait would help."""
        for waiter, answer in zip(self._waiters, answers, strict=True):
            request = waiter.request
            if answer.status is Verdict.IMPOSSIBLE:
                raise admission.impossible(request, answer)
            if answer.status is not Verdict.GRANTED and self.refused is None:
                self.refused = admission.refusal(request.line, answer)
            if answer.status is Verdict.PARKED:
                admission.check_nested(request, answer, outer)
                self.runtime.keeper.gates.parked(request, answer)
            elif waiter in self._pending:
                waiter.resolve(answer)
        if self.least and answers[0].status is Verdict.PARKED:
            self._queued(answers[0])

    def _take(self) -> list[Hold] | None:
        """The next holds; none if nothing more can come, None if the owner has to wait."""
        with self._lock:
            if not self._arrivals:
                return None if self._pending else []
            arrival = self._arrivals.popleft()
        if isinstance(arrival, Exception):
            raise arrival
        return arrival

    def _enough(self, holds: list[Hold], arrival: list[Hold] | None) -> bool:
        """Whether the owner goes on with these holds; raises where the least can no longer come."""
        if len(holds) < self.least and arrival == []:
            raise self.denied()
        return len(holds) >= self.least and not arrival

    def _remaining(self) -> float:
        # Neither a lock nor an event loop can wait as long as a caller may.
        remaining = self.deadline - time.monotonic()
        if remaining <= 0:
            raise self.denied()
        return min(remaining, 86_400)

    def denied(self) -> Exception:
        """The error at the deadline, or where nothing can come before it."""
        refused = Refusal("", "", 0, 0, None, "deadline") if self.refused is None else self.refused
        return admission.denied(refused, time.monotonic() - self.started, self.requests[0].sent)

    def give_up(self) -> list[Ending]:
        """Stop waiting; what has not come, or has come and was not taken, is the caller's to end."""
        if self.runtime.dead:
            return []
        endings: list[Ending] = []
        with self._lock:
            self._given_up = True
            pending, self._pending = self._pending, {}
            arrivals, self._arrivals = self._arrivals, deque()
            # Whoever is waiting for the rest has nothing more to wait for.
            self._wake()
        for waiter in pending:
            self.runtime.keeper.forget(waiter)
            if waiter.request.lingers:
                endings += withdrawals(waiter.request)
        for arrival in arrivals:
            ended = [hold.end(unsent=True) for hold in arrival] if isinstance(arrival, list) else []
            endings += [ending for ending in ended if ending is not None]
        return endings


class SyncGathering(Gathering):
    """A gathering for threads."""

    def _begin(self) -> None:
        self._news = Wake()

    def _wake(self) -> None:
        self._news.set()

    def first(self, holds: list[Hold]) -> None:
        """Add to `holds` what has come, once that is the least."""
        while not self._enough(holds, arrival := self._take()):
            if arrival is None:
                self._news.wait(self._remaining())
            else:
                holds += arrival

    def rest(self) -> Iterator[Hold]:
        """The others, as they come."""
        while (arrival := self._take()) != []:
            if arrival is None:
                self._news.wait(self._remaining())
            else:
                yield from arrival
        if self._too_late:
            raise self.denied()


class AsyncGathering(Gathering):
    """A gathering for one event loop."""

    def _begin(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()

    def _wake(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._news.set)

    def _next(self) -> list[Hold] | None:
        self._news.clear()
        return self._take()

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(self._remaining()):
                await self._news.wait()
        except TimeoutError:
            # The day that _remaining allows is over, or the deadline: the next look decides.
            self._remaining()

    async def first(self, holds: list[Hold]) -> None:
        """As :meth:`SyncGathering.first`."""
        while not self._enough(holds, arrival := self._next()):
            if arrival is None:
                await self._wait()
            else:
                holds += arrival

    async def rest(self) -> AsyncIterator[Hold]:
        """As :meth:`SyncGathering.rest`."""
        while (arrival := self._next()) != []:
            if arrival is None:
                await self._wait()
            else:
                for hold in arrival:
                    yield hold
        if self._too_late:
            raise self.denied()
