"""The verbs of people: look at a fleet, change its limits while it runs, pause and resume it."""

from __future__ import annotations

import os
import socket
from types import TracebackType
from typing import Self, TypeVar

from .checks import is_number
from .config import Config
from .core.feedback import cause_of
from .core.instances import Instance
from .core.journal import Deed
from .core.keys import Keyspace, credential_label, scope_of
from .core.model import Figures, figure_name, figures_of, overrides_of
from .core.session import Session
from .core.status import Status
from .core.tending import Steps, Tending
from .errors import ConfigError
from .limits import Limits
from .settings import settle
from .shell import Seconds, seconds_of
from .store.endpoint import Endpoint
from .store.log import logger
from .store.perform import perform, perform_async
from .store.wire import AsyncWire, Wire

LONGEST_PAUSE = 31 * 86_400.0

T = TypeVar("T")


class _Verbs:
    """What both colours share: which scope is meant, what is sent."""

    _closed = False

    def _begin(self, config: Config, endpoint: Endpoint, credential: str | None, who: str | None) -> None:
        self._config = config
        self._endpoint = endpoint
        self._credential = credential_label(credential)
        self._who = who or f"{socket.gethostname()}:{os.getpid()}"
        # Nobody in particular: an operator is no instance, and its times are not agreed on.
        session = Session.begin(config, "", os.urandom(8).hex())
        self._tending = Tending(session, Keyspace(config.namespace), endpoint.label)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._endpoint.label} namespace={self._config.namespace!r}>"

    def _check_open(self) -> None:
        if self._closed:
            raise ConfigError("this operator is closed: make a new one")

    def _set(self, provider: str, model: str | None, limits: Limits | None, reason: str) -> Steps[Figures]:
        if isinstance(model, Limits):
            raise ConfigError("set_limits was given Limits(…) as model: for a provider write limits=Limits(…)")
        if not isinstance(limits, Limits):
            raise ConfigError(f"set_limits needs Limits(…), not {limits!r}")
        if limits.strategy is not None:
            raise ConfigError(
                "set_limits takes figures alone: how a scope reacts is said by Limits.strategy of the clients. To take "
                "back what failures have cost use forgive"
            )
        figures = overrides_of(limits)
        if not figures:
            raise ConfigError("set_limits was given Limits() without a figure: to take figures back use unset_limits")
        return self._configure(provider, model, "set", figures, reason)

    def _unset(self, provider: str, model: str | None, figures: tuple[str, ...], reason: str) -> Steps[Figures]:
        names = {figure: figure_name(figure) for figure in figures}
        unknown = [repr(figure) for figure, name in names.items() if name is None]
        if unknown:
            raise ConfigError(
                f"unset_limits knows no figure {', '.join(unknown)}: figures are concurrency, rpm, rpd, tpm, tpd, "
                "itpm, otpm, burst, headroom, cooldown, and rates such as 'requests/10s'"
            )
        return self._configure(provider, model, "unset", " ".join(name for name in names.values() if name), reason)

    def _pause(self, provider: str, model: str | None, seconds: Seconds | None, reason: str) -> Steps[Figures]:
        what = ""
        if seconds is not None:
            length = seconds_of(seconds, "the length of a pause", f"above 0, up to {LONGEST_PAUSE:,.0f},")
            if not 0 < length <= LONGEST_PAUSE:
                raise ConfigError(
                    f"a pause lasts more than 0 and at most {LONGEST_PAUSE:,.0f} seconds, not {length:g}; without "
                    "seconds it lasts until resume"
                )
            what = str(max(round(length * 1000), 1))
        return self._configure(provider, model, "pause", what, reason)

    def _penalize(self, provider: str, model: str | None, cause: str, reason: str) -> Steps[Figures]:
        return self._configure(provider, model, "penalize", cause_of(cause), reason)

    def _forgive(self, provider: str, model: str | None, keep: float, reason: str) -> Steps[Figures]:
        if not is_number(keep, 0, 1):
            raise ConfigError(f"keep must be the part of a penalty that stays, 0 to 1, not {keep!r}")
        return self._configure(provider, model, "forgive", str(round(keep * 1000)), reason)

    def _configure(self, provider: str, model: str | None, verb: str, what: str, reason: str) -> Steps[Figures]:
        scope = scope_of(provider, model, self._credential)
        if not isinstance(reason, str):
            raise ConfigError(f"reason must be text, not {reason!r}")

        def steps() -> Steps[Figures]:
            figures = yield from self._tending.configure(scope, verb, what, self._who, reason)
            logger.info("operator %a: %s %a %s (%a)", self._who, verb, scope, what, reason)
            return figures_of(figures)

        return steps()


def _settled(config: Config | None, url: str | None, namespace: str | None, wire: object) -> Config:
    """The settings of a client whose connections are shared; else those that environment and file complete."""
    if wire is not None and config is not None:
        return config.replace(url=url, namespace=namespace)
    return settle(arguments={"url": url, "namespace": namespace}, config=config).config


class Operator(_Verbs):
    """
    Look at a namespace and change it, for every process at once. No instance of it, and without limits of its own.

    Where a verb takes `provider` and `model`: the two name a model; provider alone the provider, "total" the total, and
    "pool:<name>" a pool. What is set stays until it is unset, whoever restarts; `reason` is kept in the journal.

    Args:

        url, namespace, credential, config: As of :class:`ratelease.Client`; environment and file complete them.

        who: Who acts, for the journal; host and process if it is not given.

        wire: Connections to share, as a client does; they are not closed with the operator.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        namespace: str | None = None,
        credential: str | None = None,
        config: Config | None = None,
        who: str | None = None,
        wire: Wire | None = None,
    ) -> None:
        settings = _settled(config, url, namespace, wire)
        self._begin(settings, Endpoint(settings) if wire is None else wire.endpoint, credential, who)
        self._owns_wire = wire is None
        self._wire = Wire(self._endpoint, settings) if wire is None else wire

    def status(self) -> Status:
        """What is in use, what waits, what is set and paused. One call per path, so not one moment's picture."""
        return self._do(self._tending.status())

    def instances(self) -> list[Instance]:
        """The clients that are alive now, in all processes."""
        return self._do(self._tending.instances())

    def journal(self) -> tuple[Deed, ...]:
        """What operators did, the newest first; the last 200."""
        return self._do(self._tending.journal())

    def set_limits(
        self, provider: str, model: str | None = None, limits: Limits | None = None, *, reason: str = ""
    ) -> Figures:
        """
        Replace figures of a scope, for all processes on their next admission; other figures stay as they are.

        Who waits is granted what becomes free at once; what runs stays counted, and is never cut off. Returns all that
        is set on the scope by now.

        Raises:

            ConfigError: `limits` has no figure, or a name cannot be one.
        """
        return self._do(self._set(provider, model, limits, reason))

    def unset_limits(self, provider: str, model: str | None = None, *figures: str, reason: str = "") -> Figures:
        """
        Take figures back that were set ("concurrency", "rpm", "requests/10s"), all of them if none is named.

        The next source holds again at once. Returns what is still set.
        """
        return self._do(self._unset(provider, model, figures, reason))

    def pause(
        self, provider: str, model: str | None = None, *, seconds: Seconds | None = None, reason: str = ""
    ) -> None:
        """Let nobody send on a scope for so many seconds, or until :meth:`resume`. What runs goes on."""
        self._do(self._pause(provider, model, seconds, reason))

    def resume(self, provider: str, model: str | None = None, *, reason: str = "") -> None:
        """
        End the pause of a scope in all processes, by whom- or whatever it was begun; of a provider, also the pauses and
        breakers that failures have begun for its models.
        """
        self._do(self._configure(provider, model, "resume", "", reason))

    def penalize(self, provider: str, model: str | None = None, cause: str = "capacity", *, reason: str = "") -> None:
        """
        Add to the penalty of a scope what this cause weighs, see :class:`ratelease.strategies.Penalty`.

        Raises:

            ConfigError: The scope has no penalty, or it does not know the cause; its message names those it knows.
        """
        self._do(self._penalize(provider, model, cause, reason))

    def forgive(self, provider: str, model: str | None = None, *, keep: float = 0.0, reason: str = "") -> None:
        """
        Take back what failures have cost a scope: with `keep` 0 its penalty and all that strategies have learned; else
        that part of the penalty stays, 0.5 halves it. Pauses are ended by :meth:`resume`.
        """
        self._do(self._forgive(provider, model, keep, reason))

    def reset(
        self, provider: str | None = None, model: str | None = None, *, all: bool = False, reason: str = ""
    ) -> int:
        """
        Clear windows and pauses of a model, a provider with its models, the total, a pool, or without names of all, for
        every instance.

        Leases, waiters and what is set stay, unless `all` is given. Keys of ours that hold a wrong type are removed.
        Returns the number of keys removed.
        """
        return self._do(self._tending.reset(provider, model, everything=all, who=self._who, reason=reason))

    def _do(self, steps: Steps[T]) -> T:
        self._check_open()
        return perform(self._wire, steps, self._config.store_timeout)

    def close(self) -> None:
        """Close the connections; those of a client stay."""
        self._closed = True
        if self._owns_wire:
            self._wire.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncOperator(_Verbs):
    """As :class:`Operator`, for the event loop that it is first used in."""

    def __init__(
        self,
        url: str | None = None,
        *,
        namespace: str | None = None,
        credential: str | None = None,
        config: Config | None = None,
        who: str | None = None,
        wire: AsyncWire | None = None,
    ) -> None:
        settings = _settled(config, url, namespace, wire)
        self._begin(settings, Endpoint(settings) if wire is None else wire.endpoint, credential, who)
        self._owns_wire = wire is None
        self._wire = AsyncWire(self._endpoint, settings) if wire is None else wire

    async def status(self) -> Status:
        """As :meth:`Operator.status`."""
        return await self._do(self._tending.status())

    async def instances(self) -> list[Instance]:
        """As :meth:`Operator.instances`."""
        return await self._do(self._tending.instances())

    async def journal(self) -> tuple[Deed, ...]:
        """As :meth:`Operator.journal`."""
        return await self._do(self._tending.journal())

    async def set_limits(
        self, provider: str, model: str | None = None, limits: Limits | None = None, *, reason: str = ""
    ) -> Figures:
        """As :meth:`Operator.set_limits`."""
        return await self._do(self._set(provider, model, limits, reason))

    async def unset_limits(self, provider: str, model: str | None = None, *figures: str, reason: str = "") -> Figures:
        """As :meth:`Operator.unset_limits`."""
        return await self._do(self._unset(provider, model, figures, reason))

    async def pause(
        self, provider: str, model: str | None = None, *, seconds: Seconds | None = None, reason: str = ""
    ) -> None:
        """As :meth:`Operator.pause`."""
        await self._do(self._pause(provider, model, seconds, reason))

    async def resume(self, provider: str, model: str | None = None, *, reason: str = "") -> None:
        """As :meth:`Operator.resume`."""
        steps = self._configure(provider, model, "resume", "", reason)
        await self._do(steps)

    async def penalize(
        self, provider: str, model: str | None = None, cause: str = "capacity", *, reason: str = ""
    ) -> None:
        """As :meth:`Operator.penalize`."""
        await self._do(self._penalize(provider, model, cause, reason))

    async def forgive(self, provider: str, model: str | None = None, *, keep: float = 0.0, reason: str = "") -> None:
        """As :meth:`Operator.forgive`."""
        await self._do(self._forgive(provider, model, keep, reason))

    async def reset(
        self, provider: str | None = None, model: str | None = None, *, all: bool = False, reason: str = ""
    ) -> int:
        """As :meth:`Operator.reset`."""
        return await self._do(self._tending.reset(provider, model, everything=all, who=self._who, reason=reason))

    async def _do(self, steps: Steps[T]) -> T:
        self._check_open()
        return await perform_async(self._wire, steps, self._config.store_timeout)

    async def close(self) -> None:
        """Close the connections; those of a client stay."""
        self._closed = True
        if self._owns_wire:
            await self._wire.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
