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

    A claim and a repeated request may both bring the same grant: only the first one counts.
    """

    __slots__ = ("_lock", "answer", "error", "request", "wake")

    def __init__(self, request: Request, wake: Callable[[], None]) -> None:
        self.request = request
        self.wake = wake
        self.answer: Answer | None = None
        self.error: Exception | None = None
        self._lock = threading.Lock()

    @property
    def granted(self) -> Answer | None:
        """The grant that its caller has not taken yet, if there is one."""
        answer = self.answer
        return answer if answer is not None and answer.status is Verdict.GRANTED else None

    def renewed(self, sent: float, header: Header) -> None:
        """Move the grant's deadline on: it was renewed by a call sent at `sent`, before its caller has woken up."""
        with self._lock:
            if self.answer is not None:
                self.answer = replace(self.answer, sent=sent, header=header)

    def resolve(self, answer: Answer) -> None:
        """Leave an answer that ends the wait."""
        with self._lock:
            if self.answer is not None or self.error is not None:
                return
            self.answer = answer
        self.wake()

    def fail(self, error: Exception) -> None:
        """End the wait with an error."""
        with self._lock:
            if self.answer is not None or self.error is not None:
                return
            self.error = error
        self.wake()
