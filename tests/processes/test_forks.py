"""A process that forks while its client holds leases."""

import contextlib
import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from ratelease import AsyncClient, Client, Config
from ratelease.store.endpoint import Endpoint
from support.forks import status_of_child
from support.store_view import StoreView
from support.wait_until import wait_until
from support.workers import Worker


@pytest.mark.covers("RL-20")
def test_a_forked_child_leaves_its_parents_leases_alone_and_works_by_itself(
    redis_url: str, redis_client: redis.Redis, free_namespace: str
) -> None:
    """Releasing, collecting and closing in the child end nothing of the parent's; its own lease is its own."""
    view = StoreView(redis_client, free_namespace)
    with Worker(redis_url, free_namespace) as worker:
        worker.run("fork_while_holding", main=True, url=redis_url, namespace=free_namespace)
        child = worker.wait("child")[0]
        worker.wait("child closed")
        assert view.in_flight() == 2, "only the parent's leases are left"
        parent = worker.wait("parent")[0]
        assert view.in_flight() == 2
        worker.signal("release")
        used = worker.wait("parent used")[0]
        worker.wait("done")
    assert child["pid"] != parent["pid"]
    assert child["valid"], "the third slot"
    assert child["refused"], "a fourth lease, while the parent holds two and the child one"
    assert (parent["status"], parent["valid"], parent["lost"]) == (0, [True, True], 0)
    assert used["valid"], "the parent's connections are still its own"
    wait_until(lambda: view.in_flight() == 0, description="everything was released by its owner")


@pytest.mark.covers("RL-20")
@pytest.mark.parametrize("method, inherit", [("fork", False), ("fork", True), ("spawn", False), ("forkserver", False)])
def test_children_of_multiprocessing_work_beside_their_parent(
    redis_url: str, redis_client: redis.Redis, free_namespace: str, method: str, inherit: bool
) -> None:
    """With a client of their own, or with the one that was made before the fork, as under a pre-forking server."""
    view = StoreView(redis_client, free_namespace)
    with Worker(redis_url, free_namespace) as worker:
        worker.run("fork_workers", main=True, url=redis_url, namespace=free_namespace, method=method, inherit=inherit)
        worker.wait("done")
        children, parent = worker.of("child"), worker.of("parent")[0]
    assert [child["valid"] and child["refused"] for child in children] == [True, True]
    assert len({child["pid"] for child in children} | {parent["pid"]}) == 3
    assert (parent["valid"], parent["lost"]) == ([True, True], 0)
    assert view.in_flight() == 0


@pytest.mark.covers("QU-07", "RL-20")
def test_a_forked_child_has_a_gate_of_its_own(redis_url: str, redis_client: redis.Redis, free_namespace: str) -> None:
    """Nobody of its parent's stands at it, and it is open though the parent's is full; parent and child are served."""
    with Worker(redis_url, free_namespace) as worker:
        worker.run("fork_while_standing", main=True, url=redis_url, namespace=free_namespace)
        child = worker.wait("child")[0]
        worker.signal("release")
        parent = worker.wait("parent")[0]
        worker.wait("done")
    assert child["standing"] == 0
    assert (parent["status"], parent["standing"]) == (0, 0)


@contextlib.contextmanager
def another_thread(work: Callable[[Callable[[], None]], None]) -> Iterator[None]:
    """Another thread does `work`, and stands in the middle of it, where it calls what it is given, until the end."""
    there, go_on = threading.Event(), threading.Event()

    def stand() -> None:
        there.set()
        go_on.wait(20.0)

    thread = threading.Thread(target=work, args=(stand,))
    thread.start()
    assert there.wait(5.0)
    try:
        yield
    finally:
        go_on.set()
        thread.join()


@pytest.mark.covers("RL-20")
@pytest.mark.parametrize("made", [Client, AsyncClient])
def test_a_child_that_is_forked_while_a_thread_makes_a_client_does_not_hang(
    settings: Config, monkeypatch: pytest.MonkeyPatch, made: type[Client | AsyncClient]
) -> None:
    """The client that the child has inherited makes its own connections before os.fork() returns."""
    from_url = Endpoint._from_url
    inherited = made(config=settings)

    def make(stand: Callable[[], None]) -> None:
        def slowly(self: Endpoint, *arguments: Any) -> Any:
            if threading.current_thread() is thread:
                stand()
            return from_url(self, *arguments)

        thread = threading.current_thread()
        monkeypatch.setattr(Endpoint, "_from_url", slowly)
        made(config=settings)

    with another_thread(make):
        assert status_of_child(lambda: None) == 0
    del inherited


@pytest.mark.covers("RL-20")
@pytest.mark.parametrize("then", ["used", "collected"])
def test_a_child_that_is_forked_while_a_thread_starts_the_keeper_does_not_hang(settings: Config, then: str) -> None:
    """Neither where the child uses the client, nor where it drops it: the parent's keeper is none of its own."""
    clients = [Client(config=settings)]

    def start(stand: Callable[[], None]) -> None:
        with clients[0]._rt.keeper._lock:
            stand()

    def work() -> None:
        if then == "used":
            clients[0].acquire("openai", "gpt-4o").release()
        clients.clear()
        gc.collect()

    with another_thread(start):
        assert status_of_child(work) == 0
    clients[0].acquire("openai", "gpt-4o").release()
    clients[0].close()
