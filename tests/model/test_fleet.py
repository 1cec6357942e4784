"""Whatever a fleet does, no limit is passed, every count is right, and nobody waits who could be served."""

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from support.fleet_machine import machine

# The same examples every time; `make soak` looks for others, and makes what it finds smaller.
SETTINGS = settings(
    max_examples=12,
    stateful_step_count=25,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
LONG = settings(max_examples=150, stateful_step_count=40, suppress_health_check=list(HealthCheck))


@pytest.mark.covers("RL-01", "RL-02", "RL-10", "QU-02", "QU-17", "LS-11")
@pytest.mark.parametrize("part", [0, 1, *(pytest.param(part, marks=pytest.mark.faults) for part in (2, 3))])
def test_a_fleet_keeps_every_limit_and_leaves_nobody_waiting(fake_client, part) -> None:
    """
    Four paths over two providers, a pool and a total; three instances that ask, repeat, claim, release, die and return.

    After each call: unexpired leases and charges are as the account says and within their limits, tickets are served in
    order and nobody passes who waits for the same scope. At rest no head waits that fits, unless a lower ticket keeps
    a scope for itself.
    """
    run_state_machine_as_test(seed(part)(machine(fake_client)), settings=SETTINGS)


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.covers("RL-01", "RL-02", "RL-10")
def test_a_fleet_keeps_every_limit_for_long(fake_client) -> None:
    """The same fleet, longer and at random."""
    run_state_machine_as_test(machine(fake_client), settings=LONG)
