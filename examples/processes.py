"""Two processes that share one limit through Redis, although neither knows of the other."""

import multiprocessing
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

from ratelease import Client, Limits
from ratelease.testing import RedisServer

LIMITS = {"openai/gpt-4o": Limits(concurrency=3)}


def work(url: str, name: str, at_work: Any, peak: Any) -> None:
    """Make 20 calls from ten threads, and note how many of both processes are under way at once."""

    def call(_: int) -> None:
        with limiter.acquire("openai", "gpt-4o", timeout=60):
            with at_work.get_lock():
                at_work.value += 1
                peak.value = max(peak.value, at_work.value)
            time.sleep(0.02)
            with at_work.get_lock():
                at_work.value -= 1

    with Client(url, limits=LIMITS, metadata={"worker": name}) as limiter, ThreadPoolExecutor(10) as pool:
        list(pool.map(call, range(20)))
        print(f"worker {name} is done")


def main() -> None:
    """Start both; without REDIS_URL, on a server that ends with this program."""
    context = multiprocessing.get_context("spawn")
    at_work, peak = context.Value("i", 0), context.Value("i", 0)
    with ExitStack() as running:
        url = os.environ.get("REDIS_URL") or running.enter_context(RedisServer()).url
        workers = [context.Process(target=work, args=(url, name, at_work, peak)) for name in ("one", "two")]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    print(f"at most {peak.value} calls at once")


if __name__ == "__main__":
    main()
