"""Imports point one way: errors, … <- core <- providers, usage <- store <- the shells <- cli, integrations, web."""

import subprocess
import sys
from pathlib import Path

import pytest

from support.repository import PACKAGE, SOURCE, imports, python_files, shown

# The folder or module below ratelease decides; what is named nowhere is a shell.
LEAVES = {
    "book", "builtin", "checks", "config", "configfile", "daemons", "environment", "errors", "limits", "names",
    "retry", "settings", "strategies",
}  # fmt: skip
OUTER = {"cli", "integrations", "web", "__main__"}
RANKS = {**dict.fromkeys(LEAVES, 0), "core": 1, "providers": 2, "usage": 2, "store": 3, **dict.fromkeys(OUTER, 5)}
SHELL = 4

# What the outermost layer may use: what a user could import.
PUBLIC = ("ratelease", "ratelease.errors", "ratelease.testing", "ratelease.usage")

# core decides and does no I/O; time and chance come to it as arguments. Nor do providers, which may ask for the time
# since the dates of a header need it, and import no library of any provider.
IMPURE = {"redis", "fakeredis", "asyncio", "threading", "time", "random", "socket", "subprocess", "httpx"}

SDKS = {"openai", "anthropic", "litellm", "google", "botocore", "httpx2", "requests", "aiohttp"}

HEAVY = {
    "fakeredis", "lupa", "httpx", "typer", "rich", "starlette", "uvicorn", "opentelemetry", "prometheus_client",
}  # fmt: skip

SOURCES = python_files(PACKAGE)


def _part(module: str) -> str:
    """Return the part of the package that a module belongs to; the package itself is a shell."""
    return [*module.split("."), ""][1]


def _module(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _own_imports(path: Path) -> list[tuple[int, str]]:
    return [(line, name) for line, name in imports(path) if name.split(".")[0] == "ratelease"]


@pytest.mark.parametrize("path", SOURCES, ids=shown)
def test_no_module_imports_from_a_layer_above(path: Path) -> None:
    rank = RANKS.get(_part(_module(path)), SHELL)
    upward = [f"line {line}: {name}" for line, name in _own_imports(path) if RANKS.get(_part(name), SHELL) > rank]
    assert upward == []


@pytest.mark.parametrize("path", [path for path in SOURCES if _part(_module(path)) in OUTER], ids=shown)
def test_the_outermost_layer_uses_what_a_user_could(path: Path) -> None:
    own = f"ratelease.{_part(_module(path))}"
    allowed = (*PUBLIC[1:], own, *(["ratelease.cli"] if own == "ratelease.__main__" else []))
    private = [
        f"line {line}: {name}"
        for line, name in _own_imports(path)
        if name != "ratelease" and not any(name == open_ or name.startswith(f"{open_}.") for open_ in allowed)
    ]
    assert private == []


@pytest.mark.parametrize("path", [path for path in SOURCES if _part(_module(path)) == "core"], ids=shown)
def test_core_is_pure(path: Path) -> None:
    impure = [f"line {line}: {name}" for line, name in imports(path) if name.split(".")[0] in IMPURE]
    assert impure == []


@pytest.mark.parametrize("path", [path for path in SOURCES if _part(_module(path)) == "providers"], ids=shown)
def test_providers_import_no_sdk_and_do_no_io(path: Path) -> None:
    forbidden = [
        f"line {line}: {name}" for line, name in imports(path) if name.split(".")[0] in (IMPURE - {"time"}) | SDKS
    ]
    assert forbidden == []


@pytest.mark.parametrize("path", [path for path in SOURCES if _part(_module(path)) == "usage"], ids=shown)
def test_usage_adapters_know_no_store_and_no_other_adapters(path: Path) -> None:
    own = [(line, name) for line, name in _own_imports(path) if _part(name) != "usage"]
    assert [f"line {line}: {name}" for line, name in own if RANKS.get(_part(name), SHELL) > RANKS["core"]] == []


def test_importing_the_package_loads_no_optional_or_heavy_library() -> None:
    program = "import sys, ratelease, ratelease.errors; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) & HEAVY == set()
