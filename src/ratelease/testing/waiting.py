"""Wait for a condition with a deadline, instead of sleeping and hoping."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")

_FIRST_PAUSE = 0.001  # seconds; most conditions hold at once or within a round trip
_LONGEST_PAUSE = 0.05  # seconds; keeps a long wait from using a core


def wait_until(predicate: Callable[[], T], *, timeout: float = 5.0, description: str = "") -> T:
    """Call `predicate` until its answer is true, and return that answer.

    Args:
        predicate: called again and again from this thread; what it raises comes through.
        timeout: seconds; the predicate is called at least once, and once more when they are over.
        description: what is waited for, to read after "waited until".

    Raises:
        AssertionError: the answer was still false after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    pause = _FIRST_PAUSE
    while True:
        over = time.monotonic() >= deadline
        answer = predicate()
        if answer:
            return answer
        if over:
            raise AssertionError(_complaint(predicate, description, timeout, answer))
        time.sleep(min(pause, max(0.0, deadline - time.monotonic())))
        pause = min(pause * 2, _LONGEST_PAUSE)


@overload
async def wait_until_async(
    predicate: Callable[[], Awaitable[T]], *, timeout: float = 5.0, description: str = ""
) -> T: ...


@overload
async def wait_until_async(predicate: Callable[[], T], *, timeout: float = 5.0, description: str = "") -> T: ...


async def wait_until_async(predicate: Callable[[], Any], *, timeout: float = 5.0, description: str = "") -> Any:
    """Call or await `predicate` until its answer is true, and return that answer; the loop runs meanwhile.

    Args:
        predicate: a function or a coroutine function; what it raises comes through.
        timeout: seconds; the predicate is called at least once, and once more when they are over.
        description: what is waited for, to read after "waited until".

    Raises:
        AssertionError: the answer was still false after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    pause = _FIRST_PAUSE
    while True:
        over = time.monotonic() >= deadline
        called = predicate()
        answer = await called if inspect.isawaitable(called) else called
        if answer:
            return answer
        if over:
            raise AssertionError(_complaint(predicate, description, timeout, answer))
        await asyncio.sleep(min(pause, max(0.0, deadline - time.monotonic())))
        pause = min(pause * 2, _LONGEST_PAUSE)


def _complaint(predicate: object, description: str, timeout: float, answer: object) -> str:
    what = description or getattr(predicate, "__qualname__", repr(predicate))
    return f"waited {timeout:g} s until {what}; the last answer was {answer!r}"
