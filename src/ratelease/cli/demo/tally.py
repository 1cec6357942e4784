"""Judge a phase of the demo by what the provider and the workers counted, and say it in a line. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ratelease.cli.demo.messages import Report

# Of the binding limit; the limiter's guard against late arrivals costs up to 4 % of a window of 10 s.
ENOUGH = 0.95


@dataclass(frozen=True, slots=True)
class Result:
    """Hold the outcome of one phase. Times are in seconds."""

    admitted: int
    throttled: int
    """429s, counted by the provider."""
    share: float
    """Requests admitted in the measured time, from the first one on ÷ what the limit allows in that time."""
    busiest: int
    """The most admitted in any window."""
    p50: float | None
    p99: float | None
    """Waits from wanting to make a call to sending the attempt that was admitted; None without any."""
    by_worker: tuple[int, ...]
    """Calls answered, by worker."""
    by_task: tuple[int, ...]
    """Calls answered, by task."""
    errors: int
    last_error: str


def judge(
    *,
    arrivals: Sequence[float],
    throttled: int,
    busiest: int,
    reports: Sequence[Report],
    limit: int,
    window: float,
    seconds: float,
) -> Result:
    """Put together what the provider saw (`arrivals` of the admitted, ascending) and what the workers did."""
    measured = [stamp for stamp in arrivals if stamp - arrivals[0] < seconds]
    waits = [wait for report in reports for wait in (*report.waits, *report.open_waits)]
    return Result(
        admitted=len(arrivals),
        throttled=throttled,
        share=len(measured) / (limit * seconds / window),
        busiest=busiest,
        p50=percentile(waits, 50),
        p99=percentile(waits, 99),
        by_worker=tuple(report.done for report in reports),
        by_task=tuple(count for report in reports for count in report.by_task),
        errors=sum(report.errors for report in reports),
        last_error=next((report.last_error for report in reports if report.last_error), ""),
    )


def percentile(values: Sequence[float], rank: int) -> float | None:
    """Return the smallest value that at least `rank` % of the values do not exceed; None of nothing."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(len(values) * rank / 100) - 1)]


def percent(share: float) -> str:
    """Write a share in whole percent, rounded down: 99.9 % is not 100 %."""
    return f"{math.floor(share * 100 + 1e-9)} %"


def last_line(without: Result, with_limiter: Result) -> str:
    """Return the line that says it all."""
    return (
        f"demo: with limiter: {with_limiter.admitted} requests, {with_limiter.throttled} × 429, "
        f"{percent(with_limiter.share)} of the limit used; "
        f"without: {without.admitted} requests, {without.throttled} × 429"
    )


def shortcomings(with_limiter: Result) -> list[str]:
    """Return a sentence for everything that the limiter did not keep; nothing when all is well."""
    faults = []
    if with_limiter.throttled:
        faults.append(f"the provider refused {with_limiter.throttled} requests of the limited fleet")
    if with_limiter.share < ENOUGH:
        faults.append(f"the limited fleet used {percent(with_limiter.share)} of the limit, less than {percent(ENOUGH)}")
    return faults
