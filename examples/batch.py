"""Many prompts through one target: bounded, in tasks, with what is left to do told while it runs."""

import asyncio
import os
from collections.abc import Iterator
from typing import Any

from ratelease import AsyncClient, Limits

LIMITS = {"openai/gpt-4o": Limits(tpm=1_000_000, concurrency=8)}


def prompts() -> Iterator[str]:
    """Stand in for a file with a prompt a line: nobody needs all of them at once."""
    return (f"prompt {number}" for number in range(400))


async def ask(prompt: str) -> dict[str, Any]:
    """Stand in for a call of the provider's SDK, which reports what it has used."""
    await asyncio.sleep(0.005)
    if prompt == "prompt 13":
        raise ValueError("the provider does not like it")
    return {"text": prompt.upper(), "usage": {"prompt_tokens": len(prompt), "completion_tokens": 40}}


async def main() -> None:
    """Estimate each call by its prompt; unused tokens go back as its answer reports what it has used."""
    async with AsyncClient(os.environ.get("REDIS_URL", "memory://"), limits=LIMITS) as limiter:
        gpt4o = limiter.target("openai", "gpt-4o", tokens=lambda prompt: len(prompt) // 4 + 500)
        batch = gpt4o.map(ask, prompts(), return_exceptions=True)
        async for done in batch:
            if done.error is not None:
                print(f"{done.item}: {done.error}")
            stats = batch.stats()
            if stats.done % 100 == 0:
                print(f"{stats.done} done, {stats.in_flight} in flight, {stats.waiting} wait, {stats.per_second:.0f}/s")
        status = await limiter.status()
    scope = status.scope("openai/gpt-4o")
    print(f"{batch.stats().done} answers, {batch.stats().failed} failed, {scope.in_flight if scope else '?'} in flight")


if __name__ == "__main__":
    asyncio.run(main())
