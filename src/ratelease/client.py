"""The client for threads: performs what the pure flows ask for."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

from .core import admission
from .core.admission import Ask, Flow, Tell
from .core.figures import EffectiveLimits
from .core.instances import Instance
from .core.model import Answer, Ended, Grant, Refusal, Request
from .core.scripts import Ending, withdrawals
from .core.status import Status
from .core.tending import Steps
from .errors import StoreUnavailable
from .gathering import SyncGathering
from .learning import Learns
from .lease import Group, Lease
from .operator import Operator
from .shell import GRACE, Seconds, Shell, outer_leases
from .store.engaged import is_engaged
from .store.exchange import Exchange
from .store.gate import Place, closed
from .store.hold import Hold, caller_place
from .store.perform import perform
from .store.waiter import Failable, Waiter
from .store.wake import Wake
from .target import MakesTargets
from .watching import Watches

Entered = Callable[[Failable], None]

T = TypeVar("T")


class Client(MakesTargets, Learns, Watches, Shell):
    """
    A rate limiter that every process with the same store and namespace shares. For threads.

    Args:

        url: memory:// (this process only, the default), memory://name, redis://, rediss://, unix://,
            redis+cluster:// or rediss+cluster:// (with one node or several).

        limits: {"openai/gpt-4o": Limits(rpm=500, concurrency=8), "openai": Limits(…), "total": Limits(…)}. A key is
            split at its first slash; "anthropic/claude-*" is a template: each model that matches counts by itself.

        pools: {"opus": Pool(["anthropic/claude-opus-*"], Limits(…))}: limits that several models share.

        config: Times and sizes; the arguments below take precedence.

        config_file: A TOML file with settings, limits and pools; else the one that RATELEASE_CONFIG names.

        namespace: Deployments with different namespaces share nothing.

        credential: A label of the account that the provider meters; accounts do not share limits. Only its hash is
            stored.

        tiers: Which tier of a provider's entries in the file holds: {"openai": "tier2"}.

        env_prefix: How variables begin that state limits ("RATELEASE_LIMIT_").

        default_timeout: Seconds that acquire waits if its call does not say (600).

        lease_ttl, heartbeat: Seconds that a lease lives without renewal (15), and between renewals (5).

        headroom: The part of each rate that is used, 0.1 to 1, where its limits do not say (1).

        unknown: What a model gets that no entry speaks of: "fallback", "unlimited" or "error".

        on_unavailable: What holds while Redis is away: "local", "closed" or "open".

        expected_instances: How many instances share the limits where Redis cannot tell.

        require_shared: Refuse memory://.

        redis_options: Further options for redis-py's connections, such as ssl_ca_certs.

        on_lost: Called with the lease when one expired before its release. From another thread.

        on_queued: Called once with a Refusal before an acquire begins to wait.

        on_retry: Called with a RetryEvent before each wait for another attempt, of targets that have none of their own.

        metadata: Labels shown in the list of instances.

    Raises:

        ConfigError: An argument, a variable or the file is wrong; all faults are named. Nothing is sent by the
            constructor.

    What is None is not given: the environment decides, then the file, then the default. Both are read here, and at no
    other time.
    """

    def _connect(self) -> None:
        self._exchange = Exchange(self._rt)

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
    ) -> Lease:
        """
        Wait for a lease: the right to have one call in flight.

        Args:

            provider, model: Whose limits; upper and lower case are the same.

            tokens: Estimate of the call's tokens in all, or input_tokens and output_tokens.

            weight: Slots of concurrency the call takes, from 1.

            timeout: Seconds to wait, 0 for not at all, math.inf for ever; None: the client's default_timeout.

            pools: Further pools that this call belongs to.

        Raises:

            WaitTimeout: No lease by the deadline; at once where the binding rate cannot free before it.

            ImpossibleRequest: It can never fit, or never while this thread is within (`with`) the lease it waits for.

            QueueFull: As many callers wait for this path already as Config.max_waiting allows.

            StoreUnavailable: Redis did not answer. StoreCorrupt: a key of ours holds something else.

            ConfigError: An argument is wrong; nothing was sent.
        """
        return self._wait_for(
            self._request(provider, model, tokens, input_tokens, output_tokens, weight, timeout, pools, True)
        )

    def try_acquire(
        self,
        provider: str,
        model: str,
        *,
        tokens: int | None = None,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        weight: int = 1,
        pools: Iterable[str] = (),
    ) -> Lease | Refusal:
        """
        Take a lease if one is free now: a Lease, which is truthy, or a Refusal, which is falsy and says why.

        One round trip, no waiting. Raises as :meth:`acquire`, without WaitTimeout.
        """
        timeout = self._config.store_timeout
        request = self._request(provider, model, tokens, input_tokens, output_tokens, weight, timeout, pools, False)
        return self._take(request)

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
    ) -> Group:
        """
        Wait for several leases of one model together.

        Args:

            n: How many.

            at_least: How many must be granted together before this returns; None: all. The others stay queued behind
                them, see :meth:`Group.rest`. 0 takes what is free now, up to n, without waiting.

        The other arguments, of each lease, and the errors are those of :meth:`acquire`.
        """
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
        return self._gather(requests, least)

    def _wait_for(self, request: Request, entered: Entered | None = None) -> Lease:
        """Get one request admitted by its deadline; `entered` is told what the caller may wait on, before it does."""
        started = time.monotonic()
        taken = self._take(request, entered)
        if isinstance(taken, Refusal):
            raise admission.denied(taken, time.monotonic() - started, request.sent)
        return taken

    def _take(self, request: Request, entered: Entered | None = None) -> Lease | Refusal:
        """Get one request admitted or refused. However this ends early, nothing of the request is left."""
        keeper, started = self._rt.keeper, time.monotonic()
        try:
            result = self._admit(request, entered)
            first = request
            while isinstance(result, Grant) and result.deadline <= time.monotonic():
                # This process stood still for longer than a lease lives: the slot may be somebody else's by now.
                keeper.withdraw(request)
                if request is not first and request.deadline <= time.monotonic():
                    raise self._outlived()
                request = self._again(request)
                result = self._admit(request, entered)
            if isinstance(result, Refusal):
                return result
            lease = self._leases(result, started)[0]
            if keeper.closing:
                # Its last look at what is held may be over, and it sends nothing more.
                self._release((), withdrawals(request))
                raise closed()
            return lease
        except BaseException:
            keeper.withdraw(request)
            raise

    def _admit(self, request: Request, entered: Entered | None) -> Grant | Refusal:
        """Run the admission flow of one request."""
        runtime = self._rt
        woken = Wake()
        runtime.keeper.start()
        place = self._enter((request,), entered) if request.waits else None
        if isinstance(place, Refusal):
            return place
        waiter = runtime.keeper.expect(request, woken.set)
        try:
            if entered is not None:
                entered(waiter)
            result = self._drive(request, waiter, woken, place)
            if isinstance(result, Refusal) and request.waits and result.reason == "deadline":
                return self._withdraw(request, waiter, result)
            return result
        finally:
            runtime.keeper.forget(waiter)

    def _enter(self, requests: Sequence[Request], entered: Entered | None = None) -> Place | Refusal | None:
        """Pass the gate of the path: the place where this caller had to stand, None if it had not."""
        gates = self._rt.keeper.gates
        # Who holds a lease already must not stand behind those who may wait for that lease.
        if gates.pass_by(requests) or (
            outer_leases(self._rt, threading.get_ident()) and gates.pass_by(requests, anyway=True)
        ):
            return None
        woken = Wake()
        place = self._place(requests, woken.set, threaded=True)
        gates.stand(place)
        if entered is not None:
            entered(place)
        _until(woken, requests[0].deadline)
        return gates.stood(place)

    def _drive(self, request: Request, waiter: Waiter, woken: Wake, place: Place | None) -> Grant | Refusal:
        flow: Flow = admission.acquire(request, outer_leases(self._rt, threading.get_ident()))
        entered = partial(self._rt.keeper.gates.entered, place) if place is not None else None
        result: Any = None
        try:
            effect = next(flow)
            while True:
                if isinstance(effect, Ask):
                    result = self._ask(request, waiter, entered)
                elif isinstance(effect, Tell):
                    self._parked(request, effect.answer, place)
                    result = None
                else:
                    result = _await(waiter, woken, request.deadline)
                effect = flow.send(result)
        except StopIteration as stop:
            outcome: Grant | Refusal = stop.value
            return outcome

    def _ask(self, request: Request, waiter: Waiter, entered: Callable[[], None] | None) -> Answer:
        """Ask the store; while it is away, this process."""
        outage = self._rt.outage
        if not outage.away:
            try:
                answer = self._exchange.acquire(request, self._store_deadline(request.deadline), entered)
            except StoreUnavailable as error:
                if waiter.granted is not None:
                    # The keeper has claimed it meanwhile, and renews it.
                    return waiter.granted
                outage.endure(error)
                if entered is not None:
                    entered()
                return outage.decide(waiter, error)
            else:
                if waiter.error is not None:
                    # The client was closed, and its keeper has taken the request back.
                    raise waiter.error
                return waiter.fresher(answer)
        if entered is not None:
            entered()
        return outage.decide(waiter)

    def _withdraw(self, request: Request, waiter: Waiter, refused: Refusal) -> Grant | Refusal:
        """Leave the queue at the deadline, unless the grant has come in the same moment."""
        granted = waiter.give_up()
        if granted is not None:
            return admission.grant_of(request, granted)
        # The keeper may be about to claim: the id must not be admitted after this.
        if request.lingers:
            self._release((), withdrawals(request), request.deadline + GRACE)
        return refused

    def _leases(self, grant: Grant, started: float) -> list[Lease]:
        now = time.monotonic()
        runtime = self._rt
        holds = Hold.of(runtime, grant, now, now - started, caller_place())
        for hold in holds:
            runtime.keeper.keep(hold)
        runtime.outage.forget(grant.request)
        return [Lease(hold, self._release) for hold in holds]

    def _gather(self, requests: Sequence[Request], least: int) -> Group:
        """Get a group. However this ends early, nothing of its requests is left."""
        gathering = SyncGathering(self._rt, requests, least, caller_place())
        undone = False
        try:
            try:
                return self._gathered(gathering)
            except BaseException:
                self._release((), gathering.undo())
                undone = True
                raise
        except BaseException:
            # An interrupt may have come on the way to the release, too.
            if not undone:
                self._end_later((), gathering.undo())
            raise

    def _gathered(self, gathering: SyncGathering) -> Group:
        """Send all requests in one call, wait for the least, and make a group of what has come."""
        runtime, requests = self._rt, gathering.requests
        runtime.keeper.start()
        place = self._enter(requests) if requests[0].waits else None
        if isinstance(place, Refusal):
            raise admission.denied(place, time.monotonic() - gathering.started, requests[0].sent)
        gathering.expect(lambda answer: self._tell_once(requests[0].line, answer, place))
        asked: Sequence[Request] = requests
        while asked:
            answers = self._ask_all(asked, gathering)
            if place is not None:
                runtime.keeper.gates.entered(place)
            asked = gathering.answered(asked, answers, outer_leases(runtime, threading.get_ident()))

        def rest() -> Iterator[Lease]:
            for hold in gathering.rest():
                yield Lease(hold, self._release)

        leases = [Lease(hold, self._release) for hold in gathering.first()]
        return Group(leases, rest, gathering, self._release)

    def _ask_all(self, requests: Sequence[Request], gathering: SyncGathering) -> list[Answer]:
        """Ask the store; while it is away, this process. No answers: what they would say is known already."""
        outage = self._rt.outage
        if not outage.away:
            try:
                return self._exchange.acquire_all(requests, self._store_deadline(gathering.deadline))
            except StoreUnavailable as error:
                if gathering.goes_on():
                    return []
                outage.endure(error)
                return gathering.decided_here(requests, error)
        return gathering.decided_here(requests)

    # ---- release -----------------------------------------------------------------------------------------------

    def _release(self, held: Sequence[tuple[Hold, Ending]], others: Sequence[Ending], latest: float = math.inf) -> None:
        """Send endings, of one line; what the store does not take now, or until `latest`, the keeper repeats."""
        endings = [*(ending for _, ending in held), *others]
        if not endings:
            return
        if self._rt.outage.away or is_engaged():
            self._end_later(held, others)
            return
        try:
            deadline = min(time.monotonic() + (self._config.attempt_timeout if held else GRACE / 2), latest)
            results = self._exchange.release_all(endings, deadline)
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

    def status(self) -> Status:
        """What is in use, what waits, in the whole namespace. Not one moment's picture: one call per path."""
        return self._perform(self._tending.status())

    def limits(self, provider: str | None = None, model: str | None = None) -> EffectiveLimits:
        """
        The limits that this client goes by, with the source of every figure.

        Of a model and all that it shares; without arguments, of every scope that has an entry or has been used.
        """
        return self._perform(self._limits(provider, model))

    def instances(self) -> list[Instance]:
        """The clients that are alive now, in all processes."""
        return self._perform(self._tending.instances())

    def reset(self, provider: str | None = None, model: str | None = None, *, all: bool = False) -> int:
        """
        Clear the windows and pauses of a model, a provider with its models, the total ("total"), a pool
        ("pool:<name>"), or without names of all, for every instance.

        Leases, waiters and what operators have set stay, unless `all` is given. Keys of ours that hold a wrong type are
        removed. Returns the number of keys removed.
        """
        return self._perform(self._tending.reset(provider, model, everything=all))

    @property
    def operator(self) -> Operator:
        """The verbs of people on this client's store: change limits, pause and resume, for every process."""
        self._check_open()
        return Operator(config=self._config, credential=self._credential, wire=self._exchange.wire)

    def _perform(self, steps: Steps[T]) -> T:
        self._check_open()
        return perform(self._exchange.wire, steps, self._config.store_timeout)

    def close(self) -> None:
        """Give back what is held, leave the list of instances, close connections. Harmless when repeated."""
        self._closed = True
        self._rt.keeper.close()
        self._exchange.close()

    def __enter__(self) -> Self:
        self._rt.keeper.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _until(woken: Wake, deadline: float) -> None:
    # A lock cannot be waited for as long as a caller may wait.
    while not woken.wait(deadline - time.monotonic()) and time.monotonic() < deadline:
        pass


def _await(waiter: Waiter, woken: Wake, deadline: float) -> Answer | None:
    _until(woken, deadline)
    if waiter.error is not None:
        raise waiter.error
    return waiter.answer
