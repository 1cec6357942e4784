"""Waiting: for a slot, until a deadline, until given up."""

import asyncio
import math
import time
from datetime import timedelta
from typing import Any

import pytest

from ratelease import Limits, Rate, Refusal
from ratelease.errors import StoreUnavailable, WaitTimeout
from ratelease.store.lua_source import script
from support.both import Limiter
from support.read_late import ReadLate
from support.round_trips import round_trips
from support.wait_until import wait_until_async

ONE = {"openai/gpt-4o": Limits(concurrency=1)}
SCOPE = "openai/gpt-4o"


@pytest.mark.covers("QU-01")
async def test_a_caller_at_a_full_limit_waits_and_is_granted(make_limiter) -> None:
    """No error while it waits; the slot comes with the release, and the lease says how long it took."""
    limiter = make_limiter(limits=ONE)
    held = await limiter.hold("openai", "gpt-4o")
    waiting = asyncio.create_task(limiter.hold("openai", "gpt-4o"))
    await limiter.until_waiting(1)
    assert not waiting.done()
    began = time.monotonic()
    await held[0].release()
    lease = (await waiting)[0]
    assert time.monotonic() - began < 1.0
    assert lease.valid
    assert lease.waited > 0
    assert await limiter.waiting() == 0


@pytest.mark.covers("QU-01")
@pytest.mark.parametrize("timeout", [math.inf, timedelta(seconds=20), 20, None])
async def test_a_wait_may_be_as_long_as_its_caller_says(make_limiter, timeout) -> None:
    """For ever, a timedelta, seconds, or the client's default."""
    limiter = make_limiter(limits=ONE)
    held = await limiter.hold("openai", "gpt-4o")
    waiting = asyncio.create_task(limiter.hold("openai", "gpt-4o", timeout=timeout))
    await limiter.until_waiting(1)
    await held[0].release()
    assert (await waiting)[0].valid


@pytest.mark.covers("QU-01")
async def test_a_rate_that_frees_in_time_is_waited_for(make_limiter) -> None:
    """Nobody has to release anything: the window moves on by itself."""
    limiter = make_limiter(limits={SCOPE: Limits(rates=[Rate(2, per=0.4)], guard=0)})
    began = time.monotonic()
    await limiter.hold("openai", "gpt-4o", 4, timeout=5)
    assert 0.35 < time.monotonic() - began < 1.5


@pytest.mark.covers("QU-08")
async def test_a_wait_ends_at_its_deadline_with_all_there_is_to_know(make_limiter) -> None:
    """Waited time, attempts, place and the limit are attributes and words of the error; the queue forgets it."""
    limiter = make_limiter(limits=ONE)
    await limiter.hold("openai", "gpt-4o")
    began = time.monotonic()
    with pytest.raises(WaitTimeout) as caught:
        await limiter.acquire("openai", "gpt-4o", timeout=0.3)
    assert 0.29 < time.monotonic() - began < 0.8
    error = caught.value
    assert isinstance(error, TimeoutError)
    assert 0.29 < error.waited < 0.8
    assert error.attempts >= 1
    assert error.position == 1
    assert (error.scope, error.dimension, error.used, error.limit) == (SCOPE, "concurrency", 1, 1)
    for word in (f"{error.waited:.1f} s", "place 1", SCOPE, "1 of 1 concurrency"):
        assert word in str(error)
    assert await limiter.waiting() == 0


@pytest.mark.covers("QU-08")
async def test_the_error_says_how_many_were_before(make_limiter) -> None:
    """Third in the queue, position 3."""
    limiter = make_limiter(limits=ONE)
    held = await limiter.hold("openai", "gpt-4o")
    others = []
    for number in (1, 2):
        others.append(asyncio.create_task(limiter.hold("openai", "gpt-4o")))
        await limiter.until_waiting(number)
    with pytest.raises(WaitTimeout) as caught:
        await limiter.acquire("openai", "gpt-4o", timeout=0.1)
    assert caught.value.position == 3
    await held[0].release()
    first = (await others[0])[0]
    await first.release()
    assert (await others[1])[0].valid


@pytest.mark.covers("QU-08")
async def test_a_rate_that_cannot_free_before_the_deadline_fails_at_once(make_limiter) -> None:
    """Waiting would not help: the error comes now, and says when to come back."""
    limiter = make_limiter(limits={SCOPE: Limits(rpm=1)})
    await limiter.hold("openai", "gpt-4o")
    began = time.monotonic()
    with pytest.raises(WaitTimeout) as caught:
        await limiter.acquire("openai", "gpt-4o", timeout=5)
    assert time.monotonic() - began < 1.0
    assert 55 < caught.value.retry_after <= 62
    assert caught.value.dimension == "requests/60s"


@pytest.mark.covers("QU-08")
async def test_a_timeout_of_zero_does_not_wait(make_limiter) -> None:
    """It asks once: a free slot is taken, a full limit is WaitTimeout."""
    limiter = make_limiter(limits=ONE)
    async with limiter.acquire("openai", "gpt-4o", timeout=0):
        pass
    await limiter.hold("openai", "gpt-4o")
    with round_trips() as trips, pytest.raises(WaitTimeout):
        await limiter.acquire("openai", "gpt-4o", timeout=0)
    assert trips.count == 1
    assert await limiter.waiting() == 0


@pytest.mark.covers("QU-08")
async def test_the_slot_of_a_waiter_that_gave_up_goes_to_the_next(make_limiter) -> None:
    """The one behind it does not wait for it."""
    limiter = make_limiter(limits=ONE)
    held = await limiter.hold("openai", "gpt-4o")
    short = asyncio.create_task(limiter.hold("openai", "gpt-4o", timeout=0.2))
    await limiter.until_waiting(1)
    patient = asyncio.create_task(limiter.hold("openai", "gpt-4o", timeout=10))
    await limiter.until_waiting(2)
    with pytest.raises(WaitTimeout):
        await short
    await held[0].release()
    assert (await patient)[0].valid
    assert await limiter.in_flight(SCOPE) == 1


@pytest.mark.covers("QU-09")
@pytest.mark.parametrize("colour", ["async"], indirect=True)
async def test_a_cancelled_waiter_leaves_the_queue_by_one_round_trip(make_limiter) -> None:
    """The task is cancelled while it waits: one release of its id takes it off the queue."""
    limiter = make_limiter(limits=ONE, poll=5.0, heartbeat=5.0, lease_ttl=10.0)
    await limiter.hold("openai", "gpt-4o")
    waiting = asyncio.create_task(limiter.hold("openai", "gpt-4o"))
    await limiter.until_waiting(1)
    with round_trips() as trips:
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await limiter.until_waiting(0)
        assert len([command for command in trips.by_keeper if script("release").sha.encode() in command]) == 1
    assert await limiter.in_flight(SCOPE) == 1


@pytest.mark.covers("QU-09")
@pytest.mark.parametrize("colour", ["async"], indirect=True)
@pytest.mark.parametrize("turns", range(0, 24, 3))
async def test_a_waiter_cancelled_as_its_grant_comes_gives_the_slot_back(make_limiter, turns) -> None:
    """Release and cancellation in the same moment, at several distances: nothing stays in use or in the queue."""
    limiter = make_limiter(limits=ONE)
    held = await limiter.hold("openai", "gpt-4o")
    waiting = asyncio.create_task(_enter_and_leave(limiter))
    await limiter.until_waiting(1)
    releasing = asyncio.create_task(held[0].release())
    for _ in range(turns):
        await asyncio.sleep(0)
    waiting.cancel()
    await releasing
    await asyncio.wait([waiting])
    await limiter.until_waiting(0)

    async def free() -> bool:
        return await limiter.in_flight(SCOPE) == 0

    await wait_until_async(free, description="the slot is free")
    assert await limiter.try_acquire("openai", "gpt-4o")


@pytest.mark.covers("QU-09")
async def test_an_interrupt_in_a_wait_takes_the_waiter_off_the_queue(make_limiter) -> None:
    """A BaseException leaves the acquire just as it begins to wait: its id is withdrawn all the same."""

    class Interrupt(BaseException):
        pass

    def on_queued(refusal: Refusal) -> None:
        raise Interrupt

    limiter = make_limiter(limits=ONE, on_queued=on_queued)
    await limiter.hold("openai", "gpt-4o")
    with pytest.raises(Interrupt):
        await limiter.acquire("openai", "gpt-4o")
    await limiter.until_waiting(0)
    assert await limiter.in_flight(SCOPE) == 1


@pytest.mark.covers("QU-15")
async def test_on_queued_is_called_once_before_the_wait(make_limiter) -> None:
    """With the place, the limit that is full and an estimate; a grant at once calls nothing."""
    told: list[Refusal] = []
    limiter = make_limiter(limits=ONE, on_queued=told.append)
    async with limiter.acquire("openai", "gpt-4o"):
        pass
    held = await limiter.hold("openai", "gpt-4o")
    assert told == []
    waiting = asyncio.create_task(limiter.hold("openai", "gpt-4o"))
    await wait_until_async(lambda: told, description="on_queued is called")
    assert not waiting.done()
    await limiter.until_waiting(1)
    # Two heartbeats, each of which repeats the parked request.
    start = held[0].deadline
    await wait_until_async(lambda: held[0].deadline > start + 0.4, description="two heartbeats")
    await held[0].release()
    await waiting
    assert len(told) == 1
    assert (told[0].scope, told[0].dimension, told[0].used, told[0].limit) == (SCOPE, "concurrency", 1, 1)
    assert told[0].position == 1
    assert told[0].retry_after is not None


@pytest.mark.covers("QU-15")
async def test_on_queued_is_not_called_by_a_try_or_by_a_failure(make_limiter) -> None:
    """Nothing is queued, so nobody is told."""
    told: list[Refusal] = []
    limiter = make_limiter(limits={SCOPE: Limits(rpm=1)}, on_queued=told.append)
    await limiter.hold("openai", "gpt-4o")
    assert not await limiter.try_acquire("openai", "gpt-4o")
    with pytest.raises(WaitTimeout):
        await limiter.acquire("openai", "gpt-4o", timeout=1)
    assert told == []


@pytest.mark.covers("QU-15")
async def test_on_queued_is_called_once_for_a_group(make_limiter) -> None:
    """Several leases asked for together are one caller that begins to wait."""
    told: list[Refusal] = []
    limiter = make_limiter(limits={SCOPE: Limits(concurrency=3)}, on_queued=told.append)
    held = await limiter.hold("openai", "gpt-4o", 3)
    waiting = asyncio.create_task(limiter.acquire_many("openai", "gpt-4o", 3, at_least=1).take())
    await limiter.until_waiting(3)
    await held[0].release()
    group = await waiting
    assert len(group) == 1
    assert [refusal.position for refusal in told] == [1]
    await group.release()


@pytest.mark.covers("QU-15")
async def test_an_on_queued_that_raises_does_not_end_the_wait(make_limiter, caplog) -> None:
    """Its fault is logged, and the caller gets its slot."""

    def on_queued(refusal: Refusal) -> None:
        raise RuntimeError("a fault in the program")

    limiter = make_limiter(limits=ONE, on_queued=on_queued)
    held = await limiter.hold("openai", "gpt-4o")
    waiting = asyncio.create_task(limiter.hold("openai", "gpt-4o"))
    await limiter.until_waiting(1)
    await held[0].release()
    assert (await waiting)[0].valid
    assert "on_queued raised" in caplog.text


async def _enter_and_leave(limiter) -> None:
    async with limiter.acquire("openai", "gpt-4o"):
        pass


@pytest.mark.covers("LS-04")
async def test_a_claimed_grant_is_kept_where_its_callers_own_call_fails(make_limiter) -> None:
    """The answer that it waits is never read; the keeper hears of the grant, claims it and renews it."""
    limiter, other = make_limiter(limits=ONE), make_limiter(limits=ONE)
    held = await other.hold("openai", "gpt-4o")
    own = ReadLate(limiter, StoreUnavailable("the store did not answer before the caller's deadline"))
    waiting = asyncio.create_task(limiter.hold("openai", "gpt-4o"))
    await own.came()
    (waiter,) = limiter.client._rt.keeper.waiters.values()
    await held[0].release()
    await wait_until_async(lambda: waiter.granted is not None, description="the keeper has claimed it")
    own.read()
    lease = (await waiting)[0]
    assert lease.valid
    assert not await other.try_acquire("openai", "gpt-4o")


@pytest.mark.covers("RL-07")
async def test_a_claim_under_an_id_that_was_given_up_is_no_grant(make_limiter, monkeypatch) -> None:
    """The request gets another id while its claim is on its way, as at the beginning of an outage."""
    limiter, other = make_limiter(limits=ONE), make_limiter(limits=ONE)
    held = await other.hold("openai", "gpt-4o")
    waiting = asyncio.create_task(limiter.hold("openai", "gpt-4o", timeout=0.7))
    await limiter.until_waiting(1)
    keeper = limiter.client._rt.keeper
    (waiter,) = keeper.waiters.values()
    run = keeper.run_script

    async def restart_first(call: Any) -> Any:
        if call.script == "acquire":
            keeper.restart(waiter)
        return await run(call)

    monkeypatch.setattr(keeper, "run_script", restart_first)
    await held[0].release()
    with pytest.raises(WaitTimeout):
        await waiting
    assert waiter.granted is None
    assert await other.try_acquire("openai", "gpt-4o")


@pytest.mark.covers("RL-07")
async def test_an_answer_to_an_id_that_was_given_up_is_no_grant(make_limiter) -> None:
    """The request gets another id while its caller's own call is on its way: the slot goes back under the old one."""
    limiter, other = make_limiter(limits=ONE), make_limiter(limits=ONE)
    await limiter.start()
    keeper, wire = limiter.client._rt.keeper, limiter.client._exchange.wire
    run = wire.run

    def renamed(call: Any, reply: Any) -> Any:
        if call.script == "acquire":
            keeper.restart(*keeper.waiters.values())
        return reply

    async def run_async(call: Any, *rest: Any) -> Any:
        return renamed(call, await run(call, *rest))

    wire.run = (lambda call, *rest: renamed(call, run(call, *rest))) if limiter.is_sync else run_async
    with pytest.raises(WaitTimeout):
        await limiter.acquire("openai", "gpt-4o", timeout=0.5)
    assert await other.try_acquire("openai", "gpt-4o")


def answer_late(limiter: Limiter, seconds: float, times: int) -> None:
    """Let the next answers to acquires of a limiter be read so late."""
    exchange, delays = limiter.client._exchange, [seconds] * times
    acquire = exchange.acquire

    def late(*arguments: Any) -> Any:
        answer = acquire(*arguments)
        time.sleep(delays.pop() if delays else 0)
        return answer

    async def late_async(*arguments: Any) -> Any:
        answer = await acquire(*arguments)
        await asyncio.sleep(delays.pop() if delays else 0)
        return answer

    exchange.acquire = late if limiter.is_sync else late_async


@pytest.mark.covers("RL-05")
async def test_a_grant_that_is_over_is_asked_for_again_and_again(make_limiter) -> None:
    """Twice in a row the lease has ended before its caller could read of it."""
    limiter = make_limiter(limits=ONE, lease_ttl=0.3, heartbeat=0.1)
    answer_late(limiter, 0.4, 2)
    (lease,) = await limiter.hold("openai", "gpt-4o", timeout=5)
    assert lease.valid
    assert await limiter.in_flight(SCOPE) == 1


@pytest.mark.covers("RL-05")
async def test_nobody_gets_a_lease_that_is_over(make_limiter) -> None:
    """The caller's time ends before a grant comes in time: it is told why, and nothing is left."""
    limiter = make_limiter(limits=ONE, lease_ttl=0.3, heartbeat=0.1)
    answer_late(limiter, 0.4, 4)
    with pytest.raises(StoreUnavailable, match=r"more than 0.3 s after .* Raise lease_ttl"):
        await limiter.acquire("openai", "gpt-4o", timeout=0.6)

    async def free() -> bool:
        return await limiter.in_flight(SCOPE) == 0

    await wait_until_async(free, description="nothing is left")
