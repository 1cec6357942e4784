"""
What an acquire does next. A generator that yields what it needs; either shell performs it and sends back the result.

    Ask    send the request to the store            -> Answer
    Tell   the caller is queued, once               -> None
    Wait   until the keeper has an answer, or the   -> Answer, or None at the deadline
           request's deadline

A flow owns nothing across a yield: whatever ends it early (cancellation, an interrupt), the shell withdraws the id.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from ..errors import ImpossibleRequest, LeaseLost, QuotaExhausted, WaitTimeout
from .keys import scope_label
from .model import Answer, Grant, Line, Reason, Refusal, Request, Verdict, dimension_label

# Why nothing is granted, where it is no limit.
_REASONS: dict[str, Reason] = {"pause": "paused", "recovery": "recovering", "breaker": "failing", "quota": "quota"}


@dataclass(frozen=True, slots=True)
class Ask:
    """Send the request."""


@dataclass(frozen=True, slots=True)
class Tell:
    """Tell the caller's on_queued."""

    answer: Answer


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait for the keeper."""


Effect = Ask | Tell | Wait
Flow = Generator[Effect, Any, Grant | Refusal]


@dataclass(frozen=True, slots=True)
class Outer:
    """A lease that the asking context itself holds: what it takes of which scopes."""

    id: str
    scopes: tuple[str, ...]
    weight: int


def acquire(request: Request, outer: tuple[Outer, ...]) -> Flow:
    """
    Ask, and wait if the request waits.

    Returns a Refusal where the store refused, or where a request that waits could not be met before its deadline.

    Raises:

        ImpossibleRequest: It can never fit, or not while the asking context holds `outer`.
    """
    answer: Answer | None = yield Ask()
    told = False
    last = answer
    while answer is not None:
        last = answer
        if answer.status is Verdict.GRANTED:
            return grant_of(request, answer)
        if answer.status is Verdict.TOMBSTONED:
            raise LeaseLost(f"request {request.id} was withdrawn before it was granted")
        if answer.status is Verdict.IMPOSSIBLE:
            raise impossible(request, answer)
        if answer.status is Verdict.REFUSED:
            return refusal(request.line, answer)
        check_nested(request, answer, outer)
        if not told:
            told = True
            yield Tell(answer)
        answer = yield Wait()
    assert last is not None
    return refusal(request.line, last, "deadline")


def grant_of(request: Request, answer: Answer) -> Grant:
    """The leases that an answer grants. They end a TTL after the call was sent, not after it was answered."""
    if answer.flags:
        return Grant(request, 0, math.inf, "", answer.flags)
    return Grant(
        request, answer.at, answer.header.deadline(answer.sent), answer.header.epoch, watched=bool(answer.position)
    )


def _where(line: Line, answer: Answer) -> tuple[str, str]:
    scope = scope_label(line.path.scopes[max(answer.scope, 0)])
    # "queue:<dimension>": behind a head that waits for that; "queue": behind another path's.
    kind, _, inner = answer.dimension.partition(":")
    return scope, dimension_label(inner or ("c" if kind == "queue" else kind))


def refusal(line: Line, answer: Answer, reason: Reason | None = None) -> Refusal:
    """What an answer says that is no grant."""
    scope, dimension = _where(line, answer)
    if reason is None:
        reason = "queued" if answer.dimension.startswith("queue") else _REASONS.get(answer.dimension, "limit")
    retry_after = max(answer.at - answer.header.now, 0) / 1000 if answer.at else None
    if retry_after is None and answer.estimate >= 0:
        retry_after = answer.estimate / 1000
    return Refusal(
        scope, dimension, answer.used, answer.limit, retry_after, reason, answer.position, bool(answer.flags)
    )


def impossible(request: Request, answer: Answer) -> ImpossibleRequest:
    """The error for a request that no wait would help."""
    scope, dimension = _where(request.line, answer)
    return ImpossibleRequest(
        f"{scope}: the request needs {answer.used:,} of {dimension} at once, the limit is {answer.limit:,}: "
        "it can never be granted. Ask for less, or raise the limit",
        scope=scope,
        dimension=dimension,
        used=answer.used,
        limit=answer.limit,
    )


def denied(refused: Refusal, waited: float, attempts: int) -> WaitTimeout | QuotaExhausted:
    """The error for a wait that ended, or could not end in time, or that does not help."""
    if refused.reason == "quota":
        return QuotaExhausted(
            f"{refused.scope}: the provider says that the account has nothing left to spend, or no access. Nobody "
            "calls it for now; mend the account, then resume() the provider",
            scope=refused.scope,
            dimension=refused.dimension,
            retry_after=refused.retry_after,
            waited=waited,
        )
    soon = "" if refused.retry_after is None else f"; room is expected in {refused.retry_after:.1f} s"
    place = f" at place {refused.position} of the queue" if refused.position else ""
    advice = "Wait longer (timeout=), ask less at once, or raise the limit"
    why = f"{refused.scope} uses {refused.used:,} of {refused.limit:,} {refused.dimension}"
    if refused.share:
        why += ", its share while the store is away"
    if refused.dimension == "pause":
        why = f"{refused.scope} is paused" + ("" if soon else " until an operator resumes it")
        advice = "Come back then, or end it by operator.resume(…)" if soon else "End it by operator.resume(…)"
    if refused.dimension == "breaker":
        why = f"calls of {refused.scope} have failed in a row, and single ones try now"
        advice = "Come back then, or let all try by operator.resume(…)" if soon else "Let all try by operator.resume(…)"
    if refused.dimension == "pace":
        why = f"calls of {refused.scope} are spread over time"
    if refused.dimension == "recovery":
        why = "the store has lost its data and waits for those who hold leases to register them again"
        advice = "Wait longer (timeout=), or come back then"
    return WaitTimeout(
        f"no lease after {waited:.1f} s{place}: {why}{soon}. {advice}",
        scope=refused.scope,
        dimension=refused.dimension,
        used=refused.used,
        limit=refused.limit,
        retry_after=refused.retry_after,
        waited=waited,
        position=refused.position,
        attempts=attempts,
    )


def check_nested(request: Request, answer: Answer, outer: tuple[Outer, ...]) -> None:
    """Refuse to wait for what only this context itself could give back."""
    kind, _, inner = answer.dimension.partition(":")
    if not outer or answer.limit < 1 or (inner or kind) not in ("c", "queue"):
        return
    scope = request.line.path.scopes[answer.scope]
    holding = [lease for lease in outer if scope in lease.scopes]
    if sum(lease.weight for lease in holding) + request.n * request.weight <= answer.limit:
        return
    raise ImpossibleRequest(
        f"{scope_label(scope)}: this context already holds lease {holding[-1].id} of it, and the concurrency limit "
        f"is {answer.limit}: waiting here would never end. Use the lease that is held, or release it first",
        scope=scope_label(scope),
        dimension="concurrency",
        used=answer.used,
        limit=answer.limit,
    )
