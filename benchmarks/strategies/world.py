"""Virtual time: a heap of what happens when. Nothing sleeps, and the same seed always gives the same run."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from random import Random

Event = Callable[[], None]


class World:
    """Run events in the order of their times, in seconds from 0; what is due at the same time, in order of asking."""

    def __init__(self, seed: int) -> None:
        self.now = 0.0
        self._seed = seed
        self._heap: list[tuple[float, int, Event]] = []
        self._numbers = itertools.count()

    def random(self, of: str) -> Random:
        """Return a generator of its own for each use, so that no draw depends on how often another is drawn."""
        return Random(f"{of} of {self._seed}")

    def at(self, when: float, event: Event) -> None:
        """Let something happen at a time, now if that is past."""
        heapq.heappush(self._heap, (max(when, self.now), next(self._numbers), event))

    def after(self, seconds: float, event: Event) -> None:
        """Let something happen so many seconds from now."""
        self.at(self.now + seconds, event)

    def run(self, until: float) -> None:
        """Let everything happen that is due before a time."""
        while self._heap and self._heap[0][0] < until:
            self.now, _, event = heapq.heappop(self._heap)
            event()
        self.now = until
