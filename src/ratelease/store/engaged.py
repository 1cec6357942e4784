"""
Whether this thread is engaged with a store: inside a call of one, or at work for a keeper.

The race that this is for: Python may collect garbage wherever an object is made, and calls signal handlers between any
two steps. A generator that lies in a cycle, half read and with a lease in its `with`, may so be closed in the middle of
our own code, and releases its lease right there: below the frame that holds the lock of a lane, or that of memory://,
or that leads the call which the release would join. It would wait for its own thread, for ever; and in a keeper's
thread it would hold up the heartbeats. The lease may be any client's of this process.

So whoever sends endings asks here first, and leaves them to the keeper where the thread is engaged. What ending a lease
takes besides is without locks, or re-entrant.
"""

from __future__ import annotations

import threading


class _Here(threading.local):
    def __init__(self) -> None:
        # Only this thread takes it, so nobody waits. It is a lock, and not a count, since no interrupt comes between
        # the body of a `with` and its exit where that is made of C.
        self.lock = threading.RLock()


_here = _Here()


def engaged() -> threading.RLock:
    """What a thread enters around the calls in which it is engaged, once or several times within one another."""
    return _here.lock


def is_engaged() -> bool:
    """Whether this thread is engaged, and must not ask a store on behalf of whatever has come in between."""
    owned: bool = _here.lock._is_owned()  # type: ignore[attr-defined]  # noqa: SLF001 - as threading itself asks
    return owned
