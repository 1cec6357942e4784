"""Leases that nobody releases: the interpreter ends, or the lease object is dropped."""

import asyncio
import gc
import logging
import subprocess
import sys
import time

import pytest
import redis

from ratelease import AsyncClient, Client, Limits
from ratelease.testing import config
from support.store_view import StoreView
from support.wait_until import wait_until, wait_until_async

LIMITS = {"openai/gpt-4o": Limits(concurrency=2)}
POLL = 0.1

# A program with the times that users have: leases live for 15 s.
PROGRAM = """
import sys
import ratelease
limits = {{"openai/gpt-4o": ratelease.Limits(concurrency=2)}}
client = ratelease.Client({url!r}, namespace={namespace!r}, limits=limits)
lease = client.acquire("openai", "gpt-4o")
print("held", flush=True)
sys.stdin.readline()
{end}
"""
ENDS = {
    "end of the program": ("", 0),
    "sys.exit": ("sys.exit(3)", 3),
    "an exception": ("raise SystemError('wanted')", 1),
    "two clients": ("ratelease.Client({url!r}, namespace={namespace!r}, limits=limits).acquire('openai', 'gpt-4o')", 0),
}


@pytest.mark.covers("RL-07", "ST-01")
@pytest.mark.parametrize("end", ENDS)
def test_an_interpreter_that_ends_gives_back_what_it_holds(
    redis_url: str, redis_client: redis.Redis, free_namespace: str, end: str
) -> None:
    """Long before the leases would have expired, and the instance has left the list."""
    view = StoreView(redis_client, free_namespace)
    line, status = ENDS[end]
    names = {"url": redis_url, "namespace": free_namespace}
    program = PROGRAM.format(end=line.format(**names), **names)
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert view.in_flight() == 1
        began = time.monotonic()
        _, errors = process.communicate("\n", timeout=20)
        assert time.monotonic() - began < 2.5
    assert process.returncode == status
    assert view.in_flight() == 0
    assert redis_client.zcard(view.instances_key) == 0
    assert ("wanted" in errors) is (end == "an exception")
    assert "Fatal" not in errors


@pytest.mark.covers("RL-07")
def test_an_interpreter_ends_in_time_though_the_store_is_silent(
    redis_url: str, free_namespace: str, make_server: object
) -> None:
    """What cannot be given back is left to its TTL: nobody waits for a store that does not answer."""
    server = make_server()  # type: ignore[operator]
    program = PROGRAM.format(end="", url=server.url, namespace=free_namespace)
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        server.pause()
        began = time.monotonic()
        process.communicate("\n", timeout=20)
        assert time.monotonic() - began < 5.0
    server.resume()
    assert process.returncode == 0


@pytest.mark.covers("LS-01")
def test_a_dropped_lease_is_given_back_with_a_warning(
    redis_url: str, redis_client: redis.Redis, free_namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Within about a poll; the warning says where it was acquired."""
    view = StoreView(redis_client, free_namespace)
    settings = config(url=redis_url, namespace=free_namespace, lease_ttl=15.0, heartbeat=5.0, poll=POLL)
    with Client(limits=LIMITS, config=settings) as client, caplog.at_level(logging.WARNING, "ratelease"):
        lease = client.acquire("openai", "gpt-4o")
        assert view.in_flight() == 1
        del lease
        gc.collect()
        wait_until(lambda: view.in_flight() == 0, timeout=10 * POLL, description="the lease is given back")
        assert "dropped without release" in caplog.text
        assert __file__ in caplog.text


@pytest.mark.covers("LS-01")
async def test_a_dropped_lease_of_an_event_loop_is_given_back(
    redis_url: str, redis_client: redis.Redis, free_namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The same in the other colour."""
    view = StoreView(redis_client, free_namespace)
    settings = config(url=redis_url, namespace=free_namespace, lease_ttl=15.0, heartbeat=5.0, poll=POLL)
    async with AsyncClient(limits=LIMITS, config=settings) as client:
        lease = await client.acquire("openai", "gpt-4o")
        assert lease.valid
        del lease
        gc.collect()
        await wait_until_async(lambda: view.in_flight() == 0, timeout=10 * POLL, description="it is given back")
    assert "dropped without release" in caplog.text


def abandoned(client: AsyncClient, view: StoreView, callers: int, *, groups: bool = False) -> asyncio.AbstractEventLoop:
    """A loop in which so many callers wait, one of them in the store, and which runs no more."""
    waiting: list[asyncio.Future[object]] = []

    async def wait() -> None:
        for _ in range(callers):
            one, many = client.acquire("openai", "gpt-4o"), client.acquire_many("openai", "gpt-4o", 1)
            waiting.append(asyncio.ensure_future(many) if groups else asyncio.ensure_future(one))
        keeper = client._rt.keeper
        await wait_until_async(lambda: view.waiting() + keeper.gates.waiting() == callers, description="they wait")

    loop = asyncio.new_event_loop()
    loop.run_until_complete(wait())
    # As asyncio.run does: ends the connections.
    loop.run_until_complete(loop.shutdown_asyncgens())
    return loop


@pytest.mark.covers("RL-07")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # tasks that nobody ended
@pytest.mark.parametrize("groups", [False, True], ids=["acquire", "acquire_many"])
def test_a_loop_that_was_closed_while_its_callers_waited_holds_no_slot(
    redis_url: str, redis_client: redis.Redis, free_namespace: str, groups: bool
) -> None:
    """One is parked, two stand at the gate. What they are granted goes back, and the client serves another loop."""
    limits = {"openai/gpt-4o": Limits(concurrency=1)}
    view = StoreView(redis_client, free_namespace)
    settings = config(url=redis_url, namespace=free_namespace, lease_ttl=15.0, heartbeat=5.0, max_parked=1)
    client = AsyncClient(limits=limits, config=settings)

    async def use(client: AsyncClient) -> None:
        async with asyncio.timeout(2.0), client.acquire("openai", "gpt-4o"):
            pass

    with Client(limits=limits, config=settings) as other:
        held = other.acquire("openai", "gpt-4o")
        abandoned(client, view, 3, groups=groups).close()
        held.release()
        wait_until(lambda: not view.in_flight() and not view.waiting(), timeout=1.0, description="the slot is free")
        assert other.try_acquire("openai", "gpt-4o")
        asyncio.run(use(client))
    client._rt.keeper.close()
    del client
    gc.collect()


@pytest.mark.covers("LS-13")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # tasks that nobody ended
def test_a_grant_that_nobody_takes_is_renewed_for_as_long_as_a_lease_is(
    redis_url: str, redis_client: redis.Redis, free_namespace: str
) -> None:
    """The loop of its caller is there, and runs no more."""
    limits = {"openai/gpt-4o": Limits(concurrency=1)}
    view = StoreView(redis_client, free_namespace)
    settings = config(url=redis_url, namespace=free_namespace, lease_ttl=0.5, heartbeat=0.1, max_hold=1.0)
    client = AsyncClient(limits=limits, config=settings)
    with Client(limits=limits, config=settings) as other:
        held = other.acquire("openai", "gpt-4o")
        loop = abandoned(client, view, 1)
        held.release()
        granted = time.monotonic()
        wait_until(lambda: not view.waiting() and view.in_flight(), description="it is claimed")
        wait_until(lambda: not view.in_flight(), timeout=5.0, description="it is renewed no more")
        assert 1.0 < time.monotonic() - granted < 2.5
    loop.close()
    client._rt.keeper.close()
    del client, loop
    gc.collect()
