"""A store of their own for the processes of each test."""

import pytest
import redis

from ratelease import Config
from ratelease.testing import config
from support.store_view import StoreView


@pytest.fixture
def settings(redis_url: str, free_namespace: str) -> Config:
    """Leases live for 15 s, so that nothing is free again by itself before a test would notice."""
    return config(url=redis_url, namespace=free_namespace, lease_ttl=15.0, heartbeat=5.0, poll=0.02)


@pytest.fixture
def view(redis_client: redis.Redis, free_namespace: str) -> StoreView:
    """The store as it is."""
    return StoreView(redis_client, free_namespace)
