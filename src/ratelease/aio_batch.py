"""
Batches for event loops: what `target.map` of an asynchronous target returns.

One task reads the items; it takes a place for each, and the place is free again when the item's Done is yielded. So at
most `in_flight` items are read and not yet yielded, each of them in a task of its own while it waits and runs: what an
item leaves in its context, or does to its task, is not the next one's.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable
from contextvars import copy_context
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from .batch import check_items, length_of
from .core.progress import BatchCount, Done, Progress
from .errors import ConfigError
from .shell import _count, work_for

if TYPE_CHECKING:
    from .aio_target import AsyncTarget

Item = TypeVar("Item")
Result = TypeVar("Result")

TASKS = 256
MOST_TASKS = 10_000

_NO_MORE: Any = object()


@dataclass(frozen=True, slots=True)
class _End:
    """The last of the items was read, or reading them has failed."""

    read: int
    failure: BaseException | None


class _Run:
    """What the consumer and the tasks share. `ended` holds None where the batch was stopped."""

    def __init__(
        self,
        target: AsyncTarget,
        fn: Callable[[Any], Awaitable[Any]],
        items: Iterable[Any] | AsyncIterable[Any],
        in_flight: int,
        return_exceptions: bool,
    ) -> None:
        self.count = BatchCount(length_of(items), time.monotonic())
        self.stopped = False
        self._target = target
        self._fn = fn
        self._items = items
        self._in_flight = in_flight
        self._return_exceptions = return_exceptions
        self._started = False
        self._caller = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin to read."""
        self._started = True
        self.count = BatchCount(self.count.total, time.monotonic())
        self.room = asyncio.Semaphore(self._in_flight)
        self.ended: asyncio.Queue[Done[Any, Any] | _End | None] = asyncio.Queue()
        self._context = copy_context()
        self._caller = id(asyncio.current_task())
        self._spawn(self._read())

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work, context=self._context.copy())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def stop(self) -> None:
        """Cancel everything that runs, once: a second time would cut off its releasing. In the loop only."""
        if self.stopped:
            return
        self.stopped = True
        for task in tuple(self._tasks):
            if task is not asyncio.current_task():
                task.cancel()

    async def close(self) -> None:
        """Stop, and end the consumer's waiting."""
        if not self._started:
            return
        self.stop()
        self.ended.put_nowait(None)
        if not self.inside():
            await self.ending()

    def inside(self) -> bool:
        """Whether this is one of the batch's own tasks: it cannot wait for all of them."""
        return asyncio.current_task() in self._tasks

    async def ending(self) -> None:
        """Wait until what was cancelled has ended, its leases released."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    def fatal(self, error: BaseException | None) -> bool:
        """Whether an item's error ends the batch."""
        lesser = isinstance(error, (Exception, asyncio.CancelledError))
        return error is not None and not (self._return_exceptions and lesser)

    # ---- in the tasks ------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        read = 0
        failure: BaseException | None = None
        try:
            take = self._taker()
            while True:
                await self.room.acquire()
                item = await take()
                if item is _NO_MORE:
                    self.count.total = read
                    break
                if self.stopped:
                    # Cancelled, but nothing has waited since.
                    break
                self._spawn(self._one(read, item))
                read += 1
        except Exception as error:  # noqa: BLE001 - raised when everything that was read has been yielded
            failure = error
        except BaseException as error:
            failure = error
            raise
        finally:
            self.ended.put_nowait(_End(read, failure))

    def _taker(self) -> Callable[[], Awaitable[Any]]:
        """What takes the next item, however the items are iterated."""
        if isinstance(self._items, AsyncIterable):
            asynchronous = aiter(self._items)

            async def take_awaiting() -> Any:
                return await anext(asynchronous, _NO_MORE)

            return take_awaiting
        iterator = iter(self._items)

        async def take() -> Any:
            # A source that computes must not keep the loop for as many items as there are places.
            await asyncio.sleep(0)
            return next(iterator, _NO_MORE)

        return take

    async def _one(self, index: int, item: Any) -> None:
        admitted, failed = False, None
        done: Done[Any, Any] = Done(index, item)

        def admit() -> None:
            nonlocal admitted
            admitted = True
            self.count.admit()

        def again() -> None:
            nonlocal admitted
            admitted = False
            self.count.wait_again()

        self.count.begin()
        work_for(self._caller, id(asyncio.current_task()))
        try:
            done = Done(index, item, await self._target.run(self._fn, (item,), {}, True, admit, again))
            failed = False
        except BaseException as error:
            done, failed = Done(index, item, None, error), True
            # An item that cancels itself has failed; one that was cancelled by the batch is given up.
            if self.stopped and isinstance(error, asyncio.CancelledError):
                failed = None
            if not isinstance(error, Exception):
                raise
        finally:
            self.count.end(admitted, failed, time.monotonic())
            if failed is not None:
                self.ended.put_nowait(done)
                if self.fatal(done.error):
                    self.stop()
            # An error holds this frame, which would hold the error.
            del done


async def _results(run: _Run, ordered: bool) -> AsyncGenerator[Done[Any, Any], None]:
    """Start, yield. Whatever ends this ends the tasks."""
    ready: dict[int, Done[Any, Any]] = {}
    yielded, end = 0, None
    done: Done[Any, Any] | _End | None = None
    try:
        run.start()
        while end is None or yielded < end.read:
            done = ready.pop(yielded, None) or await run.ended.get()
            if done is None:
                return
            if isinstance(done, _End):
                end = done
                continue
            if done.error is not None and run.fatal(done.error):
                raise done.error
            if ordered and done.index != yielded:
                ready[done.index] = done
                continue
            yielded += 1
            run.room.release()
            yield done
        if end.failure is not None:
            raise end.failure
    finally:
        # An error that is raised here holds this frame, which would hold the error.
        done = end = None
        run.stop()
        await run.ending()


class AsyncBatch(Generic[Item, Result]):
    """
    What :meth:`ratelease.AsyncTarget.map` returns: an asynchronous iterator of Done, one for each item that has ended.

    An asynchronous context manager as well: leaving it cancels what has not ended, and waits for its leases to be
    released. It has a length where its items have one.
    """

    def __init__(self, run: _Run, ordered: bool) -> None:
        self._run = run
        self._pid = os.getpid()
        self._results: Any = _results(run, ordered)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Done[Item, Result]:
        if os.getpid() != self._pid:
            raise ConfigError("this batch was begun before the process was forked: its tasks are the parent's")
        return await anext(self._results)

    def stats(self) -> Progress:
        """How far it is."""
        return self._run.count.progress(time.monotonic())

    async def aclose(self) -> None:
        """
        Read no more, cancel what waits and runs, and wait until it has ended. Harmless when repeated.

        Called by the batch's own function it does not wait: whoever reads the batch does.
        """
        await self._run.close()
        # Another task that waits in the loop ends there, and so does the reader of a batch that is closed from inside.
        if not self._results.ag_running and not self._run.inside():
            await self._results.aclose()

    async def close(self) -> None:
        """The same as :meth:`aclose`."""
        await self.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class SizedAsyncBatch(AsyncBatch[Item, Result]):
    """A batch of items that know how many they are."""

    def __len__(self) -> int:
        """Items there are, ended or not."""
        return self._run.count.total or 0


def batch_of(
    target: AsyncTarget,
    fn: Callable[[Item], Awaitable[Result]],
    items: Iterable[Item] | AsyncIterable[Item],
    in_flight: int | None,
    ordered: bool,
    return_exceptions: bool,
) -> AsyncBatch[Item, Result]:
    """Make a batch; nothing is read before its first result is asked for."""
    check_items(items, "an iterable or an asynchronous iterable", AsyncIterable)
    most = TASKS if in_flight is None else _count(in_flight, "in_flight", 1, MOST_TASKS)
    run = _Run(target, fn, items, most, return_exceptions)
    return (AsyncBatch if run.count.total is None else SizedAsyncBatch)(run, ordered)
