"""What the keeper and a lease's owner share about one lease."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.admission import Outer
from ..core.feedback import UNASKED, Feedback, lesson
from ..core.model import Grant, Held, Line, Outcome, Request, usage_text
from ..core.scripts import Ending
from ..core.usage import Usage
from .log import logger

if TYPE_CHECKING:
    from .runtime import Runtime

_PACKAGE = str(Path(__file__).resolve().parents[1]) + os.sep


def caller_place() -> str:
    """file:line of the first caller outside this package, for messages about forgotten leases."""
    frame = sys._getframe(1)  # noqa: SLF001 - inspect.stack() reads source files
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _nobody() -> None:
    """The owner of what no lease was made of yet."""


@dataclass(slots=True, eq=False)
class Hold:
    """
    One lease in this process. Times are monotonic seconds.

    `deadline` moves with every renewal that was confirmed, counted from before it was sent: once it has passed, the
    slot may be somebody else's. `epoch` is the store's when it was last confirmed. `owner` gives the lease object,
    while somebody has it. `usage` is what its call has really used, once that is known. `watched`: the store wants to
    know if its call ends well; it may only count as a sign of capacity while `clean`.

    A lease that was admitted while the store was away has `flags`; it has neither epoch nor end until the store knows
    it, which may be as soon as its `registering` is set.
    """

    runtime: Runtime
    request: Request
    id: str
    at: int
    deadline: float
    epoch: str
    since: float
    waited: float
    place: str
    ended: bool = False
    lost: bool = False
    forgotten: bool = False
    registering: bool = False
    stream_since: float | None = None
    flags: frozenset[str] = frozenset()
    watched: bool = False
    clean: bool = True
    usage: str = ""
    owner: Callable[[], Any] = _nobody

    @classmethod
    def of(cls, runtime: Runtime, grant: Grant, now: float, waited: float, place: str) -> list[Hold]:
        """The holds of everything that was granted together."""
        return [
            cls(
                runtime,
                grant.request,
                id,
                grant.at,
                grant.deadline,
                grant.epoch,
                now,
                waited,
                place,
                flags=grant.flags,
                watched=grant.watched,
            )
            for id in grant.request.lease_ids
        ]

    @property
    def line(self) -> Line:
        """Its path."""
        return self.request.line

    @property
    def owned(self) -> bool:
        """Whether a lease was made of it, which ends it."""
        return self.owner is not _nobody

    def held(self) -> Held:
        """As renew needs it."""
        at = self.at or round((self.since + self.runtime.clock_offset) * 1000)
        return Held(self.id, self.request.weight, at, self.request.costs)

    def outer(self) -> Outer:
        """As a nested acquire needs it."""
        return Outer(self.id, self.line.path.scopes, self.request.weight)

    def settle(self, usage: Usage) -> bool:
        """Note what the call has really used; False if that was noted before, or is another process's."""
        charges = usage.charges()
        if self.usage or self.runtime.dead or not charges:
            return False
        self.usage = usage_text(charges)
        self.runtime.estimates.note(self.line.provider, self.line.model, charges)
        return True

    def settling(self) -> Ending:
        """As release needs it to settle a lease that stays."""
        return Ending(self.line, self.id, usage=self.usage, only_settle=True)

    def end(self, *, unsent: bool = False, lesson: str = "", hold: float | None = None) -> Ending | None:
        """
        Take it from the keeper; what is to be sent. None if it has ended before, is another process's, or if the store
        has never heard of it.
        """
        if self.runtime.dead or not self.runtime.keeper.unkeep(self) or self.ended:
            return None
        self.ended = True
        if self.flags and not self.registering:
            return None
        return self.ending(unsent=unsent, lesson=lesson, hold=hold)

    def give_up(self) -> list[Ending]:
        """End it for an owner that is gone without releasing it."""
        if self.runtime.dead or self.ended:
            return []
        ending = self.end()
        logger.warning("a lease was dropped without release; it is released now. Acquired at %s", self.place)
        return [ending] if ending is not None else []

    def ending(self, *, unsent: bool = False, lesson: str = "", hold: float | None = None) -> Ending:
        """As release needs it."""
        # The call that registers a lease of an outage may be under way.
        return Ending(
            self.line,
            self.id,
            unsent=unsent,
            may_land=self.request.may_land or bool(self.flags),
            usage=self.usage,
            lesson=lesson,
            hold=round((hold or 0.0) * 1000),
        )

    def lesson(self, feedback: Feedback, *, clean: bool) -> str:
        """What the fleet learns from how its call went. Of a good end most where the store has asked for it."""
        if feedback.outcome is Outcome.OK and not (clean and self.clean):
            return ""
        if feedback.outcome is Outcome.OK and not self.watched:
            return UNASKED
        return lesson(feedback, self.runtime.config)
