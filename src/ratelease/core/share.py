"""
What one instance may admit by itself while the store is away: its share of every limit, and what it has used of it.

The shares of all instances add up to the limit: each gets limit ÷ instances, and the remainder goes to the first
ranks. Windows are cut into slots as in lua/lib/load_rates: the oldest slot counts whole, so that no true window holds
more than the share. All times are ms of one clock that never goes back.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from .model import UNIT_LETTERS, Line

_COST = re.compile(r"([a-z])(\d+)")
_RATE = re.compile(r"([a-z])(\d+)=(\d+)\+(\d+)")
_HEADROOM = re.compile(r"\bh(\d+)")
_LETTERS = frozenset(UNIT_LETTERS.values())


@dataclass(frozen=True, slots=True)
class Standing:
    """How many instances share the limits, and this one's place among them, from 0; it only decides the remainder."""

    instances: int
    rank: int

    def share(self, limit: int) -> int:
        """This instance's part of a limit."""
        return limit // self.instances + (1 if self.rank < limit % self.instances else 0)


@dataclass(frozen=True, slots=True)
class RateSpec:
    """One rate as scripts spell it: "r60000=500+250". Times are ms."""

    unit: str
    window: int
    limit: int
    guard: int

    @property
    def name(self) -> str:
        """Its name within a scope."""
        return f"{self.unit}{self.window}"

    @property
    def width(self) -> int:
        """How long a slot is."""
        return (self.window + 59) // 60

    @property
    def lifetime(self) -> int:
        """For how long a charge counts at most."""
        return self.window + self.guard + self.width


@dataclass(frozen=True, slots=True)
class ScopeSpec:
    """The limits of one scope; `concurrency` is None where there is none."""

    concurrency: int | None
    rates: tuple[RateSpec, ...]


@lru_cache(4096)
def read_spec(spec: str) -> ScopeSpec:
    """Limits as scripts spell them. "-", "?" and "none" limit nothing."""
    head = spec.split(" ", maxsplit=1)[0]
    concurrency = int(head[1:]) if head[:1] == "c" and head[1:].isdigit() else None
    headroom = _HEADROOM.search(spec)
    part = int(headroom[1]) if headroom else 1000
    rates = tuple(
        RateSpec(unit, int(window), max(int(limit) * part // 1000, 1), int(guard))
        for unit, window, limit, guard in _RATE.findall(spec)
    )
    return ScopeSpec(concurrency, rates)


def agreed_spec(own: ScopeSpec, known: Mapping[str, int]) -> ScopeSpec:
    """A scope's limits where the store has told some of them, by dimension ("c", "r60000")."""
    rates = {rate.name: rate for rate in own.rates}
    for name, limit in list(known.items()):
        if name in rates:
            rates[name] = replace(rates[name], limit=limit)
        elif name[:1] in _LETTERS and name[1:].isdigit() and int(name[1:]) > 0:
            window = int(name[1:])
            rates[name] = RateSpec(name[0], window, limit, min(250, window // 10))
    return ScopeSpec(known.get("c", own.concurrency), tuple(rates.values()))


def read_costs(costs: str) -> dict[str, int]:
    """What one lease surely charges, by letter: 1200 tokens of "r1t1200I900"."""
    return {unit: int(amount) for unit, amount in _COST.findall(costs)}


class Window:
    """What is charged to one rate of one scope. Slots are [number, amount], the oldest first."""

    __slots__ = ("rate", "slots", "total")

    def __init__(self, rate: RateSpec) -> None:
        self.rate = rate
        self.slots: deque[list[int]] = deque()
        self.total = 0

    def used(self, now: int) -> int:
        """What counts now."""
        first = (now - self.rate.window - self.rate.guard) // self.rate.width
        while self.slots and self.slots[0][0] < first:
            self.total -= self.slots.popleft()[1]
        return self.total

    def charge(self, now: int, amount: int) -> None:
        """Count an amount from now on; never before what is counted already."""
        slot = now // self.rate.width
        if self.slots and self.slots[-1][0] >= slot:
            self.slots[-1][1] += amount
        else:
            self.slots.append([slot, amount])
        self.total += amount

    def frees_at(self, limit: int, need: int) -> int:
        """When `need` more will fit below the limit; `need` is at most the limit."""
        left = self.total
        for slot, amount in self.slots:
            left -= amount
            if left + need <= limit:
                return (slot + 1) * self.rate.width + self.rate.window + self.rate.guard
        return 0


@dataclass(frozen=True, slots=True)
class Block:
    """What keeps a request from being admitted now. `at` is when time frees it, 0 where time does not."""

    scope: int
    dimension: str
    used: int
    limit: int
    at: int = 0


@dataclass(frozen=True, slots=True)
class Need:
    """What one request takes: weight and charges of all its leases together."""

    weight: int
    charges: Mapping[str, int]

    @classmethod
    def of(
        cls, n: int, weight: int, costs: str, specs: Iterable[ScopeSpec] = (), standing: Standing | None = None
    ) -> Need:
        """
        The need of `n` leases under these limits.

        What their caller has only guessed ("T1000") counts where a rate counts it, and is never more than fits, as in
        lua/lib/estimate_costs.
        """
        charges, guesses, counted = read_costs(costs), read_costs(costs.swapcase()), set()
        for rate in (rate for spec in specs for rate in spec.rates if rate.unit not in charges):
            if rate.unit in guesses:
                most = rate.limit if standing is None else standing.share(rate.limit)
                guesses[rate.unit] = max(min(guesses[rate.unit], most // n), 1)
                counted.add(rate.unit)
        charges |= {unit: guesses[unit] for unit in counted}
        return cls(n * weight, {unit: n * amount for unit, amount in charges.items()})


class Book:
    """Everything that this instance has charged to the rates of every scope, as far as it still counts."""

    def __init__(self) -> None:
        self._windows: dict[tuple[str, str], Window] = {}

    def charge(self, line: Line, specs: Iterable[ScopeSpec], charges: Mapping[str, int], now: int) -> None:
        """Count what was granted."""
        for scope, spec in zip(line.path.scopes, specs, strict=True):
            for rate in spec.rates:
                amount = charges.get(rate.unit, 0)
                if amount:
                    self._window(scope, rate).charge(now, amount)

    def _window(self, scope: str, rate: RateSpec) -> Window:
        window = self._windows.get((scope, rate.name))
        if window is None:
            window = self._windows[scope, rate.name] = Window(rate)
        return window

    def prune(self, now: int) -> None:
        """Forget the windows in which nothing counts any more."""
        for key in [key for key, window in self._windows.items() if not window.used(now)]:
            del self._windows[key]

    def blocked(
        self, line: Line, specs: Iterable[ScopeSpec], need: Need, use: Mapping[str, int], standing: Standing, now: int
    ) -> Block | None:
        """What of this instance's shares is used up: the rate that frees last, or else a full concurrency."""
        full: Block | None = None
        timed: Block | None = None
        for number, (scope, spec) in enumerate(zip(line.path.scopes, specs, strict=True)):
            if spec.concurrency is not None:
                share, used = standing.share(spec.concurrency), use.get(scope, 0)
                if used + need.weight > share and full is None:
                    full = Block(number, "c", used, share)
            for rate in spec.rates:
                amount = need.charges.get(rate.unit, 0)
                window = self._windows.get((scope, rate.name))
                if not amount or window is None:
                    continue
                share, used = standing.share(rate.limit), window.used(now)
                if used + amount > share:
                    at = window.frees_at(share, amount)
                    if timed is None or at > timed.at:
                        timed = Block(number, rate.name, used, share, at)
        return timed or full


def too_large(specs: Iterable[ScopeSpec], need: Need, standing: Standing | None) -> Block | None:
    """The first limit, or share of it, that the need exceeds by itself: no wait would help."""
    for number, spec in enumerate(specs):
        limits = [("c", spec.concurrency, need.weight)] if spec.concurrency is not None else []
        limits += [(rate.name, rate.limit, need.charges.get(rate.unit, 0)) for rate in spec.rates]
        for name, limit, amount in limits:
            most = limit if standing is None else standing.share(limit)
            if amount > most:
                return Block(number, name, amount, most)
    return None


@dataclass(slots=True)
class _Late:
    """What was admitted within one second: when the last of it was, and the charges together."""

    at: int
    charges: dict[str, int]


class LateCharges:
    """
    What was admitted without the store, to be charged there when it is back. One entry a second and path; the age of
    an entry is that of its youngest charge.
    """

    MOST = 3600

    def __init__(self) -> None:
        self._lines: dict[str, tuple[Line, deque[_Late]]] = {}

    def __bool__(self) -> bool:
        return bool(self._lines)

    def note(self, line: Line, charges: Mapping[str, int], now: int) -> None:
        """Note an admission."""
        _, entries = self._lines.setdefault(line.path.name, (line, deque(maxlen=self.MOST)))
        if entries and entries[-1].at // 1000 == now // 1000:
            last = entries[-1]
            last.at = now
            for unit, amount in charges.items():
                last.charges[unit] = last.charges.get(unit, 0) + amount
        else:
            entries.append(_Late(now, dict(charges)))

    def take(self, most: int) -> tuple[Line, list[tuple[int, str]]] | None:
        """Take up to `most` entries of one path: time and costs of each. None when nothing is left."""
        for name, (line, entries) in list(self._lines.items()):
            taken = [entries.popleft() for _ in range(min(len(entries), most))]
            if not entries:
                del self._lines[name]
            if taken:
                return line, [
                    (late.at, "".join(f"{unit}{amount}" for unit, amount in late.charges.items())) for late in taken
                ]
        return None
