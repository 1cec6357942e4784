"""Limits as people state them: rates, concurrency, pools."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import PlainValidator, model_validator

from .checks import Checked, number, one_of, shown, whole
from .strategies import Strategy, StrategyField

Unit = Literal["requests", "tokens", "input_tokens", "output_tokens"]

UNITS: tuple[str, ...] = get_args(Unit)

LONGEST_WINDOW = 31 * 86_400.0
HIGHEST_LIMIT = 10**12
DEFAULT_GUARD = 0.25

# The short forms: name -> (unit, window in seconds).
SHORT_FORMS: dict[str, tuple[Unit, float]] = {
    "rpm": ("requests", 60.0),
    "rpd": ("requests", 86_400.0),
    "tpm": ("tokens", 60.0),
    "tpd": ("tokens", 86_400.0),
    "itpm": ("input_tokens", 60.0),
    "otpm": ("output_tokens", 60.0),
    "burst": ("requests", 1.0),
}

_SHORT_NAMES = {(unit, round(per * 1000)): name for name, (unit, per) in SHORT_FORMS.items()}

Count = Annotated[int, whole(1, HIGHEST_LIMIT)]


class Rate(Checked, frozen=True):
    """
    At most `limit` units in any `per` seconds.

    Args:

        limit: Units, from 1.

        per: Window in seconds, 0.01 s to 31 days.

        of: What is counted: "requests", "tokens", "input_tokens" or "output_tokens".

    Raises:

        ConfigError: A figure is outside its range.
    """

    limit: Count
    per: Annotated[float, number(0.01, LONGEST_WINDOW, " seconds")] = 60.0
    of: Annotated[Unit, one_of(*UNITS)] = "requests"

    def __init__(self, limit: int, per: float = 60.0, of: Unit = "requests") -> None:
        super().__init__(limit=limit, per=per, of=of)

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @property
    def window_ms(self) -> int:
        """The window in whole milliseconds."""
        return round(self.per * 1000)

    @property
    def name(self) -> str:
        """The figure that it states: its short form if it has one, else as "requests/10s"."""
        return _SHORT_NAMES.get((self.of, self.window_ms), rate_label(self.of, self.window_ms))


def rate_label(unit: str, window_ms: int) -> str:
    """A rate as people read it: requests/60s."""
    return f"{unit}/{f'{window_ms / 1000:.3f}'.rstrip('0').rstrip('.')}s"


def per_mille(headroom: float) -> int:
    """A headroom in thousandths, as scripts have it: exact where a product of floats is not."""
    return round(headroom * 1000)


def scaled(limit: int, headroom: float) -> int:
    """What the headroom leaves of the limit of a rate: rounded down, and 1 at least."""
    return max(limit * per_mille(headroom) // 1000, 1)


def _check_rates(value: object) -> tuple[Rate, ...]:
    if isinstance(value, (Rate, str, Mapping)) or not isinstance(value, Iterable):
        raise ValueError(f"must be a sequence of Rate, not {shown(value)}")  # noqa: TRY004 - pydantic gathers them
    rates = tuple(value)
    odd = [shown(rate) for rate in rates if not isinstance(rate, Rate)]
    if odd:
        raise ValueError(f"must hold Rate, not {', '.join(odd[:3])}")
    return rates


class Limits(Checked, frozen=True):
    """
    What one scope may use. Nothing given means no limit: use is counted all the same.

    Args:

        rpm: Requests per minute. rpd: per day (any 24 hours).

        tpm: Tokens per minute. tpd: per day. itpm, otpm: input and output tokens per minute.

        burst: Requests per second.

        rates: Any further :class:`Rate`.

        concurrency: Calls in flight, counted by weight.

        headroom: The part of each rate that is used, 0.1 to 1: 0.7 admits 350 of 500 (rounded down, 1 at least) and
            leaves the rest to others. Concurrency is not scaled. None: `Config.headroom`.

        guard: Seconds that a charge counts beyond its window, since calls reach the provider later than they are
            granted. 0 to 60; never more than a tenth of the window is used.

        cooldown: Seconds that a slot stays counted after its release, where the provider's own count of calls in flight
            lags. No limit by itself.

        strategy: How the scope reacts to failures of the provider: "penalty", "parallelism", "decrement", "in_flight",
            "breaker" or "off"; one of :mod:`ratelease.strategies` with its figures; or several together. None:
            `Config.strategy`.

    Raises:

        ConfigError: A figure is outside its range or not known, or two rates count the same units over the same
            window. All faults are named together.
    """

    rpm: Count | None = None
    rpd: Count | None = None
    tpm: Count | None = None
    tpd: Count | None = None
    itpm: Count | None = None
    otpm: Count | None = None
    burst: Count | None = None
    rates: Annotated[Sequence[Rate], PlainValidator(_check_rates)] = ()
    concurrency: Count | None = None
    headroom: Annotated[float, number(0.1, 1.0)] | None = None
    guard: Annotated[float, number(0, 60, " seconds")] = DEFAULT_GUARD
    cooldown: Annotated[float, number(0, 600, " seconds")] | None = None
    strategy: StrategyField = None

    @model_validator(mode="after")
    def _one_rate_a_window(self) -> Self:
        seen: dict[str, Rate] = {}
        twice = [rate for rate in self.windows if seen.setdefault(rate.name, rate) is not rate]
        if twice:
            raise ValueError("; ".join(f"two rates of {rate.of} per {rate.per:g} s: give one" for rate in twice))
        return self

    @property
    def windows(self) -> tuple[Rate, ...]:
        """Every rate, the short forms first."""
        short = [
            Rate(value, per=per, of=unit)
            for name, (unit, per) in SHORT_FORMS.items()
            if (value := getattr(self, name)) is not None
        ]
        return (*short, *self.rates)

    @property
    def figures(self) -> dict[str, float]:
        """
        What was given, by name, in the units of the arguments.

        Further rates are called "requests/10s". What was not given, or given as None, is not in it.
        """
        figures: dict[str, float] = {rate.name: rate.limit for rate in self.windows}
        for name in ("concurrency", "headroom", "cooldown", "guard"):
            value = getattr(self, name)
            if value is not None and name in self.model_fields_set:
                figures[name] = value
        return figures

    @classmethod
    def of_figures(cls, figures: Mapping[str, float], strategy: tuple[Strategy, ...] | None = None) -> Limits:
        """The limits that these :attr:`figures` state, with a strategy."""
        given: dict[str, Any] = {name: value for name, value in figures.items() if "/" not in name}
        rates = []
        for name, value in figures.items():
            unit, slash, window = name.partition("/")
            if slash:
                rates.append(Rate(int(value), per=float(window.removesuffix("s")), of=unit))  # type: ignore[arg-type]
        return cls(rates=tuple(rates), strategy=strategy, **given)


def _check_models(value: object) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ValueError(f"must be a sequence of keys, not {shown(value)}")  # noqa: TRY004 - pydantic gathers them
    models = tuple(value)
    if not all(isinstance(key, str) and ("/" in key or "*" in key) for key in models):
        raise ValueError("must hold keys such as 'anthropic/claude-opus-*'")
    return models


def _check_limits(value: object) -> Limits:
    if not isinstance(value, Limits):
        raise ValueError(f"must be Limits(…), not {shown(value)}")  # noqa: TRY004 - pydantic gathers them
    return value


class Pool(Checked, frozen=True):
    """
    Limits that several models share.

    Args:

        models: Keys or patterns such as "anthropic/claude-opus-*"; a request may also name the pool itself.

        limits: What the pool may use.
    """

    models: Annotated[Sequence[str], PlainValidator(_check_models)] = ()
    limits: Annotated[Limits, PlainValidator(_check_limits)]

    def __init__(self, models: Sequence[str] = (), limits: Limits | None = None) -> None:
        super().__init__(models=models, limits=Limits() if limits is None else limits)

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]
