"""Batches of threads: interrupts, forks, finalisers, and what other libraries do with them."""

import gc
import logging
import os
import signal
import sqlite3
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from types import FrameType

import pytest
from rich.console import Console
from rich.progress import Progress
from rich.progress import track as rich_track
from tqdm import tqdm
from tqdm.asyncio import tqdm as tqdm_async

from ratelease import AsyncClient, Client, Config, Limits
from ratelease.errors import ConfigError
from support.interrupts import Interrupted, every_step
from support.store_view import StoreView
from support.targets import Watched
from support.wait_until import wait_until

LIMITS = {"openai/gpt-4o": Limits(concurrency=2)}

pytestmark = pytest.mark.covers("UX-11")


def workers() -> list[threading.Thread]:
    """The threads of batches."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("ratelease-batch")]


def check_nothing_is_left(client: Client, view: StoreView, what: str) -> None:
    """Within a second nothing is in use, nobody waits, no thread works; and the client goes on working."""
    wait_until(lambda: view.in_flight() == 0, timeout=1.0, description=f"{what} leaves nothing in use")
    wait_until(lambda: view.waiting() == 0, timeout=1.0, description=f"{what} leaves nobody waiting")
    wait_until(lambda: not workers(), timeout=1.0, description=f"{what} leaves no thread")
    assert not client._rt.keeper.waiters
    assert client.call("openai", "gpt-4o", int, "7") == 7


def nap(seconds: float) -> float:
    """A call."""
    time.sleep(seconds)
    return seconds


def test_a_loop_interrupted_at_any_line_leaves_nothing(settings: Config, view: StoreView) -> None:
    """A batch of four, two of which wait: every fifth line that runs in the caller's thread."""
    places = set()
    with Client(limits=LIMITS, config=settings) as client:
        target = client.target("openai", "gpt-4o")

        def once() -> None:
            deque(target.map(nap, [0.001] * 4, in_flight=3), maxlen=0)

        for place in every_step(once, stride=5):
            places.add(place)
            check_nothing_is_left(client, view, f"an interrupt at {place}")
    assert sum(place.startswith("batch.py") for place in places) >= 20


@pytest.mark.timeout(60, method="thread")
def test_a_signals_exception_in_the_loop_leaves_nothing(settings: Config, view: StoreView) -> None:
    """SIGALRM raises in the main thread, at forty moments of a loop over a batch in which most items wait."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with Client(limits=LIMITS, config=settings) as client:
            target = client.target("openai", "gpt-4o")
            for step in range(40):
                batch = target.map(nap, Watched([0.002] * 100_000), in_flight=6)
                signal.setitimer(signal.ITIMER_REAL, 0.001 + step * 0.0011)
                with pytest.raises(Interrupted):
                    deque(batch, maxlen=0)
                del batch
                check_nothing_is_left(client, view, f"an interrupt after {1 + step * 1.1:.1f} ms")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_dropped_batch_ends_its_threads(settings: Config, view: StoreView) -> None:
    """Those that wait for a lease as well: nobody has to close it."""
    with Client(limits=LIMITS, config=settings) as client:
        batch = client.target("openai", "gpt-4o").map(nap, [0.3] * 1000, in_flight=8)
        next(batch)
        wait_until(lambda: view.waiting() >= 4, description="most of them wait")
        del batch
        gc.collect()
        wait_until(lambda: view.waiting() == 0, timeout=0.2, description="nobody waits")
        check_nothing_is_left(client, view, "a dropped batch")


def test_what_waits_is_withdrawn_at_once_when_a_batch_is_closed(settings: Config, view: StoreView) -> None:
    """Whatever its items were doing, at any moment: nobody is granted afterwards."""
    with Client(limits=LIMITS, config=settings) as client, Client(limits=LIMITS, config=settings) as other:
        target = client.target("openai", "gpt-4o")
        for pause in (0.0, 0.001, 0.003, 0.01, 0.03):
            held = [other.acquire("openai", "gpt-4o") for _ in range(2)]
            began: list[float] = []
            batch = target.map(began.append, iter(range(100)), in_flight=6)
            consumer = threading.Thread(target=lambda batch=batch: list(batch))
            consumer.start()
            time.sleep(pause)
            batch.close()
            consumer.join(2)
            assert not consumer.is_alive()
            wait_until(lambda: view.waiting() == 0, timeout=1.0, description="nobody waits")
            for lease in held:
                lease.release()
            check_nothing_is_left(client, view, f"closing after {pause} s")
            assert began == []


def test_an_item_that_is_on_its_way_to_wait_when_its_batch_is_closed_does_not_wait(
    settings: Config, view: StoreView
) -> None:
    """Closed by the estimate of an item, after its worker has taken it and before there is anything to withdraw."""
    with Client(limits=LIMITS, config=settings) as client, Client(limits=LIMITS, config=settings) as other:
        held = [other.acquire("openai", "gpt-4o") for _ in range(2)]

        def estimate(_: float) -> int:
            batch.close()
            time.sleep(5 * settings.poll)  # whatever looks for waiters in the background has looked by then
            return 1

        batch = client.target("openai", "gpt-4o", tokens=estimate).map(nap, [0.0])
        assert list(batch) == []
        wait_until(lambda: not workers(), timeout=1.0, description="its thread has ended")
        wait_until(lambda: view.waiting() == 0, timeout=1.0, description="nobody waits")
        for lease in held:
            lease.release()


def test_threads_are_as_many_as_needed_and_bounded(settings: Config) -> None:
    """Items that come one by one need no more than a few; many at once start in_flight of them, and no more."""
    ended: list[float] = []
    counts: list[int] = []

    def one_by_one() -> Iterator[float]:
        for number in range(8):
            wait_until(lambda number=number: len(ended) == number, description="the one before has ended")
            time.sleep(0.01)  # its worker asks for work again
            counts.append(len(workers()))
            yield 0.0

    with Client(limits={"openai": Limits()}, config=settings) as client:
        target = client.target("openai", "gpt-4o")
        assert len(list(target.map(ended.append, one_by_one()))) == 8
        assert max(counts) <= 3
        wait_until(lambda: not workers(), description="they have ended")
        most = 0
        for _ in target.map(nap, [0.005] * 100, in_flight=7):
            most = max(most, len(workers()))
        assert 5 <= most <= 7
        wait_until(lambda: not workers(), description="they have ended")


def test_items_are_read_in_the_callers_thread(settings: Config) -> None:
    """What belongs to it, such as a cursor of a database, can be read."""
    database = sqlite3.connect(":memory:")
    database.executescript("create table prompt (text); insert into prompt values ('one'), ('two'), ('three')")
    with Client(limits=LIMITS, config=settings) as client:
        rows = database.execute("select text from prompt")
        done = list(client.target("openai", "gpt-4o").map(lambda row: row[0].upper(), rows, ordered=True))
    assert [each.result for each in done] == ["ONE", "TWO", "THREE"]
    database.close()


def test_an_exit_in_a_thread_comes_to_the_caller(settings: Config, view: StoreView) -> None:
    """SystemExit is no item's error: it ends the batch also where errors are results."""
    with Client(limits=LIMITS, config=settings) as client:
        batch = client.target("openai", "gpt-4o").map(sys.exit, [3], return_exceptions=True)
        with pytest.raises(SystemExit):
            list(batch)
        check_nothing_is_left(client, view, "an exit")


def test_a_child_does_not_go_on_with_its_parents_batch(settings: Config) -> None:
    """It says so, instead of waiting for threads that it does not have."""
    with Client(limits=LIMITS, config=settings) as client:
        batch = client.target("openai", "gpt-4o").map(nap, [0.0] * 10)
        next(batch)
        child = os.fork()
        if child == 0:
            status = 1
            signal.alarm(10)  # whatever goes wrong, no child stays behind
            try:
                next(batch)
            except ConfigError:
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert len(list(batch)) == 9


def test_a_closed_client_ends_its_batches(settings: Config, view: StoreView, caplog: pytest.LogCaptureFixture) -> None:
    """Who waits is told; nobody hangs."""
    with Client(limits=LIMITS, config=settings) as other:
        held = [other.acquire("openai", "gpt-4o") for _ in range(2)]
        client = Client(limits=LIMITS, config=settings)
        batch = client.target("openai", "gpt-4o").map(nap, [0.0] * 10, return_exceptions=True)
        done: list[object] = []
        consumer = threading.Thread(target=lambda: done.extend(batch))
        consumer.start()
        wait_until(lambda: view.waiting() == 10, description="all wait")
        with caplog.at_level(logging.CRITICAL, "ratelease"):
            client.close()
        consumer.join(5)
        assert not consumer.is_alive()
        assert len(done) == 10
        for lease in held:
            lease.release()


# ---- progress bars -------------------------------------------------------------------------------------------------


def test_a_batch_works_inside_tqdm(settings: Config, capsys: pytest.CaptureFixture[str]) -> None:
    """With a total where the items have a length."""
    with Client(limits=LIMITS, config=settings) as client:
        target = client.target("openai", "gpt-4o")
        bar = tqdm(target.map(nap, [0.0] * 30), mininterval=0)
        assert len(list(bar)) == 30
        assert (bar.total, bar.n) == (30, 30)
        bar = tqdm(target.map(nap, iter([0.0] * 5)), mininterval=0)
        assert (len(list(bar)), bar.total) == (5, None)
    assert "30/30" in capsys.readouterr().err


async def test_an_asynchronous_batch_works_inside_tqdm(settings: Config, capsys: pytest.CaptureFixture[str]) -> None:
    """By `async for`, with a total as well."""

    async def ask(number: int) -> int:
        return number

    async with AsyncClient(limits=LIMITS, config=settings) as client:
        bar = tqdm_async(client.target("openai", "gpt-4o").map(ask, range(30)), mininterval=0)
        assert len([done async for done in bar]) == 30
        assert bar.total == 30
    assert "30/30" in capsys.readouterr().err


def test_a_batch_works_inside_rich(settings: Config) -> None:
    """By track, and by a bar of one's own that stats() feeds."""
    console = Console(file=None, quiet=True)
    with Client(limits=LIMITS, config=settings) as client:
        target = client.target("openai", "gpt-4o")
        assert len(list(rich_track(target.map(nap, [0.0] * 20), console=console))) == 20
        assert len(list(rich_track(target.map(nap, iter([0.0] * 20)), console=console))) == 20
        with Progress(console=console) as progress:
            task = progress.add_task("asking")
            batch = target.map(nap, [0.0] * 20)
            for _ in batch:
                stats = batch.stats()
                progress.update(task, completed=stats.done + stats.failed, total=stats.total)
            assert (progress.tasks[0].completed, progress.tasks[0].total) == (20, 20)
