"""The channel of an instance: what other processes' scripts have to tell it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import redis.exceptions

from .log import logger
from .nodes import Node

if TYPE_CHECKING:
    from .runtime import Runtime

LONGEST_MESSAGE = 1 << 20


class Inbox:
    """
    A subscription that comes back by itself. Messages may be lost: everything they say is also found by polling.

    `received` gets a path's name and the words of one message, `heard` what is said to everybody; `subscribed` is
    called whenever the subscription has just begun, since what was said before it is lost.
    """

    def __init__(
        self,
        runtime: Runtime,
        received: Callable[[str, Iterable[str]], None],
        heard: Callable[[str], None],
        subscribed: Callable[[], None],
    ) -> None:
        self._runtime = runtime
        self._received = received
        self._heard = heard
        self._everyone = f"{runtime.keyspace.inbox_prefix}everyone".encode()
        self._subscribed = subscribed
        self._connection: Any = None

    async def listen(self) -> None:
        """Subscribe and listen until cancelled."""
        pause = 0.05
        while True:
            try:
                await self._session()
            except Exception as error:  # noqa: BLE001 - whatever cut it off, it begins again
                logger.debug("the inbox of %s is cut off (%s)", self._runtime.instance, type(error).__name__)
            await self.close()
            await asyncio.sleep(pause)
            pause = min(2 * pause, 1.0)

    async def _session(self) -> None:
        endpoint, config = self._runtime.endpoint, self._runtime.config
        connection = self._connection = endpoint.async_connection()
        try:
            async with asyncio.timeout(config.attempt_timeout):
                await connection.connect()
        except Exception as error:
            endpoint.failed(connection, error)
            raise
        async with asyncio.timeout(config.attempt_timeout):
            if endpoint.nodes is not None:
                endpoint.nodes.learn(await _slots(connection), Node(connection.host, connection.port))
            own = f"{self._runtime.keyspace.inbox_prefix}{self._runtime.instance}"
            # Its own channel last: once that is answered, both are there.
            await connection.send_command("SUBSCRIBE", self._everyone, own)
        # A dead peer says nothing at all; a live one answers a ping every heartbeat.
        silence = max(2.5 * self._runtime.heartbeat, config.attempt_timeout)
        pinging = asyncio.ensure_future(self._ping(connection))
        try:
            # Any node of a cluster passes messages on; the one that decides is known to be there.
            while endpoint.serves(connection):
                async with asyncio.timeout(silence):
                    message = await connection.read_response()
                self._handle(message)
        finally:
            pinging.cancel()

    async def _ping(self, connection: Any) -> None:
        while True:
            await asyncio.sleep(self._runtime.heartbeat)
            await connection.send_command("PING")

    def _handle(self, message: Any) -> None:
        if not isinstance(message, list) or not message:
            return
        if message[0] == b"subscribe":
            if message[1] != self._everyone:
                self._subscribed()
        elif message[0] == b"message" and len(message) == 3 and len(message[2]) <= LONGEST_MESSAGE:
            said = message[2].decode("utf-8", "replace")
            if message[1] == self._everyone:
                self._heard(said)
            else:
                path_name, *words = said.split(" ")
                self._received(path_name, words)

    async def close(self) -> None:
        """Close the connection, if there is one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)


async def _slots(connection: Any) -> Any:
    """What a node of a cluster says of the others; nothing where it may or can not."""
    await connection.send_command("CLUSTER SLOTS")
    try:
        return await connection.read_response()
    except redis.exceptions.ResponseError:
        return []
