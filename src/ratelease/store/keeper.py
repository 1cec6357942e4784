"""
The keeper: one daemon thread per client, with its own connections, in both colours of client.

Theory of operation. The thread runs an event loop of its own, so that neither a blocked loop of the user nor a busy
thread stops it. It does what nobody's call does:

    heartbeats   renew every lease inside its local deadline, keep the instance listed, and repeat the requests that
                 are parked (they are idempotent: what the store has lost is parked again)
    inbox        subscribe to the instance's channel; "+id" is a grant to claim, "-id" one that can never be, "@ms" a
                 timer to keep for the head of a queue
    claims       the same acquire with the same id; the lease's time counts from sending the claim
    timers       one per path: at the moment that time frees capacity for the head, `grant`
    polls        every poll interval, one `grant` per path with waiters, in case a message was lost
    hops         an answer that names another path: `grant` it
    endings      releases that their caller could not make: cancelled, interrupted, dropped, store away. They are
                 repeated until the lease would have expired by itself

Callers reach it by methods that only note things and wake the loop; finalisers by a deque alone, since they may run
anywhere. A waiter is noted before its request is sent: a grant may be announced before the request is answered.
"""

from __future__ import annotations

import asyncio
import atexit
import random
import threading
import time
import weakref
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ..core import scripts
from ..core.instances import encode_profile
from ..core.keys import parse_path
from ..core.model import Line, Verdict
from ..core.scripts import Ending
from ..errors import RateleaseError, StoreUnavailable
from .inbox import Inbox
from .log import logger
from .waiter import Waiter
from .wire import AsyncWire

if TYPE_CHECKING:
    from ..core.model import Request
    from .hold import Hold
    from .runtime import Runtime

RENEWED_AT_ONCE = 500
CLAIMED_AT_ONCE = 128
LONGEST_HOP_CHAIN = 64
CLOSE_TIMEOUT = 2.0

live_keepers: weakref.WeakSet[Keeper] = weakref.WeakSet()


class Keeper:
    """The background of one client. Public methods may be called from any thread."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._config = runtime.config
        self.holds: dict[str, Hold] = {}
        self.waiters: dict[str, Waiter] = {}
        self.dropped: deque[Hold] = deque()
        self.lost_count = 0
        self.completed = 0
        self.busy_seconds = 0.0
        self.last_completed: float | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._started = threading.Event()
        self._closing = False
        self._reset_loop_state()

    def _reset_loop_state(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._claims: dict[str, set[str]] = defaultdict(set)
        self._claiming: set[str] = set()
        self._granting: set[str] = set()
        self._grant_again: set[str] = set()
        self._endings: deque[tuple[Ending, float]] = deque()
        self._ending = False
        self._hops = 0

    # ---- what callers say --------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread, if it does not run yet."""
        if self._thread is not None:
            return
        with self._lock:
            if self._thread is None and not self._closing:
                thread = threading.Thread(target=self._run, name="ratelease-keeper", daemon=True)
                thread.start()
                self._thread = thread
                live_keepers.add(self)
        self._started.wait(CLOSE_TIMEOUT)

    def expect(self, request: Request, wake: Callable[[], None]) -> Waiter:
        """Note a caller that may be parked, before its request is sent."""
        waiter = Waiter(request, wake)
        self.waiters[request.id] = waiter
        return waiter

    def forget(self, waiter: Waiter) -> None:
        """The caller no longer waits."""
        self.waiters.pop(waiter.request.id, None)

    def keep(self, hold: Hold) -> None:
        """Renew a lease from now on."""
        self.holds[hold.id] = hold
        if hold.deadline - time.monotonic() < self._config.heartbeat:
            self._call(self._spawn_now, self._renew_all)

    def unkeep(self, hold: Hold) -> None:
        """The lease has ended; what it lasted goes into the instance's figures."""
        self.holds.pop(hold.id, None)
        self.completed += 1
        self.busy_seconds += time.monotonic() - hold.since
        self.last_completed = time.time()

    def end_later(self, ending: Ending) -> None:
        """Release by id in the background, again and again until the store has taken it or its TTL is over."""
        until = time.monotonic() + 2 * self._config.lease_ttl
        self._call(self._add_ending, ending, until)

    def follow(self, path_name: str) -> None:
        """An answer has named the path that is next in line."""
        self._call(self._hop, path_name)

    def set_timer(self, line: Line, server_ms: int) -> None:
        """Grant this line at that moment."""
        self._call(self._arm, line, server_ms)

    def store_lost(self) -> None:
        """The store's epoch is another: register again what is held and what waits, now."""
        self._call(self._spawn_now, self._heartbeat)

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
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    # ---- the thread --------------------------------------------------------------------------------------------

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        self.start()
        loop = self._loop
        if loop is None:
            return
        try:
            loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            logger.debug("the keeper has stopped; %s is not done", function.__name__)

    def _run(self) -> None:
        try:
            with asyncio.Runner() as runner:
                runner.run(self._main())
        except Exception:  # noqa: BLE001 - the end of a thread, told once
            logger.exception("the keeper stopped: leases of this client are no longer renewed")
        finally:
            self._started.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._wire = AsyncWire(self._runtime.endpoint, self._config)
        self._inbox = Inbox(self._runtime, self._message, self._poll_all)
        self._started.set()
        for work in (self._heartbeats, self._polls, self._inbox.listen):
            self._spawn(work())
        await self._stop.wait()
        for handle in self._timers.values():
            handle.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._leave()
        except (RateleaseError, TimeoutError) as error:
            logger.debug("leaving was not complete: %s", error)
        await self._inbox.close()
        await self._wire.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        assert self._loop is not None
        task = self._loop.create_task(self._guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _spawn_now(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._spawn(work())

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except RateleaseError as error:
            logger.warning("%s", error)
        except Exception:  # noqa: BLE001 - one task's error must not end the others
            logger.exception("the keeper met an error")

    async def _run_script(self, call: scripts.Call) -> Any:
        return await self._wire.run(call, time.monotonic() + self._config.store_timeout)

    # ---- heartbeats --------------------------------------------------------------------------------------------

    async def _heartbeats(self) -> None:
        while True:
            pause = self._config.heartbeat * random.uniform(0.9, 1.0)
            try:
                await self._heartbeat()
            except RateleaseError as error:
                logger.warning("heartbeat: %s", error)
                pause = min(pause, max(self._config.heartbeat / 5, 0.05))
            await asyncio.sleep(pause)

    async def _heartbeat(self) -> None:
        await self._renew_all()
        runtime = self._runtime
        profile = encode_profile(runtime.profile())
        reply = await self._run_script(scripts.beat(runtime.session, runtime.keyspace, profile))
        runtime.note(None, scripts.header(reply))
        await self._repeat_parked()

    async def _renew_all(self) -> None:
        now = time.monotonic()
        groups: dict[tuple[str, str], list[Hold]] = defaultdict(list)
        for hold in list(self.holds.values()):
            if hold.ended or hold.lost or self._forgotten(hold, now):
                continue
            if hold.deadline <= now:
                self._lose(hold)
                continue
            groups[hold.line.path.name, hold.epoch].append(hold)
        for (_, epoch), holds in groups.items():
            for at in range(0, len(holds), RENEWED_AT_ONCE):
                await self._renew(holds[at : at + RENEWED_AT_ONCE], epoch)

    def _forgotten(self, hold: Hold, now: float) -> bool:
        if hold.stream_since is not None and now - hold.stream_since > self._config.stream_idle:
            hold.stream_since = None
            logger.warning(
                "a stream of %a has been idle for %.0f s and holds a slot (acquired at %s)",
                hold.line.path.name,
                self._config.stream_idle,
                hold.place,
            )
        if now - hold.since < self._config.max_hold:
            return False
        if not hold.forgotten:
            hold.forgotten = True
            logger.warning(
                "lease %s of %a has been held for %.0f s and is no longer renewed: was it forgotten? Acquired at %s",
                hold.id,
                hold.line.path.name,
                now - hold.since,
                hold.place,
            )
        if hold.deadline <= now:
            self._lose(hold)
        return True

    async def _renew(self, holds: Sequence[Hold], epoch: str) -> None:
        runtime = self._runtime
        sent = time.monotonic()
        call = scripts.renew(runtime.session, runtime.keyspace, holds[0].line, (hold.held() for hold in holds), epoch)
        header, lost = scripts.ids_after_header(await self._run_script(call))
        runtime.note(None, header)
        gone = set(lost)
        for hold in holds:
            if hold.id in gone:
                self._lose(hold)
            else:
                hold.deadline, hold.epoch = sent + header.ttl / 1000, header.epoch

    def _lose(self, hold: Hold) -> None:
        if not hold.ended:
            self.late_release(hold)

    def late_release(self, hold: Hold) -> None:
        """The lease expired before its release: count it and tell its owner, once."""
        if not hold.lost:
            self.lost_count += 1
            self._runtime.lease_lost(hold)

    async def _repeat_parked(self) -> None:
        for line, ids in self._parked().items():
            for at in range(0, len(ids), CLAIMED_AT_ONCE):
                await self._claim(line, ids[at : at + CLAIMED_AT_ONCE])

    def _parked(self) -> dict[Line, list[str]]:
        parked: dict[Line, list[str]] = defaultdict(list)
        for waiter in list(self.waiters.values()):
            if waiter.request.sent and waiter.answer is None:
                parked[waiter.request.line].append(waiter.request.id)
        return parked

    # ---- claims ------------------------------------------------------------------------------------------------

    def _message(self, path_name: str, words: Iterable[str]) -> None:
        """One message of the inbox. Ids that nobody here waits for are being withdrawn by who gave up."""
        for word in words:
            kind, rest = word[:1], word[1:]
            if kind == "@":
                line = self._own_line(path_name)
                if line is not None and rest.isdigit():
                    self._arm(line, int(rest))
            elif kind in "+-" and rest in self.waiters:
                self._claim_soon(self.waiters[rest].request.line, (rest,))

    def _own_line(self, path_name: str) -> Line | None:
        for waiter in list(self.waiters.values()):
            if waiter.request.line.path.name == path_name:
                return waiter.request.line
        return None

    def _claim_soon(self, line: Line, ids: Iterable[str]) -> None:
        name = line.path.name
        self._claims[name].update(ids)
        if name not in self._claiming:
            self._claiming.add(name)
            self._spawn(self._claim_all(line))

    async def _claim_all(self, line: Line) -> None:
        name = line.path.name
        try:
            while self._claims[name]:
                ids = [self._claims[name].pop() for _ in range(min(len(self._claims[name]), CLAIMED_AT_ONCE))]
                await self._claim(line, ids)
        finally:
            self._claiming.discard(name)
            self._claims.pop(name, None)

    async def _claim(self, line: Line, ids: Sequence[str]) -> None:
        """Send these parked requests again: claims what was granted, leaves the rest parked."""
        waiters = [waiter for waiter in map(self.waiters.get, ids) if waiter is not None and waiter.answer is None]
        if not waiters:
            return
        runtime, requests = self._runtime, [waiter.request for waiter in waiters]
        sent = time.monotonic()
        call = scripts.acquire(runtime.session, runtime.keyspace, requests, sent)
        for request in requests:
            request.sent += 1
        answers = scripts.acquire_answers(await self._run_script(call), sent)
        for waiter, answer in zip(waiters, answers, strict=True):
            waiter.request.answered += 1
            # A caller that has gone meanwhile withdraws the id itself, with a tombstone.
            if answer.status is not Verdict.PARKED:
                waiter.resolve(answer)
        runtime.note(line, answers[0].header)

    # ---- polls, timers, hops -----------------------------------------------------------------------------------

    async def _polls(self) -> None:
        while True:
            await asyncio.sleep(self._config.poll * random.uniform(0.8, 1.2))
            self._end_dropped()
            self._poll_all()

    def _poll_all(self) -> None:
        for line in self._parked():
            self._grant_soon(line)

    def _arm(self, line: Line, server_ms: int) -> None:
        """Keep one timer a path, the earliest that was asked for and has not passed."""
        assert self._loop is not None
        name = line.path.name
        when = self._loop.time() + max(self._runtime.until(server_ms), 0.001)
        pending = self._timers.get(name)
        if pending is not None and not pending.cancelled() and self._loop.time() < pending.when() <= when:
            return
        if pending is not None:
            pending.cancel()
        self._timers[name] = self._loop.call_at(when, self._timer_due, line)

    def _timer_due(self, line: Line) -> None:
        self._timers.pop(line.path.name, None)
        self._grant_soon(line)

    def _hop(self, path_name: str) -> None:
        self._hops += 1
        path = parse_path(path_name)
        if path is None or self._hops > LONGEST_HOP_CHAIN:
            logger.debug("hop to %a is not followed", path_name)
            return
        self._grant_soon(self._own_line(path_name) or scripts.foreign_line(self._runtime.keyspace, path))

    def _grant_soon(self, line: Line) -> None:
        """Grant a path; asked for while one is on its way, it is done once more behind it."""
        name = line.path.name
        if name in self._granting:
            self._grant_again.add(name)
            return
        self._granting.add(name)
        self._spawn(self._grant(line))

    async def _grant(self, line: Line) -> None:
        name, runtime = line.path.name, self._runtime
        try:
            while True:
                self._grant_again.discard(name)
                call = scripts.grant(runtime.session, runtime.keyspace, line)
                header, unclaimed = scripts.ids_after_header(await self._run_script(call))
                ours = [id for id in unclaimed if id in self.waiters]
                if ours:
                    self._claim_soon(self.waiters[ours[0]].request.line, ours)
                if not header.following:
                    self._hops = 0
                runtime.note(line, header)
                if name not in self._grant_again:
                    return
        finally:
            self._granting.discard(name)

    # ---- endings -----------------------------------------------------------------------------------------------

    def _add_ending(self, ending: Ending, until: float) -> None:
        self._endings.append((ending, until))
        if not self._ending:
            self._ending = True
            self._spawn(self._end_all())

    def _end_dropped(self) -> None:
        """Release the leases whose owners were garbage-collected."""
        while self.dropped:
            hold = self.dropped.popleft()
            if not hold.ended:
                hold.ended = True
                self.unkeep(hold)
                logger.warning("a lease was dropped without release; it is released now. Acquired at %s", hold.place)
                self._add_ending(hold.ending(), time.monotonic() + 2 * self._config.lease_ttl)

    async def _end_all(self) -> None:
        pause = 0.05
        try:
            while self._endings:
                now = time.monotonic()
                batch = [self._endings.popleft() for _ in range(min(len(self._endings), CLAIMED_AT_ONCE))]
                batch = [(ending, until) for ending, until in batch if until > now]
                try:
                    await self._end_batch([ending for ending, _ in batch])
                    pause = 0.05
                except StoreUnavailable as error:
                    logger.debug("releases wait for the store: %s", error)
                    self._endings.extend(batch)
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, 1.0)
        finally:
            self._ending = False

    async def _end_batch(self, endings: Sequence[Ending]) -> None:
        runtime = self._runtime
        by_line: dict[Line, list[Ending]] = defaultdict(list)
        for ending in endings:
            by_line[ending.line].append(ending)
        for line, group in by_line.items():
            call = scripts.release(runtime.session, runtime.keyspace, group)
            header, _ = scripts.release_answers(await self._run_script(call))
            runtime.note(line, header)

    async def _leave(self) -> None:
        """Give back everything, and leave the list."""
        for waiter in list(self.waiters.values()):
            waiter.fail(StoreUnavailable("the client was closed while this caller waited"))
        self._end_dropped()
        endings = [ending for ending, _ in self._endings]
        for hold in list(self.holds.values()):
            if not hold.ended:
                hold.ended = True
                endings.append(hold.ending())
        endings += [
            Ending(waiter.request.line, waiter.request.id, unsent=True, may_land=True)
            for waiter in list(self.waiters.values())
        ]
        for at in range(0, len(endings), CLAIMED_AT_ONCE):
            await self._end_batch(endings[at : at + CLAIMED_AT_ONCE])
        runtime = self._runtime
        await self._run_script(scripts.beat(runtime.session, runtime.keyspace, b"", leave=True))


@atexit.register
def _close_live_keepers() -> None:
    """At the interpreter's end: give everything back, rather than leave it to the TTL."""
    keepers = list(live_keepers)
    for keeper in keepers:
        keeper.stop()
    for keeper in keepers:
        keeper.close(CLOSE_TIMEOUT / 2)
