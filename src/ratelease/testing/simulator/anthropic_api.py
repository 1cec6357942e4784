"""Speak the Anthropic messages format: parse requests, write answers, errors and headers. Pure."""

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
from ratelease.testing.simulator.headers import Headers, Style, anthropic_standing
from ratelease.testing.simulator.model import Verdict


class Anthropic:
    """Read and write the messages of the Anthropic API."""

    path = "/v1/messages"

    def parse(self, body: bytes) -> ChatRequest:
        """Read a body; InvalidRequest if it is no chat request."""
        fields = read_object(body)
        model, stream = read_model(fields), read_stream(fields)
        prompt_tokens = read_prompt_tokens(fields.get("messages"))
        max_tokens = read_count(fields, "max_tokens")
        if max_tokens is None:
            raise InvalidRequest("'max_tokens' must be given.", "max_tokens")
        return ChatRequest(model, prompt_tokens, stream, include_usage=True, max_tokens=max_tokens)

    def id_header(self, request_id: str) -> tuple[bytes, bytes]:
        """Return the header that names the request."""
        return b"request-id", b"req_" + request_id.encode()

    def standing_headers(self, verdict: Verdict, wall: float, style: Style) -> Headers:
        """Return where the rates stand."""
        if style == "none":
            return []
        requests = anthropic_standing("requests", verdict.standing, wall)
        return requests + anthropic_standing("tokens", verdict.tokens, wall)

    def invalid(self, fault: InvalidRequest, request_id: str) -> bytes:
        """Return the body of a 400."""
        return error(fault.message, "invalid_request_error", request_id)

    def refusal(self, verdict: Verdict, request: ChatRequest, request_id: str) -> tuple[int, bytes]:
        """Return the status and the body of a refusal."""
        if verdict.reason == "overloaded":
            return verdict.status or 529, error("Overloaded", "overloaded_error", request_id)
        if verdict.reason == "quota" and verdict.status == 402:
            return 402, error("Your credit balance is too low.", "billing_error", request_id)
        text, code = f"This request would exceed the rate limit of {request.model}.", None
        if verdict.reason == "quota":
            text, code = "You have reached your monthly spend limit.", "enforced_spend_limit_reached"
        elif verdict.reason == "ramp":
            text, code = "Your use grew too fast. Please grow step by step.", "ramp_limit_exceeded"
        return 429, error(text, "rate_limit_error", request_id, code=code)

    def completion(self, request: ChatRequest, request_id: str, _created: int) -> bytes:
        """Return the body of a plain answer."""
        content = [{"type": "text", "text": "".join(ANSWER)}]
        return to_json(_message(request, request_id, content, "end_turn", len(ANSWER)))

    def chunks(self, request: ChatRequest, request_id: str, _created: int) -> Iterator[bytes]:
        """Yield the server-sent events of a streamed answer, without the last."""
        yield _event("message_start", message=_message(request, request_id, [], None, 1))
        yield _event("content_block_start", index=0, content_block={"type": "text", "text": ""})
        for token in ANSWER:
            yield _event("content_block_delta", index=0, delta={"type": "text_delta", "text": token})
        yield _event("content_block_stop", index=0)
        delta = {"stop_reason": "end_turn", "stop_sequence": None}
        yield _event("message_delta", delta=delta, usage={"output_tokens": len(ANSWER)})

    def last_chunk(self) -> bytes:
        """Return the event that ends a stream."""
        return _event("message_stop")


def error(message: str, kind: str, request_id: str, *, code: str | None = None) -> bytes:
    """Return an error body."""
    fields: dict[str, Any] = {"type": kind, "message": message}
    if code is not None:
        fields["details"] = {"error_code": code}
    return to_json({"type": "error", "error": fields, "request_id": f"req_{request_id}"})


def _message(
    request: ChatRequest, request_id: str, content: list[dict[str, str]], stop_reason: str | None, output: int
) -> dict[str, Any]:
    return {
        "id": f"msg_{request_id}",
        "type": "message",
        "role": "assistant",
        "model": request.model,
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": {"input_tokens": request.prompt_tokens, "output_tokens": output},
    }


def _event(kind: str, **fields: Any) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + to_json({"type": kind, **fields}) + b"\n\n"
