"""Tasks that are cancelled anywhere in acquire, in waiting or in release."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from typing import Any

import pytest

from ratelease import AsyncClient, Config, Limits
from support.store_view import StoreView
from support.wait_until import wait_until_async

LIMITS = {"openai/gpt-4o": Limits(concurrency=1)}
OFFSETS = [step * 50e-6 for step in range(40)]  # seconds; an acquire takes about 300 µs

Act = Callable[[], Coroutine[Any, Any, object]]


@pytest.fixture
async def client(settings: Config) -> AsyncIterator[AsyncClient]:
    """The client whose tasks are cancelled."""
    async with AsyncClient(limits=LIMITS, config=settings) as client:
        yield client


@pytest.fixture
async def other(settings: Config) -> AsyncIterator[AsyncClient]:
    """Another client, which has the only slot."""
    async with AsyncClient(limits=LIMITS, config=settings) as client:
        yield client


async def check_nothing_is_left(client: AsyncClient, view: StoreView, what: str) -> None:
    """Within a second nothing is in use and nobody waits, and the client goes on working."""
    await wait_until_async(lambda: view.in_flight() == 0, timeout=1.0, description=f"{what}: nothing is in use")
    await wait_until_async(lambda: view.waiting() == 0, timeout=1.0, description=f"{what}: nobody waits")
    keeper = client._rt.keeper
    await wait_until_async(lambda: not keeper.holds, timeout=1.0, description=f"{what}: nothing is renewed")
    assert not keeper.waiters
    async with asyncio.timeout(0.7), client.acquire("openai", "gpt-4o"):
        pass


async def spin(seconds: float) -> None:
    """Let the loop run for some µs: a timer is not as exact."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:  # noqa: ASYNC110 - time is what is waited for
        await asyncio.sleep(0)


async def cancelled_after(seconds: float, act: Act) -> bool:
    """Start `act` and cancel it a moment later; return whether it was too late."""
    task = asyncio.ensure_future(act())
    await spin(seconds)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return False
    return True


class CancelledAt:
    """Awaits `act` and cancels the task at its n-th await, which has just begun."""

    def __init__(self, step: int, act: Act) -> None:
        self._left = step
        self._act = act
        self.reached = False

    def __await__(self) -> Generator[Any, Any, object]:
        task = asyncio.current_task()
        assert task is not None
        steps = self._act().__await__()
        answer: Any = None
        while True:
            try:
                awaited = steps.send(answer)
            except StopIteration as stop:
                return stop.value
            self._left -= 1
            if self._left == 0:
                self.reached = True
                task.get_loop().call_soon(task.cancel)
            try:
                answer = yield awaited
            except asyncio.CancelledError as error:
                awaited = steps.throw(error)
                answer = yield awaited


@pytest.mark.covers("RL-07")
async def test_an_acquire_cancelled_at_forty_moments_leaves_nothing(client: AsyncClient, view: StoreView) -> None:
    """From before the request is sent until after it was answered."""

    async def once() -> None:
        async with client.acquire("openai", "gpt-4o"):
            pass

    await once()
    late = []
    for offset in OFFSETS:
        late.append(await cancelled_after(offset, once))
        await check_nothing_is_left(client, view, f"cancelled after {offset * 1e6:.0f} µs")
    assert not late[0]
    assert sum(not each for each in late) >= 3, "hardly anything was cancelled"


@pytest.mark.covers("RL-07", "QU-09")
async def test_a_waiter_cancelled_around_its_grant_leaves_nothing(
    client: AsyncClient, other: AsyncClient, view: StoreView
) -> None:
    """The slot is released to the waiter, and the waiter cancelled a moment later: the slot is free in the end."""
    granted = []

    async def once() -> None:
        async with client.acquire("openai", "gpt-4o"):
            granted.append(True)

    for offset in OFFSETS:
        lease = await other.acquire("openai", "gpt-4o")
        task = asyncio.ensure_future(once())
        await wait_until_async(lambda: view.waiting() == 1, description="the caller is parked")
        releasing = asyncio.ensure_future(lease.release())
        await spin(2 * offset)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await releasing
        await check_nothing_is_left(client, view, f"cancelled {2 * offset * 1e6:.0f} µs after the release began")
    assert len(granted) < len(OFFSETS), "nothing was cancelled"


@pytest.mark.covers("RL-07", "QU-09")
async def test_a_cancelled_waiter_leaves_the_queue_in_one_round_trip(
    client: AsyncClient, other: AsyncClient, view: StoreView
) -> None:
    """Well before its deadline, and before the next poll or heartbeat could notice."""
    lease = await other.acquire("openai", "gpt-4o")
    task = asyncio.ensure_future(client.acquire("openai", "gpt-4o", timeout=600).__aenter__())
    await wait_until_async(lambda: view.waiting() == 1, description="the caller is parked")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await wait_until_async(lambda: view.waiting() == 0, timeout=0.5, description="the waiter has left")
    await lease.release()


@pytest.mark.covers("RL-07", "LS-01")
async def test_a_call_cancelled_at_every_await_leaves_nothing(client: AsyncClient, view: StoreView) -> None:
    """Every await of acquire and release in the caller's own task, in turn."""

    async def once() -> None:
        async with client.acquire("openai", "gpt-4o"):
            await asyncio.sleep(0)

    await run(once)
    step = 0
    while True:
        step += 1
        cancelling = CancelledAt(step, once)
        with contextlib.suppress(asyncio.CancelledError):
            await run(lambda cancelling=cancelling: cancelling)
        if not cancelling.reached:
            break
        await check_nothing_is_left(client, view, f"cancelled at await {step}")
    assert step > 2, "acquire and release wait at least once each"


async def run(act: Callable[[], Awaitable[object]]) -> None:
    """Await something in a task of its own, which can be cancelled by itself."""

    async def body() -> None:
        await act()

    await asyncio.ensure_future(body())
