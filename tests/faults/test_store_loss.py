"""A store that loses its scripts, or all that it holds, while a fleet works."""

import threading
import time
from collections.abc import Callable

import pytest
import redis

from ratelease import Client, Limits, Refusal
from ratelease.testing import config
from ratelease.testing.redis_server import RedisServer
from support.history import peak
from support.store_view import StoreView
from support.wait_until import wait_until
from support.workers import Fleet

pytestmark = pytest.mark.faults

N = 3
LIMITS = {"openai/gpt-4o": {"concurrency": N}}
HEARTBEAT = 0.25


@pytest.mark.covers("RL-14", "RD-03")
def test_nobody_notices_that_scripts_are_flushed(redis_url: str, free_namespace: str) -> None:
    """Two threads flush the script cache every millisecond, 3000 acquires of two processes go on: no error."""
    stop = threading.Event()
    flushed = [0, 0]

    def flush(number: int) -> None:
        with redis.Redis.from_url(redis_url) as client:
            while not stop.wait(0.001):
                client.script_flush()
                flushed[number] += 1

    threads = [threading.Thread(target=flush, args=(number,)) for number in range(2)]
    with Fleet(redis_url, 2, namespace=free_namespace) as fleet:
        for thread in threads:
            thread.start()
        try:
            fleet.run("hammer", limits={"openai/gpt-4o": {"concurrency": 4}}, tasks=8, count=1500)
            fleet.wait("done", timeout=50)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        errors = fleet.of("error")
    print(f"{sum(flushed)} flushes during 3000 acquires")
    assert min(flushed) > 100
    assert errors == []


@pytest.mark.covers("RD-03", "RL-14")
def test_the_next_call_after_a_restart_brings_its_script_again(
    make_server: Callable[..., RedisServer], free_namespace: str
) -> None:
    """The server comes back empty: neither acquire nor release tells its caller of it."""
    server = make_server()
    settings = config(url=server.url, namespace=free_namespace, heartbeat=HEARTBEAT)
    with Client(limits={"openai/gpt-4o": Limits(concurrency=N)}, config=settings) as client:
        client.acquire("openai", "gpt-4o").release()
        server.restart()
        with client.acquire("openai", "gpt-4o") as lease:
            assert lease.valid
            server.restart()
        with client.acquire("openai", "gpt-4o"):
            pass


@pytest.mark.covers("RD-04")
def test_holders_register_again_before_anything_new_is_granted(
    redis_url: str, redis_client: redis.Redis, free_namespace: str
) -> None:
    """All is lost while every slot is held: nobody who waits is granted, and the slots are full within a heartbeat."""
    heartbeat = 0.5
    times = {"lease_ttl": 2.0, "heartbeat": heartbeat}
    view = StoreView(redis_client, free_namespace)
    settings = config(url=redis_url, namespace=free_namespace, **times)
    with (
        Fleet(redis_url, N, namespace=free_namespace, **times) as fleet,
        Fleet(redis_url, 1, namespace=free_namespace, **times) as waiting,
        Client(limits={"openai/gpt-4o": Limits(concurrency=N)}, config=settings) as client,
    ):
        fleet.run("hold", limits=LIMITS)
        fleet.wait("holding")
        ids = {event["id"] for event in fleet.of("granted")}
        waiting.run("wait_in_line", limits=LIMITS, waiters=2, timeout=60.0)
        waiting.wait("parked")
        for one in [*ids, *ids]:
            # Right after its beat a holder has the longest time to go to the next one.
            before = view.expiries()[one]
            wait_until(lambda one=one, before=before: view.expiries()[one] != before, description="it beats")
            redis_client.flushall()
            lost_at = time.monotonic()
            assert refusal(client).reason == "recovering"
            wait_until(lambda: set(view.expiries()) == ids, description="all holders are registered again")
            assert time.monotonic() - lost_at < heartbeat + 0.25, "what is beyond a heartbeat is a busy machine's"
            wait_until(lambda: refusal(client).reason != "recovering", description="the store has recovered")
            assert not waiting.of("granted")
        fleet.signal("release")
        fleet.wait("released")
        waiting.wait("granted", 2)


def refusal(client: Client) -> Refusal:
    """Why there is no slot; there must be none."""
    refused = client.try_acquire("openai", "gpt-4o")
    assert isinstance(refused, Refusal)
    return refused


@pytest.mark.covers("RD-04", "RL-05")
def test_a_fleet_keeps_its_limit_though_the_store_is_emptied_again_and_again(
    redis_url: str, redis_client: redis.Redis
) -> None:
    """Six busy processes: by their own clocks never more than three hold a lease, whatever the store forgets."""
    with Fleet(redis_url, 6, lease_ttl=1.0, heartbeat=HEARTBEAT) as fleet:
        for number, worker in enumerate(fleet):
            worker.run("cycle", limits=LIMITS, tasks=2, hold=(0.05, 0.6), threads=number % 2 == 1)
        fleet.wait("granted", timeout=20)
        for _ in range(8):
            done = len(fleet.of("ended"))
            wait_until(lambda done=done: len(fleet.of("ended")) >= done + 6, timeout=10, description="calls go on")
            redis_client.flushall()
        done = len(fleet.of("ended"))
        wait_until(lambda: len(fleet.of("ended")) >= done + 6, timeout=10, description="calls go on")
        fleet.signal("stop")
        fleet.wait("done", timeout=20)
        held = fleet.held()
        lost = sum(event["lost"] for event in fleet.of("ended"))
    print(f"{len(held)} leases over 8 losses of all data, {lost} of them lost")
    assert peak(each.bounded for each in held) == N
