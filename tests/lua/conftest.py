"""Stores for the tests of the scripts: fakeredis on a driven clock, and every real server."""

from collections.abc import Callable, Iterator
from typing import Any

import fakeredis
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ratelease.testing.redis_server import RedisServer, ServerBinary, find_servers
from support.clock import DrivenClock, driven_clock
from support.key_leaks import key_leaks
from support.store import Store

MakeStore = Callable[..., Store]


@pytest.fixture(scope="session")
def fake_server() -> fakeredis.FakeServer:
    """The one fakeredis server of these tests: its Lua interpreter is slow to start."""
    return fakeredis.FakeServer(server_type="redis", version=(7,))


@pytest.fixture
def clock() -> Iterator[DrivenClock]:
    """The clock of fakeredis, moved by the test alone."""
    with driven_clock() as clock:
        yield clock


@pytest.fixture
def make_store(fake_server: fakeredis.FakeServer, clock: DrivenClock) -> Iterator[MakeStore]:
    """Make stores on an empty fakeredis with a driven clock; a further one empties it again."""
    client = fakeredis.FakeRedis(server=fake_server)

    def make(**options: Any) -> Store:
        client.flushall()
        return Store(client, **options)

    yield make
    assert key_leaks(client) == []
    client.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for each_store on fakeredis, and on every server binary of this machine."""
    if "each_store" in metafunc.fixturenames:
        servers = find_servers()
        names = ["fakeredis", *(server.name for server in servers)]
        metafunc.parametrize("each_store", [None, *servers], indirect=True, ids=names)


@pytest.fixture
def each_store(
    request: pytest.FixtureRequest, _server_of: Callable[[ServerBinary], RedisServer]
) -> Iterator[MakeStore]:
    """Make stores on fakeredis and on each real server in turn, all in real time."""
    if request.param is None:
        client: Any = fakeredis.FakeRedis(server=request.getfixturevalue("fake_server"))
    else:
        server = _server_of(request.param)
        client = redis.Redis.from_url(server.url, retry=Retry(NoBackoff(), 0), socket_timeout=5.0)

    def make(**options: Any) -> Store:
        client.flushall()
        return Store(client, **options)

    yield make
    assert key_leaks(client) == []
    client.close()
