"""Asking for several leases at once: what acquire_many is in either colour."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any, NoReturn

from .core import admission
from .core.admission import Outer
from .core.model import Answer, Outcome, Refusal, Request, Verdict
from .core.scripts import Ending
from .lease import AsyncLease, Lease
from .store.hold import Hold
from .store.runtime import Runtime
from .store.waiter import Waiter


class Gathering:
    """
    The requests of one acquire_many, and what has come of them.

    Every grant becomes holds at once, in whatever thread it arrives: it is renewed from then on, whether or not
    anybody asks for it. :meth:`post` brings them to the owner.
    """

    def __init__(
        self,
        runtime: Runtime,
        requests: Sequence[Request],
        least: int,
        place: str,
        queued: Callable[[Answer], None],
    ) -> None:
        self.runtime = runtime
        self.requests = requests
        self.least = least
        self.deadline = requests[0].deadline
        self.started = time.monotonic()
        self.refused: Refusal | None = None
        self._too_late = False
        self._queued = queued
        self._place = place
        self._pending: dict[str, Waiter] = {}
        # Whoever looks for arrivals must not come between an answer that is no longer pending and its arrival.
        self._lock = threading.Lock()
        for request in requests:
            self._expect(request)

    def post(self, arrival: list[Hold] | Exception) -> None:
        """Bring what has arrived to the owner. May be called from any thread."""
        raise NotImplementedError

    def _expect(self, request: Request) -> None:
        waiter = self.runtime.keeper.expect(request, lambda: self._arrived(waiter))
        self._pending[request.id] = waiter

    def _arrived(self, waiter: Waiter) -> None:
        with self._lock:
            self._pending.pop(waiter.request.id, None)
            arrival = self._arrival(waiter)
            if arrival is not None:
                self.post(arrival)
        self.runtime.keeper.forget(waiter)

    def _arrival(self, waiter: Waiter) -> list[Hold] | Exception | None:
        answer = waiter.answer
        if answer is None:
            return waiter.error
        if answer.status is Verdict.IMPOSSIBLE:
            return admission.impossible(waiter.request, answer)
        if answer.status is not Verdict.GRANTED:
            return None
        now = time.monotonic()
        grant = admission.grant_of(waiter.request, answer)
        holds = Hold.of(self.runtime, grant, now, now - self.started, self._place)
        for hold in holds:
            self.runtime.keeper.keep(hold)
        return holds

    def answered(self, answers: Sequence[Answer], outer: tuple[Outer, ...]) -> None:
        """Take over what the store said of each request; raise what no wait would help."""
        for request, answer in zip(self.requests, answers, strict=True):
            waiter = self._pending.get(request.id)
            if answer.status is Verdict.IMPOSSIBLE:
                raise admission.impossible(request, answer)
            if answer.status is not Verdict.GRANTED and self.refused is None:
                self.refused = admission.refusal(request.line, answer)
            if answer.status is Verdict.PARKED:
                admission.check_nested(request, answer, outer)
            elif waiter is not None:
                self._too_late = self._too_late or (request.waits and answer.status is Verdict.REFUSED)
                waiter.resolve(answer)
        if self.least and answers[0].status is Verdict.PARKED:
            self._queued(answers[0])

    def _remaining(self) -> float:
        # Neither a lock nor an event loop can wait as long as a caller may.
        return min(max(self.deadline - time.monotonic(), 0), 86_400)

    def _exhausted(self, arrivals: queue.SimpleQueue[Any] | asyncio.Queue[Any]) -> bool:
        """Whether nothing has come and nothing more can come."""
        with self._lock:
            return arrivals.empty() and not self._pending

    def timed_out(self) -> Exception:
        """The error at the deadline, or where nothing can come before it."""
        refused = Refusal("", "", 0, 0, None, "deadline") if self.refused is None else self.refused
        return admission.timed_out(refused, time.monotonic() - self.started, self.requests[0].sent)

    def _none_left(self) -> NoReturn:
        raise self.timed_out()

    def _give_up(self) -> list[Ending]:
        """Stop waiting for what has not come; the endings are the caller's to send."""
        endings = []
        for waiter in list(self._pending.values()):
            self._pending.pop(waiter.request.id, None)
            self.runtime.keeper.forget(waiter)
            if waiter.request.lingers:
                endings.append(Ending(waiter.request.line, waiter.request.id, unsent=True, may_land=True))
        return endings


class SyncGathering(Gathering):
    """A gathering for threads. `end` sends an ending, `release` is the leases' own."""

    def __init__(
        self,
        runtime: Runtime,
        requests: Sequence[Request],
        least: int,
        place: str,
        *,
        queued: Callable[[Answer], None],
        end: Callable[[Ending], object],
        lease: Callable[[Hold], Lease],
    ) -> None:
        self._arrivals: queue.SimpleQueue[list[Hold] | Exception] = queue.SimpleQueue()
        self._end = end
        self._lease = lease
        super().__init__(runtime, requests, least, place, queued)

    def post(self, arrival: list[Hold] | Exception) -> None:
        """As :meth:`Gathering.post`."""
        self._arrivals.put(arrival)

    def _next(self) -> list[Lease]:
        """The next leases, none if nothing more can come."""
        if self._exhausted(self._arrivals):
            return []
        try:
            arrival = self._arrivals.get(timeout=self._remaining())
        except queue.Empty:
            raise self.timed_out() from None
        if isinstance(arrival, Exception):
            raise arrival
        return [self._lease(hold) for hold in arrival]

    def first(self, answers: Sequence[Answer], outer: tuple[Outer, ...]) -> list[Lease]:
        """Wait for the least, and take what else has come; give everything back where that fails."""
        leases: list[Lease] = []
        try:
            self.answered(answers, outer)
            while len(leases) < self.least or not self._arrivals.empty():
                leases += self._next() or self._none_left()
        except BaseException:
            self.withdraw()
            for lease in leases:
                lease.release(Outcome.UNSENT)
            raise
        return leases

    def rest(self) -> Iterator[Lease]:
        """The others, as they come."""
        while leases := self._next():
            yield from leases
        if self._too_late:
            raise self.timed_out()

    def withdraw(self) -> None:
        """Stop waiting, and give back what nobody has taken."""
        for ending in self._give_up():
            self._end(ending)
        while not self._arrivals.empty():
            late = self._arrivals.get()
            for hold in late if isinstance(late, list) else ():
                self._lease(hold).release(Outcome.UNSENT)


class AsyncGathering(Gathering):
    """A gathering for one event loop."""

    def __init__(
        self,
        runtime: Runtime,
        requests: Sequence[Request],
        least: int,
        place: str,
        *,
        queued: Callable[[Answer], None],
        end: Callable[[Ending], Awaitable[object]],
        lease: Callable[[Hold], AsyncLease],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._arrivals: asyncio.Queue[list[Hold] | Exception] = asyncio.Queue()
        self._end = end
        self._lease = lease
        super().__init__(runtime, requests, least, place, queued)

    def post(self, arrival: list[Hold] | Exception) -> None:
        """As :meth:`Gathering.post`."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._arrivals.put_nowait, arrival)

    async def _next(self) -> list[AsyncLease]:
        if self._exhausted(self._arrivals):
            # What another thread has posted a moment ago still has to pass through the loop.
            await asyncio.sleep(0)
            if self._arrivals.empty():
                return []
        try:
            async with asyncio.timeout(self._remaining()):
                arrival = await self._arrivals.get()
        except TimeoutError:
            raise self.timed_out() from None
        if isinstance(arrival, Exception):
            raise arrival
        return [self._lease(hold) for hold in arrival]

    async def first(self, answers: Sequence[Answer], outer: tuple[Outer, ...]) -> list[AsyncLease]:
        """As :meth:`SyncGathering.first`."""
        leases: list[AsyncLease] = []
        try:
            self.answered(answers, outer)
            await asyncio.sleep(0)
            while len(leases) < self.least or not self._arrivals.empty():
                leases += await self._next() or self._none_left()
        except BaseException:
            await asyncio.shield(self.withdraw())
            for lease in leases:
                await lease.release(Outcome.UNSENT)
            raise
        return leases

    async def rest(self) -> AsyncIterator[AsyncLease]:
        """As :meth:`SyncGathering.rest`."""
        while leases := await self._next():
            for lease in leases:
                yield lease
        if self._too_late:
            raise self.timed_out()

    async def withdraw(self) -> None:
        """As :meth:`SyncGathering.withdraw`."""
        for ending in self._give_up():
            await self._end(ending)
        await asyncio.sleep(0)
        while not self._arrivals.empty():
            late = self._arrivals.get_nowait()
            for hold in late if isinstance(late, list) else ():
                await self._lease(hold).release(Outcome.UNSENT)
