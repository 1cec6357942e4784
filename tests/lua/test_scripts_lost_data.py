"""The store loses its data: who holds a lease says so, and nothing new is granted before."""

from collections.abc import Callable
from typing import Any

import pytest
import redis

from ratelease import Limits
from ratelease.core.scripts import Ending
from support.clock import DrivenClock
from support.key_leaks import key_leaks
from support.store import FOR_EVER, GRANTED, PARKED, REFUSED, RELEASED, UNKNOWN, Instance, Store

MakeStore = Callable[..., Store]
BEAT = 5.0  # seconds
LIMITS = {"openai/gpt-4o": Limits(rpm=10, tpm=1000, concurrency=2), "openai": Limits(rpm=50), "total": Limits(rpm=50)}


def fleet(store: Store) -> tuple[Instance, Instance]:
    """Two instances that know the store: the first of them began it."""
    creator, other = store.instance(), store.instance()
    creator.beat()
    other.beat()
    return creator, other


def lose_data(store: Store, clock: DrivenClock) -> None:
    """FLUSHALL, some time after the last call."""
    clock.advance(1.0)
    store.client.flushall()


def charges(store: Store, one: Instance) -> list[Any]:
    """What the requests and tokens of the model, and of the provider and the total, have counted."""
    line = one.line("gpt-4o")
    rates = ((9, "r60000"), (9, "t60000"), (14, "r60000"), (19, "r60000"))
    return [store.client.hget(line.keys[key], f"{rate}:n") for key, rate in rates]


@pytest.mark.covers("RD-04")
def test_holders_register_their_leases_again_without_charging(make_store: MakeStore, clock: DrivenClock) -> None:
    """Every scope counts them again, weights included; no rate does."""
    store = make_store(limits=LIMITS | {"openai/gpt-4o": Limits(rpm=10, tpm=1000, concurrency=3)})
    creator, other = fleet(store)
    one, two = creator.acquire("gpt-4o", tokens=7), other.acquire("gpt-4o", weight=2)
    old = creator.session.epoch
    lose_data(store, clock)
    assert creator.renew("gpt-4o", one.held, epoch=old) == []
    assert other.renew("gpt-4o", two.held, epoch=old) == []
    line = creator.line("gpt-4o")
    for scope in range(3):
        assert sorted(store.leases(line, scope)) == sorted([one.id, two.id, two.id + "+2"])
    assert charges(store, creator) == [None] * 4
    expiries = {score for _, score in store.client.zrange(line.keys[10], 0, -1, withscores=True)}
    assert expiries == {clock.ms + 15_000}


@pytest.mark.covers("RD-04")
@pytest.mark.parametrize("first", ["the creator", "another"])
@pytest.mark.parametrize("call", ["renew", "acquire", "beat", "release", "grant"])
def test_nothing_new_is_granted_for_one_heartbeat_whoever_notices_first(
    make_store: MakeStore, clock: DrivenClock, first: str, call: str
) -> None:
    """Whatever the call is by which the loss is noticed, and though the creator may begin the store anew itself."""
    store = make_store(limits=LIMITS)
    creator, other = fleet(store)
    held = [creator.acquire("gpt-4o"), other.acquire("gpt-4o")]
    old = creator.session.epoch
    lose_data(store, clock)
    noticed = clock.ms
    caller, lease = (creator, held[0]) if first == "the creator" else (other, held[1])
    if call == "renew":
        assert caller.renew("gpt-4o", lease.held) == []
    elif call == "acquire":
        assert caller.acquire("gpt-4o").status is REFUSED
    elif call == "beat":
        caller.beat()
    elif call == "release":
        assert caller.release("gpt-4o", "unheard-of") is UNKNOWN
    else:
        assert caller.grant("gpt-4o") == []
    assert caller.session.epoch not in ("", old)
    newcomer = store.instance()
    for asking in (newcomer, creator, other):
        refused = asking.acquire("gpt-4o")
        assert (refused.status, refused.answer.dimension) == (REFUSED, "recovery")
        assert refused.answer.at == noticed + BEAT * 1000
    clock.ms = noticed + round(BEAT * 1000) - 1
    assert newcomer.acquire("gpt-4o").status is REFUSED
    for asking, asked in ((creator, held[0]), (other, held[1])):
        assert asking.renew("gpt-4o", asked.held, epoch=old) == []
    clock.advance(0.001)
    refused = newcomer.acquire("gpt-4o")
    assert (refused.status, refused.answer.dimension, refused.answer.used) == (REFUSED, "c", 2)


@pytest.mark.covers("RD-04")
def test_waiters_park_meanwhile_and_are_served_after_the_heartbeat(make_store: MakeStore, clock: DrivenClock) -> None:
    """One slot is registered again, the other is free: of two waiters one is granted, in order."""
    store = make_store(limits=LIMITS)
    creator, other = fleet(store)
    held = creator.acquire("gpt-4o")
    lose_data(store, clock)
    waiting = [other.acquire("gpt-4o", wait=FOR_EVER) for _ in range(2)]
    assert {asked.status for asked in waiting} == {PARKED}
    assert creator.renew("gpt-4o", held.held) == []
    clock.advance(BEAT)
    assert other.grant("gpt-4o") == [waiting[0].id]
    assert sorted(store.leases(other.line("gpt-4o"))) == sorted([held.id, waiting[0].id])


@pytest.mark.covers("RD-04")
def test_the_limit_holds_again_after_a_newcomer_came_before_all_who_know(
    make_store: MakeStore, clock: DrivenClock
) -> None:
    """Nobody can tell it what was lost; from the first heartbeat of a holder on, all are counted, and none is added."""
    store = make_store(limits=LIMITS)
    creator, other = fleet(store)
    held = [(creator, creator.acquire("gpt-4o")), (other, other.acquire("gpt-4o"))]
    old = creator.session.epoch
    lose_data(store, clock)
    newcomer = store.instance()
    taken = newcomer.acquire("gpt-4o")
    assert taken.granted
    for one, asked in held:
        assert one.renew("gpt-4o", asked.held, epoch=old) == []
    assert newcomer.used("gpt-4o") == 3
    clock.advance(BEAT)
    creator.release("gpt-4o", held[0][1].id)
    assert newcomer.acquire("gpt-4o").status is REFUSED
    newcomer.release("gpt-4o", taken.id)
    assert newcomer.acquire("gpt-4o").status is GRANTED
    assert newcomer.used("gpt-4o") == 2


@pytest.mark.covers("RD-04")
def test_a_lease_that_was_released_after_the_loss_is_not_registered_by_a_late_renewal(
    make_store: MakeStore, clock: DrivenClock
) -> None:
    """Its release left a tombstone; the renewal that was on its way says it is lost."""
    store = make_store(limits=LIMITS)
    creator, _ = fleet(store)
    asked, old = creator.acquire("gpt-4o"), creator.session.epoch
    lose_data(store, clock)
    assert creator.release("gpt-4o", asked.id) is UNKNOWN
    assert creator.renew("gpt-4o", asked.held, epoch=old) == [asked.id]
    assert store.leases(creator.line("gpt-4o")) == []


@pytest.mark.covers("RD-04", "RW-07")
@pytest.mark.parametrize(
    "unsent, usage, counted", [(True, "", 4), (False, "t1", 5), (False, "t90", 94), (False, "", 4)]
)
def test_a_lease_that_is_registered_again_returns_no_charge_of_others(
    make_store: MakeStore, clock: DrivenClock, unsent: bool, usage: str, counted: int
) -> None:
    """What it was charged is lost too. What its call has really used is charged, as for one that reserved nothing."""
    store = make_store(limits={"openai/gpt-4o": Limits(rpd=10, tpd=1000, concurrency=2)})
    creator, other = fleet(store)
    asked, old = creator.acquire("gpt-4o", tokens=90), creator.session.epoch
    lose_data(store, clock)
    assert creator.renew("gpt-4o", asked.held, epoch=old) == []
    clock.advance(BEAT)
    assert other.acquire("gpt-4o", tokens=4).granted
    line = creator.line("gpt-4o")
    assert creator.end(Ending(line, asked.id, unsent=unsent, usage=usage)) == [RELEASED]
    requests, tokens = creator.look("gpt-4o")[0][0].rates
    assert (requests.used, tokens.used) == (1, counted)


@pytest.mark.covers("RD-04")
def test_leases_are_registered_again_beside_a_list_of_a_wrong_type(make_store: MakeStore, clock: DrivenClock) -> None:
    """The caller is told; its leases are counted all the same, by keys that expire."""
    store = make_store(limits=LIMITS)
    creator, _ = fleet(store)
    asked, old = creator.acquire("gpt-4o"), creator.session.epoch
    lose_data(store, clock)
    store.client.set(store.keyspace.instance_keys[2], "not ours", ex=600)
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        creator.renew("gpt-4o", asked.held, epoch=old)
    assert creator.used("gpt-4o") == 1
    assert key_leaks(store.client) == []
    assert creator.renew("gpt-4o", asked.held, epoch=old) == []


@pytest.mark.covers("RD-04")
def test_a_second_loss_is_noticed_as_the_first_one_was(make_store: MakeStore, clock: DrivenClock) -> None:
    """The creator's own epochs differ as well."""
    store = make_store(limits=LIMITS)
    creator, _ = fleet(store)
    asked, epochs = creator.acquire("gpt-4o"), [creator.session.epoch]
    for _ in range(2):
        lose_data(store, clock)
        assert creator.renew("gpt-4o", asked.held) == []
        epochs.append(creator.session.epoch)
        assert creator.acquire("gpt-4o").answer.dimension == "recovery"
    assert len(set(epochs)) == 3


@pytest.mark.covers("RD-04")
def test_under_the_same_epoch_a_lease_that_has_expired_is_never_revived(
    make_store: MakeStore, clock: DrivenClock
) -> None:
    """Only lost data is made good; a late heartbeat is told that its lease is lost."""
    store = make_store(limits=LIMITS)
    creator, _ = fleet(store)
    asked = creator.acquire("gpt-4o")
    clock.advance(15.0)
    assert creator.renew("gpt-4o", asked.held) == [asked.id]
    assert store.leases(creator.line("gpt-4o")) == []


@pytest.mark.covers("RD-02", "RD-04")
def test_what_is_registered_again_is_seen(make_store: MakeStore, clock: DrivenClock) -> None:
    """The path stands in the list of those in use: status, operators and reset find it, with nobody else calling."""
    store = make_store(limits=LIMITS)
    one, other = fleet(store)
    held = one.acquire("gpt-4o")
    before = one.session.epoch
    lose_data(store, clock)
    other.beat()
    assert one.renew("gpt-4o", held.held, before) == []
    assert store.client.zrange(store.keyspace.instance_keys[2], 0, -1) == [one.line("gpt-4o").path.name.encode()]
    assert store.client.pttl(store.keyspace.instance_keys[2]) >= 2 * one.session.ttl
