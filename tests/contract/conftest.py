"""Every contract test runs four times: either client, in memory and on a real server."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import fakeredis
import pytest
import redis

from ratelease import AsyncClient, Client, Config
from ratelease.store import embedded
from ratelease.testing import config
from support.both import Limiter
from support.key_leaks import key_leaks


@pytest.fixture(params=["sync", "async"])
def colour(request: pytest.FixtureRequest) -> type[Client | AsyncClient]:
    """The class of the clients of a test."""
    return Client if request.param == "sync" else AsyncClient


@pytest.fixture(params=["memory", "redis"])
def store_url(request: pytest.FixtureRequest, free_namespace: str) -> str:
    """The address of an empty store."""
    if request.param == "redis":
        url: str = request.getfixturevalue("redis_url")
        return url
    return f"memory://{free_namespace}"


@pytest.fixture
def settings(store_url: str, free_namespace: str) -> Config:
    """Short times, the test's store and a namespace of its own."""
    return config(url=store_url, namespace=free_namespace)


@pytest.fixture
def store(store_url: str) -> Any:
    """A plain client of the test's store, for looking at what is stored and for damaging it."""
    if store_url.startswith("memory://"):
        return fakeredis.FakeRedis(server=embedded.server(store_url))
    return redis.Redis.from_url(store_url)


@pytest.fixture
async def make_limiter(
    colour: type[Client | AsyncClient], settings: Config, store: Any
) -> AsyncIterator[Callable[..., Limiter]]:
    """
    Make limiters that share the test's store: another instance each, all of them closed afterwards.

    Keywords are the client's; those of Config change the short times.
    """
    made: list[Limiter] = []

    def make(**options: Any) -> Limiter:
        changes = {name: options.pop(name) for name in list(options) if hasattr(settings, name)}
        made.append(Limiter(colour(config=settings.replace(**changes), **options)))
        return made[-1]

    yield make
    for limiter in made:
        await limiter.close()
        limiter.callers.end()
    leaks = key_leaks(store)
    store.close()
    embedded.discard(settings.url)
    assert leaks == [], f"keys without a TTL stay in the store for ever: {leaks}"
