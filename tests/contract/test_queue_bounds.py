"""How many may wait: in Redis, and at all. Who waits beyond that waits in its process, in order."""

import asyncio
import time

import pytest

from ratelease import Limits
from ratelease.errors import ImpossibleRequest, QueueFull, StoreUnavailable, WaitTimeout
from support.round_trips import round_trips
from support.wait_until import wait_until_async

ONE = {"openai/gpt-4o": Limits(concurrency=1)}
SCOPE = "openai/gpt-4o"
ASYNC_ONLY = pytest.mark.parametrize("colour", ["async"], indirect=True)


async def until_standing(limiter, count: int) -> None:
    """Return when exactly so many callers of a client wait in its process."""

    async def standing() -> bool:
        return limiter.client._rt.keeper.gates.waiting() == count

    await wait_until_async(standing, description=f"{count} callers stand in the process")


def is_idle(limiter) -> bool:
    """Whether the client's gates know of nobody."""
    gates = limiter.client._rt.keeper.gates._gates.values()
    return not any(gate.inside or gate.parked or gate.local for gate in gates)


async def until_idle(limiter) -> None:
    """Return when they do: a caller may be woken just before its request is forgotten."""
    await wait_until_async(lambda: is_idle(limiter), description="nobody is at a gate")


@pytest.mark.covers("QU-07")
async def test_only_so_many_are_parked_and_all_are_granted_in_order(make_limiter) -> None:
    """Three of ten wait in the store, seven here; each release lets the next one in, and nobody overtakes."""
    limiter = make_limiter(limits=ONE, max_parked=3)
    held = await limiter.hold("openai", "gpt-4o")
    order: list[int] = []

    async def work(number: int) -> None:
        async with limiter.acquire("openai", "gpt-4o"):
            order.append(number)
            assert await limiter.waiting() <= 3

    tasks = []
    for number in range(10):
        tasks.append(asyncio.create_task(work(number)))
        parked = min(number + 1, 3)
        await limiter.until_waiting(parked)
        await until_standing(limiter, number + 1 - parked)
    await held[0].release()
    await asyncio.gather(*tasks)
    assert order == list(range(10))
    await until_idle(limiter)


@pytest.mark.covers("QU-07")
async def test_who_stands_costs_the_store_nothing(make_limiter) -> None:
    """No call is made for it before it is let in; what is free is taken by one call as ever."""
    limiter = make_limiter(limits=ONE, max_parked=1)
    await (await limiter.acquire("openai", "gpt-4o")).release()
    with round_trips() as trips:
        held = await limiter.hold("openai", "gpt-4o")
        assert trips.count == 1
        parked = asyncio.create_task(limiter.hold("openai", "gpt-4o"))
        await limiter.until_waiting(1)
        before = trips.count
        standing = [asyncio.create_task(limiter.hold("openai", "gpt-4o", timeout=0.2)) for _ in range(5)]
        await until_standing(limiter, 5)
        ended = await asyncio.gather(*standing, return_exceptions=True)
        assert [type(each) for each in ended] == [WaitTimeout] * 5
        assert trips.count == before
    await held[0].release()
    assert (await parked)[0].valid


@pytest.mark.covers("QU-07")
async def test_those_who_stand_count_as_waiting(make_limiter) -> None:
    """In the list of instances, with those that are parked."""
    limiter = make_limiter(limits=ONE, max_parked=2)
    held = await limiter.hold("openai", "gpt-4o")
    tasks = [asyncio.create_task(limiter.hold("openai", "gpt-4o", timeout=20)) for _ in range(6)]

    async def listed() -> bool:
        return [instance.waiting for instance in await limiter.instances()] == [6]

    await wait_until_async(listed, description="six wait")
    assert await limiter.waiting() == 2
    await held[0].release()
    for task in asyncio.as_completed(tasks):
        await (await task)[0].release()


@pytest.mark.covers("QU-07", "QU-08")
async def test_a_deadline_holds_for_those_who_stand(make_limiter) -> None:
    """The error names the limit that the others wait for, and how long, and where this one stood."""
    limiter = make_limiter(limits=ONE, max_parked=2)
    await limiter.hold("openai", "gpt-4o")
    others = [asyncio.create_task(limiter.hold("openai", "gpt-4o", timeout=5)) for _ in range(3)]
    await until_standing(limiter, 1)
    await limiter.until_waiting(2)
    began = time.monotonic()
    with pytest.raises(WaitTimeout) as caught:
        await limiter.acquire("openai", "gpt-4o", timeout=0.3)
    error = caught.value
    assert 0.29 < time.monotonic() - began < 0.6
    assert (error.scope, error.dimension, error.used, error.limit) == (SCOPE, "concurrency", 1, 1)
    assert (error.position, error.attempts, error.retry_after) == (4, 0, None)
    assert 0.29 < error.waited < 0.6
    await until_standing(limiter, 1)
    await limiter.close()
    ended = await asyncio.gather(*others, return_exceptions=True)
    assert [type(each) for each in ended] == [StoreUnavailable] * 3
    assert all("closed while this caller waited" in str(each) for each in ended)
    await until_idle(limiter)


@pytest.mark.covers("QU-07")
@ASYNC_ONLY
async def test_who_is_cancelled_while_it_stands_leaves_nothing(make_limiter) -> None:
    """In the middle, and at the moment of being let in: the next one has its place."""
    limiter = make_limiter(limits=ONE, max_parked=1)
    held = await limiter.hold("openai", "gpt-4o")
    parked = asyncio.create_task(limiter.hold("openai", "gpt-4o"))
    await limiter.until_waiting(1)
    first, second, third = (asyncio.create_task(limiter.hold("openai", "gpt-4o")) for _ in range(3))
    await until_standing(limiter, 3)
    second.cancel()
    await asyncio.wait([second])
    await until_standing(limiter, 2)
    parked.cancel()
    await asyncio.wait([parked])
    first.cancel()
    await asyncio.wait([first])
    await until_standing(limiter, 0)
    await held[0].release()
    (lease,) = await asyncio.wait_for(third, 2)
    assert await limiter.in_flight(SCOPE) == 1
    await lease.release()
    await until_idle(limiter)


@pytest.mark.covers("QU-07", "QU-15")
async def test_those_who_stand_are_told_that_they_wait(make_limiter) -> None:
    """Once each, with the limit that they wait for and a place behind those that are parked."""
    told: list = []
    limiter = make_limiter(limits=ONE, max_parked=2, on_queued=told.append)
    held = await limiter.hold("openai", "gpt-4o")
    tasks = [asyncio.create_task(limiter.hold("openai", "gpt-4o")) for _ in range(5)]
    await until_standing(limiter, 3)
    await limiter.until_waiting(2)

    async def all_told() -> bool:
        return len(told) == 5

    await wait_until_async(all_told, description="all five were told")
    await held[0].release()
    for task in asyncio.as_completed(tasks):
        await (await task)[0].release()
    assert len(told) == 5
    assert {(each.scope, each.dimension, each.limit) for each in told} == {(SCOPE, "concurrency", 1)}
    assert sorted(each.position for each in told) == [1, 2, 3, 4, 5]


@pytest.mark.covers("QU-07")
async def test_a_group_counts_each_of_its_requests(make_limiter) -> None:
    """One of three does not fit beside two that are parked, and comes in when one has gone."""
    limiter = make_limiter(limits={SCOPE: Limits(concurrency=3)}, max_parked=4)
    held = await limiter.hold("openai", "gpt-4o", 3)
    singles = [asyncio.create_task(limiter.hold("openai", "gpt-4o")) for _ in range(2)]
    await limiter.until_waiting(2)
    group = asyncio.create_task(limiter.acquire_many("openai", "gpt-4o", 3, at_least=1).take())
    await until_standing(limiter, 3)
    with pytest.raises(WaitTimeout, match="place 6"):
        await limiter.acquire_many("openai", "gpt-4o", 2, at_least=1, timeout=0.2)
    await held[0].release()
    await limiter.until_waiting(4)
    await until_standing(limiter, 0)
    for lease in held[1:]:
        await lease.release()
    for single in singles:
        await (await single)[0].release()
    taken = await group
    come = len(taken)
    assert len([lease async for lease in taken.rest()]) + come == 3
    await taken.release()
    await until_idle(limiter)


@pytest.mark.covers("QU-07")
async def test_a_group_beyond_all_places_enters_alone(make_limiter) -> None:
    """Once everybody before it has left; those behind it wait for its requests to go."""
    limiter = make_limiter(limits={SCOPE: Limits(concurrency=2)}, max_parked=2)
    held = await limiter.hold("openai", "gpt-4o", 2)
    single = asyncio.create_task(limiter.hold("openai", "gpt-4o"))
    await limiter.until_waiting(1)
    group = asyncio.create_task(limiter.acquire_many("openai", "gpt-4o", 5, at_least=1).take())
    await until_standing(limiter, 5)
    last = asyncio.create_task(limiter.hold("openai", "gpt-4o"))
    await until_standing(limiter, 6)
    for lease in held:
        await lease.release()
    await (await single)[0].release()
    taken = await group
    for number in range(len(taken)):
        await taken[number].release()
    async for lease in taken.rest():
        await lease.release()
    await (await last)[0].release()
    await until_idle(limiter)


@pytest.mark.covers("QU-07", "AD-19")
async def test_who_holds_a_lease_does_not_stand_behind_those_who_wait_for_it(make_limiter) -> None:
    """What it asks for within its lease is answered at once, here: never."""
    limiter = make_limiter(limits=ONE, max_parked=1)
    async with limiter.acquire("openai", "gpt-4o"):
        others = [asyncio.create_task(limiter.hold("openai", "gpt-4o")) for _ in range(3)]
        await until_standing(limiter, 2)
        await limiter.until_waiting(1)
        with pytest.raises(ImpossibleRequest):
            await limiter.acquire("openai", "gpt-4o", timeout=5)
    for task in asyncio.as_completed(others):
        await (await task)[0].release()
    await until_idle(limiter)


@pytest.mark.covers("QU-07")
async def test_trying_asks_the_store_whoever_stands(make_limiter) -> None:
    """One call, and the store's answer: others wait for the slot that is free."""
    limiter = make_limiter(limits={SCOPE: Limits(concurrency=4)}, max_parked=1)
    await limiter.hold("openai", "gpt-4o", 3)
    parked = asyncio.create_task(limiter.hold("openai", "gpt-4o", weight=2, timeout=0.5))
    await limiter.until_waiting(1)
    standing = asyncio.create_task(limiter.hold("openai", "gpt-4o", weight=2, timeout=0.4))
    await until_standing(limiter, 1)
    with round_trips() as trips:
        refused = await limiter.try_acquire("openai", "gpt-4o")
        assert trips.count == 1
    assert (bool(refused), refused.reason) == (False, "queued")
    ended = await asyncio.gather(parked, standing, return_exceptions=True)
    assert [type(each) for each in ended] == [WaitTimeout] * 2


@pytest.mark.covers("QU-07")
async def test_who_comes_when_as_many_wait_as_may_is_told_at_once(make_limiter) -> None:
    """Five may wait, two of them in the store: the sixth gets QueueFull without a call."""
    limiter = make_limiter(limits=ONE, max_parked=2, max_waiting=5)
    held = await limiter.hold("openai", "gpt-4o")
    waiting = [asyncio.create_task(limiter.hold("openai", "gpt-4o")) for _ in range(5)]
    await until_standing(limiter, 3)
    await limiter.until_waiting(2)
    with round_trips() as trips, pytest.raises(QueueFull) as caught:
        await limiter.acquire("openai", "gpt-4o")
    assert trips.count == 0
    error = caught.value
    assert (error.scope, error.dimension, error.used, error.limit) == (SCOPE, "waiting", 5, 5)
    for word in (SCOPE, "5 callers", "max_waiting is 5", "come back later"):
        assert word in str(error)
    with pytest.raises(QueueFull):
        await limiter.acquire_many("openai", "gpt-4o", 2)
    assert not await limiter.try_acquire("openai", "gpt-4o")
    await held[0].release()
    for task in asyncio.as_completed(waiting):
        await (await task)[0].release()
    await until_idle(limiter)


@pytest.mark.covers("QU-07")
@ASYNC_ONLY
@pytest.mark.parametrize("parked", [2, 100])
async def test_of_those_who_come_together_the_last_are_too_many(make_limiter, parked) -> None:
    """Thirty come before the store has answered anybody: the first ten wait, the others hear it after a round trip."""
    limiter = make_limiter(limits=ONE, max_parked=parked, max_waiting=10)
    held = await limiter.hold("openai", "gpt-4o")
    tasks = [asyncio.create_task(limiter.hold("openai", "gpt-4o")) for _ in range(30)]
    done, waiting = await asyncio.wait(tasks, timeout=1)
    assert [type(task.exception()) for task in done] == [QueueFull] * 20
    assert waiting == set(tasks[:10])
    await limiter.until_waiting(min(parked, 10))
    await held[0].release()
    for task in asyncio.as_completed(waiting):
        await (await task)[0].release()
    await until_idle(limiter)


@pytest.mark.covers("QU-07")
@ASYNC_ONLY
async def test_what_is_granted_at_once_never_waited(make_limiter) -> None:
    """With room for all, nobody is too many, however few may wait or be on their way."""
    limiter = make_limiter(limits={SCOPE: Limits(concurrency=50)}, max_parked=3, max_waiting=0)
    tasks = [asyncio.create_task(limiter.hold("openai", "gpt-4o")) for _ in range(50)]
    await asyncio.gather(*tasks)
    with pytest.raises(QueueFull):
        await limiter.acquire("openai", "gpt-4o")
    await limiter.until_waiting(0)


@pytest.mark.covers("QU-07")
@pytest.mark.parametrize("store_url", ["redis"], indirect=True)
async def test_who_stands_behind_what_the_store_never_answers_is_told_so(make_limiter) -> None:
    """At its own deadline; the next one is let in when the one on its way has failed."""
    limiter = make_limiter(url="redis://127.0.0.1:1", limits=ONE, max_parked=1, store_timeout=1.0)
    began = time.monotonic()
    tasks = []
    for standing, timeout in enumerate((5, 5, 0.3)):
        tasks.append(asyncio.create_task(limiter.hold("openai", "gpt-4o", timeout=timeout)))
        await wait_until_async(lambda: not is_idle(limiter), description="the first is on its way")
        await until_standing(limiter, standing)
    with pytest.raises(StoreUnavailable, match="answered none of the 1 requests"):
        await tasks[2]
    assert time.monotonic() - began < 2.0
    ended = await asyncio.gather(*tasks[:2], return_exceptions=True)
    assert [type(each) for each in ended] == [StoreUnavailable] * 2
    assert time.monotonic() - began < 4.5
    await until_idle(limiter)


@pytest.mark.covers("QU-07")
@ASYNC_ONLY
async def test_thousands_that_come_together_all_finish(make_limiter) -> None:
    """1500 at once for 50 slots: never more in flight, never more parked than allowed."""
    limiter = make_limiter(limits={SCOPE: Limits(concurrency=50)})
    in_flight = peak = done = 0
    parked: list[int] = []

    async def work(number: int) -> None:
        nonlocal in_flight, peak, done
        async with limiter.acquire("openai", "gpt-4o", timeout=30):
            in_flight += 1
            peak = max(peak, in_flight)
            if number % 300 == 0:
                parked.append(await limiter.waiting())
            await asyncio.sleep(0.001)
            in_flight -= 1
        done += 1

    await asyncio.gather(*(work(number) for number in range(1500)))
    assert (done, peak) == (1500, 50)
    assert max(parked) <= 256
    await until_idle(limiter)


@pytest.mark.covers("QU-07")
async def test_threads_and_tasks_share_a_few_places(make_limiter) -> None:
    """Forty callers for two slots by three places: all are served."""
    limiter = make_limiter(limits={SCOPE: Limits(concurrency=2)}, max_parked=3)
    in_flight = peak = 0

    async def work() -> None:
        nonlocal in_flight, peak
        for _ in range(3):
            async with limiter.acquire("openai", "gpt-4o", timeout=20):
                in_flight += 1
                peak = max(peak, in_flight)
                await asyncio.sleep(0)
                in_flight -= 1

    await asyncio.gather(*(work() for _ in range(40)))
    assert peak <= 2
    await until_idle(limiter)
