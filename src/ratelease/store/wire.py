"""
One script call to the store, in both colours: a connection of our own pool, attempts, and time.

Every script is safe to repeat, so an attempt whose reply is lost is made again until the deadline. The caller learns
how often the call may have reached the store: an id that was sent twice leaves a tombstone when it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import nullcontext
from typing import Any

from ..config import Config
from ..core.scripts import Call
from ..errors import StoreUnavailable
from .endpoint import Endpoint
from .engaged import engaged
from .faults import Cure, cure, has_not_run, is_wrong_type, redirect, replied, translate, without_frames, wrong_type
from .lua_source import script
from .nodes import Node
from .wake import Room

CONNECTIONS = 64
FIRST_PAUSE = 0.01
LONGEST_PAUSE = 0.2

# Goes before what a node of a cluster is to do for a slot that is about to become its own.
ASKING = ("ASKING",)


def crowded(label: str) -> StoreUnavailable:
    """The error for a call that found no connection free: this process asks too much, the store is not away."""
    return StoreUnavailable(
        f"no connection to the store at {label} became free in time: too many calls of this process wait for an "
        "answer at once"
    )


def _command(call: Call, load: bool) -> tuple[Any, ...]:
    source = script(call.script)
    name, body = ("EVAL", source.text) if load else ("EVALSHA", source.sha)
    # Texts alone: hiredis packs a number by its repr, and a signal's exception in there crashes the interpreter.
    words = (each if isinstance(each, (bytes, str)) else str(each) for each in call.arguments)
    return (name, body, str(len(call.keys)), *call.keys, *words)


class _Attempts:
    """How often a call was sent, what the next attempt must do, and when there is no next one."""

    def __init__(self, config: Config, deadline: float, hopeful: Callable[[], bool], *, clustered: bool) -> None:
        now = time.monotonic()
        self._hopeful = hopeful
        self._hopeless_from = now + config.attempt_timeout
        self._begun = False
        self.load = False
        self.has_run = True
        self.reconnects = False
        self.node: Node | None = None
        self._clustered = clustered
        self._redirected = False
        self._attempt = config.attempt_timeout
        self._pause = FIRST_PAUSE
        self.deadline = min(deadline, now + config.store_timeout)

    def place_left(self) -> float:
        """Seconds that it may wait for a connection. Its attempts' time begins only when it has one."""
        return max(self.deadline - time.monotonic(), 0.0)

    def begin(self, sent: Callable[[], None]) -> float:
        """Note an attempt; until when it may take. Longer ones after short ones failed."""
        now = time.monotonic()
        if now >= self.deadline and self._begun:
            raise TimeoutError("no time left")
        if now >= self.deadline:
            raise StoreUnavailable("the caller's time was over before the store could be asked")
        self._begun = True
        if self.has_run:
            sent()
        return min(self.deadline, now + self._attempt)

    def pause(self, error: BaseException) -> float | None:
        """Seconds to wait before the next attempt, None if there must be none."""
        remedy = cure(error)
        self.reconnects = remedy is Cure.RECONNECT
        # An attempt that was told so takes no part in what may have run: the next one takes its place.
        self.has_run = not has_not_run(error)
        other = redirect(error)
        self.node = other.node if other is not None and other.once else None
        if remedy is Cure.LOAD and not self.load:
            self.load = True
            return 0.0
        if remedy in (Cure.NONE, Cure.LOAD) or (remedy is Cure.REDIRECT and not self._clustered):
            return None
        if remedy is Cure.REDIRECT and not self._redirected:
            # The first one is followed at once; nodes that point at each other are agreeing on a new owner.
            self._redirected = True
            return 0.0
        self._attempt *= 2
        pause, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE)
        until = self.deadline if self._hopeful() else min(self.deadline, self._hopeless_from)
        return None if time.monotonic() + pause >= until else pause


_wires: weakref.WeakSet[Wire | AsyncWire] = weakref.WeakSet()


class Wire:
    """
    Calls from threads. Connections are kept last in, first out; a full pool makes callers wait, never fail.

    While `hopeful` says False no attempt begins later than `attempt_timeout` after the first one. `asked` and `heard`
    are the monotonic times of the last attempt and of the last answer that was no error.
    """

    def __init__(self, endpoint: Endpoint, config: Config, hopeful: Callable[[], bool] = lambda: True) -> None:
        self.endpoint = endpoint
        self._config = config
        self._hopeful = hopeful
        self.asked = self.heard = 0.0
        self.closed = False
        self.begin()
        _wires.add(self)

    def begin(self) -> None:
        """Begin without connections."""
        self._idle: deque[Any] = deque()
        self._room = Room(CONNECTIONS)

    def run(self, call: Call, deadline: float, sent: Callable[[], None] = lambda: None) -> Any:
        """
        Run a script. `deadline` is monotonic; `sent` is called before each time that the script may run.

        Raises:

            StoreUnavailable: No answer by the deadline, or one that another attempt would not change.
            StoreCorrupt: A key holds a type that ratelease did not write.
        """
        attempts = self._attempts(deadline)
        while True:
            try:
                with engaged():
                    return self._once(_command(call, attempts.load), attempts, sent)
            except Exception as error:
                if is_wrong_type(error):
                    types = [self.command("TYPE", key) for key in call.keys]
                    raise wrong_type(call.keys, types) from None
                pause = attempts.pause(without_frames(error))
                if attempts.reconnects:
                    self._drop_idle()
                if pause is None:
                    raise translate(error, self.endpoint.label) from error
                time.sleep(pause)

    def command(self, *arguments: Any) -> Any:
        """Run one plain command; for looking at things, never for changing them."""
        attempts = self._attempts(time.monotonic() + self._config.attempt_timeout)
        while True:
            try:
                with engaged():
                    return self._once(arguments, attempts)
            except Exception as error:
                if is_wrong_type(error):
                    key = arguments[1]
                    raise wrong_type([key], [self.command("TYPE", key)]) from None
                pause = attempts.pause(error) if self.endpoint.nodes is not None else None
                if pause is None:
                    raise translate(error, self.endpoint.label) from error
                time.sleep(pause)

    def _attempts(self, deadline: float) -> _Attempts:
        return _Attempts(self._config, deadline, self._hopeful, clustered=self.endpoint.nodes is not None)

    def _once(self, command: tuple[Any, ...], attempts: _Attempts, sent: Callable[[], None] = lambda: None) -> Any:
        if not self._room.enter(attempts.place_left()):
            raise crowded(self.endpoint.label)
        connection, node = None, attempts.node
        try:
            ends = attempts.begin(sent)
            self.asked = time.monotonic()
            connection = self._take(node)
            self.endpoint.connect(connection, ends)
            if node is not None:
                self._reply(connection, ASKING, ends)
            reply = self._reply(connection, command, ends)
            self.heard = time.monotonic()
        except BaseException as error:
            # What is left on the line belongs to this call: an error reply ends it, anything else does not.
            if connection is not None:
                self.endpoint.failed(connection, error)
                if replied(error):
                    self._give_back(connection)
                else:
                    connection.disconnect()
            raise
        else:
            self._give_back(connection)
            return reply
        finally:
            self._room.leave()

    def _reply(self, connection: Any, command: tuple[Any, ...], ends: float) -> Any:
        self.endpoint.send(connection, command)
        if not connection.can_read(max(ends - time.monotonic(), 0)):
            raise TimeoutError("no answer")
        return connection.read_response()

    def _take(self, node: Node | None) -> Any:
        with contextlib.suppress(IndexError):
            while node is None:
                connection = self._idle.pop()
                if self.endpoint.serves(connection):
                    return connection
                connection.disconnect()
        return self.endpoint.connection(node)

    def _drop_idle(self) -> None:
        """Close what is idle: where one connection broke, the others of before the fault are likely dead too."""
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().disconnect()

    def _give_back(self, connection: Any) -> None:
        if self.closed:
            connection.disconnect()
        else:
            self._idle.append(connection)

    def close(self) -> None:
        """Close every idle connection; one in use closes when it comes back."""
        self.closed = True
        self._drop_idle()


def forget_parent() -> None:
    """In a child after fork: the parent's connections are the parent's, and its threads give nothing back here."""
    for wire in list(_wires):
        wire.begin()


class AsyncWire:
    """The same from one event loop."""

    def __init__(self, endpoint: Endpoint, config: Config, hopeful: Callable[[], bool] = lambda: True) -> None:
        self.endpoint = endpoint
        self._config = config
        self._hopeful = hopeful
        self.asked = self.heard = 0.0
        self.closed = False
        self.begin()
        _wires.add(self)

    def begin(self) -> None:
        """Begin without connections."""
        self._idle: deque[Any] = deque()
        self._room = asyncio.Semaphore(CONNECTIONS)
        self._with_loop: AsyncGenerator[None, None] | None = None

    async def run(self, call: Call, deadline: float, sent: Callable[[], None] = lambda: None) -> Any:
        """As :meth:`Wire.run`."""
        attempts = self._attempts(deadline)
        while True:
            try:
                return await self._once(_command(call, attempts.load), attempts, sent)
            except Exception as error:
                if is_wrong_type(error):
                    types = [await self.command("TYPE", key) for key in call.keys]
                    raise wrong_type(call.keys, types) from None
                pause = attempts.pause(without_frames(error))
                if attempts.reconnects:
                    await self._drop_idle()
                if pause is None:
                    raise translate(error, self.endpoint.label) from error
                await asyncio.sleep(pause)

    async def command(self, *arguments: Any) -> Any:
        """As :meth:`Wire.command`."""
        attempts = self._attempts(time.monotonic() + self._config.attempt_timeout)
        while True:
            try:
                return await self._once(arguments, attempts)
            except Exception as error:
                if is_wrong_type(error):
                    key = arguments[1]
                    raise wrong_type([key], [await self.command("TYPE", key)]) from None
                pause = attempts.pause(error) if self.endpoint.nodes is not None else None
                if pause is None:
                    raise translate(error, self.endpoint.label) from error
                await asyncio.sleep(pause)

    def _attempts(self, deadline: float) -> _Attempts:
        return _Attempts(self._config, deadline, self._hopeful, clustered=self.endpoint.nodes is not None)

    async def _once(
        self, command: tuple[Any, ...], attempts: _Attempts, sent: Callable[[], None] = lambda: None
    ) -> Any:
        if self._with_loop is None:
            self._with_loop = self._end_with_loop()
            await anext(self._with_loop)
        await self._enter(attempts.place_left())
        try:
            ends = attempts.begin(sent)
            self.asked = time.monotonic()
            return await self._talk(command, max(ends - time.monotonic(), 0.0), attempts.node)
        finally:
            self._room.release()

    async def _enter(self, timeout: float) -> None:
        """Take a place. A pool that stays full is no silent store: it is told apart."""
        if not self._room.locked():
            await self._room.acquire()
            return
        try:
            async with asyncio.timeout(timeout):
                await self._room.acquire()
        except TimeoutError:
            raise crowded(self.endpoint.label) from None

    async def _talk(self, command: tuple[Any, ...], timeout: float, node: Node | None) -> Any:
        connection = None
        try:
            async with asyncio.timeout(timeout):
                connection = await self._take(node)
                try:
                    # The store of memory:// works inside of these two, and does not wait in them.
                    with nullcontext() if self.endpoint.shared else engaged():
                        await connection.connect()
                    if node is not None:
                        await self.endpoint.send(connection, ASKING)
                        await connection.read_response()
                    with nullcontext() if self.endpoint.shared else engaged():
                        await self.endpoint.send(connection, command)
                    reply = await connection.read_response()
                    self.heard = time.monotonic()
                except BaseException as error:
                    if replied(error):
                        self._give_back(connection)
                    else:
                        await connection.disconnect(nowait=True)
                    raise
                if self.closed:
                    await connection.disconnect(nowait=True)
                else:
                    self._give_back(connection)
                return reply
        except Exception as error:
            # Out here, where the end of the time is told from a cancellation.
            if connection is not None:
                self.endpoint.failed(connection, error)
            raise

    async def _take(self, node: Node | None) -> Any:
        while self._idle and node is None:
            connection = self._idle.pop()
            if self.endpoint.serves(connection):
                return connection
            await connection.disconnect(nowait=True)
        with engaged():
            return self.endpoint.async_connection(node)

    def _give_back(self, connection: Any) -> None:
        self._idle.append(connection)

    async def close(self) -> None:
        """Close every idle connection."""
        self.closed = True
        if self._with_loop is not None:
            await self._with_loop.aclose()

    async def _end_with_loop(self) -> AsyncGenerator[None, None]:
        # Whoever closes a loop ends its open generators first, as asyncio.run does: the last moment at which the
        # connections of a client that is used from loop after loop can be closed.
        try:
            yield
        finally:
            await self._drop_idle()

    async def _drop_idle(self) -> None:
        while self._idle:
            await self._idle.pop().disconnect(nowait=True)
