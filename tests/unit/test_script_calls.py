"""What goes into each script call, and what comes out of its answer."""

from typing import Any

import pytest

from ratelease.core import scripts
from ratelease.core.keys import Keyspace, make_path
from ratelease.core.model import UNTIL_RESUMED, Answer, Ended, Held, Line, Request, Verdict, costs_of
from ratelease.core.reaction import Event, Reaction
from ratelease.core.scripts import Ending
from ratelease.core.session import Session
from ratelease.core.status import read_snapshot
from ratelease.core.upstream import UsageStatus
from ratelease.errors import StoreUnavailable
from ratelease.testing import config

KEYSPACE = Keyspace("fleet")
PATH = make_path("openai", "gpt-4o", (), None)
LINE = Line(PATH, tuple(KEYSPACE.path_keys(PATH)), ("c8 r60000=500+250", "-", "none"), "openai", "gpt-4o")
HEAD = [0, 1_000_000, b"epoch-1", 42, 15_000, 5000, 3000, b"", 0]


@pytest.fixture
def session() -> Session:
    """A session that knows nothing of the store yet."""
    return Session.begin(config(), "instance-1", "fresh-epoch")


def request(number: int = 1, **changes: Any) -> Request:
    """A request that waits until 50 s on the monotonic clock."""
    values = {"line": LINE, "n": 1, "weight": 1, "costs": "r1", "deadline": 50.0, "waits": True}
    return Request(id=f"id-{number}", **{**values, **changes})


def test_every_call_begins_with_who_asks(session: Session) -> None:
    """Instance, generation, epochs, times, path, inbox and limits, in the order of the headers in lua/."""
    call = scripts.acquire(session, KEYSPACE, [request()], 20.0)
    assert call.script == "acquire"
    assert call.keys == LINE.keys
    assert call.arguments[:9] == [
        *("instance-1", 0, "", "fresh-epoch", 1000, 250, 500),
        "m:openai:gpt-4o~p:openai~t",
        "rl:{fleet}:inbox:",
    ]
    assert call.arguments[9:12] == ["c8 r60000=500+250", "-", "none"]
    assert call.arguments[12:] == ["id-1", 1, 1, 30_000, "r1"]


@pytest.mark.parametrize(
    "changes, wait",
    [
        ({"deadline": 50.0}, 30_000),
        ({"deadline": 20.0}, 1),
        ({"deadline": 5.0}, 1),
        ({"deadline": float("inf")}, 0),
        ({"waits": False}, -1),
        ({"waits": False, "deadline": float("inf")}, -1),
    ],
)
def test_a_wait_is_whole_ms_for_ever_or_not_at_all(session: Session, changes: dict[str, Any], wait: int) -> None:
    """At least 1 ms, 0 without end, -1 for a try."""
    call = scripts.acquire(session, KEYSPACE, [request(**changes)], 20.0)
    assert call.arguments[-2] == wait


def test_a_batch_repeats_the_last_arguments(session: Session) -> None:
    """Five values a request, five an ending, four a lease."""
    call = scripts.acquire(session, KEYSPACE, [request(1), request(2, n=3, weight=2, costs="r1t9")], 20.0)
    assert call.arguments[12:] == ["id-1", 1, 1, 30_000, "r1", "id-2", 3, 2, 30_000, "r1t9"]
    endings = [Ending(LINE, "a"), Ending(LINE, "b", unsent=True, may_land=True)]
    endings.append(Ending(LINE, "c", usage="t9", only_settle=True, hold=350))
    assert scripts.release(session, KEYSPACE, endings).arguments[12:] == [
        *("a", "0", 0, "", ""),
        *("b", "1", 1, "", ""),
        *("c", "2", 0, "t9", 350),
    ]
    held = [Held("a", 1, 999, "r1"), Held("b", 2, 998, "r1t9")]
    call = scripts.renew(session, KEYSPACE, LINE, held, "epoch-0")
    assert call.arguments[12:] == ["a", 1, 999, "r1", "b", 2, 998, "r1t9"]


def test_a_renewal_speaks_of_the_epoch_under_which_it_was_confirmed(session: Session) -> None:
    """Not of the one that the session has learnt meanwhile."""
    session.note(scripts.header(HEAD))
    call = scripts.renew(session, KEYSPACE, LINE, [Held("a", 1, 999, "r1")], "epoch-0")
    assert call.arguments[2] == "epoch-0"
    assert scripts.grant(session, KEYSPACE, LINE).arguments[2] == "epoch-1"


def test_a_session_takes_over_generation_and_epoch_and_notices_a_lost_store(session: Session) -> None:
    """The generation only rises; another epoch than the known one means that data was lost."""
    assert session.note(scripts.header(HEAD)) is False
    assert (session.generation, session.epoch) == (42, "epoch-1")
    assert session.note(scripts.header(HEAD)) is False
    lower = [*HEAD[:2], b"epoch-2", 7, *HEAD[4:]]
    assert session.note(scripts.header(lower)) is True
    assert (session.generation, session.epoch) == (42, "epoch-2")


def test_an_answer_is_read_value_by_value() -> None:
    """Header, then eight values a request."""
    reply = [*HEAD[:7], b"m:a:b~p:a~t", 1_000_500]
    reply += [2, 1, b"c", 5, 5, 1_000_200, 3, 750]
    reply += [1, -1, b"", 0, 0, 7, 0, -1]
    parked, granted = scripts.acquire_answers(reply, 20.0)
    head = parked.header
    assert (head.now, head.epoch, head.generation) == (1_000_000, "epoch-1", 42)
    assert (head.ttl, head.beat, head.claim_ttl, head.following, head.timer) == (
        *(15_000, 5000, 3000),
        "m:a:b~p:a~t",
        1_000_500,
    )
    assert parked == Answer(Verdict.PARKED, 1, "c", 5, 5, 1_000_200, 3, 750, head, 20.0)
    assert (granted.status, granted.at) == (Verdict.GRANTED, 7)


def test_the_other_answers_are_read_as_well() -> None:
    """How leases ended, and ids."""
    head, ended = scripts.release_answers([*HEAD, 1, 2, 3, 4])
    assert head.now == 1_000_000
    assert ended == [Ended.RELEASED, Ended.LOST, Ended.WITHDRAWN, Ended.UNKNOWN]
    assert scripts.ids_after_header([*HEAD, b"a", b"b"])[1] == ["a", "b"]


def test_a_store_of_a_newer_schema_is_refused_in_words() -> None:
    """It says which schema, and what to do."""
    with pytest.raises(StoreUnavailable, match="schema is 2, this version of ratelease knows up to 1: upgrade"):
        scripts.header([1, b"2"])


@pytest.mark.parametrize("reply", [None, b"OK", [], [0], [7, *HEAD[1:]], HEAD[:5], 3])
def test_an_answer_that_is_none_of_ours_is_refused(reply: Any) -> None:
    """Nothing is guessed."""
    with pytest.raises(StoreUnavailable, match="no script of ratelease says"):
        scripts.header(reply)


def test_reset_says_which_scopes_are_meant(session: Session) -> None:
    """Everything, the namespace, then one flag a scope; then keys of instances and operators."""
    call = scripts.reset(session, KEYSPACE, LINE, [True, False, True], everything=False, namespace=True)
    assert call.arguments[12:] == [0, 1, 1, 0, 1]
    assert list(call.keys) == [*LINE.keys, "rl:{fleet}:profiles", "rl:{fleet}:journal"]


def test_somebody_elses_path_is_called_without_guessing_its_limits(session: Session) -> None:
    """A question mark for every scope."""
    line = scripts.foreign_line(KEYSPACE, PATH)
    assert scripts.grant(session, KEYSPACE, line).arguments[9:] == ["?", "?", "?"]
    assert (line.provider, line.model, line.keys) == ("openai", "gpt-4o", LINE.keys)


def test_the_list_of_instances_is_kept_by_beats(session: Session) -> None:
    """Staying or leaving."""
    assert scripts.beat(session, KEYSPACE, b"profile").arguments[9:] == ["stay", b"profile"]
    assert scripts.beat(session, KEYSPACE, b"", leave=True).arguments[9:] == ["leave", b""]


@pytest.mark.parametrize(
    "charges, costs",
    [({"requests": 1}, "r1"), ({"requests": 1, "tokens": 1200, "input_tokens": 0, "output_tokens": 5}, "r1t1200o5")],
)
def test_costs_are_one_word(charges: dict[str, int], costs: str) -> None:
    """What is 0 is not charged."""
    assert costs_of(charges) == costs


def test_a_snapshot_is_read_scope_by_scope() -> None:
    """Use, limits and rates of each scope, and the queue of the path."""
    nothing = (-1, -1, b"0.0000", b"", b"", b"", b"", b"", b"", *[b""] * 5, 0, 0)
    reply = [
        *(0, 1_000_000, b"e", 3, 2500, 900, 3),
        *(42, b"c4", b"c8 r60000=500+250", b"c8", 0, 7, 1),
        *(4, 8, b"1.0000", b"", b"", b"", b"", b"999000 t 8 4 r;nonsense", b"120;80"),
        *(b"1060000 0 0 350 3000 3000 30000 350 0", b"9 999500 17 0 3 0 0 3 12", b"abc 1009000", b"2", b"14", 1, 2),
        *(1, b"r60000", 120, 500),
        *(-1, b"none", b"none", b"", 1_005_000, 7, 0, *nothing, 0),
        *(42, b"none", b"none", b"", UNTIL_RESUMED, 9, 0, *nothing, 0),
    ]
    scopes, queue = read_snapshot(PATH, reply)
    assert [(each.scope, each.in_flight, each.concurrency, each.waiting_paths) for each in scopes] == [
        ("openai/gpt-4o", 7, 4, 1),
        ("openai", 7, None, 0),
        ("total", 9, None, 0),
    ]
    assert [(each.paused, each.resumes_in) for each in scopes] == [(False, None), (True, 5.0), (True, None)]
    assert scopes[0].overrides == {"concurrency": 8}
    event = Event(999.0, "429 rate limit error", 8, 4, "requests")
    assert scopes[0].reaction == Reaction(4, 8, 1.0, at=1000.0, events=(event,), responses=(0.12, 0.08))
    assert scopes[0].usage == UsageStatus(9, 0.5, 3, 12, 14, 2, "abc", active=True, strict=False)
    assert (scopes[0].cooling, scopes[0].held, scopes[1].usage) == (1, 2, None)
    rate = scopes[0].rates[0]
    assert (rate.dimension, rate.used, rate.limit, rate.remaining) == ("requests/60s", 120, 500, 380)
    assert queue is not None
    assert (queue.waiting, queue.head_waited) == (3, 2.5)
    assert read_snapshot(PATH, [*reply[:3], 0, -1, *reply[5:]])[1] is None
