"""A client that watches what a provider says it has in flight."""

import asyncio
import functools
import logging
import threading
import time

import pytest

from ratelease import Limits, ProviderUsage
from ratelease.errors import ConfigError
from support.wait_until import wait_until_async

# Real time, and much of it.
pytestmark = pytest.mark.faults

TWO = {"openai": Limits(concurrency=2)}
QUICK = {"repoll": 0.05, "timeout": 0.2, "cooldown": 0.0}


class Counter:
    """A provider's own count, and how often it was asked for."""

    def __init__(self, count: object) -> None:
        self.count, self.polls = count, 0

    def get_usage(self) -> object:
        self.polls += 1
        if isinstance(self.count, Exception):
            raise self.count
        return self.count if self.count is None else ProviderUsage(self.count)  # type: ignore[arg-type]


class AsyncCounter(Counter):
    async def get_usage(self) -> object:  # type: ignore[override]
        return super().get_usage()


class Callable(Counter):
    def __call__(self) -> object:
        return self.get_usage()


class AsyncCallable(Counter):
    async def __call__(self) -> object:
        return Counter.get_usage(self)

    get_usage = None  # type: ignore[assignment]


async def usage_of(limiter):
    """What people see of the provider's usage; None before it is watched, or before anybody has called."""
    found = (await limiter.status()).scope("openai")
    return found.usage if found else None


async def until_polled(counter: Counter, times: int = 1) -> None:
    """Return when the source was asked so often."""
    await wait_until_async(lambda: counter.polls >= times, description=f"{times} polls")


async def take_all_and_wait(limiter) -> asyncio.Task:
    """Hold both slots, and let one more wait."""
    await limiter.hold("openai", "gpt-4o", 2)
    waiter = asyncio.create_task(limiter.hold("openai", "gpt-4o"))
    await limiter.until_waiting(1)
    return waiter


@pytest.mark.covers("UG-01", "UG-02")
@pytest.mark.parametrize("kind", [Counter, AsyncCounter, Callable, AsyncCallable])
async def test_any_source_that_can_be_asked_gates_who_waits(make_limiter, kind) -> None:
    """A method, a function or an object, plain or a coroutine: 2 of 2 keeps the waiter, 1 lets it go."""
    limiter, counter = make_limiter(limits=TWO), kind(2)
    limiter.client.watch_usage("openai", counter, **QUICK)
    waiter = await take_all_and_wait(limiter)
    await until_polled(counter, 2)
    await limiter.held[0].release()
    await until_polled(counter, counter.polls + 3)
    assert not waiter.done()
    counter.count = 1
    await asyncio.wait_for(waiter, 2.0)


@pytest.mark.covers("UG-01")
async def test_a_plain_function_and_a_partial_coroutine_are_sources_too(make_limiter) -> None:
    """What they return is read by its names: a mapping does as well."""
    limiter = make_limiter(limits=TWO)

    async def ask(count: int) -> dict[str, int]:
        return {"concurrent_sessions": count, "limit": 8}

    await limiter.hold("openai", "gpt-4o")
    end = limiter.client.watch_usage("openai", functools.partial(ask, 1), strict=True, **QUICK)
    await wait_until_async(lambda: _shows(limiter, 1), description="the partial has answered")
    end()
    limiter.client.watch_usage("openai", lambda: {"concurrent_sessions": 0}, strict=True, **QUICK)
    await wait_until_async(lambda: _shows(limiter, 0), description="the function has answered")


async def _shows(limiter, count: int) -> bool:
    usage = await usage_of(limiter)
    return usage is not None and usage.in_flight == count


@pytest.mark.covers("UG-01")
@pytest.mark.parametrize(
    "arguments,named",
    [
        (("openai", 3), ["get_usage"]),
        (("", Counter(0)), ["provider"]),
    ],
)
async def test_a_wrong_source_or_provider_is_refused(make_limiter, arguments, named) -> None:
    """By one error, before anything is watched."""
    limiter = make_limiter(limits=TWO)
    with pytest.raises(ConfigError) as refused:
        limiter.client.watch_usage(*arguments)
    assert all(name in str(refused.value) for name in named)


@pytest.mark.covers("UG-01")
async def test_all_wrong_settings_are_named_together_and_a_second_watch_is_refused(make_limiter) -> None:
    """Another credential, or the same provider once the watch is over, may be watched."""
    limiter = make_limiter(limits=TWO)
    with pytest.raises(ConfigError) as refused:
        limiter.client.watch_usage(
            "openai",
            Counter(0),
            admit="all",
            repoll=0,
            timeout=-1,
            cooldown=1e9,
            hold=float("nan"),
            strict=1,
            on_error=3,
        )
    for name in ("admit", "repoll", "timeout", "cooldown", "hold", "strict", "on_error"):
        assert name in str(refused.value)
    end = limiter.client.watch_usage("openai", Counter(0))
    with pytest.raises(ConfigError, match="watched already"):
        limiter.client.watch_usage("OpenAI", Counter(0))
    end()
    end()
    limiter.client.watch_usage("openai", Counter(0))


@pytest.mark.covers("UG-04")
async def test_without_a_source_the_cooldown_alone_decides(make_limiter, store) -> None:
    """Nothing is polled, and status says nothing of usage."""
    limiter = make_limiter(limits={"openai": Limits(concurrency=1, cooldown=0.2)})
    held = (await limiter.hold("openai", "gpt-4o"))[0]
    waiter = asyncio.create_task(limiter.hold("openai", "gpt-4o"))
    await limiter.until_waiting(1)
    await held.release()
    began = time.monotonic()
    await asyncio.wait_for(waiter, 2.0)
    assert 0.15 <= time.monotonic() - began <= 0.5
    assert await usage_of(limiter) is None
    assert [key for key in store.keys("*") if key.endswith(b":learned")] == []


@pytest.mark.covers("UG-06", "UG-10")
async def test_polls_are_made_while_somebody_waits_and_not_otherwise(make_limiter) -> None:
    """None for who has not waited; then one each 50 ms; none any more once nobody waits."""
    limiter, counter = make_limiter(limits=TWO), Counter(2)
    limiter.client.watch_usage("openai", counter, **QUICK)
    async with limiter.acquire("openai", "gpt-4o"):
        await asyncio.sleep(0.6)  # longer than an elected poller rests
    assert counter.polls == 0
    waiter = await take_all_and_wait(limiter)
    await until_polled(counter)
    before, began = counter.polls, time.monotonic()
    await until_polled(counter, before + 6)
    assert time.monotonic() - began >= 5 * 0.05
    counter.count = 0
    await limiter.held[0].release()
    await asyncio.wait_for(waiter, 2.0)
    await asyncio.sleep(0.1)
    at_rest = counter.polls
    await asyncio.sleep(0.5)
    assert counter.polls == at_rest


@pytest.mark.covers("UG-06")
async def test_a_strict_gate_polls_without_any_waiter_and_gates_the_first_who_comes(make_limiter) -> None:
    """2 of 2 are somebody else's: a try is refused by name."""
    limiter, counter = make_limiter(limits=TWO), Counter(2)
    limiter.client.watch_usage("openai", counter, strict=True, **QUICK)
    await until_polled(counter, 3)
    refused = await limiter.try_acquire("openai", "gpt-4o")
    assert (refused.scope, refused.dimension, refused.used, refused.limit) == ("openai", "usage", 2, 2)
    counter.count = 0
    await until_polled(counter, counter.polls + 2)
    assert await limiter.try_acquire("openai", "gpt-4o")


@pytest.mark.covers("UG-12", "RL-30")
@pytest.mark.parametrize("colour_of_source", ["plain", "coroutine", "stubborn"])
async def test_a_source_that_hangs_holds_nobody_up(make_limiter, colour_of_source) -> None:
    """It counts as unanswered after its timeout; leases go on; calls that hang are few, and the next one can answer."""
    limiter, errors = make_limiter(limits={**TWO, "other": Limits(concurrency=1)}), []
    hangs, asked, released = True, 0, threading.Event()

    def plain() -> ProviderUsage:
        nonlocal asked
        asked += 1
        if hangs:
            released.wait(20.0)
        return ProviderUsage(0)

    async def coroutine() -> ProviderUsage:
        nonlocal asked
        asked += 1
        while hangs:
            try:
                await asyncio.sleep(0.3 if colour_of_source == "stubborn" else 20.0)
            except asyncio.CancelledError:
                if colour_of_source == "coroutine":
                    raise
        return ProviderUsage(0)

    source = plain if colour_of_source == "plain" else coroutine
    limiter.client.watch_usage("openai", source, on_error=errors.append, **QUICK)
    waiter = await take_all_and_wait(limiter)
    await limiter.held[0].release()
    began = time.monotonic()
    await asyncio.wait_for(waiter, 2.0)
    assert time.monotonic() - began <= 1.0
    async with limiter.acquire("other", "llama", timeout=0.5):
        pass
    waiter = asyncio.create_task(limiter.hold("openai", "gpt-4o"))
    await wait_until_async(lambda: len(errors) >= 3, description="three polls were unanswered")
    assert {type(error) for error in errors} <= {TimeoutError, RuntimeError}
    assert asked <= 4 or colour_of_source == "coroutine"
    assert all(lease.valid for lease in limiter.held[1:])
    hangs = False
    released.set()
    await wait_until_async(lambda: _shows(limiter, 0), description="the source answers again", timeout=8)
    await limiter.held[1].release()
    await asyncio.wait_for(waiter, 2.0)


@pytest.mark.covers("UG-13", "UG-03", "UG-17", "RL-30")
async def test_a_source_that_raises_counts_as_unanswered(make_limiter, caplog) -> None:
    """Each error is told to on_error, one line is logged without its text; grants meanwhile are shown as blind."""
    limiter, errors = make_limiter(limits=TWO), []
    counter = Counter(ValueError("secret text"))
    with caplog.at_level(logging.INFO, logger="ratelease"):
        limiter.client.watch_usage("openai", counter, on_error=errors.append, **QUICK)
        waiters = [await take_all_and_wait(limiter)]
        waiters += [asyncio.create_task(limiter.hold("openai", "gpt-4o")) for _ in range(2)]
        await wait_until_async(lambda: len(errors) >= 2, description="two polls have failed")
        for number in range(3):
            await limiter.held[number].release()
            # Whichever of them was first in the queue.
            done, waiters = await asyncio.wait(waiters, timeout=2.0, return_when=asyncio.FIRST_COMPLETED)
            assert len(done) == 1
        usage = await usage_of(limiter)
        assert (usage.blind_grants, usage.in_flight, usage.active) == (3, None, True)
        told = [record.getMessage() for record in caplog.records if "usage source" in record.getMessage()]
        assert told == ["the usage source of 'openai' fails (ValueError): our own count decides"]
        counter.count = 1
        waiter = asyncio.create_task(limiter.hold("openai", "gpt-4o"))
        await wait_until_async(lambda: _shows(limiter, 1), description="the source answers again", timeout=8)
    assert any("answers again" in record.getMessage() for record in caplog.records)
    assert "secret text" not in caplog.text
    assert {str(error) for error in errors} == {"secret text"}
    waiter.cancel()


@pytest.mark.covers("UG-13", "RL-30")
async def test_rubbish_counts_as_unanswered(make_limiter) -> None:
    """Negative, far too large, text, no number, or an exception that would end a thread or a loop, in turn."""
    limiter, answers = (
        make_limiter(limits=TWO),
        [SystemExit(), StopIteration(), -1, 10**10, "2", float("nan"), True, [2]],
    )
    errors, asked = [], 0

    async def ask() -> object:
        nonlocal asked
        answer = answers[asked % len(answers)]
        asked += 1
        if isinstance(answer, BaseException):
            raise answer
        return {"concurrent_sessions": answer}

    limiter.client.watch_usage("openai", ask, on_error=errors.append, **{**QUICK, "timeout": 0.01})
    waiter = await take_all_and_wait(limiter)
    await wait_until_async(lambda: len(errors) >= 2, description="two of them were raised")
    await limiter.held[0].release()
    await asyncio.wait_for(waiter, 2.0)
    waiter = asyncio.create_task(limiter.hold("openai", "gpt-4o"))
    await wait_until_async(lambda: asked >= len(answers), description="all are told", timeout=10)
    assert TypeError in {type(error) for error in errors}
    usage = await usage_of(limiter)
    assert (usage.in_flight, usage.blind_grants) == (None, 1)
    waiter.cancel()


@pytest.mark.covers("UG-13", "RL-30")
async def test_a_count_that_is_far_too_high_keeps_out_only_who_waits_and_only_until_the_next(make_limiter) -> None:
    """A thousand million in flight is an answer. Live leases stay as they are."""
    limiter, counter = make_limiter(limits=TWO), Counter(10**9)
    limiter.client.watch_usage("openai", counter, **QUICK)
    waiter = await take_all_and_wait(limiter)
    await until_polled(counter, 2)
    assert all(lease.valid for lease in limiter.held)
    await limiter.held[0].release()
    await until_polled(counter, counter.polls + 3)
    assert not waiter.done()
    counter.count = 1
    await asyncio.wait_for(waiter, 2.0)


@pytest.mark.covers("UG-16")
async def test_the_providers_limit_is_followed_where_that_is_asked_for(make_limiter) -> None:
    """4 replaces 9, hard_cap is shown; off by default."""
    for follow, expected in ((True, 4), (False, 9)):
        limiter = make_limiter(limits={"openai": Limits(concurrency=9)})
        await limiter.hold("openai", "gpt-4o")
        end = limiter.client.watch_usage(
            "openai", lambda: ProviderUsage(1, 4, hard_cap=5), strict=True, follow_limit=follow, **QUICK
        )

        async def told(limiter=limiter, expected=expected) -> bool:
            scope = (await limiter.status()).scope("openai")
            return (
                scope is not None
                and scope.usage is not None
                and (scope.concurrency, scope.usage.limit) == (expected, 4)
            )

        await wait_until_async(told, description=f"the limit is {expected}")
        assert (await usage_of(limiter)).hard_cap == 5
        end()
        await limiter.close()


@pytest.mark.covers("UG-11")
async def test_a_client_that_closes_or_ends_its_watch_makes_room_for_the_next(make_limiter) -> None:
    """The other polls within the time that is left to the election, at the latest."""
    first, second = make_limiter(limits=TWO), make_limiter(limits=TWO)
    one, two = Counter(0), Counter(0)
    await second.hold("openai", "gpt-4o")
    first.client.watch_usage("openai", one, strict=True, **QUICK)
    await until_polled(one, 2)
    end = second.client.watch_usage("openai", two, strict=True, **QUICK)
    await asyncio.sleep(0.2)
    assert two.polls == 0
    await first.close()
    usage = await usage_of(second)
    assert usage.poller == ""
    began = time.monotonic()
    await until_polled(two, 2)
    assert time.monotonic() - began <= 1.5
    end()
    await asyncio.sleep(0.1)
    at_rest = two.polls
    await asyncio.sleep(0.3)
    assert two.polls == at_rest


@pytest.mark.covers("UG-11", "RL-30")
async def test_an_instance_whose_own_source_fails_lets_another_poll(make_limiter) -> None:
    """Its key is wrong, say: after three polls that said nothing whoever else watches is elected."""
    first, second = make_limiter(limits=TWO), make_limiter(limits=TWO)
    broken, good = Counter(None), Counter(1)
    await second.hold("openai", "gpt-4o")
    first.client.watch_usage("openai", broken, strict=True, **QUICK)
    await until_polled(broken)
    second.client.watch_usage("openai", good, strict=True, **QUICK)
    await until_polled(good, 3)
    assert broken.polls <= 2 * 3
    assert (await usage_of(second)).in_flight == 1
