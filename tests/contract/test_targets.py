"""The short ways to call a provider: a target, call, and the decorator."""

import asyncio
import functools
import gc
import inspect
import logging

import pytest

from ratelease import Limits, Usage
from ratelease.errors import ConfigError, WaitTimeout
from support.both import Limiter
from support.targets import BothTarget, in_colour
from support.wait_until import wait_until_async

LIMITS = {"openai/gpt-4o": Limits(concurrency=2, tpm=100_000), "openai": Limits(concurrency=5)}
TOKENS = "tokens/60s"


@pytest.fixture
def limiter(make_limiter) -> Limiter:
    """Two calls at once, and tokens."""
    return make_limiter(limits=LIMITS)


def ignore(*_: object, **__: object) -> None:
    """A call whose result is of no interest."""


def held(limiter: Limiter) -> int:
    """How many leases the client holds."""
    return len(limiter.client._rt.keeper.holds)


async def test_a_call_holds_a_lease_while_its_function_runs(limiter) -> None:
    """Arguments go in, the result comes out, and the slot is in use meanwhile and free afterwards."""
    seen = []

    def work(left: int, *, right: int) -> int:
        seen.append(held(limiter))
        return left + right

    assert await BothTarget(limiter).call(work, 3, right=4) == 7
    assert (seen, held(limiter), await limiter.in_flight("openai/gpt-4o")) == ([1], 0, 0)
    assert await limiter.call(limiter.client.call, "openai", "gpt-4o", in_colour(limiter, work), 3, right=5) == 8


async def test_an_error_of_the_function_comes_through_and_releases(limiter) -> None:
    """As it is, and it is counted as failed."""

    def work() -> None:
        raise LookupError("no such model")

    with pytest.raises(LookupError, match="no such model"):
        await BothTarget(limiter).call(work)
    assert await limiter.in_flight("openai/gpt-4o") == 0
    assert (limiter.client.stats().failed, limiter.client.stats().done) == (1, 0)


async def test_estimates_are_functions_of_the_arguments(limiter) -> None:
    """Of those that the wrapped function gets; what a target is given as a number stays that number."""
    by_prompt = BothTarget(limiter, tokens=lambda prompt, *, most=0: len(prompt) + most)
    await by_prompt.call(ignore, "x" * 300, most=40)
    assert await limiter.used("openai/gpt-4o", TOKENS) == 340
    decorated = by_prompt.limited(ignore)
    await by_prompt.run(decorated, "x" * 60)
    assert await limiter.used("openai/gpt-4o", TOKENS) == 400
    await BothTarget(limiter, input_tokens=len, output_tokens=5).call(ignore, "ab")
    assert await limiter.used("openai/gpt-4o", TOKENS) == 407


async def test_a_bad_estimate_sends_nothing(limiter) -> None:
    """Whether the function raises or returns what is no number of tokens; fn is not called."""
    calls: list[str] = []
    with pytest.raises(ConfigError, match="tokens must be a whole number"):
        await BothTarget(limiter, tokens=lambda prompt: len(prompt) / 4).call(calls.append, "abc")
    with pytest.raises(TypeError):
        await BothTarget(limiter, tokens=len).call(calls.append, 5)
    assert (calls, limiter.client.stats().admitted) == ([], 0)


async def test_a_target_acquires_with_what_it_was_made_with(limiter) -> None:
    """Weight, timeout and estimate are the target's, unless the call gives its own."""
    target = BothTarget(limiter, weight=2, timeout=0.05, tokens=70)
    lease = await target.acquire()
    assert await limiter.in_flight("openai/gpt-4o") == 2
    assert await limiter.used("openai/gpt-4o", TOKENS) == 70
    assert not await target.try_acquire()
    with pytest.raises(WaitTimeout):
        await target.acquire()
    await lease.release()
    await (await target.acquire(tokens=5, timeout=1)).release()
    assert await limiter.used("openai/gpt-4o", TOKENS) == 75
    by_prompt = BothTarget(limiter, tokens=len)
    with pytest.raises(ConfigError, match="tokens of this target is a function of the call's arguments"):
        await by_prompt.acquire()
    await (await by_prompt.try_acquire(input_tokens=1, output_tokens=2)).release()


@pytest.mark.parametrize("store_url", ["memory"], indirect=True)
async def test_a_wrong_target_is_refused_at_once(limiter) -> None:
    """Everything that is wrong is named in one error, before anything is called."""

    async def soon(result: object) -> int:
        return 1

    with pytest.raises(ConfigError) as caught:
        limiter.client.target(
            "", "gpt-4o", tokens=-1, input_tokens=soon, output_tokens="7", weight=0, timeout="x", usage=soon
        )
    message = str(caught.value)
    for part in ("provider", "weight", "timeout", "tokens must be", "input_tokens", "output_tokens", "usage", "total"):
        assert part in message
    assert repr(limiter.client.target("openai", "gpt-4o")).endswith("Target openai/gpt-4o>")


@pytest.mark.parametrize("store_url", ["memory"], indirect=True)
async def test_a_function_of_the_other_colour_is_refused(limiter) -> None:
    """With what to do instead. Nothing blocks the loop, no coroutine is left unawaited, no generator goes unlimited."""

    def plain() -> int:
        return 1

    async def soon() -> int:
        return 1

    def stream():
        yield 1

    target = limiter.client.target("openai", "gpt-4o")
    wrong = [soon, Callable(soon), 5, stream] if limiter.is_sync else [plain, lambda: 1, 5, stream]
    for fn in wrong:
        with pytest.raises(ConfigError, match=r"AsyncClient|cannot be awaited|must be a|decorate it with limited"):
            await limiter.call(target.call, fn)
    with pytest.raises(ConfigError):
        target.limited(soon if limiter.is_sync else stream)
    assert held(limiter) == 0


class Callable:
    """Something that is called, and does not show what comes of it."""

    def __init__(self, fn) -> None:
        self._fn = fn

    def __call__(self) -> object:
        return self._fn()


def logged(fn):
    """A decorator as there are many."""

    @functools.wraps(fn)
    def call(*arguments):
        return fn(*arguments)

    return call


@pytest.mark.parametrize("store_url", ["memory"], indirect=True)
@pytest.mark.parametrize("disguise", [logged, staticmethod, Callable, "returned"])
async def test_a_generator_in_disguise_is_refused(limiter, disguise) -> None:
    """What no look at the function tells, the generator that it returns does: nothing of it has run."""
    ran = []

    def stream():
        ran.append(held(limiter))
        yield 1

    async def stream_soon():
        ran.append(held(limiter))
        yield 1

    hidden = stream if limiter.is_sync else stream_soon
    fn = in_colour(limiter, Callable(hidden)) if disguise == "returned" else disguise(hidden)
    with pytest.raises(ConfigError, match=r"returned a generator that has not begun.*limited.*wrap_stream"):
        await limiter.call(limiter.client.target("openai", "gpt-4o").limited(fn))
    assert (ran, held(limiter)) == ([], 0)


@pytest.mark.parametrize("store_url", ["memory"], indirect=True)
async def test_a_generator_that_has_begun_may_be_handed_on(limiter) -> None:
    """Its call has been made under the lease. So has that of an expression over what was asked already."""

    def stream():
        asked.append(held(limiter))
        yield 1
        yield 2

    async def stream_soon():
        asked.append(held(limiter))
        yield 1
        yield 2

    def begin():
        began = stream()
        next(began)
        return began

    async def begin_soon():
        began = stream_soon()
        await anext(began)
        return began

    asked: list[int] = []
    target = limiter.client.target("openai", "gpt-4o")
    began = await limiter.call(target.call, begin if limiter.is_sync else begin_soon)
    assert (await limiter.next(began), asked) == (2, [1])
    rows = await limiter.call(target.call, in_colour(limiter, lambda: (row for row in range(3))))
    assert list(rows) == [0, 1, 2]


@pytest.mark.covers("AD-20")
async def test_a_decorated_function_is_what_it_was_and_limited(limiter) -> None:
    """Name, documentation, signature and kind are kept; methods work as well."""
    seen = []

    @limiter.client.limited("openai", "gpt-4o", tokens=10)
    @lambda fn: in_colour(limiter, fn)
    def ask(prompt: str, times: int = 2) -> str:
        """Ask it."""
        seen.append(held(limiter))
        return prompt * times

    assert (ask.__name__, ask.__doc__) == ("ask", "Ask it.")
    assert str(inspect.signature(ask)) == "(prompt: str, times: int = 2) -> str"
    assert inspect.iscoroutinefunction(ask) is not limiter.is_sync
    assert await limiter.call(ask, "ab", times=3) == "ababab"

    class Agent:
        name = "a"
        ask = limiter.client.target("openai", "gpt-4o").limited(in_colour(limiter, lambda self, x: self.name + x))

    assert await limiter.call(Agent().ask, "b") == "ab"
    assert (seen, held(limiter)) == ([1], 0)


class Streams:
    """A decorated generator, and what it has noticed."""

    def __init__(self, limiter: Limiter) -> None:
        self.limiter = limiter
        self.ended: list[str] = []

        def stream(count: int):
            try:
                yield from range(count)
            finally:
                self.ended.append("ended")

        target = BothTarget(limiter, tokens=lambda count: count)
        self.make = target.limited(stream)

    async def next(self, stream) -> object:
        """The next item; None at the end."""
        item = await self.limiter.next(stream)
        return item if isinstance(item, int) else None


async def test_a_decorated_generator_holds_its_lease_until_it_is_exhausted(limiter) -> None:
    """From the first item on, and charges what its arguments say."""
    streams = Streams(limiter)
    assert inspect.isgeneratorfunction(streams.make) or inspect.isasyncgenfunction(streams.make)
    stream = streams.make(3)
    assert held(limiter) == 0
    seen = []
    while (item := await streams.next(stream)) is not None:
        seen.append((item, held(limiter)))
    assert seen == [(0, 1), (1, 1), (2, 1)]
    assert held(limiter) == 0
    assert await limiter.used("openai/gpt-4o", TOKENS) == 3


async def test_a_decorated_generator_that_is_closed_or_dropped_releases(limiter) -> None:
    """And its own cleaning up has run."""
    streams = Streams(limiter)
    stream = streams.make(3)
    await streams.next(stream)
    await limiter.call(stream.close if limiter.is_sync else stream.aclose)
    assert (held(limiter), streams.ended) == (0, ["ended"])
    stream = streams.make(3)
    await streams.next(stream)
    assert await limiter.in_flight("openai/gpt-4o") == 1
    del stream
    gc.collect()
    await wait_until_async(lambda: held(limiter) == 0, description="the lease is given back")
    await wait_until_async(lambda: len(streams.ended) == 2, description="the generator was closed")


@pytest.mark.parametrize("store_url", ["memory"], indirect=True)
async def test_a_decorated_generator_passes_on_what_it_is_sent(limiter) -> None:
    """Values, errors and its return value, as without the decorator."""
    if limiter.is_sync:

        @limiter.client.limited("openai", "gpt-4o")
        def echo():
            got = "first"
            while got != "end":
                try:
                    got = yield got
                except KeyError:
                    got = "caught"
            return "returned"

        stream = echo()
        assert [next(stream), stream.send("a"), stream.throw(KeyError("k"))] == ["first", "a", "caught"]
        with pytest.raises(StopIteration) as stopped:
            stream.send("end")
        assert stopped.value.value == "returned"
    else:

        @limiter.client.limited("openai", "gpt-4o")
        async def echo_soon():
            got = "first"
            while got != "end":
                try:
                    got = yield got
                except KeyError:
                    got = "caught"

        soon = echo_soon()
        assert [await anext(soon), await soon.asend("a"), await soon.athrow(KeyError("k"))] == ["first", "a", "caught"]
        with pytest.raises(StopAsyncIteration):
            await soon.asend("end")
    assert held(limiter) == 0


@pytest.mark.parametrize("colour", ["async"], indirect=True)
async def test_a_cancelled_call_releases(limiter) -> None:
    """The function is cancelled, its lease released; where it was still waiting it is off the queue."""
    target = BothTarget(limiter)
    tasks = [asyncio.create_task(target.call(asyncio.sleep, 60)) for _ in range(3)]
    await limiter.until_waiting(1)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await wait_until_async(lambda: held(limiter) == 0, description="nothing is held")
    await limiter.until_waiting(0)

    # A freed slot may be handed to a waiter that is being withdrawn, and comes back with it.
    async def nothing_is_in_flight() -> bool:
        return await limiter.in_flight("openai/gpt-4o") == 0

    await wait_until_async(nothing_is_in_flight, description="nothing is in flight")


@pytest.mark.covers("UX-16")
@pytest.mark.parametrize("store_url", ["memory"], indirect=True)
async def test_a_client_counts_what_it_did(limiter) -> None:
    """Stats: admitted, done, failed, given up, in flight, waiting, and times."""
    assert limiter.client.stats().to_dict()["average_wait"] is None
    leases = await limiter.hold("openai", "gpt-4o", 2)
    waiting = asyncio.create_task(limiter.hold("openai", "gpt-4o"))
    await limiter.until_waiting(1)
    stats = limiter.client.stats()
    assert (stats.admitted, stats.in_flight, stats.waiting, stats.done) == (2, 2, 1, 0)
    await leases[0].release()
    await waiting
    stats = limiter.client.stats()
    assert (stats.admitted, stats.in_flight, stats.waiting, stats.done, stats.failed) == (3, 2, 0, 1, 0)
    assert stats.per_second > 0
    assert stats.average_wait is not None
    assert stats.average_wait > 0
    assert stats.average_held is not None
    assert stats.average_held > 0


# ---- settling ------------------------------------------------------------------------------------------------------


class Answer:
    """What an SDK returns."""

    def __init__(self, total: int) -> None:
        self.usage = {"prompt_tokens": total - 1, "completion_tokens": 1, "total_tokens": total}


async def until_used(limiter: Limiter, tokens: int) -> None:
    """Wait until so many tokens count."""

    async def charged() -> bool:
        return await limiter.used("openai/gpt-4o", TOKENS) == tokens

    await wait_until_async(charged, description=f"{tokens} tokens count")


@pytest.mark.covers("TK-03")
async def test_a_call_settles_by_what_its_result_reports(limiter) -> None:
    """Reserved 1000, used 120: 880 are free again. What reports nothing stays as it was estimated."""
    target = BothTarget(limiter, tokens=1000)
    await target.call(Answer, 120)
    await until_used(limiter, 120)
    await target.run(target.limited(Answer), 30)
    await until_used(limiter, 150)
    for result in ("text", 5, None, [1]):
        await target.call(lambda result=result: result)
    await until_used(limiter, 4150)


@pytest.mark.covers("TK-03")
async def test_a_usage_function_says_what_was_used(limiter) -> None:
    """As a number, a Usage or any SDK's object. One that raises is told once, and the estimate stays charged."""
    await BothTarget(limiter, tokens=1000, usage=len).call(lambda: "x" * 77)
    await until_used(limiter, 77)
    await BothTarget(limiter, tokens=1000, usage=lambda _: Usage(tokens=3)).call(lambda: None)
    await until_used(limiter, 80)
    await BothTarget(limiter, tokens=1000, usage=lambda _: {"total_tokens": 20}).call(lambda: None)
    await until_used(limiter, 100)


@pytest.mark.covers("TK-03")
async def test_a_usage_function_that_raises_is_told_once(limiter, caplog) -> None:
    """The result is returned all the same, and what was estimated stays charged."""
    target = BothTarget(limiter, tokens=1000, usage=lambda result: result["usage"])
    with caplog.at_level(logging.DEBUG, "ratelease"):
        assert [await target.call(dict) for _ in range(3)] == [{}, {}, {}]
    assert caplog.text.count("usage of 'openai'/'gpt-4o' raised") == 1
    assert await limiter.used("openai/gpt-4o", TOKENS) == 3000


@pytest.mark.covers("TK-03")
async def test_a_decorated_generator_settles_by_the_last_item_that_reports(limiter) -> None:
    """Once it is exhausted; left early, its estimate stays."""

    def stream(total: int):
        yield "one"
        yield Answer(total - 1)
        yield Answer(total)
        yield "end"

    target = BothTarget(limiter, tokens=1000)
    made = target.limited(stream)(60)
    while await limiter.next(made) != "end":
        pass
    await limiter.next(made)
    await until_used(limiter, 60)
    made = target.limited(stream)(60)
    for _ in range(3):
        await limiter.next(made)
    await limiter.call(made.close if limiter.is_sync else made.aclose)
    await until_used(limiter, 1060)
