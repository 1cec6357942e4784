"""Plain functions of the user's, called from an event loop that they must not stop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

# Calls of one function that may hang at once; beyond them it is not called until one comes back.
MOST_HANGING = 4


class Daemon:
    """
    Calls one function in daemon threads, since nobody can stop one that hangs, nor should it keep a process alive.

    `what` names the function in messages.
    """

    def __init__(self, function: Callable[[], object], what: str) -> None:
        self._function = function
        self._what = what
        self._threads: list[threading.Thread] = []

    def call(self) -> asyncio.Future[Any]:
        """
        Begin a call; whoever awaits the future may give up at any time.

        Raises:

            RuntimeError: Too many earlier calls have not come back.
        """
        # In a forked child none of its parent's threads is alive.
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        if len(self._threads) >= MOST_HANGING:
            raise RuntimeError(f"{MOST_HANGING} earlier calls of {self._what} still hang")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        thread = threading.Thread(target=self._work, args=(loop, future), name="ratelease-usage", daemon=True)
        self._threads.append(thread)
        thread.start()
        return future

    def _work(self, loop: asyncio.AbstractEventLoop, future: asyncio.Future[Any]) -> None:
        answer: object = None
        failure: BaseException | None = None
        try:
            answer = self._function()
        except BaseException as error:  # noqa: BLE001 - it is told to whoever waits
            failure = error
        # Refused where the loop has ended meanwhile: nobody waits.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(_settle, future, answer, failure)


def _settle(future: asyncio.Future[Any], answer: object, failure: BaseException | None) -> None:
    if future.done():
        return
    if failure is None:
        future.set_result(answer)
    elif isinstance(failure, Exception) and not isinstance(failure, StopIteration):
        future.set_exception(failure)
    else:
        # What would end the loop, or cancel whoever waits; futures refuse StopIteration.
        future.set_exception(RuntimeError(repr(failure)))
