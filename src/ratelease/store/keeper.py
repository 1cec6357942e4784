"""
The keeper: one daemon thread per client, with its own connections, in both colours of client.

Theory of operation. The thread runs an event loop of its own, so that neither a blocked loop of the user nor a busy
thread stops it. It does what nobody's call does:

    heart.py     heartbeats: renew every lease inside its local deadline, keep the instance listed, repeat the
                 requests that are parked (they are idempotent: what the store has lost is parked again)
    inbox.py     subscribe to the instance's channel
    handoff.py   claim what was granted, keep timers for the heads of queues, poll in case a message was lost, follow
                 the path that an answer names
    outage.py    what happens while the store is away
    usage_watch.py   poll what providers say they have in flight
    endings.py   releases that their caller could not make: cancelled, interrupted, dropped, store away

Callers reach it by methods that only note things and wake the loop; finalisers by a deque alone, since they may run
anywhere. A waiter is noted before its request is sent: a grant may be announced before the request is answered.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ..core import scripts
from ..core.keys import parse_path, scope_label
from ..core.progress import Stats, Tally
from ..core.reaction import Change, read_change
from ..core.scripts import Call, Ending
from ..errors import ConfigError, RateleaseError, StoreUnavailable
from .endings import Endings
from .engaged import engaged
from .gate import Gates, closed
from .handoff import Handoff
from .heart import Heart
from .inbox import Inbox
from .log import logger
from .runtime import new_id
from .usage_watch import UsageWatch
from .waiter import Failable, Waiter
from .wake import Wake
from .wire import AsyncWire

if TYPE_CHECKING:
    from ..core.model import Line, Request
    from .hold import Hold
    from .runtime import Runtime

CLOSE_TIMEOUT = 2.0

live_keepers: weakref.WeakSet[Keeper] = weakref.WeakSet()


class Dropped(Protocol):
    """Something whose owner was garbage-collected."""

    def give_up(self) -> list[Ending]:
        """What is to be sent for it."""


class Keeper:
    """The background of one client. Public methods may be called from any thread."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.config = runtime.config
        self.holds: dict[str, Hold] = {}
        self.waiters: dict[str, Waiter] = {}
        self.gates = Gates(self.config)
        self.dropped: deque[Dropped] = deque()
        self.naps: set[Failable] = set()
        self.tally = Tally(time.monotonic())
        self.lost_count = 0
        self.completed = 0
        self.busy_seconds = 0.0
        self.last_completed: float | None = None
        self._heart = Heart(self)
        self._handoff = Handoff(self)
        self._endings = Endings(self)
        self._listeners: dict[object, Callable[[Change], Any]] = {}
        self._watches: dict[str, UsageWatch] = {}
        self._parting: set[UsageWatch] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        # Re-entrant: a client that is collected stops its keeper, while this very thread may be in here.
        self._lock = threading.RLock()
        self._unclaimed = threading.Lock()
        self._begun = False
        self._started = Wake()
        self._closing = False
        self._leaving = False

    # ---- what callers say --------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread, if it does not run yet."""
        if self._begun:
            return
        with self._lock:
            if self._closing:
                return
            # A start that was interrupted may have left a thread, or none.
            if self._thread is None or not self._thread.is_alive():
                live_keepers.add(self)
                self._thread = threading.Thread(target=self._run, name="ratelease-keeper", daemon=True)
                self._thread.start()
        if self._started.wait(CLOSE_TIMEOUT):
            # For the other threads that wait here.
            self._started.set()

    def expect(self, request: Request, wake: Callable[[], None]) -> Waiter:
        """
        Note a caller that may be parked, before its request is sent.

        Raises:

            StoreUnavailable: The client was closed.
        """
        waiter = Waiter(request, wake)
        self.waiters[request.id] = waiter
        # Whoever comes too late for the keeper's last look would be told by nobody.
        if self._closing:
            self.forget(waiter)
            raise closed()
        return waiter

    def forget(self, waiter: Waiter) -> None:
        """Note that the caller no longer waits."""
        waiter.forget()
        self.waiters.pop(waiter.request.id, None)
        if waiter.request.waits:
            self.gates.leave(waiter.request)

    def rest(self, nap: Failable) -> None:
        """Note a caller that waits before it tries again: it is told when the client is closed."""
        self.naps.add(nap)
        if self._closing:
            nap.fail(closed())

    def restart(self, waiter: Waiter, *, granted: bool = False) -> None:
        """
        Withdraw what the store may know of a request, and go on with it under another id.

        `granted`: it was granted, and that is given back.
        """
        request = waiter.request
        old, endings = request.id, scripts.withdrawals(request)
        if granted:
            self.runtime.outage.forget(request)
        if not waiter.restart(new_id() + (".1" if request.n > 1 else ""), granted=granted):
            return
        self.waiters.pop(old, None)
        self.waiters[request.id] = waiter
        self.gates.renamed(request, old)
        # Its caller may have gone in between.
        if waiter.forgotten:
            self.forget(waiter)
        for ending in endings:
            self.end_later(ending)

    def send_soon(self, requests: Sequence[Request]) -> None:
        """Send requests that are noted and were kept back; from now on they are parked like others."""
        self._call(self._handoff.send, requests)

    def keep(self, hold: Hold) -> None:
        """Renew a lease from now on."""
        self.holds[hold.id] = hold
        self.tally.admit(hold.waited, hold.since)
        self.runtime.outage.note_lease(hold)
        if hold.flags and not self.runtime.outage.away:
            self._call(self._heart.renew_soon)
        if hold.deadline - time.monotonic() < self.runtime.heartbeat:
            self._call(self._heart.renew_soon)

    def unkeep(self, hold: Hold) -> bool:
        """Renew a lease no more; what it lasted goes into the instance's figures. False if that was done before."""
        if self.holds.pop(hold.id, None) is None:
            return False
        if self.runtime.outage.waits:
            self.advance_soon()
        self.completed += 1
        self.busy_seconds += time.monotonic() - hold.since
        self.last_completed = time.time()
        return True

    def waiting(self) -> int:
        """How many requests wait: at the gates, in the store's queues, for an answer."""
        return self.gates.waiting() + sum(waiter.answer is None for waiter in list(self.waiters.values()))

    def stats(self) -> Stats:
        """What the client has done so far."""
        return self.tally.stats(
            time.monotonic(),
            self.completed,
            in_flight=len(self.holds),
            waiting=self.waiting(),
            lost=self.lost_count,
            average_held=self.busy_seconds / self.completed if self.completed else None,
        )

    def lose(self, hold: Hold) -> None:
        """Count a lease that expired before its release, and tell its owner, once."""
        if not hold.lost:
            self.lost_count += 1
            self.runtime.lease_lost(hold)

    def end_later(self, ending: Ending) -> None:
        """Release by id in the background, again and again until the store has taken it or its TTL is over."""
        self._call(self._endings.add, ending)

    def settle_soon(self, hold: Hold) -> None:
        """Send what a lease has used, unless its release takes it along in a moment."""
        self._call(self._endings.settle_soon, hold)

    def withdraw(self, request: Request) -> None:
        """Give a request up, wherever it has got to: its caller was cancelled or interrupted."""
        for ending in self.take_back(request):
            self.end_later(ending)

    def take_back(self, request: Request) -> list[Ending]:
        """As :meth:`withdraw`, for one who sends the endings itself."""
        self.waiters.pop(request.id, None)
        self.gates.leave(request)
        self.runtime.outage.forget(request)
        holds = [hold for id in request.lease_ids if (hold := self.holds.get(id)) is not None]
        # Of an outage: the call that registers them may be under way.
        endings = [ending for hold in holds if (ending := hold.end(unsent=True)) is not None]
        return scripts.withdrawals(request) if request.lingers else endings

    def follow(self, path_name: str, hops: int) -> None:
        """Grant the path that an answer has named as the next in line, after so many hops."""
        self._call(self._handoff.hop, path_name, hops)

    def set_timer(self, line: Line, server_ms: int) -> None:
        """Grant this line at that moment."""
        self._call(self._handoff.arm, line, server_ms)

    def beat_faster(self) -> None:
        """Beat now and at the heartbeat that the namespace has agreed on, which is shorter than before."""
        self._call(self._heart.hurry)

    def suspect(self) -> None:
        """Beat now: a call got no answer."""
        self._call(self._heart.hurry)

    def advance_soon(self) -> None:
        """Grant what has become free of this process' share."""
        self._call(self.runtime.outage.advance)

    def store_lost(self) -> None:
        """Register again what is held and what waits, now: the store's epoch is another."""
        self._call(self._heart.beat_soon)

    def stop(self) -> None:
        """Give back what is held, leave the list of instances, end the thread; without waiting for it."""
        with self._lock:
            closing, self._closing = self._closing, True
        thread, loop = self._thread, self._loop
        if not closing and thread is not None and loop is not None and thread.is_alive():
            loop.call_soon_threadsafe(self._stop.set)

    def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Stop, and wait until it is done. Harmless when repeated."""
        self.stop()
        thread = self._thread
        if thread is not None and thread.is_alive() and not self.here:
            thread.join(timeout)

    @property
    def closing(self) -> bool:
        """Whether the client was closed: what begins now is for its caller to end."""
        return self._closing

    @property
    def here(self) -> bool:
        """Whether it is the keeper's own thread that asks."""
        return threading.current_thread() is self._thread

    def listen(self, callback: Callable[[Change], Any]) -> Callable[[], None]:
        """Tell of every changed limit from now on; the function returned ends it."""
        self.start()
        # The same function may be given twice, and each time has an end of its own.
        key = object()
        self._listeners[key] = callback

        def end() -> None:
            self._listeners.pop(key, None)

        return end

    def watch(self, watch: UsageWatch) -> Callable[[], None]:
        """Poll a provider's usage from now on; the function returned ends it."""
        with self._lock:
            if watch.scope in self._watches:
                raise ConfigError(f"the usage of {scope_label(watch.scope)} is watched already: end that watch first")
            self._watches[watch.scope] = watch
        self._call(self._begin, watch)

        def end() -> None:
            with self._lock:
                if self._watches.get(watch.scope) is not watch:
                    return
                del self._watches[watch.scope]
                # Until it is left: a client that is closed right after has to leave it as well.
                self._parting.add(watch)
            self._call(self._part, watch)

        return end

    def _begin(self, watch: UsageWatch) -> None:
        if not self._leaving:
            watch.start()

    def _part(self, watch: UsageWatch) -> None:
        if not self._leaving:
            self.spawn(self._parted(watch))

    async def _parted(self, watch: UsageWatch) -> None:
        await watch.leave()
        self._parting.discard(watch)

    def kick(self, path_name: str) -> None:
        """Poll the usage of a path's provider: somebody waits for it."""
        path = parse_path(path_name)
        for scope in path.scopes if path is not None else ():
            watch = self._watches.get(scope)
            if watch is not None:
                watch.kick()

    def _subscribed(self) -> None:
        # What was said before is lost. A poll finds grants alone, and not that somebody waits in vain.
        self.spawn(self.repeat_parked())

    def _hear(self, message: str) -> None:
        """Take in what a script has told every instance."""
        change = read_change(message)
        if change is None:
            return
        level = logging.INFO if change.after < change.before else logging.DEBUG
        logger.log(
            level, "the limit of %a is %d, it was %d: %s", change.scope, change.after, change.before, change.reason
        )
        for callback in tuple(self._listeners.values()):
            try:
                callback(change)
            except BaseException:  # noqa: BLE001 - the user's code must not end ours: SystemExit would
                logger.exception("on_change raised")

    # ---- what its parts use, in the thread -----------------------------------------------------------------------

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something beside the rest, unless the end has come; its errors are told, and end nothing else."""
        assert self._loop is not None
        if self._leaving:
            work.close()
            return
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, StoreUnavailable):
            if error.away and not self._closing:
                self.runtime.outage.missed(error)
                self._heart.hurry()
            logger.debug("left to the next heartbeat or poll: %s", error)
        elif error is not None:
            logger.error("the keeper met an error", exc_info=error)

    def collect_dropped(self) -> None:
        """Release what was garbage-collected."""
        self._endings.collect_dropped()

    async def repeat_parked(self) -> None:
        """Send every parked request again."""
        await self._handoff.repeat_parked()

    async def run_script(self, call: Call) -> Any:
        """Run a script on the keeper's own connections."""
        return await self._wire.run(call, time.monotonic() + self.config.store_timeout)

    # ---- the thread ----------------------------------------------------------------------------------------------

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        self.start()
        loop = self._loop
        if loop is None:
            return
        try:
            loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            logger.debug("the keeper has stopped; %s is not done", function.__qualname__)

    def _run(self) -> None:
        # An interrupted start may have left more threads than one: the first that gets here is the keeper.
        if not self._unclaimed.acquire(blocking=False):
            return
        with self._lock:
            self._thread = threading.current_thread()
        try:
            # Whatever else runs in this thread, a finaliser or a callback of the user's, must not stop it.
            with engaged(), asyncio.Runner() as runner:
                runner.run(self._main())
        except Exception:  # noqa: BLE001 - the end of a thread, told once
            logger.exception("the keeper stopped: leases of this client are no longer renewed")
        finally:
            self._mark_begun()

    def _mark_begun(self) -> None:
        self._begun = True
        self._started.set()

    async def _main(self) -> None:
        self._stop = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        if self._closing:
            # Whoever closed the client has seen no loop yet.
            self._stop.set()
        self._wire = AsyncWire(self.runtime.endpoint, self.config, self.runtime.outage.hopeful)
        inbox = Inbox(self.runtime, self._handoff.message, self._hear, self._subscribed)
        self._mark_begun()
        for work in (self._heart.beats, self._handoff.polls, inbox.listen):
            self.spawn(work())
        await self._stop.wait()
        # From here on nothing begins that nobody would end.
        self._leaving = True
        try:
            self._handoff.stop()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        finally:
            self._endings.stop()
            try:
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await self._leave()
            except (RateleaseError, TimeoutError) as error:
                logger.debug("leaving was not complete: %s", error)
            await inbox.close()
            await self._wire.close()

    async def _leave(self) -> None:
        """Give back everything, and leave the list of instances."""
        self.gates.close()
        for nap in tuple(self.naps):
            nap.fail(closed())
        # Whoever is told removes its waiter itself, at once.
        waiters = list(self.waiters.values())
        for waiter in waiters:
            waiter.fail(closed())
        self._endings.collect_dropped()
        for hold in list(self.holds.values()):
            ending = hold.end()
            if ending is not None:
                self._endings.add(ending)
        for waiter in waiters:
            for ending in scripts.withdrawals(waiter.request):
                self._endings.add(ending)
        await self._endings.flush()
        # Each at once, and as far as it gets: others are elected soon in any case.
        with self._lock:
            watches = {*self._watches.values(), *self._parting}
        await asyncio.gather(*(watch.leave() for watch in watches), return_exceptions=True)
        session, keyspace = self.runtime.session, self.runtime.keyspace
        await self.run_script(scripts.beat(session, keyspace, b"", leave=True))


@atexit.register
def _close_live_keepers() -> None:
    """At the interpreter's end: give everything back, rather than leave it to the TTL."""
    keepers = list(live_keepers)
    for keeper in keepers:
        keeper.stop()
    for keeper in keepers:
        keeper.close(CLOSE_TIMEOUT / 2)
