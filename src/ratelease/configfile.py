"""
The configuration file: TOML, with the tables [settings], [limits."provider/model"] and [pools.name].

An entry of limits may have tiers: figures beside them hold in every tier, unless the tier states them itself.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .book import Entries
from .checks import nearest, shown
from .config import Config
from .limits import Limits, Pool, Rate
from .names import normal_form, split_key

LARGEST_FILE = 1_048_576

TABLES = ("limits", "pools", "settings")

# What an entry of limits may hold.
ENTRY_KEYS = frozenset({*Limits.model_fields, "tiers", "default_tier"})

# Whatever a file may say of a client; "relaxed" is for tests, and the file cannot name itself.
FILE_SETTINGS = sorted({*Config.model_fields, "mode"} - {"relaxed"})


@dataclass(slots=True)
class Tiers:
    """
    Which tier applies: `chosen` by provider (normal form -> tier and who says so), `general` for all others.

    `met` collects the providers that have tiers, so that a choice for one without can be refused.
    """

    chosen: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    general: tuple[str, str] | None = None
    met: set[str] = field(default_factory=set)

    def of(self, provider: str) -> tuple[str, str] | None:
        """The tier of a provider, and where it was chosen; None: the entry's default."""
        self.met.add(normal_form(provider))
        return self.chosen.get(normal_form(provider), self.general)


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """What a file says. `settings` are as written; limits and pools are checked."""

    settings: Mapping[str, Any]
    entries: Entries


def read_file(path: str | os.PathLike[str], tiers: Tiers, faults: list[str]) -> ConfigFile:
    """Read a file; all that is wrong with it is added to `faults`, with file, table and key."""
    content = _load(path, faults)
    where = os.fspath(path)
    faults += [f"{where}: {name!a} is not known{nearest(name, TABLES)}" for name in content if name not in TABLES]
    settings = _table(content.get("settings", {}), f"{where}: settings", faults)
    limits = {
        key: entry
        for key, table in _table(content.get("limits", {}), f"{where}: limits", faults).items()
        if (entry := _entry(key, table, f"{where}: limits.{key!a}", tiers, faults)) is not None
    }
    pools = {
        name: pool
        for name, table in _table(content.get("pools", {}), f"{where}: pools", faults).items()
        if (pool := _pool(table, f"{where}: pools.{name!a}", faults)) is not None
    }
    wrong: list[str] = []
    entries = Entries(limits, pools, wrong)
    faults += [f"{where}: {fault}" for fault in wrong]
    return ConfigFile(settings, entries)


def _load(path: str | os.PathLike[str], faults: list[str]) -> dict[str, Any]:
    try:
        if not Path(path).is_file():
            raise OSError("it is a directory" if Path(path).is_dir() else "there is no such file")
        with Path(path).open("rb") as file:
            text = file.read(LARGEST_FILE + 1)
        if len(text) > LARGEST_FILE:
            raise OSError(f"it is larger than {LARGEST_FILE:,} bytes")
        return tomllib.loads(text.decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or ("it is no UTF-8" if isinstance(error, UnicodeError) else error)
        faults.append(f"{os.fspath(path)}: cannot be read: {reason}")
        return {}


def _table(value: object, where: str, faults: list[str]) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    faults.append(f"{where} must be a table, not {shown(value)}")
    return {}


def _limits(table: Mapping[str, Any], where: str, faults: list[str]) -> Limits | None:
    found = len(faults)
    given = dict(table)
    rates = given.get("rates", [])
    if isinstance(rates, list):
        given["rates"] = [_rate(rate, f"{where}.rates[{i}]", faults) for i, rate in enumerate(rates)]
        if None in given["rates"]:
            del given["rates"]
    limits = Limits.build(given, lambda name: f"{where}.{name}".rstrip("."), faults)
    return limits if len(faults) == found else None


def _rate(value: object, where: str, faults: list[str]) -> Rate | None:
    if not isinstance(value, dict):
        faults.append(f"{where} must be a table such as {{limit = 10, per = 1.0}}, not {shown(value)}")
        return None
    return Rate.build(value, lambda name: f"{where}.{name}".rstrip("."), faults)


def _entry(key: str, value: object, where: str, tiers: Tiers, faults: list[str]) -> Limits | None:
    found = len(faults)
    table = dict(_table(value, where, faults))
    for name in [name for name in table if name not in ENTRY_KEYS]:
        if isinstance(table.pop(name), dict) and "/" not in key:
            faults.append(f'{where}.{name} is a table of its own: for a model write [limits."{key}/{name}"]')
        else:
            faults.append(f"{where}.{name} is not known{nearest(name, ENTRY_KEYS)}")
    default, tables = table.pop("default_tier", None), table.pop("tiers", None)
    if tables is None:
        if default is not None:
            faults.append(f"{where}.default_tier needs tiers to choose from")
        limits = _limits(table, where, faults)
        return limits if len(faults) == found else None
    tables = {str(name).casefold(): tier for name, tier in _table(tables, f"{where}.tiers", faults).items()}
    base = _limits(table, where, faults)
    # Every tier is checked, also those that do not apply here.
    own = {
        name: _limits(_table(tier, f"{where}.tiers.{name}", faults), f"{where}.tiers.{name}", faults)
        for name, tier in tables.items()
    }
    if default is not None and (not isinstance(default, str) or default.casefold() not in tables):
        faults.append(f"{where}.default_tier must be one of {', '.join(tables)}, not {shown(default)}")
    if len(faults) > found or base is None:
        return None
    try:
        chosen = tiers.of(split_key(key)[0])
    except ValueError:
        return base  # the key itself is refused with the other entries
    name, origin = chosen or (default, "")
    if name is None:
        return base
    tier = own.get(name.casefold())
    if tier is None:
        faults.append(f"{origin}: {shown(name)} is no tier of {key}: known are {', '.join(tables)}")
        return None
    strategy = base.strategy if tier.strategy is None else tier.strategy
    return Limits.of_figures({**base.figures, **tier.figures}, strategy)


def _pool(value: object, where: str, faults: list[str]) -> Pool | None:
    found = len(faults)
    table = dict(_table(value, where, faults))
    models = table.pop("models", ())
    limits = _limits(table, where, faults)
    pool = Pool.build({"models": models, "limits": limits or Limits()}, lambda name: f"{where}.{name}", faults)
    return pool if len(faults) == found else None
