"""Who is granted by what a provider says it has in flight."""

from collections.abc import Callable

import pytest

from ratelease import Limits
from support.clock import DrivenClock
from support.store import FOR_EVER, PARKED, REFUSED, Asked, Instance, Store
from support.usage_gate import Watcher

MakeStore = Callable[..., Store]
FOUR = {"openai": Limits(concurrency=4)}


def queue_up(one: Instance, count: int, model: str = "gpt-4o") -> list[Asked]:
    """So many that wait."""
    waiters = [one.acquire(model, wait=FOR_EVER) for _ in range(count)]
    assert {waiter.status for waiter in waiters} == {PARKED}
    return waiters


def claimed(one: Instance, waiters: list[Asked]) -> list[Asked]:
    """Those that were granted, and have their lease now."""
    again = one.send([waiter.request for waiter in waiters]) if waiters else []
    return [waiter for waiter in again if waiter.granted]


def full_then_free(one: Instance, clock: DrivenClock, waiters: int) -> list[Asked]:
    """Four calls, so many that wait, and then none of the calls any more: all have been over for a while."""
    calls = [one.acquire("gpt-4o") for _ in range(4)]
    waiting = queue_up(one, waiters)
    one.release_all("gpt-4o", [call.id for call in calls])
    clock.advance(0.5)
    return waiting


@pytest.mark.covers("UG-02")
@pytest.mark.parametrize("count,goes", [(4, False), (5, False), (3, True)])
def test_a_waiter_goes_only_while_the_provider_counts_fewer_than_the_limit(
    make_store: MakeStore, clock: DrivenClock, count: int, goes: bool
) -> None:
    """With all four slots free by our own count: 4 of 4 keep it waiting, 3 let it go."""
    one = make_store(limits=FOUR).instance()
    watcher = Watcher(one)
    watcher.poll()
    waiters = full_then_free(one, clock, 1)
    watcher.answer(count)
    assert one.used("gpt-4o", 1) == goes
    assert len(claimed(one, waiters)) == goes


@pytest.mark.covers("UG-03", "UG-17")
def test_a_poll_that_says_nothing_lets_waiters_go_blind_and_the_next_gates_again(
    make_store: MakeStore, clock: DrivenClock
) -> None:
    """Three go by our own count, and are counted as blind; then the provider says that it is full."""
    one = make_store(limits=FOUR).instance()
    watcher = Watcher(one)
    watcher.poll()
    waiters = full_then_free(one, clock, 3)
    watcher.answer(None)
    gone = claimed(one, waiters)
    assert len(gone) == 3
    assert (watcher.status.blind_grants, watcher.status.in_flight) == (3, None)
    one.acquire("gpt-4o")
    waiters = queue_up(one, 2)
    one.release_all("gpt-4o", [each.id for each in gone])
    clock.advance(1.0)
    watcher.answer(4)
    assert claimed(one, waiters) == []
    assert watcher.status.blind_grants == 3


@pytest.mark.covers("UG-03")
def test_without_an_answer_the_cooldown_still_holds(make_store: MakeStore, clock: DrivenClock) -> None:
    """The gate's own 350 ms, where the limits state none."""
    one = make_store(limits=FOUR).instance()
    watcher = Watcher(one)
    watcher.poll()
    calls = [one.acquire("gpt-4o") for _ in range(4)]
    waiters = queue_up(one, 1)
    watcher.answer(None)
    one.release("gpt-4o", calls[0].id)
    clock.advance(0.349)
    assert (one.grant("gpt-4o"), one.look("gpt-4o")[0][1].cooling) == ([], 1)
    clock.advance(0.001)
    assert one.grant("gpt-4o") == [waiters[0].id]


@pytest.mark.covers("UG-06")
def test_who_has_not_waited_is_not_gated_and_needs_no_poll(make_store: MakeStore, clock: DrivenClock) -> None:
    """One of four in use, nobody waits: no poll is due, and none is missed."""
    one = make_store(limits=FOUR).instance()
    watcher = Watcher(one)
    first = one.acquire("gpt-4o")
    assert not watcher.poll().due
    assert one.acquire("gpt-4o").granted
    one.release("gpt-4o", first.id)
    clock.advance(1.3)
    assert not watcher.poll().due
    assert watcher.status.active
    assert watcher.status.blind_grants == 0


@pytest.mark.covers("UG-06")
def test_a_strict_gate_polls_all_the_time_and_lets_nobody_pass_without_a_snapshot(
    make_store: MakeStore, clock: DrivenClock
) -> None:
    """Also who asks first: by the provider's count alone, and what was granted since."""
    one = make_store(limits=FOUR).instance()
    watcher = Watcher(one, strict=1)
    assert watcher.poll().due
    refused = one.acquire("gpt-4o").answer
    assert (refused.status, refused.dimension) == (REFUSED, "usage")
    watcher.seen(2)
    assert [one.acquire("gpt-4o").granted for _ in range(3)] == [True, True, False]
    clock.advance(1.0)
    watcher.answer(4)
    assert not one.acquire("gpt-4o").granted
    assert watcher.status.strict
    assert watcher.status.blind_grants == 0


@pytest.mark.covers("UG-07")
def test_one_snapshot_admits_up_to_the_limit(make_store: MakeStore, clock: DrivenClock) -> None:
    """The provider counts 1 of 4: three of five go, and no more until the next poll."""
    one = make_store(limits=FOUR).instance()
    watcher = Watcher(one)
    watcher.poll()
    waiters = full_then_free(one, clock, 5)
    watcher.answer(1)
    assert len(claimed(one, waiters)) == 3
    assert one.grant("gpt-4o") == []
    clock.advance(1.0)
    watcher.answer(3)
    assert one.used("gpt-4o", 1) == 4


@pytest.mark.covers("UG-07")
def test_one_grant_a_poll_where_that_is_asked_for(make_store: MakeStore, clock: DrivenClock) -> None:
    """However much is free; those who come newly have to queue behind."""
    one = make_store(limits=FOUR).instance()
    watcher = Watcher(one, one=1)
    watcher.poll()
    waiters = full_then_free(one, clock, 4)
    for count in range(3):
        watcher.answer(count)
        assert len(claimed(one, waiters[count : count + 1])) == 1
        assert one.used("gpt-4o", 1) == count + 1
        assert not one.acquire("gpt-4o").granted
        clock.advance(1.0)


@pytest.mark.covers("UG-07", "UG-14")
def test_what_was_granted_after_the_poll_began_is_added_to_its_count(make_store: MakeStore, clock: DrivenClock) -> None:
    """The answer 2 was true when the poll began: the call that was granted meanwhile is the third."""
    one = make_store(limits=FOUR).instance()
    watcher = Watcher(one, strict=1)
    assert watcher.poll().due
    watcher.seen(0)
    assert one.acquire("gpt-4o").granted
    clock.advance(1.0)
    assert watcher.poll().due
    assert one.acquire("gpt-4o").granted
    watcher.seen(2)
    assert [one.acquire("gpt-4o").granted for _ in range(2)] == [True, False]


@pytest.mark.covers("UG-14")
def test_what_was_granted_within_the_lag_before_the_poll_is_added_too(
    make_store: MakeStore, clock: DrivenClock
) -> None:
    """The provider cannot count it yet: 2 are somebody else's, 2 have just begun, and that is all there is."""
    one = make_store(limits=FOUR).instance()
    watcher = Watcher(one, strict=1, lag=300, cooldown=0)
    watcher.poll()
    watcher.seen(0)
    clock.advance(1.0)
    assert [one.acquire("gpt-4o").granted for _ in range(2)] == [True, True]
    clock.advance(0.299)
    assert watcher.poll().due
    watcher.seen(2)
    assert not one.acquire("gpt-4o").granted
    clock.advance(0.2)
    assert watcher.poll().due
    watcher.seen(3)
    assert [one.acquire("gpt-4o").granted for _ in range(2)] == [True, False]


@pytest.mark.covers("UG-14")
def test_a_grant_that_is_claimed_late_begins_late(make_store: MakeStore, clock: DrivenClock) -> None:
    """Its process was busy for two seconds: a poll between grant and claim has not seen its call."""
    one = make_store(limits=FOUR).instance()
    watcher = Watcher(one)
    watcher.poll()
    waiters = full_then_free(one, clock, 4)
    watcher.answer(3)
    clock.advance(1.9)
    watcher.poll()
    first = one.send([waiters[0].request])
    assert first[0].granted
    watcher.seen(3)
    watcher.follow()
    assert one.used("gpt-4o", 1) == 1, "three of somebody else's, and the one that begins now"


@pytest.mark.covers("UG-14")
def test_a_claim_just_before_the_poll_does_not_show_in_it(make_store: MakeStore, clock: DrivenClock) -> None:
    """Granted two seconds ago, claimed a moment ago: three of somebody else's and this one are all there can be."""
    one = make_store(limits=FOUR).instance()
    watcher = Watcher(one)
    watcher.poll()
    waiters = full_then_free(one, clock, 4)
    watcher.answer(3)
    clock.advance(1.9)
    assert one.send([waiters[0].request])[0].granted
    clock.advance(0.1)
    watcher.answer(3)
    assert one.used("gpt-4o", 1) == 1


@pytest.mark.covers("UG-08")
def test_a_watched_provider_has_a_cooldown_where_nothing_else_says_so(
    make_store: MakeStore, clock: DrivenClock
) -> None:
    """Also where nobody waits, and no limit of any scope states one."""
    one = make_store(limits=FOUR).instance()
    call = one.acquire("gpt-4o")
    Watcher(one).poll()
    one.release("gpt-4o", call.id)
    clock.advance(0.349)
    assert (one.used("gpt-4o", 1), one.look("gpt-4o")[0][1].cooling) == (1, 1)
    clock.advance(0.001)
    assert one.used("gpt-4o", 1) == 0


@pytest.mark.covers("UG-14")
def test_a_stale_snapshot_is_ignored(make_store: MakeStore, clock: DrivenClock) -> None:
    """Nine seconds after its poll it keeps nobody out any more; by then a waiter has long been patient."""
    one = make_store(limits=FOUR).instance()
    watcher = Watcher(one, lasts=30_000)
    watcher.poll()
    waiters = full_then_free(one, clock, 1)
    watcher.answer(4)
    for _ in range(8):
        clock.advance(1.0)
        one.beat()
        assert one.grant("gpt-4o") == []
    clock.advance(1.001)
    assert one.grant("gpt-4o") == [waiters[0].id]
    assert watcher.status.blind_grants == 1


@pytest.mark.covers("RL-30")
@pytest.mark.parametrize("strict", [0, 1])
def test_where_no_poll_comes_who_waits_goes_blind_after_its_patience(
    make_store: MakeStore, clock: DrivenClock, strict: int
) -> None:
    """The timer that its process is told is that moment; the gate itself lasts longer."""
    store = make_store(limits=FOUR)
    one = store.instance()
    watcher = Watcher(one, strict=strict)
    watcher.poll()
    if strict:
        waiters = queue_up(one, 1)
    else:
        waiters = full_then_free(one, clock, 1)
        assert one.grant("gpt-4o") == []
    timer = one.header.timer if one.header else 0
    assert timer == store.now() + 3000
    clock.advance(2.999)
    assert one.grant("gpt-4o") == []
    clock.advance(0.001)
    assert one.grant("gpt-4o") == [waiters[0].id]
    assert watcher.status.blind_grants == 1


@pytest.mark.covers("UG-07")
def test_groups_and_weights_count_as_all_their_slots(make_store: MakeStore, clock: DrivenClock) -> None:
    """A group of three does not pass where the provider has room for two; nor does a call of weight 3."""
    one = make_store(limits=FOUR).instance()
    watcher = Watcher(one)
    watcher.poll()
    calls = [one.acquire("gpt-4o") for _ in range(4)]
    group = one.acquire("gpt-4o", n=3, wait=FOR_EVER)
    heavy = one.acquire("gpt-4o", weight=3, wait=FOR_EVER)
    one.release_all("gpt-4o", [call.id for call in calls])
    clock.advance(0.5)
    watcher.answer(2)
    assert one.grant("gpt-4o") == []
    clock.advance(1.0)
    watcher.answer(1)
    assert one.grant("gpt-4o") == [group.id]
    one.send([group.request])
    one.release_all("gpt-4o", group.request.lease_ids)
    clock.advance(1.0)
    watcher.answer(2)
    assert one.grant("gpt-4o") == []
    clock.advance(1.0)
    watcher.answer(1)
    assert one.grant("gpt-4o") == [heavy.id]


@pytest.mark.covers("UG-16")
def test_the_limit_that_the_provider_states_is_followed_only_downwards_and_only_where_asked(
    make_store: MakeStore, clock: DrivenClock
) -> None:
    """2 of the configured 4, 4 of 9; with no limit of its own the scope takes the provider's. Off, it is only shown."""
    one = make_store(limits=FOUR).instance()
    Watcher(one, strict=1).answer(0, 2)
    assert one.look("gpt-4o")[0][1].concurrency == 4
    assert Watcher(one).status.limit == 2
    clock.advance(10.0)
    watcher = Watcher(one, strict=1, follow=1)
    watcher.answer(0, 2)
    assert one.look("gpt-4o")[0][1].concurrency == 2
    assert [one.acquire("gpt-4o").granted for _ in range(3)] == [True, True, False]
    clock.advance(1.0)
    watcher.answer(2, 9)
    assert one.look("gpt-4o")[0][1].concurrency == 4
    clock.advance(9.001)
    bare = make_store(limits={}).instance()
    bare.acquire("gpt-4o")
    watcher = Watcher(bare, strict=1, follow=1)
    watcher.poll()
    watcher.seen(1, 3, 5)
    assert bare.look("gpt-4o")[0][1].concurrency == 3
    assert watcher.status.hard_cap == 5
    clock.advance(9.001)
    assert bare.look("gpt-4o")[0][1].concurrency is None
