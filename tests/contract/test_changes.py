"""on_change: every process hears of every changed limit, once."""

import asyncio
import logging

import pytest

from ratelease import Limits
from ratelease.errors import ConfigError
from ratelease.strategies import Parallelism, Penalty
from support.wait_until import wait_until_async

MODEL = ("openai", "gpt-4o")
KEY = "m:openai:gpt-4o"
SIXTEEN = {"openai/gpt-4o": Limits(concurrency=16, strategy="parallelism")}


async def told(heard, count) -> None:
    await wait_until_async(lambda: len(heard) >= count, description=f"{count} changes are heard of")


@pytest.mark.covers("AL-27")
async def test_each_change_is_told_once_to_every_client(make_limiter, store) -> None:
    """With its scope, both limits and why; failures of one episode are one change, and no change is none."""
    one, two = make_limiter(limits=SIXTEEN), make_limiter(limits=SIXTEEN)
    here, there, twice = [], [], []
    one.client.on_change(here.append)
    end = two.client.on_change(there.append)
    first, second = two.client.on_change(twice.append), two.client.on_change(twice.append)
    first()
    first()
    await one.until_subscribed(store, 2)
    for _ in range(3):
        await one.report(*MODEL, "throttled")
    lease = await one.acquire(*MODEL)
    await lease.fail(TimeoutError())
    await one.report(*MODEL, "error")
    await told(there, 2)
    await told(twice, 2)
    assert [(change.scope, change.key, change.before, change.after, change.reason) for change in there] == [
        ("openai/gpt-4o", KEY, 16, 11, "429 rate limit error"),
        ("openai/gpt-4o", KEY, 11, 10, "timeout error"),
    ]
    assert twice == there, "the same function by its second subscription"
    end()
    end()
    second()
    await (await two.acquire(*MODEL)).fail({"status": 429})
    await told(here, 3)
    assert (here[:2], len(there)) == (there, 2), "nothing after unsubscribing"
    assert here[2].to_dict() == {
        "scope": "openai/gpt-4o",
        "key": KEY,
        "before": 10,
        "after": 7,
        "reason": "429 rate limit error",
    }


@pytest.mark.covers("AL-27")
async def test_recovery_is_a_change_too(make_limiter, store) -> None:
    """Told by whoever notices first, once."""
    limits = {"openai/gpt-4o": Limits(concurrency=4, strategy=Parallelism(recovery_interval=0.3))}
    limiter = make_limiter(limits=limits)
    heard = []
    limiter.client.on_change(heard.append)
    await limiter.until_subscribed(store)
    await limiter.report(*MODEL, "throttled")

    async def recovered() -> bool:
        await (await limiter.acquire(*MODEL)).release()
        return heard[-1:] and heard[-1].after == 4

    await wait_until_async(recovered, description="the limit is back")
    limits = [change.before for change in heard] + [4]
    # On a busy machine two steps may be noticed together.
    assert limits in ([4, 2, 3, 4], [4, 2, 4])
    assert [change.after for change in heard] == limits[1:]
    assert [change.reason for change in heard] == ["429 rate limit error", *["recovery"] * (len(heard) - 1)]


@pytest.mark.covers("AL-27")
async def test_what_operators_do_to_a_limit_is_told_at_once(make_limiter, store) -> None:
    """Where nobody else calls, and neither poll nor heartbeat comes for long."""
    limits = {"openai/gpt-4o": Limits(concurrency=8, strategy=Penalty(half_life=3600))}
    limiter = make_limiter(limits=limits, poll=9.0, lease_ttl=30.0, heartbeat=15.0)
    heard = []
    limiter.client.on_change(heard.append)
    await limiter.until_subscribed(store)
    await (await limiter.acquire(*MODEL)).release()
    operator = limiter.client.operator
    await limiter.call(operator.penalize, *MODEL, "timeout")
    await told(heard, 1)
    await limiter.call(operator.forgive, *MODEL)
    await told(heard, 2)
    assert [(change.scope, change.before, change.after) for change in heard] == [
        ("openai/gpt-4o", 8, 4),
        ("openai/gpt-4o", 4, 8),
    ]


@pytest.mark.covers("AL-28")
async def test_a_429_at_the_floor_changes_nothing_and_tells_nobody(make_limiter, store) -> None:
    """The limit is 1 before and after."""
    limiter = make_limiter(limits={"openai/gpt-4o": Limits(concurrency=1, strategy="parallelism")})
    heard = []
    limiter.client.on_change(heard.append)
    await limiter.until_subscribed(store)
    await (await limiter.acquire(*MODEL)).fail({"status": 429})
    await limiter.report("openai", "gpt-4o", "timeout")
    # What is told afterwards shows that all before it has come.
    store.publish(f"{limiter.client._rt.keyspace.inbox_prefix}everyone", "t 9 8 t")
    await told(heard, 1)
    assert [change.scope for change in heard] == ["total"]
    assert len((await limiter.reaction("openai/gpt-4o")).events) == 1


@pytest.mark.covers("AL-27")
@pytest.mark.parametrize("error", [RuntimeError("mine"), SystemExit(3), asyncio.CancelledError()], ids=type)
async def test_a_callback_that_raises_ends_nothing(make_limiter, store, caplog, error) -> None:
    """Neither the other callbacks nor the thread they are called from; it is logged, and so is the cut."""
    caplog.set_level(logging.INFO)
    limiter = make_limiter(limits=SIXTEEN)
    heard = []

    def broken(_change) -> None:
        raise error

    limiter.client.on_change(broken)
    limiter.client.on_change(heard.append)
    await limiter.until_subscribed(store)
    await limiter.report(*MODEL, "throttled")
    await told(heard, 1)
    assert "on_change raised" in caplog.text
    assert "the limit of 'openai/gpt-4o' is 11, it was 16: 429 rate limit error" in caplog.text
    async with limiter.acquire(*MODEL) as lease:
        assert lease.valid


async def test_a_client_that_is_closed_or_given_no_function_says_so(make_limiter) -> None:
    """Before anything is sent."""
    limiter = make_limiter(limits=SIXTEEN)
    with pytest.raises(ConfigError, match="on_change needs a function, not 'print'"):
        limiter.client.on_change("print")

    async def nobody_awaits(_change) -> None:
        """Would never run."""

    with pytest.raises(ConfigError, match="on_change needs a function that is not async"):
        limiter.client.on_change(nobody_awaits)
    await limiter.close()
    with pytest.raises(ConfigError, match="closed"):
        limiter.client.on_change(print)
