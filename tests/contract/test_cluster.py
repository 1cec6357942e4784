"""A Redis Cluster as the store: one node decides for a namespace, whichever that is now."""

import asyncio
import contextlib
from typing import Any

import pytest

from ratelease import Config, Limits, Operator
from ratelease.core.keys import Keyspace, make_path
from ratelease.errors import StoreUnavailable
from ratelease.testing import config
from support.redis_cluster import RedisCluster
from support.wait_until import wait_until_async

SCOPE = "openai/gpt-4o"
ONE = {SCOPE: Limits(concurrency=1)}


@pytest.fixture(params=[0, 1, 2])
def owner(redis_cluster: RedisCluster, request: pytest.FixtureRequest) -> Any:
    """The node that decides for the test's namespace: the first seed, or another one."""
    return redis_cluster.servers[request.param]


@pytest.fixture
def settings(redis_cluster: RedisCluster, owner: Any) -> Config:
    """A namespace that this node decides for; the only seed is the first node."""
    seed = redis_cluster.url_of(redis_cluster.servers[0])
    return config(url=seed, namespace=redis_cluster.namespace_on(owner))


@pytest.fixture
def store(redis_cluster: RedisCluster, settings: Config) -> Any:
    """A plain client of the node that decides now."""
    return redis_cluster.client(redis_cluster.owner(settings.namespace))


@pytest.mark.covers("LC-21")
async def test_a_lease_is_taken_kept_and_given_back(make_limiter, settings) -> None:
    """Renewed beyond its TTL, counted by status, and free again afterwards."""
    limiter = make_limiter(limits={SCOPE: Limits(concurrency=1, rpm=100)})
    (lease,) = await limiter.hold("openai", "gpt-4o")
    await asyncio.sleep(1.2 * settings.lease_ttl)
    assert lease.valid
    assert await limiter.in_flight(SCOPE) == 1
    refused = await limiter.try_acquire("openai", "gpt-4o")
    assert (refused.scope, refused.dimension) == (SCOPE, "concurrency")
    await lease.release()
    assert await limiter.in_flight(SCOPE) == 0
    assert await limiter.used(SCOPE, "requests/60s") == 1
    assert await limiter.try_acquire("openai", "gpt-4o")


@pytest.mark.covers("LC-21")
async def test_a_slot_is_handed_over_between_clients(make_limiter) -> None:
    """By the message of the one that released it, not by a poll."""
    first, second = make_limiter(limits=ONE, poll=10.0), make_limiter(limits=ONE, poll=10.0)
    for _ in range(3):
        (held,) = await first.hold("openai", "gpt-4o")
        waiting = asyncio.create_task(second.hold("openai", "gpt-4o", timeout=5))
        await second.until_waiting(1)
        await held.release()
        (taken,) = await asyncio.wait_for(waiting, 2)
        await taken.release()


@pytest.mark.covers("LC-21")
async def test_groups_pools_and_the_total_are_one_decision(make_limiter) -> None:
    """However many scopes: no error of keys in different slots."""
    limits = {"total": Limits(concurrency=3), "openai": Limits(rpm=50, tpm=10_000), "openai/*": Limits(concurrency=9)}
    limiter = make_limiter(limits=limits)
    group = await limiter.acquire_many("openai", "gpt-4o", 3, tokens=10, pools=("a", "b"))
    assert len(group) == 3
    refused = await limiter.try_acquire("mistral", "large")
    assert (refused.scope, refused.used) == ("total", 3)
    await group.release()
    assert await limiter.try_acquire("mistral", "large")


@pytest.mark.covers("LC-21")
async def test_instances_and_reset_ask_the_node_that_decides(make_limiter) -> None:
    """The first call of a client, too, that nobody has told yet which node that is."""
    limiter, other = make_limiter(limits={SCOPE: Limits(rpm=1)}), make_limiter()
    await limiter.hold("openai", "gpt-4o")
    assert [each.heartbeat_age < 5 for each in await other.instances()].count(True) >= 1
    assert not await limiter.try_acquire("openai", "gpt-4o")
    assert await other.reset("openai", "gpt-4o") >= 1
    assert await limiter.try_acquire("openai", "gpt-4o")


@pytest.mark.covers("LC-21")
async def test_operators_reach_the_fleet(make_limiter, settings) -> None:
    """What one sets holds for the next acquire, wakes who waits, and is in the journal."""
    limiter = make_limiter(limits=ONE)
    operator = Operator(config=settings, who="somebody")
    (held,) = await limiter.hold("openai", "gpt-4o")
    waiting = asyncio.create_task(limiter.hold("openai", "gpt-4o"))
    await limiter.until_waiting(1)
    operator.set_limits("openai", "gpt-4o", Limits(concurrency=2))
    (taken,) = await asyncio.wait_for(waiting, 2)
    assert not await limiter.try_acquire("openai", "gpt-4o")
    operator.unset_limits("openai", "gpt-4o")
    assert {deed.who for deed in operator.journal()} == {"somebody"}
    operator.close()
    await held.release()
    await taken.release()


@pytest.mark.covers("LC-21")
async def test_namespaces_live_on_nodes_of_their_own(make_limiter, redis_cluster) -> None:
    """Each node has the keys of its namespace alone, and none decides for another."""
    spaces = {redis_cluster.namespace_on(server): server for server in redis_cluster.servers}
    limiters = [make_limiter(limits=ONE, namespace=namespace) for namespace in spaces]
    for limiter in limiters:
        await limiter.hold("openai", "gpt-4o")
        assert not await limiter.try_acquire("openai", "gpt-4o")
    for namespace, server in spaces.items():
        tags = {key.split(b":")[1].decode() for key in redis_cluster.client(server).scan_iter("rl:*")}
        assert f"{{{namespace}}}" in tags
        assert not tags & {f"{{{other}}}" for other in spaces if other != namespace}


@pytest.mark.covers("LC-21", "RL-23")
def test_a_server_puts_all_keys_of_a_namespace_into_one_slot(redis_cluster: RedisCluster) -> None:
    """By CLUSTER KEYSLOT of a real node; so is the slot that the tests compute with."""
    for namespace in ("default", "Grüße", "a b", "x" * 200):
        space = Keyspace(namespace)
        keys = [*space.instance_keys, space.overrides, space.journal]
        for model, pools in (("gpt-4o", ()), ("名前 %~:", ("opus", "a:b")), ("m" * 256, ("ß",))):
            keys += space.path_keys(make_path("Open AI", model, pools, "0123456789ab"))
        assert len({redis_cluster.slot_of(key) for key in keys}) == 1


@pytest.mark.covers("LC-21")
async def test_clients_follow_a_slot_that_moves(make_limiter, redis_cluster, settings) -> None:
    """Holders keep their leases, waiters their places, and the next slot is handed over on the new node."""
    first, second = make_limiter(limits=ONE), make_limiter(limits=ONE)
    for target in redis_cluster.servers:
        if redis_cluster.owner(settings.namespace) is target:
            continue
        (held,) = await first.hold("openai", "gpt-4o")
        waiting = asyncio.create_task(second.hold("openai", "gpt-4o", timeout=8))
        await second.until_waiting(1)
        redis_cluster.move(settings.namespace, target)
        assert await first.in_flight(SCOPE) == 1
        assert await first.waiting() == 1
        await held.release()
        (taken,) = await waiting
        assert not held.lost
        await taken.release()


@pytest.mark.covers("LC-21")
async def test_a_message_reaches_its_client_over_the_new_node(make_limiter, redis_cluster, settings) -> None:
    """The subscription moves with the slot: within a heartbeat the new owner has the channel's listener."""
    limiter = make_limiter(limits=ONE)
    await (await limiter.acquire("openai", "gpt-4o")).release()
    target = next(each for each in redis_cluster.servers if each is not redis_cluster.owner(settings.namespace))
    redis_cluster.move(settings.namespace, target)
    await (await limiter.acquire("openai", "gpt-4o")).release()
    channel = f"{Keyspace(settings.namespace).inbox_prefix}{limiter.instance_id}"

    async def listens() -> bool:
        return redis_cluster.client(target).pubsub_numsub(channel) == [(channel.encode(), 1)]

    await wait_until_async(listens, description="the client listens at the new owner")


@pytest.mark.covers("LC-21")
async def test_calls_wait_while_the_keys_of_the_slot_are_on_two_nodes(make_limiter, redis_cluster, settings) -> None:
    """TRYAGAIN and ASK are no answer: the caller gets the one that comes after the move."""
    limiter = make_limiter(limits={SCOPE: Limits(concurrency=2, rpm=100)})
    (held,) = await limiter.hold("openai", "gpt-4o")
    target = next(each for each in redis_cluster.servers if each is not redis_cluster.owner(settings.namespace))
    redis_cluster.begin_move(settings.namespace, target)
    assert redis_cluster.move_keys(settings.namespace, target, 2) == 2
    asked = asyncio.create_task(limiter.hold("openai", "gpt-4o", timeout=5))
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.shield(asked), 0.3)
    assert not asked.done()
    while redis_cluster.move_keys(settings.namespace, target):
        pass
    # A command of one key that is over there already is answered there.
    assert [instance.id for instance in await limiter.instances()] == [limiter.instance_id]
    assert not asked.done()
    redis_cluster.end_move(settings.namespace, target)
    await asked
    assert await limiter.in_flight(SCOPE) == 2
    assert await limiter.used(SCOPE, "requests/60s") == 2
    assert held.valid


@pytest.mark.covers("LC-21")
async def test_a_move_that_does_not_end_is_an_unavailable_store(make_limiter, redis_cluster, settings) -> None:
    """At the deadline, with the reason; a lease whose acquire was not carried out leaves nothing."""
    limiter = make_limiter(limits=ONE, store_timeout=0.5, on_unavailable="closed")
    await (await limiter.acquire("openai", "gpt-4o")).release()
    target = next(each for each in redis_cluster.servers if each is not redis_cluster.owner(settings.namespace))
    redis_cluster.begin_move(settings.namespace, target)
    redis_cluster.move_keys(settings.namespace, target, 1)
    with pytest.raises(StoreUnavailable, match="moving a slot"):
        await limiter.acquire("openai", "gpt-4o", timeout=5)
    while redis_cluster.move_keys(settings.namespace, target):
        pass
    redis_cluster.end_move(settings.namespace, target)

    async def granted() -> bool:
        try:
            return bool(await limiter.try_acquire("openai", "gpt-4o"))
        except StoreUnavailable:
            return False

    await wait_until_async(granted, description="the client has noticed that the move has ended")


@pytest.mark.covers("LC-21")
async def test_one_node_alone_says_that_it_is_one_of_a_cluster(make_limiter, redis_cluster) -> None:
    """redis:// to the wrong node: the message says which URL would do."""
    namespace = redis_cluster.namespace_on(redis_cluster.servers[1])
    limiter = make_limiter(url=redis_cluster.servers[0].url, namespace=namespace, limits=ONE)
    with pytest.raises(StoreUnavailable, match=r"redis\+cluster://"):
        await limiter.try_acquire("openai", "gpt-4o")
