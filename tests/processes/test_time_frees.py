"""What time frees is granted at its moment, with nobody calling, by one timer in the fleet."""

import time

import pytest

from ratelease import Client, Limits
from ratelease.testing import config
from support.store_view import StoreView
from support.wait_until import wait_until
from support.workers import Fleet

# Real time, and much of it.
pytestmark = pytest.mark.faults

MODEL = ("openai", "gpt-4o")
SCOPE = "openai/gpt-4o"
# No heartbeat and no poll comes while a test runs.
REAL = {"lease_ttl": 60.0, "heartbeat": 30.0, "claim_ttl": 3.0, "poll": 10.0}

PARALLELISM = {"kind": "parallelism", "recovery_interval": 1.5}

# What happens, the limits, how many leases are held, what is told, and the ms after which the head is granted.
CASES = {
    "the end of a pause": ({"concurrency": 8, "strategy": "off"}, 0, {"retry_after": 1.5}, 1500),
    "the decay of a penalty": (
        {"concurrency": 4, "strategy": {"kind": "penalty", "half_life": 1.5}},
        1,
        {},
        # From 2 to 1, where 4 ÷ (1 + 1) are two.
        1500,
    ),
    "a recovery": ({"concurrency": 4, "strategy": PARALLELISM}, 2, {}, 1500),
    "a limit that is taken back": (
        {"concurrency": 2, "strategy": {"kind": "decrement", "restore_after": 1.5}},
        1,
        {},
        1500,
    ),
}


@pytest.mark.covers("QU-18")
@pytest.mark.parametrize("case", CASES)
def test_the_head_is_granted_at_the_moment_by_one_timer(redis_url, redis_client, free_namespace, case) -> None:
    """Five waiters in each of three processes, none of which calls; what runs is held until the end."""
    figures, held, told, due = CASES[case]
    view = StoreView(redis_client, free_namespace)
    settings = config(url=redis_url, namespace=free_namespace, **REAL)
    with (
        Client(limits={SCOPE: Limits(**figures)}, config=settings) as client,
        Fleet(redis_url, 3, namespace=free_namespace, **REAL) as fleet,
    ):
        leases = [client.acquire(*MODEL) for _ in range(held)]
        client.report(*MODEL, "throttled", **told)
        moment = client.status().scope(SCOPE).reaction.events[-1].at * 1000 + due
        fleet.run("wait_in_line", limits={SCOPE: figures}, waiters=5, held=30.0, timeout=60.0, within=0.02)
        fleet.wait("parked")
        assert view.now() < moment - 100, "all are parked in time"
        # What subscribing and starting cost is over.
        time.sleep(max((moment - 90 - view.now()) / 1000, 0))
        before = view.script_calls()
        wait_until(lambda: fleet.of("granted"), description="the head is granted")
        time.sleep(0.05)
        calls = view.script_calls() - before
        grants = sorted((event["at"], event["when"]) for event in fleet.of("granted"))
        late = grants[0][0] - moment
        print(f"{case}: granted {late:.0f} ms after its moment, {len(grants)} grants, {calls} script calls")
        assert 0 <= late < 250
        # The timer's grant, and a claim for each that is granted; whoever is next sets the next timer by these.
        assert calls <= 2 * len(grants) + 2
        assert len(leases) == held
        fleet.signal("stop")
        fleet.wait("done")
