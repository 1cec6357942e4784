"""Answers of the store that their caller reads late, as on a busy machine: what happens meanwhile is the test's."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from support.both import Limiter
from support.wait_until import wait_until_async


class ReadLate:
    """
    Holds back what the store says to acquires of one limiter, for the loop that runs now.

    Each answer is kept until :meth:`read`; then it is handed over, or `error` is raised in its place.
    """

    def __init__(self, limiter: Limiter, error: Exception | None = None) -> None:
        self._error = error
        self._read = threading.Event()
        self._answers: list[Any] = []
        exchange = limiter.client._exchange
        self._acquire = exchange.acquire
        exchange.acquire = self._late if limiter.is_sync else self._late_async

    async def came(self) -> None:
        """Return when an answer is there that nobody has read."""
        await wait_until_async(lambda: bool(self._answers), description="an answer has come")

    def read(self) -> None:
        """Let what has come, and all that comes, be read."""
        self._read.set()

    def _late(self, *arguments: Any) -> Any:
        self._answers.append(self._acquire(*arguments))
        assert self._read.wait(10.0)
        return self._taken()

    async def _late_async(self, *arguments: Any) -> Any:
        self._answers.append(await self._acquire(*arguments))
        while not self._read.is_set():  # noqa: ASYNC110 - an event that is set in any thread
            await asyncio.sleep(0.001)
        return self._taken()

    def _taken(self) -> Any:
        answer = self._answers.pop(0)
        if self._error is not None:
            raise self._error
        return answer
