"""Failed calls that are made again: call, limited, map and retrying()."""

import asyncio
import itertools
import logging
import time

import pytest

from ratelease import Limits, Retry
from ratelease.core.retrying import RetryEvent
from ratelease.errors import ConfigError, QuotaExhausted, RetriesExhausted, StoreUnavailable, WaitTimeout
from support.both import Limiter
from support.targets import ApiError, BothTarget, Failing, in_colour
from support.wait_until import wait_until_async

LIMITS = {"openai/gpt-4o": Limits(concurrency=1, rpm=1000)}
QUICK = Retry(base=0.01, cap=0.05)
# A backoff that no test waits for.
SLOW = Retry(base=20, cap=20, jitter="none")


@pytest.fixture
def limiter(make_limiter) -> Limiter:
    """One call at once, and quick retries."""
    return make_limiter(limits=LIMITS, retry=QUICK, default_pause=0)


def held(limiter: Limiter) -> int:
    """How many leases the client holds."""
    return len(limiter.client._rt.keeper.holds)


def nothing_left(limiter: Limiter) -> bool:
    """Whether the client holds, waits for and rests before nothing."""
    keeper = limiter.client._rt.keeper
    return not (keeper.holds or keeper.waiters or keeper.naps or keeper.gates.waiting())


async def until_resting(limiter: Limiter, count: int = 1) -> None:
    """Return when so many callers wait before a retry."""
    await wait_until_async(lambda: len(limiter.client._rt.keeper.naps) == count, description="a caller backs off")


# ---- what is tried again ----------------------------------------------------------------------------------


@pytest.mark.covers("RT-01")
@pytest.mark.parametrize(
    "error",
    [*(ApiError(status) for status in (408, 429, 500, 502, 503, 504, 529)), TimeoutError(), ConnectionResetError()],
    ids=lambda error: str(getattr(error, "status_code", type(error).__name__)),
)
async def test_what_may_go_better_next_time_is_tried_again(limiter, error) -> None:
    """The caller sees the result alone; each attempt is a request of its own, and is charged."""
    work = Failing(error)
    assert await BothTarget(limiter).call(work) == "fine"
    assert work.calls == 2
    assert await limiter.used("openai/gpt-4o", "requests/60s") == 2
    assert nothing_left(limiter)


@pytest.mark.covers("RT-01")
@pytest.mark.parametrize(
    "error",
    [*(ApiError(status) for status in (400, 401, 403, 404, 422)), LookupError("no such prompt")],
    ids=lambda error: str(getattr(error, "status_code", type(error).__name__)),
)
async def test_what_cannot_go_better_comes_through_at_once(limiter, error) -> None:
    """The very error, after one call; also where an attempt before it was worth another one."""
    for errors in ((error,), (ApiError(429), error)):
        work = Failing(*errors)
        with pytest.raises(type(error)) as caught:
            await BothTarget(limiter).call(work)
        assert caught.value is error
        assert work.calls == len(errors)
    assert nothing_left(limiter)


@pytest.mark.covers("RT-13")
async def test_retries_end_in_an_error_that_names_the_last_failure(limiter) -> None:
    """Four retries after 429s, two after others; the failure itself is the cause."""
    for status, calls in ((429, 5), (500, 3)):
        errors = [ApiError(status) for _ in range(9)]
        work = Failing(*errors)
        with pytest.raises(RetriesExhausted, match=f"all {calls} attempts failed") as caught:
            await BothTarget(limiter).call(work)
        assert work.calls == calls
        assert caught.value.__cause__ is errors[calls - 1]
        assert (caught.value.attempts, caught.value.scope) == (calls, "openai/gpt-4o")
        assert 0 < (caught.value.waited or 0) < 1


@pytest.mark.covers("RT-13", "RT-22")
async def test_a_target_says_how_often(limiter) -> None:
    """As a number, with the client's waits, or as a policy of its own; every way to call keeps to it."""
    for retries, calls in ((1, 2), (0, 1), (6, 7), (Retry(schedule=(0.01, 0.02, 0.01)), 4)):
        target, work = BothTarget(limiter, retries=retries), Failing(*(ApiError(429) for _ in range(9)))
        with pytest.raises((RetriesExhausted, ApiError)):
            await target.call(work)
        assert work.calls == calls
        work = Failing(*(ApiError(429) for _ in range(9)))
        (done,) = await target.map(work, [1], return_exceptions=True).all()
        assert isinstance(done.error, RetriesExhausted if calls > 1 else ApiError)
        assert work.calls == calls
    work = Failing(ApiError(500))
    assert await limiter.call(in_a_function(limiter, work)) == "fine"


def in_a_function(limiter: Limiter, work: Failing):
    """The work as a decorated function."""

    def ask() -> str:
        return work()

    return BothTarget(limiter).limited(ask)


@pytest.mark.covers("RT-14")
async def test_without_retries_the_failure_comes_through(limiter, make_limiter) -> None:
    """As it is, and the whole fleet has stopped for it."""
    error = ApiError(429, retry_after=1000)
    with pytest.raises(ApiError) as caught:
        await BothTarget(limiter, retries=0).call(Failing(error))
    assert caught.value is error
    assert (await make_limiter(limits=LIMITS).try_acquire("openai", "gpt-4o")).reason == "paused"
    assert nothing_left(limiter)


@pytest.mark.covers("RT-19")
async def test_an_empty_account_is_an_error_of_its_own(limiter) -> None:
    """After one call, from the provider's own error, whatever the policy."""
    for number, retries in enumerate((None, 0, Retry.long())):
        error = ApiError(429, code="insufficient_quota")
        work = Failing(error)
        # An account is the provider's: the others must not hear of it.
        with pytest.raises(QuotaExhausted, match="account") as caught:
            await BothTarget(limiter, f"provider-{number}", retries=retries).call(work)
        assert (work.calls, caught.value.__cause__) == (1, error)


# ---- waits ------------------------------------------------------------------------------------------------


@pytest.mark.covers("RT-02")
async def test_the_next_attempt_is_not_before_its_backoff(limiter) -> None:
    """And soon after it."""
    work = Failing(ConnectionResetError(), ConnectionResetError())
    assert await BothTarget(limiter, retries=Retry(base=0.1, jitter="none")).call(work) == "fine"
    gaps = [later - earlier for earlier, later in itertools.pairwise(work.times)]
    assert 0.1 <= gaps[0] < 0.19
    assert 0.2 <= gaps[1] < 0.39


@pytest.mark.covers("RT-04")
async def test_the_next_attempt_is_not_before_what_the_provider_says(limiter) -> None:
    """And soon after it, where nothing else is in the way."""
    work = Failing(ApiError(503, retry_after=0.3))
    assert await BothTarget(limiter).call(work) == "fine"
    assert 0.3 <= work.times[1] - work.times[0] < 0.8


@pytest.mark.covers("RT-06")
@pytest.mark.parametrize("status, seconds, name", [(503, 301, "max_hint"), (429, 91, "max_wait")])
async def test_a_longer_wait_than_allowed_fails_at_once(limiter, make_limiter, status, seconds, name) -> None:
    """And says when to come back; the fleet stops all the same."""
    work = Failing(ApiError(status, retry_after=seconds))
    started = time.monotonic()
    with pytest.raises(RetriesExhausted, match=name) as caught:
        await BothTarget(limiter).call(work)
    assert time.monotonic() - started < 5
    assert (caught.value.retry_after, caught.value.attempts, work.calls) == (seconds, 1, 1)
    assert (await make_limiter(limits=LIMITS).try_acquire("openai", "gpt-4o")).reason == "paused"


@pytest.mark.covers("RT-06")
async def test_a_longer_wait_than_allowed_is_waited_for_where_that_is_asked_for(limiter) -> None:
    """max_hint no longer holds."""
    impatient = Retry(max_hint=0.1, max_wait=0.1)
    for status in (429, 503):
        with pytest.raises(RetriesExhausted):
            await BothTarget(limiter, f"not-{status}", retries=impatient).call(
                Failing(ApiError(status, retry_after=0.2))
            )
        patient = Retry(max_hint=0.1, max_wait=0.1, wait_long_hints=True)
        work = Failing(ApiError(status, retry_after=0.2))
        assert await BothTarget(limiter, f"other-{status}", retries=patient).call(work) == "fine"
        assert work.times[1] - work.times[0] >= 0.2


@pytest.mark.covers("RT-16")
async def test_the_slot_is_free_while_a_caller_backs_off(limiter, make_limiter) -> None:
    """Another process uses it; the caller comes back for a slot of its own."""
    other = make_limiter(limits=LIMITS)
    work = Failing(ApiError(500))
    pause = Retry(base=1.0, jitter="none")
    calling = asyncio.create_task(BothTarget(limiter, retries=pause).call(work))
    await until_resting(limiter)
    assert held(limiter) == 0
    lease = await other.acquire("openai", "gpt-4o", timeout=0.5)
    await wait_until_async(lambda: not limiter.client._rt.keeper.naps, description="the caller comes back")
    await wait_until_async(lambda: limiter.client.stats().waiting == 1, description="it waits for the slot")
    assert work.calls == 1
    await lease.release()
    assert await calling == "fine"


async def test_waits_for_leases_and_before_retries_come_out_of_one_timeout(limiter, make_limiter) -> None:
    """A retry gets what the first wait and the backoff have left, and a backoff that leaves nothing is not begun."""
    other = make_limiter(limits=LIMITS)
    lease = await other.acquire("openai", "gpt-4o")
    target, work = BothTarget(limiter, timeout=1.2, retries=Retry(base=0.2, jitter="none")), Failing(ApiError(500))
    started = time.monotonic()
    calling = asyncio.create_task(target.call(work))
    await asyncio.sleep(0.6)
    await lease.release()
    await until_resting(limiter)
    lease = await other.acquire("openai", "gpt-4o")
    with pytest.raises(WaitTimeout):
        await calling
    assert 1.15 < time.monotonic() - started < 1.6
    await lease.release()
    started = time.monotonic()
    with pytest.raises(RetriesExhausted, match="allow a longer timeout"):
        await BothTarget(limiter, timeout=0.5, retries=SLOW).call(Failing(ApiError(500)))
    assert time.monotonic() - started < 2
    assert nothing_left(limiter)


@pytest.mark.covers("RT-21")
async def test_whoever_gives_up_while_it_backs_off_ends_at_once(limiter) -> None:
    """Within 50 ms, with nothing left of it: a cancelled task, and a thread whose batch is closed."""
    took = []
    for _ in range(3):
        work = Failing(ApiError(500))
        target = limiter.client.target("openai", "gpt-4o", retries=SLOW, timeout=60)
        batch = target.map(in_colour(limiter, work), [1])
        calling = asyncio.create_task(limiter.next(batch) if limiter.is_sync else target.call(in_colour(limiter, work)))
        await until_resting(limiter)
        started = time.monotonic()
        if limiter.is_sync:
            batch.close()
        else:
            calling.cancel()
        await asyncio.wait([calling], timeout=5)
        took.append(time.monotonic() - started)
        await wait_until_async(lambda: nothing_left(limiter), timeout=0.5, description="nothing is left")
        assert calling.cancelled() or type(calling.result()) is object
        assert work.calls == 1
    # A busy machine may keep one of them.
    assert min(took) < 0.05


@pytest.mark.covers("RT-21")
@pytest.mark.parametrize("how", ["client", "batch"])
async def test_what_is_closed_ends_whoever_backs_off(limiter, how) -> None:
    """A batch, with all of its items, and a client: what the last attempt has raised is the cause then."""
    batch = BothTarget(limiter, retries=SLOW).map(Failing(*(ApiError(500) for _ in range(3))), [1, 2, 3])
    reading = asyncio.create_task(batch.all())
    await until_resting(limiter, 3)
    if how == "batch":
        await batch.close()
        assert await asyncio.wait_for(reading, 1) == []
    else:
        await limiter.close()
        with pytest.raises(StoreUnavailable, match="closed") as caught:
            await asyncio.wait_for(reading, 1)
        assert isinstance(caught.value.__cause__, ApiError)
    await wait_until_async(lambda: nothing_left(limiter), timeout=0.5, description="nothing is left")


@pytest.mark.covers("RT-21")
@pytest.mark.parametrize("way", ["generator", "block"])
async def test_a_client_that_is_closed_says_what_its_callers_wanted_to_try_again(limiter, way) -> None:
    """Whatever they try again: a generator, or a block of code."""
    error = ApiError(500)
    target = BothTarget(limiter, retries=SLOW, timeout=60)

    def stream():
        raise error
        yield

    async def work() -> None:
        if way == "generator":
            await limiter.next(target.limited(stream)())
            return
        async for attempt in target.retrying():
            async with attempt:
                raise error

    working = asyncio.create_task(work())
    await until_resting(limiter)
    await limiter.close()
    with pytest.raises(StoreUnavailable, match="closed") as caught:
        await asyncio.wait_for(working, 5)
    assert caught.value.__cause__ is error


# ---- batches ----------------------------------------------------------------------------------------------


async def test_items_of_a_batch_are_tried_again_each_by_itself(limiter) -> None:
    """Their order and number are as if nothing had been; what backs off counts as waiting."""
    batch = BothTarget(limiter).map(Failing(ApiError(429), ApiError(500)), range(4), ordered=True)
    assert [(done.index, done.result) for done in await batch.all()] == [(i, "fine") for i in range(4)]
    stats = batch.batch.stats()
    assert (stats.done, stats.failed, stats.in_flight, stats.waiting) == (4, 0, 0, 0)
    slow = BothTarget(limiter, retries=SLOW).map(Failing(ApiError(500)), [1])
    reading = asyncio.create_task(slow.all())
    await until_resting(limiter)
    stats = slow.batch.stats()
    assert (stats.in_flight, stats.waiting) == (0, 1)
    await slow.close()
    await reading


# ---- streams ----------------------------------------------------------------------------------------------


@pytest.mark.covers("RT-15")
async def test_a_generator_is_tried_again_only_before_its_first_item(limiter) -> None:
    """What its caller has got is not given twice."""
    before, after = [ApiError(500)], [ApiError(503)]

    def stream():
        if before:
            raise before.pop()
        yield 1
        if after:
            raise after.pop()
        yield 2

    made = BothTarget(limiter).limited(stream)
    first = made()
    assert await limiter.next(first) == 1
    with pytest.raises(ApiError) as caught:
        await limiter.next(first)
    assert caught.value.status_code == 503
    assert nothing_left(limiter)
    second = made()
    assert [await limiter.next(second), await limiter.next(second)] == [1, 2]
    await limiter.next(second)
    assert nothing_left(limiter)
    before[:] = [ApiError(400)]
    with pytest.raises(ApiError):
        await limiter.next(made())
    before[:] = [ApiError(500) for _ in range(9)]
    with pytest.raises(RetriesExhausted):
        await limiter.next(made())


async def test_an_empty_generator_is_no_failure(limiter) -> None:
    """It ends, and its lease is free."""

    def empty():
        yield from ()

    stream = BothTarget(limiter).limited(empty)()
    assert type(await limiter.next(stream)) is object
    assert nothing_left(limiter)


@pytest.mark.covers("RT-15")
async def test_a_wrapped_stream_is_tried_again_only_before_its_first_item(limiter) -> None:
    """Inside an attempt."""
    seen: list[object] = []
    streams = [limiter.stream([], ApiError(500)), limiter.stream([1, 2])]
    async for attempt in BothTarget(limiter).retrying():
        async with attempt as lease:
            async for item in lease.wrap_stream(streams.pop(0)):
                seen.append(item)  # noqa: PERF401 - what came before an error is wanted as well
    assert (seen, streams) == ([1, 2], [])
    tries = BothTarget(limiter).retrying()
    attempt = await anext(tries)
    lease = await attempt.__aenter__()
    stream, error = lease.wrap_stream(limiter.stream([3], ApiError(500))), None
    assert await anext(stream) == 3
    try:
        await anext(stream)
    except ApiError as raised:
        error = raised
    assert not await attempt.__aexit__(ApiError, error, None)
    assert nothing_left(limiter)


async def attempts(target: BothTarget, error: BaseException, **options: object) -> None:
    """Fail in each attempt."""
    async for attempt in target.retrying(**options):
        async with attempt:
            raise error


# ---- retrying() -------------------------------------------------------------------------------------------


async def test_a_block_is_tried_again_like_a_function(limiter) -> None:
    """Each attempt has a lease of its own, settles it, and counts."""
    work, seen = Failing(ApiError(429), ApiError(500)), []
    async for attempt in BothTarget(limiter, tokens=10).retrying():
        async with attempt as lease:
            seen.append((attempt.attempt.number, lease.valid, held(limiter)))
            result = work()
            lease.settle(7)
    assert (result, seen) == ("fine", [(1, True, 1), (2, True, 1), (3, True, 1)])
    assert nothing_left(limiter)
    tries = BothTarget(limiter).retrying().tries
    assert type(await limiter.next(tries)).__name__ == ("Attempt" if limiter.is_sync else "AsyncAttempt")


async def test_a_block_raises_what_a_function_would(limiter) -> None:
    """The last failure as a cause, or itself where nothing helps; leaving the block early is an end as well."""
    with pytest.raises(RetriesExhausted) as caught:
        await attempts(BothTarget(limiter, retries=2), ApiError(503))
    assert (caught.value.attempts, type(caught.value.__cause__)) == (3, ApiError)
    with pytest.raises(QuotaExhausted):
        await attempts(BothTarget(limiter, "other"), ApiError(429, code="insufficient_quota"))
    with pytest.raises(ApiError):
        await attempts(BothTarget(limiter), ApiError(400))
    async for attempt in BothTarget(limiter).retrying():
        async with attempt:
            break
    assert nothing_left(limiter)


async def test_an_attempt_must_be_entered(limiter) -> None:
    """Or the loop would go on for ever."""
    with pytest.raises(ConfigError, match="must be entered"):
        async for _ in BothTarget(limiter).retrying():
            pass


async def test_a_block_has_its_own_estimate_and_timeout(limiter, make_limiter) -> None:
    """As acquire."""
    by_prompt = BothTarget(limiter, tokens=len)
    with pytest.raises(ConfigError, match="tokens of this target is a function"):
        by_prompt.retrying()
    with pytest.raises(ConfigError, match="timeout must be seconds"):
        by_prompt.retrying(tokens=5, timeout=-1)
    (lease,) = await make_limiter(limits=LIMITS).hold("openai", "gpt-4o")
    with pytest.raises(WaitTimeout):
        await attempts(by_prompt, LookupError("there was a slot"), tokens=5, timeout=0.05)
    await lease.release()


# ---- who is told ------------------------------------------------------------------------------------------


@pytest.mark.covers("RT-20")
async def test_each_retry_is_told_before_its_wait(make_limiter) -> None:
    """By the target's own callback or the client's, with everything that a line of progress needs."""
    events: list[RetryEvent] = []
    limiter = make_limiter(limits=LIMITS, retry=QUICK, on_retry=events.append, default_pause=0)
    errors = [ApiError(429), ApiError(503, retry_after=0.02), ApiError(429)]
    assert await BothTarget(limiter, "OpenAI").call(Failing(*errors)) == "fine"
    told = [(event.attempt, event.max, event.status, event.source) for event in events]
    assert told == [(1, 4, 429, "backoff"), (1, 2, 503, "header"), (2, 4, 429, "backoff")]
    assert [event.error for event in events] == errors
    assert {(event.provider, event.model) for event in events} == {("openai", "gpt-4o")}
    assert (events[0].reason, events[1].delay) == ("throttled", 0.02)
    assert 0.005 <= events[0].delay <= 0.01
    assert set(events[0].to_dict()) >= {"attempt", "max", "delay", "status", "reason", "source"}
    own: list[RetryEvent] = []
    await BothTarget(limiter, on_retry=own.append).call(Failing(ConnectionResetError()))
    assert [(event.status, event.max) for event in own] == [(None, 2)]
    assert len(events) == 3


@pytest.mark.covers("RT-20")
async def test_a_callback_that_raises_ends_nothing(make_limiter, caplog) -> None:
    """The log has it."""

    def broken(event: RetryEvent) -> None:
        raise LookupError(event.reason)

    limiter = make_limiter(limits=LIMITS, retry=QUICK, on_retry=broken)
    with caplog.at_level(logging.ERROR, logger="ratelease"):
        assert await BothTarget(limiter).call(Failing(ApiError(429))) == "fine"
    assert "on_retry raised" in caplog.text


@pytest.mark.parametrize("store_url", ["memory"], indirect=True)
async def test_what_is_wrong_is_refused_before_anything_is_called(limiter, make_limiter) -> None:
    """With every fault in one error."""

    async def told(event: RetryEvent) -> None:
        """A callback that nobody would await."""

    for retries in (-1, 21, True, 1.5, "2"):
        with pytest.raises(ConfigError) as caught:
            BothTarget(limiter, retries=retries, on_retry=told, weight=0)
        for part in ("retries", "on_retry", "weight"):
            assert part in str(caught.value)
    for wrong in (5, told):
        with pytest.raises(ConfigError, match="on_retry must be a plain function"):
            make_limiter(limits=LIMITS, on_retry=wrong)
