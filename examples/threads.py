"""A batch on a pool of threads: every call waits for its lease, and all of them together keep the limits."""

import os
import time
from concurrent.futures import ThreadPoolExecutor

from ratelease import Client, Limits

LIMITS = {"openai/gpt-4o": Limits(rpm=500, concurrency=4)}


def call_provider(prompt: str) -> str:
    """Stand in for a call of the provider's SDK."""
    time.sleep(0.02)
    return prompt.upper()


def main() -> None:
    """Ask 40 things from 16 threads; four calls are in flight at a time."""
    prompts = [f"prompt {n}" for n in range(40)]
    with Client(os.environ.get("REDIS_URL", "memory://"), limits=LIMITS) as limiter, ThreadPoolExecutor(16) as pool:

        def ask(prompt: str) -> str:
            with limiter.acquire("openai", "gpt-4o", timeout=60):
                return call_provider(prompt)

        answers = list(pool.map(ask, prompts))
    print(f"{len(answers)} answers, the last one: {answers[-1]}")


if __name__ == "__main__":
    main()
