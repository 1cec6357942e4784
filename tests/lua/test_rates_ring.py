"""Rates at their edges: whole limits, many instances, idleness, a clock that goes back, and returned charges."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest

from ratelease import Limits, Rate
from support.clock import START_MS, DrivenClock
from support.store import FOR_EVER, Asked, Instance, Store

MakeStore = Callable[..., Store]

MODEL = "gpt-4o"
MINUTE = "r60000"
SECOND = "r1000"


def rates(*windows: tuple[int, float], guard: float = 0.0) -> dict[str, Limits]:
    """Limits of the model: (limit, seconds) each."""
    return {f"openai/{MODEL}": Limits(rates=[Rate(limit, per=per) for limit, per in windows], guard=guard)}


def burst(instance: Instance, count: int) -> list[Asked]:
    """So many requests in one call; those that were granted."""
    line = instance.line(MODEL)
    return [asked for asked in instance.send([instance.request(line) for _ in range(count)]) if asked.granted]


def windows_key(instance: Instance) -> str:
    return instance.line(MODEL).keys[9]


def fields(store: Store, instance: Instance, rate: str) -> dict[str, int]:
    """What the windows hash keeps of one rate."""
    found: Mapping[bytes, bytes] = store.client.hgetall(windows_key(instance))
    split = [(name.decode().partition(":"), int(value)) for name, value in found.items() if name != b"by"]
    return {field: value for (of, _, field), value in split if of == rate}


def ring(store: Store, instance: Instance, rate: str) -> dict[int, int]:
    """The slots of one rate that hold anything."""
    return {int(slot): n for slot, n in fields(store, instance, rate).items() if slot.isdigit() and n}


def total(store: Store, instance: Instance, rate: str) -> int:
    """The sum that the hash keeps of one rate; its slots must add up to it."""
    kept = fields(store, instance, rate).get("n", 0)
    assert kept == sum(ring(store, instance, rate).values()), "the slots do not add up to the sum"
    return kept


def most_in_any_window(grants: Sequence[int], window: int) -> int:
    """The most grants that one true window may hold, each known by its ms, cut down."""
    return max(sum(at <= other <= at + window for other in grants) for at in grants)


# --- whole limits ------------------------------------------------------------------------------------------


@pytest.mark.covers("RW-01")
@pytest.mark.parametrize("offset", [0, 1, 999])
def test_after_500_in_a_minute_the_next_waits_for_the_oldest_and_two_slots_at_most(
    make_store: MakeStore, clock: DrivenClock, offset: int
) -> None:
    """The 501st is granted when the oldest is 60 s old, or up to 2 s later, and by its timer alone."""
    clock.ms = oldest = START_MS + offset
    one = make_store(limits={f"openai/{MODEL}": Limits(rpm=500, guard=0)}, lease_ttl=600.0).instance()
    for _ in range(10):
        assert len(burst(one, 50)) == 50
        clock.advance(5.9)
    waiting = one.acquire(MODEL, wait=FOR_EVER)
    assert not waiting.granted
    due = waiting.answer.at
    assert waiting.answer.header.timer == due
    assert oldest + 60_000 <= due <= oldest + 62_000
    clock.ms = due - 1
    assert one.grant(MODEL) == []
    clock.ms = due
    assert one.grant(MODEL) == [waiting.id]


@pytest.mark.covers("RW-02")
def test_six_instances_share_one_rate(make_store: MakeStore, clock: DrivenClock) -> None:
    """Six ask for all of 60 a minute at once and go on asking: 60 in sum, and 60 in every window after it."""
    store = make_store(limits={f"openai/{MODEL}": Limits(rpm=60, guard=0)}, lease_ttl=600.0)
    six = [store.instance() for _ in range(6)]
    grants: list[int] = []
    for instance in six:
        grants += [clock.ms] * len(burst(instance, 60))
    assert len(grants) == 60
    for turn in range(60):
        clock.advance(3.001)
        for i in range(6):
            grants += [clock.ms] * len(burst(six[(turn + i) % 6], 7))
    assert most_in_any_window(grants, 60_000) == 60
    assert len(grants) >= 3 * 55


@pytest.mark.covers("RW-03")
def test_200_requests_of_one_millisecond_count_200(make_store: MakeStore, clock: DrivenClock) -> None:
    """Asked one by one by two instances while the clock stands still."""
    store = make_store(limits={f"openai/{MODEL}": Limits(rpm=200)})
    two = [store.instance(), store.instance()]
    line = two[0].line(MODEL)
    assert all(two[i % 2].acquire(line).granted for i in range(200))
    refused = two[0].acquire(line)
    assert (refused.granted, refused.answer.used) == (False, 200)
    assert total(store, two[0], MINUTE) == 200


@pytest.mark.covers("RW-03")
def test_200_requests_of_one_script_call_count_200(each_store: MakeStore) -> None:
    """A script reads the time once: its requests have the same millisecond on every server."""
    store = each_store(limits={f"openai/{MODEL}": Limits(rpm=200)})
    one = store.instance()
    granted = burst(one, 203)
    assert len(granted) == 200
    assert len({asked.answer.at for asked in granted}) == 1
    assert total(store, one, MINUTE) == 200


# --- cost --------------------------------------------------------------------------------------------------

_TRACED = """
local function traced(...)
  local reply = redis.call(...)
  local size = type(reply) == 'table' and #reply or 1
  redis.call('RPUSH', 'trace', (...) .. ' ' .. select('#', ...) .. ' ' .. size)
  redis.call('PEXPIRE', 'trace', 600000)
  return reply
end
"""


def traced(name: str, text: str) -> str:
    """Have a script tell its commands, each with the number of its words and of the values it was answered."""
    return _TRACED + text.replace("redis.call(", "traced(")


def trace(store: Store) -> list[tuple[str, int, int]]:
    """The commands since the last look: (name, words, values answered)."""
    lines = [line.decode().split() for line in store.client.lrange("trace", 0, -1)]
    store.client.delete("trace")
    return [(name, int(words), int(values)) for name, words, values in lines]


def cost(commands: list[tuple[str, int, int]]) -> int:
    return sum(words + values for _, words, values in commands)


@pytest.mark.covers("RW-11")
def test_an_admission_costs_the_same_with_10_000_entries_in_the_window(
    make_store: MakeStore, clock: DrivenClock
) -> None:
    """A grant takes the same commands, words and answers as with one entry; a refusal reads slots, never entries."""
    store = make_store(limits=rates((10_003, 60.0)), rewrite=traced)
    one = store.instance()

    def admission() -> tuple[Asked, list[tuple[str, int, int]]]:
        clock.advance(1)
        trace(store)
        asked = one.acquire(MODEL)
        commands = trace(store)
        one.release(MODEL, asked.id)
        return asked, commands

    admission()
    few, cheap = admission()
    for _ in range(50):
        clock.advance(1)
        granted = burst(one, 200)
        one.release_all(MODEL, [asked.id for asked in granted])
    many, full = admission()
    assert total(store, one, MINUTE) == 10_003
    assert (few.granted, many.granted) == (True, True)
    assert full == cheap
    refused, refusal = admission()
    assert (refused.granted, refused.answer.used) == (False, 10_003)
    assert len(refusal) <= len(cheap)
    assert cost(refusal) <= cost(cheap) + 2 * 68


@pytest.mark.covers("RW-11")
@pytest.mark.parametrize("guard", [0.0, 60.0], ids="guard {}".format)
def test_the_hash_of_a_scope_stays_small(make_store: MakeStore, clock: DrivenClock, guard: float) -> None:
    """Used in every slot for five windows, a rate keeps 68 slots and three figures at most."""
    store = make_store(limits=rates((10_000, 60.0), guard=guard), lease_ttl=600.0)
    one = store.instance()
    largest = 0
    for _ in range(300):
        assert one.acquire(MODEL).granted
        clock.advance(1)
        largest = max(largest, store.client.hlen(windows_key(one)))
    assert 60 <= largest <= 71
    assert total(store, one, MINUTE) <= 68


@pytest.mark.covers("RW-11")
def test_returned_charges_leave_no_slots_behind(make_store: MakeStore, clock: DrivenClock) -> None:
    """A limit whose charges all return keeps no more slots than one that is used."""
    store = make_store(limits=rates((10, 60.0)), lease_ttl=600.0)
    one = store.instance()
    for _ in range(200):
        one.release(MODEL, one.acquire(MODEL).id, unsent=True)
        clock.advance(1)
    assert store.client.hlen(windows_key(one)) <= 71


# --- idleness ----------------------------------------------------------------------------------------------


@pytest.mark.covers("RL-02")
@pytest.mark.parametrize("idle", [1100, 128 * 17, 30_000, 59_000, 86_400_000], ids="{} ms".format)
def test_a_ring_is_clean_after_idleness_of_any_length(make_store: MakeStore, clock: DrivenClock, idle: int) -> None:
    """Beside a longer window, that keeps the hash alive, a shorter one forgets all and goes on with its whole limit."""
    store = make_store(limits=rates((8, 1.0), (1000, 60.0)))
    one = store.instance()
    for _ in range(4):
        assert len(burst(one, 2)) == 2
        clock.ms += 40
    assert len(burst(one, 1)) == 0
    clock.ms += idle
    # One that begins now has nothing to recover from, where the whole store has expired meanwhile.
    two = store.instance()
    assert len(burst(two, 9)) == 8
    assert total(store, two, SECOND) == 8


# --- a clock that goes back --------------------------------------------------------------------------------

BACK = pytest.mark.parametrize("back", [1, 5, 59, 61, 3600], ids="{} s".format)


@pytest.mark.covers("RL-02")
@BACK
def test_counted_charges_stay_counted_when_the_clock_goes_back(
    make_store: MakeStore, clock: DrivenClock, back: int
) -> None:
    """Three of five are used: two remain, and the sixth is refused with a time that lies ahead."""
    store = make_store(limits=rates((5, 60.0)), lease_ttl=600.0)
    one = store.instance()
    assert len(burst(one, 3)) == 3
    clock.advance(-back)
    assert len(burst(one, 3)) == 2
    refused = one.acquire(MODEL)
    assert (refused.granted, refused.answer.used) == (False, 5)
    ahead = refused.answer.at - clock.ms
    assert ahead == refused.answer.estimate
    assert 0 < ahead <= (60 + min(back, 60) + 2) * 1000
    assert total(store, one, MINUTE) == 5


@pytest.mark.covers("RL-02")
@BACK
def test_who_waits_while_the_clock_goes_back_is_granted_when_it_is_told(
    make_store: MakeStore, clock: DrivenClock, back: int
) -> None:
    """One parked before and one after: both are granted at the latest two windows and two slots after the jump."""
    one = make_store(limits=rates((5, 60.0)), lease_ttl=600.0).instance()
    assert len(burst(one, 5)) == 5
    before = one.acquire(MODEL, wait=FOR_EVER)
    clock.advance(-back)
    jump = clock.ms
    after = one.acquire(MODEL, wait=FOR_EVER)
    assert (before.granted, after.granted) == (False, False)
    clock.ms = after.answer.header.timer
    assert 0 < clock.ms - jump <= 122_000
    assert sorted(one.grant(MODEL)) == sorted([before.id, after.id])


@pytest.mark.covers("RL-02")
@BACK
def test_a_rate_is_whole_again_after_the_clock_went_back(make_store: MakeStore, clock: DrivenClock, back: int) -> None:
    """Ten windows later the limit has been used ten times, but for the jump, and no window held more."""
    one = make_store(limits=rates((5, 60.0)), lease_ttl=600.0).instance()
    assert len(burst(one, 5)) == 5
    clock.advance(-back)
    end, grants = clock.ms + 660_000, []
    while clock.ms < end:
        grants += [clock.ms] * len(burst(one, 6))
        clock.advance(7.3)
    assert most_in_any_window(grants, 60_000) == 5
    assert len(grants) >= 8 * 5


@pytest.mark.covers("RL-02")
def test_a_clock_that_goes_back_again_and_again_blocks_nothing_for_ever(
    make_store: MakeStore, clock: DrivenClock
) -> None:
    """A second and a minute in one scope, the clock thrown back 5 s every 2 s; then it runs on, and so do they."""
    store = make_store(limits=rates((5, 1.0), (50, 60.0)), lease_ttl=600.0)
    one = store.instance()
    for _ in range(20):
        burst(one, 2)
        assert total(store, one, SECOND) <= 5
        assert total(store, one, MINUTE) <= 50
        clock.advance(2)
        burst(one, 2)
        clock.advance(-5)
    clock.advance(60 + 62)
    assert len(burst(one, 6)) == 5
    assert total(store, one, MINUTE) == 5


# --- returned charges --------------------------------------------------------------------------------------


def slot_of(asked: Asked, width: int) -> int:
    return asked.answer.at // width % 128


@pytest.mark.covers("RW-07")
def test_an_unsent_charge_returns_to_the_slot_that_was_charged(make_store: MakeStore, clock: DrivenClock) -> None:
    """Of two slots in use the older one gets its own back, and one more request fits at once."""
    store = make_store(limits=rates((3, 60.0)))
    one = store.instance()
    older = burst(one, 2)
    clock.advance(4)
    (newer,) = burst(one, 2)
    one.release(MODEL, older[0].id, unsent=True)
    assert ring(store, one, MINUTE) == {slot_of(older[0], 1000): 1, slot_of(newer, 1000): 1}
    assert total(store, one, MINUTE) == 2
    assert len(burst(one, 2)) == 1


@pytest.mark.covers("RW-07")
@pytest.mark.parametrize("age", [61, 64, 127, 128, 129, 256], ids="{} slots".format)
def test_a_charge_that_has_left_its_window_returns_nowhere(make_store: MakeStore, clock: DrivenClock, age: int) -> None:
    """Also where another slot stands in its place: the limit that is in use now stays used."""
    store = make_store(limits=rates((3, 1.0), (1000, 60.0)))
    one = store.instance()
    (old,) = burst(one, 1)
    clock.ms += 17 * age
    assert len(burst(one, 4)) == 3
    one.release(MODEL, old.id, unsent=True)
    assert total(store, one, SECOND) == 3
    assert total(store, one, MINUTE) == 3
    assert burst(one, 1) == []


@pytest.mark.covers("RW-07", "LS-10")
def test_a_charge_returns_once_however_often_its_lease_is_released(make_store: MakeStore) -> None:
    """Releasing again, and releasing what never was, gives back nothing."""
    store = make_store(limits=rates((3, 60.0)))
    one = store.instance()
    first, _ = burst(one, 2)
    for id in (first.id, first.id, "never-was"):
        one.release(MODEL, id, unsent=True)
    assert total(store, one, MINUTE) == 1


@pytest.mark.covers("RW-07", "LS-10")
@pytest.mark.parametrize("reused", [False, True], ids=["empty", "reused"])
def test_charges_of_a_window_that_was_lost_take_nothing_below_zero(make_store: MakeStore, reused: bool) -> None:
    """The hash is gone: what returns finds its slot empty, or takes what stands there, and no more."""
    store = make_store(limits=rates((3, 60.0)))
    one = store.instance()
    lost = burst(one, 3)
    store.client.delete(windows_key(one))
    if reused:
        burst(one, 1)
    one.release_all(MODEL, [asked.id for asked in lost], unsent=True)
    assert all(value >= 0 for value in fields(store, one, MINUTE).values())
    assert total(store, one, MINUTE) == 0
    assert len(burst(one, 4)) == 3


@pytest.mark.covers("RW-07")
@BACK
def test_a_charge_from_before_the_clock_went_back_returns_once_or_nowhere(
    make_store: MakeStore, clock: DrivenClock, back: int
) -> None:
    """Two are charged, the clock goes back, two more: returning one of the first takes at most its own charge off."""
    store = make_store(limits=rates((5, 60.0)), lease_ttl=600.0)
    one = store.instance()
    first, _ = burst(one, 2)
    clock.advance(-back)
    assert len(burst(one, 2)) == 2
    one.release(MODEL, first.id, unsent=True)
    assert total(store, one, MINUTE) == (3 if back < 60 else 4)
    assert all(count > 0 for count in ring(store, one, MINUTE).values())


@pytest.mark.covers("RW-07")
def test_a_charge_made_while_the_clock_is_back_takes_none_but_its_own_off(
    make_store: MakeStore, clock: DrivenClock
) -> None:
    """The rate stands still at its newest slot: what was charged to it there and is kept still counts as long."""
    store = make_store(limits=rates((5, 60.0)))
    one = store.instance()
    (older,) = burst(one, 1)
    clock.advance(3)
    (newer,) = burst(one, 1)
    clock.advance(-3)
    (back,) = burst(one, 1)
    assert ring(store, one, MINUTE) == {slot_of(older, 1000): 1, slot_of(newer, 1000): 2}
    one.release(MODEL, back.id, unsent=True)
    assert total(store, one, MINUTE) == 2
    assert ring(store, one, MINUTE)[slot_of(newer, 1000)] >= 1
