"""A cluster whose slots move and whose nodes die, while clients use it."""

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any, Self

import pytest

from ratelease import AsyncClient, Client, Lease, Limits
from ratelease.errors import RateleaseError, StoreUnavailable
from ratelease.testing import config
from ratelease.testing.redis_server import ServerBinary, find_servers
from support.redis_cluster import RedisCluster
from support.store_view import StoreView
from support.wait_until import wait_until

pytestmark = pytest.mark.faults

SLOTS = 4
LIMITS = {"openai/gpt-4o": Limits(concurrency=SLOTS, rpm=1_000_000)}


@pytest.fixture(params=find_servers(), ids=lambda binary: binary.name)
def each_cluster(request: pytest.FixtureRequest) -> Iterator[RedisCluster]:
    """A cluster of every server binary, of the test's own."""
    binary: ServerBinary = request.param
    with RedisCluster(binary) as cluster:
        yield cluster


@pytest.fixture
def own_cluster() -> Iterator[RedisCluster]:
    """A cluster of the test's own, to break."""
    with RedisCluster() as cluster:
        yield cluster


class Load:
    """Threads and tasks that take and give back leases until they are told to stop; what they saw."""

    def __init__(self, url: str, namespace: str) -> None:
        self.settings = config(url=url, namespace=namespace, lease_ttl=5.0, heartbeat=1.0, default_timeout=30.0)
        self.grants = self.in_flight = self.peak = self.lost = 0
        self.errors: list[BaseException] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._in_threads, args=(4,)), threading.Thread(target=self._in_loop)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def _count(self, change: int) -> None:
        with self._lock:
            self.in_flight += change
            self.grants += change > 0
            self.peak = max(self.peak, self.in_flight)

    def _lose(self, _: Any) -> None:
        self.lost += 1

    def _in_threads(self, count: int) -> None:
        with Client(config=self.settings, limits=LIMITS, on_lost=self._lose) as limiter:
            workers = [threading.Thread(target=self._work, args=(limiter,)) for _ in range(count)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()

    def _work(self, limiter: Client) -> None:
        while not self._stop.is_set():
            try:
                with limiter.acquire("openai", "gpt-4o"):
                    self._count(1)
                    time.sleep(0.002)
                    self._count(-1)
            except RateleaseError as error:
                self.errors.append(error)

    def _in_loop(self) -> None:
        asyncio.run(self._work_in_loop())

    async def _work_in_loop(self) -> None:
        async def work(limiter: AsyncClient) -> None:
            while not self._stop.is_set():
                try:
                    async with limiter.acquire("openai", "gpt-4o"):
                        self._count(1)
                        await asyncio.sleep(0.002)
                        self._count(-1)
                except RateleaseError as error:
                    self.errors.append(error)

        async with AsyncClient(config=self.settings, limits=LIMITS, on_lost=self._lose) as limiter:
            await asyncio.gather(*(work(limiter) for _ in range(8)))

    def until_granted(self, more: int) -> None:
        """Return when so many more leases have been granted."""
        wanted = self.grants + more
        wait_until(lambda: self.grants >= wanted, timeout=20, description=f"{more} more grants")


@pytest.mark.covers("LC-21", "RL-18")
@pytest.mark.timeout(120)
def test_a_slot_that_moves_under_load_delays_and_charges_nothing_twice(each_cluster: RedisCluster) -> None:
    """Key by key, to and fro: nobody sees an error, no slot is given twice, and the window counts what was granted."""
    cluster = each_cluster
    namespace = cluster.namespace_on(cluster.servers[0])
    with Load(cluster.url_of(cluster.servers[2]), namespace) as load:
        holder = Client(config=load.settings, limits={"openai/o1": Limits(concurrency=1)})
        held = holder.acquire("openai", "o1")
        load.until_granted(100)
        for target in (*cluster.servers[1:], *cluster.servers):
            cluster.begin_move(namespace, target)
            while cluster.move_keys(namespace, target, 1):
                time.sleep(0.01)
            time.sleep(0.05)
            cluster.end_move(namespace, target)
            load.until_granted(50)
    view = StoreView(cluster.client(cluster.owner(namespace)), namespace)
    print(f"{load.grants} grants over five moves, {load.peak} at once")
    assert [str(error) for error in load.errors] == []
    assert (load.lost, held.lost) == (0, False)
    assert load.peak <= SLOTS
    assert view.charged("r60000") == load.grants
    assert (view.in_flight(), view.waiting()) == (0, 0)
    held.release()
    holder.close()


@pytest.mark.covers("LC-21")
@pytest.mark.timeout(120)
def test_a_replica_takes_over(own_cluster: RedisCluster) -> None:
    """The owner is killed: who holds goes on holding, who waits is served by the node that was its replica."""
    cluster = own_cluster
    owner = cluster.servers[1]
    replica = cluster.add_replica(owner)
    namespace = cluster.namespace_on(owner)
    settings = config(
        url=cluster.url_of(owner), namespace=namespace, lease_ttl=15.0, heartbeat=5.0, default_timeout=20.0
    )
    limits = {"openai/gpt-4o": Limits(concurrency=1)}
    with Client(config=settings, limits=limits) as first, Client(config=settings, limits=limits) as second:
        held = first.acquire("openai", "gpt-4o")
        taken: list[Lease] = []
        waiting = threading.Thread(target=lambda: taken.append(second.acquire("openai", "gpt-4o")))
        waiting.start()
        wait_until(lambda: first.status().queues and first.status().queues[0].waiting == 1, description="one waits")
        client = cluster.client(owner)
        assert client.wait(1, 2000) == 1, "the replica has heard of it"
        began = time.monotonic()
        owner.kill()
        held.release()
        waiting.join(20)
        print(f"handed over {time.monotonic() - began:.1f} s after the owner was killed")
        assert cluster.owner_port(namespace, replica) == replica.port
        assert taken
        assert taken[0].valid
        assert not held.lost
        assert not first.try_acquire("openai", "gpt-4o")
        taken[0].release()


@pytest.mark.covers("LC-21")
@pytest.mark.timeout(120)
def test_a_node_without_replica_that_comes_back_empty(own_cluster: RedisCluster) -> None:
    """Away it is an unavailable store; back, holders register again and nothing is granted twice."""
    cluster = own_cluster
    owner = cluster.servers[1]
    namespace = cluster.namespace_on(owner)
    settings = config(
        url=cluster.url,
        namespace=namespace,
        lease_ttl=20.0,
        heartbeat=1.0,
        store_timeout=1.0,
        on_unavailable="closed",
    )
    with Client(config=settings, limits={"openai/gpt-4o": Limits(concurrency=2)}) as limiter:
        held = limiter.acquire("openai", "gpt-4o")
        owner.kill()
        with pytest.raises(StoreUnavailable):
            limiter.try_acquire("openai", "gpt-4o")
        owner.start()

        def granted() -> Lease | None:
            try:
                return limiter.acquire("openai", "gpt-4o", timeout=5)
            except StoreUnavailable:
                return None

        second = wait_until(granted, timeout=25, description="the cluster is up again, and the client has noticed")
        assert not limiter.try_acquire("openai", "gpt-4o"), "the first lease counts again"
        assert held.valid
        assert second.valid
