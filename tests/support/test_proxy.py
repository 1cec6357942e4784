"""The proxy that fault tests rely on does what it says."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from support.proxy import TcpProxy
from support.wait_until import wait_until

COUNT = "return redis.call('INCRBY', KEYS[1], 1)"


@pytest.fixture
def connect(proxy: TcpProxy) -> Iterator[Callable[..., redis.Redis]]:
    """Make clients that speak through the proxy, never retry, and give up after 0.3 s."""
    clients: list[redis.Redis] = []

    def make(timeout: float = 0.3) -> redis.Redis:
        clients.append(redis.Redis.from_url(proxy.url, socket_timeout=timeout, retry=Retry(NoBackoff(), 0)))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def count(redis_client: redis.Redis) -> Callable[[], int]:
    """Read how often the server has carried the script out."""
    redis_client.set("n", 0, ex=60)
    return lambda: int(redis_client.get("n") or 0)


def test_passes_both_directions(proxy: TcpProxy, connect: Callable[..., redis.Redis]) -> None:
    client = connect()
    client.set("big", b"x" * 1_000_000, ex=60)
    assert client.get("big") == b"x" * 1_000_000
    assert proxy.accepted == 1


@pytest.mark.parametrize(
    "hang, error", [(False, redis.exceptions.ConnectionError), (True, redis.exceptions.TimeoutError)]
)
def test_drops_the_reply_of_a_request_that_was_carried_out(
    proxy: TcpProxy,
    connect: Callable[..., redis.Redis],
    count: Callable[[], int],
    hang: bool,
    error: type[Exception],
) -> None:
    client = connect()
    proxy.drop_replies(1, matching=b"EVAL", hang=hang)
    assert client.ping()
    with pytest.raises(error):
        client.eval(COUNT, 1, "n")
    assert (count(), proxy.dropped) == (1, 1)
    assert client.eval(COUNT, 1, "n") == 2


def test_drops_as_many_replies_as_told(
    proxy: TcpProxy, connect: Callable[..., redis.Redis], count: Callable[[], int]
) -> None:
    client = connect()
    proxy.drop_replies(3)
    for _ in range(3):
        with pytest.raises(redis.exceptions.ConnectionError):
            client.eval(COUNT, 1, "n")
    assert client.eval(COUNT, 1, "n") == 4
    assert proxy.dropped == 3


def test_blackhole_loses_what_is_sent_and_silences_the_connection_for_good(
    proxy: TcpProxy, connect: Callable[..., redis.Redis], count: Callable[[], int]
) -> None:
    client = connect()
    assert client.ping()
    proxy.blackhole()
    with pytest.raises(redis.exceptions.TimeoutError):
        client.eval(COUNT, 1, "n")
    with pytest.raises(redis.exceptions.TimeoutError):
        connect().ping()
    proxy.passing()
    assert client.eval(COUNT, 1, "n") == 1, "what was lost stays lost, and a new connection works"
    assert count() == 1


def test_refuses_and_accepts_again_on_the_same_port(proxy: TcpProxy, connect: Callable[..., redis.Redis]) -> None:
    client = connect()
    assert client.ping()
    port = proxy.port
    proxy.refuse()
    for attempt in (client, connect()):
        began = time.monotonic()
        with pytest.raises(redis.exceptions.ConnectionError):
            attempt.ping()
        assert time.monotonic() - began < 0.25, "refused, not timed out"
    proxy.passing()
    assert client.ping()
    assert proxy.port == port


def test_delays_requests(proxy: TcpProxy, connect: Callable[..., redis.Redis]) -> None:
    client = connect(timeout=2.0)
    assert client.ping()
    proxy.delay(0.2)
    began = time.monotonic()
    assert client.ping()
    assert 0.2 <= time.monotonic() - began < 1.0
    proxy.passing()
    began = time.monotonic()
    assert client.ping()
    assert time.monotonic() - began < 0.15


def test_passing_ends_a_delay_under_way(proxy: TcpProxy, connect: Callable[..., redis.Redis]) -> None:
    client = connect(timeout=5.0)
    assert client.ping()
    proxy.delay(30.0)
    replies: list[object] = []
    thread = threading.Thread(target=lambda: replies.append(client.ping()))
    thread.start()
    proxy.passing()
    thread.join(5.0)
    assert replies == [True]


def test_forwards_a_held_request_after_its_client_has_gone(
    proxy: TcpProxy, connect: Callable[..., redis.Redis], count: Callable[[], int]
) -> None:
    client = connect()
    proxy.hold_requests(1, matching=b"EVAL")
    with pytest.raises(redis.exceptions.TimeoutError):
        client.eval(COUNT, 1, "n")
    client.close()
    assert (count(), proxy.held) == (0, 1)
    assert client.eval(COUNT, 1, "n") == 1, "only one request was to be held"
    assert proxy.forward_held() == 1
    assert (count(), proxy.held) == (2, 0), "carried out by the time forward_held returns"


def test_forwards_a_held_request_of_a_client_that_still_waits(
    proxy: TcpProxy, connect: Callable[..., redis.Redis], count: Callable[[], int]
) -> None:
    client = connect(timeout=5.0)
    proxy.hold_requests(1)
    replies: list[object] = []
    thread = threading.Thread(target=lambda: replies.append(client.eval(COUNT, 1, "n")))
    thread.start()
    wait_until(lambda: proxy.held == 1, description="the proxy holds the request")
    proxy.passing()
    thread.join(5.0)
    assert replies == [1]
    assert count() == 1


def test_close_ends_connections_and_threads(proxy: TcpProxy, connect: Callable[..., redis.Redis]) -> None:
    client = connect()
    assert client.ping()
    proxy.close()
    assert not [thread for thread in proxy._threads if thread.is_alive()]
    with pytest.raises(redis.exceptions.ConnectionError):
        client.ping()
