"""A TCP proxy on loopback that loses, delays and holds back what passes, told at run time by a test.

One thread per direction moves chunks as they come. A test speaks of a request by a byte pattern, such as
b"EVALSHA"; clients here write one small request at a time, so one chunk holds it whole.

    with TcpProxy(server.port) as proxy:
        proxy.drop_replies(1, matching=b"EVALSHA")      # the server carries it out, the client never hears
"""

import contextlib
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

_HOST = "127.0.0.1"
_CHUNK = 65536  # bytes


@dataclass(slots=True, eq=False)
class _Link:
    """One client's connection and the one made for it to the server."""

    client: socket.socket
    server: socket.socket
    losing: "_Rule | None" = None  # the rule by which the next reply is to be lost
    black: bool = False  # bytes were lost: whatever followed would be misread, so nothing follows
    held: int = 0  # requests of this link that wait to be forwarded; the server side stays open for them


@dataclass(slots=True)
class _Rule:
    """What happens to the next `left` requests that contain `pattern`."""

    pattern: bytes
    left: int
    hang: bool = False


@dataclass(slots=True)
class _State:
    seconds: float = 0.0
    black: bool = False
    drop: _Rule = field(default_factory=lambda: _Rule(b"", 0))
    hold: _Rule = field(default_factory=lambda: _Rule(b"", 0))


class TcpProxy:
    """Forward connections from a free loopback port to `target_port`, until told otherwise.

    Every method may be called from any thread at any time; `passing` ends all modes. As a context manager it
    closes its connections and joins its threads.
    """

    def __init__(self, target_port: int, target_host: str = _HOST) -> None:
        self._target = (target_host, target_port)
        self._changed = threading.Condition()
        self._state = _State()
        self._links: set[_Link] = set()
        self._held: deque[tuple[_Link, bytes]] = deque()
        self._threads: list[threading.Thread] = []
        self._closed = False
        self.accepted = 0
        self.dropped = 0
        # Bound and never listening, it keeps the port while connections are refused.
        self._holder = _bound_socket(0)
        self.port: int = self._holder.getsockname()[1]
        self._listener: socket.socket | None = None
        self._listen()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The redis:// URL of the proxied server."""
        return f"redis://{_HOST}:{self.port}/0"

    @property
    def held(self) -> int:
        """How many requests are held back now."""
        return len(self._held)

    def passing(self) -> None:
        """Forward everything at once again; held requests go on, links that lost bytes stay silent."""
        with self._changed:
            self._state = _State()
            self._changed.notify_all()
        self.forward_held()
        self._listen()

    def delay(self, seconds: float) -> None:
        """Hold every request back for `seconds`, then forward it."""
        with self._changed:
            self._state.seconds = seconds

    def blackhole(self) -> None:
        """Lose every byte of both directions; connections are still accepted and stay open."""
        with self._changed:
            self._state.black = True

    def refuse(self) -> None:
        """Close all connections and refuse new ones."""
        with self._changed:
            listener, self._listener = self._listener, None
            links = list(self._links)
        if listener is not None:
            _shut(listener)
        for link in links:
            self._drop_link(link)

    def drop_replies(self, count: int, *, matching: bytes = b"EVAL", hang: bool = False) -> None:
        """Let the server carry out the next `count` requests that contain `matching`, and lose the replies.

        The connection is closed in place of the reply; with `hang` it stays open and silent.
        """
        with self._changed:
            self._state.drop = _Rule(matching, count, hang)

    def hold_requests(self, count: int, *, matching: bytes = b"EVAL") -> None:
        """Keep the next `count` requests that contain `matching` from the server until `forward_held`.

        They are forwarded even when their client has given up and closed its connection.
        """
        with self._changed:
            self._state.hold = _Rule(matching, count)

    def forward_held(self) -> int:
        """Send all held requests to the server, oldest first; return how many.

        Returns when the server has taken each of them, by its reply or by the end of the connection, if the
        client is gone; the reply to a client that still waits goes its ordinary way.
        """
        with self._changed:
            held = list(self._held)
            self._held.clear()
        for link, request in held:
            self._forward_late(link, request)
        return len(held)

    def close(self) -> None:
        """Close every connection and wait for the threads to end."""
        with self._changed:
            self._closed = True
            self._state = _State()
            self._held.clear()
            self._changed.notify_all()
        self.refuse()
        self._holder.close()
        for thread in self._threads:
            thread.join(5.0)

    def _listen(self) -> None:
        with self._changed:
            if self._listener is not None or self._closed:
                return
            self._listener = _bound_socket(self.port)
            self._listener.listen(128)
            self._spawn(self._accept, self._listener)

    def _spawn(self, run: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=run, args=args, name="proxy", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                self._connect(client)

    def _connect(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(self._target, timeout=5.0)
        except OSError:
            _shut(client)
            return
        server.settimeout(None)
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = _Link(client, server)
        with self._changed:
            self.accepted += 1
            self._links.add(link)
            # refuse() may have come between accept and here; it has not seen this link.
            refused = self._listener is None
        if refused:
            self._drop_link(link)
            return
        self._spawn(self._pump_requests, link)
        self._spawn(self._pump_replies, link)

    def _pump_requests(self, link: _Link) -> None:
        for request in _chunks(link.client):
            if not self._take(link, request):
                continue
            with contextlib.suppress(OSError):
                link.server.sendall(request)
        with self._changed:
            keep = link.held > 0
        # A held request must still reach the server, so its side of the link waits for forward_held.
        if not keep:
            self._drop_link(link)

    def _take(self, link: _Link, request: bytes) -> bool:
        """Decide about one request: whether it goes to the server now."""
        with self._changed:
            state = self._state
            if state.seconds:
                self._changed.wait_for(lambda: self._state is not state, state.seconds)
                state = self._state
            if state.black:
                link.black = True
            if link.black:
                return False
            if _applies(state.hold, request):
                link.held += 1
                self._held.append((link, request))
                self._changed.notify_all()
                return False
            if _applies(state.drop, request):
                link.losing = state.drop
            return True

    def _pump_replies(self, link: _Link) -> None:
        for reply in _chunks(link.server):
            with self._changed:
                losing, link.losing = link.losing, None
                self.dropped += losing is not None
                link.black = link.black or self._state.black or losing is not None
            if losing is not None and not losing.hang:
                break
            if not link.black:
                with contextlib.suppress(OSError):
                    link.client.sendall(reply)
        self._drop_link(link)

    def _forward_late(self, link: _Link, request: bytes) -> None:
        with contextlib.suppress(OSError):
            link.server.sendall(request)
        with self._changed:
            link.held -= 1
            if link.held or not _is_closed(link.client):
                return
            # Nobody reads the reply. The server carries out what it has received before it sees the end, and
            # its own end tells that it has.
            with contextlib.suppress(OSError):
                link.server.shutdown(socket.SHUT_WR)
            self._changed.wait_for(lambda: link not in self._links, 5.0)

    def _drop_link(self, link: _Link) -> None:
        _shut(link.client)
        _shut(link.server)
        with self._changed:
            self._links.discard(link)
            self._changed.notify_all()


def _applies(rule: _Rule, request: bytes) -> bool:
    if rule.left <= 0 or rule.pattern not in request:
        return False
    rule.left -= 1
    return True


def _bound_socket(port: int) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind((_HOST, port))
    return bound


def _chunks(source: socket.socket) -> Iterator[bytes]:
    with contextlib.suppress(OSError):
        while chunk := source.recv(_CHUNK):
            yield chunk


def _is_closed(connection: socket.socket) -> bool:
    """Return whether the peer has closed, without waiting and without taking bytes."""
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _shut(connection: socket.socket) -> None:
    # shutdown wakes the thread that waits in recv or accept; close alone would leave it there.
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
