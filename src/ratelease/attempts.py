"""The attempts of one call as both colours make them: what is left to wait, what follows a failure, who is told."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from .checks import plain_function
from .core.feedback import Feedback
from .core.retrying import Again, RetryEvent, Retrying
from .errors import ConfigError, RateleaseError
from .naps import nap, nap_soon
from .retry import Retry
from .store.keeper import Keeper
from .store.log import logger
from .store.waiter import Failable

if TYPE_CHECKING:
    from .lease import AsyncLease, Lease

OnRetry = Callable[[RetryEvent], object]

# Programs that seed their chance alike, and forked children, must not all come back in the same moment.
_chance = random.SystemRandom().random


def check_on_retry(on_retry: OnRetry | None) -> OnRetry | None:
    """The same, unless it cannot be told of retries."""
    return plain_function(on_retry, "on_retry", "a RetryEvent")


class Attempts:
    """
    The attempts of one call to a model.

    `left` are the seconds that it may still wait, for leases and before retries together. What its functions take to
    run does not count.
    """

    def __init__(self, provider: str, model: str, policy: Retry, left: float, on_retry: OnRetry | None) -> None:
        self.left = left
        self._provider = provider
        self._model = model
        self._retrying = Retrying(policy, f"{provider}/{model}")
        self._on_retry = on_retry
        # What the last attempt has raised, while its caller waits for the next.
        self._failure: Exception | None = None

    @property
    def number(self) -> int:
        """Which attempt this is, from 1."""
        return self._retrying.failures + 1

    def admitted(self, lease: Lease | AsyncLease) -> None:
        """Note the lease of the next attempt."""
        self._failure = None
        self.left = max(self.left - lease.waited, 0.0)
        if self._retrying.failures:
            lease.not_clean()

    def in_vain(self, error: RateleaseError) -> None:
        """Note that there is no other attempt: what the last one has raised is the cause of it."""
        failure, self._failure = self._failure, None
        if failure is not None and error.__cause__ is None:
            error.__cause__ = failure

    def nap(self, keeper: Keeper, seconds: float, entered: Callable[[Failable], None] | None = None) -> None:
        """Wait before the next attempt, see :func:`ratelease.naps.nap`."""
        try:
            nap(keeper, seconds, entered)
        except RateleaseError as error:
            self.in_vain(error)
            raise

    async def nap_soon(self, keeper: Keeper, seconds: float) -> None:
        """As :meth:`nap`, on an event loop."""
        try:
            await nap_soon(keeper, seconds)
        except RateleaseError as error:
            self.in_vain(error)
            raise

    def delay(self, error: Exception, feedback: Feedback, *, last: bool = False) -> float | None:
        """
        Seconds to wait before the next attempt; None: there is none, and the error itself is to be raised.

        Args:

            error: What the attempt has raised. feedback: what that means.

            last: It cannot be tried again, whatever went wrong: some of its answer has been handed on.

        Raises, from the error:

            RetriesExhausted: There were as many attempts as may be, or the next one would be too late.

            QuotaExhausted: The account has nothing left to spend.
        """
        if last:
            return None
        follows = self._retrying.failed(feedback, _chance(), self.left)
        if isinstance(follows, RateleaseError):
            try:
                raise follows from error
            finally:
                # An error holds this frame, which would hold the error.
                del follows, error
        if follows is None:
            return None
        self.left -= follows.delay
        self._failure = error
        self._tell(error, feedback, follows)
        return follows.delay

    def _tell(self, error: Exception, feedback: Feedback, again: Again) -> None:
        logger.debug(
            "%a/%a: %s, status %s: retry %d of %d in %.3f s by %s",
            self._provider,
            self._model,
            feedback.outcome.value,
            feedback.status,
            again.attempt,
            again.most,
            again.delay,
            again.source,
        )
        if self._on_retry is None:
            return
        try:
            self._on_retry(
                RetryEvent(
                    self._provider,
                    self._model,
                    again.attempt,
                    again.most,
                    again.delay,
                    feedback.status,
                    feedback.outcome.value,
                    again.source,
                    error,
                )
            )
        except Exception:  # noqa: BLE001 - the user's code must not end ours
            logger.exception("on_retry raised")


class _AttemptBase:
    """One attempt. `number` counts from 1; `delay` is what is to be waited before another one, None: there is none."""

    def __init__(self, attempts: Attempts) -> None:
        self.number = attempts.number
        self.delay: float | None = None
        self.entered = False
        self._attempts = attempts

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.number}>"


class Attempt(_AttemptBase):
    """One attempt of a call: enter it for its lease. A failure that is worth another attempt is kept from rising."""

    def __init__(self, attempts: Attempts, acquire: Callable[[], Lease]) -> None:
        super().__init__(attempts)
        self._acquire = acquire

    def __enter__(self) -> Lease:
        self.entered = True
        self._lease = self._acquire()
        return self._lease.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        lease = self._lease
        try:
            if isinstance(error, Exception):
                self.delay = self._attempts.delay(error, lease.fail(error), last=lease.streamed)
        finally:
            lease.__exit__(kind, error, trace)
        return self.delay is not None


class AsyncAttempt(_AttemptBase):
    """As :class:`Attempt`: enter it with `async with`."""

    def __init__(self, attempts: Attempts, acquire: Callable[[], Awaitable[AsyncLease]]) -> None:
        super().__init__(attempts)
        self._acquire = acquire

    async def __aenter__(self) -> AsyncLease:
        self.entered = True
        self._lease = await self._acquire()
        return await self._lease.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        lease = self._lease
        try:
            if isinstance(error, Exception):
                self.delay = self._attempts.delay(error, await lease.fail(error), last=lease.streamed)
        finally:
            await lease.__aexit__(kind, error, trace)
        return self.delay is not None


def _over(last: _AttemptBase) -> bool:
    """Whether no attempt follows this one."""
    if not last.entered:
        raise ConfigError("each attempt of retrying() must be entered: with attempt as lease: …")
    return last.delay is None


class Tries:
    """What :meth:`ratelease.Target.retrying` returns: an iterator of attempts, until one has not failed."""

    def __init__(self, keeper: Keeper, attempts: Attempts, acquire: Callable[[], Lease]) -> None:
        self._keeper = keeper
        self._attempts = attempts
        self._acquire = acquire
        self._last: Attempt | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Attempt:
        last = self._last
        if last is not None:
            if _over(last):
                raise StopIteration
            self._attempts.nap(self._keeper, last.delay or 0.0)
        self._last = Attempt(self._attempts, self._acquire)
        return self._last


class AsyncTries:
    """As :class:`Tries`: `async for attempt in target.retrying()`."""

    def __init__(self, keeper: Keeper, attempts: Attempts, acquire: Callable[[], Awaitable[AsyncLease]]) -> None:
        self._keeper = keeper
        self._attempts = attempts
        self._acquire = acquire
        self._last: AsyncAttempt | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> AsyncAttempt:
        last = self._last
        if last is not None:
            if _over(last):
                raise StopAsyncIteration
            await self._attempts.nap_soon(self._keeper, last.delay or 0.0)
        self._last = AsyncAttempt(self._attempts, self._acquire)
        return self._last
