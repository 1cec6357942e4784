"""Exceptions that wrap others: whose word counts, and whose failure it was."""

import asyncio
from collections.abc import Callable
from typing import Any

from ratelease import Feedback, Outcome
from ratelease import classify as of
from ratelease.errors import QuotaExhausted, StoreUnavailable, WaitTimeout
from support.sdk_errors import error, openai_error, while_handling


def _raised(make: Callable[[], Any]) -> BaseException:
    try:
        make()
    except BaseException as error_:  # noqa: BLE001 - whatever it is, it is what was asked for
        return error_
    raise AssertionError


def test_a_wrapper_means_what_it_wraps() -> None:
    """Where it says nothing itself: the caller's own exception, tenacity's, an SDK's for the network."""

    def wrapped(outer: BaseException, *inner: BaseException) -> BaseException:
        outer.__cause__ = wrapped(*inner) if inner else None
        return outer

    quota = openai_error(429, {"code": "insufficient_quota"})
    assert of(wrapped(RuntimeError(), LookupError(), quota)).outcome is Outcome.QUOTA
    connection = error("openai:APIConnectionError")
    assert of(wrapped(connection, error("httpx:ReadTimeout"))).outcome is Outcome.TIMEOUT
    assert of(wrapped(connection, error("httpx:ConnectError"))).outcome is Outcome.ERROR
    full = Feedback(Outcome.ERROR, local=True)
    assert of(wrapped(error("openai:APITimeoutError"), error("httpx:PoolTimeout"))) == full
    assert of(wrapped(connection, error("httpx:UnsupportedProtocol"))).terminal
    retried = wrapped(error("google:RetryError"), error("google:ServiceUnavailable", code=503))
    assert of(retried).outcome is Outcome.OVERLOADED
    # A status of its own comes first.
    assert of(wrapped(error("openai:APIStatusError", status_code=503), quota)).outcome is Outcome.OVERLOADED


def test_a_network_that_need_not_be_the_providers_is_not_blamed_on_it() -> None:
    """A database's client has connections too, and so have waits for leases of our own."""
    for network in (ConnectionRefusedError(), TimeoutError()):
        database = error("psycopg:OperationalError")
        database.__cause__ = network
        assert of(database) == Feedback(Outcome.IGNORED)
    for own in (WaitTimeout("waited"), StoreUnavailable("away"), QuotaExhausted("empty")):
        assert of(own) == Feedback(Outcome.IGNORED)
        outer = error("openai:APIConnectionError")
        outer.__cause__ = own
        assert of(outer) == Feedback(Outcome.IGNORED), "as where the wait is in the transport of an SDK"


def test_the_failure_of_another_call_is_not_taken_for_this_ones() -> None:
    """In a loop that tries again, the exception of the first attempt is the context of the second one's."""

    def second() -> None:
        try:
            raise openai_error(429, {"code": "insufficient_quota"})
        except Exception:  # noqa: BLE001 - as callers write it
            raise ValueError("a mistake in the second attempt")  # noqa: B904 - the context is the point

    mistake = _raised(second)
    assert mistake.__context__ is not None
    assert of(mistake) == Feedback(Outcome.IGNORED)
    # A library's own context is its own.
    outer = while_handling(error("httpx:ReadTimeout"), error("openai:APIConnectionError"), "openai._base_client")
    assert of(outer).outcome is Outcome.TIMEOUT
    outer.__suppress_context__ = True
    assert of(outer).outcome is Outcome.ERROR


def test_the_failure_that_the_caller_handles_is_not_taken_for_a_librarys() -> None:
    """Falling back to another model in `except`: what its SDK raises comes from a call that may have succeeded."""
    throttled = openai_error(429, {"code": "rate_limit_exceeded"}, {"retry-after": "30"})
    for said in ("openai:LengthFinishReasonError", "openai:OpenAIError"):
        assert of(while_handling(throttled, error(said), "app.answers")) == Feedback(Outcome.IGNORED)
    # Also where the library has an exception of its own between.
    timeout = while_handling(throttled, error("httpx:TransportError"), "app.answers")
    outer = while_handling(timeout, error("openai:APIConnectionError"), "openai._base_client")
    assert of(outer) == Feedback(Outcome.ERROR)
    # A context that has come without its traceback may be anybody's.
    outer = error("openai:OpenAIError")
    outer.__context__ = throttled.with_traceback(None)
    assert of(outer) == Feedback(Outcome.IGNORED)


def test_of_a_group_the_gravest_counts() -> None:
    """Task groups raise what their tasks raised together."""
    group = ExceptionGroup(
        "tasks",
        [ValueError(), TimeoutError(), ExceptionGroup("more", [openai_error(429, {"code": "slow_down"})])],
    )
    assert of(group).dimension == "ramp"
    group = ExceptionGroup("tasks", [error("httpx:PoolTimeout"), error("httpx:ConnectError")])
    assert not of(group).local
    assert of(ExceptionGroup("tasks", [ValueError()])).outcome is Outcome.IGNORED
    assert of(BaseExceptionGroup("tasks", [asyncio.CancelledError()])).outcome is Outcome.CANCELLED
