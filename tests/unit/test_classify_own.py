"""A program's own exceptions, whose attributes only happen to be called as those of a client's library."""

from types import SimpleNamespace
from typing import Any

import pytest

from ratelease import Outcome, classify


class Own(Exception):
    def __init__(self, **attributes: Any) -> None:
        super().__init__("mine")
        self.__dict__.update(attributes)


@pytest.mark.covers("RT-17", "AL-07")
@pytest.mark.parametrize(
    "attributes",
    [
        {"error": {"field": "name"}},
        {"error": "unavailable"},
        {"error": {"type": "billing_error"}},
        {"type": "error"},
        {"type": "billing_error"},
        {"type": "overloaded_error"},
        {"code": "unknown"},
        {"code": "internal"},
        {"status": "unavailable"},
        {"status": "aborted"},
        {"status": "internal", "type": "server_error"},
        {"body": '{"error": {"x": 1}}'},
        {"response": "a text"},
    ],
    ids=str,
)
def test_words_that_may_mean_anything_are_no_answer_of_a_provider(attributes) -> None:
    """A failed validation, or an order whose status is "unavailable": nobody learns, and nothing is tried again."""
    feedback = classify(Own(**attributes))
    assert (feedback.outcome, feedback.retryable, feedback.terminal) == (Outcome.IGNORED, False, False)


@pytest.mark.covers("RT-17")
@pytest.mark.parametrize(
    "attributes, outcome",
    [
        ({"status": 402}, Outcome.QUOTA),
        ({"code": 503}, Outcome.OVERLOADED),
        ({"status_code": 429}, Outcome.THROTTLED),
        ({"status_code": 400, "type": "billing_error"}, Outcome.QUOTA),
        ({"code": "rate_limit_exceeded"}, Outcome.THROTTLED),
        ({"error": {"code": "insufficient_quota"}}, Outcome.QUOTA),
        ({"body": {"type": "error", "error": {"type": "overloaded_error"}}}, Outcome.OVERLOADED),
        ({"response": SimpleNamespace(status_code=500)}, Outcome.ERROR),
        ({"response": SimpleNamespace(body={"error": {"type": "api_error"}})}, Outcome.ERROR),
    ],
    ids=str,
)
def test_statuses_codes_and_answers_count_on_any_exception(attributes, outcome) -> None:
    """As programs raise them that have a client of their own."""
    assert classify(Own(**attributes)).outcome is outcome


@pytest.mark.covers("RT-17")
def test_what_a_clients_library_raises_is_read_in_full() -> None:
    """And so is what was derived from it."""
    library = type("APIError", (Exception,), {"__module__": "openai._exceptions"})
    error = type("Mine", (library,), {"__module__": "mine"})()
    error.type = "billing_error"
    assert classify(error).outcome is Outcome.QUOTA
