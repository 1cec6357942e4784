"""An empty account stops everybody at once, until one call that tries again succeeds, or a person says so."""

import asyncio
import logging
import time

import pytest

from ratelease import Feedback, Limits, Outcome
from ratelease.errors import QuotaExhausted
from support.wait_until import wait_until_async
from support.workers import Fleet

MODEL = ("openai", "gpt-4o")
TWO = {"openai/gpt-4o": Limits(concurrency=2), "anthropic": Limits(concurrency=2)}
EMPTY = {"status": 429, "body": {"error": {"code": "insufficient_quota", "type": "insufficient_quota"}}}
# No poll finds anything out while a test runs.
QUIET = {"poll": 9.0, "lease_ttl": 30.0, "heartbeat": 15.0}


def waiters(limiter, count):
    return [asyncio.create_task(limiter.acquire(*MODEL, timeout=20).take()) for _ in range(count)]


@pytest.mark.covers("RT-19")
async def test_an_empty_account_is_told_to_everybody_at_once(make_limiter, store) -> None:
    """Who waits already, whoever asks, by any verb, for any model of the provider; other providers go on."""
    one, two = make_limiter(limits=TWO, **QUIET), make_limiter(limits=TWO, max_parked=2, **QUIET)
    leases = [await one.acquire(*MODEL) for _ in range(2)]
    waiting = [*waiters(one, 2), *waiters(two, 5)]
    await one.until_waiting(4)
    await one.until_subscribed(store, 2)
    feedback = await leases.pop().fail(EMPTY)
    assert (feedback.outcome, feedback.terminal, feedback.retryable) == (Outcome.QUOTA, True, False)
    found = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 3.0)
    assert [type(error) for error in found] == [QuotaExhausted] * 7
    assert {error.scope for error in found} == {"openai"}
    assert "resume() the provider" in str(found[0])
    for ask in (two.acquire(*MODEL), two.acquire("openai", "other"), two.acquire_many(*MODEL, 2)):
        with pytest.raises(QuotaExhausted) as raised:
            await ask
        assert 590 < raised.value.retry_after <= 600
    refusal = await two.try_acquire(*MODEL)
    assert (bool(refusal), refusal.reason, refusal.dimension, refusal.scope) == (False, "quota", "quota", "openai")
    assert await two.waiting() == 0
    assert leases.pop().valid, "what runs goes on"
    assert await two.try_acquire("anthropic", "claude")


@pytest.mark.covers("RT-19")
async def test_after_its_pause_one_call_tries_and_its_success_opens_the_account(make_limiter) -> None:
    """While it is under way all others are refused; if it fails as before, the pause begins again."""
    limiter = make_limiter(limits=TWO, quota_pause=0.3)
    await limiter.report(*MODEL, "quota")
    health = await limiter.health(*MODEL)
    assert not health.healthy

    async def probe():
        return await limiter.try_acquire(*MODEL)

    first = await wait_until_async(probe, description="one may try")
    assert (await limiter.try_acquire(*MODEL)).reason == "quota"
    with pytest.raises(QuotaExhausted):
        await limiter.acquire(*MODEL)
    await first.fail(EMPTY)
    assert 0.1 < (await limiter.try_acquire(*MODEL)).retry_after <= 0.3
    second = await wait_until_async(probe, description="one may try again")
    await second.release()
    assert await limiter.try_acquire(*MODEL)
    assert await limiter.try_acquire("openai", "other")


@pytest.mark.covers("RT-12", "RT-19")
async def test_a_person_who_has_paid_opens_the_account_for_all(make_limiter) -> None:
    """resume(provider) ends the breaker, also that of a model which alone is not open to the account."""
    one, two = make_limiter(limits=TWO), make_limiter(limits=TWO)
    await (await one.acquire(*MODEL)).release()
    await one.report(*MODEL, "quota")
    assert (await two.try_acquire(*MODEL)).reason == "quota"
    await one.call(one.client.operator.resume, "openai", reason="paid")
    assert (await two.health(*MODEL)).healthy
    lease = await two.acquire(*MODEL)
    await lease.release(Feedback(Outcome.QUOTA, dimension="model"))
    refusal = await one.try_acquire(*MODEL)
    assert (refusal.reason, refusal.scope) == ("quota", "openai/gpt-4o")
    assert await one.try_acquire("openai", "other")
    await two.call(two.client.operator.resume, "openai")
    assert await one.try_acquire(*MODEL)
    deeds = await one.call(one.client.operator.journal)
    assert [(deed.verb, deed.scope) for deed in deeds] == [("resume", "openai")] * 2, "one line a deed"


async def test_an_account_is_shorter_closed_where_the_provider_says_until_when(make_limiter) -> None:
    """At least a second, never longer than the settings say; of several times the longest holds."""
    limiter = make_limiter(limits=TWO, quota_pause=50.0)
    for hint, least, most in ((0, 0, 1), (30, 29, 30), (5, 29, 30), (10**9, 49, 50)):
        await limiter.report(*MODEL, "quota", retry_after=hint)
        assert least < (await limiter.try_acquire(*MODEL)).retry_after <= most


async def test_an_empty_account_is_a_warning_in_the_log(make_limiter, caplog) -> None:
    """Of whoever was told, by lease or by report, with the provider's own word; nothing else of the answer."""
    caplog.set_level(logging.INFO)
    limiter = make_limiter(limits=TWO)
    await (await limiter.acquire(*MODEL)).fail({**EMPTY, "text": "secret"})
    await limiter.report(*MODEL, "quota")
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    told = [line for line in told if "account" in line]
    assert len(told) == 1, "once while it lasts"
    assert "openai/gpt-4o" in told[0]
    assert "insufficient_quota" in told[0]
    assert "secret" not in caplog.text


@pytest.mark.parametrize("store_url", ["redis"], indirect=True)
@pytest.mark.covers("RT-19")
async def test_waiters_of_another_process_hear_of_an_empty_account_without_a_poll(
    make_limiter, settings, store
) -> None:
    """A process with parked callers, whose polls are 9 s apart."""
    limiter = make_limiter(limits=TWO, **QUIET)
    leases = [await limiter.acquire(*MODEL) for _ in range(2)]
    limits = {"openai/gpt-4o": {"concurrency": 2}}
    with Fleet(settings.url, 1, namespace=settings.namespace, **QUIET) as fleet:
        fleet.run("ask", limits=limits, count=3, timeout=20.0)
        await limiter.until_waiting(3)
        await limiter.until_subscribed(store, 2)
        told = time.monotonic()
        await leases.pop().fail(EMPTY)
        await asyncio.to_thread(fleet.wait, "refused", 3, 5.0)
    refused = fleet.of("refused")
    print(f"told after {max(event['when'] for event in refused) - told:.3f} s")
    assert {(event["error"], event["scope"]) for event in refused} == {("QuotaExhausted", "openai")}
    assert max(event["when"] for event in refused) - told < 1.0


@pytest.mark.covers("RT-19")
@pytest.mark.parametrize("store_url", ["redis"], indirect=True)
async def test_a_client_whose_messages_were_lost_hears_of_an_empty_account_when_it_listens_again(
    make_limiter, redis_client, store
) -> None:
    """Its connection for messages is cut while it waits, and neither poll nor heartbeat comes for long."""
    one, two = make_limiter(limits=TWO, **QUIET), make_limiter(limits=TWO, **QUIET)
    leases = [await one.acquire(*MODEL) for _ in range(2)]
    [waiting] = waiters(two, 1)
    await one.until_waiting(1)
    await one.until_subscribed(store, 2)
    redis_client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    # It listens again after 50 ms.
    await leases.pop().fail(EMPTY)
    with pytest.raises(QuotaExhausted):
        await asyncio.wait_for(waiting, 5.0)
