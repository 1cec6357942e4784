"""Whatever becomes of the process that polls for all, or of what it asks: who waits goes on."""

import itertools
import time

import pytest

from support.lagging_provider import LaggingProvider
from support.wait_until import wait_until
from support.workers import Fleet, Worker

pytestmark = pytest.mark.faults

GATE = {"repoll": 0.2, "timeout": 0.3, "cooldown": 0.1}
PATIENCE, ELECTION = 0.5, 1.3  # seconds, as GateSettings has them of GATE
TTL = 1.0


def poller(fleet: Fleet) -> Worker:
    """Who polls for all now."""
    wait_until(lambda: fleet.of("poll"), timeout=10)
    pid = fleet.of("poll")[-1]["pid"]
    return next(worker for worker in fleet if worker.pid == pid)


def begin(fleet: Fleet, provider: LaggingProvider, source: str = "count") -> Worker:
    """Let every process of the fleet call without end; returns who polls, once that goes on."""
    fleet.run(
        "call_provider",
        limits={"openai": {"concurrency": 4}},
        port=provider.port,
        tasks=4,
        rounds=None,
        lasts=0.05,
        gate=GATE,
        source=source,
    )
    wait_until(lambda: len(fleet.of("granted")) > 30, timeout=15, description="thirty calls")
    return poller(fleet)


def longest_gap(fleet: Fleet, since: float, doomed: Worker | None = None) -> float:
    """Seconds without a grant, of all processes but this one."""
    pid = doomed.pid if doomed else 0
    times = [since] + [event["when"] for event in fleet.of("granted") if event["pid"] != pid and event["when"] > since]
    assert len(times) > 10, "nobody goes on"
    return max(later - earlier for earlier, later in itertools.pairwise(times))


@pytest.mark.covers("RL-30", "UG-11")
@pytest.mark.parametrize("how", ["kill", "stop"])
def test_when_the_poller_is_killed_or_stopped_another_polls(redis_url: str, how: str) -> None:
    """Waiters go on within a patience and an election, and its own slots come back with their TTL."""
    with LaggingProvider(limit=8) as provider, Fleet(redis_url, 3) as fleet:
        doomed = begin(fleet, provider)
        since = time.monotonic()
        if how == "kill":
            fleet.kill(doomed)
        else:
            doomed.pause()
        others = [worker for worker in fleet if worker is not doomed]
        wait_until(lambda: any(each.of("poll") for each in others), timeout=10, description="another polls")
        took_over = time.monotonic() - since
        wait_until(lambda: time.monotonic() - since > 4.0, timeout=10)
        gap = longest_gap(fleet, since, doomed)
        if how == "stop":
            doomed.resume()
            before = len(doomed.of("granted"))
            wait_until(lambda: len(doomed.of("granted")) > before + 5, timeout=10, description="it goes on as well")
        fleet.signal("stop")
        fleet.wait("done", timeout=10)
    assert took_over <= ELECTION + 0.2 / 4 + 1.0
    assert gap <= PATIENCE + ELECTION + TTL
    assert provider.refused == 0


@pytest.mark.covers("RL-30", "UG-12", "UG-13")
@pytest.mark.parametrize("source", ["hang", "raise", "lie"])
def test_when_the_pollers_source_breaks_nobody_stops_and_another_polls(redis_url: str, source: str) -> None:
    """It hangs, raises, or answers rubbish from now on, in that process alone."""
    with LaggingProvider(limit=8) as provider, Fleet(redis_url, 3) as fleet:
        broken = begin(fleet, provider, source)
        since = time.monotonic()
        broken.signal("break")
        others = [worker for worker in fleet if worker is not broken]
        wait_until(
            lambda: any(event["when"] > since for each in others for event in each.of("poll")),
            timeout=10,
            description="another polls",
        )
        wait_until(lambda: time.monotonic() - since > 4.0, timeout=10)
        gap = longest_gap(fleet, since)
        fleet.signal("stop")
        fleet.wait("done", timeout=10)
    assert gap <= PATIENCE + ELECTION


@pytest.mark.covers("RL-30")
@pytest.mark.parametrize("source", ["hang", "raise", "lie"])
def test_when_all_sources_break_the_fleet_goes_by_its_own_count(redis_url: str, source: str) -> None:
    """At full speed, and never beyond the limit."""
    with LaggingProvider(limit=4) as provider, Fleet(redis_url, 3) as fleet:
        begin(fleet, provider, source)
        since = time.monotonic()
        fleet.signal("break")
        wait_until(lambda: time.monotonic() - since > 4.0, timeout=10)
        gap = longest_gap(fleet, since)
        late = [event for event in fleet.of("granted") if event["when"] > since + 1.0]
        fleet.signal("stop")
        fleet.wait("done", timeout=10)
    assert gap <= PATIENCE + ELECTION
    assert len(late) > 3 * 10, "four slots of 150 ms are 26 calls a second"
    assert (provider.peak, provider.refused) == (4, 0)
