"""What the store does for instances that come back from an outage: ranks, a quiet heartbeat, late charges."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ratelease import Limits, Rate
from ratelease.core.model import Held, Verdict
from ratelease.core.share import Standing
from support.clock import DrivenClock
from support.store import FOR_EVER, GRANTED, REFUSED, Store

MakeStore = Callable[..., Store]

MODEL, BEAT, TTL = "gpt-4o", 5.0, 15.0
LIMITS = {f"openai/{MODEL}": Limits(rates=[Rate(10, per=60.0)], guard=0.0), "openai": Limits(concurrency=2)}


def used(store: Store, rate: str = "requests/60s") -> int:
    """What counts of a rate of the model."""
    scopes, _ = store.instance().look(MODEL)
    return next(each.used for each in scopes[0].rates if each.dimension == rate)


@pytest.mark.covers("RL-12")
def test_heartbeats_tell_how_many_are_alive_and_which_of_them_one_is(make_store: MakeStore, clock: DrivenClock) -> None:
    """Every rank is given once, whoever beats when; the dead and those that left do not count."""
    store = make_store(limits=LIMITS)
    fleet = [store.instance() for _ in range(4)]
    assert [one.beat() for one in fleet] == [Standing(number, number - 1) for number in range(1, 5)]
    assert [one.beat() for one in reversed(fleet)] == [Standing(4, rank) for rank in (3, 2, 1, 0)]
    fleet[1].beat(leave=True)
    assert [fleet[number].beat() for number in (3, 0, 2)] == [Standing(3, rank) for rank in (2, 0, 1)]
    clock.advance(TTL)
    assert fleet[2].beat() == Standing(1, 0)


@pytest.mark.covers("RD-02")
def test_whoever_is_back_first_gives_the_others_a_heartbeat_to_register(
    make_store: MakeStore, clock: DrivenClock
) -> None:
    """All were cut off for long: nothing new is granted until they have had time to say what they hold, once."""
    store = make_store(limits=LIMITS)
    one, two = store.instance(), store.instance()
    for each in (one, two):
        each.beat()
    clock.advance(40.0)
    one.beat()
    newcomer = store.instance()
    assert newcomer.acquire(MODEL).answer.dimension == "recovery"
    waiting = newcomer.acquire(MODEL, wait=FOR_EVER)
    clock.advance(2.0)
    two.beat()
    assert two.renew(MODEL, [Held("local", 1, clock.ms, "r1")], epoch="") == []
    clock.advance(BEAT - 2.0)
    assert newcomer.grant(MODEL) == [waiting.id], "one heartbeat, however many come back in it"
    assert newcomer.acquire(MODEL).status is REFUSED
    assert newcomer.used(MODEL) == 2


@pytest.mark.covers("RD-02")
def test_one_instance_that_was_cut_off_alone_stops_nobody(make_store: MakeStore, clock: DrivenClock) -> None:
    """The others have gone on beating: the store was there, and all they hold is known to it."""
    store = make_store(limits=LIMITS)
    one, two = store.instance(), store.instance()
    one.beat()
    for _ in range(8):
        two.beat()
        clock.advance(BEAT)
    one.beat()
    assert two.acquire(MODEL).status is GRANTED


@pytest.mark.covers("RD-02")
def test_a_lease_of_an_outage_is_registered_by_its_first_renewal(make_store: MakeStore, clock: DrivenClock) -> None:
    """It counts without being charged, above the limit as well; released before, it is not registered any more."""
    store = make_store(limits=LIMITS)
    one, two = store.instance(), store.instance()
    held = [Held(f"local-{number}", 1, clock.ms, "r1") for number in range(3)]
    assert two.acquire(MODEL).granted
    assert one.release(MODEL, "local-2", may_land=True).name == "UNKNOWN"
    assert one.renew(MODEL, held, epoch="") == ["local-2"]
    assert one.used(MODEL) == 3
    assert used(store) == 1
    assert two.acquire(MODEL).status is REFUSED
    assert one.renew(MODEL, held[:2]) == []
    one.backdate(MODEL, "list", [(0, "r2")])
    assert used(store) == 3
    assert one.release(MODEL, "local-0", unsent=True).name == "RELEASED"
    assert used(store) == 2, "it has charged what it costs, and gets that back"
    clock.advance(TTL)
    assert one.used(MODEL) == 0


@pytest.mark.covers("RD-02")
def test_late_charges_leave_their_window_when_they_would_have(make_store: MakeStore, clock: DrivenClock) -> None:
    """Each counts from the moment of its admission, not from the moment at which the store hears of it."""
    store = make_store(limits=LIMITS)
    one = store.instance()
    clock.ms += -clock.ms % 1000
    one.backdate(MODEL, "list", [(70_000, "r4"), (50_000, "r3"), (20_000, "r2"), (0, "r1")])
    assert used(store) == 6
    for seconds, left in ((10.999, 6), (0.001, 3), (29.999, 3), (0.001, 1), (19.999, 1), (0.001, 0)):
        clock.advance(seconds)
        assert used(store) == left, f"{seconds} s later"


@pytest.mark.covers("RD-02")
def test_late_charges_go_to_what_was_charged_meanwhile_and_may_be_debt(
    make_store: MakeStore, clock: DrivenClock
) -> None:
    """Other instances have charged before and after; more than the limit is waited for."""
    store = make_store(limits=LIMITS)
    one, two = store.instance(), store.instance()
    clock.ms += -clock.ms % 1000
    for _ in range(4):
        two.release(MODEL, two.acquire(MODEL).id)
    clock.advance(30.0)
    two.release(MODEL, two.acquire(MODEL).id)
    one.backdate(MODEL, "list", [(40_000, "r2"), (10_000, "r5")])
    assert used(store) == 12
    asked = two.acquire(MODEL)
    assert (asked.status, asked.answer.used, asked.answer.at - clock.ms) == (Verdict.REFUSED, 12, 31_000)
    clock.advance(31.0)
    assert used(store) == 6
    clock.advance(30.0)
    assert used(store) == 0


@pytest.mark.covers("RD-09", "RD-02")
def test_the_same_late_charges_again_charge_nothing(each_store: MakeStore) -> None:
    """A reply may be lost: the list goes again under its id."""
    store = each_store(limits=LIMITS)
    one = store.instance()
    for _ in range(3):
        one.backdate(MODEL, "first", [(5000, "r2"), (0, "r1")])
    assert used(store) == 3
    one.backdate(MODEL, "second", [(0, "r1")])
    assert used(store) == 4


@pytest.mark.covers("RD-02")
def test_late_charges_find_their_fields_free_of_what_has_left(make_store: MakeStore, clock: DrivenClock) -> None:
    """128 slots later the same field of the hash is used again."""
    store = make_store(limits=LIMITS)
    one = store.instance()
    clock.ms += -clock.ms % 1000
    for _ in range(3):
        one.release(MODEL, one.acquire(MODEL).id)
    clock.advance(138.0)
    one.backdate(MODEL, "list", [(10_000, "r2")])
    assert used(store) == 2
    clock.advance(50.999)
    assert used(store) == 2
    clock.advance(0.001)
    assert used(store) == 0
