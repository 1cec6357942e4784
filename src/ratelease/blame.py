"""
Which lease learns from an exception: of those that it leaves, the innermost, and one of a group.

A call inside the lease of another call raises through both, and only one provider has answered. So the lease that ends
by an exception notes on it which leases its context has entered around it, and these learn nothing from it. Noted are
their ids: a reference would keep leases, or the frames of the exception, alive.
"""

from __future__ import annotations

from contextlib import suppress

from .core.feedback import Feedback
from .core.model import Outcome
from .shell import held_here
from .store.hold import Hold

_KEY = "__ratelease_told__"

# Exceptions that were raised from one another.
DEEPEST = 8

NOTHING = Feedback(Outcome.IGNORED)


def learned(feedback: Feedback, error: object, hold: Hold) -> Feedback:
    """What a lease that is about to end learns of the feedback on an error, which those around it then do not."""
    if not isinstance(error, BaseException) or hold.ended:
        return feedback
    inner = False
    around = [each.id for each, _ in held_here.get() if each is not hold and not each.ended]
    # What a stranger's class does must not cost the caller its own error.
    with suppress(Exception):
        inner = _told(error, hold.id)
        if around:
            error.__dict__[_KEY] = (*error.__dict__.get(_KEY, ()), *around)
    # That a call was given up is true of every call that it leaves.
    return NOTHING if inner and feedback.outcome is not Outcome.CANCELLED else feedback


def learned_along(feedback: Feedback) -> Feedback:
    """What the other leases of a group learn where one has this feedback: nothing of a failure, which was one."""
    return feedback if feedback.outcome in (Outcome.OK, Outcome.CANCELLED) else NOTHING


def _told(error: BaseException, id: str) -> bool:
    """Whether a lease inside this one has ended by an exception, or by what it was raised from; of a group, by all."""
    each: BaseException | None = error
    for _ in range(DEEPEST):
        if each is None:
            break
        if id in each.__dict__.get(_KEY, ()):
            return True
        if isinstance(each, BaseExceptionGroup):
            return all(_told(one, id) for one in each.exceptions)
        each = each.__cause__
    return False
