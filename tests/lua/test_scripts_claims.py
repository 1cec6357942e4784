"""A grant that nobody claims goes to the next; its waiter keeps its place, and its instance must speak first."""

from collections.abc import Callable

import pytest

from ratelease import Limits
from support.clock import DrivenClock
from support.store import FOR_EVER, GRANTED, PARKED, WITHDRAWN, Asked, Instance, Store

MakeStore = Callable[..., Store]
CLAIM_TTL = 3.0  # seconds
LIMITS = {"openai/gpt-4o": Limits(rpm=10, tpm=1000, concurrency=1), "openai": Limits(rpm=10), "total": Limits(rpm=10)}


def silent_grant(store: Store) -> tuple[Instance, Instance, Asked, Asked]:
    """A waiter of `silent` was handed the slot and has not claimed it; one of `other` waits behind."""
    silent, other = store.instance(), store.instance()
    first = other.acquire("gpt-4o", tokens=100)
    handed = silent.acquire("gpt-4o", tokens=10, wait=FOR_EVER)
    behind = other.acquire("gpt-4o", tokens=1, wait=FOR_EVER)
    assert (handed.status, behind.status) == (PARKED, PARKED)
    other.release("gpt-4o", first.id)
    return silent, other, handed, behind


def charged(store: Store, one: Instance, rate: str) -> list[int]:
    """What a rate has counted in the model, the provider and the total."""
    line = one.line("gpt-4o")
    return [int(store.client.hget(line.keys[key], f"{rate}:n") or 0) for key in (9, 14, 19)]


@pytest.mark.covers("LS-11")
def test_a_grant_that_is_not_claimed_in_time_goes_to_the_next_waiter(make_store: MakeStore, clock: DrivenClock) -> None:
    """At the claim's end, neither before nor later."""
    store = make_store(limits=LIMITS)
    silent, other, handed, behind = silent_grant(store)
    line = other.line("gpt-4o")
    assert store.leases(line) == [handed.id]
    clock.advance(CLAIM_TTL - 0.001)
    assert other.grant("gpt-4o") == []
    assert store.leases(line) == [handed.id]
    clock.advance(0.001)
    assert other.grant("gpt-4o") == [behind.id]
    assert store.leases(line) == [behind.id]
    assert silent.name in handed.id


@pytest.mark.covers("LS-11")
def test_who_is_next_is_told_when_an_unclaimed_grant_is_over(make_store: MakeStore, clock: DrivenClock) -> None:
    """By the very call that has granted the one before it: the slot is free again at the claim's end."""
    store = make_store(limits=LIMITS)
    _, other, _, behind = silent_grant(store)
    timer = other.header.timer if other.header else 0
    assert timer == store.now() + CLAIM_TTL * 1000
    clock.advance(CLAIM_TTL)
    assert other.grant("gpt-4o") == [behind.id]


@pytest.mark.covers("LS-11")
def test_the_charges_of_an_unclaimed_grant_return_in_every_scope(make_store: MakeStore, clock: DrivenClock) -> None:
    """Requests and tokens: what stays is the released call's charge and the next waiter's."""
    store = make_store(limits=LIMITS)
    _, other, _, _ = silent_grant(store)
    assert charged(store, other, "r60000") == [2, 2, 2]
    assert charged(store, other, "t60000")[0] == 110
    clock.advance(CLAIM_TTL)
    other.grant("gpt-4o")
    assert charged(store, other, "r60000") == [2, 2, 2]
    assert charged(store, other, "t60000")[0] == 101


@pytest.mark.covers("LS-11")
def test_an_unclaimed_grant_with_nobody_behind_returns_everything(make_store: MakeStore, clock: DrivenClock) -> None:
    """No lease and no charge is left of it; its waiter still stands in the queue."""
    store = make_store(limits=LIMITS)
    _, other, handed, behind = silent_grant(store)
    assert other.release("gpt-4o", behind.id) is WITHDRAWN
    clock.advance(CLAIM_TTL)
    other.grant("gpt-4o")
    assert store.leases(other.line("gpt-4o")) == []
    assert charged(store, other, "r60000") == [1, 1, 1]
    assert charged(store, other, "t60000")[0] == 100
    assert store.queue(other.line("gpt-4o")) == [handed.id]


@pytest.mark.covers("LS-11")
def test_the_charges_return_where_nobody_calls_for_the_path_any_more(make_store: MakeStore, clock: DrivenClock) -> None:
    """Whoever has handed the slot on is told when to look; what returns goes to the waiters of other paths."""
    store = make_store(limits={"openai": Limits(concurrency=1, rpm=2)})
    one, dead = store.instance(), store.instance()
    held = one.acquire("gpt-4o")
    dead.acquire("gpt-mini", wait=FOR_EVER)
    one.release("gpt-4o", held.id)
    (line,) = one.following_lines()
    one.grant(line)
    assert one.header is not None
    assert one.header.timer == store.now() + CLAIM_TTL * 1000
    waiter = one.acquire("gpt-4o", wait=FOR_EVER)
    clock.advance(CLAIM_TTL)
    one.grant(line)
    assert one.following == one.line("gpt-4o").path.name
    assert one.grant("gpt-4o") == [waiter.id]


@pytest.mark.covers("LS-11", "QU-13")
def test_who_hands_a_slot_on_to_itself_needs_no_reminder(make_store: MakeStore) -> None:
    """It claims, or has died with its timer."""
    one = make_store(limits=LIMITS).instance()
    held = one.acquire("gpt-4o")
    one.acquire("gpt-4o", wait=FOR_EVER)
    one.release("gpt-4o", held.id)
    assert one.header is not None
    assert one.header.timer == 0


@pytest.mark.covers("LS-11")
def test_a_silent_instance_is_passed_over_until_it_calls_again(make_store: MakeStore, clock: DrivenClock) -> None:
    """All of its waiters are, and keep their places; one call of any kind ends it."""
    store = make_store(limits=LIMITS)
    silent, other, handed, behind = silent_grant(store)
    last = other.acquire("gpt-4o", wait=FOR_EVER)
    clock.advance(CLAIM_TTL)
    other.grant("gpt-4o")
    other.acquire("gpt-4o", behind.id)
    other.release("gpt-4o", behind.id)
    assert store.leases(other.line("gpt-4o")) == [last.id]
    other.acquire("gpt-4o", last.id)
    silent.beat()
    other.release("gpt-4o", last.id)
    assert store.leases(other.line("gpt-4o")) == [handed.id]


@pytest.mark.covers("LS-11")
def test_a_late_claim_parks_again_with_its_old_ticket(make_store: MakeStore, clock: DrivenClock) -> None:
    """Before everybody who came after it."""
    store = make_store(limits=LIMITS)
    silent, other, handed, behind = silent_grant(store)
    line = other.line("gpt-4o")
    ticket = int(store.client.hget(line.keys[5], handed.id).split(b" ")[6])
    later = other.acquire("gpt-4o", wait=FOR_EVER)
    clock.advance(CLAIM_TTL)
    other.grant("gpt-4o")
    claim = silent.acquire("gpt-4o", handed.id, tokens=10, wait=FOR_EVER)
    assert claim.status is PARKED
    assert store.client.zscore(line.keys[3], handed.id) == ticket
    assert store.queue(line) == [handed.id, later.id]
    other.acquire("gpt-4o", behind.id)
    other.release("gpt-4o", behind.id)
    assert store.leases(line) == [handed.id]
    assert silent.acquire("gpt-4o", handed.id, tokens=10, wait=FOR_EVER).status is GRANTED


@pytest.mark.covers("LS-11")
def test_a_claim_in_time_is_one_lease_and_one_charge(make_store: MakeStore, clock: DrivenClock) -> None:
    """And lives for a lease TTL from the claim, without being taken back."""
    store = make_store(limits=LIMITS)
    silent, other, handed, _ = silent_grant(store)
    clock.advance(CLAIM_TTL - 0.001)
    assert silent.acquire("gpt-4o", handed.id, tokens=10, wait=FOR_EVER).status is GRANTED
    assert charged(store, other, "r60000") == [2, 2, 2]
    clock.advance(14.0)
    assert other.grant("gpt-4o") == []
    assert store.leases(other.line("gpt-4o")) == [handed.id]
