"""A refusal costs nothing: every limit is checked before anything is written."""

from collections.abc import Callable
from typing import Any

import pytest
import redis

from ratelease import Limits
from ratelease.testing.redis_server import RedisServer
from support.store import FOR_EVER, IMPOSSIBLE, REFUSED, Instance, Store

MakeStore = Callable[..., Store]
ROOMY = Limits(rpm=100, tpm=100_000, concurrency=50)
FULL: dict[str, dict[str, Limits]] = {
    "the model's concurrency": {"openai/gpt-4o": Limits(rpm=100, concurrency=1)},
    "the model's requests": {"openai/gpt-4o": Limits(rpm=1, concurrency=50)},
    "the model's tokens": {"openai/gpt-4o": Limits(rpm=100, tpm=150, concurrency=50)},
    "the provider's concurrency": {"openai": Limits(rpm=100, concurrency=1)},
    "the provider's requests": {"openai": Limits(rpm=1, concurrency=50)},
    "the total's concurrency": {"total": Limits(rpm=100, concurrency=1)},
    "the total's requests": {"total": Limits(rpm=1, concurrency=50)},
    "both kinds at once": {"openai/gpt-4o": Limits(rpm=1, concurrency=50), "total": Limits(concurrency=1)},
}
every_limit = pytest.mark.parametrize("full", FULL.values(), ids=FULL)


def book(full: dict[str, Limits]) -> dict[str, Limits]:
    """Room in every scope but in those that are given."""
    return {"openai/gpt-4o": ROOMY, "openai": ROOMY, "total": ROOMY} | full


def known(store: Store) -> Instance:
    """An instance that has called before, and holds the one lease there is room for."""
    one = store.instance()
    one.beat()
    assert one.acquire("gpt-4o", tokens=100).granted
    return one


def fields(client: Any) -> dict[str, tuple[Any, int]]:
    """What every key holds, with its TTL in ms."""
    found = {}
    for key in sorted(client.scan_iter(count=1000)):
        zset = client.type(key) == b"zset"
        held = client.zrange(key, 0, -1, withscores=True) if zset else client.hgetall(key)
        found[key.decode()] = held, client.pttl(key)
    return found


def dumps(client: Any) -> dict[bytes, bytes]:
    """Every key, as the server itself would write it down."""
    return {key: client.dump(key) for key in sorted(client.scan_iter(count=1000))}


def changes(client: Any) -> int:
    """How many writes the server has counted so far, whether or not they changed a value."""
    return int(client.info("persistence")["rdb_changes_since_last_save"])


def refuse(one: Instance) -> None:
    """Be refused in every way that a caller can be."""
    assert one.acquire("gpt-4o", tokens=100).status is REFUSED
    assert [asked.status for asked in one.send([one.request("gpt-4o", tokens=100) for _ in range(3)])] == [REFUSED] * 3
    assert one.acquire("gpt-4o", n=3, tokens=100).status in (REFUSED, IMPOSSIBLE)
    assert one.acquire("gpt-4o", weight=1000, tokens=100).status in (REFUSED, IMPOSSIBLE)


@pytest.mark.covers("RL-03", "AD-09")
@every_limit
def test_a_refused_acquire_leaves_every_field_and_every_ttl(make_store: MakeStore, full: dict[str, Limits]) -> None:
    """The clock stands still, so that a TTL set again would show as well once it has moved on."""
    store = make_store(limits=book(full))
    one = known(store)
    before = fields(store.client)
    assert len(before) >= 8
    refuse(one)
    assert fields(store.client) == before


@pytest.mark.covers("RL-03")
@every_limit
def test_a_refused_acquire_does_not_prolong_any_key(make_store: MakeStore, clock: Any, full: dict[str, Limits]) -> None:
    """Two seconds later every TTL is two seconds shorter, however often somebody was refused."""
    store = make_store(limits=book(full))
    one = known(store)
    before = fields(store.client)
    clock.advance(2.0)
    refuse(one)
    shorter = {key: (held, ttl - 2000) for key, (held, ttl) in before.items()}
    assert fields(store.client) == shorter


@pytest.mark.covers("RL-03")
@every_limit
def test_a_refused_acquire_writes_nothing_on_a_real_server(each_server: RedisServer, full: dict[str, Limits]) -> None:
    """Dumps are equal byte by byte, and the server's own count of writes stands still."""
    with redis.Redis.from_url(each_server.url) as client:
        one = known(Store(client, limits=book(full)))
        kept, count = dumps(client), changes(client)
        assert len(kept) >= 8
        refuse(one)
        assert changes(client) == count
        assert dumps(client) == kept


@pytest.mark.covers("RL-03")
def test_whoever_is_refused_behind_a_waiter_changes_no_count_either(make_store: MakeStore) -> None:
    """Where somebody waits a refusal may touch the queue's TTLs, and still no field of any key."""
    store = make_store(limits=book(FULL["the model's concurrency"]))
    one = known(store)
    one.acquire("gpt-4o", wait=FOR_EVER)
    before = {key: held for key, (held, _) in fields(store.client).items()}
    refused = one.acquire("gpt-4o")
    assert (refused.status, refused.answer.dimension) == (REFUSED, "c")
    assert {key: held for key, (held, _) in fields(store.client).items()} == before


@pytest.mark.covers("RL-03")
def test_of_a_batch_that_fits_in_part_the_refused_requests_cost_nothing(make_store: MakeStore) -> None:
    """Five ask in one call, two fit the model's requests: two are counted, in every scope."""
    store = make_store(limits={"openai/gpt-4o": Limits(rpm=2), "openai": ROOMY, "total": ROOMY})
    one = store.instance()
    asked = one.send([one.request("gpt-4o", tokens=7) for _ in range(5)])
    assert [each.granted for each in asked] == [True, True, False, False, False]
    scopes, _ = one.look("gpt-4o")
    assert [scope.in_flight for scope in scopes] == [2, 2, 2]
    line = one.line("gpt-4o")
    assert [int(store.client.hget(line.keys[key], "r60000:n")) for key in (9, 14, 19)] == [2, 2, 2]
    assert [int(store.client.hget(line.keys[key], "t60000:n")) for key in (14, 19)] == [14, 14]
