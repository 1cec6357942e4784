"""A parked request in this process: where the keeper leaves what its caller waits for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from ..core.model import Answer, Header, Request, Verdict


class Failable(Protocol):
    """What a caller waits on, for whoever ends its wait from outside."""

    def fail(self, error: Exception) -> object:
        """End the wait with an error."""


class Waiter:
    """
    One caller that waits. `wake` is called once, from any thread, when `answer` or `error` is set.

    A claim and a repeated request may both bring the same grant: only the first one counts. `local` is set while it
    waits for this process' share, see store/outage.py.
    """

    __slots__ = ("_lock", "answer", "error", "forgotten", "local", "request", "wake")

    def __init__(self, request: Request, wake: Callable[[], None]) -> None:
        self.request = request
        self.wake = wake
        self.answer: Answer | None = None
        self.error: Exception | None = None
        self.local = False
        self.forgotten = False
        # Re-entrant: a batch that is collected ends its waits, while this very thread may be in here.
        self._lock = threading.RLock()

    @property
    def settled(self) -> bool:
        """Whether its wait is over: nothing that comes from here on is taken."""
        return self.answer is not None or self.error is not None or self.forgotten

    @property
    def granted(self) -> Answer | None:
        """The grant that its caller has not taken yet, if there is one."""
        answer = self.answer
        return answer if answer is not None and answer.status is Verdict.GRANTED else None

    def fresher(self, answer: Answer) -> Answer:
        """
        What counts of an answer that the caller has read itself: a grant that the keeper has claimed counts for more.

        The keeper's is renewed. The caller's own may say the same of a call that was sent long ago, or "parked", where
        its event loop has read it late.
        """
        return self.granted or answer

    def renewed(self, sent: float, header: Header) -> None:
        """Move the grant's deadline on: it was renewed by a call sent at `sent`, before its caller has woken up."""
        with self._lock:
            if self.answer is not None:
                self.answer = replace(self.answer, sent=sent, header=header)

    def resolve(self, answer: Answer, id: str | None = None) -> bool:
        """Leave an answer that ends the wait. False if it comes too late, or for an id that was given up meanwhile."""
        with self._lock:
            if self.settled or (id is not None and id != self.request.id):
                return False
            self.answer = answer
        self.wake()
        return True

    def give_up(self) -> Answer | None:
        """End the wait of a caller whose time is over; the grant that has come first, if one has."""
        with self._lock:
            if self.granted is None:
                self.forgotten = True
            return self.granted

    def forget(self) -> None:
        """Note that its caller has gone, with or without an answer."""
        with self._lock:
            self.forgotten = True

    def sending(self) -> Request | None:
        """
        Note that the request is sent once more; None if the wait is over.

        What is returned is the request as it is now: it may get another id before the call is answered. A caller that
        gives up either sees that its request was sent, or is seen to be gone.
        """
        with self._lock:
            if self.settled:
                return None
            self.request.sent += 1
            return replace(self.request)

    def restart(self, id: str, *, granted: bool = False) -> bool:
        """
        Give the request another id, as if it had never been sent. False if the wait is over.

        `granted`: also if it is over by a grant, which is given back.
        """
        request = self.request
        with self._lock:
            if self.settled and not (granted and self.granted is not None):
                return False
            self.answer, self.local = None, False
            request.id, request.sent, request.answered, request.last = id, 0, 0, None
        return True

    def fail(self, error: Exception) -> None:
        """End the wait with an error."""
        with self._lock:
            if self.settled:
                return
            self.error = error
        self.wake()
