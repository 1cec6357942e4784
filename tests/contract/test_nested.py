"""An acquire inside a lease, in the same thread or task."""

import asyncio

import pytest

from ratelease import Limits
from ratelease.errors import ImpossibleRequest
from support.targets import BothBatch, BothTarget
from support.wait_until import wait_until_async

ONE = {"openai/gpt-4o": Limits(concurrency=1)}


@pytest.mark.covers("AD-19")
async def test_waiting_for_what_oneself_holds_is_impossible(make_limiter) -> None:
    """Inside the only slot, the same caller is told which lease stands in its way, at once."""
    limiter = make_limiter(limits=ONE)
    async with limiter.acquire("openai", "gpt-4o") as outer:
        with pytest.raises(ImpossibleRequest, match=outer.id) as caught:
            await limiter.acquire("openai", "gpt-4o", timeout=30)
        assert caught.value.scope == "openai/gpt-4o"
        assert outer.valid
        assert await limiter.in_flight("openai/gpt-4o") == 1
        await limiter.until_waiting(0)
    async with limiter.acquire("openai", "gpt-4o", timeout=5) as again:
        assert again.valid


@pytest.mark.covers("AD-19")
async def test_a_shared_scope_makes_another_model_impossible_too(make_limiter) -> None:
    """The only slot of the provider is held for one model: the same caller cannot wait for another of its models."""
    limiter = make_limiter(limits={"openai": Limits(concurrency=1)})
    async with limiter.acquire("openai", "gpt-4o") as outer:
        with pytest.raises(ImpossibleRequest, match=outer.id) as caught:
            await limiter.acquire("openai", "gpt-4o-mini", timeout=30)
        assert caught.value.scope == "openai"


@pytest.mark.covers("AD-19")
async def test_a_group_inside_a_lease_is_impossible_as_well(make_limiter) -> None:
    """Two of two slots cannot be waited for by whoever holds one of them."""
    limiter = make_limiter(limits={"openai/gpt-4o": Limits(concurrency=2)})
    async with limiter.acquire("openai", "gpt-4o") as outer:
        with pytest.raises(ImpossibleRequest, match=outer.id):
            await limiter.acquire_many("openai", "gpt-4o", 2, timeout=30)
        await limiter.until_waiting(0)


@pytest.mark.covers("AD-17", "AD-19")
async def test_trying_inside_a_lease_says_no_like_anywhere_else(make_limiter) -> None:
    """What does not wait cannot wait for itself: a try is refused, not impossible."""
    limiter = make_limiter(limits=ONE)
    async with limiter.acquire("openai", "gpt-4o"):
        refused = await limiter.try_acquire("openai", "gpt-4o")
        assert (refused.dimension, refused.reason) == ("concurrency", "limit")
        assert len(await limiter.acquire_many("openai", "gpt-4o", 2, at_least=0)) == 0


@pytest.mark.covers("AD-19")
async def test_another_caller_waits_as_usual(make_limiter) -> None:
    """A task begun inside the lease, or a thread beside it, is somebody else: it waits and is granted."""
    limiter = make_limiter(limits=ONE)
    async with limiter.acquire("openai", "gpt-4o"):
        other = asyncio.create_task(limiter.hold("openai", "gpt-4o", timeout=10))
        await limiter.until_waiting(1)
        assert not other.done()
    assert (await other)[0].valid


@pytest.mark.covers("AD-19")
async def test_a_nested_acquire_that_fits_is_granted(make_limiter) -> None:
    """With two slots, one inside the other is no deadlock."""
    limiter = make_limiter(limits={"openai/gpt-4o": Limits(concurrency=2)})
    async with limiter.acquire("openai", "gpt-4o"), limiter.acquire("openai", "gpt-4o"):
        assert await limiter.in_flight("openai/gpt-4o") == 2
    assert await limiter.in_flight("openai/gpt-4o") == 0


@pytest.mark.covers("AD-19")
async def test_a_nested_acquire_waits_for_a_slot_that_somebody_else_holds(make_limiter) -> None:
    """One of two slots is one's own, the other another caller's: waiting for that one can end."""
    limiter = make_limiter(limits={"openai/gpt-4o": Limits(concurrency=2)})
    theirs = await asyncio.create_task(limiter.hold("openai", "gpt-4o"))

    async def release_soon() -> None:
        await limiter.until_waiting(1)
        await theirs[0].release()

    releasing = asyncio.create_task(release_soon())
    async with limiter.acquire("openai", "gpt-4o"), limiter.acquire("openai", "gpt-4o", timeout=10) as inner:
        assert inner.valid
    await releasing


@pytest.mark.covers("AD-19")
async def test_a_lease_that_was_left_no_longer_stands_in_the_way(make_limiter) -> None:
    """Once its `with` is left, the caller waits like any other."""
    limiter = make_limiter(limits=ONE)
    async with limiter.acquire("openai", "gpt-4o"):
        pass
    other = await asyncio.create_task(limiter.hold("openai", "gpt-4o"))
    waiting = asyncio.create_task(limiter.hold("openai", "gpt-4o", timeout=10))
    await wait_until_async(lambda: not waiting.done())
    await limiter.until_waiting(1)
    await other[0].release()
    assert (await waiting)[0].valid


async def results(batch: BothBatch) -> list[object]:
    """What the items have returned, in time."""
    async with asyncio.timeout(10):
        return [done.result async for done in batch]


@pytest.mark.covers("AD-19")
async def test_a_batch_inside_a_lease_that_its_items_wait_for_is_impossible(make_limiter) -> None:
    """Whoever reads it waits for its items, and they would wait for the slot that the reader holds."""
    limiter = make_limiter(limits=ONE)
    target = BothTarget(limiter)
    async with limiter.acquire("openai", "gpt-4o") as outer:
        with pytest.raises(ImpossibleRequest, match=outer.id):
            await results(target.map(str, [1, 2]))
        await limiter.until_waiting(0)
        assert await limiter.in_flight("openai/gpt-4o") == 1
    assert sorted(await results(target.map(str, [1, 2]))) == ["1", "2"]


@pytest.mark.covers("AD-19")
async def test_a_batch_inside_a_lease_waits_for_slots_of_others(make_limiter) -> None:
    """One of two slots is the reader's, the other is handed from item to item."""
    limiter = make_limiter(limits={"openai/gpt-4o": Limits(concurrency=2)})
    async with limiter.acquire("openai", "gpt-4o"):
        assert sorted(await results(BothTarget(limiter).map(str, range(4)))) == ["0", "1", "2", "3"]


@pytest.mark.covers("AD-19")
async def test_a_batch_inside_an_item_of_a_batch_knows_what_either_reader_holds(make_limiter) -> None:
    """The item waits for the inner batch, and its own reader for the item."""
    limiter = make_limiter(limits={**ONE, "openai/gpt-4o-mini": Limits(concurrency=2)})
    inner, outer = limiter.client.target("openai", "gpt-4o"), BothTarget(limiter, model="gpt-4o-mini")

    def ask(item):
        return [done.result for done in inner.map(str, [item])]

    async def ask_soon(item):
        async def text(value):
            return str(value)

        return [done.result async for done in inner.map(text, [item])]

    async with limiter.acquire("openai", "gpt-4o") as held:
        with pytest.raises(ImpossibleRequest, match=held.id):
            await results(outer.map(ask if limiter.is_sync else ask_soon, [1]))
