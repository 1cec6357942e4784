"""The model can fail: each script with one thing wrong in it is found out."""

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from ratelease.core.scripts import SCRIPTS
from ratelease.store.lua_source import load_script
from support.fleet_machine import machine
from support.mutant import Mutant

# Found once is found: nothing is made smaller, and every run draws the same examples.
SETTINGS = settings(
    max_examples=60,
    stateful_step_count=40,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    report_multiple_bugs=False,
    print_blob=False,
    suppress_health_check=list(HealthCheck),
)


MUTANTS = [
    Mutant("a slot too many", "want.n * want.weight > scope.limit then", "want.n * want.weight > scope.limit + 1 then"),
    Mutant("a request too many", "used + need > rate.limit then", "used + need > rate.limit + 1 then"),
    Mutant("leases do not expire", "'H', path.now + path.ttl)", "'H', path.now + 10 * path.ttl)"),
    Mutant(
        "the same id again is another lease", "elseif alive or (kept and kept.state == 'G') then", "elseif false then"
    ),
    Mutant("half a window", "- rate.window - rate.guard) / rate.width)", "- rate.window / 2) / rate.width)"),
    Mutant("paths pass each other", "scope.ahead_ticket < ticket then", "false then"),
    Mutant("the last comes first", "return a.ticket < b.ticket", "return a.ticket > b.ticket"),
    Mutant("unclaimed grants keep their charge", "uncharge(path, granted)", ""),
    Mutant(
        "unsent calls keep their charge",
        "if alive and how[i] == UNSENT then\n      uncharge(path, kept)",
        "if false then",
    ),
    Mutant("hops are not named", "return table.concat(names, ' ')", "return ''"),
    Mutant("tombstones are ignored", "if kept and kept.state == 'T' then", "if false then"),
    Mutant("late beats revive leases", "if alive or (moved and texts[i] ~= 'T') then", "if true then"),
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_changes_a_script(mutant) -> None:
    """What the search below looks for is still there to be broken."""
    assert any(mutant.right in load_script(script) for script in SCRIPTS)


@pytest.mark.faults
@pytest.mark.timeout(300)
@pytest.mark.covers("RL-01", "RL-02", "RL-10")
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_is_found_out(fake_client, mutant) -> None:
    """One wrong word in the scripts makes the model of the fleet fail."""
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine(fake_client, mutant.rewrite), settings=SETTINGS)
