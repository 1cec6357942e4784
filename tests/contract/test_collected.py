"""Generators and coroutines with a lease in their `with` that the garbage collector ends, in the middle of our code."""

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ratelease import AsyncClient, Client, Limits
from ratelease.store import embedded, exchange
from ratelease.store.wire import Wire
from support.wait_until import wait_until

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")

EIGHT = {"openai/gpt-4o": Limits(concurrency=8)}


@pytest.fixture(autouse=True)
def collected_here_alone() -> Iterator[None]:
    """Garbage is collected where the test says so."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Chat:
    """Keeps a generator that keeps it: only the collector ends one that is half read."""

    def __init__(self, client: Client, kind: str) -> None:
        decorate: Any = client.limited("openai", "gpt-4o")
        kinds: dict[str, Callable[[], Any]] = {
            "limited": decorate(self.tokens),
            "with": lambda: self.inside(client.acquire("openai", "gpt-4o")),
            "group": lambda: self.inside(client.acquire_many("openai", "gpt-4o", 2)),
            "stream": lambda: self.inside(client.acquire("openai", "gpt-4o").wrap_stream(self.tokens())),
        }
        self.stream = kinds[kind]()
        next(self.stream)

    def tokens(self) -> Iterator[int]:
        yield self is None
        yield self is None

    def inside(self, entered: Any) -> Iterator[int]:
        with entered:
            yield self is None
            yield self is None


KINDS = ["limited", "with", "group", "stream"]


def in_time(work: Callable[[], Any]) -> None:
    """Do something in a thread that may stand still for ever."""
    thread = threading.Thread(target=work, name="caller", daemon=True)
    thread.start()
    thread.join(5.0)
    assert not thread.is_alive(), "the thread waits for what it holds itself"


def freed(client: Client) -> None:
    """What was collected is released in the background."""

    def free() -> bool:
        scope = client.status().scope("openai/gpt-4o")
        return scope is not None and scope.in_flight == 0

    wait_until(free, description="every slot is free")


@pytest.mark.covers("LS-01")
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_collected_while_a_lane_is_locked_releases(
    settings, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The release that it makes would join the very call that is being made below it."""
    take = exchange._Lane.take

    def collecting(lane: Any, items: Any) -> Any:
        monkeypatch.setattr(exchange._Lane, "take", take)
        gc.collect()
        return take(lane, items)

    with Client(config=settings, limits=EIGHT) as client:
        Chat(client, kind)
        lease = client.acquire("openai", "gpt-4o")
        monkeypatch.setattr(exchange._Lane, "take", collecting)
        in_time(lease.release)
        freed(client)


@pytest.mark.covers("LS-01")
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_collected_inside_another_clients_call_releases(
    settings, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """No lane is shared, but the thread, the store of memory:// and what makes connections are."""
    run = Wire._once

    def collecting(wire: Any, *arguments: Any) -> Any:
        monkeypatch.setattr(Wire, "_once", run)
        gc.collect()
        return run(wire, *arguments)

    senders = []

    def noting(*arguments: Any) -> Any:
        senders.append(threading.current_thread().name)
        return release_all(*arguments)

    with Client(config=settings, limits=EIGHT) as client, Client(config=settings, limits=EIGHT) as other:
        Chat(client, kind)
        release_all = client._exchange.release_all
        monkeypatch.setattr(client._exchange, "release_all", noting)
        monkeypatch.setattr(Wire, "_once", collecting)
        in_time(other.status)
        freed(client)
    assert senders == [], "it was sent in the middle of the other's call"


@pytest.mark.covers("LS-01")
@pytest.mark.parametrize("store_url", ["memory"], indirect=True)
def test_what_is_collected_inside_the_store_of_memory_releases(colour, store_url, settings) -> None:
    """Its lock is held by the thread of the event loop, or by the thread of the caller."""

    class Collecting(list[Any]):
        """What the store works off first in each command, while it is locked."""

        def pop(self, *_: Any) -> Any:
            if threading.current_thread().name == "caller":
                gc.collect()
            raise IndexError

    def work() -> None:
        if isinstance(other, AsyncClient):
            asyncio.run(other.status())
        else:
            other.status()

    other = colour(config=settings)
    with Client(config=settings, limits=EIGHT) as client:
        Chat(client, "with")
        embedded.server(store_url).closed_sockets = Collecting()
        in_time(work)
        embedded.server(store_url).closed_sockets = []
        freed(client)


@pytest.mark.covers("LS-01")
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_collected_in_the_keepers_thread_is_sent_by_the_keeper(
    settings, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A call that waits for its answer there would hold up the heartbeats."""
    threads: list[str] = []
    run = Wire.run

    def noting(*arguments: Any) -> Any:
        threads.append(threading.current_thread().name)
        return run(*arguments)

    monkeypatch.setattr(Wire, "run", noting)
    with Client(config=settings, limits=EIGHT) as client:
        Chat(client, kind)
        client._rt.keeper._call(gc.collect)
        freed(client)
    assert "ratelease-keeper" not in threads


@pytest.mark.covers("LS-01")
@pytest.mark.parametrize("store_url", ["memory"], indirect=True)
def test_a_coroutine_that_is_collected_in_the_keepers_thread_is_released_by_the_keeper(settings) -> None:
    """Its event loop is closed, and the one that runs there is not the user's."""
    client = AsyncClient(config=settings, limits=EIGHT)

    async def hold() -> None:
        async with client.acquire("openai", "gpt-4o"):
            await asyncio.get_running_loop().create_future()

    loop = asyncio.new_event_loop()
    holding = loop.create_task(hold())
    loop.call_later(0.2, loop.stop)
    loop.run_forever()
    assert client.stats().in_flight == 1
    loop.close()
    del holding, loop
    client._rt.keeper._call(gc.collect)
    wait_until(lambda: client.stats().in_flight == 0, description="it has ended")
    assert len(client._exchanges) <= 1
    status = asyncio.run(client.status())
    assert status.scope("openai/gpt-4o").in_flight == 0
    asyncio.run(client.close())


@pytest.mark.parametrize("store_url", ["memory"], indirect=True)
def test_a_client_that_is_collected_while_its_keeper_is_locked_stops_it(settings) -> None:
    """The function that ends a watch outlives the client, and its call may be where the client is collected."""
    client = Client(config=settings)
    client._rt.keeper.start()
    keeper = client._rt.keeper

    def collected() -> None:
        with keeper._lock:
            keeper.stop()

    in_time(collected)
    assert keeper._thread is not None
    keeper._thread.join(5.0)
    assert not keeper._thread.is_alive()
