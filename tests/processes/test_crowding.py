"""More calls at once than connections: they wait for each other, and the store is not to blame."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
import redis

from ratelease import AsyncClient, AsyncLease, Client, Config, Lease, Limits
from ratelease.errors import StoreUnavailable
from ratelease.store import wire
from ratelease.testing import config
from support.both import Limiter
from support.proxy import TcpProxy
from support.store_view import StoreView
from support.wait_until import wait_until_async

pytestmark = pytest.mark.faults

TOTAL = 2  # the number of the scope
LIMITS = {"openai/*-model": Limits(concurrency=2)}


@pytest.fixture(params=["local", "open"])
def settings(request: pytest.FixtureRequest, proxy: TcpProxy, free_namespace: str) -> Config:
    """Every request takes 40 ms to the store; an attempt is given up after 1 s, and many wait longer to be sent."""
    proxy.delay(0.04)
    return config(
        url=proxy.url,
        namespace=free_namespace,
        lease_ttl=30.0,
        heartbeat=2.0,
        attempt_timeout=1.0,
        on_unavailable=request.param,
    )


@pytest.mark.covers("RL-13")
async def test_five_hundred_acquires_over_eight_connections_are_all_admitted_by_the_store(
    settings: Config,
    monkeypatch: pytest.MonkeyPatch,
    proxy: TcpProxy,
    redis_client: redis.Redis,
    free_namespace: str,
) -> None:
    """Each is of another model, so that none can travel with another; no policy admits any of them."""
    monkeypatch.setattr(wire, "CONNECTIONS", 8)
    async with AsyncClient(limits=LIMITS, config=settings) as client:
        leases = await asyncio.gather(*(client.acquire("openai", f"{number}-model") for number in range(500)))
        assert {lease.flags for lease in leases} == {frozenset()}
        assert client._rt.outage.admissions == {}
        assert all(lease.valid for lease in leases)
        assert {lease._hold.request.sent for lease in leases} == {1}, "nobody was sent twice for want of a connection"
        proxy.passing()
        await asyncio.gather(*(lease.release() for lease in leases))
        view = StoreView(redis_client, free_namespace)
        await wait_until_async(lambda: view.in_flight(TOTAL) == 0, description="all are released")


@pytest.mark.covers("RL-13")
def test_threads_that_wait_for_a_connection_are_admitted_by_the_store(
    settings: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixty threads, two connections."""
    monkeypatch.setattr(wire, "CONNECTIONS", 2)
    leases: list[Lease] = []
    with Client(limits=LIMITS, config=settings) as client:

        def acquire(number: int) -> None:
            leases.append(client.acquire("openai", f"{number}-model"))

        threads = [threading.Thread(target=acquire, args=(number,)) for number in range(60)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [lease.flags for lease in leases] == [frozenset()] * 60
        assert client._rt.outage.admissions == {}


def _hold_connections(client: Any) -> Callable[[], None]:
    """Take every place of a client's pool; returns what gives them back."""
    room = client._exchange.wire._room
    if isinstance(room, asyncio.Semaphore):
        room._value = 0
        return room.release
    while room.enter(0):
        pass
    return room.leave


@pytest.mark.covers("RL-13")
@pytest.mark.parametrize("colour", ["sync", "async"])
async def test_a_pool_that_stays_full_is_told_as_such(settings: Config, colour: str) -> None:
    """The caller learns at its deadline that its own process asks too much; no policy answers in the store's place."""
    client: Any = (Client if colour == "sync" else AsyncClient)(limits=LIMITS, config=settings)
    give_back = _hold_connections(client)
    limiter = Limiter(client)
    with pytest.raises(StoreUnavailable, match=r"too many calls|before the caller's deadline") as raised:
        await limiter.acquire("openai", "a-model", timeout=0.3)
    assert not raised.value.away
    assert client._rt.outage.admissions == {}
    give_back()
    await (await limiter.acquire("openai", "a-model")).release()
    await limiter.close()
    limiter.callers.end()


@pytest.mark.covers("RL-07", "RL-13")
async def test_a_request_whose_caller_goes_while_it_has_no_connection_leaves_nothing(
    settings: Config, monkeypatch: pytest.MonkeyPatch, proxy: TcpProxy, redis_client: redis.Redis, free_namespace: str
) -> None:
    """Its lane has taken it already, so it is sent all the same: it is withdrawn by its id."""
    monkeypatch.setattr(wire, "CONNECTIONS", 1)
    limits = {"openai/slow": Limits(concurrency=5), "openai/last": Limits(concurrency=1)}
    async with AsyncClient(limits=limits, config=settings.replace(attempt_timeout=5.0)) as client:
        await (await client.acquire("openai", "slow")).release()
        proxy.delay(0.4)
        first = asyncio.ensure_future(client.try_acquire("openai", "slow"))
        await asyncio.sleep(0.1)
        last = asyncio.ensure_future(client.try_acquire("openai", "last"))
        await asyncio.sleep(0.1)
        last.cancel()
        proxy.passing()
        lease = await first
        assert isinstance(lease, AsyncLease)
        await lease.release()
        view = StoreView(redis_client, free_namespace)
        await wait_until_async(lambda: view.in_flight(TOTAL) == 0, timeout=3.0, description="nothing is in use")
        taken = await client.acquire("openai", "last", timeout=3)
        await taken.release()


@pytest.mark.covers("RL-11")
async def test_callers_in_line_are_told_when_a_client_closes_while_redis_is_silent(
    settings: Config, proxy: TcpProxy
) -> None:
    """One call is on its way, the others wait for it: none of them waits for ever."""
    client = AsyncClient(limits=LIMITS, config=settings.replace(attempt_timeout=0.3, store_timeout=20.0))
    await (await client.acquire("openai", "a-model")).release()
    proxy.delay(30.0)
    calls = [asyncio.ensure_future(client.try_acquire("openai", "a-model"))]
    await asyncio.sleep(0.02)
    calls += [asyncio.ensure_future(client.try_acquire("openai", "a-model")) for _ in range(2)]
    await asyncio.sleep(0.05)
    await client.close()
    done, pending = await asyncio.wait(calls, timeout=8.0)
    assert not pending
    for call in done:
        call.exception()
    proxy.passing()
