"""The server's clock goes back: what is held stays held, nothing waits for the old time to come again."""

import pytest

from ratelease import Limits, Rate
from support.store import FOR_EVER, PARKED, REFUSED

TOTAL = 2
ONE_SLOT = {"total": Limits(concurrency=1)}
HOUR = 3600  # seconds


def _beat(clock, seconds, *instances, held=()) -> None:
    """Let time pass with heartbeats of these instances."""
    for _ in range(seconds // 5):
        clock.advance(5)
        for one in instances:
            one.beat()
        for one, asked in held:
            assert one.renew(asked.request.line, asked.held) == []


@pytest.mark.covers("RD-05")
@pytest.mark.parametrize("back", [0.004, 5, 300, HOUR])
def test_live_leases_stay_counted(make_store, clock, back) -> None:
    """Holders go on beating: their slots are theirs before and after, and free when they end."""
    store = make_store(limits={"total": Limits(concurrency=2)})
    one = store.instance()
    held = [one.acquire("gpt-4o") for _ in range(2)]
    clock.advance(-back)
    assert one.acquire("gpt-4o").status is REFUSED
    _beat(clock, 60, one, held=[(one, asked) for asked in held])
    assert one.acquire("gpt-4o").status is REFUSED
    assert one.used("gpt-4o", TOTAL) == 2
    one.release("gpt-4o", held[0].id)
    assert one.acquire("gpt-4o").granted


@pytest.mark.covers("RD-05")
@pytest.mark.parametrize("back", [5, 300, HOUR, 30 * HOUR])
def test_the_slot_of_a_dead_holder_is_not_blocked_for_longer_than_the_longest_ttl(make_store, clock, back) -> None:
    """A lease that nobody renews, dated by the old clock: its slot frees by itself 10 min later at most."""
    store = make_store(limits=ONE_SLOT)
    dead, alive = store.instance(), store.instance()
    alive.beat()
    dead.acquire("gpt-4o")
    clock.advance(-back)
    waiter = alive.acquire("gpt-4o", wait=FOR_EVER)
    assert waiter.status is PARKED
    waited = 0
    while alive.send([waiter.request])[0].status is PARKED:
        _beat(clock, 5, alive)
        waited += 5
        assert waited <= 600 + 15 + 5
    assert alive.used("gpt-4o", TOTAL) == 1


@pytest.mark.covers("RD-05")
@pytest.mark.parametrize("back", [5, HOUR])
def test_a_refusal_tells_a_time_to_come(make_store, clock, back) -> None:
    """Neither the wait nor the estimate is negative, and what it promises holds."""
    limits = {"openai": Limits(rates=[Rate(3, per=60.0)], concurrency=5), "total": Limits(concurrency=3)}
    store = make_store(limits=limits)
    one = store.instance()
    one.beat()
    held = [one.acquire("gpt-4o") for _ in range(3)]
    clock.advance(-back)
    one.release("gpt-4o", held[0].id)
    refused = one.acquire("gpt-4o")
    assert (refused.status, refused.answer.dimension) == (REFUSED, "r60000")
    assert clock.ms < refused.answer.at <= clock.ms + 2 * 61_250
    assert refused.answer.estimate >= 0
    _beat(clock, (refused.answer.at - clock.ms) // 1000, one)
    clock.ms = refused.answer.at
    assert one.acquire("gpt-4o").granted
    full = one.acquire("other/a", n=2)
    assert full.granted or full.answer.estimate >= -1
    waiting = one.look("gpt-4o")[1]
    assert waiting is None or waiting.head_waited >= 0


@pytest.mark.covers("RD-05")
def test_a_grant_that_nobody_claims_is_taken_back(make_store, clock) -> None:
    """Its claim was due by the old clock: an hour earlier it is still taken back, after another claim TTL."""
    store = make_store(limits=ONE_SLOT)
    holder, silent, alive = (store.instance() for _ in range(3))
    alive.beat()
    held = holder.acquire("gpt-4o")
    silent.acquire("gpt-4o", wait=FOR_EVER)
    waiter = alive.acquire("gpt-4o", wait=FOR_EVER)
    holder.release("gpt-4o", held.id)
    clock.advance(-HOUR)
    assert alive.grant("gpt-4o") == []
    clock.advance(3)
    alive.beat()
    assert alive.grant("gpt-4o") == [waiter.id]


@pytest.mark.covers("RD-05")
@pytest.mark.parametrize("back", [5, HOUR])
def test_the_pause_after_lost_data_ends(make_store, clock, back) -> None:
    """One heartbeat without grants was to end by the old clock."""
    store = make_store(limits=ONE_SLOT)
    one, two = store.instance(), store.instance()
    one.beat()
    store.client.flushall()
    two.beat()
    assert one.acquire("gpt-4o").answer.dimension == "recovery"
    clock.advance(-back)
    _beat(clock, 10, one, two)
    assert one.acquire("gpt-4o").granted


@pytest.mark.covers("RD-05")
@pytest.mark.parametrize("back", [5, HOUR])
def test_waiters_keep_their_order(make_store, clock, back) -> None:
    """Who came before the clock went back is before who came after."""
    store = make_store(limits=ONE_SLOT)
    one, two = store.instance(), store.instance()
    held = one.acquire("gpt-4o")
    early = [two.acquire("gpt-4o", wait=FOR_EVER) for _ in range(2)]
    clock.advance(-back)
    late = one.acquire("gpt-4o", wait=FOR_EVER)
    assert store.queue(one.line("gpt-4o")) == [*(asked.id for asked in early), late.id]
    one.release("gpt-4o", held.id)
    assert two.grant("gpt-4o") == [early[0].id]


@pytest.mark.covers("RD-05")
def test_a_clock_that_was_ahead_and_is_set_right_blocks_nothing(make_store, clock) -> None:
    """A day ahead for a minute: rates, leases, claims and waiters of that minute are over soon after."""
    clock.advance(24 * HOUR)
    store = make_store(limits={"openai": Limits(rates=[Rate(5, per=10.0)], concurrency=2)})
    one, two = store.instance(), store.instance()
    _beat(clock, 60, one, two)
    for _ in range(2):
        assert one.acquire("gpt-4o").granted
    waiter = two.acquire("gpt-4o", wait=FOR_EVER)
    clock.advance(-24 * HOUR)
    waited = 0
    while two.send([waiter.request])[0].status is PARKED:
        _beat(clock, 5, two)
        waited += 5
        assert waited <= 20
    _beat(clock, 25, two)
    assert two.acquire("gpt-4o", n=2).granted


@pytest.mark.covers("RD-05")
def test_what_leases_last_on_average_does_not_become_negative(make_store, clock) -> None:
    """A lease that ends before it began, by the clock, does not spoil the estimates of waits."""
    store = make_store(limits=ONE_SLOT)
    one = store.instance()
    held = one.acquire("gpt-4o")
    clock.advance(-HOUR)
    one.release("gpt-4o", held.id)
    assert one.acquire("gpt-4o").granted
    assert one.acquire("gpt-4o", wait=FOR_EVER).answer.estimate == 0
