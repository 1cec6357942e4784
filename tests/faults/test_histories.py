"""Half a minute of a fleet whose processes are killed and stopped at random, and what its histories must show."""

import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import redis

from ratelease.testing.redis_server import RedisServer
from support.history import Held, peak
from support.server_log import ServerLog
from support.store_view import StoreView
from support.workers import Fleet, Worker

pytestmark = pytest.mark.faults

N, TTL, SECONDS = 5, 1.0, 20.0
LIMITS = {"openai/gpt-4o": {"concurrency": N}}
_NEVER = threading.Event()  # paces the disturbances, which are a matter of real time
JOB = {"limits": LIMITS, "tasks": 3, "hold": (0.05, 0.4)}


@dataclass(frozen=True)
class Run:
    """What the run has left behind."""

    counts: list[int]
    held: list[Held]
    lost: int
    kills: int
    stops: int


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Let 8 processes share 5 slots for 20 s; kill some, stop others for longer than their leases live."""
    with RedisServer() as server, redis.Redis.from_url(server.url) as client:
        with ServerLog(server.port) as log, Fleet(server.url, 8, lease_ttl=TTL) as fleet:
            for number, worker in enumerate(fleet):
                worker.run("cycle", threads=number % 2 == 1, **JOB)
            kills, stops = _disturb(fleet, time.monotonic() + SECONDS)
            fleet.signal("stop")
            fleet.wait("done", timeout=30)
            counts = [count for _, count in log.lease_counts(StoreView(client, fleet.namespace).leases_key())]
        lost = sum(event["lost"] for event in fleet.of("ended"))
        yield Run(counts, fleet.held(), lost, kills, stops)


def _disturb(fleet: Fleet, until: float) -> tuple[int, int]:
    """Kill a worker every few seconds and begin another; stop one that holds a lease, again and again."""
    kills = stops = 0
    next_kill = time.monotonic() + 2.0
    stopped: dict[Worker, float] = {}
    while (now := time.monotonic()) < until:
        for worker in [worker for worker, wake_at in stopped.items() if wake_at <= now]:
            del stopped[worker]
            worker.resume()
        awake = [worker for worker in fleet if worker not in stopped and worker.of("granted")]
        if now >= next_kill and awake:
            next_kill = now + 2.0
            kills += 1
            fleet.kill(random.choice(awake))
            fleet.add().run("cycle", threads=kills % 2 == 1, **JOB)
        elif len(stopped) < 2 and (holding := [worker for worker in awake if _holds(worker)]):
            stops += 1
            worker = random.choice(holding)
            worker.pause()
            stopped[worker] = now + random.uniform(0.5, 2.0) * TTL
        _NEVER.wait(0.02)
    for worker in stopped:
        worker.resume()
    return kills, stops


def _holds(worker: Worker) -> bool:
    return len(worker.of("granted")) > len(worker.of("ended"))


@pytest.mark.covers("RL-01")
def test_the_server_never_counts_more_leases_than_the_limit(run: Run) -> None:
    """Replay every write of the server: at no instant are there six unexpired leases of five."""
    assert run.kills >= 5
    assert run.stops >= 5
    assert max(run.counts) == N


@pytest.mark.covers("RL-05")
def test_holders_that_mind_their_deadline_never_overlap_beyond_the_limit(run: Run) -> None:
    """Up to its deadline a lease is the holder's alone; without deadlines the same run has more than five."""
    naive = peak(held.naive for held in run.held)
    bounded = peak(held.bounded for held in run.held)
    print(f"{len(run.held)} leases, {run.kills} kills, {run.stops} stops: naive {naive}, bounded {bounded} of {N}")
    assert naive > N, "nobody overstayed: this run cannot show anything"
    assert bounded == N


@pytest.mark.covers("RL-05", "LS-06")
def test_holders_that_overstayed_were_told(run: Run) -> None:
    """Every lease that was used beyond its deadline says that it is lost."""
    overstayed = sum(held.end > held.deadline + 0.01 for held in run.held)
    assert overstayed > 0
    assert run.lost > 0
