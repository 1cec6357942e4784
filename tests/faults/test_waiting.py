"""Waiters whose process is gone, and waiters that wait for long."""

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

ONE = {"openai/gpt-4o": {"concurrency": 1}}


@pytest.mark.covers("QU-10")
def test_others_get_the_slots_of_a_dead_process_at_the_head(
    redis_url: str, redis_client: redis.Redis, free_namespace: str
) -> None:
    """Fifty waiters of a killed process stand before five living ones: these get their turn in time."""
    ttl, claim_ttl = 2.0, 0.5
    times = {"lease_ttl": ttl, "heartbeat": 0.5, "claim_ttl": claim_ttl}
    view = StoreView(redis_client, free_namespace)
    settings = config(url=redis_url, namespace=free_namespace, **times)
    with (
        Client(limits={"openai/gpt-4o": Limits(concurrency=1)}, config=settings) as client,
        Fleet(redis_url, 2, namespace=free_namespace, **times) as fleet,
    ):
        doomed, living = fleet
        lease = client.acquire("openai", "gpt-4o")
        doomed.run("wait_in_line", limits=ONE, waiters=50, timeout=60.0)
        doomed.wait("parked")
        living.run("wait_in_line", limits=ONE, waiters=5, timeout=60.0)
        living.wait("parked")
        assert view.waiting() == 55
        fleet.kill(doomed)
        freed = time.monotonic()
        lease.release()
        granted = living.wait("granted", 5)
        waits = [event["when"] - freed for event in granted]
        # Nobody asks for this path any more, so its queue ends with its TTL, twice that of a lease.
        wait_until(lambda: view.waiting() == 0, timeout=4 * ttl, description="the dead waiters have left the queue")
    print(f"first grant behind a dead head after {min(waits):.2f} s, fifth after {max(waits):.2f} s")
    assert min(waits) <= ttl + claim_ttl


@pytest.mark.covers("QU-14")
@pytest.mark.parametrize("limits", [{"concurrency": 1}, {"rpm": 1}], ids=["slots", "rate"])
def test_a_hundred_waiters_at_a_closed_gate_hardly_call(
    redis_url: str, redis_client: redis.Redis, free_namespace: str, limits: dict[str, int]
) -> None:
    """In ten seconds each process asks once a poll and beats; how many wait in it makes no difference."""
    times = {"lease_ttl": 15.0, "heartbeat": 5.0, "poll": 0.5}
    view = StoreView(redis_client, free_namespace)
    settings = config(url=redis_url, namespace=free_namespace, **times)
    with (
        Client(limits={"openai/gpt-4o": Limits(**limits)}, config=settings) as client,
        Fleet(redis_url, 2, namespace=free_namespace, **times) as fleet,
        client.acquire("openai", "gpt-4o"),
    ):
        fleet.run("wait_in_line", limits={"openai/gpt-4o": limits}, waiters=50, timeout=300.0)
        fleet.wait("parked")
        wait_until(lambda: view.waiting() == 100, description="a hundred waiters are parked")
        before = view.script_calls()
        threading.Event().wait(10.0)
        calls = view.script_calls() - before
        assert not fleet.of("granted")
        fleet.signal("stop")
        fleet.wait("done")
    print(f"{calls} script calls in 10 s of 100 waiters in 2 processes")
    assert calls <= 100 * 10 / 0.5
    # Two processes with waiters: a poll every 0.4 s at most; three with a client: three calls a heartbeat.
    assert calls <= 2 * 10 / 0.4 + 3 * 3 * 3
