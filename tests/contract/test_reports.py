"""What clients are told of failures and what all of them learn by it, on both colours and stores."""

import asyncio
import logging
import math
from datetime import timedelta
from typing import Self

import pytest

from ratelease import Feedback, Limits, Outcome, Retry, classify
from ratelease.errors import ConfigError, LeaseLost, WaitTimeout
from ratelease.strategies import Parallelism, Penalty
from support.both import AsyncStream, Stream
from support.sdk_errors import error
from support.targets import BothTarget, Failing
from support.wait_until import wait_until_async

MODEL = ("openai", "gpt-4o")
SCOPE = "openai/gpt-4o"
FOUR = {SCOPE: Limits(concurrency=4)}
REFUSED = {"status": 429, "headers": {"Retry-After": "1.5"}}


async def limit_of(limiter, model="gpt-4o"):
    return (await limiter.health("openai", model)).limit


@pytest.mark.covers("AL-08")
async def test_what_one_client_is_told_the_next_call_of_another_goes_by(make_limiter) -> None:
    """By the exception that leaves a lease, by fail, by release and by a report alike."""
    one, two = make_limiter(limits=FOUR), make_limiter(limits=FOUR)
    with pytest.raises(TimeoutError):
        async with one.acquire(*MODEL):
            raise TimeoutError
    assert await limit_of(two) == 2
    feedback = await (await one.acquire(*MODEL)).fail({"status": 429})
    assert (feedback.outcome, feedback.status, feedback.retryable) == (Outcome.THROTTLED, 429, True)
    assert await limit_of(two) == 1
    async with two.acquire(*MODEL):
        refusal = await two.try_acquire(*MODEL)
    assert (refusal.scope, refusal.dimension, refusal.used, refusal.limit) == (SCOPE, "concurrency", 1, 1)
    await two.call(two.client.operator.forgive, *MODEL)
    assert await limit_of(one) == 4
    await (await two.acquire(*MODEL)).release(Feedback(Outcome.TIMEOUT))
    await two.report(*MODEL, "throttled")
    assert await limit_of(one) == 2, "the timeout cut, and the report counts as admitted before it"
    assert [event.reason for event in (await one.reaction(SCOPE)).events] == [
        "timeout error",
        "429 rate limit error",
        "timeout error",
    ]


@pytest.mark.covers("AL-17")
async def test_models_with_odd_names_are_cut_recover_and_are_reset_like_any_other(make_limiter, store) -> None:
    """A colon in a name makes no further scope, and one state each."""
    quick = Limits(concurrency=10, strategy=Parallelism(recovery_interval=0.2))
    limiter = make_limiter(limits={"ollama/*": quick, "bedrock/*": quick})
    for provider, model in (("ollama", "llama3:8b"), ("bedrock", "anthropic.claude-v2:0"), ("ollama", "a b/ü~%")):
        await limiter.report(provider, model, "throttled")
        cut = await limiter.health(provider, model)
        assert (cut.scope, cut.limit, cut.base) == (f"{provider}/{model}", 7, 10)
        await _until_limit(limiter, (provider, model), 8)
        assert (await limiter.health(provider, model)).reason == "recovery"
        await limiter.reset(provider, model)
        assert (await limiter.health(provider, model)).reason == "initial"
        await limiter.report(provider, model, "throttled")
    learned = [key for key in store.keys("*") if key.endswith(b":learned")]
    assert len(learned) == 3


async def _until_limit(limiter, model, limit) -> None:
    async def there() -> bool:
        return (await limiter.health(*model)).limit >= limit

    await wait_until_async(there, description=f"the limit is {limit} again")


@pytest.mark.covers("AL-18")
async def test_upper_and_lower_case_are_one_state(make_limiter) -> None:
    """In reports, in health, and for operators."""
    limiter = make_limiter(limits=FOUR)
    await limiter.report("OpenAI", "GPT-4o", Outcome.TIMEOUT)
    assert await limit_of(limiter) == 2
    await limiter.call(limiter.client.operator.penalize, "OPENAI", "GPT-4O", "timeout")
    assert (await limiter.health("openAI", "gpt-4O")).penalty == pytest.approx(2.0, abs=0.1)


@pytest.mark.covers("AL-20")
async def test_accounts_learn_apart_and_nobody_sees_whose_they_are(make_limiter, store, caplog) -> None:
    """The label of an account is in no key, no value, no log and no status."""
    secret = "sk-proj-0123456789abcdef"
    caplog.set_level(logging.DEBUG)
    one = make_limiter(limits=FOUR, credential=secret)
    two = make_limiter(limits=FOUR, credential="another")
    async with one.acquire(*MODEL):
        await one.report(*MODEL, "throttled", retry_after=20)
    await two.hold(*MODEL)
    await one.report(*MODEL, "quota")
    assert (await limit_of(one), await limit_of(two)) == (1, 4)
    assert (await one.try_acquire(*MODEL)).reason == "quota"
    assert await two.try_acquire(*MODEL)
    await one.call(one.client.operator.resume, "openai", reason="paid")
    assert await one.try_acquire(*MODEL)
    status = await one.status()
    seen = [str(status), repr(status), repr(status.to_dict()), repr(one.client), repr(await one.health(*MODEL))]
    seen += [repr(await one.instances()), repr(await one.limits()), caplog.text]
    for key in store.keys("*"):
        seen += [repr(key), repr(store.dump(key))]
    assert not [text[:80] for text in seen if secret in text or "0123456789abcdef" in text]


class ManagedStream(Stream):
    """A stream that closes itself where its `with` is left, as those of SDKs do."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


class AsyncManagedStream(AsyncStream):
    """As ManagedStream, for event loops."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self.aclose()


@pytest.mark.faults
@pytest.mark.covers("AL-16")
async def test_only_a_call_that_went_well_at_once_lets_a_limit_grow(make_limiter, caplog) -> None:
    """Not one that succeeded after a failure, nor an aborted stream; one of its own kind does."""
    limits = {SCOPE: Limits(concurrency=4, strategy=Parallelism(recovery_interval=0.5))}
    limiter = make_limiter(limits=limits)
    leases = await limiter.hold(*MODEL, 4)

    async def next_interval() -> int:
        """The limit after an interval in which all was in use."""
        while len(leases) < 4:
            leases.extend(await limiter.hold(*MODEL))
        await asyncio.sleep(0.55)
        return await limit_of(limiter)

    await leases.pop().release(clean=False)
    assert await next_interval() == 4
    own = ManagedStream if limiter.is_sync else AsyncManagedStream
    for left in ("closed", "with", "with its own"):
        source = own("abc") if left == "with its own" else limiter.stream("abc")
        stream = leases.pop().wrap_stream(source)
        if left == "closed":
            assert await anext(stream) == "a"
            await stream.close()
        else:
            async with stream:
                assert await anext(stream) == "a"
        assert await next_interval() == 4, left
    stream = leases.pop().wrap_stream(limiter.stream("abc"))
    assert [item async for item in stream] == ["a", "b", "c"]
    assert await next_interval() == 5


@pytest.mark.covers("AL-39")
async def test_waits_and_refusals_of_our_own_teach_nothing(make_limiter) -> None:
    """A queue's timeout, a refusal, an open breaker, whatever is raised by them inside another lease, or reported."""
    limits = {
        SCOPE: Limits(concurrency=16, strategy=["parallelism", "penalty"]),
        "openai/mini": Limits(concurrency=1, strategy=["parallelism", "breaker"]),
    }
    limiter = make_limiter(limits=limits)
    await limiter.hold("openai", "mini")
    assert not await limiter.try_acquire("openai", "mini")
    for _ in range(6):
        with pytest.raises(WaitTimeout):
            async with limiter.acquire(*MODEL):
                await limiter.acquire("openai", "mini", timeout=0.01)
    with pytest.raises(LeaseLost):
        async with limiter.acquire(*MODEL):
            raise LeaseLost("gone")
    with pytest.raises(asyncio.CancelledError):
        async with limiter.acquire(*MODEL):
            raise asyncio.CancelledError
    for outcome in (Outcome.CANCELLED, Outcome.IGNORED, Outcome.UNSENT):
        assert not await limiter.report(*MODEL, outcome)
        await (await limiter.acquire(*MODEL)).release(outcome)
    for model in ("gpt-4o", "mini"):
        health = await limiter.health("openai", model)
        assert (health.healthy, health.limit, health.reason) == (True, {"gpt-4o": 16, "mini": 1}[model], "initial")
    for _ in range(5):
        await limiter.report("openai", "mini", "error")
    refused = [await limiter.try_acquire("openai", "mini") for _ in range(8)]
    assert {refusal.reason for refusal in refused} == {"failing"}
    reaction = await limiter.reaction("openai/mini")
    assert (reaction.breaker.state, len(reaction.events)) == ("open", 1)
    with pytest.raises(WaitTimeout, match="have failed in a row") as raised:
        await limiter.acquire("openai", "mini", timeout=0.05)
    assert raised.value.dimension == "breaker"
    assert 25 < raised.value.retry_after <= 30


@pytest.mark.covers("AL-39", "RT-01")
async def test_a_full_pool_of_this_process_is_no_failure_of_the_provider(make_limiter) -> None:
    """It is tried again, and stays charged: another call under the same lease may have been sent."""
    limits = {SCOPE: Limits(rpm=60, strategy=["penalty", "breaker"])}
    limiter = make_limiter(limits=limits, retry=Retry(max_retries=5, base=0.001, cap=0.01))
    full = [error("httpx:PoolTimeout"), error("openai:APITimeoutError")] * 3
    for each in full[1::2]:
        each.__cause__ = full[0]
    work = Failing(*full[:5])
    assert await BothTarget(limiter).call(work) == "fine"
    assert work.calls == 6
    assert not await limiter.report(*MODEL, classify(full[0]))
    health = await limiter.health(*MODEL)
    assert (health.healthy, health.reason) == (True, "initial")
    assert (await limiter.reaction(SCOPE)).breaker is None
    assert await limiter.used(SCOPE, "requests/60s") == 6


@pytest.mark.covers("RT-14")
async def test_a_caller_that_does_not_try_again_makes_all_pause_all_the_same(make_limiter) -> None:
    """Its error is its own; the wish of the provider is everybody's."""
    one, two = make_limiter(limits=FOUR), make_limiter(limits=FOUR)
    feedback = await (await one.acquire(*MODEL)).fail(REFUSED)
    assert feedback.retry_after == 1.5
    refusal = await two.try_acquire(*MODEL)
    assert (refusal.reason, refusal.dimension, refusal.scope) == ("paused", "pause", SCOPE)
    assert 1.0 < refusal.retry_after <= 1.5
    with pytest.raises(WaitTimeout, match="openai/gpt-4o is paused; room is expected in 1"):
        await two.acquire(*MODEL, timeout=0.5)


async def test_an_operator_weighs_in_and_forgives(make_limiter) -> None:
    """By hand, without any failure; half of it, then all."""
    limiter = make_limiter(limits={SCOPE: Limits(concurrency=9, strategy=Penalty(half_life=3600))})
    await (await limiter.acquire(*MODEL)).release()
    operator = limiter.client.operator
    await limiter.call(operator.penalize, *MODEL, "rate_limit", reason="their status page")
    assert await limit_of(limiter) == 3
    await limiter.call(operator.forgive, *MODEL, keep=0.5)
    assert ((await limiter.health(*MODEL)).penalty, await limit_of(limiter)) == (pytest.approx(1.0, abs=0.01), 4)
    await limiter.call(operator.forgive, *MODEL)
    health = await limiter.health(*MODEL)
    assert (health.penalty, health.limit, health.healthy) == (0.0, 9, True)
    deeds = await limiter.call(operator.journal)
    assert [(deed.verb, deed.what, deed.reason) for deed in deeds] == [
        ("forgive", "0", ""),
        ("forgive", "500", ""),
        ("penalize", "rate_limit", "their status page"),
    ]


@pytest.mark.covers("PE-04")
async def test_a_cause_that_nobody_knows_is_refused_with_those_that_are(make_limiter) -> None:
    """By client and operator alike, and nothing is raised; a scope may know causes of its own."""
    limits = {**FOUR, "openai/own": Limits(concurrency=4, strategy=Penalty(weights={"refusal": 1.0}))}
    limiter = make_limiter(limits=limits)
    await (await limiter.acquire(*MODEL)).release()
    penalize = limiter.client.operator.penalize
    for told in (limiter.report(*MODEL, "other"), limiter.call(penalize, *MODEL, "other")):
        with pytest.raises(ConfigError, match="'other': known are rate_limit, capacity, timeout, schema_violation"):
            await told
    for model in ("gpt-4o", "unused"):
        with pytest.raises(ConfigError, match=r"'throtled'.*Outcomes are .*throttled.*: did you mean throttled\?"):
            await limiter.report("openai", model, "throtled")
    with pytest.raises(ConfigError, match=r"known are rate_limit, .* did you mean capacity\?$") as raised:
        await limiter.call(penalize, *MODEL, "capacities")
    assert "Outcomes" not in str(raised.value)
    health = await limiter.health(*MODEL)
    assert (health.penalty, health.reason) == (0.0, "initial")
    assert await limiter.report("openai", "own", "refusal")
    assert await limit_of(limiter, "own") == 2
    with pytest.raises(ConfigError, match="needs a scope with limits that has been used"):
        await limiter.call(penalize, "anthropic", None, "capacity")


@pytest.mark.covers("PE-07")
async def test_penalties_are_a_providers_own_and_everybodys(make_limiter) -> None:
    """Two at once are both counted, causes whatever the epoch; the other provider has none."""
    limits = {"anthropic": Limits(concurrency=8), "openai": Limits(concurrency=8)}
    one, two = make_limiter(limits=limits), make_limiter(limits=limits)
    await asyncio.gather(*(each.report("anthropic", "claude", "rate_limit") for each in (one, two)))
    assert (await two.health("anthropic", "claude")).penalty == pytest.approx(4.0, abs=0.3)
    assert (await two.health("openai", "gpt-4o")).penalty == 0


# ---- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, options, said",
    [
        (("openai", "gpt-4o", "429"), {}, "outcome must be one of cancelled, error, ignored, ok"),
        (("openai", "gpt-4o", ""), {}, "outcome must be one of"),
        (("openai", "gpt-4o", "x" * 10**6), {}, "outcome must be one of"),
        (("openai", "gpt-4o", "Capacity"), {}, "outcome must be one of"),
        (("openai", "gpt-4o", None), {}, "outcome must be an Outcome or a Feedback, not None"),
        (("openai", "gpt-4o", 429), {}, "outcome must be an Outcome or a Feedback, not 429: write one of Outcome.OK,"),
        (("", "gpt-4o", "throttled"), {}, "provider is empty"),
        (("openai", "x" * 10**6, "throttled"), {}, "model"),
        (("openai", "gpt-4o", "throttled"), {"id": ""}, "id of a report must be text of 1 to 128"),
        (("openai", "gpt-4o", "throttled"), {"id": "x" * 10**6}, "id of a report"),
        (("openai", "gpt-4o", "throttled"), {"id": 7}, "id of a report"),
        (("openai", "gpt-4o", "throttled"), {"id": "\udcff"}, "id of a report"),
        (("openai", "gpt-4o", "throttled"), {"retry_after": -1}, "retry_after must be seconds from 0 or a timedelta"),
        (("openai", "gpt-4o", "throttled"), {"retry_after": math.nan}, "retry_after must be seconds"),
        (("openai", "gpt-4o", "throttled"), {"retry_after": "2"}, "retry_after must be seconds"),
        (("openai", "gpt-4o", "ok"), {"response": math.inf}, "response must be seconds from 0"),
        (("openai", "gpt-4o", "ok"), {"response": -0.1}, "response must be seconds"),
        (("openai", "gpt-4o", "ok"), {"response": timedelta.max}, "response must be seconds"),
    ],
)
async def test_a_report_that_says_nothing_readable_is_refused(make_limiter, arguments, options, said) -> None:
    """Before anything is sent, in a message of bounded length."""
    limiter = make_limiter(limits=FOUR)
    with pytest.raises(ConfigError, match=said) as raised:
        await limiter.report(*arguments, **options)
    assert len(str(raised.value)) < 400
    assert (await limiter.status()).scopes == ()


class _Hostile:
    def __getattr__(self, name: str) -> object:
        raise RuntimeError(name)


LONG_AGO, FAR_AHEAD = "Thu, 01 Jan 1970 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT"


@pytest.mark.parametrize(
    "headers, paused",
    [
        ({"retry-after": "x" * 10**6}, 0),
        ({"x" * 10**6: "5"}, 0),
        ({f"x-{n}": "5" for n in range(10_000)}, 0),
        ({"retry-after": "-5"}, 0),
        ({"retry-after": "inf"}, 0),
        ({"retry-after": "nan"}, 0),
        ({"retry-after": "1e9"}, 0),
        ({"retry-after": "\x00\xff\r\n2"}, 0),
        ({"retry-after": None, b"retry-after": b"\xff"}, 0),
        ({"retry-after": LONG_AGO}, 0),
        ({"retry-after": FAR_AHEAD}, 300),
        ({"retry-after": "9" * 20}, 300),
        ({"retry-after-ms": "999999999"}, 300),
        ("retry-after: 5", 0),
        (_Hostile(), 0),
        (7, 0),
    ],
    ids=lambda value: repr(value)[:30],
)
async def test_hostile_headers_never_pause_beyond_the_cap(make_limiter, headers, paused) -> None:
    """They are a 429 like any other, which cuts once."""
    limiter = make_limiter(limits=FOUR)
    assert await limiter.report(*MODEL, "throttled", headers=headers)
    health = await limiter.health(*MODEL)
    assert (health.limit, health.recent_429s) == (1, 1)
    assert health.paused_for == pytest.approx(paused, abs=5)


async def test_a_hint_without_end_is_cut_to_the_longest_pause(make_limiter) -> None:
    """However it is given, and to what the settings say."""
    limiter = make_limiter(limits=FOUR, max_pause=3.0)
    for outcome, retry_after in ((Feedback(Outcome.THROTTLED, math.inf), None), ("throttled", math.inf)):
        await limiter.report(*MODEL, outcome, retry_after=retry_after)
        assert 2 < (await limiter.health(*MODEL)).paused_for <= 3
    await limiter.report(*MODEL, "throttled", retry_after=timedelta(days=999_999))
    assert 2 < (await limiter.health(*MODEL)).paused_for <= 3


async def test_a_release_with_what_is_no_outcome_leaves_the_lease_as_it_was(make_limiter) -> None:
    """The caller's mistake costs neither the slot for ever nor the word of the next release."""
    limiter = make_limiter(limits=FOUR)
    [lease] = await limiter.hold(*MODEL)
    for wrong, said in (
        ("throttled", "write Outcome.THROTTLED"),
        ("gone", "write one of Outcome.OK, Outcome.THROTTLED, "),
        (ValueError(), r"lease.fail\(error\) takes what was raised"),
    ):
        with pytest.raises(ConfigError, match=f"must be an Outcome or a Feedback, not .*: {said}"):
            await lease.release(wrong)
    with pytest.raises(ConfigError, match="hold must be seconds from 0 to 600 or a timedelta, not -1"):
        await limiter.call(lease.lease.release, hold=-1)
    assert (lease.valid, await limiter.in_flight(SCOPE)) == (True, 1)
    await lease.fail(_Hostile())
    assert (lease.valid, await limiter.in_flight(SCOPE)) == (False, 0)
    assert (await limiter.health(*MODEL)).healthy
