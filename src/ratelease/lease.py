"""Leases and groups as their owners see them, in both colours."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextvars import Token
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar, overload

from .blame import learned, learned_along
from .core.feedback import FINE, Feedback, feedback_of
from .core.model import Outcome
from .core.scripts import Ending
from .core.usage import Usage
from .errors import ConfigError
from .gathering import Gathering
from .providers import classify
from .shell import Seconds, held_here, seconds_of
from .store.hold import Hold
from .store.log import logger
from .streams import AsyncLeasedStream, LeasedStream

# What ends leases: these holds by these endings, and further endings that nobody waits for.
ReleaseNow = Callable[[Sequence[tuple[Hold, Ending]], Sequence[Ending]], None]
ReleaseSoon = Callable[[Sequence[tuple[Hold, Ending]], Sequence[Ending]], Awaitable[None]]


LONGEST_HOLD = 600.0


def hold_of(hold: Seconds | None) -> float | None:
    """How long a slot is to stay counted, in seconds; ConfigError for what is no such time."""
    if hold is None:
        return None
    seconds = seconds_of(hold, "hold", f"from 0 to {LONGEST_HOLD:.0f}")
    if seconds > LONGEST_HOLD:
        raise ConfigError(f"a hold lasts at most {LONGEST_HOLD:.0f} seconds, not {seconds:g}")
    return seconds


class _LeaseBase:
    """What a lease tells, whatever its colour."""

    def __init__(self, hold: Hold) -> None:
        self._hold = hold
        self.taken = False
        self.streamed = False
        self._token: Token[Any] | None = None
        hold.owner = weakref.ref(self)

    @property
    def id(self) -> str:
        """128 random bits as text, with a number behind it inside a group."""
        return self._hold.id

    @property
    def provider(self) -> str:
        """The provider, case-folded."""
        return self._hold.line.provider

    @property
    def model(self) -> str:
        """The model, case-folded."""
        return self._hold.line.model

    @property
    def deadline(self) -> float:
        """Until when the slot is surely ours, on `time.monotonic()`; heartbeats move it on."""
        return self._hold.deadline

    @property
    def valid(self) -> bool:
        """Whether the slot is surely ours now. False before the store could give it to anybody else."""
        hold = self._hold
        return not hold.ended and not hold.lost and time.monotonic() < hold.deadline

    @property
    def lost(self) -> bool:
        """Whether the lease expired before it was released."""
        hold = self._hold
        return hold.lost or (not hold.ended and time.monotonic() >= hold.deadline)

    @property
    def waited(self) -> float:
        """Seconds from asking to having it."""
        return self._hold.waited

    @property
    def flags(self) -> frozenset[str]:
        """What was unusual about its admission; empty as a rule."""
        return self._hold.flags

    def __repr__(self) -> str:
        state = "ended" if self._hold.ended else "lost" if self.lost else "valid"
        return f"<{type(self).__name__} {self.id} {self.provider}/{self.model} {state}>"

    def __bool__(self) -> Literal[True]:
        return True

    def _entered(self, owner: int) -> None:
        if self._hold.ended:
            raise ConfigError(f"lease {self.id} has ended, so that its body would run without a slot: acquire another")
        # What has ended is only there if an interrupt has kept it from leaving.
        live = (entry for entry in held_here.get() if not entry[0].ended)
        self._token = held_here.set((*live, (self._hold, owner)))

    def left(self) -> None:
        """Note that its context is left."""
        token, self._token = self._token, None
        if token is None:
            return
        held_here.set(tuple(entry for entry in held_here.get() if entry[0] is not self._hold))

    def stream_active(self) -> None:
        """Note that the stream which holds the lease has moved."""
        self._hold.stream_since = time.monotonic()

    def streamed_on(self) -> None:
        """Note that its owner has got an item of the stream: the call cannot be made again as if nothing had been."""
        self.streamed = True
        self.stream_active()

    def not_clean(self) -> None:
        """Note that an attempt before this one has failed: that it ends well is no sign of capacity to spare."""
        self._hold.clean = False

    def went(self, error: BaseException | None) -> Feedback:
        """How its call went that was left by this exception, or by none, as far as this lease learns from it."""
        return FINE if error is None else learned(classify(error), error, self._hold)

    def settle(self, usage: object) -> None:
        """
        Say what the call has really used, in place of the estimate that was charged: once, the first word counts.

        Returns at once, in either colour: the release takes it along, or the background sends it 20 ms later. Unused
        tokens go back to the window that was charged; what was used beyond the estimate is charged now.

        Args:

            usage: A :class:`Usage`, a number of tokens, or any SDK's usage object or answer, see :meth:`Usage.of`.
                What says nothing of tokens changes nothing: the estimate stays charged.

        Raises:

            ConfigError: It is a text, or a number that cannot be one of tokens.
        """
        found = Usage.stated(usage)
        if found is None:
            logger.debug("lease %s: nothing in %s says what was used", self.id, type(usage).__name__)
        elif self._hold.settle(found) and not self._hold.ended:
            self._hold.runtime.keeper.settle_soon(self._hold)

    def end(
        self, feedback: Feedback, usage: Usage | None = None, *, clean: bool = True, hold: float | None = None
    ) -> tuple[Hold, Ending] | None:
        """What releasing it sends; None if it has ended, or was handed to a stream or another process."""
        if usage is not None and not self._hold.ended:
            self._hold.settle(usage)
        ended_before = self._hold.ended
        ending = self._hold.end(
            unsent=feedback.outcome is Outcome.UNSENT, lesson=self._hold.lesson(feedback, clean=clean), hold=hold
        )
        # Also where there is nothing to send: the store may never have heard of it.
        if self._hold.ended and not ended_before:
            self._hold.runtime.keeper.tally.end(feedback.outcome)
            self._hold.runtime.told.note(self._hold.line, feedback)
        return None if ending is None else (self._hold, ending)

    def _end_later(self, feedback: Feedback, *, clean: bool, hold: float | None) -> None:
        """Leave to the keeper what an interrupt has kept from ending here."""
        held = self._hold
        if not held.runtime.dead:
            held.end()
            held.ended = True
            unsent, lesson = feedback.outcome is Outcome.UNSENT, held.lesson(feedback, clean=clean)
            held.runtime.keeper.end_later(held.ending(unsent=unsent, lesson=lesson, hold=hold))

    def drop(self) -> None:
        """Note that nobody has the lease any more. A finaliser may call this anywhere, in any thread."""
        hold = self._hold
        if not hold.ended and not hold.runtime.dead:
            hold.runtime.keeper.dropped.append(hold)

    def __del__(self) -> None:
        if not getattr(self, "taken", True):
            self.drop()


class Lease(_LeaseBase):
    """
    The right to have one call in flight. A context manager: leaving it releases. It cannot be entered once released.

    Leaving by an exception releases as well, with what :func:`ratelease.classify` makes of it: an answer of the
    provider teaches the fleet, an error of one's own teaches nothing. Of leases inside one another, the innermost
    learns from it. A lease that is neither entered nor released is
    released when it is garbage-collected, with a warning that says where it was acquired.
    """

    def __init__(self, hold: Hold, release: ReleaseNow) -> None:
        super().__init__(hold)
        self._release = release

    def release(
        self,
        outcome: Outcome | Feedback = Outcome.OK,
        usage: object = None,
        *,
        clean: bool = True,
        hold: Seconds | None = None,
    ) -> None:
        """
        Give the slot back. Only the first call does anything; it never raises for the store's sake.

        Args:

            outcome: How the call ended, or all that the provider has said of it, see :func:`ratelease.classify`. What
                the provider did wrong, the whole fleet learns by this. UNSENT returns everything the lease charged:
                the call never left this host.

            usage: What it has really used, if that is known, as in :meth:`settle`. One round trip for both.

            clean: False if the call has succeeded only after a failure that was tried again: such a success does not
                count as a sign that the provider has capacity to spare.

            hold: Seconds that the slot stays counted, since the call may run on at the provider; up to ten minutes.
                None: as the cooldown and the usage source of its scopes say.

        Raises:

            ConfigError: An argument is wrong; the lease is not released.
        """
        feedback, seconds, used = feedback_of(outcome), hold_of(hold), Usage.stated(usage)
        try:
            ended = self.end(feedback, used, clean=clean, hold=seconds)
            if ended is not None:
                self._release([ended], [])
        except BaseException:
            self._end_later(feedback, clean=clean, hold=seconds)
            raise

    def fail(self, error: object) -> Feedback:
        """
        Give the slot back and let the fleet know what went wrong: an exception, or a response of the provider.

        Returns what :func:`ratelease.classify` makes of it. An exception by which a lease inside this one has ended
        teaches nothing here.
        """
        feedback = classify(error)
        self.release(learned(feedback, error, self._hold))
        return feedback

    def wrap_stream(self, stream: Any) -> LeasedStream:
        """
        Hand the lease over to a stream (any iterable): it is held until the stream ends, fails, is closed or dropped.

        The object returned iterates, closes and forwards every other attribute like `stream`.
        """
        self.taken = True
        return LeasedStream(self, stream)

    def __enter__(self) -> Self:
        self._entered(threading.get_ident())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.left()
        finally:
            if not self.taken:
                self.release(self.went(error))


class AsyncLease(_LeaseBase):
    """As :class:`Lease`, for one event loop: `async with`, `await lease.release()`."""

    def __init__(self, hold: Hold, release: ReleaseSoon) -> None:
        super().__init__(hold)
        self._release = release

    async def release(
        self,
        outcome: Outcome | Feedback = Outcome.OK,
        usage: object = None,
        *,
        clean: bool = True,
        hold: Seconds | None = None,
    ) -> None:
        """As :meth:`Lease.release`. If cancelled on its way, the release goes on in the background."""
        feedback, seconds, used = feedback_of(outcome), hold_of(hold), Usage.stated(usage)
        try:
            ended = self.end(feedback, used, clean=clean, hold=seconds)
        except BaseException:
            self._end_later(feedback, clean=clean, hold=seconds)
            raise
        if ended is not None:
            await self._release([ended], [])

    async def fail(self, error: object) -> Feedback:
        """As :meth:`Lease.fail`."""
        feedback = classify(error)
        await self.release(learned(feedback, error, self._hold))
        return feedback

    def wrap_stream(self, stream: Any) -> AsyncLeasedStream:
        """As :meth:`Lease.wrap_stream`, for an async iterable."""
        self.taken = True
        return AsyncLeasedStream(self, stream)

    async def __aenter__(self) -> Self:
        self._entered(id(asyncio.current_task()))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.left()
        finally:
            if not self.taken:
                await self.release(self.went(error))


AnyLease = TypeVar("AnyLease", Lease, AsyncLease)


class _GroupBase(Sequence[AnyLease], Generic[AnyLease]):
    """Leases that were asked for together; a sequence that grows as the rest arrives."""

    def __init__(self, leases: Sequence[AnyLease], gathering: Gathering) -> None:
        self._leases: list[AnyLease] = list(leases)
        self._gathering = gathering

    @overload
    def __getitem__(self, index: int) -> AnyLease: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[AnyLease]: ...
    def __getitem__(self, index: int | slice) -> AnyLease | Sequence[AnyLease]:
        return self._leases[index]

    def __len__(self) -> int:
        return len(self._leases)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self)}>"

    def _unended(self) -> list[AnyLease]:
        """The leases to enter: each can be released by itself before."""
        left = [lease for lease in self._leases if not lease._hold.ended]  # noqa: SLF001 - our own class
        if self._leases and not left:
            raise ConfigError(
                "every lease of the group has ended, so that its body would run without one: acquire again"
            )
        return left

    def _left_all(self) -> list[AnyLease]:
        """Leave every lease; those that no stream has taken over are left to end."""
        for lease in reversed(self._leases):
            lease.left()
        return [lease for lease in self._leases if not lease.taken]

    def _end_later(self, went: Sequence[tuple[AnyLease, Feedback]]) -> None:
        """Leave to the keeper what an interrupt has kept from ending here."""
        for lease, feedback in went:
            lease._end_later(feedback, clean=True, hold=None)  # noqa: SLF001 - our own class
        self._gathering.end_later()

    def _went(self, leases: Sequence[AnyLease], error: BaseException | None) -> Feedback:
        """As :meth:`Lease.went`, of the first that is left to end."""
        return next((lease.went(error) for lease in _live(leases)), FINE)

    def __del__(self) -> None:
        gathering = self.__dict__.get("_gathering")
        if gathering is not None:
            gathering.drop()


def _live(leases: Sequence[AnyLease]) -> list[AnyLease]:
    return [lease for lease in leases if not lease._hold.ended]  # noqa: SLF001 - our own class


def _shared(leases: Sequence[AnyLease], feedback: Feedback, others: Feedback) -> list[tuple[AnyLease, Feedback]]:
    """Those that have not ended: the first with this feedback, the others with theirs."""
    return [(lease, others if number else feedback) for number, lease in enumerate(_live(leases))]


class Group(_GroupBase[Lease]):
    """
    What acquire_many gives: the leases granted so far. A context manager: leaving it releases what is left. An
    exception that leaves it is one failure, and not one for each lease.

    Each lease can be released by itself. With at_least < n the others stay queued; :meth:`rest` yields them.
    """

    def __init__(
        self,
        leases: Sequence[Lease],
        rest: Callable[[], Iterator[Lease]],
        gathering: Gathering,
        release: ReleaseNow,
    ) -> None:
        super().__init__(leases, gathering)
        self._rest = rest
        self._release = release

    def rest(self) -> Iterator[Lease]:
        """
        Yield the leases that were not granted at once, as they are granted.

        Raises:

            WaitTimeout: The deadline of the group has passed.
        """
        for lease in self._rest():
            self._leases.append(lease)
            yield lease

    def release(self, outcome: Outcome | Feedback = Outcome.OK) -> None:
        """Release every lease of the group, and ask for no more. One round trip."""
        feedback = feedback_of(outcome)
        self._end(self._leases, feedback, feedback)

    def _end(self, leases: Sequence[Lease], feedback: Feedback, others: Feedback) -> None:
        went = _shared(leases, feedback, others)
        try:
            ended = [pair for lease, each in went if (pair := lease.end(each)) is not None]
            self._release(ended, self._gathering.give_up())
        except BaseException:
            self._end_later(went)
            raise

    def __enter__(self) -> Self:
        for lease in self._unended():
            lease.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        leases = self._left_all()
        feedback = self._went(leases, error)
        self._end(leases, feedback, learned_along(feedback))


class AsyncGroup(_GroupBase[AsyncLease]):
    """As :class:`Group`, asynchronous: `async with`, `async for lease in group.rest()`."""

    def __init__(
        self,
        leases: Sequence[AsyncLease],
        rest: Callable[[], AsyncIterator[AsyncLease]],
        gathering: Gathering,
        release: ReleaseSoon,
    ) -> None:
        super().__init__(leases, gathering)
        self._rest = rest
        self._release = release

    async def rest(self) -> AsyncIterator[AsyncLease]:
        """As :meth:`Group.rest`."""
        async for lease in self._rest():
            self._leases.append(lease)
            yield lease

    async def release(self, outcome: Outcome | Feedback = Outcome.OK) -> None:
        """As :meth:`Group.release`."""
        feedback = feedback_of(outcome)
        await self._end(self._leases, feedback, feedback)

    async def _end(self, leases: Sequence[AsyncLease], feedback: Feedback, others: Feedback) -> None:
        went = _shared(leases, feedback, others)
        try:
            ended = [pair for lease, each in went if (pair := lease.end(each)) is not None]
            given_up = self._gathering.give_up()
        except BaseException:
            self._end_later(went)
            raise
        await self._release(ended, given_up)

    async def __aenter__(self) -> Self:
        for lease in self._unended():
            await lease.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        leases = self._left_all()
        feedback = self._went(leases, error)
        await self._end(leases, feedback, learned_along(feedback))
