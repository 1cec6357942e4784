"""Whatever fails, and in whatever order it is told: what the fleet learns is what the rules say."""

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from ratelease.core.scripts import SCRIPTS
from ratelease.store.lua_source import load_script
from support.mutant import Mutant
from support.reaction_machine import reaction_machine

# The same examples every time; `make soak` looks for others.
SETTINGS = settings(
    max_examples=8,
    stateful_step_count=40,
    database=None,
    phases=[Phase.generate],
    report_multiple_bugs=False,
    print_blob=False,
    suppress_health_check=list(HealthCheck),
)
LONG = settings(max_examples=150, stateful_step_count=60, suppress_health_check=list(HealthCheck))


@pytest.mark.covers("RL-29", "PE-05", "PE-07", "AL-09", "AL-10", "AL-43", "RT-07", "RT-09", "RT-11", "RT-24")
@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.faults) for part in (1, 2))])
def test_ten_clients_learn_what_the_rules_say(fake_client, part) -> None:
    """
    Three models of one provider, under a penalty, parallelism and a breaker; calls that end well or badly, in any
    order, told twice, or by reports.

    After each call: penalty, pause, breaker and the number of episodes are those of an independent model, every limit
    lies in its bounds, and no more is granted. At the end time alone brings all back.
    """
    run_state_machine_as_test(seed(part)(reaction_machine(fake_client)), settings=SETTINGS)


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.covers("RL-29")
def test_ten_clients_learn_for_long(fake_client) -> None:
    """The same, longer and at random."""
    run_state_machine_as_test(reaction_machine(fake_client), settings=LONG)


MUTANTS = [
    Mutant(
        "every failure cuts",
        "if at <= (tonumber(learned.cut) or 0) or mild and at <= (tonumber(learned.stall) or 0) then return false end",
        "",
    ),
    Mutant("reports are of now", "path.now - 5000, ''", "path.now, ''"),
    Mutant("a pause stops nobody", "if scope.pause > path.now then", "if false then"),
    Mutant(
        "a pause is replaced",
        "if pause > 0 and path.now + pause > (tonumber(scope.learned.pause) or 0) then",
        "if pause > 0 then",
    ),
    Mutant("a penalty does not decay", "level = level * 0.5 ^ ((now - at) / half_life)", "level = level"),
    Mutant("a penalty has no maximum", "weight / 1000, most / 1000)", "weight / 1000, 1e9)"),
    Mutant("an open breaker lets calls pass", "if until_ms > path.now then", "if false then"),
    Mutant("many probes", "if not running or tonumber(running) <= path.now then return nil end", "do return nil end"),
    Mutant("any success closes a breaker", "if breaker and breaker.probe == id and id ~= '' then", "if breaker then"),
    Mutant(
        "a limit has no floor", "math.max(math.floor(adapted.current), adapted.low)", "math.floor(adapted.current) - 1"
    ),
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_changes_a_script(mutant) -> None:
    """What the search below looks for is still there to be broken."""
    assert any(mutant.right in load_script(script) for script in SCRIPTS)


@pytest.mark.soak
@pytest.mark.timeout(300)
@pytest.mark.covers("RL-29", "PE-05", "AL-09", "AL-43", "RT-07", "RT-09", "RT-24")
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_is_found_out(fake_client, mutant) -> None:
    """One wrong word in the scripts makes the model of what is learned fail."""
    thorough = settings(SETTINGS, max_examples=400, derandomize=True)
    with pytest.raises((AssertionError, ExceptionGroup)):
        run_state_machine_as_test(reaction_machine(fake_client, mutant.rewrite), settings=thorough)
