"""Waits before retries, which end early when the client is closed or the batch is stopped."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from .store.keeper import Keeper
from .store.waiter import Failable
from .store.wake import Wake


class Nap:
    """One wait; `wake` ends it, from any thread."""

    __slots__ = ("_wake", "error")

    def __init__(self, wake: Callable[[], object]) -> None:
        self.error: Exception | None = None
        self._wake = wake

    def fail(self, error: Exception) -> None:
        """End it with an error."""
        self.error = error
        self._wake()


def nap(keeper: Keeper, seconds: float, entered: Callable[[Failable], None] | None = None) -> None:
    """
    Wait in this thread, not in the way of signals. `entered` is told what is waited on, before.

    Raises:

        StoreUnavailable: The client was closed.
    """
    woken = Wake()
    resting = Nap(woken.set)
    deadline = time.monotonic() + seconds
    try:
        keeper.rest(resting)
        if entered is not None:
            entered(resting)
        while not woken.wait(deadline - time.monotonic()) and time.monotonic() < deadline:
            pass
    finally:
        keeper.naps.discard(resting)
    if resting.error is not None:
        raise resting.error


async def nap_soon(keeper: Keeper, seconds: float) -> None:
    """As :func:`nap`, on an event loop."""
    woken, loop = asyncio.Event(), asyncio.get_running_loop()

    def wake() -> None:
        # A loop may be closed while one of its tasks still waits.
        if not loop.is_closed():
            loop.call_soon_threadsafe(woken.set)

    resting = Nap(wake)
    try:
        keeper.rest(resting)
        async with asyncio.timeout(seconds):
            await woken.wait()
    except TimeoutError:
        return
    finally:
        keeper.naps.discard(resting)
    if resting.error is not None:
        raise resting.error
