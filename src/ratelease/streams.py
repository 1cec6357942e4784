"""Streams that hold a lease until they end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from .core.feedback import Feedback

if TYPE_CHECKING:
    from .lease import AsyncLease, Lease


# What streams tell of the answer before any of its items.
_TELLS_NO_ITEM = frozenset({"closed", "headers", "is_closed", "request_id", "status", "status_code"})


class _StreamBase:
    """A stream that holds a lease; whatever is not ours is the stream's."""

    def __init__(self, lease: Any, stream: Any) -> None:
        self._lease = lease
        self._stream = stream
        # What is left again where the stream is entered; that may give another object (.stream() of SDKs).
        self._manager = stream
        self._iterator: Any = None
        lease.stream_active()

    def _went(self, error: BaseException | None) -> tuple[Feedback, bool]:
        """
        How the call went of a stream that is left before its end, and whether that is a clean success.

        Of one that is read by its own methods, and not through this object, nobody here knows how far it came.
        """
        return self._lease.went(error), self._iterator is None

    def __getattr__(self, name: str) -> Any:
        value = getattr(object.__getattribute__(self, "_stream"), name)
        if not name.startswith("_") and name not in _TELLS_NO_ITEM:
            # Of a stream that is read by its own methods nobody here sees the items.
            self._lease.streamed_on()
        return value

    def __del__(self) -> None:
        lease = self.__dict__.get("_lease")
        if lease is not None:
            lease.drop()


class LeasedStream(_StreamBase):
    """A stream and the lease it holds, until it ends."""

    _lease: Lease

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            if self._iterator is None:
                self._iterator = iter(self._stream)
            item = next(self._iterator)
        except StopIteration:
            self._lease.release()
            raise
        except BaseException as error:
            self._lease.release(self._lease.went(error))
            raise
        self._lease.streamed_on()
        return item

    def close(self) -> None:
        """Close the stream and release."""
        try:
            self._shut()
        finally:
            self._lease.release(clean=False)

    def _shut(self) -> None:
        closing = getattr(self._stream, "close", None)
        if closing is not None:
            closing()

    def __enter__(self) -> Self:
        try:
            enter = getattr(type(self._manager), "__enter__", None)
            if enter is not None:
                self._stream = enter(self._manager)
        except BaseException as error:
            self._lease.release(self._lease.went(error))
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Any:
        try:
            leave = getattr(type(self._manager), "__exit__", None)
            if leave is not None:
                return leave(self._manager, kind, error, trace)
            self._shut()
            return None
        finally:
            feedback, clean = self._went(error)
            self._lease.release(feedback, clean=clean)


class AsyncLeasedStream(_StreamBase):
    """As :class:`LeasedStream`, asynchronous."""

    _lease: AsyncLease

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        try:
            if self._iterator is None:
                self._iterator = aiter(self._stream)
            item = await anext(self._iterator)
        except StopAsyncIteration:
            await self._lease.release()
            raise
        except BaseException as error:
            await self._lease.release(self._lease.went(error))
            raise
        self._lease.streamed_on()
        return item

    async def aclose(self) -> None:
        """Close the stream and release."""
        try:
            await self._shut()
        finally:
            await self._lease.release(clean=False)

    async def _shut(self) -> None:
        for name in ("aclose", "close"):
            closing = getattr(self._stream, name, None)
            if closing is not None:
                closed = closing()
                if hasattr(closed, "__await__"):
                    await closed
                break

    async def close(self) -> None:
        """The same as :meth:`aclose`: streams of some SDKs call it so."""
        await self.aclose()

    async def __aenter__(self) -> Self:
        try:
            enter = getattr(type(self._manager), "__aenter__", None)
            if enter is not None:
                self._stream = await enter(self._manager)
        except BaseException as error:
            await self._lease.release(self._lease.went(error))
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Any:
        try:
            leave = getattr(type(self._manager), "__aexit__", None)
            if leave is not None:
                return await leave(self._manager, kind, error, trace)
            await self._shut()
            return None
        finally:
            feedback, clean = self._went(error)
            await self._lease.release(feedback, clean=clean)
