"""Requests that the store has carried out and whose reply never came, and requests that come late."""

import asyncio
import contextlib
import time
from collections.abc import Callable

import pytest
import redis

from ratelease import AsyncClient, Config, Limits, Rate
from ratelease.core.model import Verdict
from ratelease.errors import StoreUnavailable, WaitTimeout
from ratelease.store.lua_source import script
from ratelease.testing import config
from ratelease.testing.redis_server import RedisServer
from support.both import Limiter
from support.proxy import TcpProxy
from support.server_log import ServerLog
from support.store_view import StoreView
from support.wait_until import wait_until_async

pytestmark = pytest.mark.faults

RATE = "r10000"
LIMITS = {"openai/gpt-4o": Limits(rates=[Rate(10, 10.0)], concurrency=2)}
# By their digests requests are told apart on the way; the scripts are loaded before.
ACQUIRE, RELEASE = script("acquire").sha.encode(), script("release").sha.encode()

Make = Callable[..., Limiter]


@pytest.fixture
def settings(proxy: TcpProxy, redis_client: redis.Redis, free_namespace: str) -> Config:
    """A store behind the proxy: an attempt is given up after 0.15 s, a call after 2 s."""
    for name in ("acquire", "release"):
        redis_client.script_load(script(name).text)
    return config(
        url=proxy.url,
        namespace=free_namespace,
        lease_ttl=15.0,
        attempt_timeout=0.15,
        store_timeout=2.0,
        on_unavailable="closed",
    )


@pytest.mark.covers("RL-06")
@pytest.mark.parametrize("hang", [False, True], ids=["closed", "silent"])
@pytest.mark.parametrize("lost", [1, 2, 3])
async def test_an_acquire_whose_replies_are_lost_is_one_lease_and_one_charge(
    make: Make, proxy: TcpProxy, view: StoreView, lost: int, hang: bool
) -> None:
    """The store carries the same request out up to four times; it counts once everywhere."""
    limiter = make()
    proxy.drop_replies(lost, matching=ACQUIRE, hang=hang)
    lease = (await limiter.hold("openai", "gpt-4o"))[0]
    assert proxy.dropped == lost
    assert [list(view.expiries(scope)) for scope in range(3)] == [[lease.id]] * 3
    assert view.charged(RATE) == 1
    await lease.release()
    assert [view.in_flight(scope) for scope in range(3)] == [0, 0, 0]
    assert view.charged(RATE) == 1


@pytest.mark.covers("RL-06", "RD-09")
async def test_a_request_that_timed_out_takes_no_second_slot_when_it_is_repeated(
    make: Make, proxy: TcpProxy, view: StoreView
) -> None:
    """The call gives up although its script has run; asked again under its id, it says what it said."""
    client = make(store_timeout=0.1).client
    request = client._request("openai", "gpt-4o", None, None, None, 1, 5.0, (), True)
    ask = Limiter(client).call
    proxy.drop_replies(1, matching=ACQUIRE, hang=True)
    exchange = client._exchange
    with pytest.raises(StoreUnavailable):
        await ask(exchange.acquire, request, time.monotonic() + 0.1)
    assert list(view.expiries()) == [request.id], "the script has run"
    first = await ask(exchange.acquire, request, time.monotonic() + 1.0)
    again = await ask(exchange.acquire, request, time.monotonic() + 1.0)
    assert first.status is again.status is Verdict.GRANTED
    assert first.at == again.at
    assert list(view.expiries()) == [request.id]
    assert view.charged(RATE) == 1


@pytest.mark.covers("RL-07")
async def test_a_caller_that_is_told_unavailable_leaves_nothing_behind(
    make: Make, proxy: TcpProxy, view: StoreView
) -> None:
    """The slot and the charge that its request took are returned within a second."""
    limiter = make()
    proxy.drop_replies(10, matching=ACQUIRE, hang=True)
    with pytest.raises(StoreUnavailable):
        await limiter.acquire("openai", "gpt-4o", timeout=0.3)
    proxy.passing()
    await wait_until_async(lambda: view.in_flight() == 0, timeout=1.0, description="the slot has been returned")
    assert view.charged(RATE) == 0


@pytest.mark.covers("RL-06", "LS-02")
@pytest.mark.parametrize("hang", [False, True], ids=["closed", "silent"])
async def test_a_release_whose_reply_is_lost_frees_one_slot(
    make: Make, proxy: TcpProxy, view: StoreView, hang: bool
) -> None:
    """Its repetition finds nothing to free, least of all somebody else's lease."""
    limiter = make()
    first, second = await limiter.hold("openai", "gpt-4o", 2)
    proxy.drop_replies(1, matching=RELEASE, hang=hang)
    await first.release()
    assert proxy.dropped == 1
    assert list(view.expiries()) == [second.id]
    await second.release()
    assert view.in_flight() == 0


@pytest.mark.covers("RL-07", "LS-15")
async def test_an_acquire_that_lands_after_its_lease_was_released_takes_nothing(
    make: Make, proxy: TcpProxy, view: StoreView
) -> None:
    """The first attempt is held up on its way, the second is granted and released, then the first arrives."""
    limiter = make()
    for number in range(1, 6):
        proxy.hold_requests(1, matching=ACQUIRE)
        lease = await limiter.acquire("openai", "gpt-4o")
        assert proxy.held == 1
        await lease.release()
        assert await asyncio.to_thread(proxy.forward_held) == 1
        assert view.in_flight() == 0
        assert view.charged(RATE) == number


@pytest.mark.covers("RL-07")
async def test_an_acquire_that_lands_after_it_was_cancelled_takes_nothing(
    proxy: TcpProxy, settings: Config, view: StoreView
) -> None:
    """Twenty times: the request is held up, its caller is cancelled, the id is withdrawn, the request arrives."""
    async with AsyncClient(limits=LIMITS, config=settings.replace(attempt_timeout=5.0)) as client:
        for _ in range(20):
            proxy.hold_requests(1, matching=ACQUIRE)
            asking = asyncio.ensure_future(client.acquire("openai", "gpt-4o").__aenter__())
            await wait_until_async(lambda: proxy.held == 1, description="the request is held up")
            known = view.tombstones()
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            await wait_until_async(lambda known=known: view.tombstones() - known, description="the id is withdrawn")
            await asyncio.to_thread(proxy.forward_held)
            assert view.expiries() == {}
            assert view.waiting() == 0
            assert view.charged(RATE) == 0


# Commands that clients may send beside scripts: none of them writes.
HARMLESS = {"subscribe", "unsubscribe", "ping", "client", "hello", "select", "time", "type", "zrange", "hmget"}
OF_THE_TEST = {"info", "zcount", "zcard", "monitor", "script"}


@pytest.mark.covers("RD-06")
async def test_a_script_that_times_out_never_leads_to_a_write_outside_of_scripts(
    make: Make, proxy: TcpProxy, redis_server: RedisServer
) -> None:
    """Whatever is lost, delayed or cut off: the server's log shows scripts, and beside them nothing that writes."""
    with ServerLog(redis_server.port) as log:
        limiter = make(store_timeout=0.4, heartbeat=0.1, on_unavailable="local")

        async def some() -> None:
            for _ in range(4):
                with contextlib.suppress(StoreUnavailable, WaitTimeout):
                    async with limiter.acquire("openai", "gpt-4o", timeout=0.3):
                        pass

        for trouble in (
            lambda: proxy.drop_replies(6, matching=b"EVAL", hang=True),
            lambda: proxy.drop_replies(6, matching=b"EVAL"),
            lambda: proxy.delay(0.2),
            proxy.blackhole,
            proxy.refuse,
            proxy.passing,
        ):
            trouble()
            await asyncio.gather(some(), some())
            proxy.passing()
            await wait_until_async(lambda: not limiter.client._rt.outage.away, description="the store is back")
        sent = log.commands()
    assert sum(command.is_script for command in sent) > 20
    others = {command.name for command in sent if not command.is_script} - OF_THE_TEST
    assert others <= HARMLESS
