"""Housekeeping comes once a second: nothing that still counts may expire in between, whoever does it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from ratelease import Limits, Rate
from support.clock import DrivenClock
from support.store import FOR_EVER, RELEASED, Instance, Store

MakeStore = Callable[..., Store]
SCOPE = "openai/gpt-4o"


def used(one: Instance, model: str = "gpt-4o") -> list[int]:
    """What each rate of the model has counted."""
    return [rate.used for rate in one.look(model)[0][0].rates]


@pytest.mark.covers("RL-01", "RL-22")
def test_leases_live_on_while_new_processes_start_all_the_time(make_store: MakeStore, clock: DrivenClock) -> None:
    """Each brings its generation, and looks after everything; each holds a call for 2.4 s."""
    store = make_store(limits={SCOPE: Limits(concurrency=5)})
    held: list[tuple[float, Instance, str]] = []
    for turn in range(140):
        one = store.instance()
        for lease in [lease for lease in held if lease[0] <= turn / 2]:
            assert lease[1].release("gpt-4o", lease[2]) is RELEASED
            held.remove(lease)
        asked = one.acquire("gpt-4o")
        assert asked.granted == (len(held) < 5)
        held += [(turn / 2 + 2.4, one, asked.id)] if asked.granted else []
        assert one.used("gpt-4o") == len(held)
        clock.advance(0.5)


@pytest.mark.covers("RL-01", "RL-22")
@pytest.mark.parametrize("first", ["acquire", "beat"])
def test_a_longer_lease_time_is_given_to_the_keys_at_once(
    make_store: MakeStore, clock: DrivenClock, first: str
) -> None:
    """The next heartbeat comes later than the keys would have lived by the shorter one."""
    store = make_store(limits={SCOPE: Limits(concurrency=3)})
    old = store.instance(lease_ttl=4.0, heartbeat=1.0)
    before = old.acquire("gpt-4o")
    clock.advance(0.2)
    new = store.instance(lease_ttl=60.0, heartbeat=20.0)
    if first == "beat":
        new.beat()
    taker = old if first == "beat" else new
    assert taker.acquire("gpt-4o").granted
    old.release("gpt-4o", before.id)
    clock.advance(10)
    assert taker.used("gpt-4o") == 1


@pytest.mark.covers("RW-14", "LC-22")
def test_windows_that_outlive_their_configuration_are_carried_on(make_store: MakeStore, clock: DrivenClock) -> None:
    """The newest instance falls silent, its limits expire; what was counted by them counts for the older ones."""
    store = make_store(limits={SCOPE: Limits(rates=[Rate(50, per=60.0)], guard=0)})
    old = store.instance()
    old.acquire("gpt-4o")
    store.instance({SCOPE: Limits(rates=[Rate(50, per=50.0)], guard=0)}).acquire("gpt-4o")
    clock.advance(30)
    granted = []
    for turn in range(220):
        clock.advance(0.5)
        asked = old.acquire("gpt-4o")
        if asked.granted:
            granted.append(turn / 2)
            old.release("gpt-4o", asked.id)
    assert max(sum(1 for at in granted if since <= at < since + 50) for since in granted) <= 50
    fields = store.client.hkeys(old.line("gpt-4o").keys[9])
    assert not [field for field in fields if field.startswith(b"r50000:")]


@pytest.mark.covers("RD-02", "PF-08")
def test_a_late_charge_leaves_the_shorter_windows_right(make_store: MakeStore, clock: DrivenClock) -> None:
    """A charge of half a minute ago belongs to the minute alone; five a second go on to fit into ten."""
    store = make_store(limits={SCOPE: Limits(rates=[Rate(10, per=1.0), Rate(1000, per=60.0)], guard=0)})
    one = store.instance()
    one.send([one.request("gpt-4o") for _ in range(8)])
    granted = 0
    for turn in range(150):
        clock.advance(0.2)
        if turn == 5:
            one.backdate("gpt-4o", "list1", [(30_000, "r3")])
        granted += one.acquire("gpt-4o").granted
        assert turn < 10 or used(one)[0] <= 6
    assert granted >= 147


@pytest.mark.covers("TK-03")
def test_what_a_call_used_is_charged_though_it_has_reserved_nothing(make_store: MakeStore) -> None:
    """Its caller said 0 tokens, or the rate was set while it ran."""
    store = make_store(limits={SCOPE: Limits(concurrency=9)})
    one = store.instance()
    first, second = one.acquire("gpt-4o", costs="r1"), one.acquire("gpt-4o", costs="r1T500")
    store.configure("m:openai:gpt-4o", "set", "t60000=1000")
    one.settle("gpt-4o", first.id, "t300")
    one.settle("gpt-4o", second.id, "t600", ends=False)
    assert used(one) == [900]


WRONG_TYPES = {
    "release": (lambda one, held: one.release("gpt-4o", held.id, may_land=True), (6,)),
    "release of an unknown": (lambda one, _: one.release("gpt-4o", "unheard-of", may_land=True), (6,)),
    "housekeeping": (lambda one, held: one.settle("gpt-4o", held.id, "t5"), (6,)),
    "grant": (lambda one, _: one.grant("gpt-4o"), (6,)),
    "backdate": (lambda one, _: one.backdate("gpt-4o", "list", [(0, "r1")]), (6,)),
    "report": (lambda one, _: one.report("gpt-4o", "t,-1,"), (2, 4, 6)),
}


@pytest.mark.covers("AL-26")
@pytest.mark.parametrize("verb, number", [(verb, number) for verb, (_, keys) in WRONG_TYPES.items() for number in keys])
def test_graves_and_other_keys_of_a_wrong_type_end_a_call_before_it_has_written_anything(
    make_store: MakeStore, clock: DrivenClock, verb: str, number: int
) -> None:
    """What is only written is looked at before; once the key is mended, the same call does all that it should."""
    call, _ = WRONG_TYPES[verb]
    store = make_store(limits={SCOPE: Limits(concurrency=1, tpm=100)})
    one, two = store.instance(), store.instance()
    two.beat()
    held = one.acquire("gpt-4o", tokens=20)
    two.acquire("gpt-4o", tokens=10, wait=FOR_EVER)
    clock.advance(2)
    key = one.line("gpt-4o").keys[number]
    store.client.set(key, "not ours", ex=600)
    before = {key: store.client.dump(key) for key in store.client.scan_iter()}
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        call(one, held)
    assert {key: store.client.dump(key) for key in store.client.scan_iter()} == before
    store.client.delete(key)
    call(one, held)


@pytest.mark.covers("RL-03")
def test_a_key_of_a_wrong_type_ends_a_call_before_it_has_written_anything(
    make_store: MakeStore, clock: DrivenClock
) -> None:
    """Also the first call of another path, which comes between two rounds of housekeeping."""
    store = make_store(limits={SCOPE: Limits(concurrency=5, rpm=100)})
    one = store.instance()
    one.acquire("gpt-4o")
    clock.advance(0.1)
    line = one.line("gpt-4o", ("batch",))
    store.client.set(line.keys[6], "somebody else's", ex=60)
    try:
        granted = one.acquire(line).granted
    except redis.ResponseError:
        granted = False
    assert one.used("gpt-4o") == 1 + granted


@pytest.mark.covers("RL-22")
def test_a_path_stays_listed_for_as_long_as_anything_of_it_counts(make_store: MakeStore, clock: DrivenClock) -> None:
    """Who looks or resets goes by the list: a window of 30 days is found to its end, what was learned for a week."""
    month = Limits(rates=[Rate(5, per=30 * 86_400)])
    store = make_store(limits={"openai/month": month, "openai/minute": Limits(rpm=5)})
    one = store.instance()

    def listed() -> set[bytes]:
        one.beat()
        return {
            name.split(b":")[2].partition(b"~")[0]
            for name in store.client.zrange(store.keyspace.instance_keys[2], 0, -1)
        }

    one.call("month")
    one.call("minute", "q,590000000,m")
    clock.advance(6.8 * 86_400)
    assert listed() == {b"month", b"minute"}
    clock.advance(6)
    assert one.acquire("minute").answer.dimension == "quota"
    clock.advance(0.3 * 86_400)
    assert listed() == {b"month"}
    for _ in range(22):
        clock.advance(86_400)
        assert listed() == {b"month"}
    assert used(one, "month") == [1]
    clock.advance(9 * 86_400)
    assert listed() == set()
