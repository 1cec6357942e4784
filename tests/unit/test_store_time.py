"""How far a process takes the server's clock to be from its own, by answers that are read sooner or later."""

from __future__ import annotations

import time

import pytest

from ratelease import Config
from ratelease.book import LimitBook
from ratelease.core.model import Header
from ratelease.store.runtime import Runtime

SERVER_AHEAD = 1_000_000.0


@pytest.fixture
def runtime() -> Runtime:
    """A process that has just heard of a server whose clock is so many seconds ahead of its own."""
    made = Runtime(Config(), LimitBook({}, {}), credential=None, metadata=None, on_lost=None)
    hear(made)
    assert offset(made) == pytest.approx(SERVER_AHEAD, abs=0.01)
    return made


def hear(runtime: Runtime, *, took: float = 0.0, late: float = 0.0, ahead: float = SERVER_AHEAD) -> None:
    """Read an answer of a call that took so many seconds to be answered, so many seconds late."""
    now = time.monotonic()
    header = Header(int((now - late + ahead) * 1000), "e1", 1, 15_000, 5_000, 1_000, "", 0)
    runtime.note(None, header, sent=now - late - took)


def offset(runtime: Runtime) -> float:
    """What is added to the clock of this process for the server's."""
    return -runtime.until(0) - time.monotonic()


@pytest.mark.parametrize("late", [0.5, 20.0])
def test_an_answer_that_is_read_late_does_not_set_the_clock_back(runtime: Runtime, late: float) -> None:
    """The process stood still between the answer and its reading: nothing that waits for a moment waits longer."""
    for _ in range(20):
        hear(runtime, took=0.001, late=late)
    assert offset(runtime) == pytest.approx(SERVER_AHEAD, abs=0.01)


@pytest.mark.parametrize("step", [-3600.0, -0.3, 0.3, 3600.0])
def test_a_clock_that_was_set_is_followed_at_once(runtime: Runtime, step: float) -> None:
    """An answer that was read at once says how late it is now; so does another server after a failover."""
    hear(runtime, took=0.002, ahead=SERVER_AHEAD + step)
    assert offset(runtime) == pytest.approx(SERVER_AHEAD + step, abs=0.01)


def test_an_answer_whose_sending_nobody_knows_sets_the_clock_forward_alone(runtime: Runtime) -> None:
    """It may have been read at any time after it was written."""
    for step in (-5.0, 5.0):
        header = Header(int((time.monotonic() + SERVER_AHEAD + step) * 1000), "e1", 1, 15_000, 5_000, 1_000, "", 0)
        runtime.note(None, header)
    assert offset(runtime) == pytest.approx(SERVER_AHEAD + 5.0, abs=0.01)
