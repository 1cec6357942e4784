"""Pauses that the whole fleet keeps: asked for by the provider, grown by repeated 429s, and how they end."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest

from ratelease import Limits
from support.clock import START_MS, DrivenClock
from support.store import FOR_EVER, PARKED, REFUSED, Instance, Store, let_pass

MakeStore = Callable[..., Store]
MODEL = "gpt-4o"
SCOPE = "m:openai:gpt-4o"
LIMITS = {f"openai/{MODEL}": Limits(concurrency=50)}
OFF = {f"openai/{MODEL}": Limits(concurrency=50, strategy="off")}
UNSAID = "t,-1,"


def paused_until(one: Instance) -> float | None:
    """Seconds since the start at which the next call is admitted; None where that is now."""
    answer = one.look(MODEL)[0][0]
    return round(one.store.now() + answer.resumes_in * 1000 - START_MS) / 1000 if answer.resumes_in else None


def episode(one: Instance, clock: DrivenClock, lesson: str = UNSAID) -> float | None:
    """One 429 of a call that began after everything before it; seconds of the pause that it began."""
    clock.advance(0.001)
    asked = one.acquire(MODEL)
    assert asked.granted, asked.answer
    clock.advance(0.001)
    one.release(MODEL, asked.id, lesson=lesson)
    until = paused_until(one)
    return None if until is None else round(until - (one.store.now() - START_MS) / 1000, 3)


@pytest.mark.covers("RT-07")
@pytest.mark.parametrize("strategy", [None, "off", "parallelism", "decrement"])
def test_a_retry_after_holds_every_instance(make_store: MakeStore, clock: DrivenClock, strategy: str | None) -> None:
    """Seven seconds in which nobody is admitted, whatever the strategy is; newcomers learn the time."""
    store = make_store(limits={f"openai/{MODEL}": Limits(concurrency=50, strategy=strategy)})
    one, two = store.instance(), store.instance()
    waiting = two.request(MODEL, wait=FOR_EVER)
    one.call(MODEL, "t,7000,")
    waiter = two.send([waiting])[0]
    assert (waiter.status, waiter.answer.dimension, waiter.answer.at) == (PARKED, "pause", START_MS + 7000)
    assert waiter.answer.header.timer == START_MS + 7000
    for _ in range(70):
        for each in (one, two):
            assert each.acquire(MODEL).status is REFUSED
            assert each.grant(MODEL) == []
        clock.advance(0.1)
    assert two.grant(MODEL) == [waiter.id]


@pytest.mark.covers("RT-07")
def test_who_cannot_outwait_a_pause_is_told_at_once(make_store: MakeStore) -> None:
    """With the time at which it ends."""
    one = make_store(limits=LIMITS).instance()
    one.call(MODEL, "t,7000,")
    assert one.acquire(MODEL, wait=6.9).status is REFUSED
    assert one.acquire(MODEL, wait=7.1).status is PARKED


@pytest.mark.covers("RT-09")
@pytest.mark.parametrize("lesson", ["t,5000,", "t,0,", UNSAID, "v,1000,", "e,1000,", "w,-1,"])
def test_a_pause_only_extends(make_store: MakeStore, clock: DrivenClock, lesson: str) -> None:
    """Until 60 s; a 429 with 5 s at 10 s leaves it so. A longer one counts, even of the same episode."""
    one = make_store(limits=LIMITS).instance()
    first, second, third = (one.acquire(MODEL) for _ in range(3))
    one.release(MODEL, first.id, lesson="t,60000,")
    clock.advance(10)
    one.release(MODEL, second.id, lesson=lesson)
    assert paused_until(one) == 60
    one.release(MODEL, third.id, lesson="t,55000,")
    assert paused_until(one) == 65


@pytest.mark.covers("RT-11")
def test_a_success_ends_no_pause(make_store: MakeStore, clock: DrivenClock) -> None:
    """Neither of a call from before the 429, nor of one after it whose answer comes meanwhile."""
    one = make_store(limits=LIMITS).instance()
    before, failed = one.acquire(MODEL), one.acquire(MODEL)
    one.release(MODEL, failed.id, lesson="t,7000,")
    clock.advance(1)
    one.release(MODEL, before.id, lesson="o")
    one.report(MODEL, "o")
    clock.advance(5.5)
    one.report(MODEL, "o")
    assert paused_until(one) == 7


@pytest.mark.covers("RT-08")
def test_a_429_without_a_hint_cuts_and_pauses_nobody(make_store: MakeStore, clock: DrivenClock) -> None:
    """Not the first, nor the second; from the third within 30 s without a clean success a pause grows."""
    one = make_store(limits=LIMITS).instance()
    assert episode(one, clock) is None
    assert one.reaction(MODEL).limit == 16
    assert episode(one, clock) is None
    assert one.reaction(MODEL).limit == 10
    assert episode(one, clock) == 0.8


@pytest.mark.covers("RT-08")
def test_what_is_further_apart_is_no_series(make_store: MakeStore, clock: DrivenClock) -> None:
    """A clean success between begins it anew, and so do 30 s. Many failures of one episode are one."""
    one = make_store(limits=OFF).instance()
    for _ in range(4):
        assert episode(one, clock) is None
        assert episode(one, clock) is None
        clock.advance(0.001)
        one.call(MODEL)
    for _ in range(4):
        assert episode(one, clock) is None
        assert episode(one, clock) is None
        let_pass(clock, 30.1, one)
    held = [one.acquire(MODEL) for _ in range(9)]
    one.release_all(MODEL, [each.id for each in held], lesson=UNSAID)
    assert paused_until(one) is None


@pytest.mark.covers("RT-08")
@pytest.mark.parametrize("fixed, expected", [(4000, 4.0), (0, None)])
def test_a_fixed_pause_takes_the_place_of_growing_ones(
    make_store: MakeStore, clock: DrivenClock, fixed: int, expected: float | None
) -> None:
    """From the third episode on, each time the same; 0 is none."""
    one = make_store(limits=OFF).instance()
    found = []
    for _ in range(5):
        found.append(episode(one, clock, f"t,-1,,{fixed}"))
        let_pass(clock, (found[-1] or 0) + 1.0, one)
    assert found == [None, None, expected, expected, expected]


@pytest.mark.covers("RT-23")
def test_pauses_double_up_to_two_minutes(make_store: MakeStore, clock: DrivenClock) -> None:
    """Each 429 right after the end of a pause: 0.8 s to 102.4 s, and then 120 s."""
    one = make_store(limits=OFF).instance()
    found = []
    for _ in range(12):
        found.append(episode(one, clock))
        let_pass(clock, found[-1] or 0, one)
    assert found == [None, None, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 102.4, 120, 120]


@pytest.mark.covers("RT-23")
def test_a_clean_success_takes_one_step_back(make_store: MakeStore, clock: DrivenClock) -> None:
    """And ten minutes without a pause forget them all."""
    one = make_store(limits=OFF).instance()

    def grow(times: int) -> float | None:
        last = None
        for _ in range(times):
            last = episode(one, clock)
            let_pass(clock, (last or 0) + 1, one)
        return last

    assert grow(6) == 6.4
    one.call(MODEL)
    assert grow(3) == 6.4, "three steps are kept, and the fourth comes with the third episode"
    let_pass(clock, 590, one)
    assert grow(3) == 12.8
    let_pass(clock, 602, one)
    assert grow(3) == 0.8


@pytest.mark.covers("RT-10")
def test_the_end_of_a_pause_is_no_starting_gun(make_store: MakeStore, clock: DrivenClock) -> None:
    """Fifty wait, fifty might go: they start over a second, a few at a time."""
    one = make_store(limits={f"openai/{MODEL}": Limits(concurrency=50, strategy="off")}).instance()
    one.call(MODEL, "t,7000,")
    ids = [hashlib.md5(bytes([number]), usedforsecurity=False).hexdigest() for number in range(50)]
    asked = one.send([one.request(MODEL, id, wait=FOR_EVER) for id in ids])
    clock.advance(7)
    started: dict[str, int] = {}
    while len(started) < 50:
        one.grant(MODEL)
        for each in one.send([each.request for each in asked if each.id not in started]):
            if each.granted:
                started[each.id] = one.store.now() - START_MS - 7000
        clock.advance(0.05)
    moments = sorted(started.values())
    most = max(moments.count(moment) for moment in set(moments))
    assert most <= 5, "about one in twenty of them every 50 ms"
    assert 800 <= moments[-1] <= 1100


@pytest.mark.covers("RT-10")
def test_after_a_pause_the_limit_holds_as_before(make_store: MakeStore, clock: DrivenClock) -> None:
    """Two slots are two, however many wait; who is alone goes at the first moment."""
    one = make_store(limits={f"openai/{MODEL}": Limits(concurrency=2, strategy="off")}).instance()
    one.call(MODEL, "t,7000,")
    clock.advance(7)
    assert one.acquire(MODEL).granted
    granted = 1
    for _ in range(300):
        clock.advance(0.01)
        granted += one.acquire(MODEL).granted
    assert granted == 2


@pytest.mark.covers("RT-12")
@pytest.mark.parametrize("verb", ["resume", "calm"])
def test_an_operator_ends_a_pause_for_all(make_store: MakeStore, clock: DrivenClock, verb: str) -> None:
    """And the growth of it; a pause by hand is ended by resume alone."""
    store = make_store(limits=OFF)
    one, two = store.instance(), store.instance()
    for _ in range(4):
        let_pass(clock, episode(one, clock) or 0, one)
    one.call(MODEL, "t,300000,")
    waiter = two.acquire(MODEL, wait=FOR_EVER)
    store.configure(SCOPE, verb)
    assert two.grant(MODEL) == [waiter.id]
    assert one.acquire(MODEL).granted
    clock.advance(1)
    assert [episode(one, clock) for _ in range(3)] == [None, None, 0.8]
    store.configure(SCOPE, "pause")
    store.configure(SCOPE, "calm")
    assert one.acquire(MODEL).answer.dimension == "pause"
    store.configure(SCOPE, "resume")
    assert one.acquire(MODEL).granted


@pytest.mark.covers("RT-18")
@pytest.mark.parametrize("strategy, left", [(None, 50), ("parallelism", 50), ("decrement", 50)])
def test_an_overload_pauses_and_reduces_nothing(
    make_store: MakeStore, clock: DrivenClock, strategy: str | None, left: int
) -> None:
    """With a hint everybody waits; without one only its own caller does, until it is the third in a row."""
    store = make_store(limits={f"openai/{MODEL}": Limits(concurrency=50, strategy=strategy)})
    one, two = store.instance(), store.instance()
    for _ in range(2):
        clock.advance(1)
        one.call(MODEL, "v,-1,")
    assert (one.reaction(MODEL).limit, paused_until(two)) == (left, None)
    clock.advance(1)
    one.call(MODEL, "v,-1,")
    assert paused_until(two) == 3.8
    clock.advance(2)
    one.call(MODEL, "v,3000,")
    assert two.acquire(MODEL).answer.dimension == "pause"
    clock.advance(3)
    assert two.acquire(MODEL).granted
    assert one.reaction(MODEL).limit == left
    assert {event.reason for event in one.reaction(MODEL).events} == {"overloaded"}


def test_an_overload_hides_no_429(make_store: MakeStore) -> None:
    """Both of calls in flight at once: the first says nothing of concurrency, the second cuts."""
    one = make_store(limits=LIMITS).instance()
    overloaded, throttled = one.acquire(MODEL), one.acquire(MODEL)
    one.release(MODEL, overloaded.id, lesson="v,-1,")
    one.release(MODEL, throttled.id, lesson=UNSAID)
    assert one.reaction(MODEL).limit == 16


@pytest.mark.covers("RT-08", "RT-23")
def test_calls_that_go_on_succeeding_keep_pauses_from_growing(make_store: MakeStore, clock: DrivenClock) -> None:
    """Also those that were admitted when nobody asked how they would end: the provider serves."""
    one = make_store(limits=LIMITS).instance()
    long_ones = [one.acquire(MODEL) for _ in range(6)]
    assert {each.answer.position for each in long_ones} == {0}, "nobody asks"
    for each in long_ones:
        clock.advance(1)
        one.call(MODEL, UNSAID)
        one.release(MODEL, each.id, lesson="k")
        assert paused_until(one) is None


@pytest.mark.covers("RT-08")
def test_a_good_end_that_nobody_asked_for_is_not_looked_at(make_store: MakeStore) -> None:
    """Nothing was learned, and nothing is."""
    store = make_store(limits=LIMITS)
    one = store.instance()
    held = one.acquire(MODEL)
    one.release(MODEL, held.id, lesson="k")
    assert not [key for key in store.dump() if key.endswith(b":learned")]


@pytest.mark.covers("RT-18")
def test_pauses_of_overloads_grow_to_five_seconds_alone(make_store: MakeStore, clock: DrivenClock) -> None:
    """An overload passes by itself: a long pause would cost more than the calls that find it there."""
    one = make_store(limits=LIMITS).instance()
    lengths = []
    for _ in range(9):
        one.call(MODEL, "v,-1,")
        until = paused_until(one)
        lengths.append(0.0 if until is None else round(until - (one.store.now() - START_MS) / 1000, 3))
        clock.advance(lengths[-1] + 1)
    assert lengths == [0, 0, 0.8, 1.6, 3.2, 5, 5, 5, 5]
