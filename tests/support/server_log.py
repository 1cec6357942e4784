"""What a server carried out, command by command, as MONITOR tells it: the server's own log of a test."""

import contextlib
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

_LINE = re.compile(rb'^\+?(\d+\.\d+) \[\d+ ([^\]]*)\] (".*")$')
_WORD = re.compile(rb'"((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(rb"\\(x[0-9a-f]{2}|.)")
_PLAIN = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"a": b"\a", b"b": b"\b"}


@dataclass(slots=True)
class Command:
    """
    One command of a client, and those that its script called in turn.

    `at` and `last_at` are the server's clock, in seconds: when it began, and when the last of its script's calls did.
    """

    at: float
    words: list[bytes]
    inner: list[list[bytes]] = field(default_factory=list)
    last_at: float = 0.0

    @property
    def name(self) -> str:
        """The command's name in lower case."""
        return self.words[0].decode().lower()

    @property
    def is_script(self) -> bool:
        """Whether it ran a script."""
        return self.name in ("eval", "evalsha")


class ServerLog:
    """Record every command of a server on loopback, while this context lasts."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=5.0)
        self._chunks: list[bytes] = []
        self._thread = threading.Thread(target=self._listen, name="server-log", daemon=True)
        self._ready = threading.Event()

    def __enter__(self) -> Self:
        self._socket.sendall(b"MONITOR\r\n")
        self._thread.start()
        assert self._ready.wait(5.0), "MONITOR was not answered"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(5.0)
        self._socket.close()

    def _listen(self) -> None:
        self._socket.settimeout(None)
        with contextlib.suppress(OSError):
            while chunk := self._socket.recv(1 << 20):
                self._chunks.append(chunk)
                self._ready.set()

    def lines(self, containing: bytes = b"") -> list[bytes]:
        """The lines so far that contain these bytes."""
        return [line for line in b"".join(self._chunks).split(b"\r\n") if containing in line]

    def commands(self) -> list[Command]:
        """What clients sent so far, in the server's order."""
        found: list[Command] = []
        for line in self.lines():
            match = _LINE.match(line)
            if match is None:
                continue
            words = [_unescaped(word) for word in _WORD.findall(match[3])]
            at = float(match[1])
            if match[2] == b"lua":
                found[-1].inner.append(words)
                found[-1].last_at = at
            else:
                found.append(Command(at, words, last_at=at))
        return found

    def lease_counts(self, key: str) -> Iterator[tuple[float, int]]:
        """After each command that wrote to a leases key: the server's time, and how many leases were unexpired.

        They are counted as of the script's last call. Its own clock is read between the first and that one, maybe
        long after the first where the machine is busy: what was over for it is over here.
        """
        expiries: dict[bytes, int] = {}
        for command in self.commands():
            changed = False
            for words in (command.words, *command.inner):
                changed = _apply(expiries, words, key.encode()) or changed
            if changed:
                now = int(command.last_at * 1000)
                yield command.at, sum(expiry > now for expiry in expiries.values())


def _apply(expiries: dict[bytes, int], words: list[bytes], key: bytes) -> bool:
    """Carry a command out on a copy of one zset; return whether it was one that writes to it."""
    name = words[0].lower()
    if name in (b"flushall", b"flushdb") or (name in (b"del", b"unlink") and key in words[1:]):
        expiries.clear()
        return True
    if len(words) < 3 or words[1] != key:
        return False
    if name == b"zadd":
        for at in range(2, len(words), 2):
            expiries[words[at + 1]] = int(words[at])
    elif name == b"zrem":
        for member in words[2:]:
            expiries.pop(member, None)
    elif name == b"zremrangebyscore":
        assert words[2] == b"-inf"
        for member in [member for member, expiry in expiries.items() if expiry <= int(words[3])]:
            del expiries[member]
    else:
        return False
    return True


def _unescaped(word: bytes) -> bytes:
    def plain(match: re.Match[bytes]) -> bytes:
        code = match[1]
        return bytes([int(code[1:], 16)]) if len(code) == 3 else _PLAIN.get(code, code)

    return _ESCAPE.sub(plain, word)
