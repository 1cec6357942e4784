"""Declare the commands, their options and their help; the work is loaded when it is asked for."""

from __future__ import annotations

from enum import StrEnum
from importlib.util import find_spec
from typing import Annotated

import typer

app = typer.Typer(
    name="ratelease",
    help="Share one LLM provider account between any number of processes and hosts.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


class Algorithm(StrEnum):
    """Name how the simulated provider counts requests."""

    strict = "strict"
    bucket = "bucket"


class Distribution(StrEnum):
    """Name what the simulated latencies are drawn from."""

    uniform = "uniform"
    lognormal = "lognormal"


class RetryAfter(StrEnum):
    """Name how the simulated provider says when to come back."""

    both = "both"
    seconds = "seconds"
    float = "float"
    ms = "ms"
    date = "date"
    reset = "reset"
    none = "none"
    garbage = "garbage"


@app.command()
def demo(
    *,
    seconds: Annotated[float, typer.Option(min=6, help="About how long the whole demo takes.")] = 60.0,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Worker processes.")] = 4,
    tasks: Annotated[int, typer.Option(min=1, max=1000, help="Tasks in each worker.")] = 25,
    count_refused: Annotated[
        bool, typer.Option("--count-refused", help="Refused requests count too, as at OpenAI.")
    ] = False,
    usage_gate: Annotated[
        bool, typer.Option("--usage-gate", help="A provider that counts late: without and with the usage gate.")
    ] = False,
    url: Annotated[str | None, typer.Option(help="Redis to use; without it the demo starts its own.")] = None,
) -> None:
    """Watch a fleet use a provider's limit, without and with the limiter.

    A simulated provider on this machine enforces a limit on requests and answers 429 above it. The same fleet
    of worker processes calls it twice: first each task backs off by itself, as provider libraries do, then
    ratelease shares the limit among all of them. The exit status is 0 if the limiter met not one 429 and used
    at least 95 % of the limit.

    With --usage-gate the provider limits calls in flight, counts them late, goes on with those that were given up
    and has other clients; the limiter goes first by its own count, then also by what the provider reports.

    Example: ratelease demo --seconds 30 --url redis://localhost:6379/0
    """
    _require("httpx", "starlette", "uvicorn", extra="demo")
    if usage_gate:
        if count_refused:
            raise typer.BadParameter("goes with the demo of the limits alone", param_hint="--count-refused")
        from ratelease.cli.demo.run import run_gate_demo

        raise typer.Exit(run_gate_demo(seconds=seconds, workers=workers, tasks=tasks, url=url))
    from ratelease.cli.demo.run import run_demo

    raise typer.Exit(run_demo(seconds=seconds, workers=workers, tasks=tasks, count_refused=count_refused, url=url))


@app.command()
def simulate(
    *,
    rpm: Annotated[int | None, typer.Option(min=1, help="Requests per window; none: no such limit.")] = None,
    tpm: Annotated[int | None, typer.Option(min=1, help="Tokens per window.")] = None,
    window: Annotated[float, typer.Option(min=0.001, help="Seconds of that window.")] = 60.0,
    algorithm: Annotated[Algorithm, typer.Option(help="Sliding window or bucket.")] = Algorithm.strict,
    burst: Annotated[int | None, typer.Option(min=1, help="Requests in any single second.")] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Requests in flight at a time.")] = None,
    hard_cap: Annotated[int | None, typer.Option(min=1, help="Requests in flight at which it refuses.")] = None,
    lag: Annotated[float, typer.Option(min=0, help="Seconds by which it counts calls late.")] = 0.0,
    ghosts: Annotated[bool, typer.Option("--ghosts", help="Calls run on when their client has left.")] = False,
    ramp: Annotated[int | None, typer.Option(min=1, help="Requests per period above which use grows slowly.")] = None,
    ramp_growth: Annotated[float, typer.Option(min=0, help="Share by which it may grow.")] = 0.5,
    ramp_period: Annotated[float, typer.Option(min=0.001, help="Seconds of a period.")] = 900.0,
    quota: Annotated[int | None, typer.Option(min=1, help="Requests after which the account is empty.")] = None,
    phase: Annotated[list[str] | None, typer.Option(help="Such as overloaded@10+5; may be repeated.")] = None,
    count_refused: Annotated[
        bool, typer.Option("--count-refused", help="Refused requests count too, as at OpenAI.")
    ] = False,
    retry_after: Annotated[RetryAfter, typer.Option(help="How refusals say when to come back.")] = RetryAfter.both,
    hint: Annotated[float | None, typer.Option(min=0, help="Seconds to promise where no limit can tell.")] = None,
    latency: Annotated[tuple[float, float], typer.Option(help="Least and most seconds.")] = (0.2, 0.6),
    distribution: Annotated[
        Distribution, typer.Option(help="lognormal: median and 95th percentile.")
    ] = Distribution.uniform,
    slowdown: Annotated[float, typer.Option(min=0, help="Share by which each other call makes one longer.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of all that is drawn.")] = 0,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of 127.0.0.1; 0: a free one.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Address and counts as one JSON object each.")] = False,
) -> None:
    """Run a simulated provider until interrupted, then print what it saw.

    It speaks the OpenAI and Anthropic chat APIs on 127.0.0.1 and enforces the limits given, with real 429s and
    headers, and reports its usage. A phase is KIND[:STATUS]@START[+SECONDS][xCOUNT][*SHARE]; its kind is overloaded,
    throttled, quota, capacity, foreign, usage_error, usage_hang or usage_garbage.

    Example: ratelease simulate --rpm 300 --window 10 --phase overloaded@30+10 --phase capacity@60+30*0.5
    """
    _require("starlette", "uvicorn", extra="web")
    from ratelease.cli.simulate import run_simulator

    settings = {
        "rpm": rpm,
        "tpm": tpm,
        "window": window,
        "algorithm": algorithm.value,
        "burst": burst,
        "concurrency": concurrency,
        "hard_cap": hard_cap,
        "lag": lag,
        "ghosts": ghosts,
        "ramp": ramp,
        "ramp_growth": ramp_growth,
        "ramp_period": ramp_period,
        "quota": quota,
        "phases": phase or [],
        "count_refused": count_refused,
        "retry_after": retry_after.value,
        "hint": hint,
        "latency": latency,
        "distribution": distribution.value,
        "slowdown": slowdown,
        "seed": seed,
        "port": port,
    }
    raise typer.Exit(run_simulator(settings, as_json=json))


def _require(*libraries: str, extra: str) -> None:
    """Say what to install and exit with status 2 if one of the libraries is missing."""
    missing = [library for library in libraries if find_spec(library) is None]
    if missing:
        names = " and ".join(missing)
        typer.echo(f"ratelease: this command needs {names}: pip install 'ratelease[{extra}]'", err=True)
        raise typer.Exit(2)
