"""What a call has really used takes the place of its estimate, in the slot that was charged."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ratelease import Limits
from support.clock import DrivenClock
from support.store import FOR_EVER, GRANTED, IMPOSSIBLE, PARKED, RELEASED, UNKNOWN, Store

MakeStore = Callable[..., Store]
ROOMY = {"openai/gpt-4o": Limits(tpm=20_000, concurrency=20, guard=0), "openai": Limits(tpm=90_000, guard=0)}


def tokens(store: Store, one, scope: int = 0) -> int:
    """What the first token rate of a scope has counted."""
    rates = one.look("gpt-4o")[0][scope].rates
    return next(rate.used for rate in rates if rate.dimension.startswith("tokens"))


@pytest.mark.covers("TK-03", "RW-05")
@pytest.mark.parametrize("ends", [True, False])
def test_one_callers_correction_changes_nobody_elses_estimate(make_store: MakeStore, ends: bool) -> None:
    """Two reserve 1000 each, one has used 200: 1200 are counted, in every scope."""
    store = make_store(limits=ROOMY)
    one, two = store.instance(), store.instance()
    first = one.acquire("gpt-4o", tokens=1000)
    two.acquire("gpt-4o", tokens=1000)
    assert one.settle("gpt-4o", first.id, "t200", ends=ends) is RELEASED
    assert [tokens(store, two, scope) for scope in (0, 1)] == [1200, 1200]
    assert two.used("gpt-4o") == (1 if ends else 2)


@pytest.mark.covers("TK-03")
def test_what_was_used_beyond_the_estimate_is_charged_now_and_later_callers_wait(
    make_store: MakeStore, clock: DrivenClock
) -> None:
    """15 000 of a reserved 10 000: the debt counts from its own moment, above the limit if need be."""
    store = make_store(limits={"openai/gpt-4o": Limits(tpm=12_000, guard=0)})
    one = store.instance()
    first = one.acquire("gpt-4o", tokens=10_000)
    clock.advance(30)
    one.settle("gpt-4o", first.id, "t15000")
    assert tokens(store, one) == 15_000
    assert one.acquire("gpt-4o", tokens=1, wait=FOR_EVER).status is PARKED
    clock.advance(31)
    assert tokens(store, one) == 5000, "the estimate has left the window, the debt has not"
    clock.advance(30)
    assert tokens(store, one) == 0


@pytest.mark.covers("TK-03")
def test_what_returns_late_is_credited_nowhere_else(make_store: MakeStore, clock: DrivenClock) -> None:
    """The slot that was charged has left the window; another's charge stays whole."""
    store = make_store(limits=ROOMY)
    one = store.instance()
    first = one.acquire("gpt-4o", tokens=10_000)
    for _ in range(7):
        clock.advance(10)
        one.renew("gpt-4o", first.held)
    one.acquire("gpt-4o", tokens=500)
    assert one.settle("gpt-4o", first.id, "t1") is RELEASED
    assert tokens(store, one) == 500


@pytest.mark.covers("TK-04", "RW-05")
def test_settling_twice_counts_once(each_store: MakeStore) -> None:
    """Before the release, again, and with the release: the first figure stands."""
    store = each_store(limits=ROOMY)
    one = store.instance()
    first = one.acquire("gpt-4o", tokens=10_000)
    for usage, ends in (("t3000", False), ("t3000", False), ("t1", False), ("t7000", True)):
        assert one.settle("gpt-4o", first.id, usage, ends=ends) is RELEASED
        assert tokens(store, one) == 3000
    assert one.settle("gpt-4o", first.id, "t1") is UNKNOWN
    assert tokens(store, one) == 3000
    assert one.used("gpt-4o") == 0


@pytest.mark.covers("TK-03")
def test_what_returns_is_handed_to_who_waits_for_it(make_store: MakeStore) -> None:
    """A lease that stays is settled: the head of the queue is granted in the same call."""
    store = make_store(limits=ROOMY)
    one = store.instance()
    first = one.acquire("gpt-4o", tokens=15_000)
    waiter = one.acquire("gpt-4o", tokens=15_000, wait=FOR_EVER)
    assert waiter.status is PARKED
    one.settle("gpt-4o", first.id, "t2000", ends=False)
    assert one.grant("gpt-4o") == [waiter.id]
    assert one.used("gpt-4o") == 2


@pytest.mark.covers("RW-06")
def test_input_and_output_are_counted_apart(make_store: MakeStore) -> None:
    """29 000 of 30 000 in, 1000 of 8000 out: what is over either waits, what fits both is granted."""
    store = make_store(limits={"openai/gpt-4o": Limits(itpm=30_000, otpm=8000, tpm=60_000)})
    one = store.instance()
    assert one.acquire("gpt-4o", costs="r1i29000o1000t30000").status is GRANTED
    assert one.acquire("gpt-4o", costs="r1i2000o10t2010").status is not GRANTED
    assert one.acquire("gpt-4o", costs="r1i500o7001t7501").status is not GRANTED
    assert one.acquire("gpt-4o", costs="r1i500o7000t7500").status is GRANTED
    used = {rate.dimension: rate.used for rate in one.look("gpt-4o")[0][0].rates}
    assert used == {"tokens/60s": 37_500, "input_tokens/60s": 29_500, "output_tokens/60s": 8000}


@pytest.mark.covers("TK-03", "TK-12")
def test_a_guess_is_charged_where_a_rate_counts_it_and_never_more_than_fits(make_store: MakeStore) -> None:
    """Upper case: nobody gave a figure. A rate of 600 gets 600, a unit that nobody counts gets nothing."""
    store = make_store(limits={"openai/gpt-4o": Limits(tpm=600), "openai": Limits(itpm=5000)})
    one = store.instance()
    asked = one.acquire("gpt-4o", costs="r1T1000I300O50")
    assert asked.granted
    model, provider, _ = one.look("gpt-4o")[0]
    assert [rate.used for rate in (*model.rates, *provider.rates)] == [600, 300]
    assert store.client.hget(one.line("gpt-4o").keys[5], asked.id).split()[-1] == b"r1t600i300"
    one.release("gpt-4o", asked.id, unsent=True)
    model, provider, _ = one.look("gpt-4o")[0]
    assert [rate.used for rate in (*model.rates, *provider.rates)] == [0, 0]


@pytest.mark.covers("AD-10")
def test_a_figure_that_was_given_is_never_cut_down_to_fit(make_store: MakeStore) -> None:
    """Only guesses are."""
    store = make_store(limits={"openai/gpt-4o": Limits(tpm=600)})
    assert store.instance().acquire("gpt-4o", costs="r1t601I5").status is IMPOSSIBLE


def test_a_lease_that_no_token_rate_has_charged_is_settled_without_a_look(make_store: MakeStore) -> None:
    """Its release costs what any release costs."""
    store = make_store(limits={"openai/gpt-4o": Limits(rpm=600)})
    one = store.instance()
    asked = one.acquire("gpt-4o", costs="r1T1000")
    assert one.settle("gpt-4o", asked.id, "t50000") is RELEASED
    assert [rate.used for rate in one.look("gpt-4o")[0][0].rates] == [1]
