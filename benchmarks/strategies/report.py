"""Write the comparison down: rows of a table, docs/strategies.md and its charts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from benchmarks.strategies.chart import Line, chart
from benchmarks.strategies.figures import ALONE, Result, Sizes, count_between

HEAD = ("provider", "strategy", "goodput", "429s in 1 000", "recovery s", "fairness", "failed in 1 000")

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = DOCS / "strategies.md"
BEGIN, END = "<!-- figures: begin, written by python -m benchmarks strategies --write-docs -->", "<!-- figures: end -->"

BIN = 10.0  # seconds of a point of a chart

# Of each chart: its file, the provider, its title, and whether it shows admissions or refusals.
CHARTS = (
    (
        "strategies-capacity.svg",
        "halves and returns",
        "Calls admitted a second while capacity halves",
        True,
    ),
    ("strategies-undeclared.svg", "undeclared limit", "Refusals a minute where the declared limit is wrong", False),
    ("strategies-overload.svg", "overload", "Calls admitted a second through three overloads", True),
)


def cells(result: Result) -> tuple[str, ...]:
    """Write one result's figures."""
    recovery = result.recovery
    return (
        f"{100 * result.goodput:.0f} %",
        f"{result.refusals:.0f}",
        "" if recovery is None else "never" if math.isinf(recovery) else f"{recovery:.0f}",
        f"{result.fairness:.3f}",
        f"{result.failures:.0f}",
    )


def rows(results: Sequence[Result]) -> list[tuple[str, ...]]:
    """Write one row a result, under `HEAD`."""
    return [(result.scenario.name, result.strategy, *cells(result)) for result in results]


def write(results: Sequence[Result], sizes: Sizes, seed: int) -> list[Path]:
    """Put tables and charts into the documentation; return the files that were written."""
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{_figures(results, sizes, seed)}\n{END}{after}", encoding="utf-8")
    written = [PAGE]
    for file, scenario, title, of_admissions in CHARTS:
        shown = [result for result in results if result.scenario.name == scenario]
        path = DOCS / "images" / file
        path.parent.mkdir(exist_ok=True)
        path.write_text(_chart(shown, title, of_admissions=of_admissions), encoding="utf-8")
        written.append(path)
    return written


def _figures(results: Sequence[Result], sizes: Sizes, seed: int) -> str:
    scenarios = list(dict.fromkeys(result.scenario.name for result in results))
    strategies = list(dict.fromkeys(result.strategy for result in results))
    found = {(result.scenario.name, result.strategy): result for result in results}

    def table(head: str, cell: int, names: Sequence[str]) -> list[str]:
        lines = [f"| {head} | {' | '.join(strategies)} |", f"|---|{'---:|' * len(strategies)}"]
        for name in names:
            written = (cells(found[name, strategy])[cell] for strategy in strategies)
            lines.append(f"| {name} | {' | '.join(written)} |")
        return [*lines, ""]

    returning = [name for name in scenarios if found[name, strategies[0]].recovery is not None]
    return "\n".join(
        [
            f"{sizes.processes} processes of {sizes.tasks} tasks each, {sizes.seconds:g} s, seed {seed}.",
            "",
            *table("goodput", 0, scenarios),
            *table("429s in 1 000 calls", 1, scenarios),
            *table("seconds to recover", 2, returning),
            *table("fairness", 3, scenarios),
            *table("failed for good, of 1 000", 4, scenarios),
        ]
    )


def _chart(results: Sequence[Result], title: str, *, of_admissions: bool) -> str:
    lines = []
    if of_admissions:
        lines.append(Line("possible", _binned(results[0].optimum, results[0].seconds, 1.0)))
        lines += [Line(result.strategy, _binned(result.admitted, result.seconds, 1.0)) for result in results]
    else:
        # A fleet without a limiter is refused so often that nothing else could be seen beside it.
        shared = [result for result in results if result.strategy != ALONE]
        lines += [Line(result.strategy, _binned(result.refused, result.seconds, 60.0)) for result in shared]
    return chart(title, "seconds", lines)


def _binned(moments: Sequence[float], seconds: float, unit: float) -> list[tuple[float, float]]:
    """Return what happened per `unit` seconds, in steps of `BIN`."""
    steps = int(seconds // BIN)
    return [
        ((step + 0.5) * BIN, count_between(moments, step * BIN, (step + 1) * BIN) * unit / BIN) for step in range(steps)
    ]
