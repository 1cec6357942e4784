"""Fixtures that every test may use, and the marks that tie tests to the rows of docs/behaviour.md."""

import contextlib
import re
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from hypothesis import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

from ratelease.testing.redis_server import RedisServer, ServerBinary, find_servers
from support.key_leaks import PERMANENT, key_leaks
from support.proxy import TcpProxy
from support.redis_cluster import RedisCluster

# An example may wait for a busy machine; what hangs is ended by the test's own timeout.
settings.register_profile("ratelease", deadline=None)
settings.load_profile("ratelease")

_ROW = re.compile(r"[A-Z]{2}-\d{2}")


# --- rows --------------------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--row", action="append", default=[], help="run only the tests of this row, e.g. AD-01")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Refuse malformed rows, and keep the tests of the rows that --row names."""
    wanted = set(config.getoption("--row"))
    chosen, others = [], []
    for item in items:
        rows = {row for mark in item.iter_markers("covers") for row in mark.args}
        odd = [row for row in rows if not (isinstance(row, str) and _ROW.fullmatch(row))]
        if odd:
            raise pytest.UsageError(f"{item.nodeid}: covers() takes ids such as 'AD-01', not {odd}")
        (chosen if not wanted or rows & wanted else others).append(item)
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = chosen


# --- servers -----------------------------------------------------------------------------------------------


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for each_server once per server binary on this machine."""
    if "each_server" in metafunc.fixturenames:
        servers = find_servers()
        metafunc.parametrize("each_server", servers, indirect=True, ids=[server.name for server in servers])


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run asynchronous tests on asyncio."""
    return "asyncio"


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """The one server of this test process, from the preferred binary; use redis_url for a clean database."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an empty server; after the test every key in it must have a TTL."""
    with _clean(redis_server, request):
        yield redis_server.url


@pytest.fixture
def redis_client(redis_server: RedisServer, redis_url: str) -> Iterator[redis.Redis]:
    """A plain client of redis_url, for looking at what is stored; it never retries."""
    assert redis_url
    with _client(redis_server) as client:
        yield client


@pytest.fixture(scope="session")
def _cluster() -> Iterator[RedisCluster]:
    with RedisCluster() as cluster:
        yield cluster


@pytest.fixture
def redis_cluster(_cluster: RedisCluster, request: pytest.FixtureRequest) -> Iterator[RedisCluster]:
    """The one cluster of this test process, empty; checked for keys without a TTL afterwards."""
    with contextlib.ExitStack() as stack:
        for server in _cluster.servers:
            stack.enter_context(_clean(server, request))
        yield _cluster


@pytest.fixture(scope="session")
def _server_of() -> Iterator[Callable[[ServerBinary], RedisServer]]:
    servers: dict[str, RedisServer] = {}

    def server_of(binary: ServerBinary) -> RedisServer:
        if binary.name not in servers:
            servers[binary.name] = RedisServer(binary).start()
        return servers[binary.name]

    yield server_of
    for server in servers.values():
        server.stop()


@pytest.fixture
def each_server(
    request: pytest.FixtureRequest, _server_of: Callable[[ServerBinary], RedisServer]
) -> Iterator[RedisServer]:
    """An empty server of every binary that was found, in turn; checked for keys without a TTL afterwards."""
    server = _server_of(request.param)
    with _clean(server, request):
        yield server


@pytest.fixture
def make_server() -> Iterator[Callable[..., RedisServer]]:
    """Start servers of the test's own, with the arguments of RedisServer, to kill, pause or reconfigure."""
    started: list[RedisServer] = []

    def make(*args: Any, **options: Any) -> RedisServer:
        started.append(RedisServer(*args, **options).start())
        return started[-1]

    yield make
    for server in started:
        server.stop()


@pytest.fixture
def proxy(redis_server: RedisServer, redis_url: str) -> Iterator[TcpProxy]:
    """A proxy in front of redis_url that loses, delays and holds back what the test tells it to."""
    assert redis_url
    with TcpProxy(redis_server.port) as proxy:
        yield proxy


@pytest.fixture
def free_namespace() -> str:
    """A namespace that no other test and no other run uses."""
    return f"test-{secrets.token_hex(6)}"


@contextlib.contextmanager
def _clean(server: RedisServer, request: pytest.FixtureRequest) -> Iterator[None]:
    """Empty a server that the tests started, and find the keys that a test leaves in it for ever."""
    if not server.is_alive:
        server.start()
    with _client(server) as client:
        client.flushall()
    yield
    # A test that takes the server down leaves nothing to look at.
    if server.is_alive:
        marks = request.node.iter_markers("permanent_keys")
        permanent = (*PERMANENT, *(pattern for mark in marks for pattern in mark.args))
        with _client(server) as client:
            leaks = key_leaks(client, permanent=permanent)
        assert leaks == [], f"keys without a TTL stay in the store for ever: {leaks}"


def _client(server: RedisServer) -> redis.Redis:
    return redis.Redis.from_url(server.url, retry=Retry(NoBackoff(), 0), socket_timeout=5.0)
