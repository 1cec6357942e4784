"""Slots that stay counted after their release: cooldown, holds."""

from collections.abc import Callable

import pytest

from ratelease import Limits
from ratelease.core.scripts import Ending
from support.clock import DrivenClock
from support.store import FOR_EVER, RELEASED, UNKNOWN, Store

MakeStore = Callable[..., Store]


@pytest.mark.covers("UG-08")
def test_a_released_slot_cools_and_nothing_brings_it_back_or_ends_it(make_store: MakeStore, clock: DrivenClock) -> None:
    """Counted until 350 ms after the release: no renewal and no second release finds it."""
    one = make_store(limits={"openai/gpt-4o": Limits(concurrency=1), "openai": Limits(cooldown=0.35)}).instance()
    held = one.acquire("gpt-4o")
    assert one.release("gpt-4o", held.id) is RELEASED
    assert one.renew("gpt-4o", held.held) == [held.id]
    assert one.release("gpt-4o", held.id) is UNKNOWN
    clock.advance(0.349)
    assert (one.used("gpt-4o"), one.used("gpt-4o", 1)) == (1, 1)
    assert not one.acquire("gpt-4o").granted
    clock.advance(0.001)
    assert one.acquire("gpt-4o").granted


@pytest.mark.covers("UG-09")
def test_the_end_of_a_cooldown_is_announced_to_whoever_waits(make_store: MakeStore, clock: DrivenClock) -> None:
    """To the head of another path of the same provider; granted then, and not before."""
    store = make_store(limits={"openai": Limits(concurrency=1, cooldown=1.0)})
    one, two = store.instance(), store.instance()
    held = one.acquire("gpt-4o")
    waiter = two.acquire("gpt-mini", wait=FOR_EVER)
    store.listen()
    one.release("gpt-4o", held.id)
    at = store.now() + 1000
    assert store.mail() == [("instance2", two.line("gpt-mini").path.name, [f"@{at}"])]
    assert two.grant("gpt-mini") == []
    clock.advance(1.0)
    assert two.grant("gpt-mini") == [waiter.id]
    store.close()


@pytest.mark.covers("QU-18")
@pytest.mark.parametrize("scope", ["openai", "openai/gpt-4o"])
@pytest.mark.parametrize("same", [False, True], ids=["of another process", "of the same process"])
def test_the_end_of_a_cooldown_is_announced_to_the_head_of_its_own_path(
    make_store: MakeStore, clock: DrivenClock, scope: str, same: bool
) -> None:
    """The moment at which the slot is free, not that at which its lease would have expired."""
    store = make_store(limits={scope: Limits(concurrency=1, cooldown=0.3)})
    one, two = store.instance(), store.instance()
    who = one if same else two
    held = one.acquire("gpt-4o")
    waiter = who.acquire("gpt-4o", wait=FOR_EVER)
    clock.advance(0.1)
    store.listen()
    one.release("gpt-4o", held.id)
    at, timer = store.now() + 300, one.header.timer if one.header else 0
    letters = [] if same else [(two.name, two.line("gpt-4o").path.name, [f"@{at}"])]
    assert (store.mail(), timer) == (letters, at if same else 0)
    clock.advance(0.299)
    assert who.grant("gpt-4o") == []
    clock.advance(0.001)
    assert who.grant("gpt-4o") == [waiter.id]
    store.close()


@pytest.mark.covers("UG-09")
def test_a_changed_cooldown_counts_from_then_on_and_is_no_limit(make_store: MakeStore, clock: DrivenClock) -> None:
    """What cools already does so as long as it was told to; 0 frees at once."""
    store = make_store(limits={"openai/gpt-4o": Limits(concurrency=2)})
    one = store.instance()
    first, second = one.acquire("gpt-4o"), one.acquire("gpt-4o")
    store.configure("p:openai", "set", "k1000")
    one.release("gpt-4o", first.id)
    assert one.used("gpt-4o") == 2
    store.configure("p:openai", "set", "k0")
    one.release("gpt-4o", second.id)
    assert one.used("gpt-4o") == 1
    assert one.look("gpt-4o")[0][1].concurrency is None
    clock.advance(1.0)
    assert one.used("gpt-4o") == 0


@pytest.mark.covers("UG-08")
def test_a_hold_outlasts_the_cooldown_and_what_was_never_sent_has_neither(
    make_store: MakeStore, clock: DrivenClock
) -> None:
    """Weighted leases hold all that they weigh."""
    one = make_store(limits={"openai/gpt-4o": Limits(concurrency=4, cooldown=0.5)}).instance()
    heavy, unsent = one.acquire("gpt-4o", weight=3), one.acquire("gpt-4o")
    one.release("gpt-4o", unsent.id, unsent=True)
    assert one.used("gpt-4o") == 3
    one.end(Ending(one.line("gpt-4o"), heavy.id, hold=40_000))
    clock.advance(39.9)
    assert one.used("gpt-4o") == 3
    clock.advance(0.1)
    assert one.used("gpt-4o") == 0
