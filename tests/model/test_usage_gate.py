"""Whatever a fleet does, what its provider runs and still counts never passes the limit, however late that count is."""

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from support.gate_machine import gate_machine

# As in test_fleet: the same examples every time.
SETTINGS = settings(
    max_examples=40,
    stateful_step_count=40,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
LONG = settings(max_examples=1500, stateful_step_count=60, suppress_health_check=list(HealthCheck))


@pytest.mark.covers("UG-14")
@pytest.mark.parametrize("strict", [True, False], ids=["strict", "plain"])
@pytest.mark.parametrize("part", range(2))
def test_the_load_of_a_provider_that_counts_late_stays_within_the_limit(fake_client, strict, part) -> None:
    """With cooldown and lag not below the provider's, holds not below what runs on, and others that only end."""
    run_state_machine_as_test(seed(part)(gate_machine(fake_client, strict=strict)), settings=SETTINGS)


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.covers("UG-14")
@pytest.mark.parametrize("strict", [True, False], ids=["strict", "plain"])
def test_the_load_stays_within_the_limit_for_long(fake_client, strict) -> None:
    """The same, longer and at random."""
    run_state_machine_as_test(gate_machine(fake_client, strict=strict), settings=LONG)
