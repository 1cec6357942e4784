"""How often, and after which waits, a failed call is made again."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import PlainValidator, model_validator

from .checks import Checked, is_number, one_of, plain_seconds, shown, truth, whole

Jitter = Literal["none", "equal", "full"]

MOST_RETRIES = 20
LONGEST_STEP = 86_400.0
LONGEST_SCHEDULE = 31 * 86_400.0
MOST_STEPS = 1000

# A wait of the schedule may repeat for as long as its limit says: none at all would repeat for ever.
SHORTEST_STEP = 0.001


def _seconds(low: float, high: float) -> PlainValidator:
    def check(value: object) -> float:
        seconds = plain_seconds(value)
        if not is_number(seconds, low, high):
            raise ValueError(f"must be {low:g} to {high:,.10g} seconds, not {shown(value)}")
        return float(seconds)  # type: ignore[arg-type]

    return PlainValidator(check)


def _factor(value: object) -> float:
    if not is_number(value, 1, 100):
        raise ValueError(f"must be a number from 1 to 100, not {shown(value)}")
    return float(value)  # type: ignore[arg-type]


def _check_schedule(value: object) -> tuple[float, ...] | None:
    if value is None:
        return None
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise ValueError(f"must be a sequence of seconds, not {shown(value)}")  # noqa: TRY004 - pydantic gathers them
    steps = [plain_seconds(step) for step in value]
    if not 0 < len(steps) <= MOST_STEPS:
        raise ValueError(f"must hold 1 to {MOST_STEPS:,} waits, not {len(steps):,}")
    odd = [shown(step) for step in steps if not is_number(step, SHORTEST_STEP, LONGEST_STEP)]
    if odd:
        raise ValueError(f"must hold seconds from {SHORTEST_STEP:g} to {LONGEST_STEP:,.0f}, not {', '.join(odd[:3])}")
    return tuple(float(step) for step in steps)  # type: ignore[arg-type]


class Retry(Checked, frozen=True):
    """
    How often, and after which waits, a failed call is made again. All times are seconds, or a timedelta.

    Before retry n the caller waits `base` × `factor` ** (n - 1), at most `cap`, with jitter; where the provider has
    said how long (Retry-After), exactly that. Its slot is free meanwhile.

    Args:

        max_retries: Retries after failures other than 429: 5xx, timeouts, connections that broke. 0 to 20.

        max_throttled: Retries after 429s. 0 to 20.

        together: Count the retries after both kinds of failures together; otherwise each kind is counted by itself.

        base, factor, cap: The first wait, what each further one is multiplied by (1 to 100), and the longest.

        jitter: "none"; "equal": each wait is cut at random by up to a half; "full": at random down to nothing.

        schedule: The waits one by one, whatever fails, in place of max_retries, max_throttled, together, base, factor
            and cap.

        schedule_limit: The last wait of the schedule repeats as long as all waits together stay within it. None: each
            wait is used once.

        max_wait: What waits after 429s may come to together; a schedule has its own limit.

        max_hint: The longest wait that a provider may ask for: for a longer one the call fails at once.

        wait_long_hints: Wait instead, as long as the provider asks for: max_hint, max_wait and schedule_limit do not
            hold for what it says.

    Raises:

        ConfigError: Naming everything that is out of range or not known.
    """

    max_retries: Annotated[int, whole(0, MOST_RETRIES)] = 2
    max_throttled: Annotated[int, whole(0, MOST_RETRIES)] = 4
    together: Annotated[bool, truth] = False
    base: Annotated[float, _seconds(0, LONGEST_STEP)] = 0.8
    factor: Annotated[float, PlainValidator(_factor)] = 2.0
    cap: Annotated[float, _seconds(0, LONGEST_STEP)] = 10.0
    jitter: Annotated[Jitter, one_of("none", "equal", "full")] = "equal"
    schedule: Annotated[tuple[float, ...] | None, PlainValidator(_check_schedule)] = None
    schedule_limit: Annotated[float, _seconds(SHORTEST_STEP, LONGEST_SCHEDULE)] | None = None
    max_wait: Annotated[float, _seconds(0, math.inf)] = 90.0
    max_hint: Annotated[float, _seconds(0, math.inf)] = 300.0
    wait_long_hints: Annotated[bool, truth] = False

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        faults = []
        if self.cap < self.base:
            faults.append(f"cap ({self.cap:g} s) must not be below base ({self.base:g} s)")
        if self.schedule_limit is not None and self.schedule is None:
            faults.append("schedule_limit needs a schedule")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @classmethod
    def long(cls, **changes: Any) -> Retry:
        """Wait out an incident: 5, 10, 30, 60, 300, 600, 900 s, then every 1,800 s; 21 retries in up to 8 hours."""
        steps = (5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 900.0, 1800.0)
        return cls(**{"schedule": steps, "schedule_limit": 28_800.0, "jitter": "none", **changes})

    def at_most(self, retries: int) -> Retry:
        """The same waits for so many retries in all, whatever the failures are; a schedule is left out."""
        given = {name: getattr(self, name) for name in self.model_fields_set - {"schedule", "schedule_limit"}}
        return Retry(**{**given, "max_retries": retries, "max_throttled": retries, "together": True})

    @property
    def counts_together(self) -> bool:
        """Whether retries after 429s and after other failures are counted as one."""
        return self.together or self.schedule is not None

    def retries(self, *, throttled: bool) -> int:
        """How many retries there may be where the last failure is a 429, or another; see `counts_together`."""
        if self.schedule is None:
            return self.max_throttled if throttled else self.max_retries
        if self.schedule_limit is None:
            return len(self.schedule)
        total, count = 0.0, 0
        for step in self.schedule:
            total += step
            if total > self.schedule_limit:
                return count
            count += 1
        return count + int((self.schedule_limit - total) / self.schedule[-1])

    def wait(self, retry: int, chance: float) -> float:
        """Seconds before retry 1, 2, …; `chance` from 0 to 1 stands for the jitter."""
        if self.schedule is not None:
            full = self.schedule[min(retry, len(self.schedule)) - 1]
        else:
            full = min(self.base * self.factor ** (retry - 1), self.cap)
        if self.jitter == "equal":
            return full * (1 + chance) / 2
        return full * chance if self.jitter == "full" else full
