"""Speak the OpenAI chat format: parse requests, write answers, errors and headers. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ratelease.testing.simulator.limits import Standing, Verdict

ANSWER = ("This ", "answer ", "was ", "made ", "by ", "the ", "simulator.")
"""Every answer, one element per token."""

CHARACTERS_PER_TOKEN = 4

Headers = list[tuple[bytes, bytes]]


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

    @classmethod
    def parse(cls, body: bytes) -> ChatRequest:
        """Read a body.

        Raises:
            InvalidRequest: if it is no chat request.
        """
        try:
            fields = json.loads(body)
        except (ValueError, RecursionError):
            raise InvalidRequest("The body of the request is not valid JSON.") from None
        if not isinstance(fields, dict):
            raise InvalidRequest("The body of the request must be a JSON object.")
        model = fields.get("model")
        if not isinstance(model, str) or not model:
            raise InvalidRequest("'model' must be a non-empty string.", "model")
        stream = fields.get("stream")
        if stream is not None and not isinstance(stream, bool):
            raise InvalidRequest("'stream' must be a boolean.", "stream")
        return cls(
            model=model,
            prompt_tokens=_prompt_tokens(fields.get("messages")),
            stream=bool(stream),
            include_usage=_include_usage(fields.get("stream_options"), bool(stream)),
        )

    @property
    def usage(self) -> dict[str, int]:
        """Return the usage that the answer reports, in tokens."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": len(ANSWER),
            "total_tokens": self.prompt_tokens + len(ANSWER),
        }


def _prompt_tokens(messages: object) -> int:
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest("'messages' must be a non-empty array.", "messages")
    characters = 0
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise InvalidRequest("A message must be an object with a 'role'.", f"messages[{index}]")
        content = message.get("content")
        characters += len(content) if isinstance(content, str) else len(json.dumps(content))
    return max(1, math.ceil(characters / CHARACTERS_PER_TOKEN))


def _include_usage(options: object, stream: bool) -> bool:
    if options is None:
        return False
    if not stream:
        raise InvalidRequest("'stream_options' is only allowed when 'stream' is enabled.", "stream_options")
    if not isinstance(options, dict) or not isinstance(options.get("include_usage", False), bool):
        raise InvalidRequest("'stream_options' must be an object.", "stream_options")
    return bool(options.get("include_usage", False))


def completion(request: ChatRequest, request_id: str, created: int) -> bytes:
    """Return the body of a plain answer."""
    message = {"role": "assistant", "content": "".join(ANSWER), "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    return _json(
        {
            "id": f"chatcmpl-{request_id}",
            "object": "chat.completion",
            "created": created,
            "model": request.model,
            "choices": [choice],
            "usage": request.usage,
        }
    )


def chunks(request: ChatRequest, request_id: str, created: int) -> Iterator[bytes]:
    """Yield the server-sent events of a streamed answer, without the closing `DONE`."""
    head: dict[str, Any] = {
        "id": f"chatcmpl-{request_id}",
        "object": "chat.completion.chunk",
        "created": created,
        "model": request.model,
    }
    tail: dict[str, Any] = {"usage": None} if request.include_usage else {}

    def event(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return _event({**head, "choices": [choice], **tail})

    yield event({"role": "assistant", "content": ""})
    for token in ANSWER:
        yield event({"content": token})
    yield event({}, "stop")
    if request.include_usage:
        yield _event({**head, "choices": [], "usage": request.usage})


DONE = b"data: [DONE]\n\n"


def error(message: str, kind: str, *, param: str | None = None, code: str | None = None) -> bytes:
    """Return an error body."""
    return _json({"error": {"message": message, "type": kind, "param": param, "code": code}})


def throttled(verdict: Verdict, model: str) -> bytes:
    """Return the body of a 429."""
    if verdict.retry_after is None:
        what, kind = "concurrent requests", "concurrency"
        hint = "Please try again when one of them has ended."
    else:
        what = "requests per second" if verdict.reason == "burst" else "requests per min (RPM)"
        kind = "requests"
        hint = f"Please try again in {go_duration(verdict.retry_after)}."
    message = f"Rate limit reached for {model} on {what}: Limit {verdict.limit}, Requested 1. {hint}"
    return error(message, kind, code="rate_limit_exceeded")


def limit_headers(verdict: Verdict) -> Headers:
    """Return the `x-ratelimit-*` headers, and with a timed refusal `retry-after` and `retry-after-ms`."""
    headers = [] if verdict.standing is None else _standing_headers(verdict.standing)
    if verdict.retry_after is not None:
        # Rounded up, so that who comes back after exactly this time is not early.
        headers.append((b"retry-after", b"%d" % math.ceil(verdict.retry_after)))
        headers.append((b"retry-after-ms", b"%d" % milliseconds(verdict.retry_after)))
    return headers


def _standing_headers(standing: Standing) -> Headers:
    return [
        (b"x-ratelimit-limit-requests", b"%d" % standing.limit),
        (b"x-ratelimit-remaining-requests", b"%d" % standing.remaining),
        (b"x-ratelimit-reset-requests", go_duration(standing.reset).encode()),
    ]


def milliseconds(seconds: float) -> int:
    """Return whole milliseconds, rounded up beyond the error of a float."""
    return math.ceil(round(seconds * 1000, 6))


def go_duration(seconds: float) -> str:
    """Write a duration as Go does, to the millisecond: `0s`, `12ms`, `7.66s`, `6m0s`, `1h0m3.5s`."""
    whole = milliseconds(seconds)
    if 0 < whole < 1000:
        return f"{whole}ms"
    minutes, rest = divmod(whole, 60_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{rest / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


def _event(fields: dict[str, Any]) -> bytes:
    return b"data: " + _json(fields) + b"\n\n"


def _json(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()
