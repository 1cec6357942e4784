"""Far more callers at once than Redis should hold as waiters."""

import asyncio
import time
import tracemalloc
from typing import Any

import pytest
import redis

from ratelease import AsyncClient, Config, Limits
from support.store_view import StoreView
from support.wait_until import wait_until_async

pytestmark = pytest.mark.faults

MANY = 50_000
SLOTS = 50


@pytest.mark.covers("QU-07")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("place", ["redis", "memory"])
def test_fifty_thousand_that_come_together_all_finish(
    request: pytest.FixtureRequest, free_namespace: str, place: str
) -> None:
    """With 50 slots: all of them used, never more; never more than 256 parked; the times are those that users have."""
    url = request.getfixturevalue("redis_url") if place == "redis" else f"memory://{free_namespace}"
    client = request.getfixturevalue("redis_client") if place == "redis" else None
    settings = Config(url=url, namespace=free_namespace)
    seen = asyncio.run(_gather_many(settings, client))
    print(f"{MANY:,} on {place}: {seen['seconds']:.1f} s, {seen['most_parked']} parked at most")
    assert (seen["done"], seen["peak"]) == (MANY, SLOTS)
    assert seen["most_parked"] <= settings.max_parked


async def _gather_many(settings: Config, client: redis.Redis | None) -> dict[str, Any]:
    seen: dict[str, Any] = {"done": 0, "peak": 0, "most_parked": 0}
    in_flight = 0
    view = StoreView(client, settings.namespace) if client is not None else None
    limits = {"openai/gpt-4o": Limits(concurrency=SLOTS)}

    async def work(limiter: AsyncClient) -> None:
        nonlocal in_flight
        async with limiter.acquire("openai", "gpt-4o"):
            in_flight += 1
            seen["peak"] = max(seen["peak"], in_flight)
            await asyncio.sleep(0)
            in_flight -= 1
        seen["done"] += 1
        if view is not None and seen["done"] % 1000 == 1:
            seen["most_parked"] = max(seen["most_parked"], view.waiting())

    began = time.monotonic()
    async with AsyncClient(config=settings, limits=limits) as limiter:
        await asyncio.gather(*(work(limiter) for _ in range(MANY)))
    return seen | {"seconds": time.monotonic() - began}


@pytest.mark.covers("QU-07")
def test_who_stands_costs_little_memory(redis_url: str, free_namespace: str) -> None:
    """Ten thousand that stand behind a held slot take less than 6 kB each, their tasks included."""
    settings = Config(url=redis_url, namespace=free_namespace)
    each = asyncio.run(_memory_of_each(settings, 10_000))
    print(f"{each:.0f} bytes for each that stands")
    assert each < 6000


async def _memory_of_each(settings: Config, count: int) -> float:
    async with AsyncClient(config=settings, limits={"openai/gpt-4o": Limits(concurrency=1)}) as limiter:
        async with limiter.acquire("openai", "gpt-4o"):
            tracemalloc.start()
            try:
                before = tracemalloc.get_traced_memory()[0]
                tasks = [asyncio.create_task(limiter.acquire("openai", "gpt-4o").__aenter__()) for _ in range(count)]
                standing = limiter._rt.keeper.gates.waiting
                await wait_until_async(
                    lambda: standing() == count - settings.max_parked, description="all others stand"
                )
                used = tracemalloc.get_traced_memory()[0] - before
            finally:
                tracemalloc.stop()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return used / count
