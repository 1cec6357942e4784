"""The public surface is small, can be imported, and is documented where it is written."""

import inspect
from typing import Any

import pytest

import ratelease
import ratelease.errors

MOST_NAMES = 27


def _public_members(cls: type[Any]) -> list[tuple[str, Any]]:
    """List what a class itself defines for its users: methods and properties."""
    members = []
    for name, member in vars(cls).items():
        if isinstance(member, classmethod | staticmethod):
            member = member.__func__  # noqa: PLW2901 - the function carries the docstring
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
            members.append((name, member))
    return members


def test_the_package_exports_few_names_sorted() -> None:
    assert 0 < len(ratelease.__all__) <= MOST_NAMES
    assert list(ratelease.__all__) == sorted(set(ratelease.__all__))


@pytest.mark.parametrize("module", [ratelease, ratelease.errors], ids=lambda module: module.__name__)
def test_every_exported_name_exists_and_is_documented(module: Any) -> None:
    undocumented = []
    for name in module.__all__:
        thing = getattr(module, name)
        if inspect.isclass(thing) or inspect.isroutine(thing):
            if not (thing.__doc__ or "").strip():
                undocumented.append(name)
            if inspect.isclass(thing):
                undocumented += [
                    f"{name}.{member_name}"
                    for member_name, member in _public_members(thing)
                    if not (inspect.getdoc(member) or "").strip()
                ]
    assert undocumented == []


def test_star_import_brings_exactly_the_exported_names() -> None:
    namespace: dict[str, Any] = {}
    exec("from ratelease import *", namespace)  # noqa: S102 - what a user would write
    assert set(namespace) - {"__builtins__"} == set(ratelease.__all__)
