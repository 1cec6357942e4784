"""
Batches for threads: what `target.map` returns.

Theory of operation. The caller's thread reads items, hands them to worker threads by one queue and takes what has ended
from another; both are made of C, so an interrupt finds them whole. At most `in_flight` items are read and not yet
yielded, which bounds items, results and threads at once. Reading stays in the caller's thread, since what is read may
belong to it (a cursor of a database), and nobody is left standing in a source that blocks.

Stopping is one word in the first queue: each worker that meets it passes it on and ends. Whoever waits for a lease is
told by its waiter; `_Wait` closes the gap between the two, so that nobody begins to wait after it was told.
"""

from __future__ import annotations

import inspect
import os
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sized
from contextvars import copy_context
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from .core.progress import BatchCount, Done, Progress
from .core.scripts import Ending
from .errors import ConfigError
from .shell import _count, work_for
from .store.waiter import Failable

if TYPE_CHECKING:
    from .target import Target

Item = TypeVar("Item")
Result = TypeVar("Result")

THREADS = 32
MOST_THREADS = 1024

# Items that are read for one that is yielded, until as many as may be are under way.
READ_AT_ONCE = 2


class Stopped(Exception):
    """The batch has ended: this item is given up."""


def check_items(items: object, kinds: str, *protocols: type) -> None:
    """Refuse what cannot be iterated, and a text, whose characters nobody means."""
    if isinstance(items, (str, bytes)) or not isinstance(items, (*protocols, Iterable)):
        raise ConfigError(f"items must be {kinds}, not {type(items).__name__}")


def length_of(items: object) -> int | None:
    """How many items there are, if they know it."""
    return len(items) if isinstance(items, Sized) else None


class _Wait:
    """What one worker may be waiting on, for whoever stops the batch."""

    __slots__ = ("_run", "_waiter")

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._waiter: Failable | None = None

    def entered(self, waiter: Failable) -> None:
        """Note it before the wait begins. Whoever stops sets the word first and looks here then."""
        self._waiter = waiter
        if self._run.stopped:
            waiter.fail(Stopped())

    def stop(self) -> None:
        waiter = self._waiter
        if waiter is not None:
            waiter.fail(Stopped())


class _Run:
    """What the caller's thread and the workers share. `ended` holds None where the batch was stopped."""

    def __init__(
        self, target: Target, fn: Callable[[Any], Any], total: int | None, threads: int, return_exceptions: bool
    ) -> None:
        self.count = BatchCount(total, time.monotonic())
        self.ended: SimpleQueue[Done[Any, Any] | None] = SimpleQueue()
        self.stopped = False
        self._target = target
        self._fn = fn
        self._return_exceptions = return_exceptions
        self._work: SimpleQueue[tuple[int, Any] | None] = SimpleQueue()
        self._most = threads
        self._waits: list[_Wait] = []
        self._idle = 0
        self._caller = 0
        self._lock = threading.Lock()
        self._context = copy_context()

    def start(self) -> None:
        """Start the first worker; from then on each one sees to it that another is free."""
        self.count = BatchCount(self.count.total, time.monotonic())
        self._context = copy_context()
        self._caller = threading.get_ident()
        self._grow()

    def put(self, index: int, item: Any) -> None:
        """Hand an item to whoever is free."""
        self._work.put((index, item))

    def stop(self) -> None:
        """End the workers' waiting for work, and the caller's for them. Interrupts and finalisers may come here."""
        self.stopped = True
        self._work.put(None)
        self.ended.put(None)

    def give_up(self) -> list[Ending]:
        """Stop, and end the workers' waiting for leases; each withdraws its own request. Not for finalisers."""
        self.stop()
        for wait in tuple(self._waits):
            wait.stop()
        return []

    def drop(self) -> None:
        """Stop from anywhere: waiters have locks, so the keeper tells them."""
        self.stop()
        self._target.drop_later(self)

    def fatal(self, error: BaseException | None) -> bool:
        """Whether an item's error ends the batch."""
        return error is not None and not (self._return_exceptions and isinstance(error, Exception))

    # ---- in the workers ----------------------------------------------------------------------------------------

    def _grow(self) -> None:
        """Start one more worker unless one is free."""
        with self._lock:
            if self._idle or len(self._waits) >= self._most:
                return
            self._idle += 1
            wait = _Wait(self)
            self._waits.append(wait)
            name = f"ratelease-batch-{len(self._waits)}"
        threading.Thread(target=self._worker, args=(wait,), name=name, daemon=True).start()

    def _worker(self, wait: _Wait) -> None:
        while (work := self._work.get()) is not None and not self.stopped:
            with self._lock:
                self._idle -= 1
            try:
                self._grow()
            except RuntimeError:
                # The system gives no more threads: those that there are do the work.
                self._most = 1
            # What one item leaves in context variables is not the next one's.
            self._context.copy().run(self._one, *work, wait)
            with self._lock:
                self._idle += 1
        self._work.put(None)

    def _one(self, index: int, item: Any, wait: _Wait) -> None:
        admitted, failed = False, None
        done: Done[Any, Any]

        def admit() -> None:
            nonlocal admitted
            if self.stopped:
                raise Stopped
            with self._lock:
                admitted = True
                self.count.admit()

        def again() -> None:
            nonlocal admitted
            with self._lock:
                admitted = False
                self.count.wait_again()

        with self._lock:
            self.count.begin()
        work_for(self._caller, threading.get_ident())
        try:
            done = Done(index, item, self._target.run(self._fn, (item,), {}, True, wait.entered, admit, again))
            failed = False
        except Stopped:
            return
        except BaseException as error:  # noqa: BLE001 - the caller gets it, whatever it is
            done, failed = Done(index, item, None, error), True
        finally:
            with self._lock:
                self.count.end(admitted, failed, time.monotonic())
        self.ended.put(done)
        if self.fatal(done.error):
            self.give_up()
        # An error holds this frame, which would hold the error.
        del done


class _Source:
    """The items: how many were read, whether there are more, and what reading them has raised."""

    def __init__(self, items: Iterable[Any]) -> None:
        self._iterator = iter(items)
        self.read = 0
        self.dry = False
        self.failure: Exception | None = None

    def hand_one(self, run: _Run) -> None:
        """Read one item and hand it to the workers."""
        try:
            item = next(self._iterator)
        except StopIteration:
            self.dry, run.count.total = True, self.read
        except Exception as error:  # noqa: BLE001 - raised when everything that was read has been yielded
            self.dry, self.failure = True, error
        else:
            run.put(self.read, item)
            self.read += 1


def _results(run: _Run, items: Iterable[Any], in_flight: int, ordered: bool) -> Generator[Done[Any, Any], None, None]:
    """Read, hand out, yield. Whatever ends this ends the workers."""
    ready: dict[int, Done[Any, Any]] = {}
    done: Done[Any, Any] | None = None
    yielded = 0
    try:
        source = _Source(items)
        run.start()
        while True:
            fresh = 0
            while not source.dry and not run.stopped and source.read - yielded < in_flight:
                if fresh >= READ_AT_ONCE and (yielded in ready or not run.ended.empty()):
                    break
                source.hand_one(run)
                fresh += 1
            if source.dry and yielded == source.read:
                break
            done = ready.pop(yielded, None) or run.ended.get()
            if done is None:
                return
            if done.error is not None and run.fatal(done.error):
                raise done.error
            if ordered and done.index != yielded:
                ready[done.index] = done
                continue
            yielded += 1
            yield done
        if source.failure is not None:
            raise source.failure
    finally:
        # An error that is raised here holds this frame, which would hold the error.
        done = None
        run.drop()


class Batch(Generic[Item, Result]):
    """
    What :meth:`ratelease.Target.map` returns: an iterator of Done, one for each item that has ended.

    A context manager as well: leaving it stops what has not ended. It has a length where its items have one.
    """

    def __init__(self, run: _Run, items: Iterable[Item], in_flight: int, ordered: bool) -> None:
        self._run = run
        self._pid = os.getpid()
        self._results = _results(run, items, in_flight, ordered)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Done[Item, Result]:
        if os.getpid() != self._pid:
            raise ConfigError("this batch was begun before the process was forked: its threads are the parent's")
        return next(self._results)

    def stats(self) -> Progress:
        """How far it is."""
        return self._run.count.progress(time.monotonic())

    def close(self) -> None:
        """Read no more, give up what waits. Calls under way end by themselves. Harmless when repeated."""
        self._run.give_up()
        if inspect.getgeneratorstate(self._results) != inspect.GEN_RUNNING:
            self._results.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        run = self.__dict__.get("_run")
        if run is not None and not run.stopped:
            run.drop()


class SizedBatch(Batch[Item, Result]):
    """A batch of items that know how many they are."""

    def __len__(self) -> int:
        """Items there are, ended or not."""
        return self._run.count.total or 0


def batch_of(
    target: Target,
    fn: Callable[[Item], Result],
    items: Iterable[Item],
    in_flight: int | None,
    ordered: bool,
    return_exceptions: bool,
) -> Batch[Item, Result]:
    """Make a batch; nothing is read before its first result is asked for."""
    check_items(items, "an iterable")
    most = THREADS if in_flight is None else _count(in_flight, "in_flight", 1, MOST_THREADS)
    total = length_of(items)
    run = _Run(target, fn, total, most, return_exceptions)
    return (Batch if total is None else SizedBatch)(run, items, most, ordered)
