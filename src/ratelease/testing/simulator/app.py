"""Answer over HTTP as the provider does: the routes of the simulator.

A request takes its slot when its body has been read, and gives it back before the last byte of its answer is
handed to the transport: a client that has seen the end of its answer never finds its own slot still taken. A
client that leaves early is noticed while its answer is being made, and its slot is free at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING
from uuid import UUID

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ratelease.testing.simulator import wire
from ratelease.testing.simulator.judge import Judge, SimulatorStats
from ratelease.testing.simulator.settings import Settings

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

CHAT_PATH = "/v1/chat/completions"
JSON_TYPE = (b"content-type", b"application/json")
SSE_TYPE = (b"content-type", b"text/event-stream; charset=utf-8")


class Provider:
    """Hold the state of one simulated provider: its limits, its judge and its seeded generators."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self.settings = settings
        self.clock = clock
        self.gate = settings.gate()
        self.judge = Judge(clock, settings.window)
        self._closing: asyncio.Future[None] | None = None
        self._seed()

    def reset(self) -> None:
        """Forget all counts, all use of the limits and the draws made; what is in flight stays in flight."""
        in_flight = self.gate.in_flight
        self.gate = self.settings.gate()
        self.gate.in_flight = in_flight
        self.judge.reset()
        self._seed()

    @property
    def closing(self) -> asyncio.Future[None]:
        """Return the future that ends all latencies, so that a server that stops need not wait for them."""
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_future()
        return self._closing

    def close(self) -> None:
        """Answer everything in flight at once. Call it in the server's event loop."""
        if not self.closing.done():
            self.closing.set_result(None)

    def stats(self) -> SimulatorStats:
        """Return the counts, beside the limits they are measured against."""
        settings = self.settings
        return self.judge.stats(limit=settings.rpm, burst=settings.burst, concurrency=settings.concurrency)

    def next_id(self) -> str:
        """Return 32 hexadecimal digits that differ for every request and repeat with the seed."""
        return UUID(int=self._ids.getrandbits(128)).hex

    def next_latency(self) -> float:
        """Return the seconds that the next admitted request takes."""
        return self.settings.draw_latency(self._latencies)

    def _seed(self) -> None:
        # Two generators, so that the latencies of the admitted requests do not depend on how many were
        # refused.
        self._latencies = Random(self.settings.seed)
        self._ids = Random(f"ids of {self.settings.seed}")


class Slot:
    """Hold one place in flight; leaving twice is leaving once."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._held = True

    def leave(self, *, completed: bool) -> None:
        """Give the place back."""
        if self._held:
            self._held = False
            self._provider.gate.leave()
            self._provider.judge.leave(completed=completed)


class Chat:
    """Serve the chat route.

    It is written straight on ASGI: there alone a client that leaves is seen while its answer is pending.
    """

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        body = await _read(receive)
        if body is None:
            return
        provider = self._provider
        request_id = provider.next_id()
        headers: wire.Headers = [(b"x-request-id", b"req_" + request_id.encode())]
        try:
            request = wire.ChatRequest.parse(body)
        except wire.InvalidRequest as fault:
            provider.judge.refuse_invalid()
            text = wire.error(fault.message, "invalid_request_error", param=fault.param)
            await _respond(send, 400, [*headers, JSON_TYPE], text)
            return

        now = provider.clock()
        verdict = provider.gate.arrive(now)
        headers += wire.limit_headers(verdict)
        if verdict.reason is not None:
            provider.judge.throttle(verdict.reason)
            await _respond(send, 429, [*headers, JSON_TYPE], wire.throttled(verdict, request.model))
            return

        provider.judge.admit(now)
        latency = provider.next_latency()
        headers.append((b"openai-processing-ms", b"%d" % wire.milliseconds(latency)))
        client = Client(send, asyncio.ensure_future(_disconnect(receive)), provider.closing)
        slot = Slot(provider)
        try:
            answer = _stream if request.stream else _plain
            await answer(client, slot, latency, headers, (request, request_id, int(time.time())))
        finally:
            slot.leave(completed=False)
            client.gone.cancel()


@dataclass(frozen=True, slots=True)
class Client:
    """Hold the connection to one client while its answer is being made."""

    send: Send
    gone: asyncio.Future[None]
    """Done when the client has left."""
    closing: asyncio.Future[None]
    """Done when the server stops."""

    async def stays(self, seconds: float) -> bool:
        """Wait; return whether the client is still there. A server that stops waits no longer."""
        if seconds > 0:
            watched = {self.gone, self.closing}
            await asyncio.wait(watched, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        return not self.gone.done()


_Content = tuple[wire.ChatRequest, str, int]
"""What an answer is made of: the request, its id, and when it was made (seconds since 1970)."""


async def _plain(client: Client, slot: Slot, latency: float, headers: wire.Headers, content: _Content) -> None:
    """Send the whole answer after the latency."""
    if not await client.stays(latency):
        return
    body = wire.completion(*content)
    slot.leave(completed=True)
    await _respond(client.send, 200, [*headers, JSON_TYPE], body)


async def _stream(client: Client, slot: Slot, latency: float, headers: wire.Headers, content: _Content) -> None:
    """Send the headers at once and the chunks evenly over the latency."""
    await client.send({"type": "http.response.start", "status": 200, "headers": [*headers, SSE_TYPE]})
    events = list(wire.chunks(*content))
    for event in events:
        if not await client.stays(latency / len(events)):
            return
        await client.send({"type": "http.response.body", "body": event, "more_body": True})
    slot.leave(completed=True)
    await client.send({"type": "http.response.body", "body": wire.DONE, "more_body": False})


async def _read(receive: Receive) -> bytes | None:
    """Return the whole body, or None if the client left before it was complete."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


async def _disconnect(receive: Receive) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _respond(send: Send, status: int, headers: wire.Headers, body: bytes) -> None:
    headers = [*headers, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def build_app(provider: Provider) -> Starlette:
    """Return the application that serves `provider`."""

    async def stats(_request: Request) -> Response:
        return JSONResponse(provider.stats().to_dict())

    async def arrivals(_request: Request) -> Response:
        return JSONResponse(provider.judge.arrivals())

    async def reset(_request: Request) -> Response:
        provider.reset()
        return Response(status_code=204)

    async def unknown(request: Request, fault: Exception) -> Response:
        status = fault.status_code if isinstance(fault, HTTPException) else 404
        message = f"Invalid URL or method: {request.method} {request.url.path}"
        body = wire.error(message, "invalid_request_error", code="unknown_url")
        return Response(body, status_code=status, media_type="application/json")

    return Starlette(
        routes=[
            Route(CHAT_PATH, Chat(provider), methods=["POST"]),
            Route("/_sim/stats", stats, methods=["GET"]),
            Route("/_sim/arrivals", arrivals, methods=["GET"]),
            Route("/_sim/reset", reset, methods=["POST"]),
        ],
        exception_handlers={404: unknown, 405: unknown},
    )
