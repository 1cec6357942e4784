"""Targets and batches of either colour, for contract tests that are written once."""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
from collections.abc import AsyncIterator, Callable, Iterable
from types import SimpleNamespace
from typing import Any, Self

from support.both import BothLease, Limiter

_END: Any = object()


def in_colour(limiter: Limiter, fn: Callable[..., Any]) -> Callable[..., Any]:
    """The same function as a coroutine function where the limiter is asynchronous; a generator as one of its kind."""
    if limiter.is_sync:
        return fn
    if inspect.isgeneratorfunction(fn):

        @functools.wraps(fn)
        async def stream(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            for item in fn(*args, **kwargs):
                await asyncio.sleep(0)
                yield item

        return stream

    @functools.wraps(fn)
    async def soon(*args: Any, **kwargs: Any) -> Any:
        await asyncio.sleep(0)
        result = fn(*args, **kwargs)
        return await result if inspect.isawaitable(result) else result

    return soon


class BothTarget:
    """A target of either colour. `target` is the target itself."""

    def __init__(self, limiter: Limiter, provider: str = "openai", model: str = "gpt-4o", **options: Any) -> None:
        self.limiter = limiter
        self.target: Any = limiter.client.target(provider, model, **options)

    async def call(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call a plain function, in colour."""
        return await self.limiter.call(self.target.call, in_colour(self.limiter, fn), *args, **kwargs)

    async def acquire(self, **options: Any) -> BothLease:
        """Wait for a lease."""
        if self.limiter.is_sync:
            return BothLease(self.limiter, await self.limiter.callers.call(self.target.acquire, **options))
        return BothLease(self.limiter, await self.target.acquire(**options))

    async def try_acquire(self, **options: Any) -> Any:
        """Take a lease if one is free now."""
        return self.limiter.wrap(await self.limiter.call(self.target.try_acquire, **options))

    def limited(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """Decorate a plain function, or a plain generator function, in colour."""
        decorated: Callable[..., Any] = self.target.limited(in_colour(self.limiter, fn))
        return decorated

    async def run(self, decorated: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call what `limited` has given."""
        return await self.limiter.call(decorated, *args, **kwargs)

    def retrying(self, **options: Any) -> BothTries:
        """Attempts."""
        return BothTries(self.limiter, self.target.retrying(**options))

    def map(self, fn: Callable[..., Any], items: Any, **options: Any) -> BothBatch:
        """Map a plain function, in colour."""
        return BothBatch(self.limiter, self.target.map(in_colour(self.limiter, fn), items, **options))


class BothTries:
    """What retrying() returns, in either colour, as an asynchronous iterator. `tries` is what it has returned."""

    def __init__(self, limiter: Limiter, tries: Any) -> None:
        self._limiter = limiter
        self.tries = tries

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> BothAttempt:
        attempt = await self._limiter.next(self.tries)
        if type(attempt) is object:
            raise StopAsyncIteration
        return BothAttempt(self._limiter, attempt)


class BothAttempt:
    """One attempt of either colour. `attempt` is the attempt itself."""

    def __init__(self, limiter: Limiter, attempt: Any) -> None:
        self._limiter = limiter
        self.attempt = attempt

    async def __aenter__(self) -> BothLease:
        enter = self.attempt.__enter__ if self._limiter.is_sync else self.attempt.__aenter__
        return BothLease(self._limiter, await self._limiter.call(enter))

    async def __aexit__(self, *raised: object) -> Any:
        leave = self.attempt.__exit__ if self._limiter.is_sync else self.attempt.__aexit__
        return await self._limiter.call(leave, *raised)


class ApiError(Exception):
    """What the SDK of a provider raises."""

    def __init__(self, status: int, *, retry_after: float | str | None = None, code: str | None = None) -> None:
        super().__init__(f"the provider has answered {status}")
        self.status_code = status
        self.code = code
        self.body = {"error": {"code": code}} if code is not None else None
        headers = {} if retry_after is None else {"retry-after": str(retry_after)}
        self.response = SimpleNamespace(status_code=status, headers=headers)


class Failing:
    """A function that raises these errors, one a call, and then returns "fine"; `times` has when it was called."""

    def __init__(self, *errors: BaseException) -> None:
        self._errors = list(errors)
        self.times: list[float] = []

    def __call__(self, *_: object) -> str:
        self.times.append(time.monotonic())
        if self._errors:
            raise self._errors.pop(0)
        return "fine"

    @property
    def calls(self) -> int:
        """How often it was called."""
        return len(self.times)


class BothBatch:
    """A batch of either colour, as an asynchronous iterator. `batch` is the batch itself."""

    def __init__(self, limiter: Limiter, batch: Any) -> None:
        self._limiter = limiter
        self.batch = batch

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        done = await self._limiter.next(self.batch)
        if done is _END or type(done) is object:
            raise StopAsyncIteration
        return done

    async def all(self) -> list[Any]:
        """Everything that it yields."""
        return [done async for done in self]

    async def into(self, indices: list[int]) -> None:
        """Add the index of each Done as it is yielded."""
        async for done in self:
            indices.append(done.index)  # noqa: PERF401 - what came before an error is wanted as well

    async def close(self) -> None:
        """Close it."""
        await self._limiter.call(self.batch.close if self._limiter.is_sync else self.batch.aclose)


class Watched:
    """An iterable that knows how far it was read; it raises `error` where it ends, if there is one."""

    def __init__(self, items: Iterable[Any], error: BaseException | None = None) -> None:
        self._items = items
        self._error = error
        self.read = 0

    def __iter__(self) -> Any:
        for item in self._items:
            self.read += 1
            yield item
        if self._error is not None:
            raise self._error


class AsyncWatched(Watched):
    """The same for event loops; only one task may read it."""

    __iter__ = None  # type: ignore[assignment]

    async def __aiter__(self) -> AsyncIterator[Any]:
        reader = asyncio.current_task()
        for item in self._items:
            await asyncio.sleep(0)
            assert asyncio.current_task() is reader
            self.read += 1
            yield item
        if self._error is not None:
            raise self._error
