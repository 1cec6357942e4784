"""Jobs of worker processes whose provider says how many calls it has in flight."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from typing import TYPE_CHECKING, Any

from ratelease import AsyncClient, Outcome, ProviderUsage
from ratelease.errors import WaitTimeout
from support.jobs import MODEL, PROVIDER, Figures, job
from support.lagging_provider import ask

if TYPE_CHECKING:
    from support.worker_process import Stage


@job
def call_provider(
    stage: Stage,
    *,
    limits: Figures,
    port: int,
    tasks: int,
    rounds: int | None = 1,
    lasts: float = 0.1,
    gate: dict[str, Any] | None = None,
    given_up: float = 0.0,
    gives_up_after: float = 0.05,
    source: str = "count",
) -> None:
    """
    Call a LaggingProvider through the limiter, in so many tasks, for `rounds` or until told to stop.

    `gate`: the settings of watch_usage, None for none. This part of the calls is given up after a while, and runs on.
    `source`: "count" asks the provider; "hang", "raise" and "lie" do that once the test signals `break`.
    """
    asyncio.run(_call_provider(stage, limits, port, tasks, rounds, lasts, gate, given_up, gives_up_after, source))


async def _call_provider(
    stage: Stage, limits: Figures, port: int, tasks: int, rounds: int | None, lasts: float,
    gate: dict[str, Any] | None, given_up: float, gives_up_after: float, source: str,
) -> None:  # fmt: skip
    async def get_usage() -> object:
        stage.tell("poll")
        if source != "count" and stage.told("break"):
            if source == "hang":
                await asyncio.sleep(60.0)
            if source == "raise":
                raise ConnectionError
            return {"concurrent_sessions": random.choice((-1, 10**10, "four", None))}
        return ProviderUsage(await ask(port, "count"))

    async def one(client: AsyncClient) -> None:
        left = rounds if rounds is not None else 1 << 30
        while left and not stage.told("stop"):
            left -= 1
            began = time.monotonic()
            with contextlib.suppress(WaitTimeout):
                lease = await client.acquire(PROVIDER, MODEL)
                stage.tell("granted", waited=time.monotonic() - began)
                if random.random() < given_up:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(gives_up_after):
                            await ask(port, "call", lasts)
                    await lease.release(Outcome.CANCELLED)
                else:
                    await ask(port, "call", lasts)
                    await lease.release()

    async with AsyncClient(**stage.options(limits)) as client:
        if gate is not None:
            client.watch_usage(PROVIDER, get_usage, **gate)
            # It gates from the moment on at which the store knows of it.
            await asyncio.sleep(0.3)
        await asyncio.gather(*(one(client) for _ in range(tasks)))
