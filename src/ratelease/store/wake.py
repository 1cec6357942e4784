"""
What threads wait on here, made of bare locks.

A signal's exception (Ctrl-C, a timeout) can come between any two steps of Python code in the main thread. The events
and semaphores of `threading` are Python code around a lock: interrupted inside, they keep it, and whoever sets the
event next stands still for ever. A lock and a SimpleQueue are taken and given back in one step of C.
"""

from __future__ import annotations

import threading
from queue import Empty, SimpleQueue

LONGEST_WAIT = 86_400.0


class Wake:
    """One thread waits, any thread wakes it. A wake-up that comes first is kept; several are one."""

    __slots__ = ("_asleep",)

    def __init__(self) -> None:
        self._asleep = threading.Lock()
        self._asleep.acquire()

    def set(self) -> None:
        """Wake the waiting thread, or let its next wait end at once."""
        try:
            self._asleep.release()
        except RuntimeError:
            # It was awake already.
            return

    def wait(self, timeout: float) -> bool:
        """Wait for at most `timeout` seconds, a day if that is longer. Whether somebody has woken this thread."""
        return self._asleep.acquire(timeout=min(max(timeout, 0.0), LONGEST_WAIT))


class Room:
    """Places for a number of threads at once; the others wait for one to become free."""

    __slots__ = ("_places",)

    def __init__(self, places: int) -> None:
        self._places: SimpleQueue[None] = SimpleQueue()
        for _ in range(places):
            self._places.put(None)

    def enter(self, timeout: float) -> bool:
        """Take a place, waiting for it at most `timeout` seconds."""
        try:
            self._places.get(timeout=max(timeout, 0.0))
        except Empty:
            return False
        return True

    def leave(self) -> None:
        """Give the place back."""
        self._places.put(None)
