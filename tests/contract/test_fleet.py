"""Several instances on one store."""

import asyncio

import pytest

from ratelease import Limits
from support.peer import Peer
from support.wait_until import wait_until_async

REDIS_ONLY = pytest.mark.parametrize("store_url", ["redis"], indirect=True)


@pytest.mark.covers("AD-04")
@REDIS_ONLY
async def test_what_another_process_holds_counts_here(make_limiter, settings) -> None:
    """A process holds 2 of 4; here 4 are asked for and 2 are granted."""
    limits = {"total": {"concurrency": 4}, "openai": {}}
    with Peer(limits=limits, url=settings.url, namespace=settings.namespace) as peer:
        assert peer.do("acquire_many", "openai", "gpt-4o", 2) == 2
        limiter = make_limiter(limits={"total": Limits(concurrency=4), "openai": Limits()})
        group = await limiter.acquire_many("openai", "gpt-4o", 4, at_least=0)
        assert len(group) == 2
        assert peer.do("acquire_many", "openai", "gpt-4o", 1, at_least=0) == 0
        await group[0].release()
        assert peer.do("acquire_many", "openai", "gpt-4o", 2, at_least=0) == 1


@pytest.mark.covers("AD-04")
async def test_what_another_client_holds_counts_here(make_limiter) -> None:
    """The same between two clients of one process."""
    first, second = (make_limiter(limits={"openai/gpt-4o": Limits(concurrency=4)}) for _ in range(2))
    await first.hold("openai", "gpt-4o", 2)
    assert len(await second.acquire_many("openai", "gpt-4o", 4, at_least=0)) == 2


@pytest.mark.covers("AD-12")
async def test_one_busy_instance_gets_what_an_idle_one_leaves(make_limiter) -> None:
    """A total of 6 is not divided: with two instances, one of them idle, the other gets all 6."""
    limits = {"total": Limits(concurrency=6), "openai": Limits()}
    idle, busy = make_limiter(limits=limits), make_limiter(limits=limits)
    await (await idle.acquire("openai", "gpt-4o")).release()
    group = await busy.acquire_many("openai", "gpt-4o", 6, timeout=1)
    assert len(group) == 6
    assert len(await busy.instances()) == 2
    assert not await idle.try_acquire("openai", "gpt-4o")


@pytest.mark.covers("AD-14")
@REDIS_ONLY
@pytest.mark.parametrize("instances", [5, 8, 20])
async def test_more_instances_than_slots_starve_nobody(make_limiter, instances) -> None:
    """A limit of 4 over 5, 8 or 20 instances: 1000 requests all finish, never more than 4 at once."""
    limiters = [make_limiter(limits={"total": Limits(concurrency=4), "openai": Limits()}) for _ in range(instances)]
    in_flight = peak = done = 0

    async def work(limiter, requests: int) -> None:
        nonlocal in_flight, peak, done
        for _ in range(requests):
            async with limiter.acquire("openai", "gpt-4o", timeout=60):
                in_flight += 1
                peak = max(peak, in_flight)
                await asyncio.sleep(0)
                in_flight -= 1
            done += 1

    await asyncio.gather(*(work(limiter, 1000 // instances) for limiter in limiters))
    assert done == 1000
    assert 1 <= peak <= 4


@pytest.mark.covers("RW-10")
async def test_a_rate_is_shared_and_not_divided(make_limiter) -> None:
    """10 requests a minute over 20 instances are 10 in all, not none for each."""
    limiters = [make_limiter(limits={"openai/gpt-4o": Limits(rpm=10)}) for _ in range(20)]
    answers = [await limiter.try_acquire("openai", "gpt-4o") for limiter in limiters]
    assert sum(map(bool, answers)) == 10
    assert await limiters[0].used("openai/gpt-4o", "requests/60s") == 10


@pytest.mark.covers("QU-02")
async def test_waiters_of_all_instances_are_granted_in_the_order_they_came(make_limiter) -> None:
    """Six callers of three instances, parked one after the other, get the only slot in that order."""
    limiters = [make_limiter(limits={"openai/gpt-4o": Limits(concurrency=1)}) for _ in range(3)]
    held = await limiters[0].hold("openai", "gpt-4o")
    order: list[int] = []

    async def call(number: int) -> None:
        async with limiters[number % 3].acquire("openai", "gpt-4o", timeout=20):
            order.append(number)

    calls = []
    for number in range(6):
        calls.append(asyncio.create_task(call(number)))
        await limiters[0].until_waiting(number + 1)
    await held[0].release()
    await asyncio.gather(*calls)
    assert order == [0, 1, 2, 3, 4, 5]


@pytest.mark.covers("QU-02")
@REDIS_ONLY
async def test_waiters_of_two_processes_are_granted_in_the_order_they_came(make_limiter, settings) -> None:
    """A caller here, one in another process, and again one here: the slot goes round in that order."""
    limiter = make_limiter(limits={"openai/gpt-4o": Limits(concurrency=1)})
    held = await limiter.hold("openai", "gpt-4o")
    limits = {"openai/gpt-4o": {"concurrency": 1}}
    with Peer(limits=limits, url=settings.url, namespace=settings.namespace) as peer:
        first = asyncio.create_task(limiter.hold("openai", "gpt-4o"))
        await limiter.until_waiting(1)
        second = asyncio.create_task(asyncio.to_thread(peer.do, "acquire", "openai", "gpt-4o"))
        await limiter.until_waiting(2)
        third = asyncio.create_task(limiter.hold("openai", "gpt-4o"))
        await limiter.until_waiting(3)
        await held[0].release()
        lease = (await first)[0]
        assert (second.done(), third.done()) == (False, False)
        await lease.release()
        assert await second == 1
        assert not third.done()
        assert peer.do("release", 1) == 0
        assert (await third)[0].valid


@pytest.mark.covers("AD-12", "QU-01")
async def test_a_slot_released_by_one_instance_wakes_a_waiter_of_another(make_limiter) -> None:
    """The waiter of the second client gets the slot of the first."""
    first, second = (make_limiter(limits={"openai/gpt-4o": Limits(concurrency=1)}) for _ in range(2))
    held = await first.hold("openai", "gpt-4o")
    waiting = asyncio.create_task(second.hold("openai", "gpt-4o"))
    await first.until_waiting(1)
    await held[0].release()
    await wait_until_async(waiting.done, description="the waiter has the slot")
    assert await first.in_flight("openai/gpt-4o") == 1
