"""Calls at the provider that no live lease stands for: somebody else's, and those that were given up here."""

from collections.abc import Callable

import pytest

from ratelease import Limits
from ratelease.core.scripts import Ending
from support.clock import DrivenClock
from support.store import FOR_EVER, PARKED, REFUSED, Asked, Instance, Store
from support.usage_gate import Watcher

MakeStore = Callable[..., Store]
FOUR = {"openai": Limits(concurrency=4)}
CANCELLED = "c"


def grants(one: Instance, most: int = 9) -> list[Asked]:
    """All that who has not waited is granted now."""
    found: list[Asked] = []
    while len(found) < most and (asked := one.acquire("gpt-4o")).granted:
        found.append(asked)
    return found


@pytest.mark.covers("UG-06")
def test_who_has_not_waited_leaves_room_for_what_is_not_ours(make_store: MakeStore, clock: DrivenClock) -> None:
    """The provider counts 3 while we have 1: two of four are somebody else's, so two are ours."""
    one = make_store(limits=FOUR).instance()
    watcher = Watcher(one, strict=1)
    first = one.acquire("gpt-4o", wait=FOR_EVER)
    watcher.poll()
    watcher.seen(0)
    one.grant("gpt-4o")
    one.send([first.request])
    clock.advance(4.0)
    watcher.words[2] = 0  # strict no more
    watcher.poll()
    one.acquire("gpt-4o", weight=4, wait=5.0)
    watcher.poll()
    watcher.seen(3)
    assert (watcher.status.in_flight, watcher.status.foreign) == (3, 2)
    clock.advance(5.0)
    assert len(grants(one)) == 1
    refused = one.acquire("gpt-4o").answer
    assert (refused.status, refused.dimension, refused.used, refused.limit) == (REFUSED, "usage", 4, 4)


@pytest.mark.covers("UG-06", "UG-14")
def test_what_still_cools_may_hide_what_is_not_ours_and_so_it_hides_nothing(
    make_store: MakeStore, clock: DrivenClock
) -> None:
    """Three of ours cool, and the provider counts 3: these may be somebody else's, so only one may go."""
    one = make_store(limits=FOUR).instance()
    watcher = Watcher(one)
    watcher.poll()
    calls = grants(one)
    one.acquire("gpt-4o", wait=1.0)
    clock.advance(0.5)
    one.release_all("gpt-4o", [call.id for call in calls])
    watcher.poll()
    watcher.seen(3)
    assert watcher.status.foreign == 0, "nobody can say that they are not ours"
    clock.advance(1.0)
    assert len(grants(one)) == 1


@pytest.mark.covers("UG-14")
def test_a_call_that_is_not_ours_keeps_nobody_out_for_longer_than_a_snapshot_lasts(
    make_store: MakeStore, clock: DrivenClock
) -> None:
    """Who is kept out waits, and so a poll is made: its answer lets it go."""
    store = make_store(limits=FOUR)
    one, two = store.instance(), store.instance()
    watcher = Watcher(one, strict=1)
    watcher.answer(4)
    watcher.words[2] = 0
    watcher.poll()
    store.listen()
    waiter = two.acquire("gpt-mini", wait=FOR_EVER)
    assert waiter.status is PARKED
    assert store.mail() == [("instance1", two.line("gpt-mini").path.name, ["?"])]
    store.close()
    watcher.answer(0)
    assert two.grant("gpt-mini") == [waiter.id]


@pytest.mark.covers("UG-08")
def test_a_given_up_call_is_held_until_the_provider_counts_fewer(make_store: MakeStore, clock: DrivenClock) -> None:
    """Two of four were cancelled. It counts 4: both run on. It counts 3: one has ended, and its hold too."""
    one = make_store(limits=FOUR).instance()
    watcher = Watcher(one)
    watcher.poll()
    calls = grants(one)
    waiters = [one.acquire("gpt-4o", wait=FOR_EVER) for _ in range(2)]
    clock.advance(1.0)
    one.release_all("gpt-4o", [call.id for call in calls[:2]], lesson=CANCELLED)
    clock.advance(1.0)
    watcher.answer(4)
    assert (one.look("gpt-4o")[0][1].held, one.used("gpt-4o", 1)) == (2, 4)
    clock.advance(1.0)
    watcher.answer(3)
    assert one.grant("gpt-4o") == [waiters[0].id]
    assert (one.look("gpt-4o")[0][1].held, one.used("gpt-4o", 1)) == (1, 4)
    one.send([waiters[0].request])
    clock.advance(1.0)
    watcher.answer(3)
    assert one.grant("gpt-4o") == [waiters[1].id]
    assert one.look("gpt-4o")[0][1].held == 0


@pytest.mark.covers("QU-18")
@pytest.mark.parametrize("cooldown", [0, 350])
def test_the_end_of_a_hold_is_announced_to_the_head(make_store: MakeStore, clock: DrivenClock, cooldown: int) -> None:
    """Where it comes before the end of every lease."""
    store = make_store(limits={"openai": Limits(concurrency=1)})
    one = store.instance()
    Watcher(one, hold=5000, cooldown=cooldown, lasts=30_000).poll()
    call = one.acquire("gpt-4o")
    one.acquire("gpt-4o", wait=FOR_EVER)
    one.release("gpt-4o", call.id, lesson=CANCELLED)
    assert one.header is not None
    assert one.header.timer == store.now() + 5000


@pytest.mark.covers("UG-08")
def test_what_a_hold_alone_keeps_has_a_ttl(make_store: MakeStore, clock: DrivenClock) -> None:
    """The call that was given up was the only one, and nothing cools."""
    store = make_store(limits={"openai": Limits(concurrency=1)})
    one = store.instance()
    Watcher(one, hold=5000, cooldown=0).poll()
    call = one.acquire("gpt-4o")
    one.release("gpt-4o", call.id, lesson=CANCELLED)
    leases = one.line("gpt-4o").keys[8 + 5 + 2]
    assert (store.client.zcard(leases), store.client.pttl(leases)) == (1, 30_000)


@pytest.mark.covers("UG-08")
def test_a_hold_costs_one_slot_and_not_two(make_store: MakeStore, clock: DrivenClock) -> None:
    """The provider counts the one that runs on: that is no call of somebody else's beside it."""
    one = make_store(limits=FOUR).instance()
    watcher = Watcher(one)
    watcher.poll()
    calls = grants(one)
    one.acquire("gpt-4o", wait=2.0)
    clock.advance(1.0)
    one.release_all("gpt-4o", [call.id for call in calls[:3]])
    one.release("gpt-4o", calls[3].id, lesson=CANCELLED)
    clock.advance(0.4)
    watcher.poll()
    watcher.seen(1)
    clock.advance(1.0)
    assert len(grants(one)) == 3


@pytest.mark.covers("UG-08")
def test_live_leases_are_never_ended_by_what_the_provider_counts(make_store: MakeStore, clock: DrivenClock) -> None:
    """It counts nothing at all: whatever is held ends, and all calls that are live stay."""
    one = make_store(limits=FOUR).instance()
    watcher = Watcher(one)
    watcher.poll()
    calls = grants(one)
    one.acquire("gpt-4o", wait=FOR_EVER)
    one.release("gpt-4o", calls[0].id, lesson=CANCELLED)
    clock.advance(1.0)
    watcher.poll()
    watcher.seen(0)
    assert one.used("gpt-4o", 1) == 3
    for call in calls[1:]:
        assert one.renew("gpt-4o", call.held) == []


@pytest.mark.covers("UG-08", "UG-14")
def test_a_snapshot_says_nothing_of_what_was_given_up_after_its_poll_began(
    make_store: MakeStore, clock: DrivenClock
) -> None:
    """Nor of a call that began within the lag before: the provider may not have counted it yet."""
    one = make_store(limits=FOUR).instance()
    watcher = Watcher(one, strict=1)
    watcher.poll()
    watcher.seen(0)
    clock.advance(1.0)
    watcher.poll()
    late = one.acquire("gpt-4o")
    one.release("gpt-4o", late.id, lesson=CANCELLED)
    watcher.seen(0)
    assert one.look("gpt-4o")[0][1].held == 1
    clock.advance(0.1)
    watcher.poll()
    watcher.seen(0)
    assert one.look("gpt-4o")[0][1].held == 1
    clock.advance(1.0)
    watcher.poll()
    watcher.seen(0)
    assert one.look("gpt-4o")[0][1].held == 0


@pytest.mark.covers("UG-08", "UG-14")
def test_what_cools_does_not_prove_that_a_hold_has_ended(make_store: MakeStore, clock: DrivenClock) -> None:
    """One has ended and cools, one was given up: the provider counts 1, and that may be either."""
    one = make_store(limits=FOUR).instance()
    watcher = Watcher(one, strict=1, cooldown=2000)
    watcher.poll()
    watcher.seen(0)
    calls = grants(one)
    clock.advance(1.0)
    one.release_all("gpt-4o", [call.id for call in calls[:3]])
    one.release("gpt-4o", calls[3].id, lesson=CANCELLED)
    clock.advance(0.1)
    watcher.poll()
    watcher.seen(1)
    assert one.look("gpt-4o")[0][1].held == 1


@pytest.mark.covers("UG-08")
def test_holds_are_the_provider_scopes_alone_and_end_with_their_time(make_store: MakeStore, clock: DrivenClock) -> None:
    """The model and the total cool as ever; where nothing is watched a given-up call holds nothing."""
    limits = {"openai": Limits(concurrency=4), "openai/gpt-4o": Limits(concurrency=4), "total": Limits(concurrency=9)}
    one = make_store(limits=limits).instance()
    plain = one.acquire("gpt-4o")
    one.release("gpt-4o", plain.id, lesson=CANCELLED)
    assert [one.used("gpt-4o", scope) for scope in range(3)] == [0, 0, 0]
    watcher = Watcher(one, hold=5000, lasts=30_000)
    watcher.poll()
    held = one.acquire("gpt-4o", weight=2)
    one.release("gpt-4o", held.id, lesson=CANCELLED)
    assert [one.used("gpt-4o", scope) for scope in range(3)] == [2, 2, 2]
    clock.advance(0.35)
    assert [one.used("gpt-4o", scope) for scope in range(3)] == [0, 2, 0]
    clock.advance(4.65)
    assert one.used("gpt-4o", 1) == 0
    told = one.acquire("gpt-4o")
    one.end(Ending(one.line("gpt-4o"), told.id, hold=40_000))
    clock.advance(39.0)
    assert [one.used("gpt-4o", scope) for scope in range(3)] == [1, 1, 1]


@pytest.mark.covers("UG-14")
def test_a_given_up_call_that_does_not_show_yet_hides_nobody_elses(make_store: MakeStore, clock: DrivenClock) -> None:
    """It began 100 ms ago and is held; the one that the provider counts is another: two of four are left."""
    one = make_store(limits=FOUR).instance()
    watcher = Watcher(one, strict=1)
    watcher.poll()
    watcher.seen(0)
    clock.advance(1.0)
    late = one.acquire("gpt-4o")
    clock.advance(0.05)
    one.release("gpt-4o", late.id, lesson=CANCELLED)
    clock.advance(0.05)
    watcher.poll()
    watcher.seen(1)
    watcher.words[2] = 0
    watcher.poll()
    assert len(grants(one)) == 2


@pytest.mark.covers("UG-14")
def test_a_hold_that_is_over_hides_nobody_elses_any_more(make_store: MakeStore, clock: DrivenClock) -> None:
    """The provider counts one. Held or somebody else's, it costs one slot before the hold is over and after."""
    one = make_store(limits=FOUR).instance()
    watcher = Watcher(one, strict=1, hold=2000)
    watcher.poll()
    watcher.seen(0)
    call = one.acquire("gpt-4o")
    clock.advance(1.0)
    one.release("gpt-4o", call.id, lesson=CANCELLED)
    clock.advance(0.5)
    watcher.poll()
    watcher.seen(1)
    watcher.words[2] = 0
    watcher.poll()
    free = grants(one)
    assert len(free) == 3
    one.release_all("gpt-4o", [each.id for each in free], unsent=True)
    clock.advance(1.6)
    assert len(grants(one)) == 3
