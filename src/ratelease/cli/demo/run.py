"""Run the demo from beginning to end, and leave nothing running."""

from __future__ import annotations

import contextlib
import secrets
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from types import FrameType

from rich.console import Console

from ratelease import Client, Limits
from ratelease.cli.demo.fleet import Fleet
from ratelease.cli.demo.messages import Order, Report
from ratelease.cli.demo.plan import LATENCY, MODEL_PATH, Plan
from ratelease.cli.demo.tally import Result, judge, last_line, shortcomings
from ratelease.cli.demo.view import WITH, WITHOUT, Sample, View, make_view, result_table
from ratelease.errors import RateleaseError
from ratelease.testing import ProviderSimulator, RedisServer

SAMPLE_EVERY = 0.2  # seconds
INTERRUPTED = 130  # exit status of a shell's command after Ctrl-C
WIDTH_WITHOUT_TERMINAL = 80


def run_demo(*, seconds: float, workers: int, tasks: int, count_refused: bool, url: str | None) -> int:
    """Run both phases, print the table and the last line, and return the exit status."""
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH_WITHOUT_TERMINAL)
    plan = Plan.of(seconds=seconds, workers=workers, tasks=tasks, count_refused=count_refused)
    try:
        with _terminable():
            without, with_limiter = _run_phases(plan, console, url)
    except KeyboardInterrupt:
        sys.stderr.write("demo: interrupted\n")
        return INTERRUPTED
    except (RateleaseError, RuntimeError, OSError, ImportError) as fault:
        sys.stderr.write(f"demo: {fault}\n")
        return 1
    console.print(result_table(plan, without, with_limiter))
    if not count_refused:
        print("Refusals cost nothing here; with --count-refused they count, as at OpenAI.")
    if with_limiter.errors:
        print(f"{with_limiter.errors} attempts of the limited fleet failed, such as: {with_limiter.last_error}")
    faults = shortcomings(with_limiter)
    for sentence in faults:
        print(f"demo: {sentence}")
    print(last_line(without, with_limiter), flush=True)
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
    with contextlib.ExitStack() as running:
        limiter_url = url or running.enter_context(RedisServer()).url
        _check_store(limiter_url)
        running.enter_context(simulator)
        view = running.enter_context(make_view(console, plan))
        without = _run_phase(plan, simulator, view, WITHOUT, None)
        with_limiter = _run_phase(plan, simulator, view, WITH, limiter_url)
    return without, with_limiter


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
        # A namespace of its own: in a Redis that others use nothing is mixed, and all keys end by themselves.
        namespace=f"demo-{secrets.token_hex(4)}",
        limit=plan.limit,
        window=plan.window,
        concurrency=plan.concurrency,
    )
    view.begin(name)
    with Fleet(order, plan.workers) as fleet:
        simulator.reset()
        fleet.go()
        started = time.monotonic()
        while not fleet.finished:
            time.sleep(SAMPLE_EVERY)
            elapsed = time.monotonic() - started
            view.show(name, _sample(elapsed, plan.seconds, simulator, fleet.reports()))
        reports = fleet.reports()
    stats = simulator.stats()
    return judge(
        arrivals=simulator.arrivals(),
        throttled=stats.throttled,
        busiest=stats.peak_in_window,
        reports=reports,
        limit=plan.limit,
        window=plan.window,
        seconds=plan.seconds,
    )


def _sample(elapsed: float, seconds: float, simulator: ProviderSimulator, reports: Sequence[Report]) -> Sample:
    stats = simulator.stats()
    return Sample(
        elapsed=elapsed,
        seconds=seconds,
        done=sum(report.done for report in reports),
        throttled=stats.throttled,
        in_window=stats.in_window,
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
