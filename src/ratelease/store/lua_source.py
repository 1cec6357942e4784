"""The Lua files: where they are, and what they are once their includes are in place."""

from __future__ import annotations

import functools
import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

_INCLUDE = re.compile(r'^--- @include "([a-z_/]+)"$')


def lua_dir() -> Path:
    """The directory of the Lua files: inside an installed package, else the one beside src/ in a checkout."""
    packaged = Path(str(files("ratelease"))) / "lua"
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[3] / "lua"


def _flatten(name: str, seen: set[str]) -> list[str]:
    if name in seen:
        return []
    seen.add(name)
    lines = []
    for line in (lua_dir() / f"{name}.lua").read_text(encoding="utf-8").splitlines():
        include = _INCLUDE.match(line)
        if include:
            lines += _flatten(include[1], seen)
        elif line.strip() and not line.lstrip().startswith("--"):
            lines.append(line)
    return lines


@functools.cache
def load_script(name: str) -> str:
    """The text that is sent for a script: each included file once, before its first use, without comments."""
    return "\n".join(_flatten(name, set())) + "\n"


@dataclass(frozen=True, slots=True)
class Script:
    """A script's text and the digest that EVALSHA names it by."""

    text: bytes
    sha: str


@functools.cache
def script(name: str) -> Script:
    """The script of a Lua file."""
    text = load_script(name).encode()
    return Script(text, hashlib.sha1(text, usedforsecurity=False).hexdigest())
