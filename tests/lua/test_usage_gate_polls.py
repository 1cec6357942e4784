"""Who polls for all, what is polled when, and what the store makes of fields that nobody of the fleet has written."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import redis

from ratelease import Limits
from ratelease.core import scripts
from support.clock import DrivenClock
from support.key_leaks import key_leaks
from support.store import FOR_EVER, PARKED, Instance, Store
from support.usage_gate import Watcher

MakeStore = Callable[..., Store]
FOUR = {"openai": Limits(concurrency=4)}
FIELDS = ("gate", "usage", "grants", "recent", "wanted", "blind", "poller", "polling", "cap")


def learned_key(one: Instance) -> str:
    """Where the provider's scope keeps what it has learned."""
    key: str = one.line("gpt-4o").keys[8 + 5 + 4]
    return key


def crowd(one: Instance, count: int = 1) -> list[str]:
    """Fill all four slots, let so many wait, and free the slots again: whoever waits then waits for a poll."""
    calls = [one.acquire("gpt-4o") for _ in range(4)]
    waiters = [one.acquire("gpt-4o", wait=FOR_EVER) for _ in range(count)]
    one.release_all("gpt-4o", [call.id for call in calls])
    return [waiter.id for waiter in waiters]


@pytest.mark.covers("UG-11")
def test_one_instance_polls_and_another_when_its_time_is_over(make_store: MakeStore, clock: DrivenClock) -> None:
    """The others are told for how long; the answer of whoever was replaced meanwhile counts for nothing."""
    store = make_store(limits=FOUR)
    first, second = Watcher(store.instance(), strict=1), Watcher(store.instance(), strict=1)
    assert first.poll().elected
    clock.advance(1.0)
    turn = second.poll()
    assert (turn.elected, turn.others_ms, turn.due) == (False, 3000, False)
    clock.advance(3.0)
    assert second.poll().elected
    first.seen(1)
    assert second.status.in_flight is None
    assert not first.poll().elected
    second.seen(2)
    assert (second.status.in_flight, second.status.poller) == (2, "instance2")


@pytest.mark.covers("UG-11")
def test_whoever_leaves_makes_room_at_once(make_store: MakeStore) -> None:
    """Only the one who polls can; an answer to its poll comes too late."""
    store = make_store(limits=FOUR)
    first, second = Watcher(store.instance(), strict=1), Watcher(store.instance(), strict=1)
    first.poll()
    second.leave()
    assert not second.poll().elected
    first.leave()
    first.seen(3)
    assert second.poll().elected
    assert second.status.in_flight is None


@pytest.mark.covers("UG-10", "UG-06")
def test_a_poll_is_asked_for_once_and_only_while_somebody_waits_for_it(
    make_store: MakeStore, clock: DrivenClock
) -> None:
    """The head that the provider blocks tells whoever polls; the next one finds that done. Then nobody waits."""
    store = make_store(limits=FOUR)
    one, two = store.instance(), store.instance()
    watcher = Watcher(one)
    assert not watcher.poll().due
    store.listen()
    waiting = crowd(two, 2)
    clock.advance(0.5)
    two.grant("gpt-4o")
    assert [letter for letter in store.mail() if letter[2] == ["?"]] == [
        ("instance1", two.line("gpt-4o").path.name, ["?"])
    ]
    two.grant("gpt-4o")
    assert [letter for letter in store.mail() if "?" in letter[2]] == []
    store.close()
    assert watcher.poll().due
    assert watcher.seen(4)
    clock.advance(1.0)
    assert watcher.poll().due
    assert watcher.seen(0)
    watcher.follow()
    assert two.grant("gpt-4o") == waiting
    clock.advance(1.0)
    assert watcher.poll().due, "the last answer found somebody waiting"
    assert not watcher.seen(2)
    clock.advance(1.0)
    assert not watcher.poll().due


@pytest.mark.covers("UG-06")
def test_who_waits_for_a_limit_of_its_model_alone_needs_no_poll(make_store: MakeStore, clock: DrivenClock) -> None:
    """The provider has room: what it counts would change nothing."""
    one = make_store(limits={"openai/gpt-4o": Limits(concurrency=1), **FOUR}).instance()
    watcher = Watcher(one)
    one.acquire("gpt-4o")
    assert one.acquire("gpt-4o", wait=FOR_EVER).status is PARKED
    clock.advance(1.3)
    assert not watcher.poll().due


@pytest.mark.covers("UG-11")
def test_one_answer_serves_the_heads_of_all_paths_of_the_provider(make_store: MakeStore, clock: DrivenClock) -> None:
    """Of three models in the order of their tickets, by whoever polls; another provider's are not touched."""
    store = make_store(limits={**FOUR, "other": Limits(concurrency=1)})
    one, two = store.instance(), store.instance()
    watcher = Watcher(one)
    watcher.poll()
    calls = [two.acquire("gpt-4o") for _ in range(4)]
    two.acquire("other/llama")
    elsewhere = two.acquire("other/llama", wait=FOR_EVER)
    waiters = {model: two.acquire(model, wait=FOR_EVER) for model in ("gpt-mini", "gpt-4o", "o3")}
    last = two.acquire("gpt-mini", wait=FOR_EVER)
    two.release_all("gpt-4o", [call.id for call in calls])
    clock.advance(0.5)
    watcher.answer(1)
    for model, waiter in waiters.items():
        assert two.send([waiter.request])[0].granted, model
    assert two.send([last.request])[0].status is PARKED
    assert two.send([elsewhere.request])[0].status is PARKED


@pytest.mark.covers("RL-30", "RD-05")
@pytest.mark.parametrize("back", [0.004, 5, 300, 3600])
def test_a_clock_that_goes_back_blocks_nobody(make_store: MakeStore, clock: DrivenClock, back: float) -> None:
    """Whoever polled is dead: the next is elected within its time, and who waits goes within its patience."""
    store = make_store(limits=FOUR)
    first, two = Watcher(store.instance()), store.instance()
    first.poll()
    waiting = crowd(two)
    clock.advance(0.5)
    first.answer(4)
    clock.advance(-back)
    second = Watcher(two)
    for _ in range(12):
        if second.poll().due:
            break
        clock.advance(0.5)
        two.beat()
    else:
        pytest.fail("nobody polls")
    second.seen(0)
    second.follow()
    assert two.grant("gpt-4o") == waiting


@pytest.mark.covers("RL-30", "RD-05")
@pytest.mark.parametrize("back", [5, 300, 3600])
def test_a_clock_that_goes_back_leaves_patience_as_it_is(
    make_store: MakeStore, clock: DrivenClock, back: float
) -> None:
    """Nobody polls any more at all: 3 s by the new clock, and who waits goes without an answer."""
    store = make_store(limits=FOUR)
    one, two = store.instance(), store.instance()
    Watcher(one).poll()
    waiting = crowd(two)
    clock.advance(0.5)
    assert two.grant("gpt-4o") == []
    clock.advance(-back)
    two.beat()
    # Slots that cool do so by the old clock, unless it went back by more than ten minutes.
    store.client.delete(two.line("gpt-4o").keys[8 + 5 + 2])
    two.grant("gpt-4o")
    clock.advance(3.001)
    assert two.grant("gpt-4o") == waiting


@pytest.mark.covers("RL-30", "RD-05")
def test_a_snapshot_from_a_time_to_come_says_nothing(make_store: MakeStore, clock: DrivenClock) -> None:
    """It said that all is full, and nobody polls any more: 30 s later by the new clock it would still be young."""
    store = make_store(limits=FOUR)
    one, two = store.instance(), store.instance()
    Watcher(one, strict=1).answer(4)
    clock.advance(-30)
    waiter = two.acquire("gpt-4o", wait=FOR_EVER)
    clock.advance(3.001)
    assert two.grant("gpt-4o") == [waiter.id]


@pytest.mark.covers("RL-30", "RD-05")
def test_a_gate_from_a_time_to_come_is_none(make_store: MakeStore, clock: DrivenClock) -> None:
    """The clock went back by an hour, and nobody keeps the gate up: it ended an hour ago."""
    one = make_store(limits=FOUR).instance()
    Watcher(one, strict=1).answer(4)
    clock.advance(-3600)
    assert one.acquire("gpt-4o").granted


@pytest.mark.covers("RL-30")
def test_a_reset_forgets_the_gate_until_the_next_poll(make_store: MakeStore, clock: DrivenClock) -> None:
    """What was heard is gone, who polls as well; a turn later all is as before."""
    store = make_store(limits=FOUR)
    one = store.instance()
    watcher = Watcher(one, strict=1)
    watcher.answer(4)
    assert not one.acquire("gpt-4o").granted
    line = one.line("gpt-4o")
    store.run(scripts.reset(one.session, store.keyspace, line, [True] * 3, everything=False, namespace=True))
    assert one.acquire("gpt-4o").granted
    clock.advance(1.3)
    watcher.answer(4)
    assert not one.acquire("gpt-4o").granted


@pytest.mark.covers("RL-30", "RL-22")
def test_a_gate_that_nobody_keeps_up_ends_by_itself_and_costs_nothing_any_more(
    make_store: MakeStore, clock: DrivenClock
) -> None:
    """No gate, no cooldown, no look at what was learned; kept up again it is there again."""
    store = make_store(limits=FOUR)
    one = store.instance()
    watcher = Watcher(one, strict=1)
    watcher.answer(4)
    clock.advance(8.001)
    call = one.acquire("gpt-4o")
    assert call.granted
    one.release("gpt-4o", call.id)
    assert one.used("gpt-4o", 1) == 0
    assert not watcher.status.active
    state = one.line("gpt-4o").keys[8 + 5]
    assert store.client.hget(state, "learned") == b"0"
    watcher.answer(4)
    assert store.client.hget(state, "learned") == b"1"
    assert not one.acquire("gpt-4o").granted


@pytest.mark.covers("UG-11")
def test_who_wanted_a_poll_that_nobody_made_begins_to_wait_anew_when_one_may_come(
    make_store: MakeStore, clock: DrivenClock
) -> None:
    """Later somebody watches again: the first who asks waits for its poll, under a strict gate."""
    store = make_store(limits=FOUR)
    one = store.instance()
    watcher = Watcher(one, strict=1)
    watcher.poll()
    one.acquire("gpt-4o", wait=1.0)
    clock.advance(20.0)
    watcher.poll()
    assert one.acquire("gpt-4o").answer.dimension == "usage"


@pytest.mark.covers("RL-30")
@pytest.mark.parametrize("part", range(6))
def test_whatever_the_fields_hold_nobody_fails_and_the_next_poll_mends_them(
    make_store: MakeStore, clock: DrivenClock, part: int
) -> None:
    """Rubbish, huge and negative figures, times far ahead, words of other fields: in one field, and in many."""
    pick = random.Random(part)
    store = make_store(limits=FOUR)
    one = store.instance()
    watcher = Watcher(one, strict=1)
    watcher.answer(0)
    key = learned_key(one)
    now = store.now()
    good = {name: value for name, value in store.client.hgetall(key).items() if name.decode() in FIELDS}
    far = now + 10**12
    words = [
        *(b"", b"-", b"-1", b"1e9", b"nan", b"inf", b"\xff\x00", b"x y z", b"5:5 6:x :", b"0 0 0 0"),
        *(b"9" * digits for digits in (15, 150, 400)),
        b" ".join([b"9" * 15] * 9),
        b"-5 0 0 0 0 0 0 0 -1",
        b"1 %d 0 0 0 0 0 0 -1" % now,
        b"%d" % far,
        b"instance9 %d" % far,
        *good.values(),
    ]
    for _ in range(40):
        for name in pick.sample(FIELDS, pick.choice((1, 1, 2, 9))):
            store.client.hset(key, name, pick.choice(words))
        call = one.acquire("gpt-4o", wait=pick.choice((None, 0.5)))
        one.grant("gpt-4o")
        one.look("gpt-4o")
        if pick.random() < 0.5:
            watcher.poll()
            watcher.seen(pick.choice((None, 0, 3, 10**9)), pick.choice((-1, 0, 2, 10**9)))
        one.release("gpt-4o", call.id, lesson=pick.choice(("", "c", "o")))
        clock.advance(pick.choice((0.01, 0.5)))
    clock.advance(31.0)
    for _ in range(3):
        clock.advance(4.001)
        watcher.poll()
        watcher.seen(4)
    assert not one.acquire("gpt-4o").granted
    clock.advance(1.0)
    watcher.answer(0)
    assert one.acquire("gpt-4o").granted


@pytest.mark.covers("RL-30")
def test_polls_go_on_while_redis_has_no_memory_left(redis_client: redis.Redis) -> None:
    """The gate, the election and the answer; and whoever is granted by it is, as in any hand-off."""
    store = Store(redis_client, limits=FOUR)
    one = store.instance()
    watcher = Watcher(one, cooldown=0, lag=0)
    one.acquire("gpt-4o")
    redis_client.config_set("maxmemory", 1)
    try:
        assert watcher.poll().elected
        watcher.seen(0)
    finally:
        redis_client.config_set("maxmemory", 0)
    assert key_leaks(redis_client) == []


@pytest.mark.covers("RL-22")
def test_every_key_of_a_gate_has_a_ttl_from_the_first_call_on(each_store: MakeStore) -> None:
    """Also where the poll is the first call of all, and nobody has ever called from the provider."""
    store = each_store(limits=FOUR)
    one = store.instance()
    watcher = Watcher(one, strict=1)
    steps: tuple[Callable[[], Any], ...] = (
        watcher.poll,
        lambda: watcher.seen(1, 3, 9),
        lambda: one.acquire("gpt-4o"),
        watcher.leave,
    )
    for step in steps:
        step()
        assert key_leaks(store.client) == []
