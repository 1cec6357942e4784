"""A process that forks while its client holds leases."""

import pytest
import redis

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
