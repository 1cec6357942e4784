"""Say when the provider behaves otherwise: overload, forced 429s, an empty account, less capacity. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, Self

from ratelease.errors import ConfigError

Kind = Literal["overloaded", "throttled", "quota", "capacity"]

KINDS: tuple[Kind, ...] = ("overloaded", "throttled", "quota", "capacity")

STATUSES: dict[Kind, frozenset[int]] = {
    "overloaded": frozenset({500, 502, 503, 504, 529}),
    "throttled": frozenset({429}),
    "quota": frozenset({402, 429}),
    "capacity": frozenset(),
}

FORM = "KIND[:STATUS]@START[+SECONDS][xCOUNT][*SHARE]"
_NUMBER = r"\d+(?:\.\d+)?(?:e-?\d+)?"
_TEXT = re.compile(
    rf"(?P<kind>[a-z]+)(?::(?P<status>\d+))?@(?P<start>{_NUMBER})"
    rf"(?:\+(?P<seconds>{_NUMBER}))?(?:x(?P<count>\d+))?(?:\*(?P<share>{_NUMBER}))?"
)


@dataclass(frozen=True, slots=True)
class Phase:
    """Hold one time in which the provider behaves otherwise.

    As text, `KIND[:STATUS]@START[+SECONDS][xCOUNT][*SHARE]`: "overloaded:503@10+5" refuses with 503 from second
    10 to 15, "throttled@0x3" the first three requests with 429, "capacity@30+60*0.5" halves all limits for a
    minute, "quota@20" empties the account for good.

    Args:
        kind: "overloaded" (503 or 529), "throttled" (429 without a limit being reached), "quota" (an empty
            account), or "capacity" (the limits shrink and come back).
        start: seconds after the simulator's start or last reset.
        seconds: how long; infinite by default.
        count: refusals after which the phase is over; None for no such end. Not for "capacity".
        share: of the requests that are refused; of the limits that are left, for "capacity"; above 0, up to 1.
        status: of the answers, None for what the API in use answers.

    Raises:
        ConfigError: if something is out of range; the message names all of it.
    """

    kind: Kind
    start: float = 0.0
    seconds: float = math.inf
    count: int | None = None
    share: float = 1.0
    status: int | None = None

    def __post_init__(self) -> None:
        if faults := list(self._faults()):
            raise ConfigError("; ".join(faults))

    def _faults(self) -> Iterable[str]:
        if self.kind not in KINDS:
            yield f"the kind of a phase must be one of {', '.join(KINDS)}, not {self.kind!r}"
            return
        if not _is_number(self.start) or math.isinf(self.start):
            yield f"the start of a phase must be seconds of at least 0, not {self.start!r}"
        if not _is_number(self.seconds) or self.seconds == 0:
            yield f"the length of a phase must be seconds above 0, not {self.seconds!r}"
        if not _is_number(self.share) or not 0 < self.share <= 1:
            yield f"the share of a phase must be above 0 and at most 1, not {self.share!r}"
        if self.count is not None and (not isinstance(self.count, int) or self.count < 1 or self.kind == "capacity"):
            yield f"the count of a phase that refuses must be at least 1, not {self.count!r} of {self.kind}"
        if self.status is not None and self.status not in STATUSES[self.kind]:
            known = ", ".join(map(str, sorted(STATUSES[self.kind]))) or "none"
            yield f"the status of {self.kind} must be one of {known}, not {self.status!r}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `str` writes; ConfigError says what is wrong."""
        found = _TEXT.fullmatch(text)
        if found is None:
            raise ConfigError(f"a phase is written {FORM}, such as overloaded@10+5, not {text!r}")
        fields = found.groupdict()
        return cls(
            kind=fields["kind"],  # type: ignore[arg-type] # what is no kind is named by the check
            start=float(fields["start"]),
            seconds=float(fields["seconds"] or math.inf),
            count=int(fields["count"]) if fields["count"] else None,
            share=float(fields["share"] or 1.0),
            status=int(fields["status"]) if fields["status"] else None,
        )

    def __str__(self) -> str:
        """Write the phase as `parse` reads it."""
        status = "" if self.status is None else f":{self.status}"
        seconds = "" if math.isinf(self.seconds) else f"+{self.seconds!r}"
        count = "" if self.count is None else f"x{self.count}"
        share = "" if self.share == 1 else f"*{self.share!r}"
        return f"{self.kind}{status}@{self.start!r}{seconds}{count}{share}"

    def covers(self, elapsed: float) -> bool:
        """Say whether the moment, in seconds after the start of the schedule, lies in the phase."""
        return self.start <= elapsed < self.start + self.seconds

    def later(self, seconds: float) -> Phase:
        """Return the same phase, so many seconds later."""
        return Phase(self.kind, self.start + seconds, self.seconds, self.count, self.share, self.status)


class Schedule:
    """Keep the phases of one provider, and count what they have refused."""

    def __init__(self, phases: Sequence[Phase], begin: float, random: Random) -> None:
        self._begin = begin
        self._random = random
        self._phases = [_Running(phase) for phase in phases]

    def add(self, now: float, phases: Iterable[Phase]) -> None:
        """Add phases whose start counts from `now`."""
        self._phases += [_Running(phase.later(now - self._begin)) for phase in phases]

    def capacity(self, now: float) -> float:
        """Return the share of the limits that is there."""
        elapsed = now - self._begin
        shares = (each.phase.share for each in self._phases if each.phase.kind == "capacity" and each.covers(elapsed))
        return min(shares, default=1.0)

    def refusal(self, now: float) -> Phase | None:
        """Return the phase that refuses the request that has come, and count it there; None if none does."""
        elapsed = now - self._begin
        for each in self._phases:
            phase = each.phase
            if phase.kind == "capacity" or not each.covers(elapsed):
                continue
            if phase.share < 1 and self._random.random() >= phase.share:
                continue
            each.refused += 1
            return phase
        return None


@dataclass(slots=True)
class _Running:
    phase: Phase
    refused: int = 0

    def covers(self, elapsed: float) -> bool:
        used_up = self.phase.count is not None and self.refused >= self.phase.count
        return not used_up and self.phase.covers(elapsed)


def _is_number(figure: object) -> bool:
    """Say whether `figure` is a number that is not negative."""
    return isinstance(figure, (int, float)) and not isinstance(figure, bool) and figure >= 0
