"""How a scope reacts to failures of the provider: what a 429 costs it, and how it comes back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import PlainValidator, model_validator

from .checks import Checked, number, shown, truth, whole

MOST = 10**6
LONGEST = 7 * 86_400.0

MOST_CAUSES = 64

CAUSE = re.compile(r"[a-z][a-z_]{0,31}")

DEFAULT_WEIGHTS: dict[str, float] = {"rate_limit": 2.0, "capacity": 1.5, "timeout": 1.0, "schema_violation": 0.5}


def _check_weights(value: object) -> dict[str, float]:
    if not isinstance(value, Mapping):
        raise ValueError(f"must map causes to numbers, not {shown(value)}")  # noqa: TRY004 - pydantic gathers them
    if len(value) > MOST_CAUSES:
        raise ValueError(f"must name at most {MOST_CAUSES} causes, not {len(value):,}")
    for cause, weight in value.items():
        if not isinstance(cause, str) or not CAUSE.fullmatch(cause):
            raise ValueError(f"must name causes by lower-case letters and underscores, not {shown(cause)}")
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight <= MOST:
            raise ValueError(f"must give {cause} a number from 0 to {MOST:,}, not {shown(weight)}")
    return {**DEFAULT_WEIGHTS, **value}


def _thousandths(value: float) -> str:
    return f"{round(value * 1000)}"


class Penalty(Checked, frozen=True):
    """
    Divide the limit: by 1 more for each point of a penalty, which decays by itself. The default.

    The limit in force is max(1, floor(concurrency ÷ (penalty + 1))). Where a scope has no concurrency limit its rates
    are divided, and calls are spread over time.

    Args:

        max: The highest penalty, above 0.

        half_life: Seconds in which it halves.

        weights: Points by cause. "rate_limit" (a 429) and "timeout" come from calls; "capacity", "schema_violation" and
            any other name from explicit reports alone. What is not named keeps its default: 2, 1, 1.5 and 0.5.

    Raises:

        ConfigError: A figure is outside its range.
    """

    kind: ClassVar[str] = "penalty"

    max: Annotated[float, number(0.001, MOST)] = 10.0
    half_life: Annotated[float, number(0.01, LONGEST, " seconds")] = 30.0
    weights: Annotated[Mapping[str, float], PlainValidator(_check_weights)] = DEFAULT_WEIGHTS

    @property
    def word(self) -> str:
        """As scripts read it."""
        weights = ",".join(f"{cause}={_thousandths(weight)}" for cause, weight in self.weights.items())
        return f"P{_thousandths(self.max)},{_thousandths(self.half_life)},{weights}"

    def __hash__(self) -> int:
        return hash(self.word)


class Parallelism(Checked, frozen=True):
    """
    Find the limit: multiply it down at each failure, let it grow while there is none.

    Args:

        min, max: The limit stays between them. A base that is not given is raised to the minimum; the maximum is never
            below the base.

        base: Where it begins, and to where it recovers by time alone, if the scope has no concurrency limit; where it
            has one, that is the base. What lies above it is tried only as `probe` says.

        reduction_on_429, reduction_on_timeout, reduction_on_error: The part that a failure takes away, 0 to 1; once an
            episode.

        increase_on_recovery: The part that every recovery_interval (seconds) without a failure gives back; at least 1.

        probe: Grow above the base where four fifths of the limit were in use and calls ended well.

        in_flight: At a 429 take one less than what was in flight, instead of reduction_on_429.

        escalate: Halve once more from the third 429 without a clean success between, and fall to the minimum at the
            fifth.

        whole_numbers: Cut to whole numbers at each step.

    Raises:

        ConfigError: A figure is outside its range.
    """

    kind: ClassVar[str] = "parallelism"

    min: Annotated[int, whole(1, MOST)] = 1
    base: Annotated[int, whole(1, MOST)] = 4
    max: Annotated[int, whole(1, MOST)] = 16
    reduction_on_429: Annotated[float, number(0, 1)] = 0.3
    reduction_on_timeout: Annotated[float, number(0, 1)] = 0.1
    reduction_on_error: Annotated[float, number(0, 1)] = 0.05
    increase_on_recovery: Annotated[float, number(0, 10)] = 0.1
    recovery_interval: Annotated[float, number(0.01, LONGEST, " seconds")] = 60.0
    probe: Annotated[bool, truth] = True
    in_flight: Annotated[bool, truth] = False
    escalate: Annotated[bool, truth] = False
    whole_numbers: Annotated[bool, truth] = False

    @model_validator(mode="after")
    def _has_a_range(self) -> Self:
        # A maximum that is not given is raised to the base.
        if "max" in self.model_fields_set and self.min > self.max:
            raise ValueError(f"min ({self.min:,}) must not be above max ({self.max:,})")
        if "base" in self.model_fields_set and self.min > self.base:
            raise ValueError(f"min ({self.min:,}) must not be above base ({self.base:,})")
        return self

    @property
    def word(self) -> str:
        """As scripts read it."""
        kept = (1 - self.reduction_on_429, 1 - self.reduction_on_timeout, 1 - self.reduction_on_error)
        figures = (*kept, self.increase_on_recovery, self.recovery_interval)
        flags = (("p", self.probe), ("w", self.whole_numbers), ("e", self.escalate), ("f", self.in_flight))
        return (
            f"A{self.min},{max(self.min, self.base)},{self.max},{','.join(map(_thousandths, figures))},"
            f"{''.join(letter for letter, is_set in flags if is_set)}"
        )


class Decrement(Checked, frozen=True):
    """
    Take one slot away at each 429, and keep it so until somebody sets the limit, or until it has been quiet.

    Args:

        step: Slots that an episode takes.

        min: How many are left at least.

        restore_after: Seconds without a 429 after which the limit is back; None: an operator sets it.

    Raises:

        ConfigError: A figure is outside its range.
    """

    kind: ClassVar[str] = "decrement"

    step: Annotated[int, whole(1, MOST)] = 1
    min: Annotated[int, whole(1, MOST)] = 1
    restore_after: Annotated[float, number(0.01, LONGEST, " seconds")] | None = None

    @property
    def word(self) -> str:
        """As scripts read it."""
        return f"D{self.step},{self.min},{_thousandths(self.restore_after or 0)}"


class Breaker(Checked, frozen=True):
    """
    Let nobody call after so many failures; then one call at a time, until enough of them have succeeded.

    Args:

        failures: In a row, of any calls: 429, overload, timeout, error.

        open: Seconds.

        successes: Of single calls, that close it.

    Raises:

        ConfigError: A figure is outside its range.
    """

    kind: ClassVar[str] = "breaker"

    failures: Annotated[int, whole(1, MOST)] = 5
    open: Annotated[float, number(0.01, LONGEST, " seconds")] = 30.0
    successes: Annotated[int, whole(1, MOST)] = 3

    @property
    def word(self) -> str:
        """As scripts read it."""
        return f"B{self.failures},{_thousandths(self.open)},{self.successes}"


Strategy = Penalty | Parallelism | Decrement | Breaker

KINDS: dict[str, type[Checked]] = {each.kind: each for each in (Penalty, Parallelism, Decrement, Breaker)}

# Names that stand for a strategy with its defaults.
_NAMES = (*KINDS, "in_flight", "off")

DEFAULT: tuple[Strategy, ...] = (Penalty(),)


def _strategy(value: object) -> Strategy:
    if isinstance(value, (Penalty, Parallelism, Decrement, Breaker)):
        return value
    if isinstance(value, Mapping):
        given = {str(name): figure for name, figure in value.items()}
        made = KINDS.get(str(given.pop("kind", "")))
        if made is None:
            raise ValueError(f"must have a kind, one of {', '.join(KINDS)}, not {shown(value)}")
        return made(**given)  # type: ignore[return-value]
    if value == "in_flight":
        return Parallelism(in_flight=True)
    if isinstance(value, str) and value in KINDS:
        return KINDS[value]()  # type: ignore[return-value]
    if value == "off":
        raise ValueError("must name 'off' by itself, or not at all")
    raise ValueError(f"must be one of {', '.join(_NAMES)}, or Penalty(…), Parallelism(…) and so on, not {shown(value)}")


def _check(value: object) -> tuple[Strategy, ...] | None:
    if value is None:
        return None
    if value == "off":
        return ()
    if isinstance(value, (str, Mapping, Checked)) or not isinstance(value, Iterable):
        found: tuple[Strategy, ...] = (_strategy(value),)
    else:
        found = tuple(map(_strategy, value))
    twice = sorted({each.kind for each in found if sum(other.kind == each.kind for other in found) > 1})
    if twice:
        raise ValueError(f"names {', '.join(twice)} twice")
    return found


# What Limits and Config take: a name, a strategy, several of them, or "off".
StrategyField = Annotated[Any, PlainValidator(_check)]


def strategy_words(strategies: tuple[Strategy, ...]) -> str:
    """As scripts read them, behind a space; '' for the default, which they know."""
    if strategies == DEFAULT:
        return ""
    return "".join(f" {each.word}" for each in strategies) or " O"
