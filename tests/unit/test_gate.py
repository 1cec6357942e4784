"""The gate in front of the store's queues, without a store."""

from typing import Any

import pytest

from ratelease import Config
from ratelease.core.keys import Keyspace, make_path
from ratelease.core.model import Answer, Header, Line, Request, Verdict
from ratelease.errors import ConfigError, QueueFull, StoreUnavailable
from ratelease.store import gate as gate_module
from ratelease.store.gate import Gates, Place

HEADER = Header(0, "e", 1, 15_000, 5_000, 3_000, "", 0)
PARKED = Answer(Verdict.PARKED, 0, "c", 8, 8, 90_000, 7, 500, HEADER, 0.0)


def line(model: str = "gpt-4o") -> Line:
    path = make_path("openai", model, (), None)
    return Line(path, tuple(Keyspace("test").path_keys(path)), ("-",) * 3, "openai", model)


def requests(*ids: str, model: str = "gpt-4o") -> list[Request]:
    return [Request(line(model), id, 1, 1, "r1", 0.0, True) for id in ids]


class Caller:
    """One that stands, with what it was told."""

    def __init__(self, gates: Gates, *ids: str, threaded: bool = False) -> None:
        self.requests = requests(*ids)
        self.woken = 0
        self.told: list[Answer] = []
        self.place = Place(self.requests, self._wake, self.told.append, threaded=threaded)
        gates.stand(self.place)

    def _wake(self) -> None:
        self.woken += 1


def gates(**settings: Any) -> Gates:
    return Gates(Config(**settings))


def is_empty(gates: Gates) -> bool:
    return not any(each.inside or each.parked or each.local or each.entering for each in gates._gates.values())


@pytest.mark.covers("QU-07")
def test_each_that_leaves_lets_one_in() -> None:
    made = gates(max_parked=2)
    (a,), (b,) = requests("a"), requests("b")
    assert made.pass_by([a])
    assert made.pass_by([b])
    assert not made.pass_by(requests("x"))
    first, second = Caller(made, "c"), Caller(made, "d")
    assert made.waiting() == 2
    made.leave(b)
    assert (first.place.inside, second.place.inside, first.woken) == (True, False, 1)
    made.leave(b)
    assert not second.place.inside, "leaving twice makes no second room"
    made.leave(a)
    assert second.place.inside
    for caller in (first, second):
        made.leave(caller.requests[0])
    assert is_empty(made)


@pytest.mark.covers("QU-07")
def test_paths_have_gates_of_their_own() -> None:
    made = gates(max_parked=1)
    assert made.pass_by(requests("a"))
    assert made.pass_by(requests("b", model="o1"))
    assert not made.pass_by(requests("c"))


@pytest.mark.covers("QU-07")
def test_nobody_passes_those_who_stand() -> None:
    """Not even where there would be room for it, but not for the first in line."""
    made = gates(max_parked=3)
    assert made.pass_by(requests("a"))
    group = Caller(made, "g1", "g2", "g3")
    assert not made.pass_by(requests("b"))
    assert made.pass_by(requests("nested"), anyway=True)
    made.leave(requests("a")[0])
    made.leave(requests("nested")[0])
    assert group.place.inside


@pytest.mark.covers("QU-07")
def test_threads_enter_one_by_one() -> None:
    """The next is let in, and newcomers pass, when the one before has sent its request, or has gone."""
    made = gates(max_parked=5)
    ids = requests("a", "b", "c", "d", "e")
    for request in ids:
        assert made.pass_by([request])
    callers = [Caller(made, name, threaded=True) for name in ("f", "g", "h")]
    for request in ids:
        made.leave(request)
    assert [caller.place.inside for caller in callers] == [True, False, False]
    made.entered(callers[0].place)
    made.entered(callers[0].place)
    assert [caller.place.inside for caller in callers] == [True, True, False]
    made.leave(callers[1].requests[0])
    assert callers[2].place.inside
    assert not made.pass_by(requests("new"))
    made.entered(callers[2].place)
    assert made.pass_by(requests("new"))


@pytest.mark.covers("QU-07")
def test_places_are_counted_from_those_inside() -> None:
    """What is known of the limit is the newest answer of one that is parked; nobody knows until when."""
    made = gates(max_parked=2)
    inside = requests("a", "b")
    assert made.pass_by(inside)
    early = Caller(made, "c", "d")
    assert early.told == []
    made.parked(inside[0], PARKED)
    late = Caller(made, "e")
    made.parked(inside[1], PARKED)
    assert [(each.position, each.at, each.estimate, each.used) for each in early.told] == [(3, 0, -1, 8)]
    assert [each.position for each in late.told] == [5]
    refused = made.stood(late.place)
    assert not isinstance(refused, Place)
    assert (refused.position, refused.reason, refused.retry_after, refused.limit) == (5, "deadline", None, 8)
    assert made.waiting() == 2


@pytest.mark.covers("QU-07")
def test_an_old_answer_is_not_told() -> None:
    """Once nobody is inside, what was known is forgotten."""
    made = gates(max_parked=1)
    (a,) = requests("a")
    made.pass_by([a])
    made.parked(a, PARKED)
    made.leave(a)
    made.pass_by([a])
    caller = Caller(made, "b")
    assert caller.told == []
    with pytest.raises(StoreUnavailable, match="answered none of the 1 requests"):
        made.stood(caller.place)
    assert made.waiting() == 0


@pytest.mark.covers("QU-07")
def test_the_last_to_come_is_sent_away_when_more_wait_than_may() -> None:
    made = gates(max_parked=2, max_waiting=3)
    inside = requests("a", "b")
    assert made.pass_by(inside)
    callers = [Caller(made, name) for name in ("c", "d", "e")]
    made.parked(inside[0], PARKED)
    assert [type(caller.place.error) for caller in callers] == [type(None), type(None), QueueFull]
    made.parked(inside[1], PARKED)
    assert [type(caller.place.error) for caller in callers] == [type(None), QueueFull, QueueFull]
    assert [caller.woken for caller in callers] == [0, 1, 1]
    for attempt in (made.pass_by, lambda each: made.pass_by(each, anyway=True), lambda each: Caller(made, each[0].id)):
        with pytest.raises(QueueFull) as caught:
            attempt(requests("f"))
        assert (caught.value.used, caught.value.limit) == (3, 3)
    with pytest.raises(QueueFull):
        made.stood(callers[2].place)


@pytest.mark.covers("QU-07")
def test_a_gate_mends_what_an_interrupt_has_left_half_done() -> None:
    """In the middle of letting somebody in: inside and still standing. Leaving, its own or another's, goes on there."""
    made = gates(max_parked=1)
    (a,) = requests("a")
    made.pass_by([a])
    first, second = Caller(made, "b"), Caller(made, "c")
    one = made._gates[a.line.path.name]
    one.admit(first.requests)
    made.leave(a)
    made.leave(first.requests[0])
    assert second.place.inside
    made.leave(second.requests[0])
    assert is_empty(made)


@pytest.mark.covers("QU-07")
def test_closing_sends_everybody_away_and_lets_nobody_stand() -> None:
    made = gates(max_parked=1)
    made.pass_by(requests("a"))
    first = Caller(made, "b")
    made.close()
    late = Caller(made, "c")
    assert [type(caller.place.error) for caller in (first, late)] == [StoreUnavailable] * 2
    assert (first.woken, late.woken, made.waiting()) == (1, 1, 0)


def test_gates_of_paths_that_nobody_uses_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_module, "MOST_GATES", 4)
    made = gates()
    kept = requests("kept", model="busy")
    made.pass_by(kept)
    for number in range(50):
        (request,) = requests("a", model=f"m{number}")
        made.pass_by([request])
        made.leave(request)
    assert len(made._gates) <= 4
    assert kept[0].line.path.name in made._gates


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"max_parked": 0, "max_waiting": -1}, ["max_parked", "1 to 100,000", "max_waiting", "from 0"]),
        ({"max_parked": 100_001}, ["max_parked"]),
        ({"max_parked": 2.0}, ["max_parked"]),
        ({"max_parked": True, "max_waiting": True}, ["max_parked", "max_waiting"]),
        ({"max_waiting": "many"}, ["max_waiting", "'many'"]),
    ],
)
def test_counts_out_of_range_are_refused(settings: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        Config(**settings)
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.covers("QU-07")
def test_one_that_has_left_before_it_hears_that_it_waits_is_not_counted() -> None:
    """It was granted in between: a place that nobody gives back would be lost for ever."""
    made = gates(max_waiting=1)
    (one,) = requests("a")
    assert made.pass_by([one])
    made.leave(one)
    made.parked(one, PARKED)
    assert is_empty(made)
    assert made.pass_by(requests("b"))
