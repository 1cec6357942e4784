"""
What providers and their SDKs say, as data: error codes, statuses, exception types and headers, each with its meaning.

To teach the classification something new, add a word to a table. What a word means is decided by the provider's
documents; texts for people ("message") are in no table, since their wording changes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from ..core.feedback import Dimension
from ..core.model import Outcome


@dataclass(frozen=True, slots=True)
class Meaning:
    """
    What a word or a status of a provider says of a call.

    `terminal`, `dimension` and `local` are those of :class:`Feedback`. A `vague` meaning holds only where the
    exception that caused this one says nothing clearer.
    """

    outcome: Outcome
    terminal: bool = False
    dimension: Dimension | None = None
    vague: bool = False
    local: bool = False


NOTHING = Meaning(Outcome.IGNORED)
SUCCESS = Meaning(Outcome.OK)
RATE = Meaning(Outcome.THROTTLED)
RAMP = Meaning(Outcome.THROTTLED, dimension="ramp")
AT_ONCE = Meaning(Outcome.THROTTLED, dimension="concurrency")
OVERLOADED = Meaning(Outcome.OVERLOADED)
TIMEOUT = Meaning(Outcome.TIMEOUT)
FAILURE = Meaning(Outcome.ERROR)
CANCELLED = Meaning(Outcome.CANCELLED)
# The caller's own mistake: nobody else learns from it, and the same request fails again.
MISTAKE = Meaning(Outcome.IGNORED, terminal=True)
# The account is empty, or may not use the model: trying again costs an attempt and changes nothing.
NO_MONEY = Meaning(Outcome.QUOTA, terminal=True)
NO_MODEL = Meaning(Outcome.QUOTA, terminal=True, dimension="model")


def canonical(word: str) -> str:
    """The form in which words are compared: "RESOURCE_EXHAUSTED", "resource-exhausted", "ResourceExhausted" are one."""
    return re.sub(r"[^a-z0-9]", "", word.lower())


def _words(groups: Mapping[Meaning, str]) -> Mapping[str, Meaning]:
    found = {canonical(word): meaning for meaning, words in groups.items() for word in words.split()}
    return MappingProxyType(found)


# Words that decide by themselves, whatever the status says.
CODES = _words(
    {
        RATE: """
            rate_limit_exceeded rate_limit_error rate_limited rate_limit_reached rate_limit_reached_error
            too_many_requests resource_exhausted throttling_error
            Throttling ThrottlingException ThrottledException RequestThrottled RequestThrottledException
            TooManyRequestsException RequestLimitExceeded LimitExceededException ServiceQuotaExceededException
            ProvisionedThroughputExceededException Throttling.RateQuota Throttling.AllocationQuota
        """,
        RAMP: "slow_down ramp_limit_exceeded",
        AT_ONCE: """
            concurrency_limit_exceeded concurrency_limit_reached concurrent_requests_exceeded
            concurrent_request_limit_exceeded too_many_concurrent_requests
        """,
        NO_MONEY: """
            insufficient_quota credit_balance_exhausted insufficient_credits insufficient_balance not_enough_balance
            organization_spend_limit_exceeded project_spend_limit_exceeded organization_usage_limit_exceeded
            billing_hard_limit_reached billing_not_active billing_error usage_limit_reached usage_not_included
            enforced_spend_limit_reached contract_spend_limit_reached linked_organization_spend_limit_reached
            linked_organization_billing_unavailable exceeded_current_quota_error arrearage budget_exceeded
        """,
        OVERLOADED: """
            overloaded overloaded_error server_is_overloaded engine_overloaded engine_overloaded_error
            provider_overloaded model_overloaded service_unavailable service_unavailable_error unavailable
            ServiceUnavailableException ModelNotReadyException
        """,
        TIMEOUT: """
            timeout_error deadline_exceeded request_timeout request_timeout_error RequestTimeoutException
            ModelTimeoutException upstream_timeout
        """,
        FAILURE: "ModelErrorException ModelStreamErrorException InternalServerException InternalFailure",
        MISTAKE: """
            context_length_exceeded string_above_max_length invalid_api_key model_not_found content_policy_violation
            content_filter invalid_prompt unsupported_parameter ValidationException AccessDeniedException
            ResourceNotFoundException
        """,
    }
)

# Broad words, which hold only where no status tells of a failure: in streams, over gRPC, in a status of 200.
CATEGORIES = _words(
    {
        FAILURE: "api_error server_error internal_server_error internal_error internal unknown aborted data_loss",
        MISTAKE: """
            invalid_request_error invalid_request authentication_error permission_error permission_denied
            not_found_error not_found invalid_argument failed_precondition out_of_range unauthenticated
            unimplemented already_exists request_too_large
        """,
        CANCELLED: "cancelled",
    }
)

# What was exceeded, where an error has it as its type (OpenAI, Groq) or says so beside it (LiteLLM).
DIMENSIONS: Mapping[str, Dimension] = MappingProxyType(
    {
        "requests": "requests",
        "tokens": "tokens",
        "inputtokens": "input_tokens",
        "outputtokens": "output_tokens",
        "concurrency": "concurrency",
        "concurrentrequests": "concurrency",
    }
)

STATUSES: Mapping[int, Meaning] = MappingProxyType(
    {
        402: NO_MONEY,
        408: TIMEOUT,
        409: FAILURE,
        429: RATE,
        499: CANCELLED,
        503: OVERLOADED,
        529: OVERLOADED,
    }
)


def of_status(status: int | None) -> Meaning | None:
    """What a status alone says; None where there is none, or where it tells of no failure."""
    if status is None or status < 400:
        return None
    return STATUSES.get(status, MISTAKE if status < 500 else FAILURE)


def _types(groups: Mapping[Meaning, str]) -> Mapping[tuple[str, str], Meaning]:
    """By the first part of a type's module and by its name: openai:RateLimitError."""
    found = {}
    for meaning, words in groups.items():
        for word in words.split():
            roots, _, name = word.partition(":")
            found.update({(root, name): meaning for root in roots.split("|")})
    return MappingProxyType(found)


_VAGUE_FAILURE = replace(FAILURE, vague=True)
_VAGUE_TIMEOUT = replace(TIMEOUT, vague=True)

# Exceptions without a status or a code. A type means what its nearest base that is listed means.
TYPES = _types(
    {
        CANCELLED: """
            builtins:GeneratorExit builtins:KeyboardInterrupt builtins:SystemExit
            asyncio|concurrent:CancelledError trio:Cancelled
        """,
        TIMEOUT: """
            builtins:TimeoutError httpx|httpx2|httpcore|httpcore2:TimeoutException
            httpcore|httpcore2:ConnectTimeout httpcore|httpcore2:ReadTimeout httpcore|httpcore2:WriteTimeout
            requests:Timeout requests:ConnectTimeout urllib3:TimeoutError
            aiohttp:ServerTimeoutError botocore:ReadTimeoutError botocore:ConnectTimeoutError google:DeadlineExceeded
        """,
        _VAGUE_TIMEOUT: "openai|anthropic:APITimeoutError litellm:Timeout",
        FAILURE: """
            builtins:ConnectionError socket:gaierror socket:herror ssl:SSLError http:HTTPException
            httpx|httpx2:TransportError httpcore|httpcore2:NetworkError httpcore|httpcore2:ProtocolError
            requests:ConnectionError requests:ChunkedEncodingError
            urllib3:ProtocolError urllib3:NewConnectionError urllib3:SSLError
            aiohttp:ClientConnectionError aiohttp:ClientPayloadError
            botocore:ConnectionError botocore:HTTPClientError botocore:EventStreamError
            openai|anthropic|litellm:InternalServerError anthropic:RetryableError
            google:ServerError google:InternalServerError
        """,
        # All of this process' own connections were in use. Charges stay: the same lease may have sent other calls.
        replace(FAILURE, local=True): "httpx|httpx2|httpcore|httpcore2:PoolTimeout urllib3:EmptyPoolError",
        # Bases of their SDKs, raised as they are where a stream breaks off or the network fails.
        _VAGUE_FAILURE: """
            openai|anthropic|litellm:APIConnectionError openai|anthropic|litellm:APIError urllib:URLError
            google:RetryError urllib3:MaxRetryError
        """,
        RATE: "openai|anthropic|litellm:RateLimitError google:ResourceExhausted google:TooManyRequests",
        RAMP: "anthropic:RampLimitExceededError",
        NO_MONEY: "anthropic|litellm:PaymentRequiredError litellm:BudgetExceededError",
        OVERLOADED: """
            anthropic:OverloadedError anthropic|litellm:ServiceUnavailableError google:ServiceUnavailable
        """,
        MISTAKE: """
            openai|anthropic|litellm:BadRequestError openai|anthropic|litellm:AuthenticationError
            openai|anthropic|litellm:PermissionDeniedError openai|anthropic|litellm:NotFoundError
            openai|anthropic|litellm:UnprocessableEntityError google:ClientError
            httpx|httpx2:UnsupportedProtocol httpx|httpx2:LocalProtocolError
            botocore:ParamValidationError botocore:NoCredentialsError
        """,
        # An answer came, and this program could not use it.
        NOTHING: """
            openai|anthropic|litellm:APIResponseValidationError anthropic:APIWebhookValidationError
        """,
    }
)

# Whose exceptions of the network are those of a call to a provider: what they wrap, and what they were raised for.
CLIENT_LIBRARIES = frozenset({
    "aiohttp", "anthropic", "botocore", "google", "groq", "grpc", "httpcore", "httpcore2", "httpx", "httpx2",
    "litellm", "mistralai", "openai", "requests", "urllib", "urllib3",
})  # fmt: skip


# Python's own: beneath an exception of any other library they may be of any network, such as a database's.
PYTHON = frozenset({"asyncio", "builtins", "concurrent", "http", "socket", "ssl", "urllib"})


@dataclass(frozen=True, slots=True)
class Budget:
    """
    The headers that tell how much of one rate is left.

    `reset` names when it is full again, as a duration, a date or seconds since 1970. `closed_at_zero`: a limit of 0 is
    an answer, the model is not on the account's plan. `monthly`: nothing left of it is no money, not too fast.
    """

    dimension: Dimension
    remaining: str
    reset: str = ""
    limit: str = ""
    closed_at_zero: bool = False
    monthly: bool = False


def _budgets() -> tuple[Budget, ...]:
    # Parts before the whole: where both are used up, the part says more.
    parts: tuple[Dimension, ...] = ("input_tokens", "output_tokens", "requests", "tokens")
    found = []
    for dimension in parts:
        name = dimension.replace("_", "-")
        found += [
            Budget(dimension, f"{start}-{name}-remaining", f"{start}-{name}-reset")
            for start in ("anthropic-ratelimit", "anthropic-fast")
        ]
        found += [
            Budget(dimension, f"x-ratelimit-remaining-{each}", f"x-ratelimit-reset-{each}")
            for each in (name, f"project-{name}")
        ]
    found += [
        Budget("tokens", "x-ratelimit-remaining-tokens_usage_based", "x-ratelimit-reset-tokens_usage_based"),
        Budget("requests", "x-ratelimit-remaining-req-minute", "", "x-ratelimit-limit-req-minute", closed_at_zero=True),
        Budget(
            "tokens", "x-ratelimit-remaining-tokens-minute", "", "x-ratelimit-limit-tokens-minute", closed_at_zero=True
        ),
        Budget("tokens", "ratelimitbysize-remaining", "ratelimitbysize-reset", "ratelimitbysize-limit"),
        Budget("tokens", "x-ratelimitbysize-remaining-minute", "", "x-ratelimitbysize-limit-minute"),
        Budget("tokens", "x-ratelimitbysize-remaining-month", monthly=True),
        Budget("requests", "x-ratelimit-remaining", "x-ratelimit-reset"),
        Budget("tokens", "x-tokenlimit-remaining", "x-tokenlimit-reset"),
        Budget("requests", "ratelimit-remaining", "ratelimit-reset"),
    ]
    return tuple(found)


BUDGETS = _budgets()

# Hints in the order in which they are believed: the name, and how many of its units are a second.
HINTS = (("retry-after-ms", 1000), ("retry-after", 1), ("x-ms-retry-after-ms", 1000))

# A gateway that passes a provider's headers on may put this before their names (LiteLLM).
PASSED_ON = "llm_provider-"

# Bedrock names the error of an answer here.
ERROR_HEADER = "x-amzn-errortype"

HEADERS = frozenset(
    [name for name, _ in HINTS]
    + [name for budget in BUDGETS for name in (budget.remaining, budget.reset, budget.limit) if name]
    + [ERROR_HEADER, "date"]
)
