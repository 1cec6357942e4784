"""What tests of a store that goes away share: a client behind a proxy, in either colour."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import redis

from ratelease import AsyncClient, Client, Config, Limits
from ratelease.testing import config
from support.both import Limiter
from support.proxy import TcpProxy
from support.store_view import StoreView


@pytest.fixture
def settings(proxy: TcpProxy, free_namespace: str) -> Config:
    """A store behind the proxy that counts as away after 0.3 s; leases that outlive every test."""
    return config(
        url=proxy.url, namespace=free_namespace, lease_ttl=20.0, heartbeat=0.3, attempt_timeout=0.2, store_timeout=0.3
    )


@pytest.fixture
def view(redis_client: redis.Redis, free_namespace: str) -> StoreView:
    """The store, seen past the proxy."""
    return StoreView(redis_client, free_namespace)


@pytest.fixture(params=[Client, AsyncClient], ids=["sync", "async"])
async def make(
    request: pytest.FixtureRequest, settings: Config, proxy: TcpProxy
) -> AsyncIterator[Callable[..., Limiter]]:
    """Make limiters of either colour, with the module's LIMITS or others; keywords change the settings."""
    made: list[Limiter] = []

    def make(limits: dict[str, Limits] | None = None, **changes: Any) -> Limiter:
        limits = request.module.LIMITS if limits is None else limits
        made.append(Limiter(request.param(limits=limits, config=settings.replace(**changes))))
        return made[-1]

    yield make
    proxy.passing()
    for limiter in made:
        await limiter.close()
        limiter.callers.end()
