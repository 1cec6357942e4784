"""The client for event loops: performs what the pure flows ask for."""

from __future__ import annotations

import asyncio
import math
import time
import weakref
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from .aio_target import MakesAsyncTargets
from .core import admission
from .core.admission import Ask, Flow, Tell
from .core.figures import EffectiveLimits
from .core.instances import Instance
from .core.model import Answer, Ended, Grant, Refusal, Request
from .core.scripts import Ending, withdrawals
from .core.status import Status
from .core.tending import Steps
from .errors import StoreUnavailable
from .gathering import AsyncGathering
from .learning import LearnsAsync
from .lease import AsyncGroup, AsyncLease
from .operator import AsyncOperator
from .shell import GRACE, Seconds, Shell, outer_leases
from .store.engaged import is_engaged
from .store.exchange import AsyncExchange
from .store.gate import Place, closed
from .store.hold import Hold, caller_place
from .store.perform import perform_async
from .store.waiter import Waiter
from .watching import Watches

T = TypeVar("T", AsyncLease, AsyncGroup)
R = TypeVar("R")

Wakes = Callable[[], None]


class Acquiring(Generic[T]):
    """What acquire returns before it has been waited for: `await` it, or enter it with `async with`."""

    def __init__(self, start: Any) -> None:
        self._start = start
        self._entered: T | None = None

    def __await__(self) -> Generator[Any, None, T]:
        result: Generator[Any, None, T] = self._start().__await__()
        return result

    async def __aenter__(self) -> T:
        entered: T = await self._start()
        self._entered = entered
        await entered.__aenter__()
        return entered

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._entered is not None:
            await self._entered.__aexit__(kind, error, trace)


class AsyncClient(MakesAsyncTargets, LearnsAsync, Watches, Shell):
    """
    A rate limiter that every process with the same store and namespace shares. For event loops.

    Takes the arguments of :class:`ratelease.Client`. May be made outside of a loop, and used from one loop after
    another.
    """

    def _connect(self) -> None:
        self._exchanges: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncExchange] = (
            weakref.WeakKeyDictionary()
        )

    @property
    def _exchange(self) -> AsyncExchange:
        """The running loop's own: connections belong to the loop that opened them."""
        loop = asyncio.get_running_loop()
        exchange = self._exchanges.get(loop)
        if exchange is None:
            for closed in [each for each in self._exchanges if each.is_closed()]:
                del self._exchanges[closed]
            exchange = self._exchanges[loop] = AsyncExchange(self._rt)
        return exchange

    # ---- acquire -----------------------------------------------------------------------------------------------

    def acquire(
        self,
        provider: str,
        model: str,
        *,
        tokens: int | None = None,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        weight: int = 1,
        timeout: Seconds | None = None,
        pools: Iterable[str] = (),
    ) -> Acquiring[AsyncLease]:
        """As :meth:`ratelease.Client.acquire`: `async with client.acquire(…) as lease`, or await it."""

        async def start() -> AsyncLease:
            return await self._wait_for(
                self._request(provider, model, tokens, input_tokens, output_tokens, weight, timeout, pools, True)
            )

        return Acquiring(start)

    async def try_acquire(
        self,
        provider: str,
        model: str,
        *,
        tokens: int | None = None,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        weight: int = 1,
        pools: Iterable[str] = (),
    ) -> AsyncLease | Refusal:
        """As :meth:`ratelease.Client.try_acquire`."""
        timeout = self._config.store_timeout
        request = self._request(provider, model, tokens, input_tokens, output_tokens, weight, timeout, pools, False)
        return await self._take(request)

    def acquire_many(
        self,
        provider: str,
        model: str,
        n: int,
        *,
        at_least: int | None = None,
        tokens: int | None = None,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        weight: int = 1,
        timeout: Seconds | None = None,
        pools: Iterable[str] = (),
    ) -> Acquiring[AsyncGroup]:
        """As :meth:`ratelease.Client.acquire_many`: enter it with `async with`, or await it."""

        async def start() -> AsyncGroup:
            counts, least = self._group_counts(n, at_least)
            requests = self._requests(
                provider,
                model,
                counts,
                tokens=tokens,
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                weight=weight,
                timeout=timeout,
                pools=pools,
                waits=least > 0,
            )
            return await self._gather(requests, least)

        return Acquiring(start)

    async def _wait_for(self, request: Request) -> AsyncLease:
        """Get one request admitted by its deadline."""
        started = time.monotonic()
        taken = await self._take(request)
        if isinstance(taken, Refusal):
            raise admission.denied(taken, time.monotonic() - started, request.sent)
        return taken

    async def _take(self, request: Request) -> AsyncLease | Refusal:
        """Get one request admitted or refused. However this ends early, nothing of the request is left."""
        keeper, started = self._rt.keeper, time.monotonic()
        try:
            result = await self._admit(request)
            first = request
            while isinstance(result, Grant) and result.deadline <= time.monotonic():
                # This process stood still for longer than a lease lives: the slot may be somebody else's by now.
                keeper.withdraw(request)
                if request is not first and request.deadline <= time.monotonic():
                    raise self._outlived()
                request = self._again(request)
                result = await self._admit(request)
            if isinstance(result, Refusal):
                return result
            lease = self._leases(result, started)[0]
            if keeper.closing:
                # Its last look at what is held may be over, and it sends nothing more.
                await self._release((), withdrawals(request))
                raise closed()
            return lease
        except BaseException:
            keeper.withdraw(request)
            raise

    async def _admit(self, request: Request) -> Grant | Refusal:
        """Run the admission flow of one request."""
        runtime = self._rt
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()
        runtime.keeper.start()
        place = await self._enter((request,)) if request.waits else None
        if isinstance(place, Refusal):
            return place
        waiter = runtime.keeper.expect(request, _waker(loop, woken, partial(runtime.keeper.withdraw, request)))
        try:
            result = await self._drive(request, waiter, woken, place)
            if isinstance(result, Refusal) and request.waits and result.reason == "deadline":
                return await self._withdraw(request, waiter, result)
            return result
        finally:
            runtime.keeper.forget(waiter)

    async def _enter(self, requests: Sequence[Request]) -> Place | Refusal | None:
        """Pass the gate of the path: the place where this caller had to stand, None if it had not."""
        gates = self._rt.keeper.gates
        # Who holds a lease already must not stand behind those who may wait for that lease.
        if gates.pass_by(requests) or (
            outer_leases(self._rt, id(asyncio.current_task())) and gates.pass_by(requests, anyway=True)
        ):
            return None
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()

        def gone() -> None:
            for request in requests:
                self._rt.keeper.withdraw(request)

        place = self._place(requests, _waker(loop, woken, gone), threaded=False)
        gates.stand(place)
        await _until(woken, requests[0].deadline)
        return gates.stood(place)

    async def _drive(
        self, request: Request, waiter: Waiter, woken: asyncio.Future[None], place: Place | None
    ) -> Grant | Refusal:
        flow: Flow = admission.acquire(request, outer_leases(self._rt, id(asyncio.current_task())))
        result: Any = None
        try:
            effect = next(flow)
            while True:
                if isinstance(effect, Ask):
                    result = await self._ask(request, waiter)
                elif isinstance(effect, Tell):
                    self._parked(request, effect.answer, place)
                    result = None
                else:
                    result = await _await(waiter, woken, request.deadline)
                effect = flow.send(result)
        except StopIteration as stop:
            outcome: Grant | Refusal = stop.value
            return outcome

    async def _ask(self, request: Request, waiter: Waiter) -> Answer:
        """Ask the store; while it is away, this process."""
        outage = self._rt.outage
        if not outage.away:
            try:
                answer = await self._exchange.acquire(request, self._store_deadline(request.deadline))
            except StoreUnavailable as error:
                if waiter.granted is not None:
                    # The keeper has claimed it meanwhile, and renews it.
                    return waiter.granted
                outage.endure(error)
                return outage.decide(waiter, error)
            else:
                if waiter.error is not None:
                    # The client was closed, and its keeper has taken the request back.
                    raise waiter.error
                return waiter.fresher(answer)
        return outage.decide(waiter)

    async def _withdraw(self, request: Request, waiter: Waiter, refused: Refusal) -> Grant | Refusal:
        """Leave the queue at the deadline, unless the grant has come in the same moment."""
        granted = waiter.give_up()
        if granted is not None:
            return admission.grant_of(request, granted)
        # The keeper may be about to claim: the id must not be admitted after this.
        if request.lingers:
            await self._release((), withdrawals(request), request.deadline + GRACE)
        return refused

    def _leases(self, grant: Grant, started: float) -> list[AsyncLease]:
        now = time.monotonic()
        runtime = self._rt
        holds = Hold.of(runtime, grant, now, now - started, caller_place())
        for hold in holds:
            runtime.keeper.keep(hold)
        runtime.outage.forget(grant.request)
        return [AsyncLease(hold, self._release) for hold in holds]

    async def _gather(self, requests: Sequence[Request], least: int) -> AsyncGroup:
        """Get a group. However this ends early, nothing of its requests is left."""
        gathering = AsyncGathering(self._rt, requests, least, caller_place())
        undone = False
        try:
            try:
                return await self._gathered(gathering)
            except BaseException:
                await self._release((), gathering.undo())
                undone = True
                raise
        except BaseException:
            # An interrupt may have come on the way to the release, too.
            if not undone:
                self._end_later((), gathering.undo())
            raise

    async def _gathered(self, gathering: AsyncGathering) -> AsyncGroup:
        """Send all requests in one call, wait for the least, and make a group of what has come."""
        runtime, requests = self._rt, gathering.requests
        runtime.keeper.start()
        place = await self._enter(requests) if requests[0].waits else None
        if isinstance(place, Refusal):
            raise admission.denied(place, time.monotonic() - gathering.started, requests[0].sent)
        gathering.expect(lambda answer: self._tell_once(requests[0].line, answer, place))
        asked: Sequence[Request] = requests
        while asked:
            answers = await self._ask_all(asked, gathering)
            asked = gathering.answered(asked, answers, outer_leases(runtime, id(asyncio.current_task())))

        async def rest() -> AsyncIterator[AsyncLease]:
            async for hold in gathering.rest():
                yield AsyncLease(hold, self._release)

        leases = [AsyncLease(hold, self._release) for hold in await gathering.first()]
        return AsyncGroup(leases, rest, gathering, self._release)

    async def _ask_all(self, requests: Sequence[Request], gathering: AsyncGathering) -> list[Answer]:
        """Ask the store; while it is away, this process. No answers: what they would say is known already."""
        outage = self._rt.outage
        if not outage.away:
            try:
                return await self._exchange.acquire_all(requests, self._store_deadline(gathering.deadline))
            except StoreUnavailable as error:
                if gathering.goes_on():
                    return []
                outage.endure(error)
                return gathering.decided_here(requests, error)
        return gathering.decided_here(requests)

    # ---- release -----------------------------------------------------------------------------------------------

    async def _release(
        self, held: Sequence[tuple[Hold, Ending]], others: Sequence[Ending], latest: float = math.inf
    ) -> None:
        """Send endings, of one line; what the store does not take now, or until `latest`, the keeper repeats."""
        endings = [*(ending for _, ending in held), *others]
        if not endings:
            return
        if self._rt.outage.away or is_engaged():
            self._end_later(held, others)
            return
        try:
            deadline = min(time.monotonic() + (self._config.attempt_timeout if held else GRACE / 2), latest)
            results = await self._exchange.release_all(endings, deadline)
        except StoreUnavailable:
            self._end_later(held, others)
        except BaseException:
            self._end_later(held, others)
            raise
        else:
            for (hold, _), ended in zip(held, results, strict=False):
                # A lease of an outage may be released before the call that registers it has come: it is not lost.
                if ended is Ended.LOST or (ended is Ended.UNKNOWN and (hold.epoch or not hold.flags)):
                    hold.runtime.keeper.lose(hold)

    # ---- looking and tending -----------------------------------------------------------------------------------

    async def status(self) -> Status:
        """As :meth:`ratelease.Client.status`."""
        return await self._perform(self._tending.status())

    async def limits(self, provider: str | None = None, model: str | None = None) -> EffectiveLimits:
        """As :meth:`ratelease.Client.limits`."""
        return await self._perform(self._limits(provider, model))

    async def instances(self) -> list[Instance]:
        """As :meth:`ratelease.Client.instances`."""
        return await self._perform(self._tending.instances())

    async def reset(self, provider: str | None = None, model: str | None = None, *, all: bool = False) -> int:
        """As :meth:`ratelease.Client.reset`."""
        return await self._perform(self._tending.reset(provider, model, everything=all))

    @property
    def operator(self) -> AsyncOperator:
        """As :attr:`ratelease.Client.operator`, for the running event loop."""
        self._check_open()
        return AsyncOperator(config=self._config, credential=self._credential, wire=self._exchange.wire)

    async def _perform(self, steps: Steps[R]) -> R:
        self._check_open()
        return await perform_async(self._exchange.wire, steps, self._config.store_timeout)

    async def close(self) -> None:
        """As :meth:`ratelease.Client.close`."""
        self._closed = True
        await asyncio.to_thread(self._rt.keeper.close)
        loop = asyncio.get_running_loop()
        exchange = self._exchanges.pop(loop, None)
        if exchange is not None:
            await exchange.close()

    async def __aenter__(self) -> Self:
        self._rt.keeper.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _settle(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)


def _waker(
    loop: asyncio.AbstractEventLoop, woken: asyncio.Future[None], gone: Callable[[], None]
) -> Callable[[], None]:
    def wake() -> None:
        try:
            loop.call_soon_threadsafe(_settle, woken)
        except RuntimeError:
            # The loop was closed while its caller waited: nobody takes what has come.
            gone()

    return wake


async def _until(woken: asyncio.Future[None], deadline: float) -> None:
    remaining = deadline - time.monotonic()
    if remaining < math.inf:
        timer = asyncio.get_running_loop().call_later(max(remaining, 0), _settle, woken)
        try:
            await woken
        finally:
            timer.cancel()
    else:
        await woken


async def _await(waiter: Waiter, woken: asyncio.Future[None], deadline: float) -> Answer | None:
    await _until(woken, deadline)
    if waiter.error is not None:
        raise waiter.error
    return waiter.answer
