"""Asking for several leases at once: what acquire_many is in either colour."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial

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

    Nothing is held while the group waits. While a limit is reduced the store may pass the group over, and grant single
    leases behind it: those are given back, and asked for again once the group has come.

    An interrupt may come between any two steps of the owner's thread. So what is given up is not what stands among the
    arrivals, but all that was asked for and that no lease has.
    """

    def __init__(self, runtime: Runtime, requests: Sequence[Request], least: int, place: str) -> None:
        self.runtime = runtime
        self.requests = requests
        self.least = least
        self.deadline = requests[0].deadline
        self.started = time.monotonic()
        self.refused: Refusal | None = None
        self._too_late = False
        self._given_up = False
        self._place = place
        self._arrivals: deque[Arrival] = deque()
        self._waiters: dict[Request, Waiter] = {}
        self._pending: set[Request] = set()
        self._holds: dict[Request, list[Hold]] = {}
        self._behind = least > 0
        self._early: list[Request] = []
        # Re-entrant: a finaliser may give up while this very thread is in here.
        self._lock = threading.RLock()
        self._begin()

    def _begin(self) -> None:
        """Make what the owner waits on. Nothing is expected yet."""
        raise NotImplementedError

    def _wake(self) -> None:
        """Let the owner look at the arrivals again. Called from any thread, under the lock."""
        raise NotImplementedError

    def expect(self, queued: Callable[[Answer], None]) -> None:
        """Note every request before it is sent. `queued` is told once if the caller has to wait."""
        self._queued = queued
        for request in self.requests:
            waiter = self._waiters[request] = self.runtime.keeper.expect(request, partial(self._arrived, request))
            self._pending.add(request)
            if waiter.settled:
                self._arrived(request)

    def _arrived(self, request: Request) -> None:
        with self._lock:
            if request not in self._pending:
                return
            self._pending.remove(request)
            waiter = self._waiters[request]
            if waiter.granted is not None and not self._given_up and self._put_off(waiter, waiter.granted):
                return
            arrival = self._arrival(waiter) if not self._given_up else None
            if arrival is not None:
                self._arrivals.append(arrival)
            if self._behind and isinstance(arrival, list):
                self._follow()
            self._wake()
        self.runtime.outage.forget(request)
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
        holds = self._holds[waiter.request] = Hold.of(self.runtime, grant, now, now - self.started, self._place)
        for hold in holds:
            self.runtime.keeper.keep(hold)
        return holds

    def _put_off(self, waiter: Waiter, grant: Answer) -> bool:
        """Whether a grant comes too early, or is over already: it is given back, and asked for again."""
        request, keeper = waiter.request, self.runtime.keeper
        if self._behind and request is not self.requests[0]:
            keeper.restart(waiter, granted=True)
            self._early.append(request)
        elif _is_over(request, grant):
            keeper.restart(waiter, granted=True)
            self._pending.add(request)
            keeper.send_soon([request])
        else:
            return False
        return True

    def _follow(self) -> None:
        """The group has come: ask again for what had come before it."""
        self._behind = False
        early, self._early = self._early, []
        self._pending.update(early)
        if early:
            self.runtime.keeper.send_soon(early)

    def decided_here(self, asked: Sequence[Request], error: StoreUnavailable | None = None) -> list[Answer]:
        """What this process says of each request while the store is away; `error` is how that was met."""
        return [self.runtime.outage.decide(self._waiters[request], error) for request in asked]

    def goes_on(self) -> bool:
        """
        Whether the group has come to a caller whose own call got no answer: the keeper has claimed it.

        The keeper then sends what was asked for behind it as well, for nobody knows whether that is parked.
        """
        if self._behind or not self.least:
            return False
        with self._lock:
            pending = list(self._pending)
        self.runtime.keeper.send_soon(pending)
        return True

    def answered(self, asked: Sequence[Request], answers: Sequence[Answer], outer: tuple[Outer, ...]) -> list[Request]:
        """
        Take over what the store said of each request that it was asked for; raise what no wait would help.

        Returns what is to be asked for again: this process stood still until the grant was over.
        """
        over: list[Request] = []
        if not answers:
            return over
        for request, answer in zip(asked, answers, strict=True):
            waiter = self._waiters[request]
            if answer.status is Verdict.IMPOSSIBLE:
                raise admission.impossible(request, answer)
            if answer.status is not Verdict.GRANTED and self.refused is None:
                self.refused = admission.refusal(request.line, answer)
            if answer.status is Verdict.PARKED:
                admission.check_nested(request, answer, outer)
                self.runtime.keeper.gates.parked(request, answer)
            elif request in self._pending and _is_over(request, answer):
                self.runtime.keeper.restart(waiter)
                over.append(request)
            elif request in self._pending:
                waiter.resolve(answer)
        if self.least and asked[0] is self.requests[0] and answers[0].status is Verdict.PARKED:
            self._queued(answers[0])
        return over

    def _take(self) -> list[Hold] | None:
        """The next holds; none if nothing more can come, None if the owner has to wait."""
        with self._lock:
            if self._given_up:
                return []
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

    def _stop(self) -> None:
        """Wait no more: what comes from now on is the caller's to end."""
        with self._lock:
            self._given_up = True
            # Whoever is waiting for the rest has nothing more to wait for.
            self._wake()
        for waiter in self._waiters.values():
            self.runtime.keeper.forget(waiter)

    def give_up(self, *, again: bool = False) -> list[Ending]:
        """
        Stop waiting; what has not come, or has come and was not taken, is the caller's to end.

        `again`: also what an earlier call has told of, whose endings an interrupt may have lost.
        """
        if self.runtime.dead or (self._given_up and not again):
            return []
        self._stop()
        endings: list[Ending] = []
        for request in self.requests:
            holds = self._holds.get(request)
            if holds is None:
                endings += withdrawals(request) if request.lingers else []
                continue
            untaken = [hold for hold in holds if not hold.owned]
            ended = [hold.end(unsent=True) or (hold.ending(unsent=True) if again else None) for hold in untaken]
            endings += [ending for ending in ended if ending is not None]
        return endings

    def undo(self) -> list[Ending]:
        """Take back every request, wherever it has got to, with what was taken; harmless when repeated."""
        if self.runtime.dead:
            return []
        self._stop()
        return [ending for request in self.requests for ending in self.runtime.keeper.take_back(request)]

    def drop(self) -> None:
        """Note that nobody has the group any more. A finaliser may call this anywhere, in any thread."""
        self.runtime.keeper.dropped.append(self)

    def end_later(self) -> None:
        """Leave to the keeper what an interrupt has kept from being given up here."""
        for ending in self.give_up(again=True):
            self.runtime.keeper.end_later(ending)


def _is_over(request: Request, answer: Answer) -> bool:
    """Whether the leases that an answer grants have ended: their slots may be somebody else's by now."""
    return answer.status is Verdict.GRANTED and admission.grant_of(request, answer).deadline <= time.monotonic()


class SyncGathering(Gathering):
    """A gathering for threads."""

    def _begin(self) -> None:
        self._news = Wake()

    def _wake(self) -> None:
        self._news.set()

    def first(self) -> list[Hold]:
        """What has come, once that is the least."""
        holds: list[Hold] = []
        while not self._enough(holds, arrival := self._take()):
            if arrival is None:
                self._news.wait(self._remaining())
            else:
                holds += arrival
        return holds

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
        try:
            self._loop.call_soon_threadsafe(self._news.set)
        except RuntimeError:
            # The loop was closed while its owner waited: nobody takes what has come.
            if not self._given_up:
                self.drop()

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

    async def first(self) -> list[Hold]:
        """As :meth:`SyncGathering.first`."""
        holds: list[Hold] = []
        while not self._enough(holds, arrival := self._next()):
            if arrival is None:
                await self._wait()
            else:
                holds += arrival
        return holds

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
