"""How calls of one model go, of what its scopes have learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .plain import Plain
from .reaction import Event
from .status import ScopeStatus

ERROR_WINDOW = 300.0
MOST_SAMPLES = 50
MOST_EVENTS = 100

# The limit counts as healthy from this part of what it is without failures.
HEALTHY_PART = 0.8

LONGEST_BACKOFF = 60.0


@dataclass(frozen=True, slots=True)
class Health(Plain):
    """
    How calls of one model go, in the whole fleet.

    Attributes:

        healthy: No failure of the provider within five minutes, at least four fifths of the limit in force, and
            nothing that stops calls altogether: no breaker, no empty account.

        scope: Whose failures these are: the narrowest scope of the path that limits anything.

        limit, base: The concurrency limit in force, and without failures; None where there is none.

        reason: Why the limit is what it is.

        penalty: By how much limits are divided, less 1.

        in_flight: Calls under way.

        recent_429s: Episodes of 429 within five minutes; one that many calls have met counts once.

        recommended_backoff: Seconds after which to call again if one's own calls fail: 2, 4, 8 … 60 with the number of
            recent 429s, less the time since the last.

        average_response: Seconds that calls take: of the newest 50 that were reported, else that leases are held.

        paused_for: Seconds that a pause still lasts; None while nobody knows (until somebody resumes).
    """

    healthy: bool
    scope: str
    limit: int | None
    base: int | None
    reason: str
    penalty: float
    in_flight: int
    recent_429s: int
    recommended_backoff: float
    average_response: float | None
    paused_for: float | None


def recommended_backoff(throttled: Sequence[Event], now: float) -> float:
    """Seconds to wait after so many recent 429s, less what has passed since the last of them."""
    if not throttled:
        return 0.0
    wait = min(2.0 ** min(len(throttled), 10), LONGEST_BACKOFF)
    return max(wait - max(now - throttled[-1].at, 0.0), 0.0)


def health_of(
    scopes: Sequence[ScopeStatus],
    *,
    window: float = ERROR_WINDOW,
    samples: int = MOST_SAMPLES,
    most: int = MOST_EVENTS,
) -> Health:
    """
    Of the scopes of one path, the model first.

    `window` is how far back failures count, in seconds; `samples` how many response times are averaged, `most` how many
    failures are looked at.
    """
    model = scopes[0]
    scope = reacting(scopes)
    told, now = scope.reaction, scope.reaction.at
    recent = [event for event in told.events[-most:] if now - event.at < window and event.failed]
    throttled = [event for event in recent if event.throttled]
    limit, base = told.limit, told.base
    large_enough = limit is None or base is None or limit >= HEALTHY_PART * base
    times = told.responses[-samples:]
    # An empty account is the provider's scope's to know, whichever scope learns from other failures.
    stopped = any(each.reaction.quota or each.reaction.breaker for each in scopes)
    pauses = [each.resumes_in for each in scopes if each.paused]
    return Health(
        healthy=large_enough and not recent and not stopped,
        scope=scope.scope,
        limit=limit,
        base=base,
        reason=told.reason,
        penalty=told.penalty,
        in_flight=model.in_flight,
        recent_429s=len(throttled),
        recommended_backoff=recommended_backoff(throttled, now),
        average_response=round(sum(times) / len(times), 3) if times else model.average_held,
        paused_for=0.0 if not pauses else None if None in pauses else max(each or 0.0 for each in pauses),
    )


def reacting(scopes: Sequence[ScopeStatus]) -> ScopeStatus:
    """Of the scopes of one path, the one that learns from its failures; see lua/lib/reacting_scope."""
    for scope in scopes[:-1] or scopes:
        if scope.agreed or scope.overrides or scope.reaction.base is not None or scope.reaction.events:
            return scope
    return scopes[0]
