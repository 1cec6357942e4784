"""Asking for several leases at once: the part of acquire_many that needs no colour."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from .core import admission
from .core.admission import Outer
from .core.model import Answer, Refusal, Request, Verdict
from .core.scripts import Ending
from .store.hold import Hold
from .store.runtime import Runtime
from .store.waiter import Waiter


class Gathering:
    """
    The requests of one acquire_many, and what has come of them.

    Every grant becomes holds at once, in whatever thread it arrives: it is renewed from then on, whether or not
    anybody asks for it. `post` brings them to the owner.
    """

    def __init__(
        self,
        runtime: Runtime,
        requests: Sequence[Request],
        least: int,
        place: str,
        post: Callable[[list[Hold] | Exception], None],
    ) -> None:
        self.runtime = runtime
        self.requests = requests
        self.least = least
        self.deadline = requests[0].deadline
        self.started = time.monotonic()
        self.refused: Refusal | None = None
        self._place = place
        self._post = post
        self._pending: dict[str, Waiter] = {}
        for request in requests:
            self._expect(request)

    def _expect(self, request: Request) -> None:
        waiter = self.runtime.keeper.expect(request, lambda: self._arrived(waiter))
        self._pending[request.id] = waiter

    def _arrived(self, waiter: Waiter) -> None:
        self._pending.pop(waiter.request.id, None)
        self.runtime.keeper.forget(waiter)
        if waiter.error is not None:
            self._post(waiter.error)
            return
        answer = waiter.answer
        if answer is None or answer.status is not Verdict.GRANTED:
            if answer is not None and answer.status is Verdict.IMPOSSIBLE:
                self._post(admission.impossible(waiter.request, answer))
            return
        now = time.monotonic()
        grant = admission.grant_of(waiter.request, answer)
        holds = Hold.of(self.runtime, grant, now, now - self.started, self._place)
        for hold in holds:
            self.runtime.keeper.keep(hold)
        self._post(holds)

    def answered(self, answers: Sequence[Answer], outer: tuple[Outer, ...]) -> None:
        """Take over what the store said of each request; raise what no wait would help."""
        for request, answer in zip(self.requests, answers, strict=True):
            waiter = self._pending.get(request.id)
            if answer.status is Verdict.IMPOSSIBLE:
                raise admission.impossible(request, answer)
            if answer.status is Verdict.PARKED:
                admission.check_nested(request, answer, outer)
            elif waiter is not None:
                waiter.resolve(answer)
            if answer.status is not Verdict.GRANTED and self.refused is None:
                self.refused = admission.refusal(request.line, answer)

    @property
    def waits(self) -> bool:
        """Whether anything may still be granted."""
        return any(request.id in self._pending for request in self.requests)

    def timed_out(self) -> Exception:
        """The error at the deadline."""
        refused = self.refused or Refusal("", "", 0, 0, None, "deadline")
        return admission.timed_out(refused, time.monotonic() - self.started, self.requests[0].sent)

    def withdraw(self) -> list[Ending]:
        """Stop waiting for what has not come; the endings are the caller's to send."""
        endings = []
        for waiter in list(self._pending.values()):
            self._pending.pop(waiter.request.id, None)
            self.runtime.keeper.forget(waiter)
            if waiter.request.sent:
                endings.append(Ending(waiter.request.line, waiter.request.id, unsent=True, may_land=True))
        return endings
