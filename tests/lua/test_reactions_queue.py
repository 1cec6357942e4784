"""Waiters under a reduced limit: who fits it goes on, and whom it alone excludes keeps its place."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ratelease import Limits, Rate
from ratelease.strategies import Decrement, Penalty
from support.clock import DrivenClock
from support.store import FOR_EVER, IMPOSSIBLE, PARKED, Asked, Instance, Store, let_pass

MakeStore = Callable[..., Store]
MODEL = "gpt-4o"
SCOPE = "m:openai:gpt-4o"
SLOW = Penalty(half_life=10_000.0)  # seconds: it stays as it is for as long as a test looks
LIMITS = {f"openai/{MODEL}": Limits(concurrency=8, strategy=SLOW)}
SHARED = {"openai": Limits(concurrency=8, strategy=SLOW)}


def reduced(store: Store, model: str = MODEL) -> tuple[Instance, Instance]:
    """Two instances, after a 429 that leaves two of eight slots."""
    one, two = store.instance(), store.instance()
    one.call(model, "t,-1,")
    two.beat()
    return one, two


def claim(one: Instance, *asked: Asked) -> list[bool]:
    """Which of these parked requests hold a lease by now."""
    return [each.granted for each in one.send([each.request for each in asked])]


@pytest.mark.covers("AD-10")
@pytest.mark.parametrize("size", [{"weight": 4}, {"n": 4}])
def test_whom_a_reduced_limit_excludes_is_passed_over(make_store: MakeStore, size: dict[str, int]) -> None:
    """A weight or a group of four keeps its ticket, and smaller ones behind it are served."""
    store = make_store(limits=LIMITS)
    one, two = reduced(store)
    held = [one.acquire(MODEL) for _ in range(2)]
    big = one.acquire(MODEL, wait=FOR_EVER, **size)
    small = [two.acquire(MODEL, wait=FOR_EVER) for _ in range(2)]
    assert {each.status for each in (big, *small)} == {PARKED}
    one.release(MODEL, held[0].id)
    assert claim(two, *small) == [True, False]
    one.release(MODEL, held[1].id)
    assert claim(two, *small) == [True, True]
    assert store.queue(one.line(MODEL)) == [big.id]
    two.release(MODEL, small[0].id)
    assert two.acquire(MODEL).granted, "newcomers pass as well"
    store.configure(SCOPE, "forgive", "0")
    assert claim(one, big) == [True]


@pytest.mark.covers("AD-10")
def test_what_is_above_the_agreed_limit_is_impossible_all_the_same(make_store: MakeStore) -> None:
    """Eight of eight may yet fit; nine never do."""
    one, _ = reduced(make_store(limits=LIMITS))
    assert one.acquire(MODEL, weight=8, wait=FOR_EVER).status is PARKED
    assert one.acquire(MODEL, weight=9, wait=FOR_EVER).status is IMPOSSIBLE


@pytest.mark.covers("AD-10")
def test_when_the_limit_is_back_the_lowest_ticket_is_first_again(make_store: MakeStore) -> None:
    """The excluded one was there before: as long as it waits nobody behind it is granted."""
    store = make_store(limits=LIMITS)
    one, two = reduced(store)
    held = [one.acquire(MODEL) for _ in range(2)]
    big = one.acquire(MODEL, weight=8, wait=FOR_EVER)
    small = two.acquire(MODEL, wait=FOR_EVER)
    store.configure(SCOPE, "forgive", "0")
    for each in held:
        assert claim(two, small) == [False]
        one.release(MODEL, each.id)
    assert claim(two, small) == [False]
    assert claim(one, big) == [True]


@pytest.mark.covers("AD-10")
def test_a_smaller_one_behind_it_is_found_by_the_release_of_another_path(make_store: MakeStore) -> None:
    """The provider's slots are shared: the call that frees one names the path whose second in line can use it."""
    store = make_store(limits=SHARED)
    one, two = reduced(store)
    held = [one.acquire("o3") for _ in range(2)]
    big = two.acquire(MODEL, weight=4, wait=FOR_EVER)
    small = two.acquire(MODEL, wait=FOR_EVER)
    one.release("o3", held[0].id)
    assert one.following == two.line(MODEL).path.name
    for line in one.following_lines():
        one.grant(line)
    assert claim(two, big, small) == [False, True]


@pytest.mark.covers("AD-10")
def test_nobody_of_another_path_barges_past_the_smaller_one(make_store: MakeStore, clock: DrivenClock) -> None:
    """A slot that time has freed is its own: a newcomer there parks behind it. The excluded one holds nobody up."""
    store = make_store(limits=SHARED)
    one, two = reduced(store)
    held = [one.acquire("o3") for _ in range(2)]
    big = two.acquire(MODEL, weight=4, wait=FOR_EVER)
    small = two.acquire(MODEL, wait=FOR_EVER)
    let_pass(clock, 10, one, two)
    assert one.renew("o3", held[1].held) == []
    clock.advance(5)
    newcomer = one.acquire("o3", wait=FOR_EVER)
    assert (newcomer.status, newcomer.answer.dimension) == (PARKED, "queue")
    two.grant(MODEL)
    assert claim(two, big, small) == [False, True]
    one.release("o3", held[1].id)
    assert claim(one, newcomer) == [True]


@pytest.mark.covers("AD-10", "QU-02")
@pytest.mark.parametrize("passed", [1, 63])
def test_whoever_is_behind_the_excluded_keeps_its_place_when_its_path_is_polled(
    make_store: MakeStore, clock: DrivenClock, passed: int
) -> None:
    """While the shared slots are all taken the poll finds nothing; those of other paths that come later go later."""
    store = make_store(limits=SHARED)
    one, two = reduced(store)
    held = [one.acquire("o3") for _ in range(2)]
    two.send([two.request(MODEL, weight=4, wait=FOR_EVER) for _ in range(passed)])
    small = two.acquire(MODEL, wait=FOR_EVER)
    assert two.grant(MODEL) == []
    clock.advance(0.1)
    later = one.acquire("o3", wait=FOR_EVER)
    one.release("o3", held[0].id)
    for line in one.following_lines():
        one.grant(line)
    assert (claim(one, later), claim(two, small)) == ([False], [True])


@pytest.mark.covers("AD-10", "QU-02")
def test_whoever_is_behind_the_excluded_is_found_when_a_rate_that_kept_all_of_them_out_has_room(
    make_store: MakeStore, clock: DrivenClock
) -> None:
    """While the rate was full the excluded one stood first. A call of another path names theirs all the same."""
    store = make_store(limits={"openai": Limits(concurrency=8, strategy=SLOW, rates=[Rate(1, per=2.0, of="requests")])})
    one, two = reduced(store)
    two.acquire(MODEL, weight=4, wait=FOR_EVER)
    small = two.acquire(MODEL, wait=FOR_EVER)
    clock.advance(4.0)
    later = one.acquire("o3", wait=FOR_EVER)
    assert (later.status, one.following) == (PARKED, two.line(MODEL).path.name)
    one.grant(one.following_lines()[0])
    assert (claim(one, later), claim(two, small)) == ([False], [True])


@pytest.mark.covers("AD-10")
def test_an_excluded_one_of_another_path_holds_nobody_up(make_store: MakeStore) -> None:
    """It stands behind everybody in the index of the shared scope, and is first when the limit is back."""
    store = make_store(limits=SHARED)
    one, two = reduced(store)
    big = two.acquire(MODEL, weight=4, wait=FOR_EVER)
    assert [one.acquire("o3").granted for _ in range(3)] == [True, True, False]
    waiter = one.acquire("o3", wait=FOR_EVER)
    store.configure("p:openai", "forgive", "0")
    one.grant("o3", foreign=True)
    assert claim(one, waiter) == [True]
    two.grant(MODEL, foreign=True)
    assert claim(two, big) == [True]


@pytest.mark.covers("AD-10", "QU-18")
def test_an_excluded_head_is_granted_when_the_limit_has_risen(make_store: MakeStore, clock: DrivenClock) -> None:
    """By timers alone, step by step: the last one is the moment at which it fits."""
    store = make_store(limits={f"openai/{MODEL}": Limits(concurrency=8, strategy=Penalty(half_life=5.0))})
    _, two = reduced(store)
    big = two.acquire(MODEL, weight=4, wait=FOR_EVER)
    timer, steps = big.answer.header.timer, 0
    while two.used(MODEL) == 0:
        assert timer > store.now()
        clock.advance((timer - 2 - store.now()) / 1000)
        assert two.grant(MODEL) == []
        clock.advance(0.002)
        two.grant(MODEL)
        timer, steps = two.header.timer if two.header else 0, steps + 1
        assert steps <= 3
    assert claim(two, big) == [True]
    assert store.now() - 1_700_000_000_000 == pytest.approx(5000, abs=2), "a penalty of 1 leaves four"


@pytest.mark.covers("AD-10", "QU-18")
def test_the_timer_of_the_excluded_passes_to_its_process(make_store: MakeStore, clock: DrivenClock) -> None:
    """While a smaller one stood before it in line, that one's process kept it."""
    store = make_store(limits={f"openai/{MODEL}": Limits(concurrency=4, strategy=Decrement(restore_after=10.0))})
    one, two = store.instance(), store.instance()
    two.beat()
    one.call(MODEL, "t,-1,")
    held = [one.acquire(MODEL) for _ in range(3)]
    big = two.acquire(MODEL, weight=4, wait=FOR_EVER)
    assert big.answer.header.timer == store.now() + 10_000
    small = one.acquire(MODEL, wait=FOR_EVER)
    assert small.answer.header.timer == store.now() + 10_000
    store.listen()
    one.release(MODEL, held[0].id)
    assert claim(one, small) == [True]
    words = [(name, word) for name, _, words in store.mail() for word in words if word.startswith("@")]
    assert words == [(two.name, f"@{store.now() + 10_000}")]
    store.close()


def test_a_cut_does_not_take_grants_back(make_store: MakeStore, clock: DrivenClock) -> None:
    """Eight are out when the limit falls to two; nobody is granted until fewer than two are."""
    store = make_store(limits=LIMITS)
    one, two = store.instance(), store.instance()
    held = [one.acquire(MODEL) for _ in range(8)]
    waiter = two.acquire(MODEL, wait=FOR_EVER)
    one.release(MODEL, held[0].id, lesson="t,-1,")
    for each in held[1:6]:
        one.release(MODEL, each.id, lesson="t,-1,")
        assert claim(two, waiter) == [False]
    one.release(MODEL, held[6].id)
    assert claim(two, waiter) == [True]
    let_pass(clock, 1, one)
