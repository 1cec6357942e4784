"""Say what a chat request is to the simulator, whichever API it came by, and what an API must be able to write."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from ratelease.testing.simulator.headers import Headers, Style
from ratelease.testing.simulator.model import Verdict

ANSWER = ("This ", "answer ", "was ", "made ", "by ", "the ", "simulator.")
"""Every answer, one element per token."""

CHARACTERS_PER_TOKEN = 4


class InvalidRequest(Exception):
    """A body that is no chat request, with the parameter at fault as `param`."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """Hold what the simulator needs of a chat request."""

    model: str
    prompt_tokens: int
    stream: bool
    include_usage: bool
    max_tokens: int | None = None

    @property
    def tokens(self) -> int:
        """Return what it costs of a limit on tokens: the prompt, and the most that the answer may have."""
        return self.prompt_tokens + (self.max_tokens or len(ANSWER))


class Api(Protocol):
    """Read and write one provider's format."""

    path: str

    def parse(self, body: bytes) -> ChatRequest:
        """Read a body; InvalidRequest if it is no chat request."""

    def id_header(self, request_id: str) -> tuple[bytes, bytes]:
        """Return the header that names the request."""

    def standing_headers(self, verdict: Verdict, wall: float, style: Style) -> Headers:
        """Return where the rates stand. `wall` is in seconds since 1970."""

    def invalid(self, fault: InvalidRequest, request_id: str) -> bytes:
        """Return the body of a 400."""

    def refusal(self, verdict: Verdict, request: ChatRequest, request_id: str) -> tuple[int, bytes]:
        """Return the status and the body of a refusal."""

    def completion(self, request: ChatRequest, request_id: str, created: int) -> bytes:
        """Return the body of a plain answer."""

    def chunks(self, request: ChatRequest, request_id: str, created: int) -> Iterator[bytes]:
        """Yield the server-sent events of a streamed answer, without the last."""

    def last_chunk(self) -> bytes:
        """Return the event that ends a stream."""


def read_object(body: bytes) -> dict[str, Any]:
    """Return the fields of a body; InvalidRequest if it is no JSON object."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        raise InvalidRequest("The body of the request is not valid JSON.") from None
    if not isinstance(fields, dict):
        raise InvalidRequest("The body of the request must be a JSON object.")
    return fields


def read_model(fields: dict[str, Any]) -> str:
    """Return the model that a request names."""
    model = fields.get("model")
    if not isinstance(model, str) or not model:
        raise InvalidRequest("'model' must be a non-empty string.", "model")
    return model


def read_stream(fields: dict[str, Any]) -> bool:
    """Return whether a request asks for a stream."""
    stream = fields.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise InvalidRequest("'stream' must be a boolean.", "stream")
    return bool(stream)


def read_count(fields: dict[str, Any], name: str) -> int | None:
    """Return a count of tokens that a request states, or None."""
    count = fields.get(name)
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
        raise InvalidRequest(f"'{name}' must be a whole number of at least 1.", name)
    return count


def read_prompt_tokens(messages: object) -> int:
    """Return the tokens of a request's messages, four characters each."""
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest("'messages' must be a non-empty array.", "messages")
    characters = 0
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise InvalidRequest("A message must be an object with a 'role'.", f"messages[{index}]")
        content = message.get("content")
        characters += len(content) if isinstance(content, str) else len(json.dumps(content))
    return max(1, math.ceil(characters / CHARACTERS_PER_TOKEN))


def to_json(fields: dict[str, Any]) -> bytes:
    """Write a body without spaces, as the providers do."""
    return json.dumps(fields, separators=(",", ":")).encode()
