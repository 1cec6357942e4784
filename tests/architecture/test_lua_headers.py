"""Every Lua file says what it does, what it is given, what it answers, what it writes and what it costs."""

import ast
import re
from pathlib import Path

import pytest

from ratelease.store.lua_source import load_script
from support.repository import LUA, PACKAGE, parse, python_files, shown

SECTIONS = ["KEYS", "ARGV", "Returns", "Writes", "Cost"]

SCRIPTS = sorted(LUA.glob("*.lua"))
OPERATOR_SCRIPTS = sorted(LUA.glob("ops/*.lua"))
LIBRARIES = sorted(LUA.glob("lib/*.lua"))

_NUMBERED_KEY = re.compile(r"(?<!\S)(\d+) +[a-z]")


def _header(path: Path) -> list[str]:
    """Return the comment lines at the top of a script, without their dashes."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("--") or line.startswith("---"):
            break
        lines.append(line[3:])
    return lines


def _section(path: Path, name: str) -> list[str]:
    """Return the lines of one section of a header."""
    found: list[str] = []
    inside = False
    for line in _header(path):
        if not line.startswith(" "):
            inside = line.split(" ")[0].rstrip(":.") == name
        if inside:
            found.append(line)
    return found


def test_there_are_scripts() -> None:
    assert SCRIPTS
    assert LIBRARIES


@pytest.mark.parametrize("path", SCRIPTS + OPERATOR_SCRIPTS, ids=shown)
def test_a_script_begins_with_its_name_and_purpose(path: Path) -> None:
    assert _header(path)[0].startswith(f"{path.stem}: ")


@pytest.mark.parametrize("path", SCRIPTS + OPERATOR_SCRIPTS, ids=shown)
def test_a_header_has_every_section_once_and_in_order(path: Path) -> None:
    words = [line.split(" ")[0].rstrip(":.") for line in _header(path)]
    assert [word for word in words if word in SECTIONS] == SECTIONS


@pytest.mark.parametrize("path", SCRIPTS, ids=shown)
def test_keys_are_listed_by_number_without_a_gap(path: Path) -> None:
    listed = [int(number) for line in _section(path, "KEYS") for number in _NUMBERED_KEY.findall(line)]
    assert listed == list(range(1, len(listed) + 1))
    assert listed or " as " in _section(path, "KEYS")[0], "lists its keys, or says whose keys they are"


@pytest.mark.parametrize("path", SCRIPTS, ids=shown)
def test_no_key_is_used_that_the_header_does_not_list(path: Path) -> None:
    keys = "\n".join(_section(path, "KEYS"))
    listed = len(_NUMBERED_KEY.findall(keys))
    used = [int(number) for number in re.findall(r"\bKEYS\[(\d+)\]", load_script(path.stem))]
    assert max(used, default=0) <= listed or "then for each" in keys or " as " in keys


@pytest.mark.parametrize("path", OPERATOR_SCRIPTS, ids=shown)
def test_an_operator_script_shows_its_command_line(path: Path) -> None:
    assert f"redis-cli --eval lua/ops/{path.name} ," in "\n".join(_header(path))


@pytest.mark.parametrize("path", LIBRARIES, ids=shown)
def test_a_library_says_what_it_is_for(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    first = next(line for line in lines if line.strip() and not line.startswith("--- @include"))
    assert re.match(r"-- \S", first)


def test_every_script_is_used_by_the_package() -> None:
    words = {
        node.value
        for source in python_files(PACKAGE / "core", PACKAGE / "store")
        for node in ast.walk(parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert [shown(path) for path in SCRIPTS if path.stem not in words] == []
