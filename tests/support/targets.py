"""Targets and batches of either colour, for contract tests that are written once."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterable
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

    def map(self, fn: Callable[..., Any], items: Any, **options: Any) -> BothBatch:
        """Map a plain function, in colour."""
        return BothBatch(self.limiter, self.target.map(in_colour(self.limiter, fn), items, **options))


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
