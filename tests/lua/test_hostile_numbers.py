"""Numbers that somebody else has written into our keys: no script runs for long, and no limit is void."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ratelease import Limits, Rate
from ratelease.testing import RedisServer
from support.clock import START_MS, DrivenClock
from support.store import FOR_EVER, RELEASED, Instance, Store
from support.wait_until import wait_until

MakeStore = Callable[..., Store]
MODEL = "gpt-4o"
NUMBERS = ("nan", "inf", "-5", "1.5", "", "1" * 17, "9" * 15, "9" * 400, "0")
FIELDS = ("n", "old", "new", "slot")


def shown(number: str) -> str:
    """A number as the name of a test has it."""
    return f"{number[:3]}…{len(number)}" if len(number) > 5 else number


numbers_of_all_kinds = pytest.mark.parametrize("number", NUMBERS, ids=shown)
each_field = pytest.mark.parametrize("field", FIELDS)


def put(store: Store, one: Instance, field: str, number: str) -> None:
    """Write a number of the model's window of a minute; `slot` is its newest."""
    windows = one.line(MODEL).keys[9]
    if field == "slot":
        field = str(int(store.client.hget(windows, "r60000:new")) % 128)
    store.client.hset(windows, f"r60000:{field}", number)


def granted(one: Instance, count: int) -> int:
    """How many of so many requests, sent in one call, are granted."""
    return sum(asked.granted for asked in one.send([one.request(MODEL) for _ in range(count)]))


@contextlib.contextmanager
def impatient(server: RedisServer) -> Iterator[redis.Redis]:
    """A client that does not wait for a script that never ends; the server is freed of it."""
    client = redis.Redis.from_url(server.url, retry=Retry(NoBackoff(), 0), socket_timeout=1.0)
    client.flushall()
    client.config_set("lua-time-limit", 100)

    def killed() -> bool:
        try:
            return bool(client.script_kill())
        except (redis.exceptions.TimeoutError, redis.ResponseError):
            return False

    try:
        yield client
    except redis.exceptions.TimeoutError:
        wait_until(killed, description="the script has been killed")
        raise
    finally:
        client.close()


@numbers_of_all_kinds
@each_field
def test_rubbish_in_a_window_neither_hangs_the_server_nor_voids_the_limit(
    redis_server: RedisServer, field: str, number: str
) -> None:
    """With some of it used, and with all of it used, which has a refusal look for the time that it is free."""
    with impatient(redis_server) as client:
        store = Store(client, limits={f"openai/{MODEL}": Limits(rpm=10)})
        one = store.instance()
        for used in (1, 10):
            granted(one, used)
            put(store, one, field, number)
            refused = one.send([one.request(MODEL) for _ in range(11)])[-1]
            assert not refused.granted
            assert 0 < refused.answer.estimate <= 70_000
            assert granted(one, 11) == 0
        client.flushall()


@numbers_of_all_kinds
@each_field
def test_a_window_with_rubbish_in_it_is_whole_again_once_it_is_over(
    make_store: MakeStore, clock: DrivenClock, field: str, number: str
) -> None:
    """Also under constant use, where no moment finds it empty; but for what a slot has counted, that cannot be told."""
    store = make_store(limits={f"openai/{MODEL}": Limits(rpm=100, guard=0)}, lease_ttl=600.0)
    one = store.instance()
    granted(one, 10)
    clock.advance(3)
    granted(one, 10)
    put(store, one, field, number)
    for _ in range(42):
        clock.advance(3)
        granted(one, 1)
    assert 20 <= one.look(MODEL)[0][0].rates[0].used <= (31 if field == "slot" else 22)
    clock.advance(62)
    assert granted(one, 100) == 100


@pytest.mark.parametrize("number", ["inf", "1.5", "1e3"])
def test_a_slot_with_rubbish_in_it_counts_nothing_and_takes_nothing_back(
    make_store: MakeStore, clock: DrivenClock, number: str
) -> None:
    """What is charged elsewhere decides when there is room; a charge of that slot does not return."""
    store = make_store(limits={f"openai/{MODEL}": Limits(rpm=10, guard=0)}, lease_ttl=600.0)
    one = store.instance()
    first = one.acquire(MODEL)
    put(store, one, "slot", number)
    clock.advance(30)
    assert granted(one, 10) == 9
    assert one.acquire(MODEL).answer.estimate > 60_000
    assert one.release(MODEL, first.id, unsent=True) is RELEASED
    assert granted(one, 1) == 0


@pytest.mark.parametrize("guard", ["0", "9" * 15, "9" * 400], ids=shown)
@pytest.mark.parametrize("limit", ["9" * 15, "9" * 400, "5"], ids=shown)
@pytest.mark.parametrize("window", ["0", "60000", "9" * 15, "9" * 17, "9" * 400], ids=shown)
def test_rubbish_among_agreed_limits_neither_hangs_the_server_nor_ends_a_call_half_way(
    redis_server: RedisServer, window: str, limit: str, guard: str
) -> None:
    """A hand-off and an instance without limits of its own obey what is agreed in the store."""
    with impatient(redis_server) as client:
        store = Store(client, limits={"openai/other": Limits(rpm=1)})
        one = store.instance()
        line = one.line(MODEL)
        spec = f"c{limit} k{guard} r{window}={limit}+{guard} t1000=5+0"
        client.hset(line.keys[8], mapping={"generation": START_MS * 2, "limits": spec})
        client.pexpire(line.keys[8], 60_000)
        for unsent in (True, False, True):
            asked = one.acquire(MODEL, tokens=1, wait=FOR_EVER)
            one.release(MODEL, asked.id, unsent=unsent)
            assert one.look(MODEL)[0][0].concurrency in (None, 5, 10**15 - 1)
        assert [one.acquire(MODEL, tokens=1).granted for _ in range(6)][-1] is False, "the rate that can be read holds"
        client.flushall()


@pytest.mark.parametrize("state", ["H", "G", "W"])
@pytest.mark.parametrize(
    "words",
    [
        *("1 200000 1 r1 1 0", "1 1 200000 r1 1 0", "1 1000 1000 r1 1 0", f"1 {'9' * 400} 1 r1 1 0"),
        *("1 0 1 r1 1 0", "1 1 0 r1 1 0", "1 1 1 r1", f"{'9' * 400} 1 1 r1 1 0", f"1 1 1 r1 {'9' * 400} 0"),
    ],
    ids=lambda words: words if len(words) < 50 else words[:40],
)
def test_a_record_of_more_than_any_request_stands_for_counts_as_absent(
    make_store: MakeStore, clock: DrivenClock, state: str, words: str
) -> None:
    """No lease is made of it, nor taken back, however many it names."""
    store = make_store(limits={f"openai/{MODEL}": Limits(concurrency=2, rpm=100)})
    one = store.instance()
    held = one.acquire(MODEL)
    line = one.line(MODEL)
    store.client.hset(
        line.keys[5], "x", f"{state} {one.name} {words}" if state != "H" else f"H {one.name} {words[:-4]}"
    )
    store.client.zadd(line.keys[3], {"x": 1})
    store.client.zadd(line.keys[4], {"x": 1})
    store.client.pexpire(line.keys[3], 60_000)
    store.client.pexpire(line.keys[4], 60_000)
    one.release(MODEL, "x")
    assert one.grant(MODEL) == []
    assert store.leases(line) == [held.id]
    assert granted(one, 2) == 1
    assert store.client.hlen(line.keys[5]) <= 4


def test_the_largest_group_is_no_rubbish(make_store: MakeStore) -> None:
    """As many leases, of as much weight, as a client may ask for together."""
    store = make_store(limits={f"openai/{MODEL}": Limits(rates=[Rate(2000)])})
    one = store.instance()
    store.configure(f"m:openai:{MODEL}", "pause", "600000")
    waiter = one.acquire(MODEL, n=1024, weight=4, wait=FOR_EVER)
    store.configure(f"m:openai:{MODEL}", "resume")
    assert one.grant(MODEL) == [waiter.id]
    assert one.acquire(MODEL, waiter.id, n=1024, weight=4, wait=FOR_EVER).granted
    assert one.used(MODEL) == 4096


@pytest.mark.covers("AL-26")
@pytest.mark.parametrize("number", ["nan", "inf", "-5", "1.5", "9" * 400], ids=shown)
def test_what_is_no_number_spoils_neither_tickets_nor_estimates(
    make_store: MakeStore, clock: DrivenClock, number: str
) -> None:
    """The sequence that tickets come from, and how long calls last, are as if they had never been written."""
    store = make_store(limits={f"openai/{MODEL}": Limits(concurrency=1)})
    one = store.instance()
    held = one.acquire(MODEL)
    line = one.line(MODEL)
    store.client.hset(line.keys[0], "sequence", number)
    store.client.hset(line.keys[5], "hold", number)
    waiters = [one.acquire(MODEL, wait=FOR_EVER) for _ in range(3)]
    assert [ticket for _, ticket in store.client.zrange(line.keys[3], 0, -1, withscores=True)] == [
        START_MS,
        START_MS + 1,
        START_MS + 2,
    ]
    clock.advance(2.0)
    assert one.release(MODEL, held.id) is RELEASED
    assert one.send([waiters[0].request])[0].granted
    assert one.look(MODEL)[0][0].average_held == 2.0
