"""Compare how strategies react to a provider that refuses: seeded, repeatable, in virtual time.

`world` is the heap of events, `scenarios` are the providers, `shared` is a fleet that shares its limits by the real
scripts, `alone` one in which every call is retried by itself; `figures` runs one of them, `report` writes the tables
and `chart` draws.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from benchmarks.measure import show
from benchmarks.strategies import report
from benchmarks.strategies.figures import ALONE, Result, Sizes, optimum, run
from benchmarks.strategies.scenarios import SCENARIOS, Scenario

STRATEGIES = ("penalty", "parallelism", "decrement", "off", ALONE)

FULL = Sizes()
QUICK = Sizes(seconds=60.0, processes=2, tasks=8)


def compare(
    sizes: Sizes = FULL,
    *,
    seed: int = 1,
    strategies: Sequence[str] = STRATEGIES,
    scenarios: Sequence[Scenario] = SCENARIOS,
) -> list[Result]:
    """Run every strategy against every provider; the same arguments always give the same results."""
    results = []
    for scenario in scenarios:
        possible = optimum(scenario, sizes, seed)
        results += [run(strategy, scenario, sizes, seed, possible) for strategy in strategies]
    return results


def main(*, quick: bool, seed: int, write_docs: bool) -> None:
    """Compare, print the table, and with `write_docs` write it into the documentation."""
    began = time.perf_counter()
    sizes = QUICK if quick else FULL
    results = compare(sizes, seed=seed)
    title = f"{sizes.processes} processes × {sizes.tasks} tasks for {sizes.seconds:g} virtual seconds, seed {seed}"
    show(title, report.HEAD, report.rows(results))
    if write_docs:
        for path in report.write(results, sizes, seed):
            print(f"wrote {path}")
    print(f"\n{time.perf_counter() - began:.0f} s in all")
