"""What an acquire costs in round trips, and what a refusal tells."""

import asyncio

import pytest

from ratelease import Limits, Pool, Rate
from ratelease.errors import ImpossibleRequest, WaitTimeout
from support.round_trips import round_trips
from support.wait_until import wait_until_async

EVERYTHING = {
    "openai/gpt-4o": Limits(concurrency=8, rpm=500, tpm=200_000, itpm=150_000, otpm=50_000, rates=[Rate(90, per=10)]),
    "openai": Limits(concurrency=20, rpm=1000, tpm=400_000),
    "total": Limits(concurrency=40, rpm=2000),
}


@pytest.mark.covers("AD-17")
async def test_trying_at_a_full_concurrency_limit_says_which_and_how_full(make_limiter) -> None:
    """At 2 of 2 the answer is falsy, at once, and names scope, dimension, use and limit."""
    limiter = make_limiter(limits={"openai/gpt-4o": Limits(concurrency=2)})
    await limiter.hold("openai", "gpt-4o", 2)
    with round_trips() as trips:
        refused = await limiter.try_acquire("openai", "gpt-4o")
    assert trips.count == 1
    assert not refused
    assert (refused.scope, refused.dimension, refused.used, refused.limit) == ("openai/gpt-4o", "concurrency", 2, 2)
    assert refused.reason == "limit"
    assert refused.to_dict()["used"] == 2


@pytest.mark.covers("AD-17")
async def test_a_refusal_by_a_rate_says_when_to_try_again(make_limiter) -> None:
    """After the time that a refused try names, the next one is granted; half of it before, it is not."""
    limiter = make_limiter(limits={"openai/gpt-4o": Limits(rates=[Rate(3, per=0.6)], guard=0)})
    for _ in range(3):
        assert await limiter.try_acquire("openai", "gpt-4o")
    refused = await limiter.try_acquire("openai", "gpt-4o")
    assert (refused.dimension, refused.used, refused.limit) == ("requests/0.6s", 3, 3)
    assert 0.3 < refused.retry_after <= 0.62
    lease = await limiter.acquire("openai", "gpt-4o", timeout=5)
    assert refused.retry_after - 0.1 < lease.waited < refused.retry_after + 0.3


@pytest.mark.covers("AD-17")
async def test_a_refusal_at_a_full_concurrency_limit_estimates_by_what_calls_last(make_limiter) -> None:
    """Before any call has ended nobody can know when a slot frees; afterwards the estimate is a positive time."""
    limiter = make_limiter(limits={"openai/gpt-4o": Limits(concurrency=1)})
    held = await limiter.acquire("openai", "gpt-4o")
    assert (await limiter.try_acquire("openai", "gpt-4o")).retry_after is None
    await held.release()
    await limiter.hold("openai", "gpt-4o")
    with pytest.raises(WaitTimeout) as caught:
        await limiter.acquire("openai", "gpt-4o", timeout=0.05)
    assert caught.value.retry_after is not None
    assert 0 <= caught.value.retry_after < 1


@pytest.mark.covers("AD-17")
async def test_trying_behind_a_queue_says_queued(make_limiter) -> None:
    """One slot is free, but somebody who needs two waits for it first: nobody overtakes, and the reason says so."""
    limiter = make_limiter(limits={"openai/gpt-4o": Limits(concurrency=2)})
    await limiter.hold("openai", "gpt-4o")
    waiting = asyncio.create_task(limiter.hold("openai", "gpt-4o", weight=2))
    await limiter.until_waiting(1)
    refused = await limiter.try_acquire("openai", "gpt-4o")
    assert refused.reason == "queued"
    await limiter.held[0].release()
    await waiting


@pytest.mark.covers("AD-18", "PF-01")
@pytest.mark.parametrize("limits", [EVERYTHING, {}, {"openai/gpt-4o": Limits(concurrency=2)}])
async def test_an_acquire_and_its_release_take_one_round_trip_each(make_limiter, limits) -> None:
    """Once the scripts are loaded, one command each, whatever the number of scopes, rates and pools."""
    pools = {"big": Pool(["openai/*"], Limits(concurrency=30, rpm=700))} if limits else None
    limiter = make_limiter(limits=limits, pools=pools, unknown="unlimited")
    await (await limiter.acquire("openai", "gpt-4o")).release()
    for _ in range(5):
        with round_trips() as trips:
            lease = await limiter.acquire("openai", "gpt-4o", input_tokens=500, output_tokens=100)
        assert (trips.count, b"EVALSHA" in trips.sent[0]) == (1, True)
        with round_trips() as trips:
            await lease.release()
        assert (trips.count, b"EVALSHA" in trips.sent[0]) == (1, True)


@pytest.mark.covers("AD-18", "PF-01")
@pytest.mark.parametrize("store_url", ["redis"], indirect=True)
async def test_the_server_runs_two_scripts_for_an_acquire_and_its_release(make_limiter, store) -> None:
    """Nothing goes on behind the caller's back either: 20 calls are 40 scripts, background included."""
    limiter = make_limiter(limits=EVERYTHING, lease_ttl=600.0, heartbeat=300.0)
    await (await limiter.acquire("openai", "gpt-4o")).release()
    # The instance has entered itself in the list of the living by then, which it next does in 300 s.
    await wait_until_async(lambda: store.keys("*:profiles"), description="the first heartbeat")
    await limiter.status()
    before = store.info("commandstats")["cmdstat_evalsha"]["calls"]
    for _ in range(20):
        async with limiter.acquire("openai", "gpt-4o", tokens=100):
            pass
    assert store.info("commandstats")["cmdstat_evalsha"]["calls"] - before == 40


@pytest.mark.covers("AD-18", "PF-01")
@pytest.mark.parametrize("at_least", [8, 3, 0])
async def test_a_group_takes_one_round_trip(make_limiter, at_least) -> None:
    """Eight leases are one command, all together or as many as are free, and so is their release."""
    limiter = make_limiter(limits=EVERYTHING)
    await (await limiter.acquire("openai", "gpt-4o")).release()
    with round_trips() as trips:
        group = await limiter.acquire_many("openai", "gpt-4o", 8, at_least=at_least)
    assert (trips.count, len(group)) == (1, 8)
    with round_trips() as trips:
        await group.release()
    assert trips.count == 1


@pytest.mark.covers("AD-10")
async def test_an_impossible_request_costs_one_round_trip(make_limiter) -> None:
    """It does not park first, and is not tried again."""
    limiter = make_limiter(limits={"openai/gpt-4o": Limits(concurrency=4)})
    await limiter.hold("openai", "gpt-4o", 4)
    with round_trips() as trips, pytest.raises(ImpossibleRequest):
        await limiter.acquire("openai", "gpt-4o", weight=5)
    assert trips.count == 1
