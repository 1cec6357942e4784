"""What threads wait on: one C step each, so that an interrupt can leave nothing locked."""

import threading

import pytest

from ratelease.store.wake import Room, Wake
from support.repository import PACKAGE, python_files, shown


def test_a_wake_up_that_comes_first_is_kept_and_several_are_one() -> None:
    """The waiting thread may not be there yet."""
    wake = Wake()
    wake.set()
    wake.set()
    assert wake.wait(0)
    assert not wake.wait(0)


def test_a_thread_is_woken_by_another() -> None:
    """The usual case, with a deadline that no machine reaches."""
    wake = Wake()
    thread = threading.Thread(target=wake.set)
    thread.start()
    assert wake.wait(float("inf"))
    thread.join()


def test_a_deadline_in_the_past_does_not_wait() -> None:
    """Negative time is none."""
    assert not Wake().wait(-1)
    assert not Room(0).enter(-1)


def test_a_room_holds_as_many_as_it_has_places() -> None:
    """One that leaves lets one in."""
    room = Room(1)
    assert room.enter(0)
    assert not room.enter(0)
    room.leave()
    assert room.enter(0)


@pytest.mark.covers("RL-07")
@pytest.mark.parametrize(
    "path", [path for path in python_files(PACKAGE) if not {"cli", "testing"} & {*path.parts}], ids=shown
)
def test_no_caller_waits_on_what_an_interrupt_can_leave_locked(path) -> None:
    """The events, conditions and semaphores of threading are Python code around a lock."""
    source = path.read_text()
    found = [name for name in ("Event", "Condition", "Semaphore", "BoundedSemaphore") if f"threading.{name}" in source]
    assert found == []
