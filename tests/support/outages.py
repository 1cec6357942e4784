"""The ways in which a Redis can be away, each begun and ended by a test, and what its clients know of it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ratelease.testing.redis_server import RedisServer
from support.both import Limiter
from support.proxy import TcpProxy
from support.wait_until import wait_until_async

# Seconds: longer than any case takes, where a fault cannot be ended but only waited for.
SPAN = 3.0

_LOOP = "redis.call('TIME') local n = 0 while true do n = n + 1 end"


@dataclass(frozen=True)
class Store:
    """A server of the test's own, and the proxy through which clients reach it."""

    server: RedisServer
    proxy: TcpProxy

    def plain(self) -> redis.Redis:
        """A client past the proxy, which never retries."""
        return redis.Redis.from_url(self.server.url, retry=Retry(NoBackoff(), 0), socket_timeout=2 * SPAN)


@contextlib.contextmanager
def refused(store: Store) -> Iterator[None]:
    """Nothing listens: connections are closed, new ones refused."""
    store.proxy.refuse()
    yield
    store.proxy.passing()


@contextlib.contextmanager
def blackhole(store: Store) -> Iterator[None]:
    """Connections stand and are accepted, and every byte is lost."""
    store.proxy.blackhole()
    yield
    store.proxy.passing()


@contextlib.contextmanager
def stopped(store: Store) -> Iterator[None]:
    """The server's process is stopped by a signal; what it gets is carried out later."""
    store.server.pause()
    yield
    store.server.resume()


@contextlib.contextmanager
def latency(store: Store) -> Iterator[None]:
    """Every request takes 2 s to get there."""
    store.proxy.delay(2.0)
    yield
    store.proxy.passing()


@contextlib.contextmanager
def client_pause(store: Store) -> Iterator[None]:
    """The server holds every command back, and carries them out later."""
    with store.plain() as client:
        began = time.monotonic()
        client.client_pause(round(SPAN * 1000))
        yield
        time.sleep(max(began + SPAN - time.monotonic(), 0.0))


@contextlib.contextmanager
def debug_sleep(store: Store) -> Iterator[None]:
    """The server sleeps inside a command."""
    with store.plain() as client:
        sleeping = threading.Thread(target=lambda: client.execute_command("DEBUG", "SLEEP", SPAN))
        sleeping.start()
        _wait_for_silence(store)
        yield
        sleeping.join()


@contextlib.contextmanager
def busy_script(store: Store) -> Iterator[None]:
    """A script of somebody else's never ends; commands are answered by BUSY."""

    def run() -> None:
        with store.plain() as client, contextlib.suppress(redis.RedisError):
            client.eval(_LOOP, 0)

    with store.plain() as client:
        client.config_set("lua-time-limit", 20)
        running = threading.Thread(target=run)
        running.start()
        _wait_for_silence(store)
        yield
        client.execute_command("SCRIPT", "KILL")
        running.join()


def _wait_for_silence(store: Store) -> None:
    """Return when the server no longer answers a ping as it should."""
    with store.plain() as client:
        until = time.monotonic() + SPAN
        client.connection_pool.connection_kwargs["socket_timeout"] = 0.1
        with contextlib.suppress(redis.RedisError):
            while time.monotonic() < until:
                client.ping()


FAULTS: dict[str, Callable[[Store], contextlib.AbstractContextManager[None]]] = {
    "refused": refused,
    "blackhole": blackhole,
    "stopped": stopped,
    "client pause": client_pause,
    "debug sleep": debug_sleep,
    "busy script": busy_script,
    "latency": latency,
}


async def known(*limiters: Limiter) -> None:
    """Return when every one of these has learned how many they are."""
    for limiter in limiters:
        await limiter.start()

    def counted(limiter: Limiter) -> bool:
        standing = limiter.client._rt.outage.standing
        return standing is not None and standing.instances == len(limiters)

    await wait_until_async(lambda: all(map(counted, limiters)), description="the instances know each other")


async def away(proxy: TcpProxy, *limiters: Limiter) -> None:
    """Take the store away, and return when all have noticed."""
    proxy.refuse()
    await wait_until_async(lambda: all(each.client._rt.outage.away for each in limiters), description="it is noticed")


def queued(limiter: Limiter) -> int:
    """How many wait for this process' share."""
    return sum(map(len, limiter.client._rt.outage._queues.values()))


async def back(proxy: TcpProxy, *limiters: Limiter) -> None:
    """Let the store come back, and return when all have noticed."""
    proxy.passing()
    await wait_until_async(
        lambda: not any(each.client._rt.outage.away for each in limiters), description="the store is back"
    )
