"""Limits as people state them: rates, concurrency, pools, and which of them a model gets."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from .errors import ConfigError

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


def _positive_int(value: object, what: str, faults: list[str]) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= HIGHEST_LIMIT:
        faults.append(f"{what} must be a whole number from 1 to {HIGHEST_LIMIT:,}, not {value!r}")


def _finite(value: object, low: float, high: float) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return math.isfinite(value) and low <= value <= high


@dataclass(frozen=True, slots=True)
class Rate:
    """
    At most `limit` units in any `per` seconds.

    Args:

        limit: Units, from 1.

        per: Window in seconds, 0.01 s to 31 days.

        of: What is counted: "requests", "tokens", "input_tokens" or "output_tokens".

    Raises:

        ConfigError: A figure is outside its range.
    """

    limit: int
    per: float = 60.0
    of: Unit = "requests"

    def __post_init__(self) -> None:
        faults: list[str] = []
        _positive_int(self.limit, "Rate.limit", faults)
        if not _finite(self.per, 0.01, LONGEST_WINDOW):
            faults.append(f"Rate.per must be 0.01 to {LONGEST_WINDOW:,.0f} seconds, not {self.per!r}")
        if self.of not in UNITS:
            faults.append(f"Rate.of must be one of {', '.join(UNITS)}, not {self.of!r}")
        if faults:
            raise ConfigError("; ".join(faults))

    @property
    def window_ms(self) -> int:
        """The window in whole milliseconds."""
        return round(self.per * 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """
    What one scope may use. Nothing given means no limit: use is counted all the same.

    Args:

        rpm: Requests per minute. rpd: per day (any 24 hours).

        tpm: Tokens per minute. tpd: per day. itpm, otpm: input and output tokens per minute.

        burst: Requests per second.

        rates: Any further :class:`Rate`.

        concurrency: Calls in flight, counted by weight.

        guard: Seconds that a charge counts beyond its window, since calls reach the provider later than they are
            granted. 0 to 60; never more than a tenth of the window is used.

    Raises:

        ConfigError: A figure is outside its range, or two rates count the same units over the same window. All faults
            are named together.
    """

    rpm: int | None = None
    rpd: int | None = None
    tpm: int | None = None
    tpd: int | None = None
    itpm: int | None = None
    otpm: int | None = None
    burst: int | None = None
    rates: Sequence[Rate] = ()
    concurrency: int | None = None
    guard: float = DEFAULT_GUARD

    def __post_init__(self) -> None:
        faults: list[str] = []
        for name in (*SHORT_FORMS, "concurrency"):
            value = getattr(self, name)
            if value is not None:
                _positive_int(value, name, faults)
        if not _finite(self.guard, 0, 60):
            faults.append(f"guard must be 0 to 60 seconds, not {self.guard!r}")
        if isinstance(self.rates, Rate) or not isinstance(self.rates, Iterable):
            faults.append(f"rates must be a sequence of Rate, not {self.rates!r}")
        else:
            object.__setattr__(self, "rates", tuple(self.rates))
            faults += [f"rates must hold Rate, not {rate!r}" for rate in self.rates if not isinstance(rate, Rate)]
        if not faults:
            seen: set[tuple[str, int]] = set()
            for rate in self.windows:
                if (rate.of, rate.window_ms) in seen:
                    faults.append(f"two rates of {rate.of} per {rate.per:g} s: give one")
                seen.add((rate.of, rate.window_ms))
        if faults:
            raise ConfigError("Limits: " + "; ".join(faults))

    @property
    def windows(self) -> tuple[Rate, ...]:
        """Every rate, the short forms first."""
        short = [
            Rate(getattr(self, name), per=per, of=unit)
            for name, (unit, per) in SHORT_FORMS.items()
            if getattr(self, name) is not None
        ]
        return (*short, *self.rates)


@dataclass(frozen=True, slots=True)
class Pool:
    """
    Limits that several models share.

    Args:

        models: Keys or patterns such as "anthropic/claude-opus-*"; a request may also name the pool itself.

        limits: What the pool may use.
    """

    models: Sequence[str] = ()
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if isinstance(self.models, str):
            raise ConfigError(f"Pool.models must be a sequence of keys, not the one text {self.models!r}")
        object.__setattr__(self, "models", tuple(self.models))
        if not all(isinstance(key, str) and key for key in self.models):
            raise ConfigError("Pool.models must hold keys such as 'anthropic/claude-opus-*'")
        if not isinstance(self.limits, Limits):
            raise ConfigError(f"Pool.limits must be Limits, not {self.limits!r}")


# What a model gets that nothing in the configuration speaks of.
FALLBACK = Limits(rpm=30, concurrency=2)


def _split(key: object) -> tuple[str, str | None]:
    if not isinstance(key, str) or not key.strip():
        raise ConfigError(f"a key of limits must be 'provider/model', 'provider' or 'total', not {key!r}")
    provider, slash, model = key.casefold().partition("/")
    if provider.strip("*") == "" or (slash and not model):
        raise ConfigError(f"limits[{key!r}]: name a provider; a bare '*' would hide every mistake in a name")
    if "*" in provider:
        raise ConfigError(f"limits[{key!r}]: a pattern may stand behind the slash only")
    return provider, model if slash else None


def _matches(pattern: str, name: str) -> bool:
    head, *rest = pattern.split("*")
    if not rest:
        return pattern == name
    if not name.startswith(head) or not name.endswith(rest[-1]) or len(name) < len(pattern.replace("*", "")):
        return False
    at, end = len(head), len(name) - len(rest[-1])
    for part in rest[:-1]:
        found = name.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


class LimitBook:
    """
    The limits that one client was given, and what each scope gets from them.

    `None` from :meth:`model` and its like means that the book does not speak of that scope.
    """

    def __init__(self, limits: Mapping[str, Limits] | None, pools: Mapping[str, Pool] | None) -> None:
        self.total: Limits | None = None
        self.providers: dict[str, Limits] = {}
        self.pools: dict[str, Pool] = {}
        self._exact: dict[tuple[str, str], Limits] = {}
        self._patterns: list[tuple[str, str, Limits]] = []
        faults: list[str] = []
        for key, value in (limits or {}).items():
            try:
                self._add(key, value)
            except ConfigError as error:
                faults.append(str(error))
        for name, pool in (pools or {}).items():
            if not isinstance(name, str) or not name or not isinstance(pool, Pool):
                faults.append(f"pools[{name!r}] must be a Pool")
            else:
                self.pools[name.casefold()] = pool
        if faults:
            raise ConfigError("; ".join(faults))
        # The longest pattern wins, however they were ordered.
        self._patterns.sort(key=lambda entry: (-len(entry[1].replace("*", "")), entry[1]))

    def _add(self, key: str, value: object) -> None:
        if not isinstance(value, Limits):
            raise ConfigError(f"limits[{key!r}] must be Limits(…), not {value!r}")
        provider, model = _split(key)
        if model is None:
            if provider == "total":
                self.total = value
            else:
                self.providers[provider] = value
        elif "*" in model:
            self._patterns.append((provider, model, value))
        else:
            self._exact[provider, model] = value

    def model(self, provider: str, model: str) -> Limits | None:
        """The entry of a model: its own, else the longest pattern that matches. Names are case-folded."""
        exact = self._exact.get((provider, model))
        if exact is not None:
            return exact
        for owner, pattern, limits in self._patterns:
            if owner == provider and _matches(pattern, model):
                return limits
        return None

    def provider(self, provider: str) -> Limits | None:
        """The entry that all models of a provider share."""
        return self.providers.get(provider)

    def pools_of(self, provider: str, model: str) -> list[str]:
        """The pools that a model belongs to by configuration, in order of name."""
        name = f"{provider}/{model}"
        return sorted(
            pool
            for pool, definition in self.pools.items()
            if any(_matches(pattern.casefold(), name) for pattern in definition.models)
        )

    def pool(self, name: str) -> Limits | None:
        """The limits of a pool: its own entry, else the longest template ("tenant:*") that matches."""
        if name in self.pools:
            return self.pools[name].limits
        templates = [key for key in self.pools if "*" in key and _matches(key, name)]
        if not templates:
            return None
        return self.pools[max(templates, key=lambda key: (len(key.replace("*", "")), key))].limits
