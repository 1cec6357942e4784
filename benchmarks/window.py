"""How much of a rate is used, and whether any true window exceeds it, by a clock that the benchmark drives."""

from __future__ import annotations

import random
from collections.abc import Callable
from unittest import mock

import fakeredis

from benchmarks.direct import Direct
from benchmarks.measure import show
from ratelease import Limits, Rate
from ratelease.core.model import Verdict

WINDOW = 10.0  # seconds
LIMIT = 100
GUARDS = (0.0, 0.25)
HEAD = ("load", "seconds", "guard s", "most in any window", "of limit", "admitted", "exact log", "share")

STEP = 0.05  # seconds between two moments at which somebody asks

Asking = Callable[[float, random.Random], int]


def _saturated(_now: float, _draw: random.Random) -> int:
    return LIMIT


def _on_off(now: float, _draw: random.Random) -> int:
    """Three times the limit for 25 s, nothing for 17 s: phases that drift through the slots."""
    return 15 if now % 41.9 < 25.3 else 0


def _poisson(_now: float, draw: random.Random) -> int:
    """On average 1.5 times the limit."""
    mean, count, left = 1.5 * LIMIT / WINDOW * STEP, 0, draw.expovariate(1.0)
    while left < mean:
        count, left = count + 1, left + draw.expovariate(1.0)
    return count


# Each with the seconds of the driven clock that it is given.
LOADS: dict[str, tuple[Asking, float]] = {
    "saturated": (_saturated, 2400.0),
    "on and off": (_on_off, 1250.0),
    "Poisson, 1.5 × the limit": (_poisson, 200.0),
}


def run() -> None:
    """Drive every load with each guard, and print the table."""
    rows = [
        (name, f"{seconds:g}", guard, *_drive(asking, seconds, guard))
        for name, (asking, seconds) in LOADS.items()
        for guard in GUARDS
    ]
    show(f"window of {WINDOW:g} s, {LIMIT} requests, on a driven clock", HEAD, rows)


def _drive(asking: Asking, seconds: float, guard: float) -> tuple[str, ...]:
    """One load, as the scripts and as an exact log of all grants admit it."""
    draw, begin = random.Random(1), 1_800_000_000.0
    client = fakeredis.FakeRedis(server=fakeredis.FakeServer())
    direct = Direct(client, "bench-window", model=Limits(rates=[Rate(LIMIT, per=WINDOW)], guard=guard))
    admitted: list[float] = []
    exact: list[float] = []
    with mock.patch("time.time") as clock:
        frees_at = 0.0
        for tick in range(int(seconds / STEP)):
            now = begin + tick * STEP
            clock.return_value = now
            wanted = asking(now - begin, draw)
            exact += [now] * min(wanted, LIMIT - sum(1 for grant in exact[-LIMIT:] if grant > now - WINDOW))
            if wanted and now >= frees_at:
                answers = direct.acquire([direct.request() for _ in range(wanted)])
                granted = [a for a in answers if a.status is Verdict.GRANTED]
                admitted += [now] * len(granted)
                if len(granted) < wanted:
                    frees_at = answers[-1].at / 1000
    most = _most(admitted)
    return (
        str(most),
        f"{100 * most / LIMIT:.0f} %",
        f"{len(admitted):,}",
        f"{len(exact):,}",
        f"{100 * len(admitted) / len(exact):.1f} %",
    )


def _most(grants: list[float]) -> int:
    """The most grants in any half-open interval of a window's length, wherever it begins."""
    most, first = 0, 0
    for number, grant in enumerate(grants):
        while grant - grants[first] >= WINDOW:
            first += 1
        most = max(most, number - first + 1)
    return most
