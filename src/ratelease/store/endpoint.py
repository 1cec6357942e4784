"""Where the store is: a URL, and the connections it stands for."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any
from urllib.parse import SplitResult, urlsplit

import hiredis
import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.retry import Retry

from ..config import Config
from ..errors import ConfigError
from .faults import Cure, cure, is_down, redirect
from .nodes import MARK, Node, Nodes, cluster_of

# Seconds: what a step of a handshake gets at least, since 0 would mean not to wait at all.
SHORTEST_STEP = 0.01

SCHEMES = ("memory", "redis", "rediss", "unix", "redis+cluster", "rediss+cluster")

_ENCODE_IT = "Percent-encode a password in it: urllib.parse.quote(password, safe='')"


# What people write for a scheme that there is not.
_INSTEAD = {
    "valkey": "write redis:// for Valkey as well",
    "valkeys": "write rediss:// for Valkey as well",
    "redis+sentinel": "Sentinel is not supported: name the primary, or use redis+cluster://",
}


def _parts(url: str) -> SplitResult:
    """
    The parts of a store's URL.

    A password with a sign that ends a URL's host, as / ? and #, moves what follows into another part of it: to where it
    is shown, or looked up as a host. So nothing of such a URL is quoted.

    Raises:

        ConfigError: It has no known scheme, cannot be split, or its password is not percent-encoded.
    """
    scheme = url.partition("://")[0].lower()
    if scheme not in SCHEMES:
        known = ", ".join(f"{each}://" for each in SCHEMES)
        instead = f": {_INSTEAD[scheme]}" if scheme in _INSTEAD else ""
        shown = scheme if scheme.isalnum() or instead else "…"
        raise ConfigError(f"the store's URL begins with '{shown}://', but only {known} are known{instead}")
    try:
        parts = urlsplit(url)
        port = None if MARK in scheme else parts.port
    except ValueError:
        raise ConfigError(f"the store's {scheme}:// URL cannot be read: is its port a number? {_ENCODE_IT}") from None
    bare = any("@" in option.partition("=")[0] for option in parts.query.split("&"))
    behind = "@" in parts.fragment or bare or ("@" in parts.path and (scheme != "unix" or ":" in parts.netloc))
    if scheme != "memory" and behind:
        raise ConfigError(f"the store's {scheme}:// URL has an @ behind its host. {_ENCODE_IT}")
    if scheme in ("redis", "rediss") and not parts.path.strip("/").isdecimal() and parts.path not in ("", "/"):
        raise ConfigError(
            f"the store's {scheme}:// URL ends with no number of a database: write redis://host:{port or 6379}/0"
        )
    return parts


class Endpoint:
    """
    The address of a store, and a maker of single connections to it in both colours.

    Retries, time-outs and pooling are ours: redis-py's defaults repeat a script up to eleven times or wait for ever,
    depending on its version.
    """

    def __init__(self, config: Config) -> None:
        self.url = config.url
        self._parts = _parts(config.url)
        self.scheme = self._parts.scheme
        self.shared = self.scheme != "memory"
        if config.require_shared and not self.shared:
            raise ConfigError(
                "require_shared is set, but the store is memory://, which only this process sees: pass url='redis://…'"
            )
        self.nodes: Nodes | None = None
        self._url = config.url
        cluster = cluster_of(config.url)
        if cluster is not None:
            self.nodes, self._url = cluster
        self._attempt = config.attempt_timeout
        self._redis_options = config.redis_options
        # functools.cached_property has one lock for all of a class in Python 3.11, which a fork may leave locked.
        self._sync_pool: Any = None
        self._async_pool: Any = None
        if self.shared:
            # A URL that redis-py cannot read fails here, not later.
            self._sync_pool, self._async_pool = self._make_sync_pool(), self._make_async_pool()

    def __repr__(self) -> str:
        return f"<Endpoint {self.label}>"

    @property
    def label(self) -> str:
        """The address without user and password."""
        host = self._parts.netloc.rpartition("@")[2]
        return f"{self.scheme}://{host}{self._parts.path}"

    def _options(self, retry: Any) -> dict[str, Any]:
        return {
            "socket_connect_timeout": self._attempt,
            "retry": retry,
            "protocol": 2,
            "client_name": "ratelease",
            "decode_responses": False,
            "health_check_interval": 0,
            **self._redis_options,
        }

    def _make_sync_pool(self) -> Any:
        if not self.shared:
            from .embedded import sync_pool

            return sync_pool(self.url)
        options = self._options(Retry(NoBackoff(), 0))
        return self._from_url(redis.ConnectionPool, options | {"socket_timeout": self._attempt})

    def _make_async_pool(self) -> Any:
        if not self.shared:
            from .embedded import async_pool

            return async_pool(self.url)
        options = self._options(redis.asyncio.retry.Retry(NoBackoff(), 0))
        # Time-outs of single reads are the event loop's; redis-py 8 would bring its own 5 s.
        return self._from_url(redis.asyncio.ConnectionPool, options | {"socket_timeout": None})

    def _from_url(self, pool: Any, options: dict[str, Any]) -> Any:
        try:
            made = pool.from_url(self._url, **options)
            # Not connected: this only finds options that there are none of.
            made.connection_class(**made.connection_kwargs)
            return made
        except TypeError as error:
            raise ConfigError(f"redis_options, or options in the URL: redis-py refuses them: {error}") from None
        except Exception as error:  # noqa: BLE001 - redis-py's text may quote the URL, and with it a password
            raise ConfigError(f"the store's URL {self.label} cannot be read ({type(error).__name__})") from None

    def send(self, connection: Any, command: tuple[Any, ...]) -> Any:
        """Send a command of texts and bytes; to be awaited for a connection of an event loop."""
        if not self.shared:
            return connection.send_command(*command)
        # redis-py looks at each argument in Python first, and its async packer has no other way.
        return connection.send_packed_command([hiredis.pack_command(command)])

    def connect(self, connection: Any, ends: float) -> None:
        """
        Connect a connection for threads, unless it is connected, by `ends` on `time.monotonic()`.

        redis-py's time-outs are for each step of the handshake, so that a slow store could stretch them to a multiple:
        here each answer gets what is left.
        """
        if not self.shared or connection._sock is not None:  # noqa: SLF001 - there is no public way to ask
            connection.connect()
            return

        def left() -> float:
            return max(ends - time.monotonic(), SHORTEST_STEP)

        def read_response(*arguments: Any, **options: Any) -> Any:
            connection._sock.settimeout(left())  # noqa: SLF001 - nor to set it once connected
            return type(connection).read_response(connection, *arguments, **options)

        connection.socket_connect_timeout = connection.socket_timeout = left()
        connection.read_response = read_response
        try:
            connection.connect()
        finally:
            del connection.read_response

    def connection(self, node: Node | None = None) -> Any:
        """A new connection for threads, not connected yet. In a cluster to this node, or the one that decides."""
        with _making:
            if self._sync_pool is None:
                self._sync_pool = self._make_sync_pool()
            return self._aimed(self._sync_pool.make_connection(), node)

    def async_connection(self, node: Node | None = None) -> Any:
        """A new connection for one event loop, as :meth:`connection`."""
        with _making:
            if self._async_pool is None:
                self._async_pool = self._make_async_pool()
            return self._aimed(self._async_pool.make_connection(), node)

    def _aimed(self, connection: Any, node: Node | None) -> Any:
        if self.nodes is not None:
            host, port = node or self.nodes.current
            connection.host, connection.port = host or self.nodes.current.host, port
        return connection

    def serves(self, connection: Any) -> bool:
        """Whether a connection leads to where calls go now: in a cluster that changes."""
        return self.nodes is None or (connection.host, connection.port) == self.nodes.current

    def failed(self, connection: Any, error: BaseException) -> None:
        """Learn from an error on a connection which node of a cluster to ask next."""
        if self.nodes is None:
            return
        node = Node(connection.host, connection.port)
        other = redirect(error)
        if other is not None and not other.once:
            self.nodes.moved(other.node, told_by=node)
        elif cure(error) is Cure.RECONNECT or is_down(error):
            self.nodes.lost(node)


_making = threading.Lock()


def forget_parent() -> None:
    """In a child after fork: a lock that a thread of the parent held would never be given back."""
    global _making  # noqa: PLW0603 - a lock of the module
    _making = threading.Lock()
    embedded = sys.modules.get("ratelease.store.embedded")
    if embedded is not None:
        embedded.forget_parent()
