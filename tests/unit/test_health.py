"""What people are told of a model's health, of what its scopes have learned."""

import pytest

from ratelease.core.health import health_of, recommended_backoff
from ratelease.core.reaction import REASONS, BreakerStatus, Change, Event, Reaction, read_change, read_reaction
from ratelease.core.status import ScopeStatus

NOW = 1_700_000_000.0
THROTTLED = REASONS["t"]


def scopes(*, at=NOW, model=None, **reaction):
    """The scopes of a model that has limits: it, its provider and the total."""
    told = Reaction(**{"limit": 4, "base": 4, "at": at, **reaction})
    mine = {"concurrency": 4, "agreed": {"concurrency": 4}, "reaction": told, **(model or {})}
    return [
        ScopeStatus("openai/gpt-4o", "m:openai:gpt-4o", 0, rates=(), waiting_paths=0, **mine),
        *(ScopeStatus(name, key, 0, None, (), 0) for name, key in (("openai", "p:openai"), ("total", "t"))),
    ]


def failures(*seconds_ago, reason=THROTTLED):
    return tuple(Event(NOW - ago, reason, 4, 2) for ago in seconds_ago)


@pytest.mark.covers("AL-21")
@pytest.mark.parametrize(
    "reaction, healthy",
    [
        ({}, True),
        ({"base": 5, "limit": 4}, True),
        ({"base": 5, "limit": 3}, False),
        ({"base": 100, "limit": 80}, True),
        ({"base": 100, "limit": 79}, False),
        ({"base": None, "limit": None}, True),
        ({"events": failures(0)}, False),
        ({"events": failures(299.9)}, False),
        ({"events": failures(300)}, True),
        ({"events": failures(10, reason="overloaded")}, False),
        ({"events": failures(10, reason="error")}, False),
        ({"events": failures(10, reason="capacity")}, True),
        ({"breaker": BreakerStatus("open", 3.0, False)}, False),
        ({"quota": BreakerStatus("half-open", 0.0, True)}, False),
    ],
)
def test_healthy_means_no_failure_lately_and_four_fifths_of_the_limit(reaction, healthy) -> None:
    """What somebody has reported by a cause of its own is no failure of the provider."""
    assert health_of(scopes(**reaction)).healthy is healthy


@pytest.mark.covers("AL-21")
def test_an_empty_account_is_not_healthy_whichever_scope_it_stops() -> None:
    """It is the provider's, where other failures are the model's."""
    found = scopes()
    empty = Reaction(quota=BreakerStatus("open", 500.0, False))
    found[1] = ScopeStatus("openai", "p:openai", 0, None, (), 0, reaction=empty)
    assert not health_of(found).healthy
    assert health_of(scopes()).healthy


@pytest.mark.covers("AL-22")
def test_recent_429s_are_those_of_five_minutes() -> None:
    """Three of them, until the last is that old; other failures are counted elsewhere."""
    events = (*failures(3, 2, 1), Event(NOW, "timeout error", 4, 2))
    assert health_of(scopes(events=events, at=NOW + 297.5)).recent_429s == 2, "one is older than that"
    assert health_of(scopes(events=events, at=NOW + 296.5)).recent_429s == 3
    assert health_of(scopes(events=events, at=NOW + 300)).recent_429s == 0


@pytest.mark.covers("AL-23")
def test_the_recommended_backoff_doubles_with_each_recent_429() -> None:
    """Less the time since the last one, and never below 0."""
    for count, seconds in enumerate((2, 4, 8, 16, 32, 60, 60, 60), start=1):
        assert recommended_backoff(failures(*range(count - 1, -1, -1)), NOW) == seconds
    assert recommended_backoff(failures(*[0] * 5000), NOW) == 60
    assert recommended_backoff(failures(1.5), NOW) == 0.5
    assert recommended_backoff(failures(100, 90), NOW) == 0
    assert recommended_backoff((), NOW) == 0
    assert recommended_backoff(failures(-50), NOW) == 2, "a clock that went back"
    assert health_of(scopes(events=failures(1))).recommended_backoff == 1.0


@pytest.mark.covers("AL-24")
def test_the_average_is_of_the_newest_fifty_responses() -> None:
    """Rounded to ms; without any, of how long leases are held."""
    responses = (*([9.0] * 10), *([0.1] * 25), *([0.2004] * 25))
    assert health_of(scopes(responses=responses)).average_response == 0.15
    assert health_of(scopes(model={"average_held": 1.25})).average_response == 1.25
    assert health_of(scopes()).average_response is None


def test_pauses_are_those_of_the_whole_path() -> None:
    """The longest; None while only an operator can say."""
    found = scopes(model={"paused": True, "resumes_in": 3.0})
    assert health_of(found).paused_for == 3.0
    found[1] = ScopeStatus("openai", "p:openai", 0, None, (), 0, paused=True, resumes_in=7.5)
    assert health_of(found).paused_for == 7.5
    found[1] = ScopeStatus("openai", "p:openai", 0, None, (), 0, paused=True)
    assert health_of(found).paused_for is None
    assert health_of(scopes()).paused_for == 0.0


@pytest.mark.covers("AL-27")
def test_what_is_no_change_is_not_taken_for_one() -> None:
    """Anybody who may publish could say anything."""
    change = Change("ollama/llama3:8b", "m:ollama:llama3%3a8b", 4, 2, THROTTLED)
    assert read_change("m:ollama:llama3%3a8b 4 2 t") == change
    assert read_change("p:openai 2 4 recovery") == Change("openai", "p:openai", 2, 4, "recovery")
    shown = "\x1b[2J\nroot", "X" * 100, "ü"
    for odd in ("t 4 2 " + "9" * 5000, "t " + "9" * 5000 + " 2 t", *(f"t 4 2 {each}" for each in shown)):
        assert read_change(odd) is None
    for odd in ("", "m:openai:gpt-4o 4 2", "x:y 4 2 t", "t 4.5 2 t", "t 4 -2 t", "t ４ ２ t x", " " * 1000):
        assert read_change(odd) is None


def test_a_store_that_says_nonsense_has_learned_nothing() -> None:
    """History, breakers and responses that cannot be read are left out."""
    history = b"5 t 4 2 ;6 \x1b[2J 4 2 ;7 a\nb 4 2 ;x;1 t 4;-9 t 4 2 ;9 \xff\x00 1 2 q;;"
    found = read_reaction([-1, -1, b"0.0000", b"", b"x y", b"nonsense", b"1 2 3", history, b"12;x;-4;"], 5000)
    assert (found.limit, found.base, found.penalty, found.auto_reduced_from) == (None, None, 0.0, None)
    assert (found.breaker, found.quota, found.responses) == (None, None, (0.012,))
    assert [event.at for event in found.events] == [0.005]
