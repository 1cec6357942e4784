"""A release ends its own lease and nothing else, however often it comes, whatever it names and however late."""

from collections.abc import Callable
from typing import Any

import fakeredis
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ratelease import Limits
from support.clock import DrivenClock, driven_clock
from support.store import (
    FOR_EVER,
    GRANTED,
    LOST,
    PARKED,
    RELEASED,
    TOMBSTONED,
    UNKNOWN,
    WITHDRAWN,
    Instance,
    Store,
)

MakeStore = Callable[..., Store]
LIMITS = {
    "openai/gpt-4o": Limits(rpm=50, concurrency=6),
    "openai/gpt-mini": Limits(rpm=50, concurrency=4),
    "openai": Limits(rpm=90, concurrency=9),
    "total": Limits(rpm=90),
}
MODELS = ("gpt-4o", "gpt-mini")


class Scene:
    """Leases of others on two paths of one provider, and of `one`: expired, released, and foreign to a path."""

    def __init__(self, client: Any, clock: DrivenClock) -> None:
        self.store = Store(client, limits=LIMITS)
        self.one, self.others = self.store.instance(), self.store.instance()
        expired = [self.one.acquire("gpt-4o").id for _ in range(2)]
        clock.advance(15.0)
        released = self.one.acquire("gpt-4o").id
        assert self.one.release("gpt-4o", released) is RELEASED
        held = {
            "gpt-4o": [self.others.acquire("gpt-4o").id, self.others.acquire("gpt-4o", weight=2).id],
            "gpt-mini": [self.others.acquire("gpt-mini", n=2).id],
        }
        # Of a path, what can be named there without being a live lease of it.
        self.strangers = {
            "gpt-4o": [*expired, released, *held["gpt-mini"], held["gpt-4o"][1] + "+2"],
            "gpt-mini": [*expired, released, *held["gpt-4o"]],
        }

    def others_hold(self) -> list[Any]:
        """Members and expiries of every live lease in every scope, and what every rate has counted."""
        client, found = self.store.client, []
        for model in MODELS:
            keys = self.one.line(model).keys
            for key in range(8, len(keys), 5):
                alive = client.zrangebyscore(keys[key + 2], f"({self.store.now()}", "+inf", withscores=True)
                found.append((keys[key], sorted(alive), client.hgetall(keys[key + 1])))
        return found


@pytest.mark.covers("RL-10", "LS-10")
@given(data=st.data())
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_releases_of_what_is_not_held_never_change_what_others_hold(
    fake_server: fakeredis.FakeServer, data: st.DataObject
) -> None:
    """Random ids, ids of another path, of a member, expired and released ones: one by one and together."""
    with driven_clock() as clock, fakeredis.FakeRedis(server=fake_server) as client:
        client.flushall()
        scene = Scene(client, clock)
        before = scene.others_hold()
        invented = st.text(st.characters(codec="utf-8"), min_size=1, max_size=24).map(lambda text: "no-" + text)
        for _ in range(data.draw(st.integers(1, 5))):
            model = data.draw(st.sampled_from(MODELS))
            ids = data.draw(st.lists(st.sampled_from(scene.strangers[model]) | invented, min_size=1, max_size=4))
            who = data.draw(st.sampled_from([scene.one, scene.others]))
            clock.advance(data.draw(st.sampled_from([0.0, 0.001, 2.0])))
            ended = who.release_all(model, ids, unsent=data.draw(st.booleans()), may_land=data.draw(st.booleans()))
            assert set(ended) <= {UNKNOWN, LOST}
            assert scene.others_hold() == before
        client.flushall()


@pytest.mark.covers("RL-10", "LS-02")
def test_the_second_release_of_an_id_does_not_free_the_slot_that_has_gone_to_another(each_store: MakeStore) -> None:
    """The waiter that took the slot keeps it, and so does its charge."""
    store = each_store(limits={"openai/gpt-4o": Limits(rpm=50, concurrency=1)})
    one, two = store.instance(), store.instance()
    first = one.acquire("gpt-4o")
    second = two.acquire("gpt-4o", wait=FOR_EVER)
    assert one.release("gpt-4o", first.id) is RELEASED
    for unsent in (False, True):
        assert one.release("gpt-4o", first.id, unsent=unsent) is UNKNOWN
        assert store.leases(one.line("gpt-4o")) == [second.id]
        assert charged(store, one) == 2
    assert two.acquire("gpt-4o", second.id, wait=FOR_EVER).status is GRANTED


@pytest.mark.covers("RL-10", "LS-03")
def test_the_release_of_an_expired_lease_is_told_lost_and_frees_nothing(
    make_store: MakeStore, clock: DrivenClock
) -> None:
    """Its slot is another's by now; nor is its charge returned."""
    store = make_store(limits={"openai/gpt-4o": Limits(rpm=50, concurrency=1)})
    one, two = store.instance(), store.instance()
    first = one.acquire("gpt-4o")
    clock.advance(15.0)
    second = two.acquire("gpt-4o")
    assert one.release("gpt-4o", first.id, unsent=True) in (LOST, UNKNOWN)
    assert store.leases(one.line("gpt-4o")) == [second.id]
    assert charged(store, one) == 2


@pytest.mark.covers("RL-10")
def test_an_expired_lease_that_nobody_has_forgotten_yet_is_told_lost(make_store: MakeStore, clock: DrivenClock) -> None:
    """Nothing has purged it: its record is still there, its time is over."""
    store = make_store(limits={"openai/gpt-4o": Limits(rpm=50, concurrency=2)})
    one = store.instance()
    first, second = one.acquire("gpt-4o"), one.acquire("gpt-4o")
    clock.advance(10.0)
    assert one.renew("gpt-4o", second.held) == []
    clock.advance(5.0)
    assert one.release("gpt-4o", first.id, unsent=True) is LOST
    assert store.leases(one.line("gpt-4o")) == [second.id]
    assert charged(store, one) == 2


def charged(store: Store, one: Instance) -> int:
    """What the model's requests have counted."""
    return int(store.client.hget(one.line("gpt-4o").keys[9], "r60000:n"))


# --- retries that land late --------------------------------------------------------------------------------------


@pytest.mark.covers("LS-15")
@pytest.mark.parametrize("wait", [None, FOR_EVER])
def test_a_first_attempt_that_lands_after_the_release_of_the_second_is_no_lease(
    each_store: MakeStore, wait: float | None
) -> None:
    """The caller says that a copy is on its way: the id is buried, and neither leased nor charged again."""
    store = each_store(limits=LIMITS)
    one = store.instance()
    second = one.acquire("gpt-4o", wait=wait)
    assert one.release("gpt-4o", second.id, may_land=True) is RELEASED
    for _ in range(2):
        assert one.acquire("gpt-4o", second.id, wait=wait).status is TOMBSTONED
    assert store.leases(one.line("gpt-4o")) == []
    assert store.queue(one.line("gpt-4o")) == []
    assert charged(store, one) == 1


@pytest.mark.covers("LS-15")
def test_an_acquire_that_lands_after_it_was_given_up_unheard_is_no_lease(each_store: MakeStore) -> None:
    """The store had never heard of the id when it was given up: it is buried all the same."""
    store = each_store(limits=LIMITS)
    one = store.instance()
    assert one.release("gpt-4o", "of-a-slow-line", unsent=True) is UNKNOWN
    assert one.acquire("gpt-4o", "of-a-slow-line", wait=FOR_EVER).status is TOMBSTONED
    assert store.leases(one.line("gpt-4o")) == []
    assert store.client.hget(one.line("gpt-4o").keys[9], "r60000:n") is None


@pytest.mark.covers("LS-15")
def test_a_waiter_that_was_withdrawn_is_not_parked_by_a_late_copy(each_store: MakeStore) -> None:
    """Nor is it granted once there is room."""
    store = each_store(limits={"openai/gpt-4o": Limits(rpm=50, concurrency=1)})
    one = store.instance()
    held = one.acquire("gpt-4o")
    waiting = one.acquire("gpt-4o", wait=FOR_EVER)
    assert waiting.status is PARKED
    assert one.release("gpt-4o", waiting.id, may_land=True) is WITHDRAWN
    assert one.acquire("gpt-4o", waiting.id, wait=FOR_EVER).status is TOMBSTONED
    one.release("gpt-4o", held.id)
    assert store.leases(one.line("gpt-4o")) == []


@pytest.mark.covers("LS-15")
def test_a_tombstone_lasts_for_a_lease_ttl(make_store: MakeStore, clock: DrivenClock) -> None:
    """As long as a copy can be on its way; then its memory is freed by whoever calls, a second later at most."""
    store = make_store(limits=LIMITS)
    one = store.instance()
    id = one.acquire("gpt-4o").id
    one.release("gpt-4o", id, may_land=True)
    clock.advance(14.999)
    one.acquire("gpt-4o")
    assert one.acquire("gpt-4o", id).status is TOMBSTONED
    clock.advance(1.0)
    one.acquire("gpt-4o")
    assert store.client.hget(one.line("gpt-4o").keys[5], id) is None
    assert store.client.zscore(one.line("gpt-4o").keys[6], id) is None


@pytest.mark.covers("AL-26")
def test_a_release_that_cannot_be_buried_writes_nothing(make_store: MakeStore) -> None:
    """The tombstones hold a wrong type: the lease is still its holder's, and nobody is granted half of it."""
    store = make_store(limits={"openai/gpt-4o": Limits(concurrency=1)})
    one, two = store.instance(), store.instance()
    two.beat()
    held = one.acquire("gpt-4o")
    two.acquire("gpt-4o", wait=FOR_EVER)
    keys = one.line("gpt-4o").keys
    store.client.set(keys[6], "not ours", ex=600)

    def left() -> tuple[Any, ...]:
        client = store.client
        return client.hgetall(keys[5]), client.zrange(keys[10], 0, -1, withscores=True), client.zcard(keys[3])

    before = left()
    with pytest.raises(redis.ResponseError):
        one.release("gpt-4o", held.id, may_land=True)
    assert left() == before
