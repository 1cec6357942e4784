"""A client's life: loops, threads, a store that hangs, and its end."""

import asyncio
import gc
import threading
import time
from typing import Any

import pytest

from ratelease import AsyncClient, Client, Limits
from ratelease.errors import ConfigError, StoreUnavailable
from ratelease.testing import config
from support.read_late import ReadLate
from support.round_trips import round_trips
from support.wait_until import wait_until, wait_until_async

SCOPE = "openai/gpt-4o"
ONE = {SCOPE: Limits(concurrency=1)}


@pytest.mark.covers("RD-07")
async def test_the_loop_runs_on_while_a_paused_server_blocks_every_call(make_server, free_namespace) -> None:
    """Acquire, try, group, release and status hang on a server that is stopped: the loop never stalls with them."""
    server = make_server()
    settings = config(
        url=server.url, namespace=free_namespace, attempt_timeout=0.3, store_timeout=0.8, on_unavailable="closed"
    )
    async with AsyncClient(config=settings, limits={SCOPE: Limits(concurrency=9)}) as client:
        held = await client.acquire("openai", "gpt-4o")
        server.pause()
        stall = _Stall()
        watching = asyncio.create_task(stall.watch())
        ends = await asyncio.gather(
            client.acquire("openai", "gpt-4o", timeout=0.5).__aenter__(),
            client.try_acquire("openai", "gpt-4o"),
            client.acquire_many("openai", "gpt-4o", 2, timeout=0.5).__aenter__(),
            client.status(),
            held.release(),
            return_exceptions=True,
        )
        watching.cancel()
        server.resume()
        assert [type(end) for end in ends] == [StoreUnavailable] * 4 + [type(None)]
        assert stall.longest < 0.1, f"the loop stood still for {stall.longest:.3f} s"


@pytest.mark.covers("RD-07")
async def test_no_call_of_the_asynchronous_client_blocks_its_thread(
    make_limiter, colour, store_url, monkeypatch
) -> None:
    """Sleeping and blocking on sockets are trapped in the loop's thread while every call is made once."""
    limiter = make_limiter(limits={SCOPE: Limits(concurrency=3, rpm=100)})
    blocking: list[str] = []
    loops_thread = threading.get_ident()
    real_sleep = time.sleep

    def sleep(seconds: float) -> None:
        if threading.get_ident() == loops_thread:
            blocking.append("sleep")
        real_sleep(seconds)

    monkeypatch.setattr(time, "sleep", sleep)
    with round_trips() as trips:
        async with limiter.acquire("openai", "gpt-4o"):
            assert await limiter.try_acquire("openai", "gpt-4o")
        async with limiter.acquire_many("openai", "gpt-4o", 2):
            pass
        await limiter.instances()
        await limiter.reset()
    assert blocking == []
    in_loop = {thread for thread, sync in trips.threads if sync} & {loops_thread}
    assert in_loop == set(), "a blocking connection was used in the loop's thread"


@pytest.mark.covers("RD-07")
def test_a_synchronous_client_needs_no_loop(store_url, settings) -> None:
    """Threads have an interface of their own."""
    with Client(config=settings, limits=ONE) as client, client.acquire("openai", "gpt-4o") as lease:
        assert lease.valid
        assert not client.try_acquire("openai", "gpt-4o")
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()


def test_one_asynchronous_client_serves_successive_loops(store_url, settings) -> None:
    """Made outside of any loop, used from three, one after the other, with a lease that outlives the first."""
    client = AsyncClient(config=settings, limits={SCOPE: Limits(concurrency=2)})

    async def hold() -> Any:
        async with client.acquire("openai", "gpt-4o"):
            pass
        return await client.acquire("openai", "gpt-4o")

    async def use(lease: Any) -> None:
        assert lease.valid
        assert await client.try_acquire("openai", "gpt-4o")
        await lease.release()
        async with client.acquire("openai", "gpt-4o", timeout=5):
            pass

    held = asyncio.run(hold())
    wait_until(lambda: held.deadline - time.monotonic() > 0.5, description="it is renewed between the loops")
    asyncio.run(use(held))
    asyncio.run(client.close())
    # What a loop left open would be reported as a warning here.
    gc.collect()


def test_one_asynchronous_client_serves_loops_of_several_threads_at_once(store_url, settings) -> None:
    """Two threads with a loop each hand one slot to and fro."""
    client = AsyncClient(config=settings, limits=ONE)
    inside, peaks, errors = [0], [], []

    async def work() -> None:
        for _ in range(10):
            async with client.acquire("openai", "gpt-4o", timeout=20):
                inside[0] += 1
                peaks.append(inside[0])
                await asyncio.sleep(0)
                inside[0] -= 1

    def run() -> None:
        try:
            asyncio.run(work())
        except BaseException as error:  # noqa: BLE001 - told by the test
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    asyncio.run(client.close())
    gc.collect()
    assert errors == []
    assert (len(peaks), max(peaks)) == (20, 1)


def test_one_synchronous_client_serves_many_threads(store_url, settings) -> None:
    """Twelve threads share a limit of 3: all 96 calls finish, never more than 3 at once."""
    client = Client(config=settings, limits={SCOPE: Limits(concurrency=3)})
    lock, inside, peaks, errors = threading.Lock(), [0], [], []

    def work() -> None:
        try:
            for _ in range(8):
                with client.acquire("openai", "gpt-4o", timeout=20):
                    with lock:
                        inside[0] += 1
                        peaks.append(inside[0])
                    with lock:
                        inside[0] -= 1
        except BaseException as error:  # noqa: BLE001 - told by the test
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert errors == []
    assert len(peaks) == 96
    assert max(peaks) <= 3
    assert client.status().scope(SCOPE).in_flight == 0  # type: ignore[union-attr]
    client.close()


async def test_closing_gives_back_what_is_held_and_may_be_repeated(make_limiter) -> None:
    """Two leases, two closes: the slots are free at once for others, and the leases are no longer valid."""
    limiter, other = (
        make_limiter(limits={SCOPE: Limits(concurrency=2)}),
        make_limiter(limits={SCOPE: Limits(concurrency=2)}),
    )
    held = await limiter.hold("openai", "gpt-4o", 2)
    assert not await other.try_acquire("openai", "gpt-4o")
    await limiter.close()
    assert len(await other.acquire_many("openai", "gpt-4o", 2, at_least=0)) == 2
    assert [lease.valid for lease in held] == [False, False]
    await limiter.close()
    await held[0].release()
    assert await other.in_flight(SCOPE) in (0, 2)


async def test_a_closed_client_acquires_nothing_more(make_limiter) -> None:
    """It says so, instead of hanging."""
    limiter = make_limiter(limits=ONE)
    await limiter.close()
    with pytest.raises(ConfigError, match="closed"):
        await limiter.acquire("openai", "gpt-4o")
    with pytest.raises(ConfigError, match="closed"):
        await limiter.try_acquire("openai", "gpt-4o")


async def test_closing_wakes_whoever_waits_with_an_error(make_limiter) -> None:
    """A caller that waits for ever learns that its client is gone, and leaves the queue."""
    limiter, other = make_limiter(limits=ONE), make_limiter(limits=ONE)
    held = await other.hold("openai", "gpt-4o")
    waiting = asyncio.create_task(limiter.hold("openai", "gpt-4o", timeout=60))
    group = asyncio.create_task(limiter.acquire_many("openai", "gpt-4o", 1, timeout=60).take())
    await other.until_waiting(2)
    await limiter.close()
    for task in (waiting, group):
        with pytest.raises(StoreUnavailable, match="closed"):
            await task
    await other.until_waiting(0)
    await held[0].release()
    assert await other.try_acquire("openai", "gpt-4o")


@pytest.mark.covers("RL-01", "RL-05")
async def test_a_grant_that_is_read_after_its_client_was_closed_is_no_lease(make_limiter) -> None:
    """Closing has given the slot back, and somebody else has it: its caller is told that the client was closed."""
    limiter, other = make_limiter(limits=ONE), make_limiter(limits=ONE)
    await limiter.start()
    own = ReadLate(limiter)
    asking = asyncio.create_task(limiter.hold("openai", "gpt-4o"))
    await own.came()
    limiter.client._rt.keeper.close()  # as close() does first, while the caller has not had its turn
    second = await other.try_acquire("openai", "gpt-4o")
    assert second
    own.read()
    with pytest.raises(StoreUnavailable, match="closed"):
        await asking
    assert second.valid
    await other.until_waiting(0)


async def test_closing_just_before_a_lease_is_kept_gives_its_slot_back(make_limiter, monkeypatch) -> None:
    """The keeper has looked at what waits and at what is held, and the caller is between the two."""
    limiter, other = make_limiter(limits=ONE), make_limiter(limits=ONE)
    await limiter.start()
    keeper = limiter.client._rt.keeper
    keep = keeper.keep

    def close_first(hold: Any) -> None:
        keeper.close()
        keep(hold)

    monkeypatch.setattr(keeper, "keep", close_first)
    with pytest.raises(StoreUnavailable, match="closed"):
        await limiter.try_acquire("openai", "gpt-4o")
    assert keeper.holds == {}
    assert await other.try_acquire("openai", "gpt-4o")


@pytest.mark.parametrize("group", [False, True], ids=["one", "group"])
async def test_an_acquire_that_begins_while_its_client_is_closed_waits_for_nobody(
    make_limiter, monkeypatch, group: bool
) -> None:
    """It was open when the arguments were checked, and is closed before the keeper knows of the caller."""
    limiter, other = make_limiter(limits=ONE), make_limiter(limits=ONE)
    await other.hold("openai", "gpt-4o")
    await limiter.start()
    keeper = limiter.client._rt.keeper
    monkeypatch.setattr(keeper, "start", keeper.close)
    one, many = limiter.acquire("openai", "gpt-4o", timeout=4), limiter.acquire_many("openai", "gpt-4o", 1, timeout=4)
    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match="closed"):
        await (many if group else one)
    assert time.monotonic() - began < 2.0
    assert (keeper.waiters, await other.waiting()) == ({}, 0)


async def test_a_request_that_is_sent_after_its_client_was_closed_is_told_so(make_limiter, monkeypatch) -> None:
    """The keeper has withdrawn it before it was sent: it is no lease that was lost."""
    limiter, other = make_limiter(limits=ONE), make_limiter(limits=ONE)
    await limiter.start()
    exchange, keeper = limiter.client._exchange, limiter.client._rt.keeper
    acquire = exchange.acquire

    def close_first(*arguments: Any) -> Any:
        keeper.close()
        return acquire(*arguments)

    monkeypatch.setattr(exchange, "acquire", close_first)
    with pytest.raises(StoreUnavailable, match="closed"):
        await limiter.acquire("openai", "gpt-4o")
    assert await other.try_acquire("openai", "gpt-4o")


async def test_leaving_the_with_of_a_client_closes_it(make_limiter, colour, settings) -> None:
    """What it holds is free afterwards."""
    other = make_limiter(limits=ONE)
    if colour is AsyncClient:
        async with AsyncClient(config=settings, limits=ONE) as client:
            lease = await client.acquire("openai", "gpt-4o")
            assert not await other.try_acquire("openai", "gpt-4o")
    else:
        with Client(config=settings, limits=ONE) as client:
            lease = client.acquire("openai", "gpt-4o")
            assert not await other.try_acquire("openai", "gpt-4o")
    assert not lease.valid
    assert await other.try_acquire("openai", "gpt-4o")


async def test_closing_takes_no_time(make_limiter) -> None:
    """Closed in the middle of its first heartbeat, its subscription or a poll, a client ends without a time-out."""
    for _ in range(15):
        limiter = make_limiter(limits=ONE)
        async with limiter.acquire("openai", "gpt-4o"):
            pass
        began = time.monotonic()
        await limiter.close()
        assert time.monotonic() - began < 1.0


async def test_a_server_clock_that_was_set_back_is_followed(make_limiter) -> None:
    """By the next call, and where there is none by the next heartbeat."""
    limiter = make_limiter(limits=ONE)
    await limiter.hold("openai", "gpt-4o")
    runtime = limiter.client._rt
    right = runtime.clock_offset
    runtime.clock_offset = right + 60.0
    assert not await limiter.try_acquire("openai", "gpt-4o")
    assert runtime.clock_offset == pytest.approx(right, abs=0.5)
    runtime.clock_offset = right + 60.0
    await wait_until_async(lambda: runtime.clock_offset < right + 0.5, description="a heartbeat tells the time")


class _Stall:
    """Measures how long the running loop stands still, at the longest."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def watch(self) -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.002)
            now = time.monotonic()
            self.longest, last = max(self.longest, now - last), now
