"""Strategy "parallelism": how far failures cut the limit, and how it grows again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ratelease import Limits
from ratelease.strategies import Parallelism
from support.clock import DrivenClock
from support.store import PARKED, REFUSED, Instance, Store, let_pass

MakeStore = Callable[..., Store]
# Without a shared pause, of which test_reactions_pauses.py tells.
THROTTLED, TIMEOUT, ERROR, OVERLOADED = "t,-1,,0", "w,-1,", "e,-1,", "v,-1,"
MODEL = "gpt-4o"


def limits(base: int | None = None, **figures: object) -> dict[str, Limits]:
    """Limits of the one model; without a base, that of the strategy is it."""
    return {f"openai/{MODEL}": Limits(concurrency=base, strategy=Parallelism(**figures))}  # type: ignore[arg-type]


def limit(one: Instance) -> int | None:
    """The limit in force."""
    return one.reaction(MODEL).limit


def ladder(one: Instance, clock: DrivenClock, lesson: str, steps: int) -> list[int | None]:
    """The limits after so many episodes, a second apart."""
    found = []
    for _ in range(steps):
        clock.advance(1)
        one.call(MODEL, lesson)
        found.append(limit(one))
    return found


@pytest.mark.covers("AL-03", "AL-05")
@pytest.mark.parametrize(
    "base, lesson, left, inside, reason",
    [
        (4, THROTTLED, 2, 2.8, "429 rate limit error"),
        (16, THROTTLED, 11, 11.2, "429 rate limit error"),
        (16, TIMEOUT, 14, 14.4, "timeout error"),
        (4, TIMEOUT, 3, 3.6, "timeout error"),
    ],
)
def test_one_failure_multiplies_the_limit_down(
    make_store: MakeStore, base: int, lesson: str, left: int, inside: float, reason: str
) -> None:
    """What is left has fractions inside, and the reason is told."""
    one = make_store(limits=limits(base)).instance()
    one.call(MODEL, lesson)
    reaction = one.reaction(MODEL)
    assert (reaction.limit, reaction.parallelism, reaction.reason) == (left, pytest.approx(inside), reason)
    granted = [each.granted for each in one.send([one.request(MODEL) for _ in range(base)])]
    assert granted.count(True) == left


@pytest.mark.covers("AL-03")
def test_where_nothing_is_known_it_begins_with_four(make_store: MakeStore) -> None:
    """No concurrency is configured: the strategy's own base is the limit."""
    one = make_store(limits=limits()).instance()
    assert [each.granted for each in one.send([one.request(MODEL) for _ in range(5)])] == [True] * 4 + [False]
    assert (limit(one), one.reaction(MODEL).reason) == (4, "initial")


@pytest.mark.covers("AL-04")
def test_the_ladder_of_429s_ends_at_the_floor(make_store: MakeStore, clock: DrivenClock) -> None:
    """With fractions, or cut to whole numbers at each step; a minimum of one's own holds."""
    one = make_store(limits=limits(16)).instance()
    assert ladder(one, clock, THROTTLED, 9) == [11, 7, 5, 3, 2, 1, 1, 1, 1]
    one = make_store(limits=limits(16, whole_numbers=True)).instance()
    assert ladder(one, clock, THROTTLED, 6) == [11, 7, 4, 2, 1, 1]
    one = make_store(limits=limits(16, min=3)).instance()
    assert ladder(one, clock, THROTTLED, 6) == [11, 7, 5, 3, 3, 3]


@pytest.mark.covers("AL-28")
def test_what_changes_nothing_is_told_to_nobody(make_store: MakeStore, clock: DrivenClock) -> None:
    """The fourth cut leaves 1, as the third did: three changes, each once."""
    store = make_store(limits=limits(4))
    one = store.instance()
    store.listen()
    assert ladder(one, clock, THROTTLED, 4) == [2, 1, 1, 1]
    told = [(scope, words) for name, scope, words in store.mail() if name == "everyone"]
    assert told == [("m:openai:gpt-4o", ["4", "2", "t"]), ("m:openai:gpt-4o", ["2", "1", "t"])]
    store.close()


@pytest.mark.covers("AL-06")
def test_an_error_is_mild(make_store: MakeStore, clock: DrivenClock) -> None:
    """Five leave three of four; its factor is configurable. An overload takes nothing."""
    one = make_store(limits=limits(4)).instance()
    assert ladder(one, clock, ERROR, 5) == [3] * 5
    assert one.reaction(MODEL).parallelism == pytest.approx(4 * 0.95**5, abs=1e-3)
    one = make_store(limits=limits(10, reduction_on_error=0.5)).instance()
    assert ladder(one, clock, ERROR, 2) == [5, 2]
    one = make_store(limits=limits(4)).instance()
    assert ladder(one, clock, OVERLOADED, 2) == [4] * 2


@pytest.mark.covers("AL-09", "AL-43")
@pytest.mark.parametrize("reported", [False, True])
def test_a_burst_of_429s_is_one_event(make_store: MakeStore, clock: DrivenClock, reported: bool) -> None:
    """Sixteen calls in flight from four instances fail within a second: 11 are left, not 1."""
    store = make_store(limits=limits(16))
    four = [store.instance() for _ in range(4)]
    held = [(one, one.acquire(MODEL)) for one in four for _ in range(4)]
    for number, (one, asked) in enumerate(held):
        clock.advance(0.06)
        if reported:
            one.report(MODEL, THROTTLED)
        else:
            one.release(MODEL, asked.id, lesson=THROTTLED)
        assert limit(four[(number + 1) % 4]) == 11
    assert len(four[0].reaction(MODEL).events) == 1


@pytest.mark.covers("AL-43")
def test_a_report_with_the_same_id_counts_once(make_store: MakeStore, clock: DrivenClock) -> None:
    """However late it comes again, up to four lease TTLs; a new one of a new incident counts."""
    store = make_store(limits=limits(16))
    one, two = store.instance(), store.instance()
    assert one.report(MODEL, THROTTLED, "incident-1")
    for _ in range(9):
        let_pass(clock, 6, one, two)
        assert not two.report(MODEL, THROTTLED, "incident-1")
    assert limit(one) == 11
    clock.advance(4)
    assert two.report(MODEL, THROTTLED, "incident-2")
    assert limit(one) < 11


@pytest.mark.covers("AL-10")
def test_a_429_of_a_call_after_the_cut_cuts_again(make_store: MakeStore, clock: DrivenClock) -> None:
    """One of the very moment of the cut, or before it, does not."""
    one = make_store(limits=limits(16)).instance()
    before, with_it, after = one.acquire(MODEL), one.acquire(MODEL), None
    clock.advance(1)
    simultaneous = one.acquire(MODEL)
    one.release(MODEL, before.id, lesson=THROTTLED)
    clock.advance(0.001)
    after = one.acquire(MODEL)
    for late in (with_it, simultaneous):
        one.release(MODEL, late.id, lesson=THROTTLED)
        assert limit(one) == 11
    one.release(MODEL, after.id, lesson=THROTTLED)
    assert limit(one) == 7


@pytest.mark.covers("AL-11", "AL-12")
def test_it_recovers_step_by_step_from_the_last_failure(make_store: MakeStore, clock: DrivenClock) -> None:
    """A step a minute without a failure, timed from it; nobody has to call."""
    one = make_store(limits=limits(4)).instance()
    ladder(one, clock, THROTTLED, 3)
    clock.advance(30)
    one.call(MODEL, TIMEOUT)
    assert limit(one) == 1
    clock.advance(59.9)
    assert limit(one) == 1
    for expected in (2, 3, 4, 4):
        clock.advance(0.1)
        reaction = one.reaction(MODEL)
        assert (reaction.limit, reaction.reason) == (expected, "recovery")
        clock.advance(59.9)


@pytest.mark.covers("AL-11")
def test_a_tenth_of_much_is_more_than_one(make_store: MakeStore, clock: DrivenClock) -> None:
    """70 of 100 become 77, and 84.7; never more than the base by time alone."""
    one = make_store(limits=limits(100, max=200)).instance()
    one.call(MODEL, THROTTLED)
    found = []
    for _ in range(5):
        clock.advance(60)
        found.append(limit(one))
    assert found == [77, 84, 93, 100, 100]


@pytest.mark.covers("AL-13")
def test_above_the_base_it_grows_where_it_was_used_and_clean(make_store: MakeStore, clock: DrivenClock) -> None:
    """All four in use and a clean success: 5, and so on to the maximum, never above."""
    one = make_store(limits=limits(4, max=6)).instance()
    for expected in (5, 6, 6):
        held = [one.acquire(MODEL) for _ in range(limit(one) or 0)]
        clock.advance(1)
        one.release_all(MODEL, [each.id for each in held], lesson="o")
        clock.advance(59)
        assert limit(one) == expected


@pytest.mark.covers("AL-13", "AL-16")
@pytest.mark.parametrize(
    "figures, used, lesson",
    [
        ({"probe": False}, 4, "o"),
        ({}, 3, "o"),  # three of four are no four fifths
        ({}, 4, ""),  # a retried success, an aborted stream: nothing clean was told
        ({}, 4, OVERLOADED),
    ],
)
def test_above_the_base_nothing_grows_without_evidence(
    make_store: MakeStore, clock: DrivenClock, figures: dict[str, object], used: int, lesson: str
) -> None:
    """Not where probing is off, too little was in use, or no call ended clean."""
    one = make_store(limits=limits(4, **figures)).instance()
    for _ in range(3):
        held = [one.acquire(MODEL) for _ in range(used)]
        clock.advance(1)
        one.release_all(MODEL, [each.id for each in held], lesson=lesson)
        clock.advance(60)
    assert limit(one) == 4


@pytest.mark.covers("AL-13")
def test_one_failure_in_the_interval_spoils_its_evidence(make_store: MakeStore, clock: DrivenClock) -> None:
    """Four in use and clean successes, then an error: the interval begins anew, from less."""
    one = make_store(limits=limits(4)).instance()
    held = [one.acquire(MODEL) for _ in range(4)]
    clock.advance(1)
    one.release_all(MODEL, [each.id for each in held[:3]], lesson="o")
    clock.advance(1)
    one.release(MODEL, held[3].id, lesson=ERROR)
    clock.advance(58.5)
    assert one.reaction(MODEL).parallelism == pytest.approx(3.8)
    clock.advance(1.5)
    assert limit(one) == 4


@pytest.mark.covers("AL-14")
@pytest.mark.parametrize("looked_at", [False, True])
def test_what_grew_falls_back_when_nothing_runs(make_store: MakeStore, clock: DrivenClock, looked_at: bool) -> None:
    """Ten minutes without traffic: the base again, and it stays. Whether somebody looks meanwhile or not."""
    one = make_store(limits=limits(4)).instance()
    held = [one.acquire(MODEL) for _ in range(4)]
    clock.advance(1)
    one.release_all(MODEL, [each.id for each in held], lesson="o")
    clock.advance(60)
    assert limit(one) == 5
    for _ in range(10):
        clock.advance(60)
        if looked_at:
            one.grant(MODEL)
    assert limit(one) == 4
    clock.advance(600)
    assert limit(one) == 4


@pytest.mark.covers("AL-15")
def test_ten_instances_take_one_step_an_interval(make_store: MakeStore, clock: DrivenClock) -> None:
    """Each of them calls when it is due: 1, then 2, not 11; and it is told once."""
    store = make_store(limits=limits(16))
    ten = [store.instance() for _ in range(10)]
    ladder(ten[0], clock, THROTTLED, 6)
    store.listen()
    let_pass(clock, 60, *ten)
    for one in ten:
        one.call(MODEL)
        assert limit(one) == 2
    assert [words for name, _, words in store.mail() if name == "everyone"] == [["1", "2", "recovery"]]
    store.close()


@pytest.mark.covers("AL-32")
def test_a_streak_of_429s_cuts_harder_where_asked(make_store: MakeStore, clock: DrivenClock) -> None:
    """From the third by half as well, the fifth to the minimum; a clean success ends the streak."""
    one = make_store(limits=limits(64, escalate=True)).instance()
    assert ladder(one, clock, THROTTLED, 5) == [44, 31, 10, 3, 1]
    one = make_store(limits=limits(64, escalate=True)).instance()
    assert ladder(one, clock, THROTTLED, 2) == [44, 31]
    clock.advance(1)
    one.call(MODEL)
    assert ladder(one, clock, THROTTLED, 3) == [21, 15, 5]


@pytest.mark.covers("AL-36")
def test_one_less_than_were_in_flight_where_asked(make_store: MakeStore) -> None:
    """Sixteen allowed, six in flight at the 429: five. Never more than before, never less than the minimum."""
    one = make_store(limits=limits(16, in_flight=True)).instance()
    held = [one.acquire(MODEL) for _ in range(6)]
    one.release(MODEL, held[0].id, lesson=THROTTLED)
    assert limit(one) == 5
    one = make_store(limits=limits(16, in_flight=True)).instance()
    one.call(MODEL, THROTTLED)
    assert limit(one) == 1


@pytest.mark.covers("AL-39")
def test_refusals_and_waits_of_our_own_teach_nothing(make_store: MakeStore, clock: DrivenClock) -> None:
    """Neither does what is withdrawn, never sent, or ended without a word."""
    one = make_store(limits=limits(2)).instance()
    held = [one.acquire(MODEL) for _ in range(2)]
    for _ in range(10):
        clock.advance(0.1)
        assert one.acquire(MODEL).status is REFUSED
        waiter = one.acquire(MODEL, wait=1.0)
        assert waiter.status is PARKED
        one.release(MODEL, waiter.id, unsent=True)
    one.release(MODEL, held[0].id, unsent=True)
    one.release(MODEL, held[1].id)
    reaction = one.reaction(MODEL)
    assert (reaction.limit, reaction.parallelism, reaction.events) == (2, 2.0, ())


@pytest.mark.covers("AL-07")
def test_mistakes_of_callers_neither_cut_nor_delay_a_recovery(make_store: MakeStore, clock: DrivenClock) -> None:
    """They end their leases without a lesson, a thousand of them."""
    one = make_store(limits=limits(4)).instance()
    one.call(MODEL, THROTTLED)
    for _ in range(50):
        clock.advance(1)
        for asked in (one.send([one.request(MODEL) for _ in range(2)]) for _ in range(10)):
            one.release_all(MODEL, [each.id for each in asked])
    assert limit(one) == 2
    clock.advance(10)
    assert limit(one) == 3


@pytest.mark.covers("AL-40")
def test_a_429_of_a_rate_that_is_limited_here_cuts_no_concurrency(make_store: MakeStore, clock: DrivenClock) -> None:
    """What was exceeded is told. One that nothing here limits may well be due to too many calls."""
    both = {f"openai/{MODEL}": Limits(concurrency=8, rpm=100, strategy=Parallelism())}
    one = make_store(limits=both).instance()
    one.call(MODEL, "t,-1,r")
    reaction = one.reaction(MODEL)
    assert (reaction.limit, reaction.events[-1].dimension) == (8, "requests")
    clock.advance(1)
    one.call(MODEL, "t,-1,t")
    assert (limit(one), one.reaction(MODEL).events[-1].dimension) == (5, "tokens")


@pytest.mark.covers("AL-40")
def test_a_scope_of_rates_alone_is_cut_where_the_rate_is_what_was_exceeded(make_store: MakeStore) -> None:
    """It limits no concurrency of its own, so what the strategy has set is what calls too much."""
    one = make_store(limits={f"openai/{MODEL}": Limits(rpm=600, strategy="parallelism")}).instance()
    one.call(MODEL, "t,-1,r")
    assert one.reaction(MODEL).limit == 2
