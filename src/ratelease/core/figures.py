"""What holds for each scope, figure by figure, and who says so."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from ..book import LimitBook, Resolved, Source
from ..limits import SHORT_FORMS, scaled
from .keys import Path, decode, encode, make_path, scope_label
from .plain import Plain

_NOTHING: Mapping[str, float] = {}


@dataclass(frozen=True, slots=True)
class Figure(Plain):
    """
    One figure of a scope.

    `name` is that of :class:`ratelease.Limits`, or "requests/10s" for a further rate; `value` is what was stated,
    `effective` what is left of it by the headroom, and `source` is who stated it.
    """

    name: str
    value: float
    effective: float
    source: Source


@dataclass(frozen=True, slots=True)
class ScopeLimits(Plain):
    """
    The figures of one scope. What is not there is not limited. `key` names the scope in Redis.

    `estimates`, of a model: the tokens that a call reserves which gives none, where a rate counts them.
    """

    scope: str
    key: str
    figures: tuple[Figure, ...] = ()
    estimates: dict[str, int] = field(default_factory=dict)

    def figure(self, name: str) -> Figure | None:
        """The figure of this name, such as "rpm" or "concurrency"."""
        return next((figure for figure in self.figures if figure.name == name), None)


@dataclass(frozen=True, slots=True)
class EffectiveLimits(Plain):
    """The limits that hold for one client, scope by scope, with the source of every figure."""

    scopes: tuple[ScopeLimits, ...] = ()

    def scope(self, label: str) -> ScopeLimits | None:
        """The scope of this label, such as "openai/gpt-4o", "openai", "pool:opus" or "total"."""
        return next((scope for scope in self.scopes if scope.scope == label.casefold()), None)


def effective_limits(
    book: LimitBook,
    paths: Iterable[Path],
    *,
    credential: str | None,
    unknown: str,
    headroom: tuple[float, Source] = (1.0, "default"),
    configured: bool = True,
    overrides: Mapping[str, Mapping[str, float]] = {},
    estimates: Callable[[str, str], Mapping[str, int]] = lambda _provider, _model: {},
) -> EffectiveLimits:
    """
    What the book gives to each scope that is known.

    Args:

        book: The entries of all sources.

        paths: The paths whose scopes are known because they are used.

        credential: The label's hash, as in keys.

        unknown: What a model gets that nothing speaks of.

        headroom: That of scopes whose limits state none, and who states it.

        configured: Whether scopes are known because they have an entry.

        overrides: What operators have set: key of the scope -> figure -> value.

        estimates: What a call of a model reserves that gives no figure of its own, by provider and model.

    Raises:

        ConfigError: Nothing speaks of one of the models, and unknown="error".
    """
    keys = {scope for path in paths for scope in path.scopes}
    if configured:
        keys |= {*_configured(book, credential), *overrides}
    scopes = []
    for key in sorted(keys):
        figures = _figures(_resolve(book, key, unknown), headroom, overrides.get(key, _NOTHING))
        kind, *parts = key.split(":")
        reserved = dict(estimates(*map(decode, parts[:2]))) if kind == "m" else {}
        scopes.append(ScopeLimits(scope_label(key), key, figures, reserved))
    return EffectiveLimits(tuple(scopes))


def _configured(book: LimitBook, credential: str | None) -> Iterable[str]:
    for provider, model in book.known_models:
        yield make_path(provider, model, (), credential).scopes[0]
    for provider in book.known_providers:
        yield make_path(provider, "-", (), credential).scopes[1]
    for pool in book.known_pools:
        yield f"g:{encode(pool)}"
    if book.total is not None:
        yield "t"


def _resolve(book: LimitBook, key: str, unknown: str) -> Resolved:
    kind, *parts = key.split(":")
    names = [decode(part) for part in parts]
    if kind == "m":
        return book.resolve(names[0], names[1], unknown)
    if kind == "g":
        return book.resolve_pool(names[0])
    return book.resolve_provider(names[0]) if kind == "p" else book.resolve_total()


def _figures(found: Resolved, headroom: tuple[float, Source], overrides: Mapping[str, float]) -> tuple[Figure, ...]:
    stated: dict[str, tuple[float, Source]] = {}
    if found.limits is not None:
        stated = {name: (value, found.sources[name]) for name, value in found.limits.figures.items()}
    stated |= {name: (value, "operator") for name, value in overrides.items()}
    if stated and headroom[0] < 1:
        stated.setdefault("headroom", headroom)
    part = stated.get("headroom", (1.0, ""))[0]
    return tuple(
        Figure(name, value, scaled(int(value), part) if "/" in name or name in SHORT_FORMS else value, source)
        for name, (value, source) in stated.items()
    )
