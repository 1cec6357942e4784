"""One body for both colours: a client for threads or for event loops, behind the same awaitable calls.

A contract test is written once, as a coroutine. With the asynchronous client its calls are made as they are; with
the synchronous one each task of the test is given one thread of its own, in which all of its calls run: what the
client keeps per thread (the leases that its caller has entered) is then kept per task, as in the other colour.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterable
from typing import Any, Self, TypeVar
from weakref import WeakKeyDictionary

from ratelease import AsyncClient, Client, EffectiveLimits, Feedback, Instance, Outcome, Refusal, Status
from ratelease.core.health import Health
from ratelease.core.reaction import Reaction
from ratelease.core.scripts import Call
from support.wait_until import wait_until_async

T = TypeVar("T")

_END: Any = object()


class _Thread:
    """One caller's thread: runs what it is given, in order, until it is told to end."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="caller", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()

    async def call(self, function: Callable[[], T]) -> T:
        """Run a function in the thread and return, or raise, what it does."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()

        def settle(result: Any, error: BaseException | None) -> None:
            if done.cancelled():
                return
            if error is None:
                done.set_result(result)
            else:
                done.set_exception(error)

        def work() -> None:
            result, error = None, None
            try:
                result = function()
            except BaseException as raised:  # noqa: BLE001 - the caller gets it, whatever it is
                error = raised
            if not loop.is_closed():
                loop.call_soon_threadsafe(settle, result, error)

        self._work.put(work)
        return await done

    def end(self) -> None:
        """End the thread when its last call has returned."""
        self._work.put(None)
        self._thread.join(10.0)


class _Callers:
    """The threads of the tasks that call a synchronous client."""

    def __init__(self) -> None:
        self._threads: WeakKeyDictionary[asyncio.Task[Any], _Thread] = WeakKeyDictionary()
        self._all: list[_Thread] = []

    async def call(self, function: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Call the function in the thread of the running task."""
        task = asyncio.current_task()
        assert task is not None
        thread = self._threads.get(task)
        if thread is None:
            thread = self._threads[task] = _Thread()
            self._all.append(thread)
        return await thread.call(lambda: function(*arguments, **options))

    def end(self) -> None:
        """End every thread."""
        for thread in self._all:
            thread.end()


class Entering:
    """What acquire and acquire_many give: await it, or enter it with `async with`."""

    def __init__(self, limiter: Limiter, start: Callable[[], Any]) -> None:
        self._limiter = limiter
        self._start = start
        self._given: Any = None

    def __await__(self) -> Generator[Any, None, Any]:
        return self.take().__await__()

    async def take(self) -> Any:
        """As `await`, where a coroutine is asked for."""
        if self._limiter.is_sync:
            return self._limiter.wrap(await self._limiter.callers.call(self._start))
        return self._limiter.wrap(await self._start())

    async def __aenter__(self) -> Any:
        if not self._limiter.is_sync:
            self._given = self._start()
            return self._limiter.wrap(await self._given.__aenter__())
        self._given = await self._limiter.callers.call(self._start)
        return self._limiter.wrap(await self._limiter.callers.call(self._given.__enter__))

    async def __aexit__(self, *raised: object) -> Any:
        if self._limiter.is_sync:
            return await self._limiter.callers.call(self._given.__exit__, *raised)
        return await self._given.__aexit__(*raised)


class BothLease:
    """A lease of either colour. What is not here is the lease's own: id, valid, lost, deadline, …"""

    def __init__(self, limiter: Limiter, lease: Any) -> None:
        self.limiter = limiter
        self.lease = lease

    def __getattr__(self, name: str) -> Any:
        return getattr(self.lease, name)

    async def release(
        self, outcome: Outcome | Feedback = Outcome.OK, usage: object = None, *, clean: bool = True
    ) -> None:
        """Give the slot back."""
        await self.limiter.call(self.lease.release, outcome, usage, clean=clean)

    async def fail(self, error: object) -> Feedback:
        """Give the slot back, and say what went wrong."""
        feedback: Feedback = await self.limiter.call(self.lease.fail, error)
        return feedback

    def wrap_stream(self, stream: Any) -> BothStream:
        """Hand the lease over to a stream in the client's colour, see :meth:`Limiter.stream`."""
        return BothStream(self.limiter, self.lease.wrap_stream(stream))

    async def __aenter__(self) -> Self:
        await self.limiter.call(self.lease.__enter__ if self.limiter.is_sync else self.lease.__aenter__)
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self.limiter.call(self.lease.__exit__ if self.limiter.is_sync else self.lease.__aexit__, *raised)


class BothGroup:
    """A group of either colour: a sequence of leases that grows as the rest arrives."""

    def __init__(self, limiter: Limiter, group: Any) -> None:
        self.limiter = limiter
        self.group = group

    def __len__(self) -> int:
        return len(self.group)

    def __getitem__(self, index: int) -> BothLease:
        return BothLease(self.limiter, self.group[index])

    async def rest(self) -> AsyncIterator[BothLease]:
        """Yield the leases that were not granted at once."""
        rest = self.group.rest()
        while (lease := await self.limiter.next(rest)) is not _END:
            yield BothLease(self.limiter, lease)

    async def release(self, outcome: Outcome = Outcome.OK) -> None:
        """Release every lease of the group."""
        await self.limiter.call(self.group.release, outcome)

    async def __aenter__(self) -> Self:
        await self.limiter.call(self.group.__enter__ if self.limiter.is_sync else self.group.__aenter__)
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self.limiter.call(self.group.__exit__ if self.limiter.is_sync else self.group.__aexit__, *raised)


class BothStream:
    """A wrapped stream of either colour, as an asynchronous iterator. Other attributes are the stream's."""

    def __init__(self, limiter: Limiter, stream: Any) -> None:
        self._limiter = limiter
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        item = await self._limiter.next(self.stream)
        if item is _END:
            raise StopAsyncIteration
        return item

    async def close(self) -> None:
        """Close the stream."""
        await self._limiter.call(self.stream.close if self._limiter.is_sync else self.stream.aclose)

    async def __aenter__(self) -> Self:
        await self._limiter.call(self.stream.__enter__ if self._limiter.is_sync else self.stream.__aenter__)
        return self

    async def __aexit__(self, *raised: object) -> Any:
        leave = self.stream.__exit__ if self._limiter.is_sync else self.stream.__aexit__
        return await self._limiter.call(leave, *raised)


class Limiter:
    """A client of either colour. `client` is the client itself."""

    def __init__(self, client: Client | AsyncClient) -> None:
        self.client: Any = client
        self.is_sync = isinstance(client, Client)
        self.callers = _Callers()
        self.held: list[BothLease] = []

    @property
    def instance_id(self) -> str:
        """The id of the client in the list of instances."""
        id: str = self.client._rt.instance
        return id

    async def start(self) -> None:
        """Enter the client, as `with` does."""
        await self.call(self.client.__enter__ if self.is_sync else self.client.__aenter__)

    async def call(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Call a method of the client's colour: in the task's thread, or as a coroutine."""
        if self.is_sync:
            return await self.callers.call(function, *arguments, **options)
        return await function(*arguments, **options)

    async def run(self, call: Call) -> Any:
        """Run a script by itself, on the client's connections."""
        return await self.call(self.client._exchange.wire.run, call, time.monotonic() + 5)

    async def next(self, iterator: Any) -> Any:
        """Take the next item of an iterator in the client's colour; a mark of the end where there is none."""
        if self.is_sync:
            return await self.callers.call(next, iterator, _END)
        return await anext(iterator, _END)

    def wrap(self, given: Any) -> Any:
        """Wrap a lease or a group; anything else stays as it is."""
        if isinstance(given, (Refusal, type(None))):
            return given
        return BothLease(self, given) if hasattr(given, "wrap_stream") else BothGroup(self, given)

    def acquire(self, *arguments: Any, **options: Any) -> Entering:
        """Wait for a lease."""
        return Entering(self, lambda: self.client.acquire(*arguments, **options))

    async def hold(self, provider: str, model: str, count: int = 1, **options: Any) -> list[BothLease]:
        """Wait for leases, and hold on to them for as long as the limiter lives: a dropped lease is released."""
        leases: list[BothLease] = [await self.acquire(provider, model, **options) for _ in range(count)]
        self.held += leases
        return leases

    async def try_acquire(self, *arguments: Any, **options: Any) -> Any:
        """Take a lease if one is free now."""
        return self.wrap(await self.call(self.client.try_acquire, *arguments, **options))

    def acquire_many(self, *arguments: Any, **options: Any) -> Entering:
        """Wait for several leases together."""
        return Entering(self, lambda: self.client.acquire_many(*arguments, **options))

    async def status(self) -> Status:
        """What is in use and what waits."""
        status: Status = await self.call(self.client.status)
        return status

    async def limits(self, *arguments: str) -> EffectiveLimits:
        """What holds here, and who says so."""
        limits: EffectiveLimits = await self.call(self.client.limits, *arguments)
        return limits

    async def report(self, *arguments: Any, **options: Any) -> bool:
        """Say how a call went that had no lease."""
        new: bool = await self.call(self.client.report, *arguments, **options)
        return new

    async def health(self, provider: str, model: str) -> Health:
        """How calls of a model go."""
        health: Health = await self.call(self.client.health, provider, model)
        return health

    async def reaction(self, scope: str) -> Reaction:
        """What failures have done to a scope that is known."""
        found = (await self.status()).scope(scope)
        assert found is not None, f"{scope} is not known"
        return found.reaction

    async def in_flight(self, scope: str) -> int:
        """How many slots of a scope are in use; 0 where nobody knows of it."""
        found = (await self.status()).scope(scope)
        return found.in_flight if found is not None else 0

    async def used(self, scope: str, dimension: str) -> int:
        """How much of a rate counts now."""
        found = (await self.status()).scope(scope)
        assert found is not None, f"{scope} is not known"
        return next(rate.used for rate in found.rates if rate.dimension == dimension)

    async def waiting(self) -> int:
        """How many callers are parked, of all paths and processes."""
        return sum(queue.waiting for queue in (await self.status()).queues)

    async def until_waiting(self, count: int) -> None:
        """Return when exactly so many callers are parked."""

        async def parked() -> bool:
            return await self.waiting() == count

        await wait_until_async(parked, description=f"{count} callers are parked")

    async def until_subscribed(self, store: Any, count: int = 1) -> None:
        """Return when so many clients listen to messages: what was said before is lost on them."""
        channel = f"{self.client._rt.keyspace.inbox_prefix}everyone"

        async def listening() -> bool:
            return bool(store.pubsub_numsub(channel)[0][1] == count)

        await wait_until_async(listening, description=f"{count} clients listen")

    async def instances(self) -> list[Instance]:
        """The clients that are alive."""
        found: list[Instance] = await self.call(self.client.instances)
        return found

    async def reset(self, *arguments: Any, **options: Any) -> int:
        """Clear windows."""
        removed: int = await self.call(self.client.reset, *arguments, **options)
        return removed

    async def close(self) -> None:
        """Close the client."""
        await self.call(self.client.close)

    def stream(self, items: Iterable[Any], error: BaseException | None = None) -> Any:
        """Make a stream in the client's colour, such as an SDK returns."""
        return Stream(items, error) if self.is_sync else AsyncStream(items, error)


class Stream:
    """A stream for threads that yields items, then ends or raises; it notes that it was closed."""

    def __init__(self, items: Iterable[Any], error: BaseException | None = None) -> None:
        self._items = iter(items)
        self._error = error
        self.request_id = "req-1"
        self.closed = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        for item in self._items:
            return item
        raise self._error or StopIteration

    def close(self) -> None:
        """Note that the stream was closed."""
        self.closed = True


class AsyncStream:
    """As :class:`Stream`, for event loops."""

    def __init__(self, items: Iterable[Any], error: BaseException | None = None) -> None:
        self._items = iter(items)
        self._error = error
        self.request_id = "req-1"
        self.closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        await asyncio.sleep(0)
        for item in self._items:
            return item
        raise self._error or StopAsyncIteration

    async def aclose(self) -> None:
        """Note that the stream was closed."""
        self.closed = True
