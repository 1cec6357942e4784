"""Leases that are held for long, and holders that are too busy to care."""

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from ratelease import AsyncClient, Client, Limits
from ratelease.core.model import Verdict
from ratelease.core.scripts import ACQUIRE, HEADER_VALUES, Call
from ratelease.errors import StoreUnavailable
from ratelease.testing import config
from support.both import Limiter
from support.store_view import StoreView
from support.wait_until import wait_until, wait_until_async

pytestmark = pytest.mark.faults

LIMITS = {"openai/gpt-4o": Limits(concurrency=1)}


def chunks(seconds: float, pause: float) -> Iterator[int]:
    """A provider's stream: a chunk every `pause` seconds."""
    until, number = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        threading.Event().wait(pause)
        number += 1
        yield number


async def let_it_park_unread(view: StoreView) -> None:
    """Give the loop one turn after the other until a request of it is parked, and none in which to read the answer."""
    for _ in range(400):
        await asyncio.sleep(0)
        threading.Event().wait(0.005)  # blocks the loop: what this turn has sent is parked by now
        if view.waiting():
            return
    raise AssertionError("nothing was parked")


@pytest.mark.covers("LS-04")
def test_a_stream_of_240_heartbeats_keeps_its_slot_throughout(
    redis_url: str, redis_client: redis.Redis, free_namespace: str
) -> None:
    """As long, in heartbeats, as twenty minutes are with the default ones: nobody else gets the slot meanwhile."""
    heartbeat, ttl = 0.05, 0.4
    settings = config(url=redis_url, namespace=free_namespace, lease_ttl=ttl, heartbeat=heartbeat)
    view = StoreView(redis_client, free_namespace)
    lost: list[object] = []
    with (
        Client(limits=LIMITS, config=settings, on_lost=lost.append) as client,
        Client(limits=LIMITS, config=settings) as other,
    ):
        lease = client.acquire("openai", "gpt-4o")
        began = time.monotonic()
        for _ in lease.wrap_stream(chunks(240 * heartbeat, 0.1)):
            assert not other.try_acquire("openai", "gpt-4o")
            assert list(view.expiries()) == [lease.id]
            assert lease.valid
        assert time.monotonic() - began >= 240 * heartbeat
        assert other.try_acquire("openai", "gpt-4o"), "the end of the stream has released"
    assert lost == []


@pytest.mark.covers("LS-04")
async def test_a_blocked_event_loop_loses_no_lease(
    redis_url: str, redis_client: redis.Redis, free_namespace: str
) -> None:
    """The caller's loop stands still for four TTLs: heartbeats come from the keeper's thread."""
    settings = config(url=redis_url, namespace=free_namespace, lease_ttl=0.5, heartbeat=0.1)
    view = StoreView(redis_client, free_namespace)
    lost: list[object] = []
    async with AsyncClient(limits=LIMITS, config=settings, on_lost=lost.append) as client:
        async with client.acquire("openai", "gpt-4o") as lease:
            until = time.monotonic() + 2.0
            while time.monotonic() < until:
                threading.Event().wait(0.05)  # blocks the loop, which is the point
                assert list(view.expiries()) == [lease.id]
                assert view.in_flight() == 1
            assert lease.valid
        assert view.in_flight() == 0
    assert lost == []


@pytest.mark.covers("LS-04")
@pytest.mark.parametrize("told", [True, False], ids=["after it was told to wait", "before it has read that it waits"])
async def test_a_grant_that_comes_while_the_loop_is_blocked_is_kept_for_its_caller(
    redis_url: str, redis_client: redis.Redis, free_namespace: str, told: bool
) -> None:
    """A waiter is granted while its loop stands still for four TTLs: the lease is still good when it wakes."""
    settings = config(url=redis_url, namespace=free_namespace, lease_ttl=0.5, heartbeat=0.1)
    view = StoreView(redis_client, free_namespace)
    lost: list[object] = []
    queued: list[object] = []
    with Client(limits=LIMITS, config=settings) as other:
        async with AsyncClient(limits=LIMITS, config=settings, on_lost=lost.append, on_queued=queued.append) as client:
            held = other.acquire("openai", "gpt-4o")
            waiting = asyncio.ensure_future(client.acquire("openai", "gpt-4o").__aenter__())
            if told:
                await wait_until_async(lambda: len(queued) == 1, description="the caller knows that it is parked")
            else:
                await let_it_park_unread(view)
                assert queued == []
            held.release()
            threading.Event().wait(2.0)  # blocks the loop, which is the point
            kept = view.expiries()
            lease = await waiting
            assert list(kept) == [lease.id]
            assert lease.valid
            assert not other.try_acquire("openai", "gpt-4o")
            await lease.release()
    assert lost == []


@pytest.mark.covers("LS-04")
@pytest.mark.parametrize("colour", [Client, AsyncClient], ids=["sync", "async"])
async def test_a_group_that_was_granted_meanwhile_is_kept_where_its_own_call_fails(
    redis_url: str,
    redis_client: redis.Redis,
    free_namespace: str,
    colour: type[Client | AsyncClient],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The answer "parked" is never read; by then the keeper has claimed the group. Its rest is looked after, too."""
    settings = config(url=redis_url, namespace=free_namespace, lease_ttl=15.0, heartbeat=0.2, claim_ttl=15.0)
    limits = {"openai/gpt-4o": Limits(concurrency=3)}
    limiter, other = Limiter(colour(limits=limits, config=settings)), Client(limits=limits, config=settings)
    await (await limiter.acquire("openai", "gpt-4o")).release()
    held = [other.acquire("openai", "gpt-4o") for _ in range(3)]
    keeper, wire = limiter.client._rt.keeper, limiter.client._exchange.wire
    run = wire.run

    def granted_meanwhile() -> None:
        monkeypatch.setattr(wire, "run", run)
        held[0].release()
        held[1].release()
        wait_until(lambda: len(keeper.holds) == 2, description="the keeper has claimed the group")
        raise StoreUnavailable("the store did not answer before the caller's deadline")

    def unanswered(*arguments: Any) -> None:
        run(*arguments)
        granted_meanwhile()

    async def unanswered_async(*arguments: Any) -> None:
        await run(*arguments)
        granted_meanwhile()

    monkeypatch.setattr(wire, "run", unanswered if limiter.is_sync else unanswered_async)
    group = await limiter.acquire_many("openai", "gpt-4o", 3, at_least=2, timeout=3)
    assert [group[number].valid for number in range(len(group))] == [True, True]
    await limiter.until_waiting(1)
    # Its message is lost: only what the keeper asks for by itself still comes.
    redis_client.client_kill_filter(_type="pubsub")
    held[2].release()
    assert len([lease async for lease in group.rest()]) == 1
    await group.release()
    await limiter.close()
    limiter.callers.end()
    other.close()


@pytest.mark.covers("LS-04")
async def test_a_grant_is_kept_for_a_loop_that_stands_still_longer_than_its_call_may_take(
    redis_url: str, redis_client: redis.Redis, free_namespace: str
) -> None:
    """Its call's time is over in the same turn in which the answer is there; the keeper has renewed the grant."""
    settings = config(
        url=redis_url,
        namespace=free_namespace,
        lease_ttl=0.5,
        heartbeat=0.1,
        store_timeout=1.0,
        attempt_timeout=0.3,
    )
    view = StoreView(redis_client, free_namespace)
    with Client(limits=LIMITS, config=settings) as other:
        async with AsyncClient(limits=LIMITS, config=settings) as client:
            held = other.acquire("openai", "gpt-4o")
            waiting = asyncio.ensure_future(client.acquire("openai", "gpt-4o", timeout=60).__aenter__())
            await let_it_park_unread(view)
            held.release()
            threading.Event().wait(1.5)  # blocks the loop, which is the point
            kept = view.expiries()
            lease = await waiting
            assert list(kept) == [lease.id]
            assert lease.valid
            await lease.release()


@pytest.mark.covers("RL-05")
async def test_an_answer_that_is_read_after_its_lease_has_ended_is_asked_for_again(
    redis_url: str, redis_client: redis.Redis, free_namespace: str
) -> None:
    """The loop stands still from sending the request until long after the lease: no call starts on what is over."""
    settings = config(url=redis_url, namespace=free_namespace, lease_ttl=0.3, heartbeat=0.1)
    view = StoreView(redis_client, free_namespace)
    async with AsyncClient(limits=LIMITS, config=settings) as client:
        async with client.acquire("openai", "gpt-4o"):
            pass
        asking = asyncio.ensure_future(client.acquire("openai", "gpt-4o").__aenter__())
        while not view.in_flight():  # noqa: ASYNC110 - lets the request go, and the answer not yet come in
            await asyncio.sleep(0)
        threading.Event().wait(0.6)  # blocks the loop, which is the point
        lease = await asking
        assert lease.valid
        assert list(view.expiries()) == [lease.id]
        await lease.release()


@pytest.mark.covers("RL-05")
@pytest.mark.parametrize("least", [2, 1, 0])
async def test_a_group_that_is_read_after_its_leases_have_ended_is_asked_for_again(
    redis_url: str, redis_client: redis.Redis, free_namespace: str, least: int
) -> None:
    """As for a single lease: of the group itself, and of what is asked for behind it."""
    settings = config(url=redis_url, namespace=free_namespace, lease_ttl=0.3, heartbeat=0.1)
    view = StoreView(redis_client, free_namespace)
    lost: list[object] = []
    limits = {"openai/gpt-4o": Limits(concurrency=2)}
    async with AsyncClient(limits=limits, config=settings, on_lost=lost.append) as client:
        async with client.acquire("openai", "gpt-4o"):
            pass
        asking = asyncio.ensure_future(client.acquire_many("openai", "gpt-4o", 2, at_least=least).__aenter__())
        while not view.in_flight():  # noqa: ASYNC110 - lets the requests go, and the answer not yet come in
            await asyncio.sleep(0)
        threading.Event().wait(0.6)  # blocks the loop, which is the point
        group = await asking
        leases = [*group, *[lease async for lease in group.rest() if lease not in group]]
        assert [lease.valid for lease in leases] == [True, True]
        assert sorted(view.expiries()) == sorted(lease.id for lease in leases)
        await group.release()
    assert lost == []


@pytest.mark.covers("RL-05")
@pytest.mark.parametrize("colour", [Client, AsyncClient], ids=["sync", "async"])
async def test_a_group_that_is_claimed_too_late_is_asked_for_again(
    redis_url: str,
    free_namespace: str,
    colour: type[Client | AsyncClient],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The keeper's thread stands still as well, from sending the claim until its leases have ended."""
    settings = config(url=redis_url, namespace=free_namespace, lease_ttl=0.5, heartbeat=0.1, poll=10.0)
    lost: list[object] = []
    limiter = Limiter(colour(limits={"openai/gpt-4o": Limits(concurrency=2)}, config=settings, on_lost=lost.append))
    held = await limiter.acquire("openai", "gpt-4o")
    asking = asyncio.create_task(limiter.acquire_many("openai", "gpt-4o", 2).take())
    await limiter.until_waiting(1)
    keeper, late = limiter.client._rt.keeper, []
    run = keeper.run_script

    async def run_late(call: Call) -> Any:
        reply = await run(call)
        if call.script == ACQUIRE and reply[HEADER_VALUES] == Verdict.GRANTED and not late:
            late.append(call)
            threading.Event().wait(0.7)  # blocks the keeper's loop
        return reply

    monkeypatch.setattr(keeper, "run_script", run_late)
    await held.release()
    group = await asking
    assert late
    assert [group[number].valid for number in range(2)] == [True, True]
    await group.release()
    await limiter.close()
    limiter.callers.end()
    assert lost == []


@pytest.mark.covers("LS-04")
def test_spoilt_keys_of_one_model_cost_no_lease_of_another(
    redis_url: str, redis_client: redis.Redis, free_namespace: str
) -> None:
    """Somebody writes a string where the leases of a model are: the other model's are renewed all the same."""
    settings = config(url=redis_url, namespace=free_namespace, lease_ttl=0.6, heartbeat=0.1)
    spoilt, sound = StoreView(redis_client, free_namespace), StoreView(redis_client, free_namespace, "o3")
    lost: list[str] = []
    limits = {**LIMITS, "openai/o3": Limits(concurrency=1)}
    with Client(limits=limits, config=settings, on_lost=lambda lease: lost.append(lease.model)) as client:
        first = client.acquire("openai", "gpt-4o")
        second = client.acquire("openai", "o3")
        redis_client.set(spoilt.leases_key(), "not a lease", ex=60)
        wait_until(lambda: lost, description="the lease that cannot be renewed is lost")
        assert (first.valid, second.valid) == (False, True)
        assert list(sound.expiries()) == [second.id]
        assert len(client.instances()) == 1, "the instance goes on beating"
        assert client.reset("openai", "gpt-4o") >= 1
        with client.acquire("openai", "gpt-4o"):
            pass
    assert lost == ["gpt-4o"]
