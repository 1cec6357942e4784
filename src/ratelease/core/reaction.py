"""What a scope has learned from failures, as people see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..strategies import CAUSE
from .feedback import EXCEEDED
from .keys import is_scope, scope_label
from .plain import Plain
from .scripts import text

# What a script's letter is called where people read it.
REASONS: dict[str, str] = {
    "t": "429 rate limit error",
    "v": "overloaded",
    "w": "timeout error",
    "e": "error",
    "q": "quota exhausted",
}

_EXCEEDED = {letter: name for name, letter in EXCEEDED.items()}


_FAILURES = frozenset(REASONS.values())


@dataclass(frozen=True, slots=True)
class Event(Plain):
    """
    One thing that a scope has learned, once an episode.

    Attributes:

        at: Seconds of the store's clock, since 1970.

        reason: "429 rate limit error", "timeout error", "overloaded", "error", "quota exhausted", or the cause of an
            explicit report.

        before, after: The concurrency limit, 0 where there is none.

        dimension: What the provider said was exceeded; "" where it has not said.
    """

    at: float
    reason: str
    before: int
    after: int
    dimension: str = ""

    @property
    def throttled(self) -> bool:
        """Whether it was a 429."""
        return self.reason == REASONS["t"]

    @property
    def failed(self) -> bool:
        """Whether a call has failed; an explicit report is none."""
        return self.reason in _FAILURES


@dataclass(frozen=True, slots=True)
class Change(Plain):
    """
    The concurrency limit in force of a scope has changed. `reason` as of an :class:`Event`, or "recovery"; `key` names
    the scope in Redis.
    """

    scope: str
    key: str
    before: int
    after: int
    reason: str


def read_change(message: str) -> Change | None:
    """What a script tells everybody: "m:openai:gpt-4o 4 2 t". None for what cannot be read."""
    parts = message.split(" ")
    if len(parts) != 4 or not is_scope(parts[0]) or not all(map(_is_number, parts[1:3])) or not _is_cause(parts[3]):
        return None
    reason = REASONS.get(parts[3], parts[3])
    return Change(scope_label(parts[0]), parts[0], int(parts[1]), int(parts[2]), reason)


@dataclass(frozen=True, slots=True)
class BreakerStatus(Plain):
    """
    What stops all calls but single ones. `state` is "open" for `opens_in` more seconds, then "half-open".

    `probing`: one call tries now.
    """

    state: Literal["open", "half-open"]
    opens_in: float
    probing: bool


@dataclass(frozen=True, slots=True)
class Reaction(Plain):
    """
    What failures have done to a scope.

    Attributes:

        limit: The concurrency limit in force, base: without all of this. None where there is none.

        penalty: By how much it is divided, less 1. A scope of rates alone admits its rates ÷ (penalty + 1).

        parallelism: The limit that this strategy has found, with fractions; None where it is not used.

        auto_reduced_from: The limit before strategy "decrement" took slots away; None where it has not.

        breaker, quota: What stops calls: failures in a row, an empty account.

        at: When this was so, in seconds of the store's clock since 1970.

        events: What was learned, the newest last; up to 100.

        responses: Seconds that the latest calls took, as far as reports have said; up to 100.
    """

    limit: int | None = None
    base: int | None = None
    penalty: float = 0.0
    parallelism: float | None = None
    auto_reduced_from: int | None = None
    breaker: BreakerStatus | None = None
    quota: BreakerStatus | None = None
    at: float = 0.0
    events: tuple[Event, ...] = ()
    responses: tuple[float, ...] = ()

    @property
    def auto_reduced(self) -> bool:
        """Whether strategy "decrement" has taken slots away."""
        return self.auto_reduced_from is not None

    @property
    def notice(self) -> str:
        """What to tell people, '' where there is nothing."""
        if not self.auto_reduced:
            return ""
        return f"Concurrency limit auto-reduced to {self.limit} after a 429 — restore manually when ready."

    @property
    def reason(self) -> str:
        """Why the limit is what it is: that of the latest event, "recovery" since then, "initial" before any."""
        if not self.events:
            return "initial"
        last = self.events[-1]
        return "recovery" if last.after and self.limit is not None and self.limit > last.after else last.reason


def read_reaction(values: Sequence[Any], now: int) -> Reaction:
    """What snapshot.lua says of it. What cannot be read counts as nothing learned: the store is not trusted."""
    limit, base = values[:2]
    penalty, adapted, reduced, breaker, quota, history, responses = map(text, values[2:])
    reduced_from = reduced.split(" ")[1:2]
    return Reaction(
        limit=limit if limit >= 0 else None,
        base=base if base >= 0 else None,
        penalty=float(penalty),
        parallelism=float(adapted) if adapted else None,
        auto_reduced_from=int(reduced_from[0]) if reduced_from and _is_number(reduced_from[0]) else None,
        breaker=_breaker(breaker, now),
        quota=_breaker(quota, now),
        at=now / 1000,
        events=tuple(event for entry in history.split(";") if (event := _event(entry)) is not None),
        responses=tuple(int(word) / 1000 for word in responses.split(";") if _is_number(word)),
    )


def _is_number(word: str) -> bool:
    """Whether it is one that scripts write: int() refuses thousands of digits."""
    return word.isdecimal() and len(word) <= 16


def _is_cause(word: str) -> bool:
    """Whether it is one that may be shown as it is, in a log or to people."""
    return CAUSE.fullmatch(word) is not None


def _breaker(words: str, now: int) -> BreakerStatus | None:
    parts = words.split(" ")
    if len(parts) != 5 or not _is_number(parts[0]):
        return None
    opens_in = max(int(parts[0]) - now, 0) / 1000
    return BreakerStatus("open" if opens_in else "half-open", opens_in, parts[4] != "-")


def _event(entry: str) -> Event | None:
    parts = entry.split(" ")
    if len(parts) != 5 or not all(map(_is_number, (parts[0], *parts[2:4]))) or not _is_cause(parts[1]):
        return None
    at, cause, before, after, exceeded = parts
    return Event(int(at) / 1000, REASONS.get(cause, cause), int(before), int(after), _EXCEEDED.get(exceeded, ""))
