"""The store behind memory://: one fakeredis server per process and name, shared by both colours."""

from __future__ import annotations

import threading
from typing import Any

import fakeredis

_servers: dict[str, fakeredis.FakeServer] = {}
_lock = threading.Lock()


def server(url: str) -> fakeredis.FakeServer:
    """The server of memory://name; the same one for the same URL, for as long as the process lives."""
    with _lock:
        if url not in _servers:
            _servers[url] = fakeredis.FakeServer(server_type="redis", version=(7,))
        return _servers[url]


def sync_pool(url: str) -> Any:
    """A maker of connections for threads."""
    return fakeredis.FakeRedis(server=server(url)).connection_pool


def async_pool(url: str) -> Any:
    """A maker of connections for event loops."""
    # With a time-out of its own redis-py would send by asyncio.wait_for, which may lose a cancellation on Python 3.11.
    return fakeredis.FakeAsyncRedis(server=server(url), socket_timeout=None).connection_pool


def forget_parent() -> None:
    """In a child after fork: begin with empty servers. The parent's may have been locked in the middle of a call."""
    global _lock  # noqa: PLW0603 - a lock of the module
    _lock = threading.Lock()
    _servers.clear()


def discard(url: str) -> None:
    """Forget a server and all that it holds."""
    with _lock:
        _servers.pop(url, None)
