"""A provider that counts calls for a while after they have ended, refuses what is too much, and says what it counts.

with LaggingProvider(limit=4, end_lag=0.5) as provider:
    ...ask(provider.port, "call", 0.1) in any process...
    assert provider.refused == 0
"""

from __future__ import annotations

import asyncio
import socketserver
import threading
import time
from types import TracebackType
from typing import Self

REFUSED = 429


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128


class LaggingProvider:
    """
    One provider on a port of loopback.

    A call lasts as long as was asked for, also where its caller has gone. It shows `start_lag` seconds after it began
    and is counted until `end_lag` seconds after its end; `foreign` calls are somebody else's. A call that begins when
    the count is at the limit is refused.
    """

    def __init__(self, *, limit: int, start_lag: float = 0.0, end_lag: float = 0.0, foreign: int = 0) -> None:
        self.limit, self.start_lag, self.end_lag, self.foreign = limit, start_lag, end_lag, foreign
        self.refused = self.served = self.peak = 0
        self.busy_seconds = 0.0
        self.polls: list[float] = []
        self.hangs = threading.Event()
        self._lock = threading.Lock()
        self._calls: dict[int, list[float]] = {}  # number -> shows, gone
        self._numbers = 0
        provider = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                kind, _, rest = self.rfile.readline().decode().strip().partition(" ")
                answer = provider._count() if kind == "count" else provider._call(float(rest))
                try:
                    self.wfile.write(f"{answer}\n".encode())
                except OSError:
                    return

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _counted(self, now: float) -> int:
        return self.foreign + sum(shows <= now < gone for shows, gone in self._calls.values())

    def _count(self) -> int:
        with self._lock:
            now = time.monotonic()
            self.polls.append(now)
            return self._counted(now)

    def _call(self, seconds: float) -> int:
        with self._lock:
            now = time.monotonic()
            if self._counted(now) >= self.limit:
                self.refused += 1
                return REFUSED
            self._numbers += 1
            number = self._numbers
            self._calls[number] = [now + self.start_lag, float("inf")]
            self.peak = max(self.peak, self._counted(now + self.start_lag))
        time.sleep(seconds)
        with self._lock:
            now = time.monotonic()
            self._calls[number][1] = now + self.end_lag
            self._calls = {each: times for each, times in self._calls.items() if times[1] > now}
            self.served += 1
            self.busy_seconds += seconds
        return 200


async def ask(port: int, kind: str, seconds: float = 0.0) -> int:
    """Ask a provider for a call of so many seconds ("call"), or for its count ("count")."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"{kind} {seconds}\n".encode())
        await writer.drain()
        return int(await reader.readline() or REFUSED)
    finally:
        writer.close()
