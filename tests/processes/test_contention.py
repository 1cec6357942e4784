"""Many processes and clients want the same few slots."""

import time
from collections import Counter

import pytest
import redis

from ratelease.testing.redis_server import RedisServer
from support.history import densest, peak
from support.server_log import ServerLog
from support.store_view import StoreView
from support.wait_until import wait_until
from support.workers import Fleet

pytestmark = pytest.mark.faults


@pytest.mark.covers("AD-07")
def test_a_hundred_tasks_in_ten_processes_never_exceed_four(
    redis_server: RedisServer, redis_url: str, redis_client: redis.Redis
) -> None:
    """Holders' own times and the server's log both reach the limit, and neither passes it."""
    with ServerLog(redis_server.port) as log, Fleet(redis_url, 10) as fleet:
        fleet.run("cycle", limits={"openai/gpt-4o": {"concurrency": 4}}, tasks=10, rounds=1, hold=(0.02, 0.02))
        fleet.wait("done")
        counts = [count for _, count in log.lease_counts(StoreView(redis_client, fleet.namespace).leases_key())]
    assert len(fleet.of("ended")) == 100
    assert peak(held.naive for held in fleet.held()) == 4
    assert max(counts) == 4
    assert counts[-1] == 0


@pytest.mark.covers("AD-13")
@pytest.mark.parametrize("instances", [7, 8, 13, 20])
def test_more_instances_than_slots_fill_the_total_and_never_pass_it(
    redis_server: RedisServer, redis_url: str, redis_client: redis.Redis, instances: int
) -> None:
    """Every instance wants without end: six slots of the total are soon taken, and never a seventh."""
    limits = {"total": {"concurrency": 6}, "openai": {}}
    with ServerLog(redis_server.port) as log, Fleet(redis_url, 2) as fleet:
        view = StoreView(redis_client, fleet.namespace)
        start_at = time.monotonic() + 0.1
        for number, worker in enumerate(fleet):
            clients = instances // 2 + (number < instances % 2)
            worker.run("cycle", start_at=start_at, limits=limits, clients=clients, tasks=2, hold=(0.01, 0.05))
        wait_until(lambda: view.in_flight(scope=2) == 6, description="all six slots are taken")
        full_at = time.monotonic()
        wait_until(lambda: len(fleet.of("ended")) > 100, timeout=10, description="a hundred calls have ended")
        fleet.signal("stop")
        fleet.wait("done")
        counts = Counter(count for _, count in log.lease_counts(view.leases_key(scope=2)))
    # Since the first of them came: how long processes take to start says nothing.
    assert full_at - min(held.start for held in fleet.held()) < 1.0
    assert max(counts) == 6
    assert peak(held.naive for held in fleet.held()) == 6


@pytest.mark.covers("LS-07")
def test_ten_thousand_ids_of_eight_processes_are_all_different(redis_url: str) -> None:
    """Eight processes that begin in the same moment make 128-bit ids that never meet."""
    with Fleet(redis_url, 8) as fleet:
        fleet.run("new_ids", within=0.2, count=1250)
        fleet.wait("ids")
    told = fleet.of("ids")
    ids = [id for event in told for id in event["ids"]]
    assert len(set(ids)) == len(ids) == 10_000
    assert all(len(id) == 22 for id in ids), "22 characters of base64 carry 128 bits"
    assert len(set("".join(ids))) == 64, "every character of the alphabet occurs"
    began = [event["began"] for event in told]
    assert densest(began, 0.1) >= 4, "the processes began together"
