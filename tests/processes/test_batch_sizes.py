"""Batches of any length: how many items live at once, and what memory they take."""

import asyncio
import resource
import threading
from collections.abc import Iterator

import pytest

from ratelease import AsyncClient, Client, Config, Limits
from ratelease.testing import config

LIMITS = {"openai/gpt-4o": Limits(concurrency=16, rpm=10**9, tpm=10**9)}

pytestmark = pytest.mark.covers("UX-11")


class Living:
    """A thing that is counted while anybody has it."""

    count = 0
    most = 0
    _lock = threading.Lock()

    def __init__(self) -> None:
        with Living._lock:
            Living.count += 1
            Living.most = max(Living.most, Living.count)

    def __del__(self) -> None:
        with Living._lock:
            Living.count -= 1


class Prompt(Living):
    """An item."""


class Answer(Living):
    """A result."""

    usage = {"prompt_tokens": 3, "completion_tokens": 4}  # noqa: RUF012 - as short as can be


def prompts(count: int) -> Iterator[Prompt]:
    """Items that nobody else has."""
    return (Prompt() for _ in range(count))


@pytest.fixture
def settings(redis_url: str, free_namespace: str) -> Config:
    """A server and a namespace."""
    Living.count = Living.most = 0
    return config(url=redis_url, namespace=free_namespace, lease_ttl=15.0, heartbeat=5.0)


async def run_tasks(settings: Config, count: int, in_flight: int, ordered: bool = False) -> tuple[int, int]:
    """Run a batch of tasks; return how many items ended, and the most tasks that lived meanwhile."""
    ended, tasks = 0, 0

    async def ask(prompt: Prompt) -> Answer:
        nonlocal tasks
        tasks = max(tasks, len(asyncio.all_tasks()))
        await asyncio.sleep(0)
        return Answer()

    async with AsyncClient(limits=LIMITS, config=settings) as client:
        async for done in client.target("openai", "gpt-4o").map(
            ask, prompts(count), in_flight=in_flight, ordered=ordered
        ):
            ended += done.error is None
    return ended, tasks


@pytest.mark.parametrize("ordered", [False, True])
async def test_five_thousand_items_of_tasks_live_in_flight_at_a_time(settings: Config, ordered: bool) -> None:
    """Items, results and tasks: as many as may be in flight, and a few."""
    ended, tasks = await run_tasks(settings, 5000, 40, ordered)
    assert ended == 5000
    assert 40 <= Living.most <= 2 * 40 + 10
    assert tasks <= 40 + 10
    assert Living.count <= 1


@pytest.mark.parametrize("ordered", [False, True])
def test_five_thousand_items_of_threads_live_in_flight_at_a_time(settings: Config, ordered: bool) -> None:
    """The same with threads."""
    ended, threads = 0, 0
    before = threading.active_count()
    with Client(limits=LIMITS, config=settings) as client:
        target = client.target("openai", "gpt-4o")
        for done in target.map(lambda _: Answer(), prompts(5000), in_flight=12, ordered=ordered):
            ended += done.error is None
            threads = max(threads, threading.active_count())
    assert ended == 5000
    assert 12 <= Living.most <= 2 * 12 + 10
    assert threads - before <= 12 + 1


@pytest.mark.faults
@pytest.mark.timeout(120)
async def test_fifty_thousand_items_take_no_more_memory_than_five_thousand(settings: Config) -> None:
    """The process is at most 8 MiB larger at its largest."""
    await run_tasks(settings, 5000, 256)
    few = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ended, tasks = await run_tasks(settings, 50_000, 256)
    assert ended == 50_000
    assert tasks <= 256 + 10
    assert Living.most <= 2 * 256 + 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - few <= 8 * 1024
