"""What the provider simulator does beside its limits, as its clients see it: over real HTTP on loopback."""

import asyncio
import json
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import pytest

from ratelease.errors import ConfigError
from ratelease.testing import Phase, ProviderSimulator
from support.wait_until import wait_until_async

MESSAGES = [{"role": "user", "content": "say something"}]
CHAT, CHAT_BODY = "/v1/chat/completions", {"model": "chat-model", "messages": MESSAGES}
ANTHROPIC, ANTHROPIC_BODY = "/v1/messages", {"model": "claude", "max_tokens": 64, "messages": MESSAGES}


# --- the messages API --------------------------------------------------------------------------------------


def test_a_message_has_the_shape_and_headers_of_the_real_one(http):
    """Id, content, usage, and anthropic-ratelimit-* with times of RFC 3339."""
    with ProviderSimulator(rpm=5, tpm=10_000, latency=0) as sim:
        answer = http.post(sim.url + ANTHROPIC, json=ANTHROPIC_BODY)

    fields = answer.json()
    assert (answer.status_code, fields["type"], fields["role"], fields["model"]) == (
        200,
        "message",
        "assistant",
        "claude",
    )
    assert fields["content"][0]["type"] == "text"
    assert fields["stop_reason"] == "end_turn"
    assert fields["usage"]["input_tokens"] > 0
    assert answer.headers["request-id"].startswith("req_")
    assert answer.headers["anthropic-ratelimit-requests-remaining"] == "4"
    assert answer.headers["anthropic-ratelimit-tokens-remaining"] == "10000"
    reset = datetime.fromisoformat(answer.headers["anthropic-ratelimit-requests-reset"])
    assert 55 < (reset - datetime.now(UTC)).total_seconds() < 62


def test_a_streamed_message_says_the_same_in_events(http):
    """The events come in the order of the real ones, and carry the same text and usage."""
    with ProviderSimulator(latency=0) as sim:
        plain = http.post(sim.url + ANTHROPIC, json=ANTHROPIC_BODY).json()
        streamed = http.post(sim.url + ANTHROPIC, json={**ANTHROPIC_BODY, "stream": True})

    events = [json.loads(part.split("data: ")[1]) for part in streamed.text.split("\n\n") if part]
    kinds = [event["type"] for event in events]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    text = "".join(event["delta"]["text"] for event in events if event["type"] == "content_block_delta")
    assert text == plain["content"][0]["text"]
    assert events[-2]["usage"]["output_tokens"] == plain["usage"]["output_tokens"]


@pytest.mark.parametrize("body", [b"{", b'{"model": "m", "messages": [{"role": "user"}]}'])
def test_a_malformed_message_is_refused_as_the_real_provider_does(http, body):
    """The error has the form of that API."""
    with ProviderSimulator(latency=0) as sim:
        answer = http.post(sim.url + ANTHROPIC, content=body)

    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


# --- phases ------------------------------------------------------------------------------------------------


def test_phases_begin_when_they_are_told_to_and_are_counted(http):
    """Forced 429s, an overload and an empty account, one after the other; reset ends them."""
    with ProviderSimulator(rpm=50, latency=0, hint=1.5) as sim:
        sim.disturb("throttled@0x2")
        forced = [http.post(sim.url + CHAT, json=CHAT_BODY) for _ in range(3)]
        sim.disturb(Phase("overloaded", count=1))
        overloaded = http.post(sim.url + ANTHROPIC, json=ANTHROPIC_BODY)
        sim.disturb("quota@0")
        empty = http.post(sim.url + CHAT, json=CHAT_BODY)
        stats = sim.stats()
        sim.reset()
        again = http.post(sim.url + CHAT, json=CHAT_BODY)

    assert [answer.status_code for answer in forced] == [429, 429, 200]
    assert (forced[0].headers["retry-after"], forced[0].headers["retry-after-ms"]) == ("2", "1500")
    assert (overloaded.status_code, overloaded.json()["error"]["type"]) == (529, "overloaded_error")
    assert (empty.status_code, empty.json()["error"]["code"]) == (429, "insufficient_quota")
    assert "retry-after" not in empty.headers
    assert (stats.requests, stats.admitted, stats.throttled, stats.overloaded, stats.quota) == (5, 1, 2, 1, 1)
    assert stats.throttled_by["forced"] == 2
    assert again.status_code == 200


def test_a_phase_that_is_none_is_refused_on_both_sides(http):
    """By the method, and by the server if somebody posts it."""
    with ProviderSimulator() as sim:
        with pytest.raises(ConfigError, match="kind of a phase"):
            sim.disturb("storm@1")
        for body in (b"{", b"[7]", b"7", b'["storm@1"]'):
            assert http.post(f"{sim.url}/_sim/phases", content=body).status_code == 400


def test_capacity_that_shrinks_shows_in_the_headers(http):
    """What is left of the limit is what the provider says."""
    with ProviderSimulator(rpm=10, latency=0, phases=["capacity@0*0.5"]) as sim:
        answer = http.post(sim.url + CHAT, json=CHAT_BODY)

    assert answer.headers["x-ratelimit-limit-requests"] == "5"


def test_a_process_of_its_own_knows_all_settings(http):
    """Phases and styles travel as arguments."""
    with ProviderSimulator(phases=["throttled@0x1"], retry_after="date", hint=60.0, in_process=False) as sim:
        refused = http.post(sim.url + CHAT, json=CHAT_BODY)
        sim.disturb("overloaded:529@0x1")
        overloaded = http.post(sim.url + CHAT, json=CHAT_BODY)

    assert refused.status_code == 429
    wait = parsedate_to_datetime(refused.headers["retry-after"]) - datetime.now(UTC)
    assert 50 < wait.total_seconds() < 62
    assert (overloaded.status_code, overloaded.json()["error"]["code"]) == (529, "server_is_overloaded")


def test_garbage_reaches_the_client(http):
    """Every refusal has another header that says nothing."""
    with ProviderSimulator(phases=["throttled@0"], retry_after="garbage") as sim:
        found = [http.post(sim.url + CHAT, json=CHAT_BODY).headers["retry-after"] for _ in range(10)]

    assert found[0] == "soon"
    assert len(set(found)) == 10


# --- calls that go on counting -----------------------------------------------------------------------------


async def test_the_call_of_a_client_that_has_left_runs_on(async_http):
    """With ghosts its slot stays counted until the answer would have ended."""
    async with ProviderSimulator(concurrency=1, latency=30.0, ghosts=True) as sim:
        call = asyncio.create_task(async_http.post(sim.url + CHAT, json=CHAT_BODY))
        await wait_until_async(lambda: sim.stats().in_flight == 1, description="the call is in flight")
        call.cancel()
        await wait_until_async(lambda: sim.stats().in_flight == 0, description="its client has left")
        stats = sim.stats()
        refused = await async_http.post(sim.url + CHAT, json=CHAT_BODY)

    assert (stats.counted, stats.disconnected) == (1, 1)
    assert (refused.status_code, refused.json()["error"]["type"]) == (429, "concurrency")


def test_a_lagging_counter_refuses_who_comes_at_once(http):
    """The call has ended, and still counts."""
    with ProviderSimulator(concurrency=1, latency=0, lag=30.0) as sim:
        statuses = [http.post(sim.url + CHAT, json=CHAT_BODY).status_code for _ in range(2)]
        stats = sim.stats()

    assert statuses == [200, 429]
    assert (stats.in_flight, stats.counted) == (0, 1)
