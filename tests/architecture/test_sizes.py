"""Files can be read in one sitting and functions on one screen; what outgrows that is split by idea."""

import ast
from collections.abc import Iterator
from pathlib import Path

from support.repository import LUA, PACKAGE, ROOT, parse, python_files, shown

MODULE_LINES = 500
FUNCTION_LINES = 60  # without the docstring
LUA_LINES = 250

SOURCES = python_files(PACKAGE, *(ROOT / name for name in ("tests", "tools", "benchmarks", "examples")))


def _length(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def _functions(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            documented = ast.get_docstring(node, clean=False) is not None
            docstring = (first.end_lineno or first.lineno) - first.lineno + 1 if documented else 0
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1 - docstring


def test_modules_are_short() -> None:
    lengths = {shown(path): _length(path) for path in SOURCES}
    assert lengths
    assert {name: lines for name, lines in lengths.items() if lines > MODULE_LINES} == {}


def test_functions_are_short() -> None:
    long = {
        f"{shown(path)}: {name}": lines
        for path in SOURCES
        for name, lines in _functions(path)
        if lines > FUNCTION_LINES
    }
    assert long == {}


def test_lua_files_are_short() -> None:
    lengths = {shown(path): _length(path) for path in sorted(LUA.rglob("*.lua"))}
    assert lengths
    assert {name: lines for name, lines in lengths.items() if lines > LUA_LINES} == {}
