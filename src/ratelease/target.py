"""Targets for threads: one model, and the short ways to call it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Generator, Iterable
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, cast

from .attempts import Attempts, OnRetry, Tries
from .batch import Batch, batch_of
from .core.model import Outcome, Refusal
from .errors import ConfigError, RateleaseError
from .lease import Lease
from .retry import Retry
from .shell import Seconds
from .store.keeper import Dropped
from .store.waiter import Failable
from .targets import Estimate, TargetBase, UsageOf, check_begun, check_plain

if TYPE_CHECKING:
    from .client import Client

P = ParamSpec("P")
T = TypeVar("T")
Item = TypeVar("Item")


class Decorator(Protocol):
    """What `client.limited(provider, model)` returns: a decorator that keeps signatures."""

    def __call__(self, fn: Callable[P, T], /) -> Callable[P, T]:
        """Decorate a function or a generator function."""


class Target(TargetBase):
    """One model, with everything that its calls have in common. Made by :meth:`ratelease.Client.target`."""

    _client: Client

    def acquire(
        self,
        *,
        tokens: int | None = None,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        timeout: Seconds | None = None,
    ) -> Lease:
        """
        Wait for a lease, as :meth:`ratelease.Client.acquire`. What is given stands in for the target's own.

        Raises:

            ConfigError: The target estimates from the arguments of a call, and nothing is given in its place.
        """
        given = {"tokens": tokens, "input_tokens": input_tokens, "output_tokens": output_tokens}
        timeout = self._timeout if timeout is None else timeout
        return self._client.acquire(self.provider, self.model, timeout=timeout, **self._plain_options(given))

    def try_acquire(
        self, *, tokens: int | None = None, input_tokens: int | None = None, output_tokens: int | None = None
    ) -> Lease | Refusal:
        """Take a lease if one is free now, as :meth:`ratelease.Client.try_acquire`. Estimates as for acquire."""
        given = {"tokens": tokens, "input_tokens": input_tokens, "output_tokens": output_tokens}
        return self._client.try_acquire(self.provider, self.model, **self._plain_options(given))

    def call(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """
        Wait for a lease, call `fn` with the arguments, settle by what it has used, release, and return its result.

        The lease is held until `fn` returns: what it streams afterwards is not covered. What the provider may answer
        better next time is tried again, see :class:`ratelease.Retry`; other errors of `fn` come through.

        Raises:

            RetriesExhausted: The last failure, as its cause, was one too many, or a further wait would be too long.

            QuotaExhausted: The provider says that the account is empty. It is not tried again.
        """
        check_plain(fn, "the function")
        return self.run(fn, args, kwargs)

    def limited(self, fn: Callable[P, T], /) -> Callable[P, T]:
        """
        Decorate a function: each of its calls waits for a lease of this target, and settles by its result.

        A generator function holds its lease from the first item until it is exhausted, fails, is closed or dropped.
        It settles, once it is exhausted, by the last item that reports a usage. It is tried again only where it fails
        before its first item.
        """
        if inspect.isgeneratorfunction(fn):
            return cast("Callable[P, T]", self._limited_generator(fn))
        check_plain(fn, "the function")

        @functools.wraps(fn)
        def limited(*args: P.args, **kwargs: P.kwargs) -> T:
            return self.run(fn, args, kwargs)

        return limited

    def map(
        self,
        fn: Callable[[Item], T],
        items: Iterable[Item],
        *,
        in_flight: int | None = None,
        ordered: bool = False,
        return_exceptions: bool = False,
    ) -> Batch[Item, T]:
        """
        Call `fn` with every item, each with a lease of its own, in threads; yield a Done for each as it ends.

        Nothing happens before the first one is asked for. Items are read in the caller's thread, at most `in_flight`
        ahead of what has been yielded, so that neither items nor results pile up. An item waits for its lease as long
        as it takes, unless the target has a timeout. To stop early, break, or close the batch: what waits is withdrawn;
        calls under way cannot be stopped in threads and end by themselves.

        Args:

            in_flight: Threads: items that wait or run at the same time, from 1 to 1024 (32).

            ordered: Yield in the order of the items. A slow one then holds back at most `in_flight` others.

            return_exceptions: Yield errors of items as Done.error. Otherwise the first one stops the others and is
                raised.

        Raises, from the loop: what reading the items has raised, after everything that was read has been yielded.
        """
        check_plain(fn, "the function")
        return batch_of(self, fn, items, in_flight, ordered, return_exceptions)

    def retrying(
        self,
        *,
        tokens: int | None = None,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        timeout: Seconds | None = None,
    ) -> Tries:
        """
        Try again what cannot be a function: `for attempt in target.retrying(): with attempt as lease: …`.

        An attempt that succeeds, or fails in a way that trying again does not help, is the last one. A failure that is
        tried again does not rise: what follows the `with` must not count on its result. The arguments are those of
        :meth:`acquire`, the errors those of :meth:`call`.
        """
        given = {"tokens": tokens, "input_tokens": input_tokens, "output_tokens": output_tokens}
        options, attempts = self._plain_options(given), self._attempts(timeout)
        return Tries(self._keeper, attempts, lambda: self._lease(options, attempts))

    # ---- the ways they share -----------------------------------------------------------------------------------

    def _lease(
        self, options: dict[str, Any], attempts: Attempts, entered: Callable[[Failable], None] | None = None
    ) -> Lease:
        """Wait for the lease of an attempt. `entered` gets what the caller may wait on."""
        client = self._client
        request = client._request(  # noqa: SLF001 - the other half of the client
            self.provider, self.model, timeout=attempts.left, waits=True, **options
        )
        try:
            lease = client._wait_for(request, entered)  # noqa: SLF001 - as above
        except RateleaseError as error:
            attempts.in_vain(error)
            raise
        attempts.admitted(lease)
        return lease

    def run(
        self,
        fn: Callable[..., T],
        args: Any,
        kwargs: Any,
        patient: bool = False,
        entered: Callable[[Failable], None] | None = None,
        admitted: Callable[[], None] | None = None,
        again: Callable[[], None] | None = None,
    ) -> T:
        """
        Call a function with a lease, as often as it takes; for call, limited and map, which check the function.

        `patient` waits for ever unless the target has a timeout. `admitted` is called when the lease is there: what it
        raises is raised, and the call counts as never sent. `again` is called before the wait for another attempt.
        """
        options, attempts = self._options(args, kwargs), self._attempts(patient=patient)
        while True:
            with self._lease(options, attempts, entered) as lease:
                if admitted is not None:
                    try:
                        admitted()
                    except BaseException:
                        lease.release(Outcome.UNSENT)
                        raise
                try:
                    result = fn(*args, **kwargs)
                    if inspect.iscoroutine(result):
                        result.close()
                        raise ConfigError(f"{fn!r} returned a coroutine: use a target of AsyncClient")
                    check_begun(fn, result)
                except Exception as error:
                    delay = attempts.delay(error, lease.fail(error))
                    if delay is None:
                        raise
                else:
                    lease.release(usage=self._usage_in(result))
                    return result
            if again is not None:
                again()
            attempts.nap(self._keeper, delay, entered)

    def drop_later(self, dropped: Dropped) -> None:
        """Have something given up in the background. A finaliser may call this anywhere."""
        self._keeper.dropped.append(dropped)

    def _limited_generator(self, fn: Callable[P, Any]) -> Callable[P, Generator[Any, Any, Any]]:
        @functools.wraps(fn)
        def limited(*args: P.args, **kwargs: P.kwargs) -> Generator[Any, Any, Any]:
            options, attempts = self._options(args, kwargs), self._attempts()
            while True:
                with self._lease(options, attempts) as lease:
                    inner = fn(*args, **kwargs)
                    try:
                        item = next(inner)
                    except StopIteration as stop:
                        lease.release(usage=self._usage_in(stop.value))
                        return stop.value
                    except Exception as error:
                        delay = attempts.delay(error, lease.fail(error))
                        if delay is None:
                            raise
                    else:
                        return (yield from self._streamed(inner, item, lease))
                attempts.nap(self._keeper, delay)

        return limited

    def _streamed(self, inner: Generator[Any, Any, Any], item: Any, lease: Lease) -> Generator[Any, Any, Any]:
        """A generator from its first item on, which holds the lease until it ends."""
        usage = None
        try:
            while True:
                lease.stream_active()
                usage = self._usage_in(item) or usage
                try:
                    sent = yield item
                except GeneratorExit:
                    inner.close()
                    raise
                except BaseException as error:  # noqa: BLE001 - the generator's own to handle
                    item = inner.throw(error)
                else:
                    item = inner.send(sent)
        except StopIteration as stop:
            lease.release(usage=self._usage_in(stop.value) or usage)
            return stop.value


class MakesTargets:
    """The half of a client that makes targets, for threads."""

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
    ) -> Target:
        """
        Bind what the calls of one model have in common, for the short ways to call it.

        Args:

            tokens, input_tokens, output_tokens: As for acquire; each a number, or a function of the arguments that
                the call's own function gets: `tokens=lambda prompt: len(prompt) // 4 + 500`.

            timeout, weight, pools: As for acquire.

            usage: What a call has used, as a function of its result: a Usage, a number of tokens in all, an SDK's
                usage object, or None. Without it the result's own report is read, see :meth:`ratelease.Usage.of`.

            retries: How often a failed call is made again: a Retry, a number with the waits of the client's own Retry,
                0 for never. None: as the client's Config.retry says.

            on_retry: Called with a RetryEvent before each wait for another attempt. None: the client's.

        Raises:

            ConfigError: An argument is wrong; all faults are named. Nothing is sent.
        """
        return Target(
            cast("Client", self),
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

    def call(self, provider: str, model: str, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `fn` with the arguments as soon as there is a lease: `target(provider, model).call(fn, …)`."""
        return self.target(provider, model).call(fn, *args, **kwargs)

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
    ) -> Decorator:
        """Decorate a function, or a generator function: `target(provider, model, …).limited`."""
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
