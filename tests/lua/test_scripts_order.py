"""Who is served first: the order of arrival over all instances, without a stall behind what waits for other things."""

import itertools
import random
from collections.abc import Callable

import pytest

from ratelease import Limits
from support.clock import DrivenClock
from support.store import FOR_EVER, GRANTED, PARKED, Asked, Instance, Store

MakeStore = Callable[..., Store]
ONE_SLOT = {"openai/gpt-4o": Limits(concurrency=1)}


def drain(store: Store, holder: Instance, held: Asked, parked: list[tuple[Instance, Asked]]) -> list[str]:
    """Release the one slot again and again; the ids in the order in which they got it."""
    owners, served = {asked.id: owner for owner, asked in parked}, []
    line = holder.line("gpt-4o")
    holder.release(line, held.id)
    while granted := store.leases(line):
        (id,) = granted
        served.append(id)
        assert owners[id].acquire(line, id, wait=FOR_EVER).status is GRANTED
        owners[id].release(line, id)
    return served


def park(instances: list[Instance], turns: list[int]) -> list[tuple[Instance, Asked]]:
    """Let these instances queue in this order."""
    parked = []
    for turn in turns:
        asked = instances[turn].acquire("gpt-4o", wait=FOR_EVER)
        assert asked.status is PARKED
        parked.append((instances[turn], asked))
    return parked


@pytest.mark.covers("QU-02")
def test_waiters_of_all_instances_are_granted_in_the_order_of_their_arrival(each_store: MakeStore) -> None:
    """Twelve waiters of three instances in a mixed order, within few milliseconds of each other."""
    store = each_store(limits=ONE_SLOT)
    instances = [store.instance() for _ in range(3)]
    held = instances[0].acquire("gpt-4o")
    turns = [0, 1, 2] * 4
    random.Random(6).shuffle(turns)
    parked = park(instances, turns)
    assert drain(store, instances[0], held, parked) == [asked.id for _, asked in parked]


@pytest.mark.covers("QU-02")
@pytest.mark.parametrize("step", [0.0, 0.001, 0.25, -0.004], ids=lambda step: f"{step}s")
def test_tickets_rise_whatever_the_clock_does(make_store: MakeStore, clock: DrivenClock, step: float) -> None:
    """Within one millisecond, over time, and where the server's clock goes back: the sequence decides, no time."""
    store = make_store(limits=ONE_SLOT)
    instances = [store.instance() for _ in range(2)]
    held = instances[0].acquire("gpt-4o")
    parked = []
    for turn in (0, 1, 1, 0, 1, 0):
        clock.advance(step)
        parked += park(instances, [turn])
    line = instances[0].line("gpt-4o")
    tickets = [store.client.zscore(line.keys[3], asked.id) for _, asked in parked]
    assert all(one < other for one, other in itertools.pairwise(tickets))
    assert drain(store, instances[0], held, parked) == [asked.id for _, asked in parked]


@pytest.mark.covers("QU-02")
def test_asking_again_keeps_the_place(each_store: MakeStore) -> None:
    """A waiter that repeats its request, as every poll does, moves neither forward nor back."""
    store = each_store(limits=ONE_SLOT)
    one, two = store.instance(), store.instance()
    held = one.acquire("gpt-4o")
    first, second = one.acquire("gpt-4o", wait=FOR_EVER), two.acquire("gpt-4o", wait=FOR_EVER)
    again = [two.acquire("gpt-4o", second.id, wait=FOR_EVER), one.acquire("gpt-4o", first.id, wait=FOR_EVER)]
    assert [asked.answer.position for asked in again] == [2, 1]
    assert drain(store, one, held, [(one, first), (two, second)]) == [first.id, second.id]


@pytest.mark.covers("QU-02")
def test_a_newcomer_does_not_pass_those_who_wait(each_store: MakeStore) -> None:
    """Not even in the moment in which a slot is free: it is handed over, never left lying."""
    store = each_store(limits=ONE_SLOT)
    one, two = store.instance(), store.instance()
    held = one.acquire("gpt-4o")
    waiting = two.acquire("gpt-4o", wait=FOR_EVER)
    one.release("gpt-4o", held.id)
    newcomer = one.acquire("gpt-4o", wait=FOR_EVER)
    assert newcomer.status is PARKED
    assert store.leases(one.line("gpt-4o")) == [waiting.id]


@pytest.mark.covers("QU-02")
def test_waiters_of_two_paths_of_one_provider_share_its_slot_in_order_of_arrival(each_store: MakeStore) -> None:
    """Each release names the path whose head came first, and one grant there serves it."""
    store = each_store(limits={"openai": Limits(concurrency=1)})
    one, two = store.instance(), store.instance()
    held = one.acquire("gpt-4o")
    order = [(two, "gpt-mini"), (one, "gpt-4o"), (two, "gpt-mini"), (one, "gpt-4o")]
    parked = [(who, model, who.acquire(model, wait=FOR_EVER).id) for who, model in order]
    one.release("gpt-4o", held.id)
    served = []
    for _ in parked:
        follow(one, two)
        (id,) = store.leases(one.line("gpt-4o"), scope=1)
        served.append(id)
        who, model = next((who, model) for who, model, known in parked if known == id)
        assert who.acquire(model, id, wait=FOR_EVER).status is GRANTED
        who.release(model, id)
        one, two = who, one if who is two else two
    assert served == [id for _, _, id in parked]


def follow(caller: Instance, other: Instance) -> None:
    """Do what the exchange does after an answer: grant on each path that it names, and on those named then."""
    models = {caller.line(model).path.name: model for model in ("gpt-4o", "gpt-mini")}
    names = caller.following.split()
    for _ in range(8):
        if not names:
            return
        caller.grant(models[names.pop(0)], foreign=True)
        names += caller.following.split()
    raise AssertionError("hand-offs did not come to an end")


# --- behind a head that is blocked elsewhere -----------------------------------------------------------------------

STALL = {"openai/gpt-4o": Limits(rpm=1), "openai": Limits(concurrency=3)}


def stalled(store: Store) -> tuple[Instance, Instance, Asked, list[Asked]]:
    """The oldest waiter waits for its own model's requests; another path's fill the provider's three slots."""
    slow, busy = store.instance(), store.instance()
    done = slow.acquire("gpt-4o")
    slow.release("gpt-4o", done.id)
    head = slow.acquire("gpt-4o", wait=FOR_EVER)
    assert (head.status, head.answer.scope, head.answer.dimension) == (PARKED, 0, "r60000")
    held = [busy.acquire("gpt-mini") for _ in range(3)]
    assert all(asked.granted for asked in held)
    return slow, busy, head, held


@pytest.mark.covers("QU-17")
def test_a_head_that_waits_for_its_own_models_rate_leaves_the_providers_slots_to_others(each_store: MakeStore) -> None:
    """Every freed slot goes to the other path's waiter inside the very call that frees it."""
    store = each_store(limits=STALL)
    slow, busy, head, held = stalled(store)
    waiting = [busy.acquire("gpt-mini", wait=FOR_EVER) for _ in range(3)]
    assert {asked.status for asked in waiting} == {PARKED}
    for number, asked in enumerate(held, start=1):
        busy.release("gpt-mini", asked.id)
        granted = [each.id for each in waiting[:number]]
        assert sorted(store.leases(busy.line("gpt-mini"))) == sorted(granted + [each.id for each in held[number:]])
    assert store.queue(slow.line("gpt-4o")) == [head.id]


@pytest.mark.covers("QU-17")
def test_newcomers_of_another_path_do_not_queue_behind_such_a_head(each_store: MakeStore) -> None:
    """While the provider has room they are granted at once, and try_acquire is too."""
    store = each_store(limits=STALL)
    slow, busy, head, held = stalled(store)
    busy.release("gpt-mini", held[0].id)
    assert busy.acquire("gpt-mini").granted
    busy.release("gpt-mini", held[1].id)
    assert busy.acquire("gpt-mini", wait=FOR_EVER).granted
    assert store.queue(slow.line("gpt-4o")) == [head.id]


@pytest.mark.covers("QU-17")
def test_such_a_head_is_served_once_its_rate_and_the_provider_have_room(
    make_store: MakeStore, clock: DrivenClock
) -> None:
    """It loses nothing by letting others pass: from its window's end it is the first in line for a slot."""
    store = make_store(limits=STALL)
    slow, busy, head, held = stalled(store)
    while clock.ms < head.answer.at:
        clock.ms = min(clock.ms + 5000, head.answer.at)
        slow.beat()
        busy.beat()
        assert [busy.renew("gpt-mini", asked.held) for asked in held] == [[], [], []]
        assert slow.acquire("gpt-4o", head.id, wait=FOR_EVER).status is PARKED
    behind = busy.acquire("gpt-mini", wait=FOR_EVER)
    assert behind.status is PARKED
    busy.release("gpt-mini", held[0].id)
    follow(busy, slow)
    assert store.leases(slow.line("gpt-4o")) == [head.id]
    assert store.queue(busy.line("gpt-mini")) == [behind.id]
