"""How far things have come: what clients and batches count, and what they tell of it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from .model import Outcome
from .plain import Plain

Item = TypeVar("Item")
Result = TypeVar("Result")

# Seconds that a rate looks back: long enough to be steady, short enough to show what a changed limit does.
LOOK_BACK = 60

FAILURES = (
    Outcome.THROTTLED, Outcome.OVERLOADED, Outcome.TIMEOUT, Outcome.ERROR, Outcome.QUOTA, Outcome.IGNORED
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Done(Plain, Generic[Item, Result]):
    """
    One item of a batch that has ended.

    Attributes:

        index: Its place among the items, from 0. item: the item itself.

        result: What the function returned; None if it raised.

        error: What the function or the wait for its lease raised; None if it returned.
    """

    index: int
    item: Item
    result: Result | None = None
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Progress(Plain):
    """
    How far a batch is.

    Attributes:

        done: Items whose function has returned. failed: items that ended by an error.

        in_flight: Calls under way, each with a lease. waiting: items that wait for a lease.

        per_second: Items that ended per second, over the last minute.

        total: Items there are; None while nobody knows.

        remaining_seconds: What is left, at that rate; None while nobody knows.
    """

    done: int = 0
    failed: int = 0
    in_flight: int = 0
    waiting: int = 0
    per_second: float = 0.0
    total: int | None = None
    remaining_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Stats(Plain):
    """
    What one client has done in this process, since it began.

    Attributes:

        admitted: Leases it was granted. per_second: leases granted per second, over the last minute.

        done: Leases that ended well. failed: leases whose call failed, whoever was to blame. given_up: all others that
            have ended: cancelled, unsent.

        in_flight: Leases held now. waiting: callers that wait for one.

        lost: Leases that expired before their release.

        average_wait: Seconds from asking to being granted. average_held: seconds that ended leases were held. None
            while there is none.
    """

    admitted: int = 0
    per_second: float = 0.0
    done: int = 0
    failed: int = 0
    given_up: int = 0
    in_flight: int = 0
    waiting: int = 0
    lost: int = 0
    average_wait: float | None = None
    average_held: float | None = None


class Meter:
    """Counts what happens, per second of the last minute. Times are monotonic seconds."""

    def __init__(self, began: float) -> None:
        self._began = began
        self._seconds: deque[list[int]] = deque(maxlen=LOOK_BACK + 1)

    def add(self, now: float) -> None:
        """Count one."""
        second = int(now)
        if not self._seconds or self._seconds[-1][0] != second:
            self._seconds.append([second, 0])
        self._seconds[-1][1] += 1

    def per_second(self, now: float) -> float:
        """The rate over the last minute, or since it began if that is less."""
        since = max(self._began, now - LOOK_BACK)
        found = sum(count for second, count in tuple(self._seconds) if second >= int(since))
        return found / (now - since) if now > since else 0.0


class Tally:
    """What one client counts of its leases."""

    def __init__(self, began: float) -> None:
        self.admitted = 0
        self.waited = 0.0
        self.ended = dict.fromkeys(Outcome, 0)
        self._meter = Meter(began)

    def admit(self, waited: float, now: float) -> None:
        """Count a lease that was granted after so many seconds."""
        self.admitted += 1
        self.waited += waited
        self._meter.add(now)

    def end(self, outcome: Outcome) -> None:
        """Count a lease that has ended."""
        self.ended[outcome] += 1

    def stats(self, now: float, ended: int, **others: Any) -> Stats:
        """Everything together: `ended` leases in all, and `others` are the figures that it does not count itself."""
        done, failed = self.ended[Outcome.OK], sum(self.ended[outcome] for outcome in FAILURES)
        return Stats(
            admitted=self.admitted,
            per_second=self._meter.per_second(now),
            done=done,
            failed=failed,
            given_up=max(ended - done - failed, 0),
            average_wait=self.waited / self.admitted if self.admitted else None,
            **others,
        )


class BatchCount:
    """What one batch counts of its items. One writer at a time."""

    def __init__(self, total: int | None, began: float) -> None:
        self.total = total
        self._done = 0
        self._failed = 0
        self._in_flight = 0
        self._waiting = 0
        self._meter = Meter(began)

    def begin(self) -> None:
        """An item waits for its lease."""
        self._waiting += 1

    def admit(self) -> None:
        """It has its lease."""
        self._waiting -= 1
        self._in_flight += 1

    def wait_again(self) -> None:
        """It has given its lease back, and waits for another one."""
        self._in_flight -= 1
        self._waiting += 1

    def end(self, admitted: bool, failed: bool | None, now: float) -> None:
        """It has ended, with a lease or without one; `failed` is None where it was given up."""
        if admitted:
            self._in_flight -= 1
        else:
            self._waiting -= 1
        if failed is not None:
            self._failed += failed
            self._done += not failed
            self._meter.add(now)

    def progress(self, now: float) -> Progress:
        """How far it is."""
        rate = self._meter.per_second(now)
        left = None if self.total is None else max(self.total - self._done - self._failed, 0)
        remaining = None if left is None or (left and not rate) else left / rate if left else 0.0
        return Progress(self._done, self._failed, self._in_flight, self._waiting, rate, self.total, remaining)
