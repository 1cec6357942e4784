"""
Dynamic parallelism: how many calls of a model may run at once, as a function, with the state shared by the fleet.

    adjuster = get_parallelism_adjuster()
    workers = adjuster.get_parallelism("openai", "gpt-4o")      4, and less after failures, in every process
    adjuster.adjust_for_error("openai", "gpt-4o", "429")

It is the strategy "parallelism" of :class:`ratelease.Client` without leases: for programs that keep their own pool of
workers and only want to know its size. Methods block on the store for one round trip; they are safe in threads.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Annotated, Any, Literal, Self

from pydantic import model_validator

from .book import LimitBook
from .checks import Checked, number, truth, whole
from .client import Client
from .config import Config
from .core.health import health_of
from .core.keys import decode, encode
from .core.model import Outcome
from .core.plain import Plain
from .core.reaction import Change, Reaction
from .core.status import ScopeStatus
from .errors import ConfigError
from .lease import Lease
from .limits import Limits
from .names import LONGEST_NAME
from .settings import settle
from .shell import Seconds
from .store.log import logger
from .strategies import MOST, Parallelism

ErrorType = Literal["429", "timeout", "error"]

_OUTCOMES: dict[str, Outcome] = {"429": Outcome.THROTTLED, "timeout": Outcome.TIMEOUT, "error": Outcome.ERROR}

# The provider under which calls are counted that run beyond the parallelism.
_BEYOND = "ratelease-beyond"

# History and response times that the store keeps of one model.
MOST_KEPT = 100


class DynamicAdjusterConfig(Checked, frozen=True):
    """
    How an adjuster behaves. Times are seconds.

    Args:

        min_parallelism, base_parallelism, max_parallelism: The parallelism stays between the first and the last, and
            begins and recovers at the base.

        reduction_on_429, reduction_on_timeout, reduction_on_error: The part that such a failure takes away, once an
            episode.

        increase_on_recovery: The part, at least 1, that every recovery_interval without a failure gives back.

        error_window: How far back failures count for health and the recommended backoff.

        max_error_history, max_response_samples: How many are looked at, 1 to 100.

        probe: Grow above the base where it is in use and calls succeed.

        whole_numbers: Cut to whole numbers at each step.

    Raises:

        ConfigError: A figure is outside its range, or not known.
    """

    min_parallelism: Annotated[int, whole(1, MOST)] = 1
    base_parallelism: Annotated[int, whole(1, MOST)] = 4
    max_parallelism: Annotated[int, whole(1, MOST)] = 16
    reduction_on_429: Annotated[float, number(0, 1)] = 0.3
    reduction_on_timeout: Annotated[float, number(0, 1)] = 0.1
    reduction_on_error: Annotated[float, number(0, 1)] = 0.05
    increase_on_recovery: Annotated[float, number(0, 10)] = 0.1
    recovery_interval: Annotated[float, number(0.01, 604_800, " seconds")] = 60.0
    error_window: Annotated[float, number(0.01, 604_800, " seconds")] = 300.0
    max_error_history: Annotated[int, whole(1, MOST_KEPT)] = MOST_KEPT
    max_response_samples: Annotated[int, whole(1, MOST_KEPT)] = 50
    probe: Annotated[bool, truth] = True
    whole_numbers: Annotated[bool, truth] = False

    @model_validator(mode="after")
    def _has_a_range(self) -> Self:
        # A maximum that is not given is raised to the base.
        most = self.max_parallelism if "max_parallelism" in self.model_fields_set else MOST
        if not self.min_parallelism <= self.base_parallelism <= most:
            raise ValueError(
                f"min_parallelism ({self.min_parallelism:,}), base_parallelism ({self.base_parallelism:,}) and "
                f"max_parallelism ({self.max_parallelism:,}) must be in this order"
            )
        return self

    @property
    def strategy(self) -> Parallelism:
        """The same as a strategy of limits."""
        return Parallelism(
            min=self.min_parallelism,
            base=self.base_parallelism,
            max=self.max_parallelism,
            reduction_on_429=self.reduction_on_429,
            reduction_on_timeout=self.reduction_on_timeout,
            reduction_on_error=self.reduction_on_error,
            increase_on_recovery=self.increase_on_recovery,
            recovery_interval=self.recovery_interval,
            probe=self.probe,
            whole_numbers=self.whole_numbers,
        )


@dataclass(frozen=True, slots=True)
class ParallelismConfig(Plain):
    """
    How parallel one model may run, and why. `last_adjusted_at` is seconds since 1970 by the store's clock; None before
    any adjustment.
    """

    base_parallelism: int
    current_parallelism: int
    min_parallelism: int
    max_parallelism: int
    adjustment_reason: str
    last_adjusted_at: float | None


@dataclass(frozen=True, slots=True)
class ProviderHealth(Plain):
    """How calls of one model go, in the whole fleet. Times are seconds; no sample yet: `average_response` None."""

    healthy: bool
    active_requests: int
    recent_429_count: int
    average_response: float | None
    recommended_backoff: float


@dataclass(frozen=True, slots=True)
class AdjusterState(Plain):
    """What an adjuster knows of one model."""

    config: ParallelismConfig
    health: ProviderHealth


class _Client(Client):
    """The adjuster's own client: every model has the strategy, and nothing else limits anything."""

    def _begin(self) -> None:
        # Limits of the environment and of files are for clients that hand out leases; here they would be the base.
        self._book = LimitBook({_BEYOND: Limits(strategy="off")}, None)
        super()._begin()

    def look(self, provider: str, model: str) -> list[ScopeStatus]:
        """The scopes of a model as the store has them now."""
        return self._perform(self._tending.scopes(self._line(provider, model, ())))

    def models(self) -> dict[tuple[str, str], ScopeStatus]:
        """The scope of each model of this client's credential that the store knows."""
        tail = [self._rt.credential] if self._rt.credential else []
        found = {}
        for scope in self.status().scopes:
            kind, *parts = scope.key.split(":")
            if kind == "m" and parts[2:] == tail:
                found[decode(parts[0]), decode(parts[1])] = scope
        return found


class DynamicParallelismAdjuster:
    """
    Manages how many calls of each model may run at once.

    Args:

        config: How it behaves. Adjusters of the same store and namespace should agree; the newest decides.

        settings: The config of its client: times and sizes, and where the store is.

        options: Further arguments of :class:`ratelease.Client`, such as url, but no limits and no pools; those of the
            environment or a file do not hold for it either. The namespace is "<namespace>.parallelism": what adjusters
            learn is apart from what clients that hand out leases do.

    Raises:

        ConfigError: An argument is wrong.
    """

    def __init__(
        self, config: DynamicAdjusterConfig | None = None, *, settings: Config | None = None, **options: Any
    ) -> None:
        self._config = DynamicAdjusterConfig() if config is None else config
        if not isinstance(self._config, DynamicAdjusterConfig):
            raise ConfigError(f"config must be a DynamicAdjusterConfig, not {config!r:.60}")
        if unfit := sorted({"limits", "pools"} & options.keys()):
            raise ConfigError(f"an adjuster takes no {' and no '.join(unfit)}: its figures are those of its config")
        # What it says is true of the shared state alone: where the store is away, it raises.
        settings = (settings or Config()).replace(
            strategy=self._config.strategy, unknown="unlimited", on_unavailable="closed"
        )
        shared = settle(arguments={"namespace": options.pop("namespace", None)}, config=settings).config.namespace
        self._client = _Client(config=settings, namespace=f"{shared}.parallelism", **options)
        # None stands for a call that the store has not counted.
        self._running: dict[tuple[str, str], list[Lease | None]] = {}
        self._shares: dict[tuple[str, str], int] = {}
        self._lock = threading.RLock()

    # ---- what it says ------------------------------------------------------------------------------------------

    def get_parallelism(self, provider: str, model: str) -> int:
        """How many calls of a model this process may run at once; from 1."""
        current = self.get_config(provider, model).current_parallelism
        with self._lock:
            count = self._shares.get(_key(provider, model), 0)
        return max(current // count, 1) if count > 0 else current

    def get_config(self, provider: str, model: str) -> ParallelismConfig:
        """The parallelism of the whole fleet, and why it is so."""
        _own(provider)
        return self._config_of(self._client.look(provider, model)[0].reaction)

    def get_health(self, provider: str, model: str) -> ProviderHealth:
        """How its calls go."""
        _own(provider)
        scopes = self._client.look(provider, model)
        beyond = self._client.look(_BEYOND, _joined(provider, model))[0].in_flight
        return self._health_of(scopes, beyond + self._uncounted(provider, model))

    def get_all_states(self) -> dict[str, AdjusterState]:
        """Everything that is known: "provider/model" -> its state. One round trip a model."""
        models = self._client.models()
        beyond = {model: scope.in_flight for (provider, model), scope in models.items() if provider == _BEYOND}
        states = {}
        for (provider, model), scope in sorted(models.items(), key=lambda entry: entry[0]):
            if provider != _BEYOND:
                further = beyond.get(_joined(provider, model), 0) + self._uncounted(provider, model)
                health = self._health_of([scope], further)
                states[f"{provider}/{model}"] = AdjusterState(self._config_of(scope.reaction), health)
        return states

    def format_summary(self) -> str:
        """Everything that is known, as text for people."""
        lines = ["Dynamic parallelism:"]
        for label, state in self.get_all_states().items():
            config, health = state.config, state.health
            response = "" if health.average_response is None else f", {health.average_response * 1000:.0f} ms a call"
            lines.append(
                # As ASCII: names come from the store.
                f"  {ascii(label)[1:-1]}: {config.current_parallelism} of {config.base_parallelism} "
                f"(at most {config.max_parallelism}), {'healthy' if health.healthy else 'not healthy'}, "
                f"{health.active_requests} active, {health.recent_429_count} recent 429s{response}, "
                f"because: {config.adjustment_reason}"
            )
        return "\n".join(lines if len(lines) > 1 else [*lines, "  no model has been used yet"])

    def _config_of(self, reaction: Reaction) -> ParallelismConfig:
        own = self._config
        base = own.base_parallelism if reaction.base is None else reaction.base
        return ParallelismConfig(
            base_parallelism=base,
            current_parallelism=base if reaction.limit is None else reaction.limit,
            min_parallelism=own.min_parallelism,
            max_parallelism=max(own.max_parallelism, base),
            adjustment_reason=reaction.reason,
            last_adjusted_at=reaction.events[-1].at if reaction.events else None,
        )

    def _uncounted(self, provider: str, model: str) -> int:
        with self._lock:
            return self._running.get(_key(provider, model), []).count(None)

    def _health_of(self, scopes: Sequence[ScopeStatus], beyond: int) -> ProviderHealth:
        own = self._config
        health = health_of(
            scopes, window=own.error_window, samples=own.max_response_samples, most=own.max_error_history
        )
        return ProviderHealth(
            healthy=health.healthy,
            active_requests=health.in_flight + beyond,
            recent_429_count=health.recent_429s,
            average_response=health.average_response,
            recommended_backoff=health.recommended_backoff,
        )

    # ---- what it is told ---------------------------------------------------------------------------------------

    def adjust_for_error(self, provider: str, model: str, error_type: ErrorType, details: str = "") -> None:
        """
        Reduce the parallelism of a model, for the whole fleet: once for all failures of one time.

        Args:

            error_type: "429", "timeout" or "error".

            details: For this process' log alone.

        Raises:

            ConfigError: The type is none of these.
        """
        outcome = _OUTCOMES.get(error_type) if isinstance(error_type, str) else None
        if outcome is None:
            raise ConfigError(f"error_type must be one of {', '.join(_OUTCOMES)}, not {error_type!r:.60}")
        _own(provider)
        self._client.report(provider, model, outcome)
        logger.debug("%a/%a: %s %a", provider, model, error_type, details)

    def attempt_recovery(self, provider: str, model: str) -> None:
        """Look whether a step of recovery is due. Time alone decides that, so nobody has to call."""
        _own(provider)
        self._client.look(provider, model)

    def record_success(self, provider: str, model: str, response: Seconds) -> None:
        """Note a call that succeeded, and the seconds it took."""
        _own(provider)
        self._client.report(provider, model, Outcome.OK, response=response)

    def request_started(self, provider: str, model: str) -> None:
        """
        Count a call that begins. The whole fleet is counted; what a process has begun that dies is forgotten.

        While an operator has paused everything, it is counted in this process alone.
        """
        key = _key(provider, model)
        # Whoever calls decides how many run: those beyond the limit are counted beside it. Nothing here waits.
        beyond = (_BEYOND, _joined(provider, model))
        taken = self._client.try_acquire(provider, model) or self._client.try_acquire(*beyond) or None
        with self._lock:
            self._running.setdefault(key, []).append(taken)

    def request_completed(self, provider: str, model: str) -> None:
        """Count a call that has ended. More of them than have begun in this process change nothing."""
        with self._lock:
            running = self._running.get(_key(provider, model))
            lease = running.pop() if running else None
        if lease is not None:
            lease.release(Outcome.IGNORED)

    def apply_cross_instance_limits(self, provider: str, model: str, instance_count: int) -> None:
        """Divide what get_parallelism tells this process by the number of instances; 0 divides nothing."""
        if isinstance(instance_count, bool) or not isinstance(instance_count, int) or instance_count < 0:
            raise ConfigError(f"instance_count must be a whole number from 0, not {instance_count!r:.60}")
        with self._lock:
            self._shares[_key(provider, model)] = instance_count

    def on_parallelism_change(self, callback: Callable[[Change], Any]) -> Callable[[], None]:
        """Have `callback` called whenever a parallelism has changed, see :meth:`ratelease.Client.on_change`."""
        return self._client.on_change(callback)

    # ---- its end -----------------------------------------------------------------------------------------------

    def reset(self, provider: str, model: str) -> None:
        """Forget what was learned of a model, for the whole fleet."""
        _own(provider)
        self._client.reset(provider, model)

    def reset_all(self) -> None:
        """Forget everything that was learned."""
        self._client.reset()

    def shutdown(self) -> None:
        """Stop. Harmless when repeated."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()


def _key(provider: str, model: str) -> tuple[str, str]:
    return _own(provider), str(model).casefold()


def _own(provider: str) -> str:
    """
    The provider, case-folded.

    Raises:

        ConfigError: It is the one that the adjuster itself counts under.
    """
    folded = str(provider).casefold()
    if folded == _BEYOND:
        raise ConfigError(f"a provider cannot be named {_BEYOND}: calls beyond the parallelism are counted under it")
    return folded


def _joined(provider: str, model: str) -> str:
    """The name under which the calls of a model are counted that run beyond its parallelism."""
    # As in keys, where no part holds a colon: nobody's names make another's together.
    name = ":".join(map(encode, _key(provider, model))).casefold()
    return name if len(name) <= LONGEST_NAME else hashlib.sha256(name.encode()).hexdigest()


_singleton: DynamicParallelismAdjuster | None = None
_singleton_lock = threading.Lock()


def get_parallelism_adjuster() -> DynamicParallelismAdjuster:
    """The adjuster of this process, with the default settings, at the address that the environment gives."""
    global _singleton  # noqa: PLW0603 - the one of the process
    with _singleton_lock:
        if _singleton is None:
            _singleton = DynamicParallelismAdjuster()
        return _singleton


def create_parallelism_adjuster(
    config: DynamicAdjusterConfig | None = None, **figures: Any
) -> DynamicParallelismAdjuster:
    """Another adjuster: `config`, or the default with these figures of :class:`DynamicAdjusterConfig`."""
    if config is not None and figures:
        raise ConfigError("give a config, or its figures, not both")
    return DynamicParallelismAdjuster(config or DynamicAdjusterConfig(**figures))


def reset_parallelism_adjuster() -> None:
    """Shut the adjuster of this process down; the next get_parallelism_adjuster() makes a new one."""
    global _singleton
    with _singleton_lock:
        adjuster, _singleton = _singleton, None
    if adjuster is not None:
        adjuster.shutdown()


def get_parallelism(provider: str, model: str) -> int:
    """As :meth:`DynamicParallelismAdjuster.get_parallelism`, of the adjuster of this process."""
    return get_parallelism_adjuster().get_parallelism(provider, model)


def adjust_for_error(provider: str, model: str, error_type: ErrorType) -> None:
    """As :meth:`DynamicParallelismAdjuster.adjust_for_error`, of the adjuster of this process."""
    get_parallelism_adjuster().adjust_for_error(provider, model, error_type)


def attempt_recovery(provider: str, model: str) -> None:
    """As :meth:`DynamicParallelismAdjuster.attempt_recovery`, of the adjuster of this process."""
    get_parallelism_adjuster().attempt_recovery(provider, model)


def format_parallelism_summary() -> str:
    """As :meth:`DynamicParallelismAdjuster.format_summary`, of the adjuster of this process."""
    return get_parallelism_adjuster().format_summary()
