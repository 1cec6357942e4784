"""Tokens, weights and pools as callers meet them: reserved, settled, and decided in one script."""

import asyncio

import pytest

from ratelease import Limits, Pool, Rate, Usage
from ratelease.errors import ConfigError, ImpossibleRequest
from support.round_trips import round_trips
from support.wait_until import wait_until_async

MODEL = ("openai", "gpt-4o")
SCOPE = "openai/gpt-4o"
TOKENS = {SCOPE: Limits(tpm=40_000, concurrency=50)}


async def used(limiter, scope: str = SCOPE, dimension: str = "tokens/60s") -> int:
    """What a rate has counted."""
    return await limiter.used(scope, dimension)


@pytest.mark.covers("RW-04")
async def test_the_call_that_would_pass_the_token_rate_waits(make_limiter) -> None:
    """Four calls of 10 000 fit into 40 000 a minute; the fifth is told when."""
    limiter = make_limiter(limits=TOKENS)
    await limiter.hold(*MODEL, 4, tokens=10_000)
    refusal = await limiter.try_acquire(*MODEL, tokens=10_000)
    assert (refusal.dimension, refusal.used, refusal.limit) == ("tokens/60s", 40_000, 40_000)
    assert 55 < refusal.retry_after <= 63


@pytest.mark.covers("TK-03", "RW-05")
@pytest.mark.parametrize(
    "usage",
    [
        3000,
        Usage(tokens=3000),
        Usage(input_tokens=1000, output_tokens=2000),
        {"prompt_tokens": 1000, "completion_tokens": 2000, "total_tokens": 3000},
    ],
)
async def test_unused_tokens_go_back_to_the_fleet(make_limiter, usage) -> None:
    """Settled inside the lease and released by leaving it."""
    limiter = make_limiter(limits=TOKENS)
    other = await limiter.acquire(*MODEL, tokens=1000)
    async with limiter.acquire(*MODEL, tokens=10_000) as lease:
        lease.settle(usage)
    assert await used(limiter) == 4000
    await other.release(usage=200)
    assert await used(limiter) == 3200


@pytest.mark.covers("TK-03")
async def test_a_lease_that_stays_is_settled_a_moment_later(make_limiter) -> None:
    """The background sends it, and heartbeats go on."""
    limiter = make_limiter(limits=TOKENS)
    lease = await limiter.acquire(*MODEL, tokens=10_000)
    lease.settle(15_000)

    async def settled() -> bool:
        return await used(limiter) == 15_000

    await wait_until_async(settled, description="the debt is charged")
    assert await limiter.in_flight(SCOPE) == 1
    await lease.release(usage=1)
    assert await used(limiter) == 15_000


@pytest.mark.covers("TK-04")
async def test_a_second_figure_changes_nothing(make_limiter) -> None:
    """Settle, settle again, release with another."""
    limiter = make_limiter(limits=TOKENS)
    lease = await limiter.acquire(*MODEL, tokens=10_000)
    for figure in (3000, 1, 30_000):
        lease.settle(figure)
    await lease.release(usage=5)
    await lease.release(usage=5)
    lease.settle(6)
    assert await used(limiter) == 3000


@pytest.mark.covers("TK-03")
@pytest.mark.parametrize(
    "usage", [None, object(), [], {"total_tokens": -1}, {"prompt_tokens": "9"}, {"total_tokens": float("nan")}]
)
async def test_a_usage_that_says_nothing_leaves_the_estimate_charged(make_limiter, usage) -> None:
    """Whatever an SDK hands over, a lease ends."""
    limiter = make_limiter(limits=TOKENS)
    lease = await limiter.acquire(*MODEL, tokens=700)
    lease.settle(usage)
    await lease.release(usage=usage)
    assert await used(limiter) == 700
    assert await limiter.in_flight(SCOPE) == 0


@pytest.mark.parametrize("usage", [-5, 2.5, float("nan"), True, 10**13, "many", b"5"])
async def test_a_figure_that_is_none_is_refused_and_nothing_is_lost(make_limiter, usage) -> None:
    """The lease stays as it was, and can be settled and released by what is right."""
    limiter = make_limiter(limits=TOKENS)
    lease = await limiter.acquire(*MODEL, tokens=700)
    with pytest.raises(ConfigError, match="usage must be a whole number of tokens") as refused:
        lease.settle(usage)
    assert "many" not in str(refused.value)
    with pytest.raises(ConfigError, match="usage must be"):
        await lease.release(usage=usage)
    assert lease.valid
    await lease.release(usage=300)
    assert await used(limiter) == 300
    assert await limiter.in_flight(SCOPE) == 0


@pytest.mark.covers("PF-01", "TK-03")
@pytest.mark.parametrize("store_url", ["redis"], indirect=True)
async def test_settling_with_the_release_is_no_further_round_trip(make_limiter) -> None:
    """One call acquires, one releases and settles."""
    limiter = make_limiter(limits=TOKENS)
    await (await limiter.acquire(*MODEL)).release(usage=5)
    with round_trips() as trips:
        async with limiter.acquire(*MODEL, tokens=900) as lease:
            lease.settle({"total_tokens": 40})
    assert trips.count == 2


@pytest.mark.covers("TK-12")
async def test_a_call_without_an_estimate_reserves_what_its_model_has_used(make_limiter) -> None:
    """1000 at first; after twenty calls of 100 to 290 tokens, nearly the largest of them."""
    limiter = make_limiter(limits=TOKENS)
    async with limiter.acquire(*MODEL) as lease:
        assert await used(limiter) == 1000
        lease.settle(0)
    for figure in range(100, 300, 10):
        await (await limiter.acquire(*MODEL)).release(usage=figure)
    before = await used(limiter)
    await limiter.hold(*MODEL)
    assert await used(limiter) - before == 280
    shown = (await limiter.call(limiter.client.limits, *MODEL)).scope(SCOPE)
    assert shown.estimates["tokens"] == 280


@pytest.mark.covers("TK-06")
async def test_a_lease_counts_by_its_weight(make_limiter) -> None:
    """Of eight slots two leases of weight 4 take all; a third waits for one of them."""
    limiter = make_limiter(limits={SCOPE: Limits(concurrency=8)})
    first, _ = await limiter.hold(*MODEL, 2, weight=4)
    assert await limiter.in_flight(SCOPE) == 8
    waiting = asyncio.create_task(limiter.acquire(*MODEL, weight=4).take())
    await limiter.until_waiting(1)
    await first.release()
    third = await waiting
    assert await limiter.in_flight(SCOPE) == 8
    await third.release()


@pytest.mark.covers("TK-02")
async def test_models_of_a_pool_share_its_counters_and_a_model_may_be_in_several(make_limiter) -> None:
    """Three models in one pool of two slots; one of them in another pool as well, which shows its own use."""
    pools = {
        "big": Pool(["openai/gpt-*", "anthropic/opus"], Limits(concurrency=2, rpm=100)),
        "opus": Pool(["anthropic/opus"], Limits(concurrency=9)),
    }
    limiter = make_limiter(pools=pools)
    await limiter.hold("openai", "gpt-4o")
    await limiter.hold("anthropic", "opus")
    refusal = await limiter.try_acquire("openai", "gpt-5")
    assert (refusal.scope, refusal.used, refusal.limit) == ("pool:big", 2, 2)
    assert [await limiter.in_flight(scope) for scope in ("pool:big", "pool:opus", "anthropic/opus")] == [2, 1, 1]
    assert await used(limiter, "pool:big", "requests/60s") == 2


EVERYTHING = Limits(
    concurrency=3, rpm=50, itpm=1000, otpm=500, rpd=1000, rates=[Rate(2, per=1.0), Rate(900, per=10.0, of="tokens")]
)


@pytest.mark.covers("TK-01")
@pytest.mark.parametrize(
    "asked, scope, dimension",
    [
        ({"input_tokens": 990, "output_tokens": 1}, SCOPE, "tokens/10s"),
        ({"input_tokens": 5, "output_tokens": 480}, "openai", "output_tokens/60s"),
        ({"input_tokens": 5, "output_tokens": 5, "weight": 2}, "total", "concurrency"),
    ],
)
async def test_every_dimension_is_decided_together_and_the_binding_one_is_named(
    make_limiter, asked, scope, dimension
) -> None:
    """Concurrency, bursts, days, input and output tokens, on three levels: refused by one, nothing is charged."""
    limits = {SCOPE: EVERYTHING, "openai": Limits(otpm=480, concurrency=9), "total": Limits(concurrency=2)}
    limiter = make_limiter(limits=limits)
    await limiter.hold(*MODEL, input_tokens=10, output_tokens=10)
    before = await limiter.status()
    try:
        refusal = await limiter.try_acquire(*MODEL, **asked)
    except ImpossibleRequest as error:
        refusal = error
    assert (refusal.scope, refusal.dimension) == (scope, dimension)
    after = await limiter.status()
    assert [(each.in_flight, each.rates) for each in before.scopes] == [
        (each.in_flight, each.rates) for each in after.scopes
    ]
