"""Run the demo from beginning to end, and leave nothing running."""

from __future__ import annotations

import contextlib
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import TypeVar

from rich.console import Console

from ratelease import Client, Limits
from ratelease.cli.demo.fleet import Fleet
from ratelease.cli.demo.gate import (
    GatePlan,
    GateResult,
    gate_line,
    gate_sample,
    gate_shortcomings,
    gate_table,
    judge_gate,
)
from ratelease.cli.demo.messages import Order, Report
from ratelease.cli.demo.plan import LATENCY, MODEL_PATH, Plan, Scene
from ratelease.cli.demo.tally import Result, judge, last_line, shortcomings
from ratelease.cli.demo.view import WITH, WITHOUT, Sample, View, make_view, result_table
from ratelease.errors import RateleaseError
from ratelease.testing import ProviderSimulator, RedisServer, SimulatorStats

Results = TypeVar("Results")

SAMPLE_EVERY = 0.2  # seconds
INTERRUPTED = 130  # exit status of a shell's command after Ctrl-C
WIDTH_WITHOUT_TERMINAL = 80


def run_demo(*, seconds: float, workers: int, tasks: int, count_refused: bool, url: str | None) -> int:
    """Run both phases, print the table and the last line, and return the exit status."""
    console = _console()
    plan = Plan.of(seconds=seconds, workers=workers, tasks=tasks, count_refused=count_refused)
    results = _guarded(lambda: _run_phases(plan, console, url))
    if isinstance(results, int):
        return results
    without, with_limiter = results
    console.print(result_table(plan, without, with_limiter))
    if not count_refused:
        print("Refusals cost nothing here; with --count-refused they count, as at OpenAI.")
    if with_limiter.errors:
        print(f"{with_limiter.errors} attempts of the limited fleet failed, such as: {with_limiter.last_error}")
    return _conclude(shortcomings(with_limiter), last_line(without, with_limiter))


def run_gate_demo(*, seconds: float, workers: int, tasks: int, url: str | None) -> int:
    """Run both phases of the demo of the usage gate, print the table and the last line, return the exit status."""
    console = _console()
    plan = GatePlan(workers=workers, tasks=tasks, seconds=seconds / 2)
    results = _guarded(lambda: _run_gate_phases(plan, console, url))
    if isinstance(results, int):
        return results
    own, gated = results
    console.print(gate_table(plan, results))
    if gated.errors:
        print(f"{gated.errors} attempts of the gated fleet failed, such as: {gated.last_error}")
    return _conclude(gate_shortcomings(gated), gate_line(own, gated))


def _console() -> Console:
    return Console() if sys.stdout.isatty() else Console(width=WIDTH_WITHOUT_TERMINAL)


def _guarded(run: Callable[[], Results]) -> Results | int:
    """Return what `run` does, or the exit status where it was interrupted or has failed, which is said."""
    try:
        with _terminable():
            return run()
    except KeyboardInterrupt:
        sys.stderr.write("demo: interrupted\n")
        return INTERRUPTED
    except (RateleaseError, RuntimeError, OSError, ImportError) as fault:
        sys.stderr.write(f"demo: {fault}\n")
        return 1


def _conclude(faults: Sequence[str], line: str) -> int:
    for sentence in faults:
        print(f"demo: {sentence}")
    print(line, flush=True)
    return 1 if faults else 0


def _run_phases(plan: Plan, console: Console, url: str | None) -> tuple[Result, Result]:
    simulator = ProviderSimulator(
        rpm=plan.limit,
        window=plan.window,
        concurrency=plan.concurrency,
        count_refused=plan.count_refused,
        latency=LATENCY,
        # A process of its own: the judge must not wait for an interpreter lock that the view holds.
        in_process=False,
    )
    with _running(plan, simulator, console, url) as (view, limiter_url):
        without = _run_phase(plan, simulator, view, WITHOUT, None)
        with_limiter = _run_phase(plan, simulator, view, WITH, limiter_url)
    return without, with_limiter


def _run_gate_phases(plan: GatePlan, console: Console, url: str | None) -> tuple[GateResult, GateResult]:
    simulator = plan.simulator()
    with _running(plan, simulator, console, url) as (view, limiter_url):
        own, gated = (_run_gate_phase(plan, simulator, view, name, limiter_url) for name in plan.names)
    return own, gated


@contextlib.contextmanager
def _running(
    scene: Scene, simulator: ProviderSimulator, console: Console, url: str | None
) -> Iterator[tuple[View, str]]:
    """Run everything but the fleet: the store, where `url` is none, the provider and the view."""
    with contextlib.ExitStack() as running:
        limiter_url = url or running.enter_context(RedisServer()).url
        _check_store(limiter_url)
        running.enter_context(simulator)
        yield running.enter_context(make_view(console, scene)), limiter_url


def _check_store(url: str) -> None:
    """Raise what is wrong with `url` before half a minute has gone by: ConfigError or StoreUnavailable."""
    with Client(url, namespace="demo", limits={MODEL_PATH: Limits(concurrency=1)}, require_shared=True) as client:
        client.status()


def _run_phase(plan: Plan, simulator: ProviderSimulator, view: View, name: str, limiter_url: str | None) -> Result:
    order = Order(
        provider_url=simulator.url,
        tasks=plan.tasks,
        seconds=plan.seconds,
        limiter_url=limiter_url,
        namespace=_namespace(),
        limit=plan.limit,
        window=plan.window,
        concurrency=plan.concurrency,
    )
    samples, reports = _call(plan, order, simulator, view, name, _sample)
    stats = samples[-1]
    return judge(
        arrivals=simulator.arrivals(),
        throttled=stats.throttled,
        busiest=stats.peak_in_window,
        reports=reports,
        limit=plan.limit,
        window=plan.window,
        seconds=plan.seconds,
    )


def _run_gate_phase(
    plan: GatePlan, simulator: ProviderSimulator, view: View, name: str, limiter_url: str
) -> GateResult:
    order = plan.order(simulator.url, limiter_url, _namespace(), gated=name == plan.names[1])
    samples, reports = _call(plan, order, simulator, view, name, gate_sample)
    # What comes after the measured time is calls that end: it would count as unused.
    measured = next((stats for stats in samples if stats.elapsed >= plan.seconds), samples[-1])
    return judge_gate(stats=measured, reports=reports)


def _call(
    scene: Scene,
    order: Order,
    simulator: ProviderSimulator,
    view: View,
    name: str,
    take: Callable[[float, float, SimulatorStats, Sequence[Report]], Sample],
) -> tuple[list[SimulatorStats], list[Report]]:
    """Let a fleet call; return what the provider counted all the while and at the end, and the final reports."""
    view.begin(name)
    samples = []
    with Fleet(order, scene.workers) as fleet:
        simulator.reset()
        fleet.go()
        started = time.monotonic()
        while not fleet.finished:
            time.sleep(SAMPLE_EVERY)
            reports = fleet.reports()
            samples.append(simulator.stats())
            view.show(name, take(time.monotonic() - started, scene.seconds, samples[-1], reports))
        reports = fleet.reports()
    return [*samples, simulator.stats()], reports


def _namespace() -> str:
    """Return a namespace of its own: in a Redis that others use nothing is mixed, and all keys end by themselves."""
    return f"demo-{secrets.token_hex(4)}"


def _sample(elapsed: float, seconds: float, stats: SimulatorStats, reports: Sequence[Report]) -> Sample:
    return Sample(
        elapsed=elapsed,
        seconds=seconds,
        done=sum(report.done for report in reports),
        throttled=stats.throttled,
        used=stats.in_window,
        in_flight=stats.in_flight,
        by_worker=tuple(report.done for report in reports),
    )


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into an exit that unwinds, so that everything started is stopped."""

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
