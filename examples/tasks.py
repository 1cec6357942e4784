"""A batch on an event loop, with a deadline for each call: what cannot begin in time is told so."""

import asyncio
import os

from ratelease import AsyncClient, Limits
from ratelease.errors import WaitTimeout

LIMITS = {"openai/gpt-4o": Limits(rpm=500, concurrency=4)}


async def call_provider(prompt: str) -> str:
    """Stand in for a call of the provider's SDK."""
    await asyncio.sleep(0.02)
    return prompt.upper()


async def ask(limiter: AsyncClient, prompt: str, timeout: float) -> str | None:
    """Ask one thing, or give up."""
    try:
        async with limiter.acquire("openai", "gpt-4o", timeout=timeout):
            return await call_provider(prompt)
    except WaitTimeout as error:
        print(f"gave up on {prompt!r}: {error.scope} used {error.used} of {error.limit} {error.dimension}")
        return None


async def main() -> None:
    """Ask 40 patient things and, while they run, an impatient one."""
    async with AsyncClient(os.environ.get("REDIS_URL", "memory://"), limits=LIMITS) as limiter:
        patient = [asyncio.create_task(ask(limiter, f"prompt {n}", timeout=60)) for n in range(40)]
        await patient[0]
        impatient = await ask(limiter, "me first", timeout=0.01)
        answers = await asyncio.gather(*patient)
    print(f"{len(answers)} answers, and {'one' if impatient else 'none'} for the impatient")


if __name__ == "__main__":
    asyncio.run(main())
