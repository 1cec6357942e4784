"""The demo of the usage gate: its figures, its verdict, its screen, and a short one from beginning to end."""

import asyncio
import dataclasses
import io
import re
import subprocess
import sys

import httpx
import pytest
from rich.console import Console

from ratelease import AsyncClient, Limits
from ratelease.cli.demo.gate import (
    FOREIGN,
    LIMIT,
    GatePlan,
    GateResult,
    gate_line,
    gate_sample,
    gate_shortcomings,
    gate_table,
    judge_gate,
)
from ratelease.cli.demo.messages import Order, Report
from ratelease.cli.demo.run import run_gate_demo
from ratelease.cli.demo.view import LiveView, PlainView
from ratelease.cli.demo.worker import work
from ratelease.testing import ProviderSimulator, SimulatorStats, config

# Real time, and much of it.
pytestmark = pytest.mark.faults

PLAN = GatePlan(workers=4, tasks=25, seconds=30.0)
OWN = GateResult(88, 17, 15, 5, 0.615, 5, 0.0, 15.6, None, (18, 24), 0, "")
GATED = GateResult(122, 0, 13, 2, 0.809, 6, 0.97, 12.7, 30.0, (23, 49), 0, "")
LAST_LINE = re.compile(
    r"demo: with usage gate: (\d+) calls, (\d+) × 429, at most (\d+) of 12 counted, (\d+) % of the limit in use, "
    r"(\d+\.\d) polls/s; own count: (\d+) calls, (\d+) × 429, at most (\d+) of 12 counted"
)


def drawn(*, terminal: bool) -> Console:
    """Return a console of 80 columns that writes into memory."""
    return Console(file=io.StringIO(), width=80, force_terminal=terminal, color_system=None)


def text_of(console: Console) -> str:
    """Return what was written."""
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def stats_of_a_provider() -> SimulatorStats:
    """Return the counts of a provider with calls of others alone."""
    with ProviderSimulator(concurrency=LIMIT, phases=["foreign@0x3"]) as simulator:
        return simulator.stats()


def test_both_phases_are_the_same_but_for_the_gate():
    """And a short demo has shorter calls, so that it is over soon."""
    own, gated = (PLAN.order("http://provider", "redis://store", "n", gated=gated) for gated in (False, True))

    assert gated.usage_url == "http://provider/v1/usage"
    assert dataclasses.replace(gated, usage_url=None) == own
    assert (own.concurrency, own.limit, own.patience, own.react) == (LIMIT, 0, 3.0, True)
    assert PLAN.simulator().settings.latency == (1.5, 3.0)
    assert GatePlan(workers=4, tasks=25, seconds=3.0).simulator().settings.latency == pytest.approx((0.15, 0.3))


def test_the_verdict_is_the_providers():
    """Use is what it counted in the measured time; polls are per second."""
    stats = dataclasses.replace(
        stats_of_a_provider(), throttled=4, peak_counted=15, beyond_limit=3, counted_seconds=180.0, elapsed=30.0,
        usage_polls=30,
    )  # fmt: skip
    reports = [Report(done=3, given_up=1, waits=[0.5, 1.0]), Report(done=2, open_waits=[9.0], errors=1, last_error="x")]
    result = judge_gate(stats=stats, reports=reports)

    assert (result.done, result.throttled, result.peak, result.beyond, result.given_up) == (5, 4, 15, 3, 1)
    assert (result.use, result.polls_per_second, result.p99) == (0.5, 1.0, 9.0)
    assert (result.by_worker, result.errors, result.last_error) == ((3, 2), 1, "x")


def test_the_table_and_the_last_line_say_what_the_gate_is_worth():
    """Each figure of the one beside that of the other."""
    console = drawn(terminal=False)
    console.print(gate_table(PLAN, (OWN, GATED)))

    rows = [[cell.strip() for cell in line.split("│")[1:4]] for line in text_of(console).splitlines() if "│" in line]
    assert rows == [
        ["calls done in 30 s", "88", "122"],
        ["429s", "17", "0"],
        ["most counted there at a time", "15 of 12", "13 of 12"],
        ["calls beyond the limit", "5", "2"],
        ["share of the limit in use", "61 %", "80 %"],
        ["calls given up, running on", "5", "6"],
        ["polls of the usage per second", "0.0", "1.0"],
        ["wait, p50", "15.60 s", "12.70 s"],
        ["wait, p99", "–", "30.00 s"],
        ["done by a worker, least–most", "18–24", "23–49"],
    ]
    found = LAST_LINE.fullmatch(gate_line(OWN, GATED))
    assert found
    assert found.groups() == ("122", "0", "13", "80", "1.0", "88", "17", "15")


def test_every_shortcoming_of_the_gate_has_a_sentence():
    """As many refusals as others have come are theirs, not the gate's."""
    assert gate_shortcomings(dataclasses.replace(GATED, throttled=FOREIGN)) == []
    assert gate_shortcomings(dataclasses.replace(GATED, throttled=FOREIGN + 1, use=0.5)) == [
        "the provider refused 4 calls of the gated fleet",
        "50 % of the limit was in use, less than 60 %",
    ]


@pytest.mark.parametrize("terminal", [True, False])
def test_the_screen_shows_what_the_provider_counts(terminal):
    """In panels within 80 columns, and in lines where there is no terminal."""
    sample = gate_sample(10.1, 30.0, stats_of_a_provider(), [Report(done=4), Report(done=5)])
    console = drawn(terminal=terminal)
    with (LiveView if terminal else PlainView)(console, PLAN) as view:
        view.begin("usage gate")
        view.show("usage gate", sample)

    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in text_of(console).splitlines()]
    if terminal:
        assert max(map(len, lines)) <= 80
        text = re.sub(r"\s+", " ", " ".join(lines))
        for words in ("own count", "usage gate", "of others 3", "usage polls 0", "counted there 3 of 12", "by worker"):
            assert words in text
    else:
        assert lines[-1] == (
            "usage gate: 10 s of 30 s, 9 done, 0 × 429, 25 % of the provider's limit counted, 0 in flight, "
            "3 of others, 0 usage polls, by worker 4 5"
        )
    assert all(len(line) <= 80 for line in (PLAN.describe_fleet(), PLAN.describe_provider()))


async def test_whoever_runs_out_of_patience_leaves_and_a_refusal_is_told():
    """The time of the call counts, not that of waiting for it; both kinds of end reach the lease."""
    calls = 0

    async def answer(_: httpx.Request) -> httpx.Response:
        nonlocal calls
        calls += 1
        if calls == 1:
            return httpx.Response(429, headers={"retry-after-ms": "1"})
        await asyncio.sleep(30.0)
        raise AssertionError

    report = Report()
    order = Order(provider_url="http://provider", tasks=1, seconds=1.2, patience=0.1, react=True)
    limits = {"demo": Limits(concurrency=1)}
    async with (
        httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http,
        AsyncClient("memory://patience", limits=limits, config=config()) as limiter,
    ):
        held = await limiter.acquire("demo", "chat-model")
        working = asyncio.create_task(work(order, http, lambda: limiter.acquire("demo", "chat-model"), report))
        await asyncio.sleep(0.3)
        await held.release()
        await working
        stats = limiter.stats()

    assert (stats.failed, stats.given_up >= 1, stats.done) == (1, True, 1)
    assert (report.throttled, report.given_up, report.errors) == (1, calls - 1, 0)


def test_a_short_demo_of_the_gate_ends_in_its_line(capsys):
    """One worker, phases of a second and a half, a Redis and a provider of its own."""
    run_gate_demo(seconds=3.0, workers=1, tasks=24, url=None)

    output = capsys.readouterr().out
    found = LAST_LINE.fullmatch(output.splitlines()[-1])
    assert found, output
    gated, met, _, _, polls, own, _, _ = map(float, found.groups())
    assert min(own, gated) >= 10
    assert met <= FOREIGN
    assert 0 < polls <= 3.0


def test_the_two_demos_do_not_mix():
    """What refused requests cost has no part in the one of the gate."""
    command = [sys.executable, "-m", "ratelease.cli", "demo", "--usage-gate", "--count-refused"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (2, "")
    assert "--count-refused" in done.stderr


@pytest.mark.faults
@pytest.mark.timeout(180)
@pytest.mark.covers("UG-05")
def test_the_demo_of_the_gate_as_it_is_meets_hardly_a_429_and_uses_more_of_the_limit():
    """A minute, as somebody sees it who tries it."""
    command = [sys.executable, "-m", "ratelease.cli", "demo", "--usage-gate"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    found = LAST_LINE.fullmatch(done.stdout.splitlines()[-1])
    assert found, done.stdout + done.stderr
    gated, met, _, use, polls, own, _, _ = map(float, found.groups())
    assert (met <= FOREIGN, use >= 60, polls <= 1.1, done.returncode) == (True, True, True, 0), done.stdout
    assert gated > own
