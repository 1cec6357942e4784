"""Rate windows as callers meet them."""

import asyncio
import time

import pytest

from ratelease import Limits, Outcome, Rate
from ratelease.errors import WaitTimeout

SCOPE = "openai/gpt-4o"
LIMITS = {SCOPE: Limits(rpm=100, tpm=10_000)}


@pytest.mark.covers("RW-03")
async def test_requests_of_one_millisecond_all_count(make_limiter) -> None:
    """200 requests decided by one script, that is in one server millisecond, are counted as 200."""
    limiter = make_limiter(limits={SCOPE: Limits(rpm=500)})
    group = await limiter.acquire_many("openai", "gpt-4o", 200)
    assert len(group) == 200
    assert await limiter.used(SCOPE, "requests/60s") == 200


@pytest.mark.covers("RW-03")
@pytest.mark.parametrize("store_url", ["memory"], indirect=True)
async def test_single_requests_of_one_millisecond_all_count(make_limiter, monkeypatch) -> None:
    """The server's clock stands still while 200 callers ask one by one: 200 are counted, the 201st is refused."""
    limiter = make_limiter(limits={SCOPE: Limits(rpm=200)}, heartbeat=5.0, lease_ttl=10.0)
    await limiter.status()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    await limiter.hold("openai", "gpt-4o", 200)
    assert await limiter.used(SCOPE, "requests/60s") == 200
    assert not await limiter.try_acquire("openai", "gpt-4o")
    monkeypatch.undo()


@pytest.mark.covers("RW-03")
async def test_callers_that_ask_together_are_each_counted(make_limiter) -> None:
    """200 callers at the same moment travel in a few batches: each of them is charged once."""
    limiter = make_limiter(limits={SCOPE: Limits(rpm=500)})
    leases = await asyncio.gather(*(limiter.acquire("openai", "gpt-4o").take() for _ in range(60)))
    assert len({lease.id for lease in leases}) == 60
    assert await limiter.used(SCOPE, "requests/60s") == 60


@pytest.mark.covers("RW-07")
async def test_what_was_never_sent_returns_its_charges(make_limiter) -> None:
    """Released as unsent, a lease gives back its request and its tokens."""
    limiter = make_limiter(limits=LIMITS)
    kept = await limiter.acquire("openai", "gpt-4o", tokens=1000)
    lease = await limiter.acquire("openai", "gpt-4o", tokens=2500)
    assert await limiter.used(SCOPE, "tokens/60s") == 3500
    await lease.release(Outcome.UNSENT)
    assert await limiter.used(SCOPE, "requests/60s") == 1
    assert await limiter.used(SCOPE, "tokens/60s") == 1000
    await lease.release(Outcome.UNSENT)
    assert await limiter.used(SCOPE, "tokens/60s") == 1000
    await kept.release()


@pytest.mark.covers("RW-07")
@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome is not Outcome.UNSENT])
async def test_what_reached_the_provider_stays_charged_however_it_ended(make_limiter, outcome) -> None:
    """Every other outcome frees the slot and leaves the charges in their window."""
    limiter = make_limiter(limits=LIMITS)
    await (await limiter.acquire("openai", "gpt-4o", tokens=1000)).release(outcome)
    assert await limiter.in_flight(SCOPE) == 0
    assert await limiter.used(SCOPE, "requests/60s") == 1
    assert await limiter.used(SCOPE, "tokens/60s") == 1000


@pytest.mark.covers("RW-07")
@pytest.mark.parametrize("error", [TimeoutError, ConnectionError, GeneratorExit])
async def test_a_call_that_failed_stays_charged(make_limiter, error) -> None:
    """A body that raises may have reached the provider: its request stays counted."""
    limiter = make_limiter(limits=LIMITS)
    with pytest.raises(error):
        async with limiter.acquire("openai", "gpt-4o"):
            raise error
    assert await limiter.used(SCOPE, "requests/60s") == 1


@pytest.mark.covers("RW-07")
async def test_a_wait_that_ended_without_a_lease_is_not_charged(make_limiter) -> None:
    """Nobody called the provider, so nothing is counted."""
    limiter = make_limiter(limits={SCOPE: Limits(rpm=100, concurrency=1)})
    await limiter.hold("openai", "gpt-4o")
    with pytest.raises(WaitTimeout):
        await limiter.acquire("openai", "gpt-4o", timeout=0.1)
    assert await limiter.used(SCOPE, "requests/60s") == 1


@pytest.mark.covers("RW-09")
async def test_each_attempt_of_a_retried_call_is_charged(make_limiter) -> None:
    """Three attempts, two of them throttled, are three requests."""
    limiter = make_limiter(limits={SCOPE: Limits(rpm=100, tpm=10_000, strategy="off")})
    for outcome in (Outcome.THROTTLED, Outcome.THROTTLED, Outcome.OK):
        await (await limiter.acquire("openai", "gpt-4o")).release(outcome)
    assert await limiter.used(SCOPE, "requests/60s") == 3


@pytest.mark.covers("RW-09")
async def test_retries_run_into_the_rate_like_first_attempts(make_limiter) -> None:
    """A limit of 3 per window is used up by one call with two retries; the next caller waits for the window."""
    limiter = make_limiter(limits={SCOPE: Limits(rates=[Rate(3, per=0.5)], guard=0, strategy="off")})
    for _ in range(3):
        await (await limiter.acquire("openai", "gpt-4o")).release(Outcome.THROTTLED)
    assert not await limiter.try_acquire("openai", "gpt-4o")
    lease = await limiter.acquire("openai", "gpt-4o", timeout=5)
    assert 0.3 < lease.waited < 1.0


async def test_an_estimate_that_is_not_given_is_never_nothing(make_limiter) -> None:
    """Under a token rate a call without an estimate is charged the default, and no more than the limit."""
    limiter = make_limiter(limits={SCOPE: Limits(tpm=100_000), "openai/small": Limits(tpm=500)})
    await limiter.hold("openai", "gpt-4o")
    await limiter.hold("openai", "small")
    assert await limiter.used(SCOPE, "tokens/60s") == 1000
    assert await limiter.used("openai/small", "tokens/60s") == 500


async def test_input_and_output_tokens_are_charged_apart_and_together(make_limiter) -> None:
    """A limit of each kind counts its own; a limit of tokens counts their sum."""
    limiter = make_limiter(limits={SCOPE: Limits(tpm=10_000, itpm=8000, otpm=4000)})
    await limiter.hold("openai", "gpt-4o", input_tokens=700, output_tokens=300)
    status = (await limiter.status()).scope(SCOPE)
    assert {rate.dimension: rate.used for rate in status.rates} == {
        "tokens/60s": 1000,
        "input_tokens/60s": 700,
        "output_tokens/60s": 300,
    }
