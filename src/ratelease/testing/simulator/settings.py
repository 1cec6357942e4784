"""Say what one simulator enforces: checked once, passed to a process of its own as arguments."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from random import Random
from typing import Any, TypedDict

from ratelease.errors import ConfigError
from ratelease.testing.simulator.headers import STYLES, Style
from ratelease.testing.simulator.latency import Distribution, Latency
from ratelease.testing.simulator.limits import BURST_WINDOW, Algorithm, Ramp, StrictWindow, rate_limit
from ratelease.testing.simulator.model import ProviderModel
from ratelease.testing.simulator.phases import FORM, Phase


class Figures(TypedDict, total=False):
    """Type the figures of `Settings` where they are passed on by name."""

    rpm: int | None
    tpm: int | None
    window: float
    algorithm: Algorithm
    burst: int | None
    concurrency: int | None
    hard_cap: int | None
    lag: float
    ghosts: bool
    ramp: int | None
    ramp_growth: float
    ramp_period: float
    quota: int | None
    phases: Sequence[Phase | str]
    count_refused: bool
    retry_after: Style
    hint: float | None
    latency: float | tuple[float, float]
    distribution: Distribution
    slowdown: float
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Hold what one simulator enforces, and how it answers.

    Args:
        rpm: requests per `window`; None means no such limit. With the default window these are requests per
            minute; a shorter window makes a test shorter and leaves the count as it is
            (`rpm=300, window=10.0` admits 300 in any 10 s).
        tpm: tokens per `window`: those of the prompt (four characters each) and the most that the answer may
            have.
        window: length of that window in seconds, above 0.
        algorithm: "strict" admits `rpm` and `tpm` in any window of that length; "bucket" refills continuously,
            so that it admits them at once and then again per `window`.
        burst: requests in any single second; None means no such limit.
        concurrency: requests in flight at the same moment; None means no such limit.
        hard_cap: requests in flight at which the provider refuses, where it tolerates more than `concurrency`;
            what it admits beyond that is counted (`beyond_limit`). None means that it tolerates none.
        lag: seconds for which a call that has ended still counts as in flight, and those after which one that
            has begun shows in the usage that is reported.
        ghosts: whether a call whose client has left counts as in flight until its answer would have ended.
        ramp: requests per `ramp_period` that are always allowed; above them use may grow only by the share
            `ramp_growth` from one period to the next. None means no such limit.
        ramp_growth: that share, such as 0.5.
        ramp_period: seconds of a period.
        quota: requests after which the account is empty; None means never.
        phases: when the provider behaves otherwise or has other clients, as `Phase` or its text, such as
            "overloaded@10+5" and "foreign@10+30x3".
        count_refused: whether a request that a limit refuses counts against the rates as an admitted one does.
        retry_after: how refusals say when to come back: "both" is retry-after and retry-after-ms; "seconds",
            "float", "ms" and "date" are one header alone; "reset" is rate limit headers alone, "none" nothing at
            all; "garbage" is what no client should trip over.
        hint: seconds that a refusal promises where no limit can tell: for concurrency and in phases.
        latency: seconds from arrival to the end of the answer, or two figures for the distribution.
        distribution: "uniform" draws between two figures, "lognormal" takes them as median and 95th percentile.
        slowdown: share by which each further request in flight makes an answer longer.
        seed: of the generators that draw latencies, ids and what a phase refuses.

    Raises:
        ConfigError: if figures are out of range; the message names all of them.
    """

    rpm: int | None = None
    tpm: int | None = None
    window: float = 60.0
    algorithm: Algorithm = "strict"
    burst: int | None = None
    concurrency: int | None = None
    hard_cap: int | None = None
    lag: float = 0.0
    ghosts: bool = False
    ramp: int | None = None
    ramp_growth: float = 0.5
    ramp_period: float = 900.0
    quota: int | None = None
    phases: Sequence[Phase | str] = ()
    count_refused: bool = False
    retry_after: Style = "both"
    hint: float | None = None
    latency: float | tuple[float, float] = 0.05
    distribution: Distribution = "uniform"
    slowdown: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if faults := [*self._wrong_figures(), *self._wrong_choices(), *self._wrong_phases()]:
            raise ConfigError("; ".join(faults))

    def _wrong_figures(self) -> Iterable[str]:
        for name, (takes, what) in _TAKES.items():
            if not takes(figure := getattr(self, name)):
                yield f"{name} must be {what}, not {figure!r}"
        if self.hard_cap is not None and self.concurrency is None:
            yield "hard_cap needs concurrency, which it lies above"
        elif self.hard_cap is not None and _is_count(self.hard_cap) and self.hard_cap < (self.concurrency or math.inf):
            yield f"hard_cap must be at least the concurrency ({self.concurrency}), not {self.hard_cap!r}"
        lognormal = self.distribution == "lognormal" and _is_latency(self.latency)
        if lognormal and self.latency_range[0] == 0 < self.latency_range[1]:
            yield f"latency must be above 0 where its distribution is lognormal, not {self.latency!r}"

    def _wrong_choices(self) -> Iterable[str]:
        for name in ("ghosts", "count_refused"):
            if not isinstance(getattr(self, name), bool):
                yield f"{name} must be True or False, not {getattr(self, name)!r}"
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                yield f"{name} must be one of {', '.join(known)}, not {getattr(self, name)!r}"

    def _wrong_phases(self) -> Iterable[str]:
        if isinstance(self.phases, str) or not isinstance(self.phases, Sequence):
            yield f"phases must be a list of phases, not {self.phases!r}"
            return
        for phase in self.phases:
            try:
                as_phase(phase)
            except ConfigError as fault:
                yield f"phases: {fault}"

    @property
    def latency_range(self) -> tuple[float, float]:
        """Return the two figures of the latency in seconds."""
        return self.latency if isinstance(self.latency, tuple) else (self.latency, self.latency)

    def model(self, begin: float = 0.0, in_flight: int = 0) -> ProviderModel:
        """Return the provider with nothing used but what is in flight, its schedule counted from `begin`."""
        return ProviderModel(
            requests=None if self.rpm is None else rate_limit(self.algorithm, self.rpm, self.window),
            tokens=None if self.tpm is None else rate_limit(self.algorithm, self.tpm, self.window),
            burst=None if self.burst is None else StrictWindow(self.burst, BURST_WINDOW),
            ramp=None if self.ramp is None else Ramp(self.ramp, self.ramp_growth, self.ramp_period, begin),
            concurrency=self.concurrency,
            hard_cap=self.hard_cap,
            count_refused=self.count_refused,
            lag=self.lag,
            quota=self.quota,
            hint=self.hint,
            phases=[as_phase(phase) for phase in self.phases],
            begin=begin,
            in_flight=in_flight,
            random=Random(f"phases of {self.seed}"),
        )

    def draw_latency(self, random: Random, others: int = 0) -> float:
        """Return the latency of the next answer in seconds, while `others` are in flight beside it."""
        return Latency(self.distribution, *self.latency_range, self.slowdown).draw(random, others)

    def to_args(self) -> list[str]:
        """Return the same settings as arguments of `python -m ratelease.testing.simulator`."""
        args = []
        for field in fields(self):
            value, flag = getattr(self, field.name), _flag(field.name)
            if value == field.default:
                continue
            if value is True:
                args.append(flag)
            elif field.name == "latency":
                args += [flag, *(repr(seconds) for seconds in self.latency_range)]
            elif field.name == "phases":
                args += [f"{flag}={as_phase(phase)}" for phase in value]
            else:
                args.append(f"{flag}={value}")
        return args

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Declare the arguments that `to_args` writes and `from_args` reads."""
        for name, (kind, help_) in ARGUMENTS.items():
            options: dict[str, Any] = {"help": help_, "dest": name}
            if kind is bool:
                options["action"] = "store_true"
            elif name == "phases":
                options |= {"action": "append", "default": [], "metavar": "PHASE"}
            elif name == "latency":
                options |= {"type": float, "nargs": "+", "default": [0.05], "metavar": "SECONDS"}
            else:
                options |= {"type": kind, "choices": CHOICES.get(name), "default": _DEFAULTS[name]}
            parser.add_argument(_flag(name), **options)

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> Settings:
        """Return the settings of parsed arguments; ConfigError says what is wrong with them."""
        if len(args.latency) > 2:
            raise ConfigError("latency takes one figure or two")
        values = {name: getattr(args, name) for name in ARGUMENTS}
        return cls(**{**values, "latency": (args.latency[0], args.latency[-1])})


CHOICES: dict[str, tuple[str, ...]] = {
    "algorithm": ("strict", "bucket"),
    "retry_after": STYLES,
    "distribution": ("uniform", "lognormal"),
}

ARGUMENTS: dict[str, tuple[Callable[[str], Any], str]] = {
    "rpm": (int, "requests per window"),
    "tpm": (int, "tokens per window"),
    "window": (float, "seconds of that window (60)"),
    "algorithm": (str, "strict (any window) or bucket (refills continuously)"),
    "burst": (int, "requests in any single second"),
    "concurrency": (int, "requests in flight at the same moment"),
    "hard_cap": (int, "requests in flight at which it refuses, where it tolerates more than that"),
    "lag": (float, "seconds for which an ended call still counts, and a begun one is not reported"),
    "ghosts": (bool, "a call whose client has left counts until its answer would have ended"),
    "ramp": (int, "requests per period above which use may only grow slowly"),
    "ramp_growth": (float, "share by which it may grow (0.5)"),
    "ramp_period": (float, "seconds of a period (900)"),
    "quota": (int, "requests after which the account is empty"),
    "phases": (str, f"when the provider behaves otherwise: {FORM}; may be repeated"),
    "count_refused": (bool, "refused requests count too"),
    "retry_after": (str, "how refusals say when to come back"),
    "hint": (float, "seconds that a refusal promises where no limit can tell"),
    "latency": (float, "fixed, or two figures for the distribution (0.05)"),
    "distribution": (str, "uniform (low, high) or lognormal (median, 95th percentile)"),
    "slowdown": (float, "share by which each further request in flight makes an answer longer"),
    "seed": (int, "of all that is drawn (0)"),
}

_DEFAULTS = {field.name: field.default for field in fields(Settings)}


def as_phase(phase: Phase | str) -> Phase:
    """Return the phase that this is, or says."""
    if isinstance(phase, Phase):
        return phase
    if isinstance(phase, str):
        return Phase.parse(phase)
    raise ConfigError(f"a phase is a Phase or {FORM}, not {phase!r}")


def _flag(name: str) -> str:
    return "--" + ("phase" if name == "phases" else name.replace("_", "-"))


def _is_figure(figure: object) -> bool:
    """Say whether `figure` is a finite number that is not negative."""
    if isinstance(figure, bool) or not isinstance(figure, (int, float)):
        return False
    return math.isfinite(figure) and figure >= 0


def _is_count(figure: object) -> bool:
    """Say whether `figure` is a whole number of at least 1, or None."""
    return figure is None or (isinstance(figure, int) and not isinstance(figure, bool) and figure >= 1)


def _is_latency(latency: object) -> bool:
    """Say whether `latency` is one number of seconds, or a low and a high one."""
    bounds = latency if isinstance(latency, tuple) else (latency, latency)
    return len(bounds) == 2 and all(map(_is_figure, bounds)) and bounds[0] <= bounds[1]


_COUNT = (_is_count, "a whole number of at least 1, or None")
_LENGTH = (lambda figure: _is_figure(figure) and figure > 0, "a number of seconds above 0")
_SHARE = (_is_figure, "a number of at least 0")

_TAKES: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("rpm", "tpm", "burst", "concurrency", "hard_cap", "ramp", "quota"), _COUNT),
    **dict.fromkeys(("window", "ramp_period"), _LENGTH),
    **dict.fromkeys(("lag", "ramp_growth", "slowdown"), _SHARE),
    "hint": (lambda figure: figure is None or _is_figure(figure), "a number of seconds of at least 0, or None"),
    "seed": (lambda figure: isinstance(figure, int) and not isinstance(figure, bool), "a whole number"),
    "latency": (_is_latency, "seconds of at least 0, or (low, high)"),
}
