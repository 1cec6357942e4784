"""How leases end, and what a lease that has ended cannot do."""

import asyncio

import pytest

from ratelease import Limits
from ratelease.core import scripts
from ratelease.core.scripts import Ending
from ratelease.errors import ConfigError, StoreCorrupt
from support.wait_until import wait_until_async

TWO = {"openai/gpt-4o": Limits(concurrency=2)}
SCOPE = "openai/gpt-4o"


class Ended(BaseException):
    """An exception that is no Exception, as an interrupt is."""


@pytest.mark.covers("LS-01")
@pytest.mark.parametrize("error", [ValueError, TimeoutError, StoreCorrupt, GeneratorExit, Ended])
async def test_a_body_that_raises_frees_the_slot(make_limiter, error) -> None:
    """Whatever leaves the `with`, the slot is free when it has left, and the exception goes on."""
    limiter = make_limiter(limits=TWO)
    with pytest.raises(error):
        async with limiter.acquire("openai", "gpt-4o"):
            raise error
    assert await limiter.in_flight(SCOPE) == 0


@pytest.mark.covers("LS-01")
async def test_a_body_that_returns_frees_the_slot(make_limiter) -> None:
    """The ordinary way out."""
    limiter = make_limiter(limits=TWO)

    async def work() -> str:
        async with limiter.acquire("openai", "gpt-4o") as lease:
            return lease.id

    assert await work()
    assert await limiter.in_flight(SCOPE) == 0


@pytest.mark.covers("LS-01")
@pytest.mark.parametrize("colour", ["async"], indirect=True)
async def test_a_body_that_is_cancelled_frees_the_slot(make_limiter) -> None:
    """The task of the body is cancelled while it calls the provider."""
    limiter = make_limiter(limits=TWO)
    calling = asyncio.Event()

    async def work() -> None:
        async with limiter.acquire("openai", "gpt-4o"):
            calling.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await calling.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await limiter.in_flight(SCOPE) == 0


@pytest.mark.covers("LS-01")
@pytest.mark.parametrize("colour", ["async"], indirect=True)
async def test_a_release_that_is_cancelled_goes_on(make_limiter) -> None:
    """Cancelled while it releases, the task ends as cancelled, and the slot is freed in the background."""
    limiter = make_limiter(limits=TWO)
    lease = await limiter.acquire("openai", "gpt-4o")
    task = asyncio.create_task(lease.release())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await _until_in_flight(limiter, 0)


@pytest.mark.covers("LS-02")
async def test_a_second_release_does_nothing(make_limiter) -> None:
    """Of two leases one is released three times: the other stays counted."""
    limiter = make_limiter(limits=TWO)
    first, second = await limiter.hold("openai", "gpt-4o", 2)
    for _ in range(3):
        await first.release()
        assert await limiter.in_flight(SCOPE) == 1
    assert second.valid
    assert not first.valid
    assert not first.lost


@pytest.mark.covers("LS-02")
async def test_leaving_a_with_after_a_release_does_nothing(make_limiter) -> None:
    """Released inside its `with`, a lease is not released again by leaving it."""
    limiter = make_limiter(limits=TWO)
    async with limiter.acquire("openai", "gpt-4o") as lease:
        await lease.release()
        await limiter.hold("openai", "gpt-4o", 2)
    assert await limiter.in_flight(SCOPE) == 2


async def test_a_lease_that_was_released_cannot_be_entered(make_limiter) -> None:
    """Its body would run without a slot. One that is released inside is left as ever."""
    limiter = make_limiter(limits=TWO)
    lease = await limiter.acquire("openai", "gpt-4o")
    await lease.release()
    with pytest.raises(ConfigError, match=f"lease {lease.id} has ended"):
        async with lease:
            pytest.fail("entered")
    async with await limiter.acquire("openai", "gpt-4o") as lease:
        await lease.release()


async def test_a_group_is_entered_with_the_leases_that_are_left(make_limiter) -> None:
    """Each may have been released by itself before; with none of them left there is nothing to enter."""
    limiter = make_limiter(limits=TWO)
    group = await limiter.acquire_many("openai", "gpt-4o", 2)
    await group[0].release()
    async with group:
        assert await limiter.in_flight("openai/gpt-4o") == 1
    assert await limiter.in_flight("openai/gpt-4o") == 0
    with pytest.raises(ConfigError, match="every lease of the group has ended"):
        async with group:
            pytest.fail("entered")


@pytest.mark.covers("LS-03", "LS-06")
async def test_a_late_release_frees_nobody_elses_slot(make_limiter) -> None:
    """A's lease runs out and B gets the slot: A knows before that, and its release leaves B's slot alone."""
    lost: list[object] = []
    limits = {"openai/gpt-4o": Limits(concurrency=1)}
    # A lease that may be held no longer than this is not renewed.
    first = make_limiter(limits=limits, max_hold=0.01, on_lost=lost.append)
    second = make_limiter(limits=limits)
    late = await first.acquire("openai", "gpt-4o")
    async with second.acquire("openai", "gpt-4o", timeout=5):
        assert late.lost
        assert not late.valid
        await late.release()
        assert await second.in_flight(SCOPE) == 1
        assert not await second.try_acquire("openai", "gpt-4o")
        assert late.lost
    assert lost == [late.lease]


@pytest.mark.covers("LS-03")
async def test_a_release_of_a_lease_that_the_store_has_ended_reports_it_lost(make_limiter, store) -> None:
    """The store ended it and the holder has not heard: the release itself finds out, and tells."""
    lost: list[object] = []
    limiter = make_limiter(limits=TWO, lease_ttl=20.0, heartbeat=10.0, on_lost=lost.append)
    lease = await limiter.acquire("openai", "gpt-4o")
    _end_in_store(store, lease)
    assert lease.valid
    await lease.release()
    assert lease.lost
    assert lost == [lease.lease]
    assert (await limiter.try_acquire("openai", "gpt-4o")).valid


@pytest.mark.covers("LS-06")
async def test_a_lost_lease_is_told_by_flag_callback_and_count(make_limiter, store) -> None:
    """A lease that a heartbeat finds gone is lost: not valid, on_lost called once with it, counted once."""
    lost: list[object] = []
    limiter = make_limiter(limits=TWO, on_lost=lost.append)
    lease, other = await limiter.hold("openai", "gpt-4o", 2)
    assert (lease.valid, lease.lost) == (True, False)
    _end_in_store(store, lease)
    await wait_until_async(lambda: lost, description="on_lost is called")
    assert lost == [lease.lease]
    assert (lease.valid, lease.lost) == (False, True)
    assert (other.valid, other.lost) == (True, False)

    async def counted() -> bool:
        return (await limiter.status()).lost == 1

    await wait_until_async(counted, description="the lost lease is counted")
    await lease.release()
    assert lost == [lease.lease]
    assert [instance.lost for instance in await limiter.instances()] == [1]


@pytest.mark.covers("LS-06")
async def test_an_on_lost_that_raises_harms_nothing(make_limiter, store) -> None:
    """The keeper goes on renewing the other leases."""
    calls: list[object] = []

    def on_lost(lease: object) -> None:
        calls.append(lease)
        raise RuntimeError("a fault in the program")

    limiter = make_limiter(limits=TWO, on_lost=on_lost)
    lost, kept = await limiter.hold("openai", "gpt-4o", 2)
    _end_in_store(store, lost)
    await wait_until_async(lambda: calls, description="on_lost is called")
    before = kept.deadline
    await wait_until_async(lambda: kept.deadline > before, description="the other lease is renewed")


@pytest.mark.covers("LS-10")
async def test_releases_of_what_the_store_does_not_know_leave_counters_at_zero(make_limiter, store) -> None:
    """Leases released after the store was emptied: nothing goes below zero, and the limit still holds."""
    limiter = make_limiter(limits={"openai/gpt-4o": Limits(concurrency=2, rpm=100)})
    held = await limiter.hold("openai", "gpt-4o", 2)
    store.flushall()
    for lease in held:
        await lease.release()
    newcomer = make_limiter(limits={"openai/gpt-4o": Limits(concurrency=2, rpm=100)})
    group = await newcomer.acquire_many("openai", "gpt-4o", 2, timeout=5)
    assert len(group) == 2
    assert await newcomer.in_flight(SCOPE) == 2
    assert await newcomer.used(SCOPE, "requests/60s") == 2
    assert not await newcomer.try_acquire("openai", "gpt-4o")


@pytest.mark.covers("LS-10")
async def test_a_heartbeat_that_lands_after_a_release_revives_nothing(make_limiter, store) -> None:
    """The store was emptied, the lease released, and only then comes a renewal that was sent before."""
    limiter = make_limiter(limits=TWO, lease_ttl=20.0, heartbeat=10.0)
    lease = await limiter.acquire("openai", "gpt-4o")
    hold, runtime = lease._hold, limiter.client._rt
    epoch = hold.epoch
    store.flushall()
    await lease.release()
    await limiter.run(scripts.renew(runtime.session, runtime.keyspace, hold.line, [hold.held()], epoch))
    assert [key for key in store.keys("*:leases") if store.zscore(key, lease.id) is not None] == []


@pytest.mark.covers("LS-10")
async def test_a_release_without_an_acquire_changes_no_counter(make_limiter) -> None:
    """An id that was never acquired is released, also as unsent: use and windows stay as they are."""
    limiter = make_limiter(limits={"openai/gpt-4o": Limits(concurrency=2, rpm=100)})
    held = await limiter.hold("openai", "gpt-4o")
    line = limiter.client._line("openai", "gpt-4o", ())
    for unsent in (False, True):
        await _end(limiter, Ending(line, f"never-acquired-{unsent}", unsent=unsent))
    assert await limiter.in_flight(SCOPE) == 1
    assert await limiter.used(SCOPE, "requests/60s") == 1
    await held[0].release()
    await _end(limiter, Ending(line, held[0].id, unsent=True))
    assert await limiter.in_flight(SCOPE) == 0
    assert await limiter.used(SCOPE, "requests/60s") == 1


async def test_a_lease_tells_what_it_is(make_limiter) -> None:
    """Names are case-folded, the deadline is ahead, and the id has 128 bits."""
    limiter = make_limiter(limits=TWO)
    async with limiter.acquire("OpenAI", "GPT-4o") as lease:
        assert (lease.provider, lease.model) == ("openai", "gpt-4o")
        assert len(lease.id) == 22
        assert 0 <= lease.waited < 5
        assert lease.flags == frozenset()
        assert bool(lease.lease)
        assert repr(lease.lease).endswith("openai/gpt-4o valid>")
    assert repr(lease.lease).endswith("openai/gpt-4o ended>")


async def test_a_dropped_lease_is_released_with_a_warning_that_says_where_it_came_from(make_limiter, caplog) -> None:
    """Neither entered nor released, garbage-collected: the slot comes back, and the place of the acquire is told."""
    limiter = make_limiter(limits=TWO)
    lease = await limiter.acquire("openai", "gpt-4o")
    assert await limiter.in_flight(SCOPE) == 1
    del lease
    await _until_in_flight(limiter, 0)
    assert "dropped without release" in caplog.text
    assert "both.py:" in caplog.text


async def _end(limiter, ending: Ending) -> None:
    """Run the release script on an id, whoever's it is."""
    runtime = limiter.client._rt
    await limiter.run(scripts.release(runtime.session, runtime.keyspace, [ending]))


def _end_in_store(store, lease) -> None:
    """End one lease as if its time were over."""
    for key in store.keys("*:leases"):
        store.zrem(key, lease.id)


async def _until_in_flight(limiter, count: int) -> None:
    async def settled() -> bool:
        return await limiter.in_flight(SCOPE) == count

    await wait_until_async(settled, description=f"{count} slots are in use")
