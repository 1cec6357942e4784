"""Run the simulated provider as a real HTTP server on loopback, in a thread or in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Protocol, Self, Unpack, cast

from ratelease.testing.simulator.judge import SimulatorStats, max_in_any_window
from ratelease.testing.simulator.phases import Phase
from ratelease.testing.simulator.settings import Figures, Settings, as_phase

if TYPE_CHECKING:
    import uvicorn

    from ratelease.testing.simulator.app import Provider

HOST = "127.0.0.1"
START_TIMEOUT = 20.0  # seconds; importing the server on a loaded machine takes one or two
STOP_TIMEOUT = 5.0  # seconds until what does not stop by itself is made to
KEEP_ALIVE = 75  # seconds; longer than clients keep an idle connection, so that none finds it closed mid-request
BACKLOG = 2048  # connections; a fleet opens all of its own at the same moment


class _Host(Protocol):
    """Run the server somewhere."""

    def start(self) -> int:
        """Start it and return its port."""

    def stop(self) -> None:
        """Stop it and wait until it has gone."""


class ProviderSimulator:
    """Simulate a provider: enforce its limits over real HTTP, and count what came.

    Point a client at `url` (`base_url=f"{sim.url}/v1"` for an OpenAI client, `base_url=sim.url` for an Anthropic
    one; any key does). The figures are
    those of `Settings`; `port` is a port of 127.0.0.1 or None for a free one. With `in_process=False` the
    server runs as a process of its own, so that it shares no interpreter lock with what it measures; it ends
    with this process even when this process is killed.

        with ProviderSimulator(rpm=300, window=10.0, concurrency=20) as sim:
            ...
            assert sim.stats().throttled == 0

    `async with` works alike. A simulator may be started again after it was stopped, with fresh counts.

    Raises:
        ConfigError: if figures are out of range.
        ImportError: on entering, if starlette or uvicorn is missing; `pip install 'ratelease[web]'` helps.
    """

    def __init__(self, *, port: int | None = None, in_process: bool = True, **figures: Unpack[Figures]) -> None:
        self.settings = Settings(**figures)
        self._host: _Host = (_Thread if in_process else _Process)(self.settings, port or 0)
        self._port: int | None = None

    @property
    def url(self) -> str:
        """Return the address without a trailing slash; RuntimeError while the simulator does not run."""
        if self._port is None:
            raise RuntimeError("the simulator does not run: use it as a context manager, or call start() first")
        return f"http://{HOST}:{self._port}"

    def start(self) -> Self:
        """Start serving; return when requests are answered."""
        if self._port is not None:
            raise RuntimeError("the simulator runs already")
        self._port = self._host.start()
        return self

    def stop(self) -> None:
        """Answer what is in flight, stop serving and free the port. Stopping twice is stopping once."""
        if self._port is not None:
            self._port = None
            self._host.stop()

    def stats(self) -> SimulatorStats:
        """Return what the provider saw since it started or was reset."""
        return SimulatorStats(**self._call("GET", "/_sim/stats"))

    def arrivals(self) -> list[float]:
        """Return when requests were admitted: ascending, in seconds since the start or the last reset."""
        stamps: list[float] = self._call("GET", "/_sim/arrivals")
        return stamps

    def max_in_any_window(self, seconds: float) -> int:
        """Return the most requests admitted in any half-open interval of `seconds`, wherever it starts."""
        return max_in_any_window(self.arrivals(), seconds)

    def reset(self) -> None:
        """Forget all counts and all use of the limits; what is in flight stays in flight."""
        self._call("POST", "/_sim/reset")

    def disturb(self, *phases: Phase | str) -> None:
        """Begin phases, their start counted from now: `disturb("throttled@0x3")` refuses the next three requests."""
        self._call("POST", "/_sim/phases", json.dumps([str(as_phase(phase)) for phase in phases]))

    def _call(self, method: str, path: str, content: str | None = None) -> Any:
        # Over HTTP in both modes, so that one path is used and no state is read from another thread.
        connection = http.client.HTTPConnection(HOST, int(self.url.rpartition(":")[2]), timeout=START_TIMEOUT)
        try:
            connection.request(method, path, content)
            body = connection.getresponse().read()
        finally:
            connection.close()
        return json.loads(body) if body else None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)


class _Thread:
    """Run uvicorn in a daemon thread of this process."""

    def __init__(self, settings: Settings, port: int) -> None:
        self._settings = settings
        self._port = port
        self._provider: Provider | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> int:
        try:
            import uvicorn

            from ratelease.testing.simulator.app import Provider, build_app
        except ImportError as fault:
            raise ImportError(
                "The provider simulator needs starlette and uvicorn: pip install 'ratelease[web]'"
            ) from fault
        self._provider = Provider(self._settings)
        config = uvicorn.Config(
            build_app(self._provider),
            lifespan="off",
            access_log=False,
            # The caller's logging stays as it is.
            log_config=None,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=int(STOP_TIMEOUT),
        )
        self._server = uvicorn.Server(config)
        self._socket = _listen(self._port)
        self._thread = threading.Thread(target=self._run, name="ratelease-simulator", daemon=True)
        self._thread.start()
        self._await_start(self._server)
        port: int = self._socket.getsockname()[1]
        return port

    def stop(self) -> None:
        self._server.should_exit = True
        if self._loop is not None and self._provider is not None:
            # A loop that has ended by itself has nothing in flight.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._provider.close)
        self._thread.join(2 * STOP_TIMEOUT)
        self._socket.close()

    def _run(self) -> None:
        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            await self._server.serve(sockets=[self._socket])

        asyncio.run(serve())

    def _await_start(self, server: uvicorn.Server) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while not server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError("the simulator's server did not start")
            time.sleep(0.005)


def _listen(port: int) -> socket.socket:
    """Return a listening socket.

    It names its protocol, unlike those of `socket.create_server`: asyncio switches Nagle's algorithm off only
    where it can see that the protocol is TCP, and every answer of two writes would take 40 ms longer.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


class _Process:
    """Run `python -m ratelease.testing.simulator` as a child that ends when its standard input does."""

    def __init__(self, settings: Settings, port: int) -> None:
        module = "ratelease.testing.simulator"
        options = [*settings.to_args(), f"--port={port}", "--until-stdin-closes"]
        self._command = [sys.executable, "-m", module, *options]

    def start(self) -> int:
        # A session of its own: an interrupt at the terminal is for the parent, which then stops it in order.
        self._process = subprocess.Popen(  # noqa: S603 - the interpreter and the arguments are ours
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        timer = threading.Timer(START_TIMEOUT, self._process.kill)
        timer.start()
        try:
            line = cast("IO[str]", self._process.stdout).readline()
            port: int = json.loads(line)["port"]
        except ValueError:
            self.stop()
            status = self._process.returncode
            raise RuntimeError(f"the simulator's process ended with status {status} before it served") from None
        except BaseException:
            self.stop()
            raise
        finally:
            timer.cancel()
        return port

    def stop(self) -> None:
        cast("IO[str]", self._process.stdin).close()
        for insist in (None, self._process.terminate, self._process.kill):
            if insist is not None:
                insist()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_TIMEOUT)
                break
        cast("IO[str]", self._process.stdout).close()
