"""Count what callers send to the store, apart from what keepers send in the background."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import redis.asyncio.connection
import redis.connection


class RoundTrips:
    """
    The packed commands that were sent since the counting began, by whoever is not a keeper.

    `threads` holds every thread that sent, with whether it did by a blocking connection.
    """

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.by_keeper: list[bytes] = []
        self.threads: set[tuple[int, bool]] = set()

    @property
    def count(self) -> int:
        """How many round trips callers made."""
        return len(self.sent)

    def note(self, command: Any, *, blocking: bool) -> None:
        """Note one packed command."""
        self.threads.add((threading.get_ident(), blocking))
        text = command if isinstance(command, bytes) else b"".join(command)
        keeper = threading.current_thread().name == "ratelease-keeper"
        (self.by_keeper if keeper else self.sent).append(text)


@contextmanager
def round_trips() -> Iterator[RoundTrips]:
    """Count within a `with`, on every connection of redis-py and fakeredis."""
    trips = RoundTrips()
    threads: Any = redis.connection.AbstractConnection.send_packed_command
    loops: Any = redis.asyncio.connection.AbstractConnection.send_packed_command

    def send(connection: Any, command: Any, *arguments: Any, **options: Any) -> Any:
        trips.note(command, blocking=True)
        return threads(connection, command, *arguments, **options)

    async def send_async(connection: Any, command: Any, *arguments: Any, **options: Any) -> Any:
        trips.note(command, blocking=False)
        return await loops(connection, command, *arguments, **options)

    with (
        patch.object(redis.connection.AbstractConnection, "send_packed_command", send),
        patch.object(redis.asyncio.connection.AbstractConnection, "send_packed_command", send_async),
    ):
        yield trips
