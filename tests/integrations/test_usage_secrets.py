"""Secrets of the usage adapters that take their time."""

import asyncio
import threading

from ratelease.errors import ConfigError
from ratelease.usage import JsonUsage


async def test_a_plain_secret_function_that_blocks_leaves_the_loop_alone() -> None:
    """The loop that polls also renews leases: a vault that does not answer must not stop it."""
    go_on = threading.Event()
    adapter = JsonUsage("http://127.0.0.1:9/", secret=lambda: str(go_on.wait(5)), timeout=0.1)
    turns = 0
    try:
        polls = asyncio.gather(*(adapter.get_usage() for _ in range(6)), return_exceptions=True)
        while not polls.done():
            turns += 1
            await asyncio.sleep(0.005)
        said = await polls
    finally:
        go_on.set()
    assert turns >= 5
    # Threads that hang are not piled up: beyond some it is not called again.
    assert [type(each) for each in said] == [*[TimeoutError] * 4, *[ConfigError] * 2]
