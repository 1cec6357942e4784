"""Exact checks of recorded histories: how many at once, how many in any window."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


def peak(intervals: Iterable[tuple[float, float]]) -> int:
    """The highest number of half-open intervals [start, end) that hold any one moment; empty ones hold none."""
    edges = sorted(edge for start, end in intervals if start < end for edge in ((start, 1), (end, -1)))
    highest = current = 0
    # At one moment an end (-1) sorts before a start: what ends as another begins does not overlap it.
    for _, step in edges:
        current += step
        highest = max(highest, current)
    return highest


def densest(times: Iterable[float], window: float) -> int:
    """The highest number of times in any half-open window [t, t + window)."""
    ordered = sorted(times)
    first = highest = 0
    for last, time in enumerate(ordered):
        while ordered[first] <= time - window:
            first += 1
        highest = max(highest, last - first + 1)
    return highest


@dataclass(frozen=True, slots=True)
class Held:
    """One lease as its holder saw it, all on the monotonic clock of the machine.

    `end` is when the holder stopped using it (or was killed), `deadline` until when it could know that it was its
    own.
    """

    id: str
    start: float
    end: float
    deadline: float

    @property
    def naive(self) -> tuple[float, float]:
        """From grant to end, as a holder without a deadline believes."""
        return self.start, self.end

    @property
    def bounded(self) -> tuple[float, float]:
        """From grant to end, or to the deadline if that comes first."""
        return self.start, min(self.end, self.deadline)


def holdings(events: Sequence[dict[str, Any]], ended_by: float = float("inf")) -> list[Held]:
    """Pair the events `granted` and `ended` of one worker.

    Events `beat` carry the deadlines at that moment; they tell the deadline of what has no end, because its process
    was killed at `ended_by`.
    """
    granted: dict[str, dict[str, Any]] = {}
    found: list[Held] = []
    for event in events:
        if event["event"] == "granted":
            granted[event["id"]] = dict(event)
        elif event["event"] == "beat":
            for id, deadline in event["deadlines"].items():
                if id in granted:
                    granted[id]["deadline"] = max(granted[id]["deadline"], deadline)
        elif event["event"] == "ended":
            begun = granted.pop(event["id"])
            found.append(Held(event["id"], begun["when"], event["when"], event["deadline"]))
    found += [Held(id, begun["when"], ended_by, begun["deadline"]) for id, begun in granted.items()]
    return found
