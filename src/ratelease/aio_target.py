"""Targets for event loops: one model, and the short ways to call it."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, cast

from .aio_batch import AsyncBatch, batch_of
from .core.model import Refusal
from .lease import AsyncLease
from .shell import Seconds
from .targets import Estimate, TargetBase, UsageOf, check_asynchronous, not_awaitable

if TYPE_CHECKING:
    from .aio import Acquiring, AsyncClient

P = ParamSpec("P")
T = TypeVar("T")
A = TypeVar("A", bound=Awaitable[Any] | AsyncIterator[Any])
Item = TypeVar("Item")


class AsyncDecorator(Protocol):
    """What `client.limited(provider, model)` returns: a decorator that keeps signatures."""

    def __call__(self, fn: Callable[P, A], /) -> Callable[P, A]:
        """Decorate a coroutine function or an asynchronous generator function."""


class AsyncTarget(TargetBase):
    """One model, with everything that its calls have in common. Made by :meth:`ratelease.AsyncClient.target`."""

    _client: AsyncClient

    def acquire(
        self,
        *,
        tokens: int | None = None,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        timeout: Seconds | None = None,
    ) -> Acquiring[AsyncLease]:
        """As :meth:`ratelease.Target.acquire`: `async with target.acquire() as lease`, or await it."""
        given = {"tokens": tokens, "input_tokens": input_tokens, "output_tokens": output_tokens}
        timeout = self._timeout if timeout is None else timeout
        return self._client.acquire(self.provider, self.model, timeout=timeout, **self._plain_options(given))

    async def try_acquire(
        self, *, tokens: int | None = None, input_tokens: int | None = None, output_tokens: int | None = None
    ) -> AsyncLease | Refusal:
        """As :meth:`ratelease.Target.try_acquire`."""
        given = {"tokens": tokens, "input_tokens": input_tokens, "output_tokens": output_tokens}
        return await self._client.try_acquire(self.provider, self.model, **self._plain_options(given))

    async def call(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """
        As :meth:`ratelease.Target.call`, for coroutine functions and whatever else returns something to await.

        Raises:

            ConfigError: `fn` has returned something else: a plain function would stop the event loop.
        """
        check_asynchronous(fn, "the function")
        return await self.run(fn, args, kwargs)

    def limited(self, fn: Callable[P, A], /) -> Callable[P, A]:
        """As :meth:`ratelease.Target.limited`, for coroutine functions and asynchronous generator functions."""
        if inspect.isasyncgenfunction(fn):
            return cast("Callable[P, A]", self._limited_generator(fn))
        check_asynchronous(fn, "the function")

        @functools.wraps(fn)
        async def limited(*args: P.args, **kwargs: P.kwargs) -> Any:
            return await self.run(cast("Callable[P, Awaitable[Any]]", fn), args, kwargs)

        return cast("Callable[P, A]", limited)

    def map(
        self,
        fn: Callable[[Item], Awaitable[T]],
        items: Iterable[Item] | AsyncIterable[Item],
        *,
        in_flight: int | None = None,
        ordered: bool = False,
        return_exceptions: bool = False,
    ) -> AsyncBatch[Item, T]:
        """
        As :meth:`ratelease.Target.map`, with tasks: `async for done in target.map(…)`. Calls under way are cancelled.

        Args:

            items: Any iterable or asynchronous iterable; one task reads all of them.

            in_flight: Items that wait or run at the same time, from 1 to 10,000 (256).

        The other arguments and the errors are those of :meth:`ratelease.Target.map`.
        """
        check_asynchronous(fn, "the function")
        return batch_of(self, fn, items, in_flight, ordered, return_exceptions)

    # ---- the ways they share -----------------------------------------------------------------------------------

    async def _lease(self, args: Any, kwargs: Any, timeout: Seconds | None) -> AsyncLease:
        client = self._client
        request = client._request(  # noqa: SLF001 - the other half of the client
            self.provider, self.model, timeout=timeout, waits=True, **self._options(args, kwargs)
        )
        return await client._wait_for(request)  # noqa: SLF001 - as above

    async def run(
        self,
        fn: Callable[..., Awaitable[T]],
        args: Any,
        kwargs: Any,
        patient: bool = False,
        admitted: Callable[[], None] | None = None,
    ) -> T:
        """As :meth:`ratelease.Target.run`; `admitted` raises nothing."""
        timeout = math.inf if patient and self._timeout is None else self._timeout
        async with await self._lease(args, kwargs, timeout) as lease:
            if admitted is not None:
                admitted()
            awaited = fn(*args, **kwargs)
            if not inspect.isawaitable(awaited):
                raise not_awaitable(fn, awaited)
            result = await awaited
            await lease.release(usage=self._usage_in(result))
        return result

    def _limited_generator(self, fn: Callable[P, Any]) -> Callable[P, AsyncGenerator[Any, Any]]:
        @functools.wraps(fn)
        async def limited(*args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[Any, Any]:
            async with await self._lease(args, kwargs, self._timeout) as lease:
                inner, usage = fn(*args, **kwargs), None
                try:
                    item = await anext(inner)
                    while True:
                        lease.stream_active()
                        usage = self._usage_in(item) or usage
                        try:
                            sent = yield item
                        except GeneratorExit:
                            await inner.aclose()
                            raise
                        except BaseException as error:  # noqa: BLE001 - the generator's own to handle
                            item = await inner.athrow(error)
                        else:
                            item = await inner.asend(sent)
                except StopAsyncIteration:
                    await lease.release(usage=usage)

        return limited


class MakesAsyncTargets:
    """The half of a client that makes targets, for event loops."""

    def target(
        self,
        provider: str,
        model: str,
        *,
        timeout: Seconds | None = None,
        tokens: Estimate = None,
        input_tokens: Estimate = None,
        output_tokens: Estimate = None,
        weight: int = 1,
        pools: Iterable[str] = (),
        usage: UsageOf | None = None,
    ) -> AsyncTarget:
        """As :meth:`ratelease.Client.target`. Estimates and `usage` are plain functions here as well."""
        return AsyncTarget(
            cast("AsyncClient", self),
            provider,
            model,
            timeout=timeout,
            tokens=tokens,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            weight=weight,
            pools=pools,
            usage=usage,
        )

    async def call(
        self, provider: str, model: str, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As :meth:`ratelease.Client.call`, for a coroutine function."""
        return await self.target(provider, model).call(fn, *args, **kwargs)

    def limited(
        self,
        provider: str,
        model: str,
        *,
        timeout: Seconds | None = None,
        tokens: Estimate = None,
        input_tokens: Estimate = None,
        output_tokens: Estimate = None,
        weight: int = 1,
        pools: Iterable[str] = (),
        usage: UsageOf | None = None,
    ) -> AsyncDecorator:
        """As :meth:`ratelease.Client.limited`, for coroutine functions and asynchronous generator functions."""
        return self.target(
            provider,
            model,
            timeout=timeout,
            tokens=tokens,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            weight=weight,
            pools=pools,
            usage=usage,
        ).limited
