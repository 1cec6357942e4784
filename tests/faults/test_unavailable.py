"""
Every way in which Redis can be away, times both colours, at the start and while running, times the policies.

`make faults` runs each pair of circumstances at least once, `make soak` all of them.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from ratelease import AsyncClient, Client, Config, Limits, Rate
from ratelease.errors import StoreUnavailable, WaitTimeout
from ratelease.testing import config
from ratelease.testing.redis_server import RedisServer, ServerBinary, find_servers
from support.both import Limiter
from support.outages import FAULTS, Store
from support.proxy import TcpProxy
from support.store_view import StoreView
from support.wait_until import wait_until_async

pytestmark = pytest.mark.faults

GRACE = 0.25  # seconds that a call may outlast its deadline
TIMEOUT, ATTEMPT, PATIENCE = 0.5, 0.3, 0.8  # seconds: of an acquire, of one attempt of the store, for the store
LIMITS = {"openai/gpt-4o": Limits(concurrency=4, rates=[Rate(40, per=60.0)])}
SHARE = 2  # of the concurrency, between two instances

COLOURS = {"sync": Client, "async": AsyncClient}
MOMENTS = ("start", "running")
POLICIES = ("closed", "local", "open")
ALL = list(itertools.product(FAULTS, COLOURS, MOMENTS, POLICIES))


def _pairwise() -> Iterator[tuple[str, str, str, str]]:
    """Each fault in both colours and at both moments, and each policy with each of these."""
    for number, fault in enumerate(FAULTS):
        for second in (0, 1):
            colour = list(COLOURS)[(number + second) % 2]
            moment = MOMENTS[second]
            yield fault, colour, moment, POLICIES[(number + second) % 3]


PAIRWISE = set(_pairwise())
MATRIX = [
    pytest.param(*case, marks=() if case in PAIRWISE else pytest.mark.soak, id=" ".join(case).replace(" ", "-"))
    for case in ALL
]


def _server() -> ServerBinary:
    # DEBUG SLEEP and lua-time-limit are there without a word in every version of this one.
    return next((each for each in find_servers() if each.name.startswith("redis")), find_servers()[0])


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """A server of this module's own."""
    with RedisServer(_server()) as server:
        yield server


@pytest.fixture
def store(server: RedisServer) -> Iterator[Store]:
    """The server behind a proxy."""
    with TcpProxy(server.port) as proxy:
        yield Store(server, proxy)


@pytest.fixture
def settings(store: Store, free_namespace: str) -> Config:
    """An attempt is given up after 0.3 s, a call after 0.8 s; leases live so long that no leak ends by itself."""
    return config(
        url=store.proxy.url,
        namespace=free_namespace,
        lease_ttl=30.0,
        heartbeat=0.4,
        attempt_timeout=ATTEMPT,
        store_timeout=PATIENCE,
    )


@dataclass
class Timed:
    """How a call ended, and by how many seconds it outlasted its deadline."""

    result: Any
    excess: float


async def timed(call: Callable[[], Awaitable[Any]], deadline: float) -> Timed:
    """Make a call, whatever it raises."""
    began = time.monotonic()
    try:
        result = await call()
    except Exception as error:  # noqa: BLE001 - the test looks at it
        result = error
    return Timed(result, time.monotonic() - began - deadline)


@pytest.mark.covers("RL-11", "RL-12", "RD-01", "RD-02")
@pytest.mark.parametrize("fault, colour, moment, policy", MATRIX)
async def test_every_call_ends_in_time_and_as_the_policy_says(
    store: Store, settings: Config, free_namespace: str, fault: str, colour: str, moment: str, policy: str
) -> None:
    """Acquire, try and release while Redis is away; then it is back, and knows what is out, and nothing else."""
    limiter = Limiter(
        COLOURS[colour](limits=LIMITS, config=settings.replace(on_unavailable=policy, expected_instances=2))
    )
    other = Client(limits=LIMITS, config=settings)
    outage = limiter.client._rt.outage
    held = []
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(limiter.callers.end)
        stack.push_async_callback(limiter.close)
        stack.callback(other.close)
        if moment == "running":
            other.acquire("openai", "gpt-4o").release()
            await (await limiter.acquire("openai", "gpt-4o")).release()
            await wait_until_async(lambda: outage.standing.instances == 2, description="both instances are known")
            held.append(await limiter.acquire("openai", "gpt-4o"))
            assert held[0].flags == frozenset()
        with FAULTS[fault](store):
            calls = [await timed(limiter.acquire("openai", "gpt-4o", timeout=TIMEOUT).take, TIMEOUT) for _ in range(3)]
            calls.append(await timed(lambda: limiter.try_acquire("openai", "gpt-4o"), PATIENCE))
            many = limiter.acquire_many("openai", "gpt-4o", 2, timeout=TIMEOUT)
            calls.append(await timed(many.take, TIMEOUT))
            granted = [call.result for call in calls[:4] if getattr(call.result, "flags", None)]
            admitted = list(granted)
            if policy == "open":
                admitted += list(calls[4].result)
            released = (
                await timed(granted[0].release if granted else (held or [None])[0].release, ATTEMPT)
                if (granted or held)
                else Timed(None, -1.0)
            )
        worst = max(call.excess for call in (*calls, released))
        print(f"worst excess over a deadline: {worst * 1000:.0f} ms ({fault}, {colour}, {moment}, {policy})")
        if policy == "closed":
            assert [type(call.result) for call in calls] == [StoreUnavailable] * 5
        elif policy == "open":
            assert {flag for lease in admitted for flag in lease.flags} == {"open"}
            assert len(admitted) == 6
        else:
            assert [lease.flags for lease in admitted] == [{"local"}] * (SHARE - len(held))
        assert worst < GRACE
        assert released.result is None
        assert outage.admissions == ({} if policy == "closed" else {policy: len(admitted)})
        view = StoreView(store.plain(), free_namespace)
        await wait_until_async(lambda: not outage.away, timeout=8.0, description="the store is back")
        left = [lease for lease in (*held, *admitted) if not lease._hold.ended]
        # What is out is counted, what was withdrawn or released is not.
        await wait_until_async(lambda: sorted(view.expiries()) == sorted(lease.id for lease in left), timeout=8.0)
        await wait_until_async(
            lambda: view.charged("r60000") == len(admitted) + (3 if moment == "running" else 0), timeout=2.0
        )
        # What was on its way for long may land only now, just before its withdrawal.
        await wait_until_async(lambda: view.waiting() == 0, timeout=5.0, description="nobody waits in the store")
        for lease in left:
            assert lease.valid
            await lease.release()
        assert view.in_flight() == 0


@pytest.mark.covers("RD-01")
@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("policy", ["closed", "local"])
async def test_who_has_no_redis_is_told_so(store: Store, settings: Config, colour: str, policy: str) -> None:
    """Whether the caller's own attempt or the background has found out: what is wrong, then what else would do."""
    store.proxy.refuse()
    for n in range(4):
        limiter = Limiter(COLOURS[colour](limits=LIMITS, config=settings.replace(on_unavailable=policy)))
        outage = limiter.client._rt.outage
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(limiter.callers.end)
            stack.push_async_callback(limiter.close)
            asked = limiter.acquire_many("openai", "gpt-4o", 2) if n % 2 else limiter.acquire("openai", "gpt-4o")
            with pytest.raises(StoreUnavailable) as own:
                await asked
            await wait_until_async(lambda outage=outage: outage.away, description="the background knows")
            with pytest.raises(StoreUnavailable) as known:
                await limiter.try_acquire("openai", "gpt-4o")
        for told in (str(own.value), str(known.value)):
            assert told.startswith(f"the store at {store.proxy.url} cannot be reached (")
            assert "is Redis running there, and the URL right?" in told
            assert policy == "closed" or "set expected_instances" in told


@pytest.mark.covers("RL-11", "QU-08")
@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("delay", [0.16, 0.19])
async def test_a_store_that_answers_just_in_time_keeps_nobody_longer(
    store: Store, free_namespace: str, colour: str, delay: float
) -> None:
    """Its answer takes nearly all of the grace, so that for the withdrawal there is hardly any left."""
    settings = config(url=store.proxy.url, namespace=free_namespace, lease_ttl=20.0, heartbeat=5.0)
    limiter = Limiter(COLOURS[colour](limits={"openai/gpt-4o": Limits(concurrency=1)}, config=settings))
    with store.plain() as plain:
        view = StoreView(plain, free_namespace)
        (lease,) = await limiter.hold("openai", "gpt-4o")
        store.proxy.delay(delay)
        began = time.monotonic()
        with pytest.raises(WaitTimeout):
            await limiter.acquire("openai", "gpt-4o", timeout=0.01)
        assert time.monotonic() - began < 0.01 + GRACE
        store.proxy.passing()
        await wait_until_async(lambda: not view.waiting(), timeout=2.0, description="it has left the queue")
        await lease.release()
        assert view.in_flight() == 0
    await limiter.close()
    limiter.callers.end()
