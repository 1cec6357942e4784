"""Where each setting and each limit of a client comes from: argument, environment, file, default; in this order."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .book import LimitBook, Source
from .builtin import examples
from .checks import nearest, shown
from .config import Config
from .configfile import FILE_SETTINGS, ConfigFile, Tiers, read_file
from .environment import EnvironmentLimits, read_settings, read_tiers, variable_of
from .errors import ConfigError
from .limits import Limits, Pool
from .names import normal_form

MODES = ("enforce", "shadow", "off")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a client goes by. `sources` has the settings that somebody has stated."""

    config: Config
    book: LimitBook
    sources: Mapping[str, Source]


def settle(
    *,
    arguments: Mapping[str, Any],
    config: Config | None = None,
    config_file: str | os.PathLike[str] | None = None,
    limits: Mapping[str, Limits] | None = None,
    pools: Mapping[str, Pool] | None = None,
    tiers: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """
    Settle what a client goes by. Reads the environment and the file.

    Args:

        arguments: Settings by name; None is not given.

        config: Its stated settings come next.

        config_file: Path of the file, else that of RATELEASE_CONFIG.

        limits, pools: The client's arguments. tiers: provider -> tier.

        environment: Instead of that of the process.

    Raises:

        ConfigError: Naming everything that is wrong, wherever it comes from.
    """
    if environment is None:
        environment = os.environ
    faults: list[str] = []
    if config is not None and not isinstance(config, Config):
        raise ConfigError(f"config must be a Config(…), not {shown(config)}")
    base = config.given if config is not None else {}
    relaxed = {"relaxed": base.get("relaxed", False)}
    stated = {name: value for name, value in arguments.items() if value is not None}
    from_environment = read_settings(environment, faults, relaxed=relaxed["relaxed"])
    named_file, general = from_environment.pop("config_file", None), from_environment.pop("tier", None)
    if config_file is not None:
        named_file = config_file
    chosen = _tiers(environment, tiers, general, faults)
    file = _file(named_file, chosen, faults)

    layers: list[tuple[Source, dict[str, Any], Callable[[str], str]]] = [
        ("file", _known(file, named_file, faults), lambda name: f"{named_file}: settings.{name}"),
        ("env", from_environment, variable_of),
        ("argument", base, lambda name: f"Config.{name}"),
        ("argument", stated, lambda name: name),
    ]
    merged: dict[str, Any] = {}
    places: dict[str, str] = {}
    sources: dict[str, Source] = {}
    for source, given, label in layers:
        _check_mode(given, label, faults)
        good = _good({**given, **relaxed}, label, faults)
        merged |= {name: good[name] for name in given if name in good}
        sources |= dict.fromkeys(given, source)
        places |= {name: label(name) for name in given}
    # What no setting has wrong by itself is how these two fit together.
    times = " and ".join(places[name] for name in ("lease_ttl", "heartbeat") if name in places)
    whole = Config.build(merged, lambda name: places.get(name, name) or times, faults, part=bool(faults))
    prefix = whole.env_prefix if whole is not None else merged.get("env_prefix", "RATELEASE_LIMIT_")
    book = _book(limits, pools, file, EnvironmentLimits(environment, prefix, faults), faults)
    if faults or whole is None or book is None:
        raise ConfigError.of(faults)
    return Settings(whole, book, sources)


def _good(given: Mapping[str, Any], label: Callable[[str], str], faults: list[str]) -> dict[str, Any]:
    """The settings of one source that are right by themselves; what is wrong with the others goes to `faults`."""
    good = {}
    for name, value in given.items():
        wrong: list[str] = []
        checked = Config.build({"relaxed": given["relaxed"], name: value}, label, wrong, part=True)
        faults += wrong
        if checked is not None:
            good[name] = getattr(checked, name)
    return good


def _known(file: ConfigFile | None, path: object, faults: list[str]) -> dict[str, Any]:
    """The settings of a file, without those that no file can give."""
    settings = dict(file.settings) if file is not None else {}
    for name in [name for name in settings if name not in FILE_SETTINGS]:
        faults.append(f"{path}: settings.{name} is not known{nearest(name, FILE_SETTINGS)}")
        del settings[name]
    return settings


def _check_mode(given: dict[str, Any], label: Callable[[str], str], faults: list[str]) -> None:
    mode = given.pop("mode", "enforce")
    if mode in MODES[1:]:
        faults.append(f"{label('mode')}: {mode!r} is not in this version, which always enforces: use 'enforce'")
    elif mode != "enforce":
        faults.append(f"{label('mode')} must be 'enforce', not {shown(mode)}")


def _tiers(
    environment: Mapping[str, str], argument: Mapping[str, str] | None, general: str | None, faults: list[str]
) -> Tiers:
    chosen = read_tiers(environment, faults)
    if argument is not None and not isinstance(argument, Mapping):
        faults.append(f"tiers must map providers to tiers, not {shown(argument)}")
        argument = None
    for provider, tier in (argument or {}).items():
        if not isinstance(provider, str) or not normal_form(provider) or not isinstance(tier, str) or not tier:
            faults.append(f"tiers[{shown(provider)}] must be the name of a tier, not {shown(tier)}")
        else:
            chosen[normal_form(provider)] = (tier, f"tiers[{provider!a}]")
    return Tiers(chosen, None if general is None else (general, variable_of("tier")))


def _file(path: object, tiers: Tiers, faults: list[str]) -> ConfigFile | None:
    file = None
    if path is not None:
        if isinstance(path, (str, os.PathLike)) and "\0" not in (text := os.fsdecode(path)):
            before = len(faults)
            file = read_file(text, tiers, faults)
            if len(faults) > before:
                # Which providers have tiers is not known of a file that could not be read whole.
                return file
        else:
            faults.append(f"config_file must be a path, not {shown(path)}")
            return None
    for provider, (tier, origin) in tiers.chosen.items():
        if provider not in tiers.met:
            faults.append(f"{origin}: {shown(tier)} was chosen, but no entry of that provider in a file has tiers")
    return file


def _book(
    limits: Mapping[str, Limits] | None,
    pools: Mapping[str, Pool] | None,
    file: ConfigFile | None,
    environment: EnvironmentLimits,
    faults: list[str],
) -> LimitBook | None:
    entries = file.entries if file is not None else None
    try:
        return LimitBook(limits, pools, file=entries, environment=environment, builtin=examples())
    except ConfigError as error:
        faults += error.faults
        return None
