"""What environment variables say: settings by fixed names, limits by the normal form of what they are for."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from .checks import shown
from .config import RANGES, Config
from .limits import Limits
from .names import normal_form, spellings

SETTINGS_PREFIX = "RATELEASE_"
TIER_PREFIX = "RATELEASE_TIER_"

FIGURES = ("RPM", "TPM", "ITPM", "OTPM", "RPD", "TPD", "BURST", "CONCURRENCY")

LONGEST_VALUE = 4096

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)


def _milliseconds(name: str, text: str, relaxed: bool) -> float:
    low, high = RANGES[name]
    bounds = f"a whole number of milliseconds from {low * 1000:,.0f}"
    if math.isfinite(high):
        bounds += f" to {high * 1000:,.0f}"
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"must be {bounds}, not {shown(text)}")
    value = int(text) / 1000
    if not (value >= 0 if relaxed else low <= value) or value > high:
        raise ValueError(f"must be {bounds}, not {shown(text)}")
    return value


def _flag(_: str, text: str, relaxed: bool) -> bool:
    del relaxed
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "false", "no", "off"):
        return False
    raise ValueError(f"must be 1, true, yes, on, or 0, false, no, off, not {shown(text)}")


def _count(_: str, text: str, relaxed: bool) -> object:
    del relaxed
    # What is no number is passed on: the setting itself says what it takes.
    return int(text) if _WHOLE.fullmatch(text) else text


def _text(_: str, text: str, relaxed: bool) -> str:
    del relaxed
    return text


# What follows the prefix -> the setting, and how its text is read.
SETTINGS: dict[str, tuple[str, Callable[[str, str, bool], Any]]] = {
    "URL": ("url", _text),
    "NAMESPACE": ("namespace", _text),
    "POLL_MS": ("poll", _milliseconds),
    "TIMEOUT_MS": ("store_timeout", _milliseconds),
    "HEARTBEAT_MS": ("heartbeat", _milliseconds),
    "LEASE_TTL_MS": ("lease_ttl", _milliseconds),
    "DEFAULT_TIMEOUT_MS": ("default_timeout", _milliseconds),
    "MODE": ("mode", _text),
    "REQUIRE_SHARED": ("require_shared", _flag),
    "ON_UNAVAILABLE": ("on_unavailable", _text),
    "EXPECTED_INSTANCES": ("expected_instances", _count),
    "ENV_PREFIX": ("env_prefix", _text),
    "CONFIG": ("config_file", _text),
    "PROVIDER_TIER": ("tier", _text),
}


# Suffixes that people would expect of the other settings, with the setting.
NO_VARIABLES = {
    f"{name.upper()}{unit}": name
    for name in sorted(Config.model_fields.keys() - {name for name, _ in SETTINGS.values()} - {"relaxed"})
    for unit in ("", "_MS")
}


def variable_of(setting: str) -> str:
    """The variable of a setting."""
    return SETTINGS_PREFIX + next(suffix for suffix, (name, _) in SETTINGS.items() if name == setting)


def read_settings(environment: Mapping[str, str], faults: list[str], *, relaxed: bool = False) -> dict[str, Any]:
    """
    Read the settings that the environment gives, by name: those of :class:`Config`, and mode, config_file, tier.

    A variable that is a known one but for a letter or two is a fault, and so is one named after a setting that has
    none; others of this prefix may be anybody's.
    """
    given: dict[str, Any] = {}
    for variable, value in sorted(environment.items()):
        suffix = variable.removeprefix(SETTINGS_PREFIX)
        if suffix == variable:
            continue
        if suffix not in SETTINGS:
            _check_stranger(variable, suffix, faults)
            continue
        name, read = SETTINGS[suffix]
        if not value.strip() or len(value) > LONGEST_VALUE:
            faults.append(f"{variable} is {'empty: unset it, or give a value' if len(value) < 9 else 'too long'}")
            continue
        try:
            given[name] = read(name, value.strip(), relaxed)
        except ValueError as error:
            faults.append(f"{variable} {error}")
    return given


def _check_stranger(variable: str, suffix: str, faults: list[str]) -> None:
    """Refuse what was surely meant as a setting."""
    # Others are left alone: Kubernetes gives RATELEASE_PORT to pods beside a service called ratelease.
    close = get_close_matches(suffix, SETTINGS, n=1, cutoff=0.8)
    renamed = next(
        (known for known, (name, _) in SETTINGS.items() if suffix in (name.upper(), f"{name.upper()}_MS")), None
    )
    if suffix in NO_VARIABLES:
        name = NO_VARIABLES[suffix]
        faults.append(f"{variable} is not read, since {name} has no variable: set it in the file, or as an argument")
    elif renamed or (close and not suffix.startswith(("LIMIT_", "TIER_"))):
        faults.append(f"{variable} is not known: did you mean {SETTINGS_PREFIX}{renamed or close[0]}?")


def read_tiers(environment: Mapping[str, str], faults: list[str]) -> dict[str, tuple[str, str]]:
    """The tiers that the environment chooses: normal form of the provider -> (tier, variable)."""
    tiers: dict[str, tuple[str, str]] = {}
    for variable, value in sorted(environment.items()):
        if variable.startswith(TIER_PREFIX):
            provider = normal_form(variable.removeprefix(TIER_PREFIX))
            if not provider or not value.strip():
                faults.append(f"{variable} must name a tier, and its provider as in {TIER_PREFIX}OPENAI=tier2")
            elif provider in tiers:
                faults.append(f"{tiers[provider][1]} and {variable} mean the same provider: unset one")
            else:
                tiers[provider] = (value.strip(), variable)
    return tiers


class EnvironmentLimits:
    """
    The limits that variables state: <prefix><PROVIDER>_<MODEL>_RPM, <prefix><PROVIDER>_CONCURRENCY, <prefix>TOTAL_TPM.

    Names are compared by their normal form. Underscores inside a name do not matter: a variable means a scope if it
    can be cut at one of its underscores into the normal forms of provider and model.

    Args:

        environment: Variables.

        prefix: Of those that state limits.

        faults: What is wrong with them is added here.
    """

    def __init__(self, environment: Mapping[str, str], prefix: str, faults: list[str]) -> None:
        values: dict[tuple[str, ...], dict[str, tuple[str, str]]] = {}
        settings = {SETTINGS_PREFIX + suffix for suffix in SETTINGS}
        for variable, value in sorted(environment.items()):
            if not prefix or not variable.startswith(prefix) or variable in settings:
                continue
            *words, figure = variable.removeprefix(prefix).upper().split("_")
            parts = tuple(form for word in words if (form := normal_form(word)))
            if figure not in FIGURES:
                close = get_close_matches(figure, FIGURES, n=1)
                hint = f": did you mean {close[0]}?" if close else "."
                faults.append(f"{variable} ends in no figure{hint} Figures are {', '.join(FIGURES)}")
            elif not parts:
                faults.append(f"{variable} names no provider: {prefix}OPENAI_GPT4O_{figure} would be openai/gpt-4o")
            elif figure in values.setdefault(parts, {}):
                faults.append(_double(values[parts][figure][0], variable))
            else:
                values[parts][figure] = (variable, value)
        faults += _doubles(values)
        self._entries: dict[tuple[str, ...], Limits] = {}
        for parts, stated in values.items():
            self._add(parts, stated, faults)

    def _add(self, parts: tuple[str, ...], stated: Mapping[str, tuple[str, str]], faults: list[str]) -> None:
        given = {
            figure.lower(): int(value.strip()) if _WHOLE.fullmatch(value.strip()) else value
            for figure, (_, value) in stated.items()
        }
        limits = Limits.build(given, lambda name: stated[name.upper()][0], faults)
        if limits is not None:
            self._entries[parts] = limits

    def _find(self, means: Callable[[tuple[str, ...]], bool]) -> Limits | None:
        found = [limits for parts, limits in sorted(self._entries.items()) if means(parts)]
        if len(found) < 2:
            return found[0] if found else None
        return Limits.of_figures({name: value for limits in found for name, value in limits.figures.items()})

    @property
    def total(self) -> Limits | None:
        """What is stated of everything together."""
        return self._entries.get(("TOTAL",))

    def provider(self, provider: str) -> Limits | None:
        """What is stated of a provider as a whole."""
        form = normal_form(provider)
        return self._find(lambda parts: "".join(parts) == form) if form else None

    def pool(self, name: str) -> Limits | None:
        """What is stated of a pool, as if its provider were called pool."""
        form = normal_form(name)
        return self._find(lambda parts: parts[0] == "POOL" and "".join(parts[1:]) == form) if form else None

    def model(self, provider: str, model: str) -> Limits | None:
        """What is stated of a model; figures of the name as it is asked for come before those without its date."""
        figures: dict[str, float] = {}
        for form in dict.fromkeys(map(normal_form, spellings(model))):
            wanted = (normal_form(provider), form)
            found = self._find(lambda parts, wanted=wanted: wanted in _cuts(parts)) if all(wanted) else None  # type: ignore[misc]
            figures = {**(found.figures if found is not None else {}), **figures}
        return Limits.of_figures(figures) if figures else None


def _cuts(parts: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Every way to read a variable as provider and model."""
    for i in range(1, len(parts)):
        yield "".join(parts[:i]), "".join(parts[i:])


def _doubles(values: Mapping[tuple[str, ...], Mapping[str, tuple[str, str]]]) -> list[str]:
    """Variables that state the same figure of the same model."""
    seen: dict[tuple[str, ...], str] = {}
    faults = {}
    for parts, stated in values.items():
        for figure, (variable, _) in stated.items():
            for cut in _cuts(parts) if len(parts) > 1 else [(parts[0], "")]:
                first = seen.setdefault((*cut, figure), variable)
                if first != variable:
                    faults[first, variable] = _double(first, variable)
    return list(faults.values())


def _double(first: str, second: str) -> str:
    return f"{first} and {second} mean the same limit: unset one"
