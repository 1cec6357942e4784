"""A thread that is interrupted anywhere in acquire or release: by Ctrl-C, a signal's exception, a timeout."""

import signal
import sys
import threading
import time
from types import FrameType

import pytest

from ratelease import Client, Config, Limits
from ratelease.errors import WaitTimeout
from ratelease.store.engaged import is_engaged
from support.interrupts import Interrupted, every_step
from support.store_view import StoreView, check_nothing_is_left
from support.wait_until import wait_until
from support.workers import Fleet

LIMITS = {"openai/gpt-4o": Limits(concurrency=2)}


def check_it_goes_on(client: Client, view: StoreView, place: str) -> None:
    """Within a second nothing is in use and nobody waits, and the client goes on working."""
    assert not is_engaged(), f"after an interrupt at {place} this thread leaves every release to the keeper"
    began = time.monotonic()
    client.acquire("openai", "gpt-4o").release()
    assert time.monotonic() - began < 0.7, f"after an interrupt at {place} the next acquire hangs"
    check_nothing_is_left(client, view, place)


@pytest.mark.covers("RL-07")
def test_a_call_interrupted_at_any_line_leaves_nothing(settings: Config, view: StoreView) -> None:
    """Acquire and release without waiting: every line that runs in the caller's thread, in turn."""
    steps = 0
    with Client(limits=LIMITS, config=settings) as client:

        def once() -> None:
            client.acquire("openai", "gpt-4o").release()

        once()
        for place in every_step(once):
            steps += 1
            check_it_goes_on(client, view, place)
    assert steps > 100


@pytest.mark.covers("RL-07", "LS-01")
def test_a_with_statement_interrupted_at_any_line_leaves_nothing(settings: Config, view: StoreView) -> None:
    """The same where a `with` holds the lease."""
    with Client(limits=LIMITS, config=settings) as client:

        def once() -> None:
            with client.acquire("openai", "gpt-4o"):
                pass

        once()
        for place in every_step(once, stride=3):
            check_it_goes_on(client, view, place)


@pytest.mark.covers("RL-07", "QU-09")
def test_a_wait_interrupted_at_any_line_leaves_nothing(settings: Config, view: StoreView) -> None:
    """The caller is parked behind two others, and granted a moment later."""
    with Client(limits=LIMITS, config=settings) as client, Client(limits=LIMITS, config=settings) as other:

        def once() -> None:
            leases = [other.acquire("openai", "gpt-4o") for _ in range(2)]
            ending = threading.Timer(0.01, lambda: [lease.release() for lease in leases])
            before = sys.gettrace()
            sys.settrace(None)
            ending.start()
            sys.settrace(before)
            try:
                client.acquire("openai", "gpt-4o").release()
            finally:
                ending.join()

        once()
        for place in every_step(once, stride=7):
            check_it_goes_on(client, view, place)


@pytest.mark.covers("RL-07", "AD-05")
def test_a_group_interrupted_at_any_line_leaves_nothing(settings: Config, view: StoreView) -> None:
    """Two leases asked for and released together, and a group whose third one comes later."""
    limits = {"openai/gpt-4o": Limits(concurrency=4)}
    with Client(limits=limits, config=settings) as client:

        def together() -> None:
            client.acquire_many("openai", "gpt-4o", 2).release()

        def with_a_rest() -> None:
            with client.acquire_many("openai", "gpt-4o", 5, at_least=1, timeout=5) as group:
                group[0].release()
                assert len(list(group.rest())) == 1

        for act in (together, with_a_rest):
            act()
            for place in every_step(act, stride=5):
                check_nothing_is_left(client, view, place)


@pytest.mark.covers("RL-07", "AD-06")
def test_a_group_interrupted_while_it_gives_up_leaves_nothing(settings: Config, view: StoreView) -> None:
    """One slot is free and two are asked for, until the deadline; what else was asked for is given up with it."""
    with Client(limits=LIMITS, config=settings) as client, Client(limits=LIMITS, config=settings) as other:
        held = other.acquire("openai", "gpt-4o")

        def once() -> None:
            with pytest.raises(WaitTimeout):
                client.acquire_many("openai", "gpt-4o", 3, at_least=2, timeout=0.01)

        once()
        for place in every_step(once, stride=5):
            wait_until(lambda: view.waiting() == 0, timeout=1.0, description=f"{place} leaves nobody waiting")
            assert not client._rt.keeper.waiters, f"{place} leaves a waiter"
            assert view.in_flight() == 1
        held.release()


@pytest.mark.covers("RL-07")
@pytest.mark.timeout(60, method="thread")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a signal may come in a finaliser
def test_a_signals_exception_leaves_nothing(settings: Config, view: StoreView) -> None:
    """SIGALRM raises in the main thread, at forty moments after acquire was called."""
    reached = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with Client(limits=LIMITS, config=settings) as client:
            client.acquire("openai", "gpt-4o").release()
            for step in range(40):
                done = False
                try:
                    signal.setitimer(signal.ITIMER_REAL, 50e-6 + step * 20e-6)
                    client.acquire("openai", "gpt-4o").release()
                    done = True
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except Interrupted:
                    pass
                reached.append(done)
                check_it_goes_on(client, view, f"{50 + 20 * step} µs")
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not all(reached), "nothing was interrupted"


def keepers() -> list[threading.Thread]:
    """The threads of keepers that run."""
    return [thread for thread in threading.enumerate() if thread.name == "ratelease-keeper"]


@pytest.mark.covers("RL-07")
@pytest.mark.parametrize("then", ["acquire", "close"])
@pytest.mark.parametrize("thread", ["none", "late", "first", "one"])
def test_a_keeper_whose_start_is_interrupted_is_one_keeper_in_the_end(
    settings: Config, monkeypatch: pytest.MonkeyPatch, thread: str, then: str
) -> None:
    """The signal comes before there is a thread, before that begins (later, or as the first of two), or just after."""
    client = Client(limits=LIMITS, config=settings)
    start, before = threading.Thread.start, len(keepers())
    late: list[threading.Thread] = []

    def interrupted(self: threading.Thread) -> None:
        monkeypatch.undo()
        if thread in ("late", "first"):
            late.append(self)
        if thread == "first":
            monkeypatch.setattr(threading.Thread, "start", with_late)
        if thread == "one":
            start(self)
        raise Interrupted

    def with_late(self: threading.Thread) -> None:
        monkeypatch.undo()
        start(late.pop())
        time.sleep(0.05)
        start(self)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(Interrupted):
        client.acquire("openai", "gpt-4o")
    if then == "acquire":
        lease = client.acquire("openai", "gpt-4o")
        for each in late:
            start(each)
        wait_until(lambda: len(keepers()) == before + 1, timeout=1.0, description="there is one keeper")
        lease.release()
    client.close()
    if then == "close":
        for each in late:
            start(each)
    wait_until(lambda: len(keepers()) == before, timeout=1.0, description="no thread is left")


@pytest.mark.covers("RL-07", "QU-09")
def test_ctrl_c_in_a_waiting_acquire_comes_through_and_leaves_nobody_waiting(
    redis_url: str, settings: Config, view: StoreView, free_namespace: str
) -> None:
    """KeyboardInterrupt is raised where the program waits; its place in the queue is gone within a second."""
    limits = {"openai/gpt-4o": {"concurrency": 2}}
    with (
        Fleet(redis_url, 1, namespace=free_namespace, lease_ttl=15.0, heartbeat=5.0) as fleet,
        Client(limits=LIMITS, config=settings) as other,
    ):
        leases = [other.acquire("openai", "gpt-4o") for _ in range(2)]
        fleet[0].run("wait_for_interrupt", main=True, limits=limits)
        wait_until(lambda: view.waiting() == 1, description="the process is parked")
        fleet[0].interrupt()
        fleet[0].wait("interrupted")
        wait_until(lambda: view.waiting() == 0, timeout=1.0, description="nobody is parked")
        for lease in leases:
            lease.release()
        assert view.in_flight() == 0
