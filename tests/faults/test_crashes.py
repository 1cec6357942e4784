"""Processes that are killed while they hold leases, and what becomes of their slots."""

import threading
import time

import pytest
import redis

from ratelease import Client, Limits
from ratelease.testing import config
from support.store_view import StoreView
from support.wait_until import wait_until
from support.workers import Fleet

pytestmark = pytest.mark.faults

TTL, HEARTBEAT = 1.0, 0.25
TIMES = {"lease_ttl": TTL, "heartbeat": HEARTBEAT}
FOUR = {"openai/gpt-4o": {"concurrency": 4}}
ONE = {"openai/gpt-4o": {"concurrency": 1}}


@pytest.mark.covers("LS-05")
def test_the_slots_of_a_killed_process_go_to_waiters_within_the_ttl(
    redis_url: str, redis_client: redis.Redis, free_namespace: str
) -> None:
    """Two of four slots are held by a process that is killed: two waiters have them a TTL later, with no help."""
    view = StoreView(redis_client, free_namespace)
    settings = config(url=redis_url, namespace=free_namespace, **TIMES)
    with (
        Client(limits={"openai/gpt-4o": Limits(concurrency=4)}, config=settings) as client,
        Fleet(redis_url, 2, namespace=free_namespace, **TIMES) as fleet,
    ):
        doomed, living = fleet
        doomed.run("hold", limits=FOUR, count=2)
        doomed.wait("holding")
        kept = [client.acquire("openai", "gpt-4o") for _ in range(2)]
        living.run("wait_in_line", limits=FOUR, waiters=3, held=60.0, timeout=60.0)
        living.wait("parked")
        # Beats have gone on for longer than a TTL: the slots are held by them alone.
        threading.Event().wait(1.5 * TTL)
        assert not living.of("granted")
        killed_at = time.monotonic()
        fleet.kill(doomed)
        granted = living.wait("granted", 2)
        waits = [event["when"] - killed_at for event in granted]
        threading.Event().wait(TTL)
        assert len(living.of("granted")) == 2, "the third has to go on waiting"
        assert view.in_flight() == 4
        assert all(lease.valid for lease in kept)
    assert max(waits) < TTL + 0.5


@pytest.mark.covers("RL-04")
def test_the_only_slot_is_granted_again_when_its_killed_holder_has_expired(
    redis_url: str, redis_client: redis.Redis, free_namespace: str
) -> None:
    """Never before the expiry that the dead holder's last beat has set, and at most a second after a TTL."""
    view = StoreView(redis_client, free_namespace)
    settings = config(url=redis_url, namespace=free_namespace, **TIMES)
    waits = []
    with Client(limits={"openai/gpt-4o": Limits(concurrency=1)}, config=settings) as client:
        for _ in range(3):
            with Fleet(redis_url, 1, namespace=free_namespace, **TIMES) as fleet:
                fleet.run("hold", limits=ONE)
                fleet.wait("holding")
                fleet.kill(fleet[0])
                killed_at = time.monotonic()
                (expiry,) = view.expiries().values()
                lease = client.acquire("openai", "gpt-4o")
                waits.append(time.monotonic() - killed_at)
                assert lease._hold.at >= expiry
                lease.release()
    print(f"seconds from kill to the next grant, TTL {TTL}: {[round(wait, 3) for wait in waits]}")
    assert min(waits) >= TTL - HEARTBEAT - 0.2, "a kill is seen a little after the last beat"
    assert max(waits) <= TTL + 1.0


@pytest.mark.covers("ST-02")
def test_a_killed_process_leaves_the_list_after_its_ttl(
    redis_url: str, redis_client: redis.Redis, free_namespace: str
) -> None:
    """It is listed while it lives, gone a TTL after its death, and its slots with it."""
    view = StoreView(redis_client, free_namespace)
    settings = config(url=redis_url, namespace=free_namespace, **TIMES)
    with (
        Client(limits={"openai/gpt-4o": Limits(concurrency=4)}, config=settings) as client,
        Fleet(redis_url, 1, namespace=free_namespace, **TIMES) as fleet,
    ):
        fleet.run("hold", limits=FOUR, count=2)
        fleet.wait("holding")
        pids = {instance.pid for instance in client.instances()}
        assert fleet[0].pid in pids
        assert view.in_flight() == 2
        doomed = fleet[0].pid
        fleet.kill(fleet[0])
        killed_at = time.monotonic()
        assert doomed in {instance.pid for instance in client.instances()}, "nobody can know yet"
        wait_until(
            lambda: doomed not in {instance.pid for instance in client.instances()},
            description="the dead instance is no longer listed",
        )
        assert time.monotonic() - killed_at <= TTL + 1.0
        wait_until(lambda: view.in_flight() == 0, description="its slots are free")
        assert time.monotonic() - killed_at <= TTL + 1.0
        wait_until(
            lambda: redis_client.zcard(view.instances_key) == 1, description="the next beat forgets it altogether"
        )
