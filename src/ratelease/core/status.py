"""What people see of the store: limits and use per scope, queues per path."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .instances import Instance
from .keys import Path, scope_label
from .model import UNTIL_RESUMED, Figures, dimension_label, figures_of
from .plain import Plain
from .reaction import Reaction, read_reaction
from .scripts import header, text
from .upstream import UsageStatus, read_usage


@dataclass(frozen=True, slots=True)
class RateStatus(Plain):
    """One rate of a scope: what of it counts now."""

    dimension: str
    used: int
    limit: int

    @property
    def remaining(self) -> int:
        """What is left of it now."""
        return max(self.limit - self.used, 0)


@dataclass(frozen=True, slots=True)
class ScopeStatus(Plain):
    """
    One scope. `concurrency` is None where there is no limit; `in_flight` is counted all the same.

    `key` is the part of its Redis keys that names it. `concurrency` is what holds now, reduced as `reaction` tells.
    `resumes_in`: seconds that a pause still lasts, None with `paused` until somebody resumes. `overrides`: what an
    operator has set. `agreed`: what holds without it, by the instance of that `generation` (-1: none).
    `average_held`, of a model: seconds that its leases last, over the latest ones. `usage`: what the provider says of
    it, where that is watched. Of `in_flight`, so many `cooling` have ended, and so many `held` may run on.
    """

    scope: str
    key: str
    in_flight: int
    concurrency: int | None
    rates: tuple[RateStatus, ...]
    waiting_paths: int
    paused: bool = False
    resumes_in: float | None = None
    overrides: Figures = field(default_factory=dict)
    agreed: Figures = field(default_factory=dict)
    generation: int = -1
    average_held: float | None = None
    reaction: Reaction = field(default_factory=Reaction)
    usage: UsageStatus | None = None
    cooling: int = 0
    held: int = 0


@dataclass(frozen=True, slots=True)
class QueueStatus(Plain):
    """One path with callers parked: how many, and how many seconds the first of them has waited."""

    path: str
    scopes: tuple[str, ...]
    waiting: int
    head_waited: float


@dataclass(frozen=True, slots=True)
class Disagreement(Plain):
    """
    An instance whose limits are not those in use.

    `ours` is what it was started with, `agreed` what the newest instance of the scope has brought and all obey.
    """

    scope: str
    instance: str
    host: str
    pid: int
    ours: Figures
    agreed: Figures


@dataclass(frozen=True, slots=True)
class Status(Plain):
    """
    A namespace: its scopes, queues and instances. As text, a line on where it is, and one on each scope.

    `store` is its address without secrets, `prefix` what its keys begin with. Clients that see different ones, or
    fewer instances than there are, do not share limits. `disagreements` names the instances that were started with
    other limits than those in use.

    `lost` and `unavailable_admissions` are sums over the instances that are alive: leases lost, and leases admitted
    while the store was away, by policy.
    """

    store: str
    namespace: str
    prefix: str = ""
    scopes: tuple[ScopeStatus, ...] = ()
    queues: tuple[QueueStatus, ...] = ()
    instances: int = 0
    lost: int = 0
    disagreements: tuple[Disagreement, ...] = ()
    unavailable_admissions: dict[str, int] = field(default_factory=dict)
    epoch: str = field(default="", repr=False)

    def scope(self, label: str) -> ScopeStatus | None:
        """The scope of this label, such as "openai/gpt-4o", "openai", "pool:opus" or "total"."""
        return next((scope for scope in self.scopes if scope.scope == label.casefold()), None)

    def __str__(self) -> str:
        lines = [f"{self.store} namespace={self.namespace!a} prefix={self.prefix} instances={self.instances}"]
        for scope in self.scopes:
            most = f" of {scope.concurrency}" if scope.concurrency is not None else ""
            uses = [f"{scope.in_flight}{most} in flight"]
            uses += [f"{rate.used} of {rate.limit} {rate.dimension}" for rate in scope.rates]
            # As ASCII: names come from the store.
            lines.append(f"{ascii(scope.scope)[1:-1]}: {', '.join(uses)}{', paused' if scope.paused else ''}")
        return "\n".join(lines)


def disagreements(scopes: Iterable[ScopeStatus], instances: Iterable[Instance]) -> tuple[Disagreement, ...]:
    """Which instances have said other limits in their heartbeats than what is agreed on."""
    agreed = {scope.key: scope for scope in scopes if scope.generation > 0}
    return tuple(
        Disagreement(scope.scope, instance.id, instance.host, instance.pid, figures_of(spec), scope.agreed)
        for instance in instances
        for key, spec in instance.limits.items()
        if (scope := agreed.get(key)) is not None and figures_of(spec) != scope.agreed
    )


def read_snapshot(path: Path, reply: Any) -> tuple[list[ScopeStatus], QueueStatus | None]:
    """What snapshot.lua says of one path."""
    if not isinstance(reply, list) or not reply or reply[0] != 0:
        header(reply)
    _, now, _, waiting, head_waited, held, _ = reply[:7]
    at, scopes = 7, []
    for scope in path.scopes:
        generation, agreed, _, override, pause, use, waiting_paths = reply[at : at + 7]
        reaction = read_reaction(reply[at + 7 : at + 16], now)
        usage, (cooling, held_slots) = read_usage(reply[at + 16 : at + 21], now), reply[at + 21 : at + 23]
        limit, rates = reply[at + 7], reply[at + 23]
        at += 24
        found = []
        for _ in range(rates):
            name, used, most = reply[at : at + 3]
            found.append(RateStatus(dimension_label(text(name)), used, most))
            at += 3
        scopes.append(
            ScopeStatus(
                scope=scope_label(scope),
                key=scope,
                in_flight=use,
                concurrency=limit if limit >= 0 else None,
                rates=tuple(found),
                waiting_paths=waiting_paths,
                paused=pause > now,
                resumes_in=(pause - now) / 1000 if now < pause < UNTIL_RESUMED else None,
                overrides=figures_of(text(override)),
                agreed=figures_of(text(agreed)),
                generation=generation,
                average_held=held / 1000 if scope is path.scopes[0] and held >= 0 else None,
                reaction=reaction,
                usage=usage,
                cooling=cooling,
                held=held_slots,
            )
        )
    queue = None
    if waiting:
        labels = tuple(map(scope_label, path.scopes))
        queue = QueueStatus(path.name, labels, waiting, max(head_waited, 0) / 1000)
    return scopes, queue
