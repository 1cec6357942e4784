"""The values that decisions are made of."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ..limits import SHORT_FORMS, UNITS, Limits, per_mille, rate_label
from ..strategies import DEFAULT, Strategy, strategy_words
from .keys import Path
from .plain import Plain

# One letter a unit in costs, limits and windows, as the Lua files know them.
UNIT_LETTERS: dict[str, str] = {"requests": "r", "tokens": "t", "input_tokens": "i", "output_tokens": "o"}
LETTER_UNITS: dict[str, str] = {letter: unit for unit, letter in UNIT_LETTERS.items()}

# Figures that are no rate, as scripts name them.
_PLAIN: dict[str, str] = {"c": "concurrency", "h": "headroom", "k": "cooldown"}

# A pause until this ms ends when an operator resumes; the highest number that every Lua keeps whole.
UNTIL_RESUMED = 2**53 - 1

# Limits by the names that people use: "rpm", "concurrency", "requests/10s", "headroom".
Figures = dict[str, float]

HIGHEST_WEIGHT = 1024
HIGHEST_COUNT = 1024


class Outcome(enum.Enum):
    """How a call ended; what :meth:`Lease.release` is told."""

    OK = "ok"
    THROTTLED = "throttled"
    OVERLOADED = "overloaded"
    TIMEOUT = "timeout"
    ERROR = "error"
    QUOTA = "quota"
    CANCELLED = "cancelled"
    IGNORED = "ignored"
    UNSENT = "unsent"


@dataclass(frozen=True, slots=True)
class Line:
    """One path as its calls need it: keys, and what this client says of each scope's limits."""

    path: Path
    keys: tuple[str, ...]
    specs: tuple[str, ...]
    provider: str
    model: str


@dataclass(slots=True, eq=False)
class Request:
    """
    One request for `n` leases of one path that are granted together.

    `id` is the id of the first lease: a random text for one lease, `<random>.1` for a group. `deadline` is monotonic
    seconds. `sent` counts the times it may have reached the store, `answered` those of which a reply came back;
    `last` is what the last reply said. `boarded`: it is part of a call that may be sent at any moment.
    """

    line: Line
    id: str
    n: int
    weight: int
    costs: str
    deadline: float
    waits: bool
    sent: int = 0
    answered: int = 0
    last: Verdict | None = None
    boarded: bool = False

    @property
    def may_land(self) -> bool:
        """Whether a copy of it may still be on its way, so that ending it must leave a tombstone."""
        return self.boarded or self.sent > self.answered

    @property
    def lingers(self) -> bool:
        """Whether the store may know of it, so that giving it up means to withdraw it."""
        settled = self.last in (Verdict.REFUSED, Verdict.IMPOSSIBLE, Verdict.TOMBSTONED)
        return self.may_land or (self.sent > 0 and not settled)

    @property
    def parked(self) -> bool:
        """Whether it waits in the store's queue, as far as its own replies tell."""
        return self.last is Verdict.PARKED

    def note(self, status: Verdict) -> None:
        """Take over what a reply says of it."""
        self.answered += 1
        # Read late, a reply may still say that it waits.
        if self.last is not Verdict.GRANTED:
            self.last = status

    @property
    def lease_ids(self) -> list[str]:
        """The ids of the leases it stands for."""
        if self.n == 1:
            return [self.id]
        base = self.id[:-1]
        return [f"{base}{i}" for i in range(1, self.n + 1)]


@dataclass(frozen=True, slots=True)
class Grant:
    """
    Leases that were granted: `at` in the server's ms, `deadline` on the holder's monotonic clock.

    `flags` names the policy that has granted them without the store; then there is neither `at` nor epoch nor end.
    `watched`: the store wants to know if their calls end well.
    """

    request: Request
    at: int
    deadline: float
    epoch: str
    flags: frozenset[str] = frozenset()
    watched: bool = False


Reason = Literal["limit", "queued", "deadline", "paused", "recovering", "failing", "quota"]


@dataclass(frozen=True, slots=True)
class Refusal(Plain):
    """
    Why nothing was granted. Falsy.

    Attributes:

        scope: The binding scope: "openai/gpt-4o", "openai", "pool:opus" or "total".

        dimension: The binding limit: "concurrency", or a rate such as "requests/60s".

        used: What is in use of it. limit: how much there is.

        retry_after: Seconds until another try can succeed, as far as it is known; None if nobody can know.

        reason: "limit", "queued" (others wait for the same), "paused" (`dimension` is "pause"), "recovering" (the store
            has lost data and waits for holders), "failing" (a breaker is open), or "quota" (the account is empty).
            "deadline" (it cannot free in time) comes as a WaitTimeout, never in a Refusal that a caller gets.

        share: The store is away, and `limit` is only this instance's share of the limit.
    """

    scope: str
    dimension: str
    used: int
    limit: int
    retry_after: float | None
    reason: Reason
    position: int = 0
    share: bool = False

    def __bool__(self) -> Literal[False]:
        return False


@dataclass(frozen=True, slots=True)
class Header:
    """What every path script says before its own answer. Times in ms of the server's clock."""

    now: int
    epoch: str
    generation: int
    ttl: int
    beat: int
    claim_ttl: int
    following: str
    timer: int

    def deadline(self, sent: float) -> float:
        """
        Until when a lease is surely its holder's, if the call that granted or renewed it was sent at `sent`.

        The store cuts its clock to whole ms, so it may count the TTL from up to one ms before the call was sent.
        """
        return sent + (self.ttl - 1) / 1000


class Verdict(enum.IntEnum):
    """What acquire.lua answers to one request."""

    GRANTED = 1
    PARKED = 2
    REFUSED = 3
    IMPOSSIBLE = 4
    TOMBSTONED = 5


class Ended(enum.IntEnum):
    """What release.lua answers to one lease."""

    RELEASED = 1
    LOST = 2
    WITHDRAWN = 3
    UNKNOWN = 4


@dataclass(frozen=True, slots=True)
class Answer:
    """
    What acquire.lua says of one request. `sent` is the monotonic time before the call was sent; `flags` says which
    policy has answered in the store's place.
    """

    status: Verdict
    scope: int
    dimension: str
    used: int
    limit: int
    at: int
    position: int
    estimate: int
    header: Header
    sent: float
    flags: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Held:
    """One lease as renew.lua needs it."""

    id: str
    weight: int
    at: int
    costs: str


def spec_of(limits: Limits | None, headroom: float = 1.0, strategy: tuple[Strategy, ...] = DEFAULT) -> str:
    """
    Limits as scripts read them: "c8 h700 r60000=500+250", "none", or "-" for no opinion; behind them how the scope
    reacts to failures, `strategy` where the limits do not say, unless that is the default.

    The headroom, in thousandths and only where it is below 1, scales the rates when they are read: what is stated
    stays as it is.
    """
    if limits is None:
        return "-"
    parts = [f"c{limits.concurrency}"] if limits.concurrency is not None else []
    headroom = limits.headroom if limits.headroom is not None else headroom
    if headroom < 1:
        parts.append(f"h{per_mille(headroom)}")
    if limits.cooldown is not None:
        parts.append(f"k{round(limits.cooldown * 1000)}")
    for rate in limits.windows:
        guard = min(round(limits.guard * 1000), rate.window_ms // 10)
        parts.append(f"{UNIT_LETTERS[rate.of]}{rate.window_ms}={rate.limit}+{guard}")
    if limits.strategy is not None:
        strategy = limits.strategy
    elif not parts:
        strategy = DEFAULT
    return (" ".join(parts) or "none") + strategy_words(strategy)


def overrides_of(limits: Limits) -> str:
    """The figures of limits as an operator sets them: a rate says its guard where one was asked for."""
    words = [] if limits.concurrency is None else [f"c{limits.concurrency}"]
    if limits.headroom is not None:
        words.append(f"h{per_mille(limits.headroom)}")
    if limits.cooldown is not None:
        words.append(f"k{round(limits.cooldown * 1000)}")
    for rate in limits.windows:
        guard = f"+{min(round(limits.guard * 1000), rate.window_ms // 10)}" if "guard" in limits.figures else ""
        words.append(f"{UNIT_LETTERS[rate.of]}{rate.window_ms}={rate.limit}{guard}")
    return " ".join(words)


def figures_of(spec: str) -> Figures:
    """Limits as scripts write them, by the names that people use; what cannot be read is left out."""
    figures: Figures = {}
    for word in spec.split(" "):
        name, _, limit = word.partition("=")
        if limit:
            limit = limit.partition("+")[0]
        elif word[:1] in ("c", "h", "k"):
            name, limit = word[:1], word[1:]
        # As scripts do: of more digits it is none of ours, and too large to be divided.
        if limit.isdecimal() and len(limit) <= 15 and len(name) <= 16:
            figures[figure_label(name)] = int(limit) / 1000 if name in ("h", "k") else int(limit)
    return figures


def costs_of(charges: Mapping[str, int], guesses: Mapping[str, int] | None = None) -> str:
    """Charges of one lease as scripts read them: "r1t1200", and in upper case those that are only a guess: "T1000"."""
    costs = "".join(f"{UNIT_LETTERS[unit]}{charges[unit]}" for unit in UNITS if charges.get(unit))
    if guesses:
        costs += "".join(f"{UNIT_LETTERS[unit].upper()}{guesses[unit]}" for unit in UNITS if guesses.get(unit))
    return costs


def usage_text(used: Mapping[str, int]) -> str:
    """What a call has really used as scripts read it: "t800", with what is 0."""
    return "".join(f"{UNIT_LETTERS[unit]}{used[unit]}" for unit in UNITS if unit in used)


def figure_label(name: str) -> str:
    """The name of a figure of a script: "h" is headroom, "r60000" is rpm, "r10000" is requests/10s."""
    if name in _PLAIN:
        return _PLAIN[name]
    for short, (unit, per) in SHORT_FORMS.items():
        if name == f"{UNIT_LETTERS[unit]}{per * 1000:.0f}":
            return short
    return dimension_label(name)


def figure_name(label: str) -> str | None:
    """The inverse of :func:`figure_label`; None for what is no figure."""
    if label in _PLAIN.values():
        return next(name for name, plain in _PLAIN.items() if plain == label)
    if label in SHORT_FORMS:
        unit, per = SHORT_FORMS[label]
        return f"{UNIT_LETTERS[unit]}{per * 1000:.0f}"
    unit_name, _, window = label.partition("/")
    try:
        milliseconds = round(float(window.removesuffix("s")) * 1000)
    except (ValueError, OverflowError):
        return None
    return f"{UNIT_LETTERS[unit_name]}{milliseconds}" if unit_name in UNIT_LETTERS and milliseconds > 0 else None


def dimension_label(dimension: str) -> str:
    """A dimension of a script in words: "c" is concurrency, "r60000" is requests/60s."""
    if dimension == "c":
        return "concurrency"
    unit = LETTER_UNITS.get(dimension[:1])
    if unit and dimension[1:].isdigit():
        return rate_label(unit, int(dimension[1:]))
    return dimension
