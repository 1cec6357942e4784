"""A holder's deadline, compared with the moment at which the store may give its slot to somebody else."""

import time

import pytest
import redis

from ratelease import Client, Limits
from ratelease.testing import config
from support.store_view import StoreView
from support.wait_until import wait_until


def latest_offset(client: redis.Redis) -> float:
    """The least that the server's clock can be ahead of ours, in seconds, by the quickest of many readings."""
    readings = []
    for _ in range(200):
        before = time.monotonic()
        seconds, micros = client.time()
        after = time.monotonic()
        readings.append((after - before, seconds + micros / 1e6 - after))
    return min(readings)[1]


@pytest.mark.covers("RL-05")
def test_a_deadline_is_never_later_than_the_expiry_in_the_store(
    redis_url: str, redis_client: redis.Redis, free_namespace: str
) -> None:
    """The store cuts its clock to whole milliseconds, so that a holder has to give up the one it may be short of."""
    view = StoreView(redis_client, free_namespace)
    offset = latest_offset(redis_client)
    late = []
    settings = config(url=redis_url, namespace=free_namespace)
    with Client(limits={"openai/gpt-4o": Limits(concurrency=100)}, config=settings) as client:
        for _ in range(100):
            lease = client.acquire("openai", "gpt-4o")
            late.append(lease.deadline - (view.expiries()[lease.id] / 1000 - offset))
            lease.release()
    assert max(late) <= 0, f"seconds that a holder believed too long: {max(late):.6f}"


@pytest.mark.covers("RL-05")
def test_a_renewed_deadline_is_never_later_than_the_expiry_in_the_store(
    redis_url: str, redis_client: redis.Redis, free_namespace: str
) -> None:
    """What holds for the grant holds for every heartbeat."""
    view = StoreView(redis_client, free_namespace)
    offset = latest_offset(redis_client)
    settings = config(url=redis_url, namespace=free_namespace, lease_ttl=1.0, heartbeat=0.02)
    with Client(limits={"openai/gpt-4o": Limits(concurrency=1)}, config=settings) as client:
        lease = client.acquire("openai", "gpt-4o")
        late, seen = [], lease.deadline

        def renewed() -> bool:
            return lease.deadline != seen

        for _ in range(50):
            wait_until(renewed, description="the lease is renewed")
            seen = lease.deadline
            late.append(seen - (view.expiries()[lease.id] / 1000 - offset))
    assert max(late) <= 0, f"seconds that a holder believed too long: {max(late):.6f}"
