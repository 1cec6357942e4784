"""What worker processes can be told to do. Each job is a function of the stage and of plain JSON values."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import multiprocessing
import os
import random
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ratelease import AsyncClient, AsyncLease, Client, Lease, Limits, Outcome
from ratelease.errors import RateleaseError, StoreUnavailable, WaitTimeout
from ratelease.testing import config, wait_until
from support import forks

if TYPE_CHECKING:
    from support.worker_process import Stage

Figures = dict[str, dict[str, Any]]
PROVIDER, MODEL = "openai", "gpt-4o"
BEAT = 0.02  # seconds between two records of all deadlines; bounds what is unknown of a killed process

JOBS: dict[str, Callable[..., None]] = {}


def job(function: Callable[..., None]) -> Callable[..., None]:
    """Make a function known by its name."""
    JOBS[function.__name__] = function
    return function


def _granted(stage: Stage, lease: Lease | AsyncLease, **more: Any) -> None:
    # `when` first: what a holder believes begins when it has the lease, whatever telling it takes.
    when = time.monotonic()
    stage.tell("granted", when=when, id=lease.id, at=lease._hold.at, deadline=lease.deadline, **more)


def _ended(stage: Stage, lease: Lease | AsyncLease) -> None:
    stage.tell("ended", when=time.monotonic(), id=lease.id, deadline=lease.deadline, lost=lease.lost)


@job
def cycle(
    stage: Stage,
    *,
    limits: Figures,
    clients: int = 1,
    tasks: int = 1,
    rounds: int | None = None,
    hold: tuple[float, float] = (0.02, 0.02),
    threads: bool = False,
    namespace: str | None = None,
) -> None:
    """Acquire, hold for a random time, release: in every task of every client, for `rounds` or until told to stop."""
    options = stage.options(limits, namespace)
    if threads:
        _cycle_threads(stage, options, clients, tasks, rounds, hold)
    else:
        asyncio.run(_cycle_tasks(stage, options, clients, tasks, rounds, hold))


def _beats(stage: Stage, clients: list[Any], done: threading.Event) -> None:
    """Tell all deadlines again and again: what a killed process knew at the end."""
    while not done.wait(BEAT):
        holds = [hold for client in clients for hold in list(client._rt.keeper.holds.values())]
        if holds:
            stage.tell("beat", deadlines={hold.id: hold.deadline for hold in holds})


async def _cycle_tasks(
    stage: Stage, options: Any, clients: int, tasks: int, rounds: int | None, hold: tuple[float, float]
) -> None:
    async def one(client: AsyncClient) -> None:
        left = rounds if rounds is not None else 1 << 30
        while left and not stage.told("stop"):
            left -= 1
            with contextlib.suppress(WaitTimeout):
                async with client.acquire(PROVIDER, MODEL) as lease:
                    _granted(stage, lease)
                    await asyncio.sleep(random.uniform(*hold))
                    _ended(stage, lease)

    async with contextlib.AsyncExitStack() as stack:
        fleet = [await stack.enter_async_context(AsyncClient(**options)) for _ in range(clients)]
        done = threading.Event()
        beats = threading.Thread(target=_beats, args=(stage, fleet, done))
        beats.start()
        try:
            await asyncio.gather(*(one(client) for client in fleet for _ in range(tasks)))
        finally:
            done.set()
            beats.join()


def _cycle_threads(
    stage: Stage, options: Any, clients: int, tasks: int, rounds: int | None, hold: tuple[float, float]
) -> None:
    def one(client: Client) -> None:
        left = rounds if rounds is not None else 1 << 30
        while left and not stage.told("stop"):
            left -= 1
            with contextlib.suppress(WaitTimeout), client.acquire(PROVIDER, MODEL) as lease:
                _granted(stage, lease)
                stage.wait("", random.uniform(*hold))
                _ended(stage, lease)

    with contextlib.ExitStack() as stack:
        fleet = [stack.enter_context(Client(**options)) for _ in range(clients)]
        done = threading.Event()
        threads = [threading.Thread(target=one, args=(client,)) for client in fleet for _ in range(tasks)]
        beats = threading.Thread(target=_beats, args=(stage, fleet, done))
        for thread in (*threads, beats):
            thread.start()
        for thread in threads:
            thread.join()
        done.set()
        beats.join()


@job
def outlast(stage: Stage, *, limits: Figures, tasks: int, hold: tuple[float, float], **changes: Any) -> None:
    """As cycle, through an outage of the store: whoever is refused asks again soon."""

    async def one(client: AsyncClient) -> None:
        while not stage.told("stop"):
            try:
                async with client.acquire(PROVIDER, MODEL) as lease:
                    _granted(stage, lease, flags=sorted(lease.flags))
                    await asyncio.sleep(random.uniform(*hold))
                    _ended(stage, lease)
            except WaitTimeout:
                continue
            except StoreUnavailable:
                await asyncio.sleep(0.05)

    async def all_of_them() -> None:
        async with AsyncClient(**stage.options(limits, **changes)) as client:
            await asyncio.gather(*(one(client) for _ in range(tasks)))

    asyncio.run(all_of_them())


@job
def hold(stage: Stage, *, limits: Figures, count: int = 1, until: str = "release", **changes: Any) -> None:
    """Take leases and keep them until the signal; then release them and tell `released`."""
    with Client(**stage.options(limits, **changes)) as client:
        leases = [client.acquire(PROVIDER, MODEL) for _ in range(count)]
        for lease in leases:
            _granted(stage, lease)
        stage.tell("holding")
        stage.wait(until)
        for lease in leases:
            _ended(stage, lease)
            lease.release()
        stage.tell("released")


@job
def wait_in_line(
    stage: Stage,
    *,
    limits: Figures,
    waiters: int,
    clients: int = 1,
    held: float = 0.0,
    timeout: float | None = None,
    namespace: str | None = None,
    **changes: Any,
) -> None:
    """Park waiters and tell `parked` when all are; each holds what it is granted for `held` seconds."""
    options = stage.options(limits, namespace, **changes)

    async def one(client: AsyncClient) -> None:
        try:
            async with client.acquire(PROVIDER, MODEL, timeout=timeout) as lease:
                _granted(stage, lease)
                await asyncio.sleep(held)
                _ended(stage, lease)
        except WaitTimeout:
            stage.tell("timeout")

    async def all_of_them() -> None:
        async with contextlib.AsyncExitStack() as stack:
            fleet = [await stack.enter_async_context(AsyncClient(**options)) for _ in range(clients)]
            lines = [asyncio.create_task(one(client)) for client in fleet for _ in range(waiters)]
            while any(_parked(client) < waiters for client in fleet):  # noqa: ASYNC110 - no event of this loop tells
                await asyncio.sleep(0.005)
            stage.tell("parked", instances=[client._rt.instance for client in fleet])
            while not stage.told("stop"):
                done, _ = await asyncio.wait(lines, timeout=0.05)
                if len(done) == len(lines):
                    break
            for line in lines:
                line.cancel()
            await asyncio.gather(*lines, return_exceptions=True)

    asyncio.run(all_of_them())


def _parked(client: Any) -> int:
    waiters = list(client._rt.keeper.waiters.values())
    return sum(1 for waiter in waiters if waiter.request.answered)


@job
def take_turns(stage: Stage, *, limits: Figures, rounds: int, held: float, **changes: Any) -> None:
    """Acquire and release the one slot, telling when each release is sent and each acquire has returned."""
    with Client(**stage.options(limits, **changes)) as client:
        for _ in range(rounds):
            lease = client.acquire(PROVIDER, MODEL)
            stage.tell("started", waited=lease.waited)
            stage.wait("", held)
            stage.tell("releasing", when=time.monotonic())
            lease.release()


@job
def demand(
    stage: Stage,
    *,
    limits: Figures,
    pattern: str,
    per_second: float,
    seconds: float,
    namespace: str,
    timeout: float,
) -> None:
    """Ask for leases in a pattern of arrivals; each is released at once, and its grant by the store's clock told."""

    async def one(client: AsyncClient) -> None:
        try:
            lease = await client.acquire(PROVIDER, MODEL, timeout=timeout)
        except WaitTimeout:
            return
        stage.tell("granted", namespace=namespace, id=lease.id, at=lease._hold.at, asked=lease.waited)
        await lease.release(Outcome.OK)

    async def ask() -> None:
        async with AsyncClient(**stage.options(limits, namespace)) as client, asyncio.TaskGroup() as group:
            began = time.monotonic()
            for offset in _arrivals(pattern, per_second, seconds):
                await asyncio.sleep(max(began + offset - time.monotonic(), 0))
                group.create_task(one(client))

    asyncio.run(ask())


def _arrivals(pattern: str, per_second: float, seconds: float) -> list[float]:
    """Seconds from the start at which requests come."""
    total, at, times = int(per_second * seconds), 0.0, []
    if pattern == "at once":
        return [0.0] * total
    for number in range(total):
        if pattern == "poisson":
            at += random.expovariate(per_second)
        elif pattern == "spikes":
            # All of two seconds' demand in one moment, just before the even second.
            at = 2 * (number // int(2 * per_second)) + 1.99
        times.append(at)
    return [at for at in times if at < seconds]


@job
def new_ids(stage: Stage, *, count: int) -> None:
    """Make ids as clients do, and tell them."""
    from ratelease.store.runtime import new_id

    began = time.monotonic()
    ids = [new_id() for _ in range(count)]
    stage.tell("ids", ids=ids, began=began)


@job
def hammer(stage: Stage, *, limits: Figures, tasks: int, count: int) -> None:
    """Acquire and release as fast as it goes; tell every error."""

    async def ask() -> None:
        async with AsyncClient(**stage.options(limits)) as client:
            left = iter(range(count))

            async def one() -> None:
                for _ in left:
                    try:
                        async with client.acquire(PROVIDER, MODEL):
                            pass
                    except RateleaseError as error:
                        stage.tell("error", text=repr(error))

            await asyncio.gather(*(one() for _ in range(tasks)))

    asyncio.run(ask())


@job
def wait_for_interrupt(stage: Stage, *, limits: Figures) -> None:
    """Wait in acquire until Ctrl-C; tell that it came through. For the main thread."""
    client = Client(**stage.options(limits))
    stage.tell("asking")
    try:
        client.acquire(PROVIDER, MODEL, timeout=60)
    except KeyboardInterrupt:
        stage.tell("interrupted")
    stage.wait("stop")
    client.close()


@job
def fork_while_holding(stage: Stage, *, url: str, namespace: str) -> None:
    """Hold two leases and fork: the child tries to end them, works for itself, and goes. The parent then tells all."""
    client = forks.make_client(url, namespace)
    leases = [client.acquire(PROVIDER, MODEL) for _ in range(2)]
    child = os.fork()
    if child == 0:
        status = 1
        try:
            for lease in leases:
                lease.release()
            leases.clear()
            gc.collect()
            stage.tell("child", **forks.use(client))
            client.close()
            stage.tell("child closed")
            stage.wait("", 0.3)
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    stage.tell("parent", status=status, valid=[lease.valid for lease in leases], lost=client._rt.keeper.lost_count)
    stage.wait("release")
    for lease in leases:
        lease.release()
    stage.tell("parent used", **forks.use(client))
    client.close()


@job
def fork_while_standing(stage: Stage, *, url: str, namespace: str) -> None:
    """Hold the only slot while one thread is parked and three stand behind it, and fork; all are served in the end."""
    settings = config(url=url, namespace=namespace, lease_ttl=15.0, heartbeat=5.0, max_parked=1)
    client = Client(limits={f"{PROVIDER}/{MODEL}": Limits(concurrency=1)}, config=settings)
    lease = client.acquire(PROVIDER, MODEL)
    threads = [threading.Thread(target=lambda: client.acquire(PROVIDER, MODEL, timeout=20).release()) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_until(lambda: client._rt.keeper.gates.waiting() == 3, description="three threads stand")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            standing = client._rt.keeper.gates.waiting()
            parked = threading.Thread(target=lambda: client.acquire(PROVIDER, MODEL, timeout=20).release())
            parked.start()
            wait_until(lambda: len(client._rt.keeper.waiters) == 1, description="the child's own request is parked")
            stage.tell("child", standing=standing)
            parked.join(20)
            client.close()
            status = 0
        finally:
            os._exit(status)
    stage.wait("release")
    lease.release()
    for thread in threads:
        thread.join(20)
    _, status = os.waitpid(child, 0)
    stage.tell("parent", status=status, standing=client._rt.keeper.gates.waiting())
    client.close()


@job
def fork_workers(stage: Stage, *, url: str, namespace: str, method: str, inherit: bool) -> None:
    """Hold two leases while children made by multiprocessing work, as workers of a pre-forking server do."""
    context: Any = multiprocessing.get_context(method)
    client = forks.make_client(url, namespace)
    leases = [client.acquire(PROVIDER, MODEL) for _ in range(2)]
    answers = context.Queue()
    forks.inherited[:] = [client]
    target, arguments = (
        (forks.child_with_inherited, (answers,)) if inherit else (forks.child_of_its_own, (answers, url, namespace))
    )
    for _ in range(2):
        child = context.Process(target=target, args=arguments)
        child.start()
        stage.tell("child", **answers.get(timeout=20))
        child.join(20)
        assert child.exitcode == 0
    stage.tell("parent", valid=[lease.valid for lease in leases], lost=client._rt.keeper.lost_count)
    client.close()
