"""The key-leak check, wait_until and the row option can fail, so that their silence means something."""

import asyncio
import time

import pytest
import redis

from support.key_leaks import key_leaks
from support.wait_until import wait_until, wait_until_async


@pytest.mark.permanent_keys("overrides:*", "forgotten")
def test_key_leak_check_names_the_keys_that_never_expire(redis_client: redis.Redis) -> None:
    redis_client.set("overrides:a", 1)
    redis_client.set("forgotten", 1)
    redis_client.set("expiring", 1, ex=60)
    assert key_leaks(redis_client, permanent=["overrides:*"]) == ["forgotten"]
    assert key_leaks(redis_client, permanent=["*"]) == []


def test_wait_until_returns_the_true_answer() -> None:
    answers = iter([None, 0, "", "ready"])
    assert wait_until(lambda: next(answers)) == "ready"


def test_wait_until_says_what_it_waited_for() -> None:
    began = time.monotonic()
    with pytest.raises(AssertionError, match=r"waited 0\.05 s until the moon is blue; the last answer was 7 > 8"):
        wait_until(lambda: _Never("7 > 8"), timeout=0.05, description="the moon is blue")
    assert 0.05 <= time.monotonic() - began < 1.0


async def test_wait_until_async_takes_functions_and_coroutine_functions() -> None:
    answers = iter([None, "ready"])

    async def answer() -> str | None:
        await asyncio.sleep(0)
        return next(answers)

    assert await wait_until_async(answer) == "ready"
    assert await wait_until_async(lambda: 1) == 1


async def test_wait_until_async_gives_up() -> None:
    with pytest.raises(AssertionError, match="until never"):
        await wait_until_async(lambda: False, timeout=0.02, description="never")


class _Never:
    def __init__(self, text: str) -> None:
        self._text = text

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return self._text
