"""A function over many items: lazily, bounded, each item yielded as it ends, and nothing left however it ends."""

import asyncio
import gc
import time
from contextvars import ContextVar

import pytest

from ratelease import Done, Limits
from ratelease.errors import ConfigError, ImpossibleRequest
from support.both import Limiter
from support.targets import AsyncWatched, BothBatch, BothTarget, Watched
from support.wait_until import wait_until, wait_until_async

LIMITS = {"openai/gpt-4o": Limits(concurrency=4)}

VARIABLE: ContextVar[str] = ContextVar("variable", default="unset")

pytestmark = pytest.mark.covers("UX-11")


@pytest.fixture
def limiter(make_limiter) -> Limiter:
    """Four calls at once."""
    return make_limiter(limits=LIMITS)


@pytest.fixture
def target(limiter) -> BothTarget:
    """The model."""
    return BothTarget(limiter)


class Work:
    """
    A call that counts; it lasts so many seconds, and raises for the items in `bad`.

    The first ones go on once `meet` have run at a time.
    """

    def __init__(self, limiter: Limiter, seconds: float = 0.0, bad=(), meet: int = 0) -> None:
        self._limiter = limiter
        self._seconds = seconds
        self._bad = bad
        self._meet = meet
        self.running = 0
        self.peak = 0
        self.begun = 0

    def __call__(self, item):
        self.running += 1
        self.begun += 1
        self.peak = max(self.peak, self.running)
        if self._limiter.is_sync:
            wait_until(self._have_met, description="as many as may run at a time")
            time.sleep(self._seconds)
            return self._end(item)

        async def work():
            try:
                await wait_until_async(self._have_met, description="as many as may run at a time")
                await asyncio.sleep(self._seconds)
            except asyncio.CancelledError:
                self.running -= 1
                raise
            return self._end(item)

        return work()

    def _have_met(self) -> bool:
        return self.peak >= self._meet

    def _end(self, item):
        self.running -= 1
        if item in self._bad:
            raise LookupError(f"item {item}")
        return item * 10


async def nothing_is_left(limiter: Limiter) -> None:
    """No lease, no waiter, here or in the store, and the client goes on working."""
    keeper = limiter.client._rt.keeper
    await wait_until_async(lambda: not keeper.holds and not keeper.waiters, description="the client holds nothing")
    await limiter.until_waiting(0)

    async def all_free() -> bool:
        return await limiter.in_flight("openai/gpt-4o") == 0

    await wait_until_async(all_free, description="nothing is in use")
    await (await limiter.acquire("openai", "gpt-4o", timeout=1)).release()


async def test_every_item_ends_once_as_it_finishes(limiter, target) -> None:
    """With its index, item and result, never more at once than the limit allows."""
    work = Work(limiter, 0.005, meet=4)
    done = await target.map(work, range(60), in_flight=12).all()
    assert sorted(each.index for each in done) == list(range(60))
    assert all(each == Done(each.index, each.index, each.index * 10, None) for each in done)
    assert work.peak == 4
    await nothing_is_left(limiter)


async def test_a_result_does_not_wait_for_a_slow_one_before_it(limiter, target) -> None:
    """Unless the order of the items is asked for."""

    def work(item):
        seconds = 0.3 if item == 0 else 0.0
        return time.sleep(seconds) if limiter.is_sync else asyncio.sleep(seconds)

    assert [each.index async for each in target.map(work, range(5))][-1] == 0
    assert [each.index async for each in target.map(work, range(20), in_flight=3, ordered=True)] == list(range(20))


async def test_an_error_can_be_a_result(limiter, target) -> None:
    """With return_exceptions each error is the item's own, and the others go on."""
    done = await target.map(Work(limiter, bad=(3, 7)), range(20), return_exceptions=True).all()
    assert len(done) == 20
    assert {each.index: str(each.error) for each in done if each.error} == {3: "item 3", 7: "item 7"}
    assert {each.result for each in done if each.error} == {None}
    await nothing_is_left(limiter)


async def test_an_item_that_gets_no_lease_has_an_error(limiter) -> None:
    """What acquire raises is the item's error like any other; its function is not called."""
    work = Work(limiter)
    too_heavy = BothTarget(limiter, weight=5)
    (done,) = await too_heavy.map(work, ["a"], return_exceptions=True).all()
    assert isinstance(done.error, ImpossibleRequest)
    with pytest.raises(ImpossibleRequest):
        await too_heavy.map(work, ["a"]).all()
    assert work.begun == 0


async def test_the_first_error_stops_the_others_and_is_raised(limiter, target) -> None:
    """After what had ended before it; nothing further is read or begun."""
    work = Work(limiter, 0.01, bad=(20,))
    items = Watched(range(10_000))
    batch = target.map(work, items, in_flight=8)
    seen: list[int] = []
    with pytest.raises(LookupError, match="item 20"):
        await batch.into(seen)
    assert len(seen) >= 16
    assert items.read <= 40
    await nothing_is_left(limiter)
    begun = work.begun
    assert await batch.all() == []
    assert work.begun == begun


async def test_nothing_happens_before_the_first_result_is_asked_for(limiter, target) -> None:
    """A batch that nobody iterates reads nothing and leaves nothing."""
    items = Watched(range(5))
    batch = target.map(Work(limiter), items)
    await limiter.status()
    assert items.read == 0
    del batch
    gc.collect()
    await nothing_is_left(limiter)


@pytest.mark.parametrize("ordered", [False, True])
async def test_reading_is_never_further_ahead_than_in_flight(limiter, target, ordered) -> None:
    """What was read and not yet yielded is in_flight items at most, however slow the consumer or the calls."""
    items = Watched(range(80))
    ahead, yielded = [], 0
    async for done in target.map(Work(limiter, 0.001), items, in_flight=6, ordered=ordered):
        yielded += 1
        ahead.append(items.read - yielded)
        if done.index % 20 == 0:
            await asyncio.sleep(0.02)
    assert yielded == 80
    assert 3 <= max(ahead) <= 6


async def test_an_iterable_that_raises_in_the_middle(limiter, target) -> None:
    """What was read is finished and yielded; then the error is raised, and nothing is left."""
    items = Watched(range(10), OSError("the file is gone"))
    seen = []
    with pytest.raises(OSError, match="the file is gone"):
        await target.map(Work(limiter, 0.01), items, in_flight=5).into(seen)
    assert sorted(seen) == list(range(10))
    await nothing_is_left(limiter)
    with pytest.raises(OSError, match="at once"):
        await target.map(Work(limiter), Watched([], OSError("at once")), return_exceptions=True).all()


async def test_leaving_the_loop_stops_everything(limiter, target) -> None:
    """By break: what waits is withdrawn, what runs ends, and no more is read."""
    work = Work(limiter, 0.02)
    items = Watched(range(10_000))
    batch = target.map(work, items, in_flight=10)
    async for done in batch:
        if done.index >= 8:
            break
    del batch, done
    gc.collect()
    if limiter.is_sync:
        # The caller's thread holds on to what it did last.
        await limiter.status()
    await nothing_is_left(limiter)
    read = items.read
    await asyncio.sleep(0.05)
    assert (items.read, work.running) == (read, 0)
    assert read <= 30


async def test_what_was_not_begun_is_not_charged(make_limiter) -> None:
    """Items that a stop has kept from being called return their requests: what counts is what was sent."""
    limiter = make_limiter(limits={"openai/gpt-4o": Limits(concurrency=4, rpm=1000)})
    work = Work(limiter, 0.005)
    for _ in range(5):
        batch = BothBatch(limiter, BothTarget(limiter).target.map(work, range(1000), in_flight=12))
        for _ in range(5):
            await anext(batch)
        await batch.close()
        await wait_until_async(lambda batch=batch: batch.batch.stats().in_flight == 0, description="what ran has ended")

    async def charged() -> bool:
        return await limiter.used("openai/gpt-4o", "requests/60s") == work.begun

    await wait_until_async(charged, description="as many requests count as were sent")


async def test_a_closed_batch_leaves_nothing(limiter, target) -> None:
    """While four run and others wait for their lease; closing again does nothing."""
    await limiter.hold("openai", "gpt-4o", 2)
    batch = target.map(Work(limiter, 0.05), range(1000), in_flight=8)
    await anext(batch)
    assert batch.batch.stats().waiting >= 1
    await batch.close()
    await batch.close()
    await wait_until_async(lambda: batch.batch.stats().in_flight == 0, description="what ran has ended")
    keeper = limiter.client._rt.keeper
    await wait_until_async(lambda: len(keeper.holds) == 2, description="only what the test holds is held")
    await limiter.until_waiting(0)
    assert await batch.all() == []
    await limiter.held[0].release()
    await limiter.held[1].release()
    await nothing_is_left(limiter)


async def test_a_batch_is_a_context_manager(limiter, target) -> None:
    """Leaving it closes it."""
    items = Watched(range(10_000))
    batch = target.map(Work(limiter, 0.01), items, in_flight=5)
    if limiter.is_sync:
        await limiter.call(batch.batch.__enter__)
        await anext(batch)
        await limiter.call(batch.batch.__exit__, None, None, None)
    else:
        async with batch.batch as entered:
            await anext(entered)
    await nothing_is_left(limiter)
    assert items.read <= 12


async def test_an_item_may_close_its_batch(limiter, target) -> None:
    """As one that has found what it sought: the reader's loop ends when all has gone back. Two may do it at once."""
    work = Work(limiter, 0.01)

    def search(item):
        if limiter.is_sync:
            work(item)
            return batch.batch.close() if item in (1, 2) else None

        async def soon():
            try:
                await work(item)
            finally:
                if item in (1, 2):
                    await batch.batch.close()

        return soon()

    batch = target.map(search, range(100))
    await asyncio.wait_for(batch.all(), 10)
    assert work.begun <= 12
    await nothing_is_left(limiter)


async def test_items_wait_as_long_as_it_takes(make_limiter) -> None:
    """The client's default timeout is not for batches: an item's wait depends on all those before it."""
    limiter = make_limiter(limits=LIMITS, default_timeout=0.01)
    done = await BothTarget(limiter).map(Work(limiter, 0.05), range(12), return_exceptions=True).all()
    assert [each.error for each in done] == [None] * 12
    patient = BothTarget(limiter, timeout=0.01).map(Work(limiter, 0.05), range(12), return_exceptions=True)
    assert any(each.error for each in await patient.all())


async def test_a_batch_knows_how_far_it_is(limiter, target) -> None:
    """Done, failed, in flight, waiting, the rate, the total and the time that is left."""
    batch = target.map(Work(limiter, 0.02, bad=(2,)), range(40), in_flight=10, return_exceptions=True)
    first = batch.batch.stats()
    assert (first.total, first.done, first.remaining_seconds) == (40, 0, None)
    assert len(batch.batch) == 40
    for _ in range(12):
        await anext(batch)
    stats = batch.batch.stats()
    assert 12 <= stats.done + stats.failed <= 22
    assert (stats.failed, stats.total) == (1, 40)
    assert stats.in_flight <= 4
    assert stats.in_flight + stats.waiting <= 10
    assert stats.per_second > 0
    assert stats.remaining_seconds == pytest.approx((40 - stats.done - 1) / stats.per_second)
    await batch.all()
    last = batch.batch.stats()
    assert (last.done, last.failed, last.in_flight, last.waiting, last.remaining_seconds) == (39, 1, 0, 0, 0.0)


async def test_without_a_length_the_total_is_known_at_the_end(limiter, target) -> None:
    """A generator has no length, and neither has its batch."""
    batch = target.map(Work(limiter), (n for n in range(5)))
    with pytest.raises(TypeError):
        len(batch.batch)
    assert (batch.batch.stats().total, batch.batch.stats().remaining_seconds) == (None, None)
    await batch.all()
    assert batch.batch.stats().total == 5


async def test_items_share_no_context(limiter, target) -> None:
    """What one call sets in a context variable no other one sees; all see what the caller has set."""

    def work(item: int) -> str:
        found = VARIABLE.get()
        VARIABLE.set(f"item {item}")
        return found

    def set_and_begin(batch) -> Done:
        VARIABLE.set("caller")
        return next(batch)

    batch = target.map(work, range(20), in_flight=3)
    if limiter.is_sync:
        seen = [await limiter.callers.call(set_and_begin, batch.batch)]
    else:
        VARIABLE.set("caller")
        seen = []
    seen += await batch.all()
    assert [each.result for each in seen] == ["caller"] * 20


@pytest.mark.parametrize("store_url", ["memory"], indirect=True)
async def test_a_wrong_batch_is_refused_at_once(target) -> None:
    """Before anything is read."""
    for items in (None, 5, "a text", b"bytes"):
        with pytest.raises(ConfigError, match="items must be an iterable"):
            target.map(print, items)
    for count in (0, -1, 1.5, True, "4", 10**9):
        with pytest.raises(ConfigError, match="in_flight"):
            target.map(print, [1], in_flight=count)
    with pytest.raises(ConfigError, match="must be a"):
        target.target.map(None, [1])


@pytest.mark.parametrize("colour", ["async"], indirect=True)
class TestOnAnEventLoop:
    """What only tasks can do."""

    async def test_items_may_be_asynchronous(self, limiter, target) -> None:
        """One task reads all of them, however many run; an error of theirs is raised as of any iterable."""
        items = AsyncWatched(range(50))
        done = await target.map(Work(limiter), items, in_flight=5).all()
        assert sorted(each.result for each in done) == [10 * n for n in range(50)]
        seen = []
        with pytest.raises(OSError, match="gone"):
            await target.map(Work(limiter), AsyncWatched(range(9), OSError("gone")), in_flight=3).into(seen)
        assert sorted(seen) == list(range(9))

    async def test_a_slow_source_delays_no_result(self, limiter, target) -> None:
        """What has ended is yielded while the next item is waited for."""
        gate = asyncio.Event()

        async def items():
            yield 1
            await gate.wait()
            yield 2

        batch = target.map(Work(limiter), items())
        assert (await asyncio.wait_for(anext(batch), 1)).item == 1
        gate.set()
        assert [each.item for each in await batch.all()] == [2]

    async def test_a_cancelled_consumer_cancels_the_batch(self, limiter, target) -> None:
        """Its calls have ended before the consumer has."""
        work = Work(limiter, 60)
        consumer = asyncio.create_task(target.map(work, range(100), in_flight=8).all())
        await wait_until_async(lambda: work.running == 4, description="four run")
        consumer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await consumer
        assert (work.running, limiter.client._rt.keeper.holds) == (0, {})
        await nothing_is_left(limiter)

    async def test_closing_from_another_task_ends_the_loop(self, limiter, target) -> None:
        """The consumer's loop ends as if there were no more."""
        work = Work(limiter, 60)
        batch = target.map(work, range(100), in_flight=8)
        consumer = asyncio.create_task(batch.all())
        await wait_until_async(lambda: work.running == 4, description="four run")
        await batch.close()
        assert await asyncio.wait_for(consumer, 5) == []
        assert work.running == 0
        await nothing_is_left(limiter)

    async def test_a_reader_at_work_finds_its_batch_closed(self, limiter, target) -> None:
        """By an item meanwhile: its loop ends, after everything else has."""

        async def work(item):
            await asyncio.sleep(0)
            if item == 3:
                await batch.batch.aclose()
                await asyncio.sleep(0.05)

        batch: BothBatch = BothBatch(limiter, target.target.map(work, range(100), in_flight=4))
        async for done in batch:
            assert done.index < 3
            await asyncio.sleep(0.02)
        assert limiter.client._rt.keeper.holds == {}
        await nothing_is_left(limiter)

    async def test_no_more_tasks_live_than_in_flight(self, limiter, target) -> None:
        """And one that reads, beside those of the client."""
        before, most = len(asyncio.all_tasks()), 0

        async def work(item):
            nonlocal most
            most = max(most, len(asyncio.all_tasks()))

        batch: BothBatch = BothBatch(limiter, target.target.map(work, range(300), in_flight=10))
        await batch.all()
        assert most - before <= 10 + 1 + 4
        await wait_until_async(lambda: len(asyncio.all_tasks()) <= before + 2, description="all tasks have ended")

    async def test_an_item_that_cancels_itself_has_failed(self, limiter, target) -> None:
        """Others go on."""

        async def work(item):
            if item == 1:
                raise asyncio.CancelledError
            return item

        done = await BothBatch(limiter, target.target.map(work, range(3), return_exceptions=True)).all()
        assert {each.item: type(each.error) for each in done} == {
            0: type(None),
            1: asyncio.CancelledError,
            2: type(None),
        }
        with pytest.raises(asyncio.CancelledError):
            await BothBatch(limiter, target.target.map(work, range(3))).all()
        await nothing_is_left(limiter)
