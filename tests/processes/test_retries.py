"""A thread that is interrupted anywhere in a call that is tried again."""

import signal
import time
from types import FrameType

import pytest

from ratelease import Client, Config, Limits, Retry
from support.interrupts import Interrupted, every_step
from support.store_view import StoreView, check_nothing_is_left
from support.targets import ApiError, Failing

LIMITS = {"openai/gpt-4o": Limits(concurrency=1)}


@pytest.mark.covers("RT-21")
def test_a_call_interrupted_at_any_line_of_its_attempts_leaves_nothing(settings: Config, view: StoreView) -> None:
    """Two attempts and the wait between them, as a function and as a block."""
    with Client(limits=LIMITS, config=settings) as client:
        target = client.target("openai", "gpt-4o", retries=Retry(base=0.001))

        def call() -> None:
            target.call(Failing(ApiError(500)))

        def block() -> None:
            work = Failing(ApiError(500))
            for attempt in target.retrying():
                with attempt:
                    work()

        for once in (call, block):
            once()
            for place in every_step(once, stride=19):
                check_nothing_is_left(client, view, place)


@pytest.mark.covers("RT-21")
@pytest.mark.timeout(60, method="thread")
def test_a_signal_ends_a_backoff_at_once(settings: Config, view: StoreView) -> None:
    """What its handler raises comes through where the program waits."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    work = Failing(ApiError(500))
    try:
        with Client(limits=LIMITS, config=settings) as client:
            target = client.target("openai", "gpt-4o", retries=Retry(base=30, cap=30), timeout=60)
            started = time.monotonic()
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with pytest.raises(Interrupted):
                target.call(work)
            assert 0.3 <= time.monotonic() - started < 0.5
            assert work.calls == 1
            assert not client._rt.keeper.naps
            check_nothing_is_left(client, view, "a backoff")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
