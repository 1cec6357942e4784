"""Say when the provider behaves otherwise: overloads, 429s, less capacity, other clients, broken usage. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, Self

from ratelease.errors import ConfigError

Kind = Literal["overloaded", "throttled", "quota", "capacity", "foreign", "usage_error", "usage_hang", "usage_garbage"]

REFUSALS: frozenset[Kind] = frozenset({"overloaded", "throttled", "quota"})
USAGE_FAULTS: frozenset[Kind] = frozenset({"usage_error", "usage_hang", "usage_garbage"})
KINDS: tuple[Kind, ...] = (
    "overloaded", "throttled", "quota", "capacity", "foreign", "usage_error", "usage_hang", "usage_garbage",
)  # fmt: skip

STATUSES: Mapping[Kind, frozenset[int]] = {
    "overloaded": frozenset({500, 502, 503, 504, 529}),
    "throttled": frozenset({429}),
    "quota": frozenset({402, 429}),
    "usage_error": frozenset({401, 403, 404, 429, 500, 502, 503, 504}),
}

FORM = "KIND[:STATUS]@START[+SECONDS][xCOUNT][*SHARE]"
_NUMBER = r"\d+(?:\.\d+)?(?:e-?\d+)?"
_TEXT = re.compile(
    rf"(?P<kind>[a-z_]+)(?::(?P<status>\d+))?@(?P<start>{_NUMBER})"
    rf"(?:\+(?P<seconds>{_NUMBER}))?(?:x(?P<count>\d+))?(?:\*(?P<share>{_NUMBER}))?"
)


@dataclass(frozen=True, slots=True)
class Phase:
    """Hold one time in which the provider behaves otherwise.

    As text, `KIND[:STATUS]@START[+SECONDS][xCOUNT][*SHARE]`: "overloaded:503@10+5" refuses with 503 from second
    10 to 15, "throttled@0x3" the first three requests with 429, "capacity@30+60*0.5" halves all limits for a
    minute, "quota@20" empties the account for good, "foreign@10+30x3" has three calls of others in flight,
    "usage_hang@5+10" leaves who asks for the usage without an answer.

    Args:
        kind: "overloaded" (503 or 529), "throttled" (429 without a limit being reached), "quota" (an empty
            account), "capacity" (the limits shrink and come back), "foreign" (calls of other clients are in
            flight); "usage_error", "usage_hang" and "usage_garbage" break the answers that report the usage.
        start: seconds after the simulator's start or last reset.
        seconds: how long; infinite by default.
        count: refusals or broken answers after which the phase is over, None for no such end; calls, for
            "foreign". Not for "capacity".
        share: of the requests that are refused or badly answered; of the limits that are left, for "capacity";
            above 0, up to 1. Not for "foreign".
        status: of the answers, None for what the API in use answers (500 for "usage_error").

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
        elif self.share != 1 and self.kind == "foreign":
            yield f"a phase of foreign calls has a count, and no share such as {self.share!r}"
        if self.count is not None and not (_is_count(self.count) and self.kind != "capacity"):
            yield f"the count of a phase must be a whole number of at least 1, not {self.count!r} of {self.kind}"
        statuses = STATUSES.get(self.kind, frozenset())
        if self.status is not None and self.status not in statuses:
            known = ", ".join(map(str, sorted(statuses))) or "none"
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


class Schedule:
    """Keep the phases of one provider, and count what they have refused. Moments are on the provider's clock."""

    def __init__(self, phases: Sequence[Phase], begin: float, random: Random) -> None:
        self._random = random
        self._phases: list[_Running] = []
        self.add(begin, phases)

    def add(self, now: float, phases: Iterable[Phase]) -> None:
        """Add phases whose start counts from `now`."""
        begun = [(phase, now + phase.start) for phase in phases]
        self._phases += [_Running(phase, start, start + phase.seconds) for phase, start in begun]

    def next_change(self, now: float) -> float:
        """Return the next moment after `now` at which a phase begins or is over; infinite where none does."""
        moments = (moment for each in self._phases for moment in (each.start, each.end) if moment > now)
        return min(moments, default=math.inf)

    def capacity(self, now: float) -> float:
        """Return the share of the limits that is there."""
        return min((phase.share for phase in self._covering(now, "capacity")), default=1.0)

    def foreign(self, now: float) -> int:
        """Return how many calls of others want to be in flight."""
        return sum(phase.count or 1 for phase in self._covering(now, "foreign"))

    def refusal(self, now: float) -> Phase | None:
        """Return the phase that refuses the request that has come, and count it there; None if none does."""
        return self._strike(now, REFUSALS)

    def usage_fault(self, now: float) -> Phase | None:
        """Return the phase that breaks the usage that is asked for, and count it there; None if none does."""
        return self._strike(now, USAGE_FAULTS)

    def _covering(self, now: float, kind: Kind) -> Iterable[Phase]:
        return (each.phase for each in self._phases if each.phase.kind == kind and each.start <= now < each.end)

    def _strike(self, now: float, kinds: Container[Kind]) -> Phase | None:
        for each in self._phases:
            phase = each.phase
            if phase.kind not in kinds or not each.start <= now < each.end or each.used_up:
                continue
            if phase.share < 1 and self._random.random() >= phase.share:
                continue
            each.struck += 1
            return phase
        return None


@dataclass(slots=True)
class _Running:
    phase: Phase
    start: float
    end: float
    struck: int = 0

    @property
    def used_up(self) -> bool:
        return self.phase.count is not None and self.struck >= self.phase.count


def _is_number(figure: object) -> bool:
    """Say whether `figure` is a number that is not negative."""
    return isinstance(figure, (int, float)) and not isinstance(figure, bool) and figure >= 0


def _is_count(figure: object) -> bool:
    """Say whether `figure` is a whole number of at least 1."""
    return isinstance(figure, int) and not isinstance(figure, bool) and figure >= 1
