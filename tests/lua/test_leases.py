"""Leases by id: repeated, released, renewed, expired, buried."""

import pytest

from ratelease import Limits
from ratelease.core.model import Held
from support.store import FOR_EVER, GRANTED, LOST, PARKED, REFUSED, RELEASED, TOMBSTONED, UNKNOWN

MODEL, PROVIDER, TOTAL = 0, 1, 2
LIMITS = {"openai/gpt-4o": Limits(rpm=100, tpm=1000, concurrency=4), "total": Limits(concurrency=8)}


def _rates(one, model="gpt-4o") -> dict[str, int]:
    return {rate.dimension: rate.used for rate in one.look(model)[0][MODEL].rates}


def test_the_same_id_again_is_one_lease_and_one_charge(each_store) -> None:
    """Lost reply, retry, poll: the answer is the same, also for a group and twice in one call."""
    one = each_store(limits=LIMITS).instance()
    first = one.acquire("gpt-4o", n=2, weight=2, tokens=10)
    again = [asked for _ in range(2) for asked in one.send([first.request, first.request])]
    assert {asked.status for asked in again} == {GRANTED}
    assert {asked.answer.at for asked in again} == {first.answer.at}
    assert one.used("gpt-4o", TOTAL) == 4
    assert _rates(one) == {"requests/60s": 2, "tokens/60s": 20}


def test_the_same_id_again_keeps_its_place_in_the_queue(each_store) -> None:
    """A parked request that is repeated is parked once, where it was."""
    one = each_store(limits={"total": Limits(concurrency=1)}).instance()
    assert one.acquire("gpt-4o").granted
    first, second = (one.acquire("gpt-4o", wait=FOR_EVER) for _ in range(2))
    again = one.send([second.request, first.request])
    assert [(asked.status, asked.answer.position) for asked in again] == [(PARKED, 2), (PARKED, 1)]
    assert one.store.queue(one.line("gpt-4o")) == [first.id, second.id]


@pytest.mark.covers("LS-02")
@pytest.mark.parametrize("together", [True, False])
def test_releasing_twice_frees_one_slot(each_store, together) -> None:
    """In one call or in two: the first ends the lease, the second finds nothing."""
    one = each_store(limits=LIMITS).instance()
    ids = [one.acquire("gpt-4o").id for _ in range(3)]
    twice = [ids[0], ids[0]]
    ended = one.release_all("gpt-4o", twice) if together else [one.release("gpt-4o", id) for id in twice]
    assert ended == [RELEASED, UNKNOWN]
    assert [one.used("gpt-4o", scope) for scope in (MODEL, PROVIDER, TOTAL)] == [2, 2, 2]


@pytest.mark.covers("LS-10")
def test_releasing_what_is_not_held_leaves_every_counter_at_zero(each_store) -> None:
    """Unknown ids, unsent or not: no use, no rate and no lease goes below zero, and the limit is still the limit."""
    one = each_store(limits={"openai/gpt-4o": Limits(rpm=2, concurrency=2)}).instance()
    for unsent in (False, True):
        assert one.release_all("gpt-4o", ["a", "b.1", "hold"], unsent=unsent) == [UNKNOWN] * 3
    assert one.used("gpt-4o") == 0
    assert _rates(one) == {"requests/60s": 0}
    assert one.acquire("gpt-4o", n=2).granted
    assert one.acquire("gpt-4o").status is REFUSED


@pytest.mark.covers("LS-10")
def test_returning_a_charge_twice_returns_it_once(each_store) -> None:
    """Of two requests one never left: releasing it twice leaves the other charged."""
    one = each_store(limits={"openai/gpt-4o": Limits(rpm=100)}).instance()
    ids = [one.acquire("gpt-4o").id for _ in range(2)]
    for _ in range(2):
        one.release("gpt-4o", ids[0], unsent=True)
    assert _rates(one) == {"requests/60s": 1}


@pytest.mark.covers("RL-10")
def test_the_release_of_an_expired_lease_frees_one_slot_at_most(make_store, clock) -> None:
    """Its slot has been free since it expired: of two waiters one is granted, not a second one for the release."""
    store = make_store(limits={"total": Limits(concurrency=2)})
    one, two = store.instance(), store.instance()
    expiring, kept = (one.acquire("gpt-4o") for _ in range(2))
    waiters = [two.acquire("gpt-4o", wait=FOR_EVER) for _ in range(2)]
    for _ in range(3):
        clock.advance(5)
        one.renew("gpt-4o", kept.held)
        two.beat()
    assert one.release("gpt-4o", expiring.id) is LOST
    assert two.grant("gpt-4o") == [waiters[0].id]
    assert one.used("gpt-4o", TOTAL) == 2


@pytest.mark.covers("LS-15")
def test_a_tombstone_is_kept_for_the_lease_ttl_and_then_forgotten(make_store, clock) -> None:
    """As long as a copy may be on its way; and its memory is given back."""
    store = make_store(limits=LIMITS)
    one = store.instance()
    asked = one.acquire("gpt-4o")
    assert one.release("gpt-4o", asked.id, may_land=True) is RELEASED
    clock.ms += 14_999
    assert one.send([asked.request])[0].status is TOMBSTONED
    clock.ms += 1
    assert one.acquire("gpt-4o").granted
    line = one.line("gpt-4o")
    assert not store.client.hexists(line.keys[5], asked.id)
    assert store.client.zcard(line.keys[6]) == 0


def test_a_release_leaves_no_tombstone_where_no_copy_can_be_on_its_way(each_store) -> None:
    """The ordinary case costs no memory."""
    one = each_store(limits=LIMITS).instance()
    asked = one.acquire("gpt-4o")
    assert one.release("gpt-4o", asked.id) is RELEASED
    line = one.line("gpt-4o")
    assert one.store.client.exists(line.keys[6]) == 0
    assert one.store.client.hkeys(line.keys[5]) == [b"hold"]


def test_a_renewal_extends_every_member_in_every_scope(make_store, clock) -> None:
    """A lease of weight 3 keeps its three slots for as long as it beats."""
    store = make_store(limits={"total": Limits(concurrency=4)})
    one, two = store.instance(), store.instance()
    asked = one.acquire("gpt-4o", weight=3)
    for _ in range(8):
        clock.advance(5)
        assert one.renew("gpt-4o", asked.held) == []
        assert two.acquire("gpt-4o", n=2).status is REFUSED
    assert [one.used("gpt-4o", scope) for scope in (MODEL, PROVIDER, TOTAL)] == [3, 3, 3]
    clock.ms += 14_999
    assert two.acquire("gpt-4o", n=2).status is REFUSED
    clock.ms += 1
    assert two.acquire("gpt-4o", n=4).granted


def test_a_late_renewal_revives_nothing(make_store, clock) -> None:
    """A lease that has expired, or was released, is told as lost."""
    one = make_store(limits=LIMITS).instance()
    expired, ended, alive = (one.acquire("gpt-4o") for _ in range(3))
    one.release("gpt-4o", ended.id)
    clock.advance(10)
    one.renew("gpt-4o", alive.held)
    clock.advance(5)
    assert one.renew("gpt-4o", [*expired.held, *ended.held, *alive.held]) == [expired.id, ended.id]
    assert one.store.leases(one.line("gpt-4o"), TOTAL) == [alive.id]


def test_a_group_is_released_lease_by_lease(each_store) -> None:
    """Each of three gives back its own slot; repeating the group's request does not bring back what has ended."""
    one = each_store(limits=LIMITS).instance()
    group = one.acquire("gpt-4o", n=3)
    assert one.release("gpt-4o", group.request.lease_ids[1], may_land=True) is RELEASED
    assert one.used("gpt-4o") == 2
    assert one.send([group.request])[0].status is GRANTED
    assert one.used("gpt-4o") == 2
    assert one.release_all("gpt-4o", group.request.lease_ids) == [RELEASED, UNKNOWN, RELEASED]
    assert one.used("gpt-4o") == 0


def test_a_lease_that_the_holder_names_wrongly_is_lost_and_nobody_else_is_touched(each_store) -> None:
    """A renewal of unknown ids changes nothing."""
    one = each_store(limits=LIMITS).instance()
    asked = one.acquire("gpt-4o")
    assert one.renew("gpt-4o", [Held("nobody", 1, 1, "r1")]) == ["nobody"]
    assert one.store.leases(one.line("gpt-4o"), TOTAL) == [asked.id]
