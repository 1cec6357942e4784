"""Run a real Redis or Valkey server on loopback, for the demo, for tests, for a first try.

A server is a child process that ends with its owner: by `stop`, when the object is collected, when the
interpreter exits, and, through a watchdog that reads a pipe, also when the owner is killed.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from ratelease.testing.server_binary import ServerBinary, find_cli, find_server, find_servers

__all__ = ["RedisServer", "ServerBinary", "ServerStartError", "find_cli", "find_server", "find_servers"]

_START_SECONDS = 10.0  # a server answers within 50 ms on an idle machine
_STOP_SECONDS = 5.0  # after this, SIGTERM is followed by SIGKILL
_PORT_ATTEMPTS = 5  # another process may take a free port before the server binds it

# Ends the server when the pipe closes, that is when the last process that holds its other end is gone.
# Removes the server's temporary directory too, if it is given one.
_WATCHDOG = 'read -r _; kill -KILL "$1" 2>/dev/null; [ -z "$2" ] || rm -rf "$2"'


class ServerStartError(RuntimeError):
    """The server did not come up; the message quotes the end of its log."""


class RedisServer:
    """A server on a free port of 127.0.0.1, as a context manager or by `start` and `stop`, again and again.

    It keeps nothing on disk unless `args` say so, and needs no configuration file. `kill`, `pause` and
    `resume` are for tests of what happens when a store fails; `restart` keeps port and directory.

    Args:
        binary: None takes the preferred one.
        port: None takes a free one, and another one where somebody else was faster.
        args: further options of the server, such as `("--appendonly", "yes")`; they win over the own ones.
        unixsocket: also listen on a Unix socket, and let `url` name it.
        directory: where the server works and logs; None makes a temporary one and removes it in the end.
    """

    def __init__(
        self,
        binary: ServerBinary | Path | str | None = None,
        *,
        port: int | None = None,
        args: Sequence[str] = (),
        unixsocket: bool = False,
        directory: Path | str | None = None,
    ) -> None:
        if binary is None:
            binary = find_server()
        self.binary = binary.path if isinstance(binary, ServerBinary) else Path(binary)
        self._port = port
        self._fixed_port = port is not None
        self._args = tuple(args)
        self._unixsocket = unixsocket
        self._owns_directory = directory is None
        self._directory = None if directory is None else Path(directory)
        self._owner = os.getpid()
        self._child: _Child | None = None
        self._finalizer: weakref.finalize[..., RedisServer] | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = "alive" if self.is_alive else "stopped"
        return f"RedisServer({str(self.binary)!r}, port={self._port}, {state})"

    @property
    def port(self) -> int:
        """The TCP port on 127.0.0.1; once the server has run, it stays the same."""
        if self._port is None:
            raise RuntimeError("the server has not been started, so it has no port yet")
        return self._port

    @property
    def url(self) -> str:
        """The URL for clients: redis://, or unix:// for a server with a Unix socket."""
        if self._unixsocket:
            return f"unix://{self.directory / 'redis.sock'}?db=0"
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        return self._running().process.pid

    @property
    def directory(self) -> Path:
        """Where the server works; a temporary one exists from `start` to `stop`."""
        if self._directory is None:
            raise RuntimeError("the server has not been started, so it has no directory yet")
        return self._directory

    @property
    def log(self) -> str:
        """What the server has written so far, over all its starts."""
        try:
            return (self.directory / "server.log").read_text(errors="replace")
        except FileNotFoundError:
            return ""

    @property
    def is_alive(self) -> bool:
        """Whether the process runs; a paused one does."""
        return self._child is not None and self._child.process.poll() is None

    def start(self) -> Self:
        """Start the server and return when it answers PING.

        Raises:
            ServerStartError: it ended, or did not answer within 10 s.
        """
        if self.is_alive:
            raise RuntimeError(f"the server runs already, as process {self.pid}")
        self._forget_child()
        self._owner = os.getpid()
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="ratelease-redis-"))
        attempts = 1 if self._fixed_port else _PORT_ATTEMPTS
        while True:
            if self._port is None:
                self._port = _free_port()
            problem = self._await_ready(self._spawn())
            if problem is None:
                self._fixed_port = True
                return self
            self._forget_child()
            attempts -= 1
            if attempts == 0 or "ddress already in use" not in self.log:
                break
            self._port = None
        last_lines = "\n".join(self.log.splitlines()[-20:])
        self._remove_directory()
        raise ServerStartError(f"{self.binary} {problem}; the end of its log:\n{last_lines}")

    def stop(self) -> None:
        """End the server in an orderly way (SIGTERM, after 5 s SIGKILL) and remove a temporary directory.

        In a forked child this forgets the server and leaves it to the parent.
        """
        self._forget_child()
        self._remove_directory()

    def kill(self) -> None:
        """End the server by SIGKILL, as a crash would; `start` brings it back on the same port."""
        child = self._running()
        child.process.kill()
        self._forget_child()

    def pause(self) -> None:
        """Stop the process by SIGSTOP: connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused process go on; what it received meanwhile is then carried out."""
        os.kill(self.pid, signal.SIGCONT)

    def restart(self) -> Self:
        """Stop and start again on the same port and in the same directory."""
        self._running()
        self._forget_child()
        return self.start()

    def _running(self) -> "_Child":
        if self._child is None or not self.is_alive:
            raise RuntimeError("the server does not run")
        return self._child

    def _spawn(self) -> subprocess.Popen[bytes]:
        command = [
            *(self.binary, "--port", str(self.port), "--bind", "127.0.0.1"),
            *("--dir", self.directory, "--save", "", "--appendonly", "no", "--daemonize", "no"),
            *(("--unixsocket", self.directory / "redis.sock") if self._unixsocket else ()),
            *self._args,
        ]
        with (self.directory / "server.log").open("ab") as log:
            # A session of its own keeps Ctrl-C in a terminal from ending the server before its clients.
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        temporary = self._directory if self._owns_directory else None
        watchdog = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHDOG, "watchdog", str(process.pid), str(temporary or "")],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._child = _Child(process, watchdog, os.getpid())
        self._finalizer = weakref.finalize(self, _finalize, self._child, temporary)
        return process

    def _await_ready(self, process: subprocess.Popen[bytes]) -> str | None:
        """Return None when this very process answers, or what went wrong."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if process.poll() is not None:
                return f"ended with status {process.returncode}"
            if _answers(self.port, process.pid):
                return None
            time.sleep(0.005)
        return f"did not answer on port {self.port} within {_START_SECONDS:g} s"

    def _forget_child(self) -> None:
        if self._finalizer is not None:
            self._finalizer.detach()
            self._finalizer = None
        if self._child is not None:
            self._child.end()
            self._child = None

    def _remove_directory(self) -> None:
        if self._owns_directory and self._directory is not None and os.getpid() == self._owner:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None


@dataclass(slots=True)
class _Child:
    """A server process with its watchdog; only the process that started them may end them."""

    process: subprocess.Popen[bytes]
    watchdog: subprocess.Popen[bytes]
    owner: int

    def end(self) -> None:
        """End both, whatever state they are in."""
        if os.getpid() != self.owner:
            return
        # The watchdog goes first: once the server is reaped its process id may belong to somebody else.
        self.watchdog.kill()
        self.watchdog.wait()
        if self.watchdog.stdin is not None:
            self.watchdog.stdin.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()


def _finalize(child: _Child, directory: Path | None) -> None:
    child.end()
    if directory is not None and os.getpid() == child.owner:
        shutil.rmtree(directory, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _answers(port: int, pid: int) -> bool:
    """Return whether the server with this process id answers on the port.

    Another server may have taken the port first, and would answer PING just as well; INFO tells them apart.
    A server that wants a password says -NOAUTH to both, which is answer enough.
    """
    reply = b""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
            connection.sendall(b"PING\r\nINFO server\r\n")
            while True:
                told = re.search(rb"\bprocess_id:(\d+)\r", reply)
                if told is not None:
                    return int(told[1]) == pid
                if reply.startswith(b"-"):
                    return reply.startswith(b"-NO")  # -LOADING is not ready yet
                received = connection.recv(4096)
                if not received:
                    return False
                reply += received
    except OSError:
        return False
