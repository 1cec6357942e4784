"""Set the figures of the demo of the usage gate, and judge its two phases. Pure.

Both phases use the limiter, with its reactions. The provider counts late, calls that are given up run on there, and
others use the account: the fleet's own count is not enough to stay within the limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.table import Table

from ratelease.cli.demo.messages import Order, Report
from ratelease.cli.demo.tally import percent, percentile
from ratelease.cli.demo.view import Sample, figure_table, seconds_text, spread
from ratelease.testing import Phase, ProviderSimulator, SimulatorStats

LIMIT = 12  # calls that the provider allows at a time
HARD_CAP = 15  # calls that it tolerates
LAG = 0.5  # seconds by which it counts late
LATENCY = (1.5, 3.0)  # seconds that a call takes: the median and the 95th percentile
WHOLE = 30.0  # seconds of a phase; calls are shorter where it is
PATIENCE = 3.0  # seconds after which a client gives a call up: one in twenty
FOREIGN = 3  # calls of others, in the second third of each phase
MARGIN = 0.1  # seconds that a call may be on its way, beyond the lag
ENOUGH = 0.6  # of the limit; a poll a second sees an end half a second late on average
LINES = 6  # in each phase, where there is no terminal


@dataclass(frozen=True, slots=True)
class GatePlan:
    """Hold the figures of one demo of the gate. Times are in seconds."""

    workers: int
    tasks: int
    seconds: float
    """Length of each of the two phases."""
    limit: int = LIMIT
    concurrency: int = LIMIT
    names: ClassVar = ("own count", "usage gate")
    use_label: ClassVar = "counted there"
    use_words: ClassVar = "of the provider's limit counted"

    @property
    def line_every(self) -> float:
        """Return the seconds between two lines where there is no terminal."""
        return self.seconds / LINES

    def describe_fleet(self) -> str:
        """Say in one line who calls."""
        return f"{self.workers} workers × {self.tasks} tasks share one account; others use it for a while"

    def describe_provider(self) -> str:
        """Say in one line what the provider enforces."""
        return f"{LIMIT} calls at a time, {HARD_CAP} tolerated; counts {LAG * 1000:.0f} ms late, given-up calls run on"

    def _shortened(self, seconds: float) -> float:
        return seconds * min(1.0, self.seconds / WHOLE)

    def order(self, provider_url: str, limiter_url: str, namespace: str, *, gated: bool) -> Order:
        """Return what the workers are told: the same but for the gate."""
        return Order(
            provider_url=provider_url,
            tasks=self.tasks,
            seconds=self.seconds,
            limiter_url=limiter_url,
            namespace=namespace,
            concurrency=LIMIT,
            patience=self._shortened(PATIENCE),
            react=True,
            usage_url=f"{provider_url}/v1/usage" if gated else None,
            lag=LAG + MARGIN,
        )

    def simulator(self) -> ProviderSimulator:
        """Return the provider, in a process of its own."""
        third = self.seconds / 3
        return ProviderSimulator(
            concurrency=LIMIT,
            hard_cap=HARD_CAP,
            lag=LAG,
            ghosts=True,
            latency=(self._shortened(LATENCY[0]), self._shortened(LATENCY[1])),
            distribution="lognormal",
            phases=[Phase("foreign", third, third, FOREIGN)],
            in_process=False,
        )


@dataclass(frozen=True, slots=True)
class GateResult:
    """Hold the outcome of one phase."""

    done: int
    throttled: int
    """429s, counted by the provider."""
    peak: int
    """The most calls that the provider counted at any moment."""
    beyond: int
    """Calls admitted beyond its limit."""
    use: float
    """What it counted, on average, ÷ its limit."""
    given_up: int
    polls_per_second: float
    p50: float | None
    p99: float | None
    """Waits from wanting to make a call to sending the attempt that was admitted; None without any."""
    by_worker: tuple[int, ...]
    errors: int
    last_error: str


def gate_sample(elapsed: float, seconds: float, stats: SimulatorStats, reports: Sequence[Report]) -> Sample:
    """Return what is shown of one moment."""
    return Sample(
        elapsed=elapsed,
        seconds=seconds,
        done=sum(report.done for report in reports),
        throttled=stats.throttled,
        used=stats.counted,
        in_flight=stats.in_flight,
        by_worker=tuple(report.done for report in reports),
        more=(("of others", stats.foreign), ("usage polls", stats.usage_polls)),
    )


def judge_gate(*, stats: SimulatorStats, reports: Sequence[Report]) -> GateResult:
    """Put together what the provider counted in the measured time and what the workers did."""
    waits = [wait for report in reports for wait in (*report.waits, *report.open_waits)]
    return GateResult(
        done=sum(report.done for report in reports),
        throttled=stats.throttled,
        peak=stats.peak_counted,
        beyond=stats.beyond_limit,
        use=stats.counted_seconds / (LIMIT * stats.elapsed),
        given_up=sum(report.given_up for report in reports),
        polls_per_second=stats.usage_polls / stats.elapsed,
        p50=percentile(waits, 50),
        p99=percentile(waits, 99),
        by_worker=tuple(report.done for report in reports),
        errors=sum(report.errors for report in reports),
        last_error=next((report.last_error for report in reports if report.last_error), ""),
    )


def gate_table(plan: GatePlan, results: Sequence[GateResult]) -> Table:
    """Return the two results side by side."""
    rows = [
        (f"calls done in {plan.seconds:g} s", [str(result.done) for result in results], ""),
        ("429s", [str(result.throttled) for result in results], "bold"),
        ("most counted there at a time", [f"{result.peak} of {LIMIT}" for result in results], "bold"),
        ("calls beyond the limit", [str(result.beyond) for result in results], ""),
        ("share of the limit in use", [percent(result.use) for result in results], "bold"),
        ("calls given up, running on", [str(result.given_up) for result in results], ""),
        ("polls of the usage per second", [f"{result.polls_per_second:.1f}" for result in results], ""),
        ("wait, p50", [seconds_text(result.p50) for result in results], ""),
        ("wait, p99", [seconds_text(result.p99) for result in results], ""),
        ("done by a worker, least–most", [spread(result.by_worker) for result in results], ""),
    ]
    if any(result.errors for result in results):
        rows.append(("failed attempts", [str(result.errors) for result in results], "red"))
    return figure_table(plan.names, rows)


def gate_line(own: GateResult, gated: GateResult) -> str:
    """Return the line that says it all."""
    return (
        f"demo: with usage gate: {gated.done} calls, {gated.throttled} × 429, at most {gated.peak} of {LIMIT} counted, "
        f"{percent(gated.use)} of the limit in use, {gated.polls_per_second:.1f} polls/s; "
        f"own count: {own.done} calls, {own.throttled} × 429, at most {own.peak} of {LIMIT} counted"
    )


def gate_shortcomings(gated: GateResult) -> list[str]:
    """Return a sentence for everything that the gate did not keep; nothing when all is well."""
    faults = []
    if gated.throttled > FOREIGN:
        # Others who come between two polls can be in the way of as many calls.
        faults.append(f"the provider refused {gated.throttled} calls of the gated fleet")
    if gated.use < ENOUGH:
        faults.append(f"{percent(gated.use)} of the limit was in use, less than {percent(ENOUGH)}")
    return faults
