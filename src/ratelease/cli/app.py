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


@app.command()
def demo(
    *,
    seconds: Annotated[float, typer.Option(min=6, help="About how long the whole demo takes.")] = 60.0,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Worker processes.")] = 4,
    tasks: Annotated[int, typer.Option(min=1, max=1000, help="Tasks in each worker.")] = 25,
    count_refused: Annotated[
        bool, typer.Option("--count-refused", help="Refused requests count too, as at OpenAI.")
    ] = False,
    url: Annotated[str | None, typer.Option(help="Redis to use; without it the demo starts its own.")] = None,
) -> None:
    """Watch a fleet use a provider's limit, without and with the limiter.

    A simulated provider on this machine enforces a limit on requests and answers 429 above it. The same fleet
    of worker processes calls it twice: first each task backs off by itself, as provider libraries do, then
    ratelease shares the limit among all of them. The exit status is 0 if the limiter met not one 429 and used
    at least 95 % of the limit.

    Example: ratelease demo --seconds 30 --url redis://localhost:6379/0
    """
    _require("httpx", "starlette", "uvicorn", extra="demo")
    from ratelease.cli.demo.run import run_demo

    raise typer.Exit(run_demo(seconds=seconds, workers=workers, tasks=tasks, count_refused=count_refused, url=url))


@app.command()
def simulate(
    *,
    rpm: Annotated[int | None, typer.Option(min=1, help="Requests per window; none: no such limit.")] = None,
    window: Annotated[float, typer.Option(min=0.001, help="Seconds of that window.")] = 60.0,
    algorithm: Annotated[Algorithm, typer.Option(help="Sliding window or bucket.")] = Algorithm.strict,
    burst: Annotated[int | None, typer.Option(min=1, help="Requests in any single second.")] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Requests in flight at a time.")] = None,
    count_refused: Annotated[
        bool, typer.Option("--count-refused", help="Refused requests count too, as at OpenAI.")
    ] = False,
    latency: Annotated[tuple[float, float], typer.Option(help="Least and most seconds.")] = (0.2, 0.6),
    seed: Annotated[int, typer.Option(help="Of the latencies.")] = 0,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of 127.0.0.1; 0: a free one.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Address and counts as one JSON object each.")] = False,
) -> None:
    """Run a simulated provider until interrupted, then print what it saw.

    It speaks the OpenAI chat API on 127.0.0.1 and enforces the limits given, with real 429s and headers.

    Example: ratelease simulate --rpm 300 --window 10 --concurrency 20
    """
    _require("starlette", "uvicorn", extra="web")
    from ratelease.cli.simulate import run_simulator

    settings = {
        "rpm": rpm,
        "window": window,
        "algorithm": algorithm.value,
        "burst": burst,
        "concurrency": concurrency,
        "count_refused": count_refused,
        "latency": latency,
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
