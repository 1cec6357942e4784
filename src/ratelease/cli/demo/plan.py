"""Set the figures of the demo: one limit binds, and the fleet wants clearly more than it allows. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

PROVIDER, MODEL = "demo", "chat-model"
MODEL_PATH = f"{PROVIDER}/{MODEL}"

LONGEST_WINDOW = 10.0  # seconds; a shorter demo has shorter windows, never fewer
FEWEST_WINDOWS = 3  # in each phase: a fleet may begin with one window's requests at once, not with three's
MOST_CONCURRENT = 20  # calls that the provider takes at a time
LATENCY = (0.2, 0.6)  # seconds that a call takes
BINDING = 0.6  # the rate as a share of what the concurrency alone would let through


class Scene(Protocol):
    """Say what the view has to know of a demo."""

    @property
    def workers(self) -> int:
        """Return how many processes call."""

    @property
    def seconds(self) -> float:
        """Return the length of each phase."""

    @property
    def limit(self) -> int:
        """Return the binding limit, in the unit of `Sample.used`."""

    @property
    def concurrency(self) -> int:
        """Return how many calls may be in flight."""

    @property
    def line_every(self) -> float:
        """Return the seconds between two lines where there is no terminal."""

    @property
    def names(self) -> tuple[str, str]:
        """Return the names of the two phases: what is compared, and what is shown off."""

    @property
    def use_label(self) -> str:
        """Return what `Sample.used` is, as a label."""

    @property
    def use_words(self) -> str:
        """Return what it is, behind its share of the limit."""

    def describe_fleet(self) -> str:
        """Say in one line who calls."""

    def describe_provider(self) -> str:
        """Say in one line what the provider enforces."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Hold the figures of one demo. Times are in seconds."""

    workers: int
    tasks: int
    seconds: float
    """Length of each of the two phases: whole windows, in which no more than 100 % can be admitted."""
    window: float
    limit: int
    """Requests that the provider admits in any `window`: the binding limit."""
    concurrency: int
    count_refused: bool
    """Whether refused requests count against the limit too, as at OpenAI."""

    @classmethod
    def of(cls, *, seconds: float, workers: int, tasks: int, count_refused: bool = False) -> Plan:
        """Plan a demo of about `seconds` in all; starting and draining come on top."""
        window = min(LONGEST_WINDOW, seconds / (2 * FEWEST_WINDOWS))
        windows = math.floor(seconds / 2 / window + 1e-9)
        concurrency = min(MOST_CONCURRENT, workers * tasks)
        rate = BINDING * concurrency / (sum(LATENCY) / 2)
        return cls(
            workers=workers,
            tasks=tasks,
            seconds=windows * window,
            window=window,
            limit=max(1, math.floor(rate * window + 1e-9)),
            concurrency=concurrency,
            count_refused=count_refused,
        )

    names: ClassVar = ("without limiter", "with limiter")
    use_label: ClassVar = "this window"
    use_words: ClassVar = "of this window used"

    @property
    def line_every(self) -> float:
        """Return the seconds between two lines where there is no terminal."""
        return self.window / 2

    def describe_fleet(self) -> str:
        """Say in one line who calls."""
        return f"{self.workers} workers × {self.tasks} tasks share one provider account"

    def describe_provider(self) -> str:
        """Say in one line what the provider enforces."""
        refused = "refused requests count too" if self.count_refused else "refused requests cost nothing"
        return f"{self.limit} requests in any {self.window:g} s, {self.concurrency} at a time; {refused}"
