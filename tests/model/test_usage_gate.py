"""Whatever a fleet does, what its provider runs and still counts never passes the limit, however late that count is."""

import pytest

from support.clock import driven_clock
from support.gate_walk import LIMIT, GateWalk

KINDS = pytest.mark.parametrize(
    "strict", [True, pytest.param(False, marks=pytest.mark.faults)], ids=["strict", "plain"]
)


def walk(client, seed, steps, *, strict, rewrite=None) -> int:
    """One random walk; the most that the provider had at a time."""
    with driven_clock() as clock:
        fleet = GateWalk(client, clock, seed, strict=strict, rewrite=rewrite)
        fleet.walk(steps)
    return fleet.most


@pytest.mark.covers("UG-14")
@KINDS
def test_the_load_of_a_provider_that_counts_late_stays_within_the_limit(fake_client, strict) -> None:
    """With cooldown and lag not below the provider's, holds not below what runs on, and others that only end."""
    assert max(walk(fake_client, seed, 120, strict=strict) for seed in range(8)) == LIMIT


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.covers("UG-14")
@KINDS
def test_the_load_stays_within_the_limit_for_long(fake_client, strict) -> None:
    """The same, longer and a hundred times."""
    for seed in range(100, 200):
        assert walk(fake_client, seed, 1000, strict=strict) <= LIMIT
