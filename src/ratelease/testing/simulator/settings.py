"""Say what one simulator enforces: checked once, passed to a process of its own as arguments."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from random import Random

from ratelease.errors import ConfigError
from ratelease.testing.simulator.limits import BURST_WINDOW, Algorithm, Gate, StrictWindow, rate_limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Hold the limits and the latency of one simulator.

    Args:
        rpm: requests per `window`; None means no such limit. With the default window these are requests per
            minute; a shorter window makes a test shorter and leaves the count as it is
            (`rpm=300, window=10.0` admits 300 in any 10 s).
        window: length of that window in seconds, above 0.
        algorithm: "strict" admits `rpm` in any window of that length; "bucket" refills continuously, so
            that it admits `rpm` at once and then `rpm` per `window`.
        burst: requests in any single second; None means no such limit.
        concurrency: requests in flight at the same moment; None means no such limit.
        count_refused: whether a refused request counts against `rpm` and `burst` as an admitted one does.
        latency: seconds from arrival to the end of the answer, or (low, high) to draw from.
        seed: of the generator that draws latencies.

    Raises:
        ConfigError: if a figure is out of range; the message names it.
    """

    rpm: int | None = None
    window: float = 60.0
    algorithm: Algorithm = "strict"
    burst: int | None = None
    concurrency: int | None = None
    count_refused: bool = False
    latency: float | tuple[float, float] = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rpm", "burst", "concurrency"):
            figure = getattr(self, name)
            if figure is not None and (isinstance(figure, bool) or not isinstance(figure, int) or figure < 1):
                raise ConfigError(f"{name} must be a whole number of at least 1, or None, not {figure!r}")
        if not _is_seconds(self.window) or self.window == 0:
            raise ConfigError(f"window must be a number of seconds above 0, not {self.window!r}")
        if self.algorithm not in {"strict", "bucket"}:
            raise ConfigError(f'algorithm must be "strict" or "bucket", not {self.algorithm!r}')
        if not _is_latency(self.latency):
            raise ConfigError(f"latency must be seconds of at least 0, or (low, high), not {self.latency!r}")

    @property
    def latency_range(self) -> tuple[float, float]:
        """Return the lowest and the highest latency in seconds."""
        return self.latency if isinstance(self.latency, tuple) else (self.latency, self.latency)

    def gate(self) -> Gate:
        """Return fresh limits with nothing used."""
        return Gate(
            requests=None if self.rpm is None else rate_limit(self.algorithm, self.rpm, self.window),
            burst=None if self.burst is None else StrictWindow(self.burst, BURST_WINDOW),
            concurrency=self.concurrency,
            count_refused=self.count_refused,
        )

    def draw_latency(self, random: Random) -> float:
        """Return the latency of the next answer in seconds."""
        low, high = self.latency_range
        return low if low == high else random.uniform(low, high)

    def to_args(self) -> list[str]:
        """Return the same settings as arguments of `python -m ratelease.testing.simulator`."""
        args = [f"--window={self.window!r}", f"--algorithm={self.algorithm}", f"--seed={self.seed}"]
        args += [f"--{name}={figure}" for name in ("rpm", "burst", "concurrency") if (figure := getattr(self, name))]
        args += ["--latency", *(repr(seconds) for seconds in self.latency_range)]
        return [*args, "--count-refused"] if self.count_refused else args

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Declare the arguments that `to_args` writes and `from_args` reads."""
        parser.add_argument("--rpm", type=int, help="requests per window")
        parser.add_argument("--window", type=float, default=60.0, help="seconds of that window (60)")
        parser.add_argument("--algorithm", choices=("strict", "bucket"), default="strict")
        parser.add_argument("--burst", type=int, help="requests in any single second")
        parser.add_argument("--concurrency", type=int, help="requests in flight at the same moment")
        parser.add_argument("--count-refused", action="store_true", help="refused requests count too")
        parser.add_argument(
            "--latency",
            type=float,
            nargs="+",
            default=[0.05],
            metavar="SECONDS",
            help="fixed, or low and high (0.05)",
        )
        parser.add_argument("--seed", type=int, default=0, help="of the latencies (0)")

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> Settings:
        """Return the settings of parsed arguments; ConfigError says what is wrong with them."""
        if len(args.latency) > 2:
            raise ConfigError("latency takes one figure or two")
        return cls(
            rpm=args.rpm,
            window=args.window,
            algorithm=args.algorithm,
            burst=args.burst,
            concurrency=args.concurrency,
            count_refused=args.count_refused,
            latency=(args.latency[0], args.latency[-1]),
            seed=args.seed,
        )


def _is_seconds(figure: object) -> bool:
    """Say whether `figure` is a finite number that is not negative."""
    if isinstance(figure, bool) or not isinstance(figure, (int, float)):
        return False
    return math.isfinite(figure) and figure >= 0


def _is_latency(latency: object) -> bool:
    """Say whether `latency` is one number of seconds, or a low and a high one."""
    bounds = latency if isinstance(latency, tuple) else (latency, latency)
    return len(bounds) == 2 and all(map(_is_seconds, bounds)) and bounds[0] <= bounds[1]
