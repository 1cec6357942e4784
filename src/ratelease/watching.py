"""The half of a client that watches what providers say they have in flight."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from .checks import is_number, shown
from .core.provider_usage import UsageSource, getter_of
from .errors import ConfigError
from .names import check_provider
from .shell import Seconds, seconds_of
from .store.log import logger
from .store.usage_watch import GateSettings, UsageWatch
from .strategies import Parallelism

if TYPE_CHECKING:
    # The other half of a client.
    from .shell import Shell
else:
    Shell = object

# How long a provider's count is taken to lag where nothing is said, and a call that was given up to run on.
COOLDOWN = 0.35
HOLD = 30.0

# A snapshot is ignored after so many times without a newer one.
MOST_MISSED = 3

# Ranges in seconds, inclusive.
_RANGES: dict[str, tuple[float, float]] = {
    "repoll": (0.01, 3600.0),
    "timeout": (0.01, 600.0),
    "cooldown": (0.0, 600.0),
    "lag": (0.0, 600.0),
    "max_age": (0.01, 86_400.0),
    "hold": (0.0, 600.0),
}


class Watches(Shell):
    """For both colours: nothing here waits."""

    def watch_usage(
        self,
        provider: str,
        get_usage: UsageSource | Callable[[], Any],
        *,
        strict: bool = False,
        admit: Literal["fill", "one"] = "fill",
        repoll: Seconds = 1.0,
        timeout: Seconds = 2.0,
        cooldown: Seconds = COOLDOWN,
        lag: Seconds | None = None,
        max_age: Seconds | None = None,
        hold: Seconds = HOLD,
        follow_limit: bool = False,
        on_error: Callable[[Exception], object] | None = None,
    ) -> Callable[[], None]:
        """
        Go by what a provider itself says it has in flight, in addition to the limits.

        One instance of the fleet polls for all, and only while somebody waits. Whoever has waited is granted a lease of
        the provider only while what it counts, with all that was granted since, stays below the concurrency limit of
        its scope; who has not waited leaves room for calls that are not the fleet's. A source that fails in any way
        never stops the fleet: after a poll's time our own count alone decides, and such grants are counted as blind.

        Args:

            provider: Whose usage, for this client's credential. Its scope needs a concurrency limit, or follow_limit;
                a warning is logged where it has neither.

            get_usage: A function, coroutine function, or an object with such a method `get_usage`, see
                :mod:`ratelease.usage`. It returns a :class:`ratelease.ProviderUsage`, or None where it does not know. A
                plain function runs in a thread, a coroutine in the client's background loop.

            strict: Let every grant go by a snapshot, also of those who have not waited; polls all the time.

            admit: How many grants a snapshot admits: "fill" up to the limit, or "one".

            repoll: Seconds between two polls while somebody waits. timeout: after which a poll counts as unanswered.

            cooldown: Seconds that slots of the provider stay counted after their release, where its limits state no
                cooldown (0.35).

            lag: Seconds until a call that begins shows in the provider's count (as cooldown).

            max_age: Seconds after which a snapshot is ignored (three polls).

            hold: Seconds that the slot of a call stays counted which timed out or was cancelled, since it may run on
                there; less as soon as the provider counts fewer (30).

            follow_limit: Lower the limit of the scope to what the provider says of it; take that where there is none.

            on_error: Called with what the source has raised, or a TypeError where it returned what is no usage. From
                another thread.

        Returns a function that ends it.

        Raises:

            ConfigError: An argument is wrong, all faults are named; or this client watches the provider already.
        """
        self._check_open()
        faults: list[str] = []
        seconds = {"repoll": repoll, "timeout": timeout, "cooldown": cooldown, "hold": hold}
        seconds |= {name: value for name, value in (("lag", lag), ("max_age", max_age)) if value is not None}
        times = {name: _time(name, value, faults) for name, value in seconds.items()}
        ask = getter_of(get_usage)
        if ask is None:
            faults.append(f"get_usage must be a function, or have a method get_usage, not {shown(get_usage)}")
        if admit not in ("fill", "one"):
            faults.append(f"admit must be 'fill' or 'one', not {shown(admit)}")
        for name, flag in (("strict", strict), ("follow_limit", follow_limit)):
            if not isinstance(flag, bool):
                faults.append(f"{name} must be True or False, not {shown(flag)}")
        if on_error is not None and not callable(on_error):
            faults.append(f"on_error must be a function, not {shown(on_error)}")
        elif inspect.iscoroutinefunction(on_error):
            faults.append(f"on_error must be a function that is not async: nobody would await {shown(on_error)}")
        owner = ""
        try:
            owner = check_provider(provider, alone=True)
        except ConfigError as error:
            faults.insert(0, str(error))
        if faults or ask is None:
            raise ConfigError.of(faults)
        settings = GateSettings(
            strict=strict,
            one=admit == "one",
            repoll=times["repoll"],
            timeout=times["timeout"],
            lag=times.get("lag", times["cooldown"]),
            max_age=times.get("max_age", MOST_MISSED * (times["repoll"] + times["timeout"])),
            hold=times["hold"],
            cooldown=times["cooldown"],
            follow_limit=follow_limit,
        )
        self._check_bounded(owner, follow_limit)
        keeper = self._rt.keeper
        return keeper.watch(UsageWatch(keeper, owner, ask, settings, on_error))

    def _check_bounded(self, owner: str, follow_limit: bool) -> None:
        """Warn of a provider whose usage has no limit to be held against."""
        limits = self._book.provider(owner)
        if limits is not None:
            strategies = self._config.strategy if limits.strategy is None else limits.strategy
            # That of Parallelism is a limit as well.
            if limits.concurrency or any(isinstance(each, Parallelism) for each in strategies or ()):
                return
        if follow_limit:
            return
        logger.warning(
            "watch_usage(%a) gates nobody: the provider has no concurrency limit here. State one in "
            "limits={%a: Limits(concurrency=…)}, or give follow_limit=True",
            owner,
            owner,
        )


def _time(name: str, value: object, faults: list[str]) -> float:
    low, high = _RANGES[name]
    try:
        seconds = seconds_of(value, name, f"from {low:g} to {high:g}")
    except ConfigError as error:
        faults.append(str(error))
        return low
    if not is_number(seconds, low, high):
        faults.append(f"{name} must be {low:g} to {high:g} seconds, not {shown(value)}")
    return seconds
