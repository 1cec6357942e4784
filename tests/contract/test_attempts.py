"""What the attempts of a call teach the fleet, and what they do not."""

import asyncio
import contextlib
import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from ratelease import Limits, Outcome, Retry
from ratelease.errors import ImpossibleRequest, QueueFull, RetriesExhausted, StoreUnavailable, WaitTimeout
from ratelease.store.hold import Hold
from support.both import Limiter
from support.targets import ApiError, BothTarget, Failing, in_colour
from support.wait_until import wait_until_async

LIMITS = {"openai/gpt-4o": Limits(concurrency=4)}
QUICK = Retry(base=0.001, cap=0.01)


@pytest.fixture
def limiter(make_limiter) -> Limiter:
    """Quick retries."""
    return make_limiter(limits=LIMITS, retry=QUICK, default_pause=0)


@pytest.fixture
def lessons(monkeypatch) -> Iterator[list[str]]:
    """The first letters of what the ends of leases teach, where the store wants to know of every one."""
    told: list[str] = []
    of, ending = Hold.of, Hold.ending

    def watched(*arguments: Any) -> list[Hold]:
        holds = of(*arguments)
        for hold in holds:
            hold.watched = True
        return holds

    def noted(hold: Hold, /, **options: Any) -> Any:
        told.append(options.get("lesson", "")[:1])
        return ending(hold, **options)

    monkeypatch.setattr(Hold, "of", watched)
    monkeypatch.setattr(Hold, "ending", noted)
    return told


@pytest.mark.covers("AL-16")
async def test_a_success_after_a_failure_is_not_clean(limiter, lessons) -> None:
    """However it was called: the failure is learnt from, the success is not. A success at once is."""
    target = BothTarget(limiter)
    await target.call(Failing())
    assert lessons == ["o"]
    lessons.clear()
    for failure, letter in ((ApiError(429), "t"), (ApiError(500), "e")):
        await target.call(Failing(failure))
        await target.map(Failing(failure), [1]).all()
        assert lessons == [letter, "", letter, ""]
        lessons.clear()
        work = Failing(failure)
        async for attempt in target.retrying():
            async with attempt as lease:
                work()
                stream = lease.wrap_stream(limiter.stream([1]))
        assert [item async for item in stream] == [1]
        assert lessons == [letter, ""]
        lessons.clear()


@pytest.mark.covers("AL-16")
async def test_a_generator_that_was_begun_twice_or_not_ended_is_not_clean(limiter, lessons) -> None:
    """One that runs through at once is."""
    failures = [ApiError(529)]

    def stream():
        if failures:
            raise failures.pop()
        yield 1
        yield 2

    made = BothTarget(limiter).limited(stream)

    async def run_through() -> None:
        items = made()
        while type(await limiter.next(items)) is int:
            pass

    await run_through()
    assert lessons == ["v", ""]
    await run_through()
    assert lessons == ["v", "", "o"]
    items = made()
    await limiter.next(items)
    await limiter.call(items.close if limiter.is_sync else items.aclose)
    assert lessons == ["v", "", "o", "c"]


@pytest.mark.covers("AL-39")
@pytest.mark.parametrize("error", [WaitTimeout, QueueFull, StoreUnavailable, ImpossibleRequest, RetriesExhausted])
async def test_errors_of_ours_are_no_answers_of_a_provider(limiter, lessons, error) -> None:
    """Raised inside a call, as by another one within it: they come through, teach nothing, and are not tried again."""
    raised = error("from within")
    work = Failing(raised)
    with pytest.raises(error) as caught:
        await BothTarget(limiter).call(work)
    assert (work.calls, lessons, caught.value) == (1, [""], raised)
    attempt = await anext(BothTarget(limiter).retrying())
    await attempt.__aenter__()
    assert not await attempt.__aexit__(error, raised, None)
    assert lessons == ["", ""]


@pytest.mark.covers("AL-39")
async def test_a_wait_in_vain_teaches_nothing(make_limiter, lessons) -> None:
    """Neither the caller that timed out nor the target that it waited within."""
    limiter = make_limiter(limits={"openai/gpt-4o": Limits(concurrency=1), "openai/other": Limits(concurrency=1)})
    held = await limiter.acquire("openai", "other")
    with pytest.raises(WaitTimeout):
        await BothTarget(limiter, model="other", timeout=0.05).call(Failing())
    assert lessons in ([], [""])
    await held.release()
    assert limiter.client.stats().failed == 0
    assert [outcome for outcome in Outcome if limiter.client._rt.keeper.tally.ended[outcome]] == [Outcome.OK]


@pytest.mark.parametrize("store_url", ["redis"], indirect=True)
async def test_an_error_that_was_tried_again_is_kept_by_nobody(limiter) -> None:
    """Once the call has ended, well or not, its errors are gone without the garbage collector's help."""
    gone: list[weakref.ref[BaseException]] = []

    def failing(count: int) -> Failing:
        errors = [ApiError(500) for _ in range(count)]
        gone.extend(weakref.ref(error) for error in errors)
        return Failing(*errors)

    async def call(work: Failing) -> None:
        # In this very thread: the one of the test's tasks keeps what was raised in it.
        target = limiter.client.target("openai", "gpt-4o")
        with contextlib.suppress(RetriesExhausted):
            called = target.call(in_colour(limiter, work))
            if not limiter.is_sync:
                await called

    gc.collect()
    gc.disable()
    try:
        await call(failing(1))
        await call(failing(3))
        assert [each() for each in gone] == [None] * 4
    finally:
        gc.enable()


@pytest.mark.covers("RT-16")
async def test_who_gets_no_lease_to_try_again_is_told_of_the_failure_too(make_limiter) -> None:
    """WaitTimeout from what the provider has answered; of a first attempt it has no cause."""
    limiter = make_limiter(
        limits={"openai/gpt-4o": Limits(concurrency=1)}, retry=Retry(base=0.3, jitter="none"), default_pause=0
    )
    failure, told = ApiError(500), []
    target = BothTarget(limiter, timeout=0.6, on_retry=told.append)
    calling = asyncio.create_task(target.call(Failing(failure)))
    await wait_until_async(lambda: bool(told), description="the first attempt has failed")
    held = await limiter.acquire("openai", "gpt-4o")
    with pytest.raises(WaitTimeout) as caught:
        await calling
    assert caught.value.__cause__ is failure
    with pytest.raises(WaitTimeout) as caught:
        await target.call(Failing())
    assert caught.value.__cause__ is None
    await held.release()
