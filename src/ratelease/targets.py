"""What targets of both colours share: their settings, estimates from a call's arguments, and settling."""

from __future__ import annotations

import dis
import inspect
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Concatenate

from .attempts import Attempts, OnRetry, check_on_retry
from .core.model import HIGHEST_WEIGHT
from .core.usage import HIGHEST_TOKENS, Usage
from .errors import ConfigError
from .retry import MOST_RETRIES, Retry
from .shell import TOKENS_TWICE, Seconds, Shell, _count, seconds_of
from .store.keeper import Keeper
from .store.log import logger

# Tokens of one call: a number, or a function of the arguments that the call's own function gets.
# (The form with one argument gives the argument of a lambda a type in strict checking.)
Estimate = int | Callable[Concatenate[Any, ...], int] | Callable[..., int] | None

# What a call has used, of what its function has returned: a Usage, a number of tokens, or an SDK's usage object.
UsageOf = Callable[[Any], object]

# Results that carry no usage. A function's own number is not a number of tokens.
_WITHOUT_USAGE = (str, bytes, bytearray, int, float, list, tuple, type(None))


class TargetBase:
    """One model with everything that its calls have in common."""

    def __init__(
        self,
        client: Shell,
        provider: str,
        model: str,
        *,
        timeout: Seconds | None,
        tokens: Estimate,
        input_tokens: Estimate,
        output_tokens: Estimate,
        weight: int,
        pools: Iterable[str],
        usage: UsageOf | None,
        retries: int | Retry | None,
        on_retry: OnRetry | None,
    ) -> None:
        self._client: Any = client
        self.provider = provider
        self.model = model
        self._timeout = timeout
        self._estimates = {"tokens": tokens, "input_tokens": input_tokens, "output_tokens": output_tokens}
        self._weight = weight
        self._pools: Any = tuple(pools) if isinstance(pools, Iterable) and not isinstance(pools, str) else pools
        self._usage = usage
        self._usage_failed = False
        self._retries = retries
        self._on_retry = client._on_retry if on_retry is None else on_retry  # noqa: SLF001 - the other half
        self._check(client)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.provider}/{self.model}>"

    def _check(self, client: Shell) -> None:
        """Raise one ConfigError that names everything that is wrong."""
        faults: list[str] = []

        def check(function: Callable[..., object], *arguments: Any) -> None:
            try:
                function(*arguments)
            except ConfigError as error:
                faults.append(str(error))

        check(client._line, self.provider, self.model, self._pools)  # noqa: SLF001 - the other half of a client
        check(_count, self._weight, "weight", 1, HIGHEST_WEIGHT)
        if self._timeout is not None:
            check(seconds_of, self._timeout, "timeout")
        for name, estimate in self._estimates.items():
            if inspect.iscoroutinefunction(estimate):
                faults.append(f"{name} must be a number or a plain function, not the coroutine function {estimate!r}")
            elif estimate is not None and not callable(estimate):
                check(_count, estimate, name, 0, HIGHEST_TOKENS)
        if self._estimates["tokens"] is not None and sum(each is not None for each in self._estimates.values()) > 1:
            faults.append(TOKENS_TWICE)
        if self._usage is not None and (not callable(self._usage) or inspect.iscoroutinefunction(self._usage)):
            faults.append(f"usage must be a plain function of the result, not {self._usage!r}")
        check(self._settle_policy, client)
        check(check_on_retry, self._on_retry)
        if faults:
            raise ConfigError("; ".join(faults))

    @property
    def _keeper(self) -> Keeper:
        """The client's keeper of now: after a fork it is another one."""
        keeper: Keeper = self._client._rt.keeper  # noqa: SLF001 - as in _check
        return keeper

    # ---- attempts ----------------------------------------------------------------------------------------------

    def _settle_policy(self, client: Shell) -> None:
        """Settle how often is tried again: as was given, or as the client does."""
        retries, default = self._retries, client._config.retry  # noqa: SLF001 - as in _check
        if retries is None:
            self._policy = default
        elif isinstance(retries, Retry):
            self._policy = retries
        else:
            self._policy = default.at_most(_count(retries, "retries (or a Retry)", 0, MOST_RETRIES))

    def _attempts(self, timeout: Seconds | None = None, *, patient: bool = False) -> Attempts:
        """
        The attempts of one call, within its own timeout or the target's.

        `patient` waits for ever unless there is one.
        """
        given = self._timeout if timeout is None else timeout
        default = math.inf if patient else self._client._config.default_timeout  # noqa: SLF001 - as in _check
        left = default if given is None else seconds_of(given, "timeout")
        return Attempts(self.provider.casefold(), self.model.casefold(), self._policy, left, self._on_retry)

    # ---- acquiring ---------------------------------------------------------------------------------------------

    def _options(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """What acquire is told for a call with these arguments."""
        tokens = {
            name: estimate(*args, **kwargs) if callable(estimate) else estimate
            for name, estimate in self._estimates.items()
        }
        return {**tokens, "weight": self._weight, "pools": self._pools}

    def _plain_options(self, given: Mapping[str, int | None]) -> dict[str, Any]:
        """What acquire is told where there are no arguments to estimate from: `given` stands in for the target's."""
        tokens: dict[str, Any] = dict(self._estimates)
        if any(value is not None for value in given.values()):
            tokens = dict(given)
        unknown = [name for name, estimate in tokens.items() if callable(estimate)]
        if unknown:
            name = unknown[0]
            raise ConfigError(
                f"{name} of this target is a function of the call's arguments, which are not known here: "
                f"use call() or limited(), or give {name} a number"
            )
        return {**tokens, "weight": self._weight, "pools": self._pools}

    # ---- settling ----------------------------------------------------------------------------------------------

    def _usage_in(self, result: object) -> Usage | None:
        """What a call has used, if its result says so. Never raises: the estimate stays charged then."""
        if self._usage is None:
            return None if isinstance(result, _WITHOUT_USAGE) else Usage.of(result)
        try:
            return Usage.of(self._usage(result))
        except Exception:  # noqa: BLE001 - the user's code must not end ours; what was estimated stays charged
            # A batch would say the same a thousand times.
            if not self._usage_failed:
                self._usage_failed = True
                logger.exception("usage of %a/%a raised: what was estimated stays charged", self.provider, self.model)
            return None


def check_plain(fn: Callable[..., Any], what: str) -> None:
    """Refuse a function that runs on an event loop, or that a lease for one call does not fit."""
    if not callable(fn):
        raise ConfigError(f"{what} must be a function, not {fn!r}")
    if inspect.iscoroutinefunction(fn) or inspect.isasyncgenfunction(fn):
        raise ConfigError(f"{what} {_name(fn)} is asynchronous: use a target of AsyncClient")
    if inspect.isgeneratorfunction(fn):
        raise ConfigError(_generator(fn, what))


def check_asynchronous(fn: Callable[..., Any], what: str) -> None:
    """Refuse what nobody can await. Of a plain function its result decides: many SDKs wrap their coroutines."""
    if not callable(fn):
        raise ConfigError(f"{what} must be a coroutine function, not {fn!r}")
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise ConfigError(_generator(fn, what))


def check_begun(fn: Callable[..., Any], result: object) -> None:
    """
    Refuse a generator that has not begun: its work would go without the lease. One that has begun may be handed on.

    What a decorator, a static method or an object with a `__call__` hides, nobody sees before the call.
    """
    if not _unbegun(result):
        return
    if inspect.isgenerator(result):
        result.close()
    raise ConfigError(
        f"{_name(fn)} returned a generator that has not begun, whose work would go without the lease: decorate the "
        "generator function itself with limited, beneath its other decorators, or use lease.wrap_stream"
    )


def _unbegun(result: object) -> bool:
    if inspect.isgenerator(result):
        # An expression has asked already what it reads from.
        expression = result.gi_code.co_name == "<genexpr>"
        return inspect.getgeneratorstate(result) == inspect.GEN_CREATED and not expression
    if not inspect.isasyncgen(result):
        return False
    if sys.version_info >= (3, 12):
        return inspect.getasyncgenstate(result) == inspect.AGEN_CREATED
    frame = result.ag_frame
    return frame is not None and dis.opname[frame.f_code.co_code[frame.f_lasti]] == "RETURN_GENERATOR"


def not_awaitable(fn: Callable[..., Any], result: object) -> ConfigError:
    """The error for a plain function in an asynchronous target."""
    return ConfigError(
        f"{_name(fn)} returned {type(result).__name__}, which cannot be awaited: an AsyncTarget calls coroutine "
        "functions, since a plain one would stop the event loop. Use a target of Client, or wrap it in "
        "asyncio.to_thread"
    )


def _generator(fn: Callable[..., Any], what: str) -> str:
    return (
        f"{what} {_name(fn)} is a generator, whose work begins after it has returned: decorate it with limited, which "
        "holds the lease until it ends"
    )


def _name(fn: Callable[..., Any]) -> str:
    return str(getattr(fn, "__qualname__", None) or repr(fn))
