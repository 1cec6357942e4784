"""What both clients share: settings, argument checks, requests, and reading what the store says of itself."""

from __future__ import annotations

import math
import os
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import replace
from datetime import timedelta
from typing import Any

from . import checks
from .attempts import OnRetry, check_on_retry
from .config import Config, OnUnavailable, Unknown
from .core import admission
from .core.admission import Outer
from .core.figures import EffectiveLimits, effective_limits
from .core.instances import check_metadata
from .core.model import HIGHEST_COUNT, HIGHEST_WEIGHT, Answer, Line, Refusal, Request, costs_of
from .core.progress import Stats
from .core.scripts import Ending
from .core.tending import Steps, Tending
from .core.usage import HIGHEST_TOKENS
from .errors import ConfigError, StoreUnavailable
from .limits import Limits, Pool
from .names import check_name, check_provider
from .settings import settle
from .store import wire
from .store.endpoint import forget_parent
from .store.gate import Place
from .store.hold import Hold
from .store.keeper import live_keepers
from .store.log import logger
from .store.runtime import Runtime, new_id

# Members of a leases zset that one request may write: a longer script would hold up everybody else's.
HIGHEST_MEMBERS = 4096

MOST_SPELLINGS = 4096

# How much longer than its deadline a caller may be kept, in seconds: to withdraw, or to be told that it cannot be.
GRACE = 0.2

TOKENS_TWICE = "tokens is the total: give either tokens, or input_tokens and output_tokens"

Seconds = float | timedelta

# The leases that the current context has entered: each with the task or thread that entered it.
held_here: ContextVar[tuple[tuple[Hold, int], ...]] = ContextVar("ratelease_held", default=())

_clients: weakref.WeakSet[Shell] = weakref.WeakSet()


def outer_leases(runtime: Runtime, owner: int) -> tuple[Outer, ...]:
    """The live leases of this store that this very task or thread has entered."""
    return tuple(
        hold.outer()
        for hold, entered_by in held_here.get()
        if entered_by == owner and not hold.ended and hold.runtime.keyspace.base == runtime.keyspace.base
    )


def work_for(waiting: int, worker: int) -> None:
    """
    Count in this context the leases of the task or thread that waits for this one as this one's own.

    What it waits for, its worker must not wait for: only the one that waits could give that back.
    """
    held_here.set(tuple((hold, worker if owner == waiting else owner) for hold, owner in held_here.get()))


def _all_text(*names: object) -> bool:
    return all(type(name) is str for name in names)


def seconds_of(value: object, what: str, allowed: str = "from 0 (math.inf waits for ever)") -> float:
    """A length of time as float seconds; ConfigError for what is none, with what is `allowed` there."""
    seconds = checks.plain_seconds(value)
    if not checks.is_number(seconds, 0, math.inf):
        raise ConfigError(f"{what} must be seconds {allowed} or a timedelta, not {seconds!r}")
    return float(seconds)  # type: ignore[arg-type]


def _count(value: object, what: str, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(f"{what} must be a whole number from {low} to {high:,}, not {value!r}")
    return value


class Shell:
    """The half of a client that needs no colour."""

    def __init__(
        self,
        url: str | None = None,
        *,
        limits: Mapping[str, Limits] | None = None,
        pools: Mapping[str, Pool] | None = None,
        config: Config | None = None,
        config_file: str | os.PathLike[str] | None = None,
        namespace: str | None = None,
        credential: str | None = None,
        tiers: Mapping[str, str] | None = None,
        env_prefix: str | None = None,
        default_timeout: Seconds | None = None,
        lease_ttl: Seconds | None = None,
        heartbeat: Seconds | None = None,
        headroom: float | None = None,
        unknown: Unknown | None = None,
        on_unavailable: OnUnavailable | None = None,
        expected_instances: int | None = None,
        require_shared: bool | None = None,
        redis_options: Mapping[str, Any] | None = None,
        on_lost: Callable[[Any], object] | None = None,
        on_queued: Callable[[Refusal], object] | None = None,
        on_retry: OnRetry | None = None,
        metadata: dict[str, str] | None = None,
    ) -> None:
        self._settings = settle(
            arguments={
                "url": url,
                "namespace": namespace,
                "env_prefix": env_prefix,
                "default_timeout": default_timeout,
                "lease_ttl": lease_ttl,
                "heartbeat": heartbeat,
                "headroom": headroom,
                "unknown": unknown,
                "on_unavailable": on_unavailable,
                "expected_instances": expected_instances,
                "require_shared": require_shared,
                "redis_options": redis_options,
            },
            config=config,
            config_file=config_file,
            limits=limits,
            pools=pools,
            tiers=tiers,
        )
        self._config, self._book = self._settings.config, self._settings.book
        self._credential, self._metadata = credential, check_metadata(metadata)
        self._on_lost = checks.plain_function(on_lost, "on_lost", "a lease")
        self._on_queued = checks.plain_function(on_queued, "on_queued", "a Refusal")
        self._on_retry = check_on_retry(on_retry)
        self._closed = False
        self._begin()
        if "url" not in self._settings.sources:
            logger.warning(
                "no store was named: limits are kept in this process only. Pass url='redis://…' or set RATELEASE_URL "
                "to share them"
            )
        _clients.add(self)

    def _begin(self) -> None:
        """Begin as a new instance: a new client, or a child after fork."""
        self._rt = Runtime(
            self._config,
            self._book,
            credential=self._credential,
            metadata=self._metadata,
            on_lost=self._on_lost,
        )
        # A client that nobody has any more ends its thread; its leases hold on to it as long as they live.
        self._finalizer = weakref.finalize(self, self._rt.keeper.stop)
        self._finalizer.atexit = False
        self._lines: dict[tuple[str, str, tuple[str, ...]], Line] = {}
        runtime = self._rt
        self._tending = Tending(
            runtime.session,
            runtime.keyspace,
            runtime.endpoint.label,
            lambda header: runtime.note(None, header),
            lambda: (line.path for line in runtime.lines()),
        )
        self._connect()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._rt.endpoint.label} namespace={self._config.namespace!r}>"

    def stats(self) -> Stats:
        """What this client has done in this process, for a line of progress. Asks nobody."""
        return self._rt.keeper.stats()

    # ---- fork --------------------------------------------------------------------------------------------------

    def _after_fork(self) -> None:
        """In the child: begin as another instance, and never touch what the parent holds."""
        self._rt.dead = True
        self._finalizer.detach()
        if not self._rt.endpoint.shared:
            logger.warning("memory:// was forked: the child now counts by itself. Use redis:// to share limits")
        held_here.set(())
        self._begin()

    def _connect(self) -> None:
        """Begin without connections."""

    # ---- requests ----------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise ConfigError("this client is closed: make a new one")

    def _line(self, provider: str, model: str, pools: Iterable[str]) -> Line:
        self._check_open()
        if not isinstance(pools, Iterable):
            raise ConfigError(f"pools must be names of pools, not {pools!r}")
        names = (pools,) if isinstance(pools, str) else tuple(pools)
        # As callers spell it: checking and folding the names again would be the dearest part of a call.
        line = self._lines.get((provider, model, names)) if _all_text(provider, model, *names) else None
        if line is None:
            line = self._rt.line(
                check_provider(provider),
                check_name(model, "model").casefold(),
                tuple(check_name(pool, "pool", "pools=['opus']").casefold() for pool in names),
            )
            if len(self._lines) >= MOST_SPELLINGS:
                self._lines.clear()
            self._lines[provider, model, names] = line
        return line

    def _requests(
        self,
        provider: str,
        model: str,
        counts: Sequence[int],
        *,
        tokens: int | None,
        input_tokens: int | None,
        output_tokens: int | None,
        weight: int,
        timeout: Seconds | None,
        pools: Iterable[str],
        waits: bool,
    ) -> list[Request]:
        """One request for each of `counts`, of one path; nothing has been sent when this raises."""
        weight = _count(weight, "weight", 1, HIGHEST_WEIGHT)
        limit = self._config.default_timeout if timeout is None else seconds_of(timeout, "timeout")
        if max(counts, default=1) * weight > HIGHEST_MEMBERS:
            raise ConfigError(
                f"{max(counts)} leases of weight {weight} together are more than {HIGHEST_MEMBERS:,} slots: "
                "ask for fewer at once"
            )
        line = self._line(provider, model, pools)
        costs = self._costs(line, tokens, input_tokens, output_tokens)
        deadline = time.monotonic() + limit
        return [
            Request(
                line,
                new_id() + (".1" if n > 1 else ""),
                n,
                weight,
                costs,
                deadline,
                waits and limit > 0,
            )
            for n in counts
        ]

    def _request(
        self,
        provider: str,
        model: str,
        tokens: int | None,
        input_tokens: int | None,
        output_tokens: int | None,
        weight: int,
        timeout: Seconds | None,
        pools: Iterable[str],
        waits: bool,
    ) -> Request:
        return self._requests(
            provider,
            model,
            (1,),
            tokens=tokens,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            weight=weight,
            timeout=timeout,
            pools=pools,
            waits=waits,
        )[0]

    def _costs(self, line: Line, tokens: int | None, input_tokens: int | None, output_tokens: int | None) -> str:
        """
        What one lease charges of each unit.

        What is not given is guessed, since a rate that counts it may be set at any time: the store charges a guess
        only where a rate counts it, and then it is never 0.
        """
        given = {"tokens": tokens, "input_tokens": input_tokens, "output_tokens": output_tokens}
        counts = {unit: _count(n, unit, 0, HIGHEST_TOKENS) for unit, n in given.items() if n is not None}
        if "tokens" in counts and len(counts) > 1:
            raise ConfigError(TOKENS_TWICE)
        if len(counts) == 2:
            counts["tokens"] = counts["input_tokens"] + counts["output_tokens"]
        learned = self._rt.estimates.of(line.provider, line.model)
        guesses = {unit: counts.get("tokens", learned[unit]) for unit in given if unit not in counts}
        if len(counts) == 1 and "tokens" not in counts:
            guesses["tokens"] = max(learned["tokens"], sum(counts.values()))
        return costs_of({"requests": 1, **counts}, guesses)

    @staticmethod
    def _again(request: Request) -> Request:
        """The same request under another id: the first one's grant was over before its caller could take it."""
        return replace(request, id=new_id(), sent=0, answered=0, last=None, boarded=False)

    def _outlived(self) -> StoreUnavailable:
        """What a caller gets whose grants have ended, one after the other, before it could take them."""
        ttl = self._rt.session.agreed_ttl / 1000
        return StoreUnavailable(
            f"answers of the store at {self._rt.endpoint.label} are read more than {ttl:g} s after the call was sent: "
            "by then each lease is over. Raise lease_ttl, or keep this process from standing still for so long"
        )

    def _store_deadline(self, deadline: float) -> float:
        """Until when a call for this request may take, on `time.monotonic()`."""
        now = time.monotonic()
        return max(min(deadline, now + self._config.store_timeout), now + GRACE)

    def _group_counts(self, n: object, at_least: object) -> tuple[list[int], int]:
        """How acquire_many(n, at_least) is asked: one group of at_least, the rest one by one behind it."""
        count = _count(n, "n", 1, HIGHEST_COUNT)
        least = count if at_least is None else _count(at_least, "at_least", 0, count)
        return ([least] if least else []) + [1] * (count - least), least

    def _end_later(self, held: Sequence[tuple[Hold, Ending]], others: Sequence[Ending]) -> None:
        """Leave endings to the keeper."""
        for ending in (*(ending for _, ending in held), *others):
            self._rt.keeper.end_later(ending)

    def _tell_queued(self, line: Line, answer: Any) -> None:
        if self._on_queued is not None:
            try:
                self._on_queued(admission.refusal(line, answer))
            except Exception:  # noqa: BLE001 - the user's code must not end ours
                logger.exception("on_queued raised")

    def _place(self, requests: Sequence[Request], wake: Callable[[], None], *, threaded: bool) -> Place:
        line = requests[0].line
        return Place(requests, wake, lambda answer: self._tell_queued(line, answer), threaded=threaded)

    def _parked(self, request: Request, answer: Answer, place: Place | None) -> None:
        """Note that the store has parked a request; its caller is told, unless it was at the gate."""
        self._rt.keeper.gates.parked(request, answer)
        self._tell_once(request.line, answer, place)

    def _tell_once(self, line: Line, answer: Answer, place: Place | None) -> None:
        if place is None:
            self._tell_queued(line, answer)
        else:
            place.tell(answer)

    # ---- tending -----------------------------------------------------------------------------------------------

    def _limits(self, provider: str | None, model: str | None) -> Steps[EffectiveLimits]:
        """The limits of one model's path, or of all scopes that this client knows."""
        runtime, sources = self._rt, self._settings.sources
        if (provider is None) != (model is None):
            raise ConfigError("limits: give both provider and model, or neither")
        paths = [line.path for line in runtime.lines()]
        if provider is not None and model is not None:
            names = check_provider(provider), check_name(model, "model").casefold()
            paths = [runtime.path(*names)]

        def steps() -> Steps[EffectiveLimits]:
            overrides = yield from self._tending.overrides()
            return effective_limits(
                self._book,
                paths,
                credential=runtime.credential,
                unknown=self._config.unknown,
                headroom=(self._config.headroom, sources.get("headroom", "default")),
                configured=provider is None,
                overrides=overrides,
                estimates=runtime.estimates.of,
            )

        return steps()


def _forked() -> None:
    checks.forget_parent()
    forget_parent()
    wire.forget_parent()
    live_keepers.clear()
    for client in list(_clients):
        client._after_fork()  # noqa: SLF001 - our own class


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
