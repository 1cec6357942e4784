"""The flow of one acquire, as a table: what the store answers, and what the flow does next."""

from typing import Any

import pytest

from ratelease.core import admission
from ratelease.core.admission import Ask, Outer, Tell, Wait
from ratelease.core.keys import make_path
from ratelease.core.model import Answer, Grant, Header, Line, Refusal, Request, Verdict, dimension_label
from ratelease.errors import ImpossibleRequest, LeaseLost, WaitTimeout

PATH = make_path("openai", "gpt-4o", (), None)
LINE = Line(PATH, (), ("c2", "-", "-"), "openai", "gpt-4o")
HEADER = Header(now=1_000_000, epoch="e1", generation=1, ttl=15_000, beat=5000, claim_ttl=3000, following="", timer=0)


def request(**changes: Any) -> Request:
    """A request that waits until 50 s on the monotonic clock."""
    values = {"line": LINE, "id": "id", "n": 1, "weight": 1, "costs": "r1", "deadline": 50.0, "waits": True}
    return Request(**{**values, **changes})


def answer(status: Verdict, dimension: str = "", **changes: Any) -> Answer:
    """What the store says; it was asked at 20 s."""
    values = {"scope": 0, "used": 2, "limit": 2, "at": 0, "position": 0, "estimate": -1}
    return Answer(status, dimension=dimension, header=HEADER, sent=20.0, **{**values, **changes})


GRANTED = answer(Verdict.GRANTED, at=999_990)
PARKED = answer(Verdict.PARKED, "c", position=3)
FULL = answer(Verdict.REFUSED, "c")


def run(replies: list[Any], outer: tuple[Outer, ...] = (), **changes: Any) -> tuple[list[str], Any]:
    """Drive a flow: one reply to each effect. Returns the names of the effects, and the result or the error."""
    flow = admission.acquire(request(**changes), outer)
    effects, pending = [], iter(replies)
    try:
        effect = next(flow)
        while True:
            effects.append(type(effect).__name__)
            effect = flow.send(next(pending))
    except StopIteration as stop:
        return effects, stop.value
    except (ImpossibleRequest, LeaseLost) as error:
        return effects, error


@pytest.mark.parametrize(
    "replies, effects, outcome",
    [
        ([GRANTED], ["Ask"], Grant),
        ([FULL], ["Ask"], Refusal),
        ([answer(Verdict.IMPOSSIBLE, "c")], ["Ask"], ImpossibleRequest),
        ([answer(Verdict.TOMBSTONED)], ["Ask"], LeaseLost),
        ([PARKED, None, GRANTED], ["Ask", "Tell", "Wait"], Grant),
        ([PARKED, None, None], ["Ask", "Tell", "Wait"], Refusal),
        ([PARKED, None, PARKED, GRANTED], ["Ask", "Tell", "Wait", "Wait"], Grant),
        ([PARKED, None, answer(Verdict.IMPOSSIBLE, "c")], ["Ask", "Tell", "Wait"], ImpossibleRequest),
        ([PARKED, None, answer(Verdict.TOMBSTONED)], ["Ask", "Tell", "Wait"], LeaseLost),
        ([PARKED, None, FULL], ["Ask", "Tell", "Wait"], Refusal),
    ],
)
def test_the_flow_asks_tells_once_and_waits(replies: list[Any], effects: list[str], outcome: type) -> None:
    """Each row: replies, effects in order, and how it ends."""
    seen, result = run(replies)
    assert seen == effects
    assert isinstance(result, outcome)


def test_a_grant_ends_one_ttl_after_it_was_asked_for() -> None:
    """Not after it was answered: the store may have counted from the moment of asking."""
    _, grant = run([GRANTED])
    assert 34.99 <= grant.deadline <= 35.0
    assert (grant.at, grant.epoch) == (999_990, "e1")


def test_tell_has_the_answer_that_parked() -> None:
    """The caller learns its place."""
    flow = admission.acquire(request(), ())
    assert isinstance(next(flow), Ask)
    told = flow.send(PARKED)
    assert isinstance(told, Tell)
    assert told.answer is PARKED
    assert isinstance(flow.send(None), Wait)


@pytest.mark.parametrize(
    "dimension, changes, reason, expected, retry_after",
    [
        ("c", {}, "limit", "concurrency", None),
        ("r60000", {"at": 1_007_500}, "limit", "requests/60s", 7.5),
        ("t60000", {"at": 999_000}, "limit", "tokens/60s", 0.0),
        ("queue", {}, "queued", "concurrency", None),
        ("queue:i60000", {"at": 1_001_000}, "queued", "input_tokens/60s", 1.0),
        ("queue:c", {"estimate": 250}, "queued", "concurrency", 0.25),
        ("recovery", {"at": 1_005_000}, "recovering", "recovery", 5.0),
    ],
)
def test_a_refusal_says_why_and_when(
    dimension: str, changes: dict[str, Any], reason: str, expected: str, retry_after: float | None
) -> None:
    """The store's words in people's words."""
    _, refused = run([answer(Verdict.REFUSED, dimension, scope=1, **changes)])
    assert (refused.reason, refused.dimension, refused.retry_after) == (reason, expected, retry_after)
    assert (refused.scope, refused.used, refused.limit) == ("openai", 2, 2)
    assert not refused


def test_a_wait_that_ran_out_is_refused_by_its_deadline_with_the_last_answer() -> None:
    """Place, use and limit are what the store last said."""
    later = answer(Verdict.PARKED, "c", position=1, used=5, limit=6)
    _, refused = run([PARKED, None, later, None])
    assert (refused.reason, refused.position, refused.used, refused.limit) == ("deadline", 1, 5, 6)


@pytest.mark.parametrize("used, limit, words", [(5, 4, "5 of concurrency.*the limit is 4"), (0, 0, "limit is 0")])
def test_an_impossible_request_names_scope_need_and_limit(used: int, limit: int, words: str) -> None:
    """As attributes and in the message."""
    _, error = run([answer(Verdict.IMPOSSIBLE, "c", scope=2, used=used, limit=limit)])
    assert (error.scope, error.dimension, error.used, error.limit) == ("total", "concurrency", used, limit)
    with pytest.raises(ImpossibleRequest, match=words):
        raise error


@pytest.mark.parametrize(
    "dimension, after, advice",
    [
        ("concurrency", 4.0, "Wait longer (timeout=), ask less at once, or raise the limit"),
        ("pace", 4.0, "Wait longer (timeout=), ask less at once, or raise the limit"),
        ("pause", 4.0, "Come back then, or end it by operator.resume(…)"),
        ("pause", None, "End it by operator.resume(…)"),
        ("breaker", 4.0, "Come back then, or let all try by operator.resume(…)"),
        ("recovery", 4.0, "Wait longer (timeout=), or come back then"),
    ],
)
def test_a_timeout_says_what_helps(dimension: str, after: float | None, advice: str) -> None:
    """No higher limit ends a pause."""
    error = admission.denied(Refusal("openai", dimension, 0, 0, after, "deadline"), 30.0, 1)
    assert str(error).endswith(f". {advice}")


def test_a_timeout_says_everything_there_is_to_know() -> None:
    """In words and as attributes."""
    refused = Refusal("openai", "concurrency", 3, 3, 4.25, "deadline", position=7)
    error = admission.denied(refused, 30.04, 2)
    assert isinstance(error, WaitTimeout)
    assert str(error).startswith("no lease after 30.0 s at place 7 of the queue: openai uses 3 of 3 concurrency")
    assert "room is expected in 4.2 s" in str(error)
    assert (error.waited, error.attempts, error.position, error.retry_after) == (30.04, 2, 7, 4.25)


def held(weight: int = 1, *, of: str = "gpt-4o") -> Outer:
    """A lease of the asking context."""
    return Outer("outer-id", make_path("openai", of, (), None).scopes, weight)


@pytest.mark.parametrize(
    "outer, parked, changes, impossible",
    [
        ((), PARKED, {}, False),
        ((held(),), PARKED, {}, False),
        ((held(), held()), PARKED, {}, True),
        ((held(2),), PARKED, {}, True),
        ((held(),), PARKED, {"weight": 2}, True),
        ((held(),), PARKED, {"n": 2}, True),
        ((held(2, of="other"),), PARKED, {}, False),
        ((held(2, of="other"),), answer(Verdict.PARKED, "c", scope=1), {}, True),
        ((held(2),), answer(Verdict.PARKED, "queue:c"), {}, True),
        ((held(2),), answer(Verdict.PARKED, "queue"), {}, True),
        ((held(2),), answer(Verdict.PARKED, "r60000", at=1_050_000), {}, False),
        ((held(2),), answer(Verdict.PARKED, "queue:r60000", at=1_050_000), {}, False),
        ((held(2),), answer(Verdict.PARKED, "recovery", at=1_050_000), {}, False),
    ],
)
def test_waiting_for_oneself_is_impossible(
    outer: tuple[Outer, ...], parked: Answer, changes: dict[str, Any], impossible: bool
) -> None:
    """Only where what the context holds and what it asks for exceed the limit together: time frees the rest."""
    _, result = run([parked, None, GRANTED], outer, **changes)
    assert isinstance(result, ImpossibleRequest) is impossible
    if impossible:
        assert "outer-id" in str(result)


def test_a_refused_try_inside_a_lease_is_a_refusal() -> None:
    """It would not wait, so it cannot wait for itself."""
    _, result = run([FULL], (held(2),), waits=False)
    assert isinstance(result, Refusal)


@pytest.mark.parametrize(
    "sent, status, lingers",
    [
        (0, None, False),
        (1, None, True),
        (1, Verdict.GRANTED, True),
        (1, Verdict.PARKED, True),
        (1, Verdict.REFUSED, False),
        (1, Verdict.IMPOSSIBLE, False),
        (1, Verdict.TOMBSTONED, False),
        (2, Verdict.REFUSED, True),
    ],
)
def test_what_the_store_may_know_of_has_to_be_withdrawn(sent: int, status: Verdict | None, lingers: bool) -> None:
    """A request that never left, or that the store has told it keeps nothing of, leaves nothing behind."""
    asked = request(sent=sent)
    if status is not None:
        asked.note(status)
    assert asked.lingers is lingers


@pytest.mark.parametrize(
    "dimension, words",
    [("c", "concurrency"), ("r60000", "requests/60s"), ("o500", "output_tokens/0.5s"), ("unknown", "unknown")],
)
def test_dimensions_have_words(dimension: str, words: str) -> None:
    """As people read them."""
    assert dimension_label(dimension) == words


def test_a_late_reply_that_it_waits_says_nothing_of_a_request_that_was_granted() -> None:
    """Two copies of it are answered on two connections: the one that is read last is not always the newest."""
    asked = Request(LINE, "id", 1, 1, "r1", 50.0, True, sent=2)
    for status in (Verdict.PARKED, Verdict.GRANTED, Verdict.PARKED):
        asked.note(status)
    assert not asked.parked
    assert asked.lingers
