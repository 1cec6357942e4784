"""Targets for event loops: one model, and the short ways to call it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, cast

from .aio_batch import AsyncBatch, batch_of
from .attempts import AsyncTries, Attempts, OnRetry
from .core.model import Refusal
from .errors import RateleaseError
from .lease import AsyncLease
from .retry import Retry
from .shell import Seconds
from .targets import Estimate, TargetBase, UsageOf, check_asynchronous, check_begun, not_awaitable

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

    def retrying(
        self,
        *,
        tokens: int | None = None,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        timeout: Seconds | None = None,
    ) -> AsyncTries:
        """As :meth:`ratelease.Target.retrying`: `async for attempt in …: async with attempt as lease: …`."""
        given = {"tokens": tokens, "input_tokens": input_tokens, "output_tokens": output_tokens}
        options, attempts = self._plain_options(given), self._attempts(timeout)
        return AsyncTries(self._keeper, attempts, lambda: self._lease(options, attempts))

    # ---- the ways they share -----------------------------------------------------------------------------------

    async def _lease(self, options: dict[str, Any], attempts: Attempts) -> AsyncLease:
        client = self._client
        request = client._request(  # noqa: SLF001 - the other half of the client
            self.provider, self.model, timeout=attempts.left, waits=True, **options
        )
        try:
            lease = await client._wait_for(request)  # noqa: SLF001 - as above
        except RateleaseError as error:
            attempts.in_vain(error)
            raise
        attempts.admitted(lease)
        return lease

    async def run(
        self,
        fn: Callable[..., Awaitable[T]],
        args: Any,
        kwargs: Any,
        patient: bool = False,
        admitted: Callable[[], None] | None = None,
        again: Callable[[], None] | None = None,
    ) -> T:
        """As :meth:`ratelease.Target.run`; `admitted` raises nothing."""
        options, attempts = self._options(args, kwargs), self._attempts(patient=patient)
        while True:
            async with await self._lease(options, attempts) as lease:
                if admitted is not None:
                    admitted()
                try:
                    awaited = fn(*args, **kwargs)
                    if not inspect.isawaitable(awaited):
                        check_begun(fn, awaited)
                        raise not_awaitable(fn, awaited)
                    result = await awaited
                    check_begun(fn, result)
                except Exception as error:
                    delay = attempts.delay(error, await lease.fail(error))
                    if delay is None:
                        raise
                else:
                    await lease.release(usage=self._usage_in(result))
                    return result
            if again is not None:
                again()
            await attempts.nap_soon(self._keeper, delay)

    def _limited_generator(self, fn: Callable[P, Any]) -> Callable[P, AsyncGenerator[Any, Any]]:
        @functools.wraps(fn)
        async def limited(*args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[Any, Any]:
            options, attempts = self._options(args, kwargs), self._attempts()
            while True:
                async with await self._lease(options, attempts) as lease:
                    inner, usage = fn(*args, **kwargs), None
                    delay, *items = await self._begun(inner, attempts, lease)
                    if delay is None:
                        try:
                            item = items[0] if items else await anext(inner)
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
                            return
                await attempts.nap_soon(self._keeper, delay)

        return limited

    async def _begun(self, inner: Any, attempts: Attempts, lease: AsyncLease) -> list[Any]:
        """The wait before the next attempt, or None and the first item of a generator, if it has one."""
        try:
            return [None, await anext(inner)]
        except StopAsyncIteration:
            return [None]
        except Exception as error:
            delay = attempts.delay(error, await lease.fail(error))
            if delay is None:
                raise
            return [delay]


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
        retries: int | Retry | None = None,
        on_retry: OnRetry | None = None,
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
            retries=retries,
            on_retry=on_retry,
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
        retries: int | Retry | None = None,
        on_retry: OnRetry | None = None,
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
            retries=retries,
            on_retry=on_retry,
        ).limited
