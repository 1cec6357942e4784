"""What a call reserves that gives no estimate."""

import pytest

from ratelease.core.estimates import MOST_MODELS, Estimates


@pytest.mark.covers("TK-12")
def test_before_twenty_calls_a_fixed_guess_holds_and_then_nearly_the_largest() -> None:
    """Of each unit by itself; never 0."""
    estimates = Estimates(1000)
    for used in range(19):
        estimates.note("openai", "gpt-4o", {"tokens": 100 + used})
    assert estimates.of("openai", "gpt-4o")["tokens"] == 1000
    estimates.note("openai", "gpt-4o", {"tokens": 5000, "output_tokens": 0})
    assert estimates.of("openai", "gpt-4o") == {"tokens": 5000, "input_tokens": 1000, "output_tokens": 1000}
    for _ in range(200):
        estimates.note("openai", "gpt-4o", {"tokens": 0})
    assert estimates.of("openai", "gpt-4o")["tokens"] == 1


@pytest.mark.covers("TK-12")
def test_any_number_of_model_names_takes_bounded_memory() -> None:
    """Those that are only asked for are not kept, and the oldest of the others are forgotten."""
    estimates = Estimates(1000)
    for number in range(3 * MOST_MODELS):
        estimates.of("openai", f"asked-{number}")
        estimates.note("openai", f"used-{number}", {"tokens": 5})
        estimates.of("openai", f"used-{number}")
    assert len(estimates._seen) <= MOST_MODELS
    assert len(estimates._known) <= MOST_MODELS
