"""Speak the OpenAI chat format: parse requests, write answers, errors and headers. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ratelease.testing.simulator.chat import (
    ANSWER,
    ChatRequest,
    InvalidRequest,
    read_count,
    read_model,
    read_object,
    read_prompt_tokens,
    read_stream,
    to_json,
)
from ratelease.testing.simulator.headers import Headers, Style, go_duration, openai_standing
from ratelease.testing.simulator.model import Reason, Verdict

DONE = b"data: [DONE]\n\n"

# What a refusal calls the limit that was reached.
_LIMITED: dict[Reason, tuple[str, str]] = {
    "requests": ("requests per min (RPM)", "requests"),
    "tokens": ("tokens per min (TPM)", "tokens"),
    "burst": ("requests per second", "requests"),
    "concurrency": ("concurrent requests", "concurrency"),
    "forced": ("requests", "requests"),
}


class OpenAi:
    """Read and write the chat completions of the OpenAI API."""

    path = "/v1/chat/completions"

    def parse(self, body: bytes) -> ChatRequest:
        """Read a body; InvalidRequest if it is no chat request."""
        fields = read_object(body)
        model, stream = read_model(fields), read_stream(fields)
        prompt_tokens = read_prompt_tokens(fields.get("messages"))
        max_tokens = read_count(fields, "max_completion_tokens") or read_count(fields, "max_tokens")
        usage = _include_usage(fields.get("stream_options"), stream)
        return ChatRequest(model, prompt_tokens, stream, usage, max_tokens)

    def id_header(self, request_id: str) -> tuple[bytes, bytes]:
        """Return the header that names the request."""
        return b"x-request-id", b"req_" + request_id.encode()

    def standing_headers(self, verdict: Verdict, _wall: float, style: Style) -> Headers:
        """Return where the rates stand."""
        if style == "none":
            return []
        return openai_standing("requests", verdict.standing) + openai_standing("tokens", verdict.tokens)

    def invalid(self, fault: InvalidRequest, _request_id: str) -> bytes:
        """Return the body of a 400."""
        return error(fault.message, "invalid_request_error", param=fault.param)

    def refusal(self, verdict: Verdict, request: ChatRequest, _request_id: str) -> tuple[int, bytes]:
        """Return the status and the body of a refusal."""
        if verdict.reason == "overloaded":
            text = "The server is overloaded. Please try again later."
            return verdict.status or 503, error(text, "server_error", code="server_is_overloaded")
        if verdict.reason == "quota":
            kind = "insufficient_balance" if verdict.status == 402 else "insufficient_quota"
            text = "You exceeded your current quota, please check your plan and billing details."
            return verdict.status or 429, error(text, kind, code=kind)
        if verdict.reason == "ramp":
            text = f"Requests for {request.model} grew too fast. Please slow down and grow step by step."
            return 429, error(text, "requests", code="slow_down")
        return 429, _limited(verdict, request)

    def completion(self, request: ChatRequest, request_id: str, created: int) -> bytes:
        """Return the body of a plain answer."""
        message = {"role": "assistant", "content": "".join(ANSWER), "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        return to_json(
            {
                "id": f"chatcmpl-{request_id}",
                "object": "chat.completion",
                "created": created,
                "model": request.model,
                "choices": [choice],
                "usage": _usage(request),
            }
        )

    def chunks(self, request: ChatRequest, request_id: str, created: int) -> Iterator[bytes]:
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
            yield _event({**head, "choices": [], "usage": _usage(request)})

    def last_chunk(self) -> bytes:
        """Return the event that ends a stream."""
        return DONE


def error(message: str, kind: str, *, param: str | None = None, code: str | None = None) -> bytes:
    """Return an error body."""
    return to_json({"error": {"message": message, "type": kind, "param": param, "code": code}})


def _limited(verdict: Verdict, request: ChatRequest) -> bytes:
    what, kind = _LIMITED[verdict.reason or "forced"]
    figures = ""
    if verdict.limit is not None:
        asked = request.tokens if verdict.reason == "tokens" else 1
        figures = f": Limit {verdict.limit}, Requested {asked}"
    hint = "Please try again when one of them has ended."
    if verdict.retry_after is not None:
        hint = f"Please try again in {go_duration(verdict.retry_after)}."
    elif verdict.reason != "concurrency":
        hint = "Please try again later."
    message = f"Rate limit reached for {request.model} on {what}{figures}. {hint}"
    return error(message, kind, code="rate_limit_exceeded")


def _usage(request: ChatRequest) -> dict[str, int]:
    return {
        "prompt_tokens": request.prompt_tokens,
        "completion_tokens": len(ANSWER),
        "total_tokens": request.prompt_tokens + len(ANSWER),
    }


def _include_usage(options: object, stream: bool) -> bool:
    if options is None:
        return False
    if not stream:
        raise InvalidRequest("'stream_options' is only allowed when 'stream' is enabled.", "stream_options")
    if not isinstance(options, dict) or not isinstance(options.get("include_usage", False), bool):
        raise InvalidRequest("'stream_options' must be an object.", "stream_options")
    return bool(options.get("include_usage", False))


def _event(fields: dict[str, Any]) -> bytes:
    return b"data: " + to_json(fields) + b"\n\n"
