"""How many calls a fleet has in flight before, during and after an outage, by policy."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import pytest
import redis

from ratelease.testing.redis_server import RedisServer
from support.history import Held, peak
from support.store_view import StoreView
from support.wait_until import wait_until
from support.workers import Fleet

pytestmark = pytest.mark.faults

N, PROCESSES, TASKS = 10, 4, 6
HOLD = (0.1, 0.4)  # seconds that a call takes
TTL, PATIENCE = 2.0, 0.8  # seconds: of a lease, for the store
LIMITS = {"openai/gpt-4o": {"concurrency": N}}


def peak_within(held: Iterable[Held], begin: float, end: float) -> int:
    """The most calls that were in flight at one moment of [begin, end), whatever their holders knew."""
    return peak((max(each.start, begin), min(each.end, end)) for each in held)


@pytest.mark.covers("RD-02", "RL-12")
@pytest.mark.parametrize(
    "outage",
    [pytest.param(4.0, id="4s"), pytest.param(20.0, marks=[pytest.mark.soak, pytest.mark.timeout(120)], id="20s")],
)
@pytest.mark.parametrize("policy", ["closed", "local", "open"])
def test_a_fleet_keeps_its_limit_again_within_a_ttl_after_an_outage(
    make_server: Callable[..., RedisServer], free_namespace: str, policy: str, outage: float
) -> None:
    """Old leases and shares may overlap for as long as the old calls take; after the return the limit holds."""
    server = make_server()
    times = {"lease_ttl": TTL, "heartbeat": 0.7, "attempt_timeout": 0.3, "store_timeout": PATIENCE}
    with Fleet(server.url, PROCESSES, namespace=free_namespace, **times) as fleet:
        fleet.run("outlast", limits=LIMITS, tasks=TASKS, hold=HOLD, on_unavailable=policy)
        fleet.wait("granted", 10)
        began = time.monotonic()
        # Two heartbeats, so that all know of each other.
        wait_until(lambda: time.monotonic() > began + 1.5)
        server.pause()
        gone = time.monotonic()
        wait_until(lambda: time.monotonic() > gone + outage, timeout=outage + 1)
        server.resume()
        back = time.monotonic()
        wait_until(lambda: time.monotonic() > back + TTL + 2.0)
        end = time.monotonic()
        fleet.signal("stop")
        fleet.wait("done", timeout=20)
        held, granted = fleet.held(), fleet.of("granted")
    away = gone + PATIENCE + 1.0  # by then every process has noticed, and the calls of before are over
    during = [event for event in granted if gone < event["when"] < back]
    flagged = [event for event in granted if event["flags"]]
    peaks = {
        "before": peak_within(held, began, gone),
        "turning": peak_within(held, gone, away),
        "away": peak_within(held, away, back),
        "first TTL": peak_within(held, back, back + TTL),
        "later": peak_within(held, back + TTL, end),
    }
    print(f"{policy}, {outage:g} s away, limit {N}: peak in flight {peaks}; {len(during)} granted meanwhile")
    assert peaks["before"] == peaks["later"] == N
    if policy == "closed":
        assert flagged == []
        assert peaks["away"] == 0
        assert peaks["turning"] <= N
        assert peaks["first TTL"] <= N
    elif policy == "local":
        assert {flag for event in flagged for flag in event["flags"]} == {"local"}
        assert peaks["away"] == N, "the shares add up to the limit, and all of it is used"
        assert peaks["turning"] < 2 * N
        assert peaks["first TTL"] == N, "nothing new is granted before all have registered what they hold"
    else:
        assert peaks["away"] == PROCESSES * TASKS
    with redis.Redis.from_url(server.url) as client:
        assert StoreView(client, free_namespace).in_flight() == 0
