"""Every row of docs/behaviour.md has a test that holds it, and every mark names a row."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from support.repository import ROOT, parse, python_files, shown

_ROW = re.compile(r"^\|\s*([A-Z]{2}-\d{2})\s*\|", re.MULTILINE)


def _rows() -> list[str]:
    return _ROW.findall((ROOT / "docs" / "behaviour.md").read_text(encoding="utf-8"))


def _marks(path: Path) -> Iterator[tuple[str, ast.expr]]:
    """Yield each argument of each pytest.mark.covers(...) of a file, with the place of the mark."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"pytest.mark.covers", "mark.covers"}:
            for argument in node.args:
                yield f"{shown(path)}:{node.lineno}", argument


def test_every_row_is_listed_once() -> None:
    rows = _rows()
    assert rows, "docs/behaviour.md lists no row"
    assert [row for row, times in Counter(rows).items() if times > 1] == []


def test_every_row_has_a_test() -> None:
    marks = (mark for path in python_files(ROOT / "tests") for mark in _marks(path))
    covered = {argument.value for _, argument in marks if isinstance(argument, ast.Constant)}
    assert sorted(set(_rows()) - covered) == [], "no test is marked with these rows"


def test_every_mark_names_a_row() -> None:
    rows = set(_rows())
    unknown = [
        f"{place}: {ast.unparse(argument)}"
        for path in python_files(ROOT / "tests")
        for place, argument in _marks(path)
        if not isinstance(argument, ast.Constant) or argument.value not in rows
    ]
    assert unknown == [], "covers() takes ids of rows in docs/behaviour.md, written out"
