"""Which limits a scope gets: the entries of every source, looked up by name and laid over each other by figure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from .builtin import fallback
from .checks import shown
from .environment import EnvironmentLimits
from .errors import ConfigError
from .limits import Limits, Pool
from .names import check_name, dashed, matches, normal_form, precedence, spellings, split_key

Source = Literal["operator", "argument", "env", "file", "built-in", "fallback", "default"]


@dataclass(frozen=True, slots=True)
class Resolved:
    """The limits of one scope, and where each of their figures comes from. None: nothing speaks of it."""

    limits: Limits | None = None
    sources: Mapping[str, Source] = field(default_factory=dict)


def lay(layers: Iterable[tuple[Source, Limits | None]]) -> Resolved:
    """Lay limits over each other, figure by figure; the first that states a figure decides it."""
    present = [(source, limits) for source, limits in layers if limits is not None]
    figures: dict[str, float] = {}
    sources: dict[str, Source] = {}
    for source, limits in present:
        for name, value in limits.figures.items():
            if name not in figures:
                figures[name], sources[name] = value, source
    if not present:
        return Resolved()
    if len(present) == 1:
        return Resolved(present[0][1], sources)
    strategy = next((limits.strategy for _, limits in present if limits.strategy is not None), None)
    return Resolved(Limits.of_figures(figures, strategy), sources)


class Entries:
    """
    What one source says: an entry for a model is found by its name, by another spelling, or by a pattern.

    Args:

        limits, pools: As :class:`ratelease.Client` takes them.

        faults: What is wrong with them is added here.
    """

    def __init__(
        self, limits: Mapping[str, Limits] | None, pools: Mapping[str, Pool] | None, faults: list[str]
    ) -> None:
        self.total: Limits | None = None
        self.providers: dict[str, Limits] = {}
        self.models: dict[tuple[str, str], Limits] = {}
        self.pools: dict[str, Pool] = {}
        self._keys: set[str] = set()
        self._dashed: dict[tuple[str, str], Limits] = {}
        self._patterns: list[tuple[str, str, Limits]] = []
        for what, given in (("limits", limits), ("pools", pools)):
            if given is not None and not isinstance(given, Mapping):
                faults.append(
                    f"{what} must map names to {'Limits' if what == 'limits' else 'Pool'}, not {shown(given)}"
                )
        for key, value in limits.items() if isinstance(limits, Mapping) else ():
            try:
                self._add(key, value)
            except ConfigError as error:
                faults += error.faults
        for name, pool in pools.items() if isinstance(pools, Mapping) else ():
            try:
                self._add_pool(name, pool)
            except ConfigError as error:
                faults += error.faults
        self._patterns.sort(key=lambda entry: precedence(entry[1]))
        for (provider, model), entry in self.models.items():
            self._dashed[provider, dashed(model)] = entry

    def _add(self, key: str, value: object) -> None:
        provider, model = split_key(key)
        if not isinstance(value, Limits):
            raise ConfigError(f"limits[{key!a}] must be Limits(…), not {shown(value)}")
        if key.casefold() in self._keys:
            raise ConfigError(f"limits[{key!a}] is there twice: upper and lower case are the same")
        self._keys.add(key.casefold())
        if model is None:
            if provider == "total":
                self.total = value
            else:
                self.providers[provider] = value
        elif "*" in model:
            self._patterns.append((provider, model, value))
        else:
            self.models[provider, model] = value

    def _add_pool(self, name: object, pool: object) -> None:
        if not isinstance(name, str) or not name or not isinstance(pool, Pool):
            raise ConfigError(f"pools[{shown(name)}] must be a Pool(…) with a name, not {shown(pool)}")
        try:
            check_name(name, "the pool", "pools={'opus': Pool(…)}")
        except ConfigError as error:
            raise ConfigError(f"pools[{shown(name)}]: {error}") from None
        if name.casefold() in self.pools:
            raise ConfigError(f"pools[{name!a}] is there twice: upper and lower case are the same")
        self.pools[name.casefold()] = pool

    def model(self, provider: str, model: str) -> Limits | None:
        """The entry of a model: the closest spelling of its name, else the longest pattern that matches one."""
        names = list(spellings(model))
        for name in names:
            found = self.models.get((provider, name)) or self._dashed.get((provider, name))
            if found is not None:
                return found
        for owner, pattern, limits in self._patterns:
            if owner == provider and any(matches(pattern, name) or matches(dashed(pattern), name) for name in names):
                return limits
        return None

    def pool(self, name: str) -> Limits | None:
        """The limits of a pool: its own entry, else the longest template ("tenant:*") that matches."""
        if name in self.pools:
            return self.pools[name].limits
        templates = sorted((key for key in self.pools if "*" in key and matches(key, name)), key=precedence)
        return self.pools[templates[0]].limits if templates else None


class LimitBook:
    """
    What one client knows of limits, from all of its sources, and what each scope gets.

    Names are case-folded. None as limits means that the book does not speak of that scope.

    Args:

        limits, pools: The arguments of the client.

        file: The entries of a file. environment: those of the environment. builtin: examples, by key.

    Raises:

        ConfigError: Naming everything that is wrong with the arguments, and models that variables cannot tell apart.
    """

    def __init__(
        self,
        limits: Mapping[str, Limits] | None,
        pools: Mapping[str, Pool] | None,
        *,
        file: Entries | None = None,
        environment: EnvironmentLimits | None = None,
        builtin: Mapping[str, Limits] | None = None,
    ) -> None:
        faults: list[str] = []
        self._argument = Entries(limits, pools, faults)
        self._file = file or Entries(None, None, faults)
        self._environment = environment or EnvironmentLimits({}, "", faults)
        self._builtin = Entries(builtin, None, faults)
        faults += self._clashes()
        if faults:
            raise ConfigError.of(faults)

    def _clashes(self) -> Iterator[str]:
        """Names that are one in the normal form of the environment, of whatever kind."""
        users = (self._argument, self._file)
        spelt: dict[tuple[str, ...], set[str]] = {}
        for name in (name for entries in users for name in entries.providers):
            spelt.setdefault((normal_form(name),), set()).add(name)
        for provider, model in (key for entries in users for key in entries.models):
            spelt.setdefault((normal_form(provider), normal_form(model)), set()).add(f"{provider}/{model}")
        for name in (name for entries in users for name in entries.pools if "*" not in name):
            spelt.setdefault(("POOL", normal_form(name), ""), set()).add(f"pool {name}")
        for form, names in spelt.items():
            if len(names) > 1 and all(form[:2]):
                yield (
                    f"{' and '.join(ascii(name) for name in sorted(names))} are one name to environment variables "
                    f"({'_'.join(part for part in form if part)}): use one spelling, or a pattern for one of them"
                )

    # ---- what a scope gets -------------------------------------------------------------------------------------

    def resolve(self, provider: str, model: str, unknown: str = "unlimited") -> Resolved:
        """
        The limits of a model, of all sources.

        `unknown` says what it gets that nothing speaks of: "fallback" brings the built-in entries as well.

        Raises:

            ConfigError: Nothing speaks of it and unknown="error".
        """
        argument, file = self._argument.model(provider, model), self._file.model(provider, model)
        shared = self.pools_of(provider, model) or any(
            provider in entries.providers for entries in (self._argument, self._file)
        )
        # Whoever speaks of a model in any way, or wants unknown ones unlimited or refused, wants nothing assumed.
        assumed = argument is None and file is None and not shared and unknown == "fallback"
        found = lay(
            (
                ("argument", argument),
                ("env", self._environment.model(provider, model)),
                ("file", file),
                ("built-in", self._builtin.model(provider, model) if assumed else None),
            )
        )
        if found.limits is not None or self.provider(provider) is not None or self.pools_of(provider, model):
            return found
        if unknown == "fallback":
            return lay([("fallback", fallback())])
        if unknown == "error":
            name = f"{provider}/{model}"
            raise ConfigError(
                f"no limits are known for {name} and unknown='error': add limits={{{name!r}: Limits(…)}}, or an entry "
                f"for {provider!r}"
            )
        return found

    def resolve_provider(self, provider: str) -> Resolved:
        """The limits that all models of a provider share."""
        argument, file = (entries.providers.get(provider) for entries in (self._argument, self._file))
        return lay((("argument", argument), ("env", self._environment.provider(provider)), ("file", file)))

    def resolve_pool(self, name: str) -> Resolved:
        """The limits of a pool, by its own entry or a template."""
        argument, file = self._argument.pool(name), self._file.pool(name)
        return lay((("argument", argument), ("env", self._environment.pool(name)), ("file", file)))

    def resolve_total(self) -> Resolved:
        """The limits of everything together."""
        env = self._environment.total
        return lay((("argument", self._argument.total), ("env", env), ("file", self._file.total)))

    def model(self, provider: str, model: str) -> Limits | None:
        """The limits of a model, or None where no entry speaks of it."""
        return self.resolve(provider, model).limits

    def provider(self, provider: str) -> Limits | None:
        """The limits that all models of a provider share."""
        return self.resolve_provider(provider).limits

    def pool(self, name: str) -> Limits | None:
        """The limits of a pool."""
        return self.resolve_pool(name).limits

    @property
    def total(self) -> Limits | None:
        """The limits of everything together."""
        return self.resolve_total().limits

    def pools_of(self, provider: str, model: str) -> list[str]:
        """The pools that a model belongs to by configuration, in order of name."""
        names = [f"{provider}/{name}" for name in spellings(model)]
        found = set()
        for entries in (self._file, self._argument):
            for pool, definition in entries.pools.items():
                keys = [key.casefold() for key in definition.models]
                if any(matches(key, name) or matches(dashed(key), name) for key in keys for name in names):
                    found.add(pool)
        return sorted(found)

    # ---- what there is -----------------------------------------------------------------------------------------

    @property
    def known_models(self) -> list[tuple[str, str]]:
        """The models that have an entry of the user's own."""
        return sorted({*self._argument.models, *self._file.models})

    @property
    def known_providers(self) -> list[str]:
        """The providers that have an entry of the user's own."""
        return sorted({*self._argument.providers, *self._file.providers})

    @property
    def known_pools(self) -> list[str]:
        """The pools that have an entry of their own. Templates are none."""
        return sorted(name for name in {*self._argument.pools, *self._file.pools} if "*" not in name)
