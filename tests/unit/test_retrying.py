"""What follows a failed attempt: how often, after which waits, and with which error."""

import itertools
import math
import pickle
import random
from datetime import timedelta
from pathlib import Path

import pytest

from ratelease import Config, Outcome, Retry
from ratelease.core.feedback import Feedback
from ratelease.core.retrying import Again, Retrying
from ratelease.errors import ConfigError, QuotaExhausted, RetriesExhausted
from ratelease.settings import settle

THROTTLED = Feedback(Outcome.THROTTLED, status=429)
OVERLOADED = Feedback(Outcome.OVERLOADED, status=529)
BROKEN = Feedback(Outcome.ERROR, status=500)
LATE = Feedback(Outcome.TIMEOUT)

PLAIN = Retry(jitter="none")


def after(seconds: float | None, outcome: Outcome = Outcome.THROTTLED) -> Feedback:
    """A failure whose provider has said when to come back."""
    return Feedback(outcome, retry_after=seconds, status=429 if outcome is Outcome.THROTTLED else 503)


def delays(policy: Retry, feedback: Feedback, most: int = 1000) -> list[float]:
    """The waits of a call that fails in the same way again and again, until it is given up."""
    retrying = Retrying(policy, "openai/gpt-4o")
    waits = []
    for _ in range(most):
        follows = retrying.failed(feedback, 0.5)
        if not isinstance(follows, Again):
            break
        waits.append(follows.delay)
    return waits


# ---- waits ------------------------------------------------------------------------------------------------


@pytest.mark.covers("RT-02")
def test_waits_double_up_to_a_cap() -> None:
    """0.8 s, 1.6 s, … and never more than 10 s, for as many retries as there are."""
    policy = Retry(jitter="none", max_retries=20, max_throttled=20, max_wait=1000)
    for feedback in (BROKEN, THROTTLED):
        waits = delays(policy, feedback)
        assert waits[:5] == pytest.approx([0.8, 1.6, 3.2, 6.4, 10.0])
        assert waits[5:] == [10.0] * 15
    steep = Retry(jitter="none", base=0.1, factor=100, cap=7, max_retries=20)
    assert delays(steep, BROKEN)[:3] == [0.1, 7.0, 7.0]


@pytest.mark.covers("RT-02")
def test_waits_grow_over_failures_of_every_kind() -> None:
    """A 429 after a 500 waits longer than a 429 alone."""
    retrying = Retrying(PLAIN, "openai/gpt-4o")
    waits = [
        follows.delay for each in (BROKEN, THROTTLED, BROKEN) if isinstance(follows := retrying.failed(each, 0), Again)
    ]
    assert waits == pytest.approx([0.8, 1.6, 3.2])


@pytest.mark.covers("RT-03")
@pytest.mark.parametrize("jitter, low, high", [("none", 0.8, 0.8), ("equal", 0.4, 0.8), ("full", 0.0, 0.8)])
def test_jitter_stays_in_its_range_and_covers_it(jitter: str, low: float, high: float) -> None:
    """A thousand draws lie in it, and span four fifths of it at least."""
    draw = random.Random(7)
    waits = [Retry(jitter=jitter).wait(1, draw.random()) for _ in range(1000)]  # type: ignore[arg-type]
    assert low <= min(waits) <= max(waits) <= high
    assert max(waits) - min(waits) >= 0.8 * (high - low)
    assert Retry().jitter == "equal"


@pytest.mark.covers("RT-04")
def test_what_the_provider_says_takes_the_place_of_the_backoff() -> None:
    """It is neither raised nor cut, and no jitter is laid over it."""
    retrying = Retrying(Retry(base=5), "openai/gpt-4o")
    for seconds in (2.0, 0.25, 0.0):
        follows = retrying.failed(after(seconds), 0.9)
        assert isinstance(follows, Again)
        assert (follows.delay, follows.source) == (seconds, "header")
    follows = retrying.failed(after(None), 0.0)
    assert isinstance(follows, Again)
    assert follows.source == "backoff"


@pytest.mark.covers("RT-22")
def test_the_long_schedule_lasts_eight_hours() -> None:
    """21 retries: eight steps, the last of which repeats."""
    waits = delays(Retry.long(), THROTTLED)
    assert waits == [5, 10, 30, 60, 300, 600, 900, *[1800] * 14]
    assert len(waits) == 21
    assert sum(waits) <= 8 * 3600 < sum(waits) + 1800
    assert delays(Retry.long(), BROKEN) == waits


@pytest.mark.covers("RT-22")
def test_a_schedule_is_used_once_unless_it_has_a_limit() -> None:
    """Its steps count, whatever the failure and whatever the provider asks for: no hint makes it endless."""
    steps = Retry(schedule=(1, 2, timedelta(seconds=3)), jitter="none")
    assert delays(steps, BROKEN) == delays(steps, THROTTLED) == [1, 2, 3]
    assert delays(steps, after(0.0)) == [0, 0, 0]
    assert delays(Retry.long(), after(0.0)) == [0.0] * 21
    assert delays(Retry(schedule=(4, 8), schedule_limit=11, jitter="none"), BROKEN) == [4]
    assert delays(Retry(schedule=(1,), schedule_limit=3, jitter="none"), after(2.0)) == [2]
    retrying = Retrying(steps, "openai/gpt-4o")
    mixed = [retrying.failed(each, 0.5) for each in (BROKEN, THROTTLED, OVERLOADED, THROTTLED, BROKEN)]
    assert [each.delay for each in mixed if isinstance(each, Again)] == [1, 2, 3], "each once, whatever fails"
    assert delays(Retry.long(schedule_limit=3600), BROKEN) == [5, 10, 30, 60, 300, 600, 900]


# ---- how often --------------------------------------------------------------------------------------------


@pytest.mark.covers("RT-13")
def test_429s_and_other_failures_are_counted_apart() -> None:
    """Four retries after 429s and two after others, all of them in one call."""
    assert (len(delays(PLAIN, THROTTLED)), len(delays(PLAIN, BROKEN))) == (4, 2)
    assert [len(delays(PLAIN, each)) for each in (OVERLOADED, LATE)] == [2, 2]
    retrying = Retrying(PLAIN, "openai/gpt-4o")
    mixed = [THROTTLED, BROKEN, THROTTLED, LATE, THROTTLED, THROTTLED]
    seen = [(again.attempt, again.most) for each in mixed if isinstance(again := retrying.failed(each, 0), Again)]
    assert seen == [(1, 4), (1, 2), (2, 4), (2, 2), (3, 4), (4, 4)]
    assert isinstance(retrying.failed(BROKEN, 0), RetriesExhausted)


@pytest.mark.covers("RT-13")
@pytest.mark.parametrize("count", [0, 1, 20])
def test_the_number_of_retries_is_configurable(count: int) -> None:
    """From none to 20, either kind by itself."""
    quick = {"base": 0.001, "cap": 0.01}
    assert len(delays(Retry(max_retries=count, **quick), BROKEN)) == count
    assert len(delays(Retry(max_throttled=count, **quick), THROTTLED)) == count
    assert len(delays(Retry.long().at_most(count), BROKEN)) == count
    both = {"max_retries": count, "max_throttled": count, "together": True}
    assert Retry(base=3, max_retries=7).at_most(count) == Retry(base=3, **both)
    retrying = Retrying(Retry(**quick).at_most(count), "openai/gpt-4o")
    seen = [retrying.failed(each, 0) for _ in range(30) for each in (BROKEN, THROTTLED)]
    made = [(each.attempt, each.most) for each in seen if isinstance(each, Again)]
    assert made == [(number, count) for number in range(1, count + 1)], "so many in all, whatever fails"


@pytest.mark.covers("RT-13")
def test_waits_after_429s_are_limited_together() -> None:
    """To 90 s: the wait that would pass it is not begun. Waits after other failures are not among them."""
    thirty = Retry(max_throttled=20, base=30, cap=30, jitter="none")
    assert delays(thirty, THROTTLED) == [30, 30, 30]
    retrying = Retrying(Retry(max_throttled=20, base=30, cap=30, jitter="none"), "openai/gpt-4o")
    retrying.failed(BROKEN, 0)
    assert [type(retrying.failed(THROTTLED, 0)) for _ in range(4)] == [Again, Again, Again, RetriesExhausted]
    assert delays(Retry(max_throttled=20, base=30, cap=30, jitter="none", max_wait=60), THROTTLED) == [30, 30]


@pytest.mark.covers("RT-14")
def test_without_retries_the_failure_itself_is_the_answer() -> None:
    """Nothing of ours is laid over it, also where the provider asks for a long wait."""
    off = Retry().at_most(0)
    for feedback in (THROTTLED, BROKEN, after(1e6)):
        assert Retrying(off, "openai/gpt-4o").failed(feedback, 0.5) is None
    only_others = Retrying(Retry(max_throttled=0), "openai/gpt-4o")
    assert only_others.failed(THROTTLED, 0.5) is None
    assert isinstance(only_others.failed(BROKEN, 0.5), Again)


@pytest.mark.covers("RT-01")
@pytest.mark.parametrize(
    "feedback",
    [
        Feedback(Outcome.IGNORED, status=400),
        Feedback(Outcome.THROTTLED, status=429, terminal=True),
        Feedback(Outcome.CANCELLED),
        Feedback(Outcome.UNSENT),
    ],
)
def test_what_trying_again_does_not_help_is_the_answer_itself(feedback: Feedback) -> None:
    """At the first attempt and at any later one."""
    retrying = Retrying(PLAIN, "openai/gpt-4o")
    assert retrying.failed(feedback, 0.5) is None
    assert isinstance(retrying.failed(THROTTLED, 0.5), Again)
    assert retrying.failed(feedback, 0.5) is None


# ---- errors -----------------------------------------------------------------------------------------------


@pytest.mark.covers("RT-06")
def test_a_hint_beyond_the_limit_fails_at_once_and_says_when_to_come_back() -> None:
    """5 minutes, or what is left of the 90 s after a 429; the message names the limit that it met."""
    for feedback, name in ((after(301, Outcome.OVERLOADED), "max_hint"), (after(91), "max_wait")):
        error = Retrying(Retry(), "openai/gpt-4o").failed(feedback, 0.5)
        assert isinstance(error, RetriesExhausted)
        assert name in str(error)
        assert (error.retry_after, error.attempts, error.waited) == (feedback.retry_after, 1, 0.0)
    retrying = Retrying(Retry(), "openai/gpt-4o")
    assert isinstance(retrying.failed(after(60), 0.5), Again)
    error = retrying.failed(after(31), 0.5)
    assert isinstance(error, RetriesExhausted)
    assert (error.retry_after, error.attempts, error.waited) == (31, 2, 60)
    assert isinstance(Retrying(Retry(), "o/g").failed(after(300, Outcome.OVERLOADED), 0.5), Again)


@pytest.mark.covers("RT-06")
def test_a_long_hint_is_waited_for_where_that_is_asked_for() -> None:
    """As long as the caller's own time allows, and not for ever."""
    patient = Retry(wait_long_hints=True)
    follows = Retrying(patient, "o/g").failed(after(7200), 0.5)
    assert isinstance(follows, Again)
    assert follows.delay == 7200
    late = Retrying(patient, "o/g").failed(after(7200), 0.5, left=60)
    assert isinstance(late, RetriesExhausted)
    assert "60.0 s are left" in str(late)
    assert isinstance(Retrying(patient, "o/g").failed(after(math.inf), 0.5), RetriesExhausted)


@pytest.mark.covers("RT-06")
def test_hints_that_are_waited_for_use_up_no_budget() -> None:
    """What max_wait and schedule_limit allow is left to the caller's own backoff."""
    patient = Retry(wait_long_hints=True, base=50, cap=50, jitter="none")
    long = Retry(wait_long_hints=True, schedule=(50, 40), schedule_limit=90, jitter="none")
    for policy, wait in ((patient, 50), (long, 40)):
        retrying = Retrying(policy, "openai/gpt-4o")
        follows = [retrying.failed(each, 0.5) for each in (after(600), THROTTLED)]
        assert [each.delay for each in follows if isinstance(each, Again)] == [600, wait]
        assert retrying.waited == 600 + wait
    retrying = Retrying(patient, "openai/gpt-4o")
    error = [retrying.failed(each, 0.5) for each in (THROTTLED, after(600), THROTTLED)][-1]
    assert isinstance(error, RetriesExhausted)
    assert "50.0 s after 50.0 s of waiting, more than max_wait (90.0 s)" in str(error)


def test_a_wait_beyond_the_time_that_is_left_is_not_begun() -> None:
    """Whoever asks for the wait."""
    error = Retrying(PLAIN, "openai/gpt-4o").failed(BROKEN, 0.5, left=0.5)
    assert isinstance(error, RetriesExhausted)
    assert "allow a longer timeout" in str(error)
    assert isinstance(Retrying(PLAIN, "openai/gpt-4o").failed(BROKEN, 0.5, left=0.8), Again)


@pytest.mark.covers("RT-19")
def test_an_empty_account_is_never_tried_again() -> None:
    """The error says so, whatever the policy; the provider's own word is in it, made harmless."""
    feedback = Feedback(Outcome.QUOTA, code="insufficient\nquota", status=429, terminal=True)
    for policy in (Retry(), Retry.long(), Retry().at_most(0)):
        error = Retrying(policy, "openai/gpt-4o").failed(feedback, 0.5)
        assert isinstance(error, QuotaExhausted)
        assert error.scope == "openai/gpt-4o"
        assert "status 429" in str(error)
        assert r"insufficient\nquota" in str(error)
        assert "account" in str(error)


def test_the_last_error_says_how_it_went_and_survives_pickle() -> None:
    """Attempts, waits, and when the provider wants to be asked again."""
    retrying = Retrying(Retry(jitter="none", max_throttled=1), "openai/gpt-4o")
    retrying.failed(THROTTLED, 0.5)
    error = retrying.failed(after(4.0), 0.5)
    assert isinstance(error, RetriesExhausted)
    assert str(error).startswith("openai/gpt-4o: all 2 attempts failed, with 0.8 s of waiting between them")
    assert "status 429" in str(error)
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - made a moment ago
    assert (again.attempts, again.waited, again.retry_after, again.scope) == (2, 0.8, 4.0, "openai/gpt-4o")


# ---- settings ---------------------------------------------------------------------------------------------

WRONG = {
    "max_retries": (-1, 21, True, 2.0, "2"),
    "max_throttled": (-1, 21, None),
    "base": (-0.1, math.nan, math.inf, "1", True),
    "factor": (0.5, math.nan, math.inf, "2"),
    "cap": (-1, math.nan, math.inf),
    "jitter": ("some", None, 1),
    "schedule": ((), (0,), (-1,), (math.nan,), (math.inf,), "12", 5, ("1",), (1,) * 1001),
    "schedule_limit": (0, -1, math.nan, math.inf),
    "max_wait": (-1, math.nan, "90"),
    "max_hint": (-1, math.nan, "300"),
    "wait_long_hints": (1, "yes", None),
}


@pytest.mark.parametrize("name, value", [(name, value) for name, values in WRONG.items() for value in values])
def test_a_figure_outside_its_range_is_refused_by_name(name: str, value: object) -> None:
    """The message says which one."""
    with pytest.raises(ConfigError, match=rf"Retry\.{name} must"):
        Retry(**{name: value})  # type: ignore[arg-type]


def test_everything_that_is_wrong_is_named_together() -> None:
    """Every field, one that is not known, and what does not fit together."""
    with pytest.raises(ConfigError) as caught:
        Retry(**{name: values[0] for name, values in WRONG.items()}, max_atempts=3)  # type: ignore[arg-type]
    for name in (*WRONG, "max_atempts"):
        assert f"Retry.{name} " in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        Retry(base=11, schedule_limit=60)
    assert "cap (10 s) must not be below base (11 s)" in str(caught.value)
    assert "schedule_limit needs a schedule" in str(caught.value)


def test_a_policy_is_a_value() -> None:
    """Frozen, comparable and hashable; times may be timedeltas."""
    assert Retry(base=timedelta(seconds=2), schedule=[1, 2]) == Retry(base=2.0, schedule=(1.0, 2.0))
    assert len({Retry.long(), Retry.long(), Retry()}) == 2
    with pytest.raises(AttributeError):
        Retry().base = 1.0  # type: ignore[misc]


def test_a_client_has_a_policy_of_its_own() -> None:
    """As a Retry or as a table; what is wrong in a table is named with its place."""
    assert Config().retry == Retry()
    assert Config(retry={"max_retries": 5, "schedule": [1, 2]}).retry == Retry(max_retries=5, schedule=(1, 2))  # type: ignore[arg-type]
    with pytest.raises(ConfigError) as caught:
        Config(retry={"max_retries": 50, "jiter": "none"})  # type: ignore[arg-type]
    assert "Config.retry max_retries must be a whole number from 0 to 20" in str(caught.value)
    assert "jiter is not known: did you mean jitter?" in str(caught.value)
    for wrong in (5, "often", None, itertools.count):
        with pytest.raises(ConfigError, match=r"Config\.retry must be Retry"):
            Config(retry=wrong)  # type: ignore[arg-type]


def test_a_file_says_how_often(tmp_path: Path) -> None:
    """In a table of its settings."""
    file = tmp_path / "ratelease.toml"
    file.write_text('[settings]\nurl = "memory://"\n[settings.retry]\nmax_throttled = 7\nschedule = [1, 2.5]\n')
    settled = settle(arguments={}, config_file=file, environment={})
    assert settled.config.retry == Retry(max_throttled=7, schedule=(1, 2.5))
    assert settled.sources["retry"] == "file"
    file.write_text("[settings.retry]\nmax_throttled = 70\n")
    with pytest.raises(ConfigError, match=r"settings\.retry max_throttled must be a whole number from 0 to 20"):
        settle(arguments={}, config_file=file, environment={})
