"""A server on loopback that answers every request with the bytes that a test gives it, as broken as they are."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

# Writes an answer, or does not; what is written last may stay unfinished.
Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass
class HttpAnswers:
    """Where the server is, and the head of every request that it has had."""

    port: int = 0
    heads: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        """The address, without a path."""
        return f"http://127.0.0.1:{self.port}"

    def header(self, name: str, request: int = -1) -> str | None:
        """One header of a request, the last one unless another is named."""
        lines = (line.partition(":") for line in self.heads[request].split("\r\n")[1:])
        return next((value.strip() for key, _, value in lines if key.lower() == name.lower()), None)


@asynccontextmanager
async def answering(answer: bytes | Answer) -> AsyncIterator[HttpAnswers]:
    """Serve on loopback for the length of the block; afterwards no connection of it is left."""
    answers = HttpAnswers()
    served: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        served.add(task)
        try:
            answers.heads.append((await reader.readuntil(b"\r\n\r\n")).decode("latin-1"))
            if isinstance(answer, bytes):
                writer.write(answer)
            else:
                await answer(writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except asyncio.CancelledError:
            # The block is left while an answer hangs: asyncio's own callback would complain about a cancelled task.
            pass
        finally:
            served.discard(task)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    answers.port = server.sockets[0].getsockname()[1]
    try:
        yield answers
    finally:
        server.close()
        for task in list(served):
            task.cancel()
        await asyncio.gather(*served)
        await server.wait_closed()


def response(body: bytes | str, status: str = "200 OK", headers: Mapping[str, str] | None = None) -> bytes:
    """A complete answer of HTTP/1.1."""
    content = body.encode() if isinstance(body, str) else body
    lines = [f"{name}: {value}" for name, value in (headers or {}).items()]
    head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(content)}", *lines, "", ""])
    return head.encode() + content


def json_response(content: Any) -> bytes:
    """A complete answer of HTTP/1.1 that holds JSON."""
    return response(json.dumps(content), headers={"Content-Type": "application/json"})
