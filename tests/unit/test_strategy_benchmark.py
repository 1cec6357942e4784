"""The comparison of strategies: the same seed gives the same figures, and these make sense."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from benchmarks.strategies import ALONE, QUICK, compare, report
from benchmarks.strategies.chart import Line, chart
from benchmarks.strategies.figures import Result, Sizes, optimum
from benchmarks.strategies.scenarios import SCENARIOS

from support.repository import ROOT

UNDECLARED = next(scenario for scenario in SCENARIOS if scenario.name == "undeclared limit")

SIZES = Sizes(seconds=30.0, processes=2, tasks=8)

PROGRAM = """
import test_strategy_benchmark as test
print(test.table())
"""


def table() -> str:
    """Run two strategies against one provider, and write down when what happened."""
    results = compare(SIZES, seed=7, scenarios=[UNDECLARED], strategies=["penalty", ALONE])
    return repr([(result.admitted, result.refused, result.completed) for result in results])


@pytest.mark.faults
def test_the_same_seed_gives_the_same_run() -> None:
    """To the last bit, and in another process, whatever order its sets have."""
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "PYTHONHASHSEED": "123", "PYTHONPATH": path}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=ROOT)

    assert done.stdout.strip() == table()


@pytest.mark.faults
def test_who_shares_what_was_learned_is_refused_less() -> None:
    """Where the declared limit is wrong, each by itself meets more 429s than with a limiter, and gives calls up."""
    alone, penalty = compare(QUICK, seed=1, scenarios=[UNDECLARED], strategies=[ALONE, "penalty"])

    assert alone.refusals > 3 * penalty.refusals
    assert alone.given_up > 0
    assert penalty.given_up == 0
    assert len(penalty.admitted) > 0


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_nobody_gets_more_in_than_is_possible(scenario) -> None:
    """The omniscient scheduler is at least as good as a fleet that hammers, but for what chance gives latencies."""
    possible = optimum(scenario, QUICK, 3)
    (alone,) = compare(QUICK, seed=3, scenarios=[scenario], strategies=[ALONE])

    assert len(possible) > 20
    assert alone.goodput <= 1.1


def test_the_figures_of_a_result_are_what_they_say() -> None:
    """Ten a second are possible; from second 40 to 60 half of it is used, then all of it."""
    scenario = replace(UNDECLARED, shrinks=True)
    possible = [step / 10 for step in range(1000)]
    admitted = [step / 5 for step in range(300)] + [60 + step / 10 for step in range(400)]
    result = Result("off", scenario, 100.0, admitted, [1.0] * 300, [3, 1], possible, given_up=6)

    assert (result.goodput, result.refusals) == (0.7, 300.0)
    # Capacity is back at 8/15 of the run. From second 56 on, 20 s hold nine tenths of what is possible.
    assert result.recovery == pytest.approx(3.0)
    assert result.fairness == pytest.approx(16 / 20)
    assert result.failures == 600.0
    assert report.cells(result) == ("70 %", "300", "3", "0.800", "600")


def test_a_chart_is_well_formed_and_names_its_lines() -> None:
    """What is written can be parsed, and what is drawn is explained."""
    text = chart("<title> & more", "seconds", [Line("off", [(0.0, 1.0), (5.0, 2.0)]), Line("penalty", [(0.0, 0.0)])])

    texts = [element.text for element in ET.fromstring(text).iter("{http://www.w3.org/2000/svg}text")]  # noqa: S314 - it is our own
    assert texts[0] == "<title> & more"
    assert {"off", "penalty"} <= set(texts)


def test_the_documentation_has_a_place_for_the_figures() -> None:
    """Both marks are there, in order."""
    page = report.PAGE.read_text(encoding="utf-8")

    assert page.index(report.BEGIN) < page.index(report.END)
    for file, *_ in report.CHARTS:
        assert f"](images/{file})" in page
