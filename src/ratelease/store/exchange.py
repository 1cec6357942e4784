"""
The exchange joins calls in flight. One lane per path and script: while a call of a lane is on its way newcomers
queue, and go together in the next one; nobody waits when the lane is idle.

A batch runs under its leader's remaining time. If it ends by that, the others' outcome is unknown and they go again
by id, which is safe for every script. Threads take turns in leading; on an event loop a task leads.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from ..core import scripts
from ..core.model import Answer, Ended, Line, Request, Verdict
from ..core.scripts import Call, Ending
from ..errors import StoreUnavailable
from .engaged import engaged
from .faults import away
from .runtime import Runtime
from .wake import Wake
from .wire import AsyncWire, Wire

LARGEST_BATCH = 128
MOST_LANES = 1024

AnyLane = TypeVar("AnyLane", bound="_Lane")


class _Item:
    """
    One request or ending on its way. `result` and `error` are set once, before it is woken. `carries` are the items
    of the call that it leads, itself first; `sends` counts how often it may have reached the store; `began` is when it
    came.
    """

    __slots__ = ("began", "carries", "deadline", "error", "leads", "payload", "queued", "result", "sends", "wake")

    def __init__(self, payload: Request | Ending, deadline: float, sends: int = 0) -> None:
        self.payload = payload
        self.deadline = deadline
        self.began = time.monotonic()
        self.result: Any = None
        self.error: BaseException | None = None
        self.queued = False
        self.leads = False
        self.wake: Any = None
        self.carries: list[_Item] = []
        self.sends = sends

    def raise_error(self) -> None:
        """Raise the error, unless the item is to go again. It is not kept: it would keep its own frames alive."""
        error, self.error = self.error, None
        try:
            if error is not None and not isinstance(error, _Again):
                raise error
        finally:
            del error


class _Again(Exception):
    """The batch ended by its leader's deadline: this item's outcome is unknown, it goes again."""


def _late(wire: Wire | AsyncWire, item: _Item) -> StoreUnavailable:
    """
    The error for an item whose time is over.

    The store is away if somebody has asked it in vain and nobody has heard of it since the item came. Otherwise the
    item has only waited for its turn.
    """
    message = f"the store at {wire.endpoint.label} did not answer before the caller's deadline"
    return away(message) if wire.heard < min(item.began, wire.asked) else StoreUnavailable(message)


class _Batch:
    """What goes in one call, and what its reply means for each item."""

    def __init__(self, runtime: Runtime, items: Sequence[_Item]) -> None:
        self.runtime = runtime
        self.items = items
        self.deadline = items[0].deadline
        self.line: Line = items[0].payload.line
        self._board(True)

    def _board(self, boarded: bool) -> None:
        """Note that the requests may be sent from now on, or no more; between the two the call has no connection."""
        for item in self.items:
            if isinstance(item.payload, Request):
                item.payload.boarded = boarded

    def call(self) -> Call:
        """The call for the items."""
        payloads: Any = [item.payload for item in self.items]
        self.ids = [payload.id for payload in payloads]
        session, keyspace = self.runtime.session, self.runtime.keyspace
        self.sent_at = time.monotonic()
        if isinstance(payloads[0], Request):
            return scripts.acquire(session, keyspace, payloads, self.sent_at)
        return scripts.release(session, keyspace, payloads)

    def sent(self) -> None:
        """Note that the requests may have reached the store once more."""
        for item in self.items:
            item.sends += 1
            if isinstance(item.payload, Request):
                item.payload.sent += 1

    def answered(self, reply: Any) -> None:
        """Hand each item its result."""
        results: Sequence[Answer] | Sequence[Ended]
        if isinstance(self.items[0].payload, Request):
            results = scripts.acquire_answers(reply, self.sent_at)
            head = results[0].header
        else:
            head, results = scripts.release_answers(reply)
        for item, id, result in zip(self.items, self.ids, results, strict=True):
            # An ending whose first copy was taken is unknown to its second: that is no lost lease.
            item.result = Ended.RELEASED if result is Ended.UNKNOWN and item.sends > 1 else result
            if isinstance(item.payload, Request) and isinstance(result, Answer):
                if item.payload.id == id:
                    item.payload.note(result.status)
                else:
                    # An outage has given it another id, withdrawn this one, and answers its waiter.
                    item.result = replace(result, status=Verdict.PARKED)
                self.runtime.outage.learn(self.line, result)
        self._board(False)
        self.runtime.note(self.line, head, sent=self.sent_at)

    def failed(self, error: BaseException) -> None:
        """Hand each item the error, or send the followers again where only the leader's time was over."""
        self._board(False)
        own = time.monotonic() < self.deadline
        for number, item in enumerate(self.items):
            item.error = error if own or number == 0 else _Again()


def _batches(runtime: Runtime, payloads: Sequence[Request | Ending], deadline: float) -> Iterator[_Batch]:
    """Payloads that go by no lane, in calls of a bearable size; each is made when the one before has been sent."""
    for at in range(0, len(payloads), LARGEST_BATCH):
        yield _Batch(runtime, [_Item(payload, deadline) for payload in payloads[at : at + LARGEST_BATCH]])


class _Lane:
    __slots__ = ("busy", "lock", "waiting")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.waiting: deque[_Item] = deque()
        self.busy = False

    def take(self, items: list[_Item]) -> list[_Item]:
        """Add the next in line to a batch; the lock is held."""
        while self.waiting and len(items) < LARGEST_BATCH:
            item = self.waiting[0]
            item.queued = False
            # First there, then away from here: an interrupt in between loses nobody.
            items.append(item)
            self.waiting.popleft()
        return items


class _LoopLane(_Lane):
    """
    A lane of an event loop. `flying` are the items of the call in flight.

    One timer for all of its items ends those whose time is over: one for each was a fifth of what a call costs.
    """

    __slots__ = ("_due", "_timer", "flying")

    def __init__(self) -> None:
        super().__init__()
        self.flying: Sequence[_Item] = ()
        self._due = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, loop: asyncio.AbstractEventLoop, deadline: float) -> None:
        """See to it that somebody looks at the items when this deadline is over."""
        if self._timer is None or deadline < self._due:
            self.rest()
            self._due = deadline
            # loop.call_at would overflow on the deadline of a caller that waits for ever.
            delay = min(max(deadline - time.monotonic(), 0), 86_400)
            self._timer = loop.call_later(delay, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now, earliest = time.monotonic(), math.inf
        for item in (*self.waiting, *self.flying):
            if item.deadline <= now:
                _expire(item)
            else:
                earliest = min(earliest, item.deadline)
        if earliest < math.inf:
            self.watch(loop, earliest)

    def rest(self) -> None:
        """Look no more: there is nobody."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _prune(lanes: dict[tuple[str, str], AnyLane]) -> None:
    """Forget the oldest lanes that are idle, where there are too many. Two lanes of one path are no harm."""
    if len(lanes) >= MOST_LANES:
        for key in [key for key, lane in lanes.items() if not lane.busy][: MOST_LANES // 2]:
            del lanes[key]


class Exchange:
    """
    The exchange for threads.

    A thread is engaged in all of it: a release that a finaliser makes meanwhile would wait for a lock that this thread
    holds, or for the call that it leads.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.wire = Wire(runtime.endpoint, runtime.config, runtime.outage.hopeful)
        self._lanes: dict[tuple[str, str], _Lane] = {}
        self._lock = threading.Lock()

    def acquire(self, request: Request, deadline: float, queued: Callable[[], None] | None = None) -> Answer:
        """
        Send a request; StoreUnavailable if no answer came by the deadline (the outcome is unknown then).

        `queued` is called once nobody who comes later can be sent before it.
        """
        with engaged():
            answer: Answer = self._submit(scripts.ACQUIRE, request, deadline, queued)
        return answer

    def acquire_all(self, requests: Sequence[Request], deadline: float) -> list[Answer]:
        """Send requests of one line together, in their order; no newcomer comes between."""
        with engaged():
            return self._send_all(requests, deadline)

    def release_all(self, endings: Sequence[Ending], deadline: float) -> list[Ended]:
        """End leases and withdraw waiters of one line: one by the lane, several together."""
        with engaged():
            if len(endings) == 1:
                return [self._submit(scripts.RELEASE, endings[0], deadline)]
            return self._send_all(endings, deadline)

    def _send_all(self, payloads: Sequence[Request | Ending], deadline: float) -> list[Any]:
        results: list[Any] = []
        for batch in _batches(self._runtime, payloads, deadline):
            batch.answered(self.wire.run(batch.call(), deadline, batch.sent))
            results += [item.result for item in batch.items]
        return results

    def _lane(self, script: str, line: Line) -> _Lane:
        key = (script, line.path.name)
        lane = self._lanes.get(key)
        if lane is None:
            with self._lock:
                _prune(self._lanes)
                lane = self._lanes.setdefault(key, _Lane())
        return lane

    def _submit(
        self, script: str, payload: Request | Ending, deadline: float, queued: Callable[[], None] | None = None
    ) -> Any:
        lane = self._lane(script, payload.line)
        sends = 0
        while True:
            item = _Item(payload, deadline, sends)
            try:
                self._carry(lane, item, queued)
            except BaseException:
                self._abandon(lane, item)
                raise
            if item.error is None:
                return item.result
            item.raise_error()
            sends = item.sends
            if time.monotonic() >= deadline:
                raise _late(self.wire, item)

    def _carry(self, lane: _Lane, item: _Item, queued: Callable[[], None] | None) -> None:
        """Lead a call with the item, or leave it to whoever leads."""
        with lane.lock:
            item.leads = not lane.busy
            if item.leads:
                lane.busy = True
            else:
                item.wake = Wake()
                item.queued = True
                lane.waiting.append(item)
        if queued is not None:
            queued()
        if not item.leads:
            self._follow(lane, item)
        if item.leads:
            self._lead(lane, item)

    def _follow(self, lane: _Lane, item: _Item) -> None:
        """Wait until somebody has carried the item, or until it is its turn to lead."""
        item.wake.wait(item.deadline - time.monotonic())
        with lane.lock:
            if item.queued:
                lane.waiting.remove(item)
                item.error = _late(self.wire, item)
            elif not item.leads and item.result is None and item.error is None:
                item.error = _late(self.wire, item)

    def _lead(self, lane: _Lane, item: _Item) -> None:
        item.carries.append(item)
        with lane.lock:
            batch = _Batch(self._runtime, lane.take(item.carries))
        try:
            call = batch.call()
            batch.answered(self.wire.run(call, batch.deadline, batch.sent))
        except Exception as error:  # noqa: BLE001 - handed to every caller of the batch
            batch.failed(error)
        self._wake(item)
        self._hand_over(lane, item)

    def _wake(self, item: _Item) -> None:
        for follower in item.carries[1:]:
            if follower.result is None and follower.error is None:
                follower.error = _Again()
            follower.wake.set()

    def _hand_over(self, lane: _Lane, item: _Item) -> None:
        """Let the next in line lead, or leave the lane idle. Until it is done it can be done again."""
        with lane.lock:
            if lane.waiting:
                leader = lane.waiting[0]
                leader.leads, leader.queued = True, False
                lane.waiting.popleft()
                leader.wake.set()
            else:
                lane.busy = False
            item.leads = False

    def _abandon(self, lane: _Lane, item: _Item) -> None:
        """
        Leave the lane as an interrupt found it: anywhere.

        A signal's exception may come between any two steps. Followers must not wait for a call that nobody makes,
        and the lane must not stay busy for ever.
        """
        with lane.lock:
            for gone in (item, *item.carries):
                gone.queued = False
                if gone in lane.waiting:
                    lane.waiting.remove(gone)
        self._wake(item)
        if item.leads:
            self._hand_over(lane, item)

    def close(self) -> None:
        """Close the connections."""
        self.wire.close()


class AsyncExchange:
    """The exchange for one event loop."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.wire = AsyncWire(runtime.endpoint, runtime.config, runtime.outage.hopeful)
        self._lanes: dict[tuple[str, str], _LoopLane] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def acquire(self, request: Request, deadline: float) -> Answer:
        """As :meth:`Exchange.acquire`. A cancelled caller's request goes on: its id must be withdrawn."""
        answer: Answer = await self._submit(scripts.ACQUIRE, request, deadline)
        return answer

    async def acquire_all(self, requests: Sequence[Request], deadline: float) -> list[Answer]:
        """As :meth:`Exchange.acquire_all`."""
        return await self._send_all(requests, deadline)

    async def release_all(self, endings: Sequence[Ending], deadline: float) -> list[Ended]:
        """As :meth:`Exchange.release_all`."""
        if len(endings) == 1:
            return [await self._submit(scripts.RELEASE, endings[0], deadline)]
        return await self._send_all(endings, deadline)

    async def _send_all(self, payloads: Sequence[Request | Ending], deadline: float) -> list[Any]:
        results: list[Any] = []
        for batch in _batches(self._runtime, payloads, deadline):
            batch.answered(await self.wire.run(batch.call(), deadline, batch.sent))
            results += [item.result for item in batch.items]
        return results

    async def _submit(self, script: str, payload: Request | Ending, deadline: float) -> Any:
        loop = asyncio.get_running_loop()
        key = (script, payload.line.path.name)
        lane = self._lanes.get(key)
        if lane is None:
            _prune(self._lanes)
            lane = self._lanes[key] = _LoopLane()
        sends = 0
        while True:
            item = _Item(payload, deadline, sends)
            item.queued = True
            item.wake = loop.create_future()
            lane.waiting.append(item)
            if not lane.busy:
                lane.busy = True
                task = loop.create_task(self._pump(lane))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            lane.watch(loop, deadline)
            try:
                await item.wake
            finally:
                if item.queued:
                    lane.waiting.remove(item)
                    item.queued = False
            if item.error is None and item.result is not None:
                return item.result
            if item.error is None:
                raise _late(self.wire, item)
            item.raise_error()
            if time.monotonic() >= deadline:
                raise _late(self.wire, item)
            sends = item.sends

    async def _pump(self, lane: _LoopLane) -> None:
        try:
            while lane.waiting:
                batch = _Batch(self._runtime, lane.take([]))
                lane.flying = batch.items
                try:
                    call = batch.call()
                    batch.answered(await self.wire.run(call, batch.deadline, batch.sent))
                except Exception as error:  # noqa: BLE001 - handed to every caller of the batch
                    batch.failed(error)
                except BaseException:
                    batch.failed(_late(self.wire, batch.items[0]))
                    raise
                finally:
                    lane.flying = ()
                    for item in batch.items:
                        _expire(item)
        finally:
            lane.busy = False
            lane.rest()
            # Only a pump that was cancelled leaves anybody behind.
            for item in lane.waiting:
                _expire(item)

    async def close(self) -> None:
        """Let calls in flight end, then close the connections."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=self._runtime.config.attempt_timeout)
        for task in self._tasks:
            task.cancel()
        await self.wire.close()


def _expire(item: _Item) -> None:
    if not item.wake.done():
        item.wake.set_result(None)
