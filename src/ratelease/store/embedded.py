"""The store behind memory://: one fakeredis server per process and name, shared by both colours."""

from __future__ import annotations

import threading
from typing import Any

import fakeredis

from ..core.scripts import SCRIPTS
from .lua_source import script

_servers: dict[str, fakeredis.FakeServer] = {}
_lock = threading.Lock()


def server(url: str) -> fakeredis.FakeServer:
    """The server of memory://name; the same one for the same URL, for as long as the process lives."""
    with _lock:
        if url not in _servers:
            _servers[url] = _new_server()
        return _servers[url]


def _new_server() -> fakeredis.FakeServer:
    made = fakeredis.FakeServer(server_type="redis", version=(7,))
    # Loaded from the start: an error reply such as NOSCRIPT stays in fakeredis' own frames, in a cycle that keeps
    # every caller's alive with it, and a dropped lease would then wait for the garbage collector.
    loader = fakeredis.FakeRedis(server=made)
    for name in SCRIPTS:
        loader.script_load(script(name).text)
    loader.close()
    return made


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
