"""Answer over HTTP as the provider does: the routes of the simulator.

A request takes its slot when its body has been read, and gives it back before the last byte of its answer is
handed to the transport: a client that has seen the end of its answer never finds its own slot still taken. A
client that leaves early is noticed while its answer is being made, and its slot is free at once.
"""

from __future__ import annotations

import asyncio
import json
import math
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

from ratelease.errors import ConfigError
from ratelease.testing.simulator.anthropic_api import Anthropic
from ratelease.testing.simulator.chat import Api, ChatRequest, InvalidRequest
from ratelease.testing.simulator.headers import Headers, milliseconds, retry_headers
from ratelease.testing.simulator.judge import Judge, SimulatorStats
from ratelease.testing.simulator.model import Usage
from ratelease.testing.simulator.openai_api import OpenAi, error
from ratelease.testing.simulator.phases import Phase
from ratelease.testing.simulator.settings import Settings
from ratelease.testing.simulator.usage_api import SHAPES, Shape, garbage

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

JSON_TYPE = (b"content-type", b"application/json")
APIS: tuple[Api, ...] = (OpenAi(), Anthropic())
SSE_TYPE = (b"content-type", b"text/event-stream; charset=utf-8")


class Provider:
    """Hold the state of one simulated provider: its model, its judge and its seeded generators."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self.settings = settings
        self.clock = clock
        self.model = settings.model(clock())
        self.judge = Judge(clock, settings.window)
        self._closing: asyncio.Future[None] | None = None
        self._seed()

    def reset(self) -> None:
        """Forget all counts, all use of the limits and the draws made; what is in flight stays in flight.

        The schedule of phases begins anew, without those that were added.
        """
        self.model = self.settings.model(self.clock(), self.model.in_flight)
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
        return self.judge.stats(
            limit=settings.rpm,
            burst=settings.burst,
            concurrency=settings.concurrency,
            model=self.model,
        )

    def next_id(self) -> str:
        """Return 32 hexadecimal digits that differ for every request and repeat with the seed."""
        return UUID(int=self._ids.getrandbits(128)).hex

    def next_latency(self) -> float:
        """Return the seconds that the request that has just been admitted takes."""
        return self.settings.draw_latency(self._latencies, self.model.in_flight - 1)

    def _seed(self) -> None:
        # Two generators, so that the latencies of the admitted requests do not depend on how many were
        # refused.
        self._latencies = Random(self.settings.seed)
        self._ids = Random(f"ids of {self.settings.seed}")


class Slot:
    """Hold one place in flight until about `until`; leaving twice is leaving once."""

    def __init__(self, provider: Provider, until: float) -> None:
        self._provider = provider
        self._until = until
        self._held = True

    def leave(self, *, completed: bool) -> None:
        """Give the place back; a provider with ghosts goes on with what nobody waits for."""
        if self._held:
            self._held = False
            provider = self._provider
            ghost = provider.settings.ghosts and not completed
            provider.model.end(provider.clock(), self._until if ghost else None)
            provider.judge.leave(completed=completed)


class Chat:
    """Serve the chat route of one API.

    It is written straight on ASGI: there alone a client that leaves is seen while its answer is pending.
    """

    def __init__(self, provider: Provider, api: Api) -> None:
        self._provider = provider
        self._api = api

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        body = await _read(receive)
        if body is None:
            return
        provider, api = self._provider, self._api
        request_id = provider.next_id()
        headers: Headers = [api.id_header(request_id)]
        try:
            request = api.parse(body)
        except InvalidRequest as fault:
            provider.judge.refuse_invalid()
            await _respond(send, 400, [*headers, JSON_TYPE], api.invalid(fault, request_id))
            return

        now, wall, style = provider.clock(), time.time(), provider.settings.retry_after
        verdict = provider.model.admit(now, request.tokens)
        headers += api.standing_headers(verdict, wall, style)
        if verdict.reason is not None:
            headers += retry_headers(style, verdict.retry_after, wall, provider.judge.refused)
            provider.judge.refuse(verdict.reason)
            status, text = api.refusal(verdict, request, request_id)
            await _respond(send, status, [*headers, JSON_TYPE], text)
            return

        provider.judge.admit(now)
        latency = provider.next_latency()
        headers.append((b"openai-processing-ms", b"%d" % milliseconds(latency)))
        client = Client(send, asyncio.ensure_future(_disconnect(receive)), provider.closing)
        slot = Slot(provider, now + latency)
        content = Content(api, request, request_id, int(wall))
        try:
            answer = _stream if request.stream else _plain
            await answer(client, slot, latency, headers, content)
        finally:
            slot.leave(completed=False)
            client.gone.cancel()


class UsageReport:
    """Serve what the provider reports of its use, in one shape, or break it as a phase asks for."""

    def __init__(self, provider: Provider, shape: Shape) -> None:
        self._provider = provider
        self._shape = shape

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        provider, shape = self._provider, self._shape
        if await _read(receive) is None:
            return
        usage = provider.model.usage(provider.clock())
        provider.judge.poll()
        if isinstance(usage, Usage):
            await _respond(send, 200, [shape.content_type], shape.write(usage))
            return
        if usage.kind == "usage_garbage":
            await _respond(send, 200, [shape.content_type], garbage(provider.judge.usage_polls))
            return
        status = usage.status or 500
        if usage.kind == "usage_hang":
            # Until the client has left, or the server stops.
            client = Client(send, asyncio.ensure_future(_disconnect(receive)), provider.closing)
            try:
                if not await client.stays(math.inf):
                    return
            finally:
                client.gone.cancel()
            status = 503
        await _respond(send, status, [JSON_TYPE], error("The usage is not available.", "server_error"))


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
            timeout = None if math.isinf(seconds) else seconds
            await asyncio.wait(watched, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        return not self.gone.done()


@dataclass(frozen=True, slots=True)
class Content:
    """Hold what an answer is made of."""

    api: Api
    request: ChatRequest
    id: str
    created: int
    """Seconds since 1970."""


async def _plain(client: Client, slot: Slot, latency: float, headers: Headers, content: Content) -> None:
    """Send the whole answer after the latency."""
    if not await client.stays(latency):
        return
    body = content.api.completion(content.request, content.id, content.created)
    slot.leave(completed=True)
    await _respond(client.send, 200, [*headers, JSON_TYPE], body)


async def _stream(client: Client, slot: Slot, latency: float, headers: Headers, content: Content) -> None:
    """Send the headers at once and the chunks evenly over the latency."""
    await client.send({"type": "http.response.start", "status": 200, "headers": [*headers, SSE_TYPE]})
    events = list(content.api.chunks(content.request, content.id, content.created))
    for event in events:
        if not await client.stays(latency / len(events)):
            return
        await client.send({"type": "http.response.body", "body": event, "more_body": True})
    slot.leave(completed=True)
    await client.send({"type": "http.response.body", "body": content.api.last_chunk(), "more_body": False})


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


async def _respond(send: Send, status: int, headers: Headers, body: bytes) -> None:
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

    async def disturb(request: Request) -> Response:
        try:
            texts = json.loads(await request.body())
            phases = [Phase.parse(text) for text in texts]
        except (ValueError, TypeError, ConfigError) as fault:
            return Response(error(str(fault), "invalid_request_error"), 400, media_type="application/json")
        provider.model.disturb(provider.clock(), phases)
        return Response(status_code=204)

    async def unknown(request: Request, fault: Exception) -> Response:
        status = fault.status_code if isinstance(fault, HTTPException) else 404
        message = f"Invalid URL or method: {request.method} {request.url.path}"
        body = error(message, "invalid_request_error", code="unknown_url")
        return Response(body, status_code=status, media_type="application/json")

    return Starlette(
        routes=[
            *(Route(api.path, Chat(provider, api), methods=["POST"]) for api in APIS),
            *(Route(shape.path, UsageReport(provider, shape), methods=["GET"]) for shape in SHAPES),
            Route("/_sim/stats", stats, methods=["GET"]),
            Route("/_sim/arrivals", arrivals, methods=["GET"]),
            Route("/_sim/phases", disturb, methods=["POST"]),
            Route("/_sim/reset", reset, methods=["POST"]),
        ],
        exception_handlers={404: unknown, 405: unknown},
    )
