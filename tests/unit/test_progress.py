"""What clients and batches count, by a clock of the test's own."""

import pytest

from ratelease import Outcome
from ratelease.core.progress import LOOK_BACK, BatchCount, Meter, Tally


@pytest.mark.covers("UX-11")
def test_a_rate_looks_back_over_a_minute() -> None:
    """It is steady from the first seconds on, follows what changes, and falls to nothing when nothing happens."""
    meter = Meter(100.0)
    assert meter.per_second(100.0) == 0.0
    for tick in range(50):
        meter.add(100.0 + tick / 10)
    assert meter.per_second(105.0) == pytest.approx(10.0)
    for tick in range(120):
        meter.add(105.0 + tick)
    assert meter.per_second(225.0) == pytest.approx(1.0, rel=0.05)
    assert meter.per_second(225.0 + 2 * LOOK_BACK) == 0.0


@pytest.mark.covers("UX-11")
def test_what_is_left_of_a_batch_is_told_by_its_rate() -> None:
    """None while the total or the rate is unknown, 0 at the end."""
    count = BatchCount(10, 0.0)
    assert count.progress(0.0).remaining_seconds is None
    for item in range(4):
        count.begin()
        count.admit()
        count.end(True, item == 3, 2.0)
    count.begin()
    progress = count.progress(2.0)
    assert (progress.done, progress.failed, progress.waiting, progress.in_flight) == (3, 1, 1, 0)
    assert (progress.per_second, progress.remaining_seconds) == (2.0, 3.0)
    count.end(False, None, 2.0)
    assert count.progress(2.0).waiting == 0
    unknown = BatchCount(None, 0.0)
    assert unknown.progress(1.0).remaining_seconds is None
    unknown.total = 0
    assert unknown.progress(1.0).remaining_seconds == 0.0


@pytest.mark.covers("UX-16")
def test_a_tally_tells_well_from_failed_from_given_up() -> None:
    """By outcome; what ended without one was given up."""
    tally = Tally(0.0)
    for outcome in Outcome:
        tally.admit(0.5, 1.0)
        tally.end(outcome)
    tally.admit(0.5, 1.0)
    stats = tally.stats(2.0, len(Outcome) + 1, in_flight=3, waiting=1)
    assert (stats.admitted, stats.done, stats.failed, stats.given_up) == (10, 1, 6, 3)
    assert (stats.per_second, stats.average_wait, stats.in_flight) == (5.0, 0.5, 3)
