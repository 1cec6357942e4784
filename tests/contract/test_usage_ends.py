"""Watches of a provider's usage that end, and what their callbacks may do to the rest."""

import asyncio
import threading

import pytest

from ratelease import Limits, ProviderUsage
from ratelease.errors import ConfigError
from support.wait_until import wait_until_async

TWO = {"openai": Limits(concurrency=2)}
SLOW = {"strict": True, "repoll": 1.0, "timeout": 60.0, "cooldown": 0.0}


async def poller_of(limiter) -> str:
    """Who polls for all; '' for nobody."""
    found = (await limiter.status()).scope("openai")
    assert found is not None
    assert found.usage is not None
    return found.usage.poller


async def elect(limiter, count: int = 1) -> list:
    """Watch so many providers, each with a poll made; returns what ends the watches."""
    asked: set[int] = set()

    def source(number: int) -> ProviderUsage:
        asked.add(number)
        return ProviderUsage(0)

    ends = []
    for number in range(count):
        name = "openai" if number == 0 else f"p{number}"
        ends.append(limiter.client.watch_usage(name, lambda number=number: source(number), **SLOW))
    await wait_until_async(lambda: len(asked) == count, description="each was polled")
    return ends


@pytest.mark.covers("UG-11")
async def test_a_watch_that_is_ended_right_before_the_client_closes_is_left(make_limiter) -> None:
    """What the end has begun in the background is made by the close."""
    first, second = make_limiter(limits=TWO), make_limiter(limits=TWO)
    async with second.acquire("openai", "gpt-4o"):
        pass
    (end,) = await elect(first)
    assert await poller_of(second) != ""
    loop = first.client._rt.keeper._loop
    held_up, go_on = threading.Event(), threading.Event()
    # Both are heard in the same turn of the loop.
    loop.call_soon_threadsafe(lambda: (held_up.set(), go_on.wait(5)))
    held_up.wait(5)
    end()
    closing = asyncio.create_task(first.close())
    await asyncio.sleep(0.05)
    go_on.set()
    await closing
    assert await poller_of(second) == ""


@pytest.mark.covers("UG-11", "LS-10")
async def test_watches_that_begin_and_end_while_the_client_closes_disturb_nothing(make_limiter, caplog) -> None:
    """The lease is given back, and no error is told."""
    first, second = make_limiter(limits=TWO), make_limiter(limits=TWO)
    await first.acquire("openai", "gpt-4o")
    ends = await elect(first, 20)
    keeper = first.client._rt.keeper
    closing = threading.Thread(target=keeper.close)
    closing.start()
    for end in ends[::-1]:
        end()
    await asyncio.to_thread(closing.join, 5.0)
    assert await second.in_flight("openai") == 0
    assert not keeper._thread.is_alive()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.covers("UG-13")
@pytest.mark.parametrize("error", [SystemExit(3), asyncio.CancelledError()], ids=type)
async def test_on_error_may_raise_anything(make_limiter, error) -> None:
    """The leases of the client are renewed from the same loop."""
    limiter, asked = make_limiter(limits=TWO), []

    def source() -> None:
        asked.append(1)
        raise ValueError

    def broken(_error: Exception) -> None:
        raise error

    limiter.client.watch_usage("openai", source, strict=True, repoll=0.05, timeout=0.2, on_error=broken)
    await wait_until_async(lambda: len(asked) >= 2, description="it polls on")
    assert limiter.client._rt.keeper._thread.is_alive()


@pytest.mark.covers("UG-13")
@pytest.mark.parametrize(
    "answer, told",
    [
        (3, "it must return a ProviderUsage or None, not int"),
        ({"in_flight": 3}, "it must return a ProviderUsage or None, not dict"),
        (ProviderUsage(-1), "concurrent_sessions must be a number from 0 to 1,000,000,000, which that of its Provider"),
    ],
)
async def test_a_source_that_returns_no_usage_is_told_so(make_limiter, caplog, answer, told) -> None:
    """One line in the log, and a TypeError for on_error each time; None is an answer."""
    limiter, errors, answers = make_limiter(limits=TWO), [], []

    def source() -> object:
        answers.append(answer if answers else None)
        return answers[-1]

    limiter.client.watch_usage("openai", source, strict=True, repoll=0.02, on_error=errors.append)
    await wait_until_async(lambda: len(errors) >= 2, timeout=8.0, description="two answers are refused")
    assert {type(error) for error in errors} == {TypeError}
    assert all(str(error).startswith(told) for error in errors)
    assert len(errors) <= len([each for each in answers if each is not None])
    assert len([record for record in caplog.records if told in record.getMessage()]) == 1


async def test_a_watch_without_a_limit_to_hold_is_told_of(make_limiter, caplog) -> None:
    """A limit of a model is none of the provider; one that is followed, or that failures cut, will do."""
    without = make_limiter(limits={"openai/gpt-4o": Limits(concurrency=2), "vllm": Limits(rpm=5)})
    for provider in ("openai", "vllm"):
        without.client.watch_usage(provider, lambda: None)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [warning.partition(":")[0] for warning in warnings] == [
        "watch_usage('openai') gates nobody",
        "watch_usage('vllm') gates nobody",
    ]
    caplog.clear()
    make_limiter().client.watch_usage("openai", lambda: None, follow_limit=True)
    make_limiter(limits=TWO).client.watch_usage("openai", lambda: None)
    make_limiter(limits={"openai": Limits(strategy="parallelism")}).client.watch_usage("openai", lambda: None)
    assert "gates nobody" not in caplog.text


async def test_an_on_error_that_nobody_awaits_is_refused(make_limiter) -> None:
    """A coroutine function would never run."""

    async def nobody_awaits(_error: Exception) -> None:
        """Would never run."""

    with pytest.raises(ConfigError, match="on_error must be a function that is not async"):
        make_limiter(limits=TWO).client.watch_usage("openai", lambda: None, on_error=nobody_awaits)


async def test_everything_that_is_wrong_with_a_watch_is_told_at_once(make_limiter) -> None:
    """The name of the provider among it."""
    with pytest.raises(ConfigError) as raised:
        make_limiter(limits=TWO).client.watch_usage("", 5, admit="x")  # type: ignore[arg-type]
    for part in ("provider", "get_usage", "admit"):
        assert part in str(raised.value)


async def test_a_time_outside_its_range_is_told_the_range(make_limiter) -> None:
    """Also one below 0: none of them is for ever."""
    with pytest.raises(ConfigError, match=r"repoll must be seconds from 0.01 to 3600 or a timedelta, not -1"):
        make_limiter(limits=TWO).client.watch_usage("openai", lambda: None, repoll=-1)
