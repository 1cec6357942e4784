"""What exceptions and answers mean: codes before statuses before types, and never a text."""

import asyncio
from types import SimpleNamespace

import pytest

from ratelease import Feedback, Outcome, classify
from support.sdk_errors import (
    Response,
    anthropic_error,
    aws_error,
    error,
    gemini_body,
    gemini_error,
    grpc_error,
    openai_error,
)

# 2026-11-22 12:00 in UTC, 04:00 in California.
NOW = 1_795_348_800.0

MINUTE = {
    "quotaMetric": "generativelanguage.googleapis.com/generate_content_free_tier_input_token_count",
    "quotaId": "GenerateContentInputTokensPerModelPerMinute-FreeTier",
    "quotaValue": "250000",
}
DAY = {
    "quotaMetric": "generativelanguage.googleapis.com/generate_content_free_tier_requests",
    "quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier",
    "quotaValue": "20",
}


def of(what: object) -> Feedback:
    return classify(what, now=NOW)


@pytest.mark.covers("RT-01")
@pytest.mark.parametrize(
    "status, outcome",
    [
        (429, Outcome.THROTTLED),
        (408, Outcome.TIMEOUT),
        (409, Outcome.ERROR),
        (500, Outcome.ERROR),
        (502, Outcome.ERROR),
        (503, Outcome.OVERLOADED),
        (504, Outcome.ERROR),
        (520, Outcome.ERROR),
        (529, Outcome.OVERLOADED),
    ],
)
def test_a_status_that_passes_may_be_tried_again(status: int, outcome: Outcome) -> None:
    """Alike from an answer, from an SDK's exception and from a mapping."""
    for what in (Response(status), openai_error(status, {"code": None, "type": None}), {"status": status}):
        feedback = of(what)
        assert (feedback.outcome, feedback.status, feedback.retryable) == (outcome, status, True)


@pytest.mark.covers("RT-01", "AL-07")
@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 413, 422, 431])
def test_what_the_caller_did_wrong_teaches_nothing_and_is_not_tried_again(status: int) -> None:
    """However the provider words it, and whatever wait it names."""
    body = {"type": "invalid_request_error", "code": "something_new"}
    for what in (openai_error(status, body), Response(status, {"x-ratelimit-limit-requests": "5"}, {"error": body})):
        feedback = of(what)
        assert feedback == Feedback(Outcome.IGNORED, None, "something_new", terminal=True, status=status)
        assert not feedback.retryable
    if status != 403:
        assert of(Response(status, {"retry-after": "5"})).outcome is Outcome.IGNORED


def test_a_403_that_speaks_of_limits_is_one() -> None:
    """Some providers throttle so; a bare one is for the key."""
    assert of(Response(403, {"retry-after": "5"})) == Feedback(Outcome.THROTTLED, 5.0, status=403)
    spent = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "3s"}
    assert of(Response(403, spent)) == Feedback(Outcome.THROTTLED, 3.0, dimension="requests", status=403)
    left = {"x-ratelimit-remaining-requests": "7", "x-ratelimit-reset-requests": "3s"}
    assert of(Response(403, left)) == Feedback(Outcome.IGNORED, terminal=True, status=403)


NETWORK: list[tuple[str, Outcome]] = [
    ("httpx:ReadTimeout", Outcome.TIMEOUT),
    ("httpx2:ConnectTimeout", Outcome.TIMEOUT),
    ("requests:Timeout", Outcome.TIMEOUT),
    ("requests:ConnectTimeout", Outcome.TIMEOUT),
    ("aiohttp:ServerTimeoutError", Outcome.TIMEOUT),
    ("botocore:ReadTimeoutError", Outcome.TIMEOUT),
    ("openai:APITimeoutError", Outcome.TIMEOUT),
    ("httpx:ConnectError", Outcome.ERROR),
    ("httpx2:RemoteProtocolError", Outcome.ERROR),
    ("requests:ConnectionError", Outcome.ERROR),
    ("aiohttp:ClientConnectionError", Outcome.ERROR),
    ("botocore:EndpointConnectionError", Outcome.ERROR),
    ("openai:APIConnectionError", Outcome.ERROR),
    ("httpx:PoolTimeout", Outcome.ERROR),
]


@pytest.mark.covers("RT-01", "RT-17")
@pytest.mark.parametrize("name, outcome", NETWORK)
def test_failures_of_the_network_may_be_tried_again(name: str, outcome: Outcome) -> None:
    """By the type, or by the nearest base that is known."""
    feedback = of(error(name))
    assert (feedback.outcome, feedback.retryable, feedback.retry_after) == (outcome, True, None)
    # The wait for a connection of one's own pool is nothing that a provider has done.
    assert feedback.local is (name == "httpx:PoolTimeout")


@pytest.mark.parametrize(
    "made, outcome",
    [
        (TimeoutError("429"), Outcome.TIMEOUT),
        (ConnectionResetError("overloaded"), Outcome.ERROR),
        (asyncio.CancelledError(), Outcome.CANCELLED),
        (KeyboardInterrupt(), Outcome.CANCELLED),
        (GeneratorExit(), Outcome.CANCELLED),
        (SystemExit(429), Outcome.CANCELLED),
        (ValueError("429 rate_limit_exceeded"), Outcome.IGNORED),
        (KeyError("insufficient_quota"), Outcome.IGNORED),
        (FileNotFoundError("overloaded_error"), Outcome.IGNORED),
        (RuntimeError("Too Many Requests"), Outcome.IGNORED),
    ],
)
def test_exceptions_of_python_itself(made: BaseException, outcome: Outcome) -> None:
    """Cancellation is nobody's failure, and the caller's own mistakes are not the provider's."""
    assert of(made) == Feedback(outcome)


CODES: list[tuple[object, Feedback]] = [
    (
        openai_error(429, {"type": "requests", "code": "rate_limit_exceeded"}, {"retry-after": "2"}),
        Feedback(Outcome.THROTTLED, 2.0, "rate_limit_exceeded", "requests", status=429),
    ),
    (
        openai_error(429, {"type": "tokens", "code": "rate_limit_exceeded"}, {"retry-after-ms": "250"}),
        Feedback(Outcome.THROTTLED, 0.25, "rate_limit_exceeded", "tokens", status=429),
    ),
    (
        openai_error(429, {"type": "rate_limit_error", "code": "slow_down"}),
        Feedback(Outcome.THROTTLED, None, "slow_down", "ramp", status=429),
    ),
    (
        openai_error(503, {"type": "service_unavailable_error", "code": "slow_down"}),
        Feedback(Outcome.THROTTLED, None, "slow_down", "ramp", status=503),
    ),
    (
        anthropic_error(429, "rate_limit_error", "ramp_limit_exceeded", {"retry-after": "7"}),
        Feedback(Outcome.THROTTLED, 7.0, "ramp_limit_exceeded", "ramp", status=429),
    ),
    (
        Response(429, None, {"error": {"type": "concurrency", "code": "rate_limit_exceeded"}}),
        Feedback(Outcome.THROTTLED, None, "rate_limit_exceeded", "concurrency", status=429),
    ),
    (
        aws_error("ThrottlingException", 429),
        Feedback(Outcome.THROTTLED, None, "ThrottlingException", status=429),
    ),
    (
        aws_error("ServiceQuotaExceededException", 400),
        Feedback(Outcome.THROTTLED, None, "ServiceQuotaExceededException", status=400),
    ),
    (
        Response(429, {"x-amzn-errortype": "ThrottlingException:http://internal.amazon.com/"}, {"message": "m"}),
        Feedback(Outcome.THROTTLED, None, "ThrottlingException", status=429),
    ),
    (
        aws_error("ModelTimeoutException", 408),
        Feedback(Outcome.TIMEOUT, None, "ModelTimeoutException", status=408),
    ),
    (aws_error("ModelErrorException", 424), Feedback(Outcome.ERROR, None, "ModelErrorException", status=424)),
    (
        aws_error("throttlingException", name="EventStreamError"),
        Feedback(Outcome.THROTTLED, None, "throttlingException"),
    ),
    (
        anthropic_error(504, "timeout_error", name="GatewayTimeoutError"),
        Feedback(Outcome.TIMEOUT, None, "timeout_error", status=504),
    ),
    (
        gemini_error(gemini_body(MINUTE, delay="34s")),
        Feedback(Outcome.THROTTLED, 34.0, "RESOURCE_EXHAUSTED", "input_tokens", status=429),
    ),
    (
        gemini_error(gemini_body()),
        Feedback(Outcome.THROTTLED, None, "RESOURCE_EXHAUSTED", status=429),
    ),
    (
        error("google:ResourceExhausted", code=429, details=[SimpleNamespace(retry_delay=SimpleNamespace(seconds=3))]),
        Feedback(Outcome.THROTTLED, 3.0, "ResourceExhausted", status=429),
    ),
    (
        error("google:DeadlineExceeded", code=504, details=[]),
        Feedback(Outcome.TIMEOUT, None, "DeadlineExceeded", status=504),
    ),
    (
        error("litellm:RateLimitError", status_code=429, code="429", type="throttling_error", rate_limit_type="tokens"),
        Feedback(Outcome.THROTTLED, None, "throttling_error", "tokens", status=429),
    ),
    (error("litellm:Timeout", status_code=408), Feedback(Outcome.TIMEOUT, status=408)),
    (
        error("aiohttp:ClientResponseError", status=429, headers=[("Retry-After", "4")]),
        Feedback(Outcome.THROTTLED, 4.0, status=429),
    ),
    (
        error("httpx:HTTPStatusError", response=Response(429, {"Retry-After": "4"}, {"error": {"code": "x"}})),
        Feedback(Outcome.THROTTLED, 4.0, "x", status=429),
    ),
    (
        error("requests:HTTPError", response=Response(502, {"Retry-After": "4"}, b"<html>Bad Gateway</html>")),
        Feedback(Outcome.ERROR, 4.0, status=502),
    ),
]


@pytest.mark.covers("RT-17")
@pytest.mark.parametrize("what, feedback", CODES)
def test_the_words_of_providers_decide(what: object, feedback: Feedback) -> None:
    """Before the status, with what was exceeded and when to come back."""
    assert of(what) == feedback


@pytest.mark.covers("RT-18")
@pytest.mark.parametrize(
    "what",
    [
        anthropic_error(529, "overloaded_error", name="OverloadedError"),
        anthropic_error(200, "overloaded_error"),
        openai_error(503, {"type": "service_unavailable_error", "code": "server_is_overloaded"}),
        openai_error(429, {"type": "engine_overloaded_error", "code": None}),
        aws_error("ServiceUnavailableException", 503),
        gemini_error(gemini_body(status="UNAVAILABLE"), 503),
        error("google:ServiceUnavailable", code=503),
        Response(503, None, {"error": {"code": 503, "metadata": {"error_type": "provider_overloaded"}}}),
        {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
    ],
)
def test_who_is_overloaded_throttles_nobody(what: object) -> None:
    """Neither a rate nor a number at once was exceeded, whatever the provider calls it by status."""
    feedback = of(what)
    assert (feedback.outcome, feedback.dimension, feedback.retryable) == (Outcome.OVERLOADED, None, True)


QUOTA_CODES = [
    "insufficient_quota",
    "credit_balance_exhausted",
    "organization_spend_limit_exceeded",
    "project_spend_limit_exceeded",
    "organization_usage_limit_exceeded",
    "billing_hard_limit_reached",
]
SPEND_CODES = [
    "enforced_spend_limit_reached",
    "contract_spend_limit_reached",
    "linked_organization_spend_limit_reached",
]


@pytest.mark.covers("RT-19")
@pytest.mark.parametrize(
    "what",
    [openai_error(429, {"type": "insufficient_quota", "code": code}) for code in QUOTA_CODES]
    + [anthropic_error(429, "rate_limit_error", code, name="RateLimitError") for code in SPEND_CODES]
    + [
        anthropic_error(400, "invalid_request_error", "enforced_spend_limit_reached"),
        anthropic_error(402, "billing_error", name="PaymentRequiredError"),
        openai_error(429, {"type": "exceeded_current_quota_error", "code": None}),
        error("litellm:BudgetExceededError", status_code=429, rate_limit_type="budget"),
        error("anthropic:PaymentRequiredError"),
        Response(402),
        Response(403, {"retry-after": "1"}, {"code": 403, "reason": "", "error": "NOT_ENOUGH_BALANCE"}),
        {"status": 200, "body": {"error": {"code": 402, "message": "Insufficient credits"}}},
        Response(429, {"x-ratelimitbysize-remaining-month": "0"}),
    ],
)
def test_an_empty_account_is_final(what: object) -> None:
    """Not tried again, and no rate of the provider's is blamed."""
    feedback = of(what)
    assert (feedback.outcome, feedback.terminal, feedback.retryable) == (Outcome.QUOTA, True, False)
    assert feedback.dimension is None


@pytest.mark.covers("RT-17")
@pytest.mark.parametrize("name", ["_InactiveRpcError", "_MultiThreadedRendezvous", "AioRpcError"])
@pytest.mark.parametrize(
    "code, outcome",
    [
        ("RESOURCE_EXHAUSTED", Outcome.THROTTLED),
        ("UNAVAILABLE", Outcome.OVERLOADED),
        ("DEADLINE_EXCEEDED", Outcome.TIMEOUT),
        ("INTERNAL", Outcome.ERROR),
        ("INVALID_ARGUMENT", Outcome.IGNORED),
        ("CANCELLED", Outcome.CANCELLED),
    ],
)
def test_grpc_tells_its_code_by_a_method(name: str, code: str, outcome: Outcome) -> None:
    """Of one that has ended; nothing waits for a call that has not. Its details are a text for people."""
    feedback = of(grpc_error(code, name))
    assert (feedback.outcome, feedback.code) == (outcome, code)
    assert feedback.terminal is (code == "INVALID_ARGUMENT")
    assert of(grpc_error(code, name, done=lambda: True)) == feedback
    assert of(grpc_error(code, name, done=lambda: False, code=pytest.fail)) == Feedback(Outcome.IGNORED)
    assert of(grpc_error(code, name, code=lambda: 1 // 0)) == Feedback(Outcome.IGNORED)
    other = error("psycopg:OperationalError", **vars(grpc_error(code)))
    assert of(other) == Feedback(Outcome.IGNORED)


def test_a_spend_limit_names_no_time_unless_the_provider_does() -> None:
    """What is left of the rates, and when they are whole again, is about something else."""
    headers = {"anthropic-ratelimit-requests-remaining": "0", "anthropic-ratelimit-requests-reset": "30s"}
    assert of(anthropic_error(429, "rate_limit_error", SPEND_CODES[0], headers)).retry_after is None
    assert of(anthropic_error(429, "rate_limit_error", SPEND_CODES[0], {"retry-after": "60"})).retry_after == 60


@pytest.mark.covers("RT-19")
@pytest.mark.parametrize(
    "what, wait",
    [
        # Twenty hours until midnight in California.
        (gemini_error(gemini_body(MINUTE, DAY)), 20 * 3600.0),
        (gemini_error(gemini_body(DAY, delay="36.4s")), 36.4),
        (gemini_error(gemini_body({**MINUTE, "quotaValue": "0"}, delay="7s")), 7.0),
        (Response(429, None, [gemini_body({**MINUTE, "quotaValue": "0"})]), None),
        (Response(429, {"x-ratelimit-limit-req-minute": "0", "x-ratelimit-remaining-req-minute": "0"}), None),
    ],
)
def test_a_model_that_this_account_may_not_use_is_blocked_by_itself(what: object, wait: float | None) -> None:
    """Today or at all: to ask again would only cost attempts, and other models are not concerned."""
    feedback = of(what)
    assert (feedback.outcome, feedback.dimension, feedback.terminal) == (Outcome.QUOTA, "model", True)
    assert feedback.retry_after == (None if wait is None else pytest.approx(wait))


@pytest.mark.parametrize(
    "headers, dimension",
    [
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-remaining-tokens": "9000"}, "requests"),
        ({"x-ratelimit-remaining-requests": "3", "x-ratelimit-remaining-tokens": "0"}, "tokens"),
        (
            {"anthropic-ratelimit-input-tokens-remaining": "0", "anthropic-ratelimit-tokens-remaining": "0"},
            "input_tokens",
        ),
        ({"anthropic-ratelimit-output-tokens-remaining": "0"}, "output_tokens"),
        ({"llm_provider-x-ratelimit-remaining-tokens": "0"}, "tokens"),
        # The one that comes back last is the one that binds.
        (
            {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "1s",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "9s",
            },
            "tokens",
        ),
        # Azure says -1 for what it does not know.
        ({"x-ratelimit-remaining-requests": "-1", "x-ratelimit-remaining-tokens": "-1"}, None),
        ({"x-ratelimit-remaining-requests": "nothing"}, None),
        ({}, None),
    ],
)
def test_headers_tell_what_was_exceeded(headers: dict[str, str], dimension: str | None) -> None:
    """Where the provider has no word for it: what nothing is left of."""
    assert of(Response(429, headers)).dimension == dimension
    assert of(openai_error(429, {"type": "rate_limit_error", "code": None}, headers)).dimension == dimension


def test_a_limit_of_zero_counts_only_where_the_provider_means_it() -> None:
    """Azure rounds what it divides to seconds, and may say 0 of a limit that is not."""
    assert of(Response(429, {"x-ratelimit-limit-requests": "0"})).outcome is Outcome.THROTTLED
    assert of(Response(200, {"x-ratelimit-limit-req-minute": "0"})).outcome is Outcome.OK


@pytest.mark.covers("RT-17")
@pytest.mark.parametrize(
    "event, outcome",
    [
        ({"type": "error", "error": {"type": "rate_limit_error"}}, Outcome.THROTTLED),
        ({"type": "error", "error": {"type": "api_error"}}, Outcome.ERROR),
        ({"type": "error", "error": {"type": "invalid_request_error"}}, Outcome.IGNORED),
        ({"type": "error", "error": {"type": "never_heard_of"}}, Outcome.ERROR),
        ({"type": "error", "code": "rate_limit_exceeded", "message": "m"}, Outcome.THROTTLED),
        ({"type": "response.failed", "response": {"error": {"code": "server_error"}}}, Outcome.ERROR),
        (SimpleNamespace(event="error", data='{"error": {"code": "slow_down"}}'), Outcome.THROTTLED),
        (SimpleNamespace(type="error", error=SimpleNamespace(type="overloaded_error")), Outcome.OVERLOADED),
        ({"error": {"code": 502, "message": "Provider returned error"}}, Outcome.ERROR),
        (error("openai:APIError", body={"code": "rate_limit_exceeded"}), Outcome.THROTTLED),
        (error("openai:APIError", body=None, code=None, type=None), Outcome.ERROR),
        (anthropic_error(200, "timeout_error"), Outcome.TIMEOUT),
    ],
)
def test_an_error_within_a_stream_counts_by_its_own_words(event: object, outcome: Outcome) -> None:
    """The status of 200 that came before says nothing of it."""
    assert of(event).outcome is outcome


@pytest.mark.parametrize(
    "what",
    [
        Response(200, None, {"choices": [], "error": None}),
        Response(204),
        {"status": 201, "headers": {"retry-after": "3"}},
        Response(200, {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "9s"}),
    ],
)
def test_an_answer_that_is_fine_is_ok(what: object) -> None:
    """Also where nothing is left for the next one; no pause is learned from success."""
    feedback = of(what)
    assert (feedback.outcome, feedback.retry_after, feedback.dimension) == (Outcome.OK, None, None)


@pytest.mark.covers("RT-17")
@pytest.mark.parametrize(
    "what",
    [
        "429 rate_limit_exceeded",
        "overloaded",
        b'{"error": {"code": "insufficient_quota"}}',
        429,
        None,
        {"choices": [{"message": {"content": '{"error": {"code": "insufficient_quota"}}'}}]},
        {"role": "tool", "content": "Error 429: rate_limit_exceeded, retry-after: 3600"},
        Exception('{"status": 429, "error": {"code": "insufficient_quota"}}'),
        error("psycopg:OperationalError", message="rate_limit_exceeded", body="Too Many Requests"),
        error("psycopg:OperationalError", code="Please try again in 20s", type="You exceeded your current quota"),
    ],
)
def test_no_text_is_ever_read(what: object) -> None:
    """Neither of an exception, nor of what a model or a tool has written."""
    assert of(what).outcome is Outcome.IGNORED


@pytest.mark.covers("RT-17")
def test_an_answer_that_is_still_to_be_read_stays_unread() -> None:
    """Its status and headers are enough; a stream is the caller's."""
    response = Response(429, {"retry-after": "2"}, unread=True)
    assert of(response) == Feedback(Outcome.THROTTLED, 2.0, status=429)
    assert of(error("httpx:HTTPStatusError", response=response)) == Feedback(Outcome.THROTTLED, 2.0, status=429)
    assert response.touched == []


def test_feedback_is_plain_data() -> None:
    """For logs and JSON; nothing of a body or a message is in it."""
    feedback = of(openai_error(429, {"code": "rate_limit_exceeded", "type": "tokens", "message": "secret"}))
    assert feedback.to_dict() == {
        "outcome": "throttled",
        "retry_after": None,
        "code": "rate_limit_exceeded",
        "dimension": "tokens",
        "terminal": False,
        "status": 429,
        "local": False,
    }
    assert "secret" not in repr(feedback)
