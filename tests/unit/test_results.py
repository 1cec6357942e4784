"""What the public surface returns: frozen typed values, which JSON knows."""

import dataclasses
import enum
import importlib
import json
import math
import pickle
import pkgutil
import sys
import types
import typing
from typing import Any, Literal, get_args, get_origin

import pytest

import ratelease
from ratelease import Config, Done, Limits, Pool, Rate
from ratelease.core.plain import Plain, plain

# What users give, rather than get.
INPUTS = {Config, Limits, Rate, Pool}


def _results() -> list[type[Any]]:
    """Every result of the package, found by what it is."""
    for module in pkgutil.walk_packages(ratelease.__path__, "ratelease."):
        if not module.name.startswith(("ratelease.cli", "ratelease.__main__", "ratelease.testing")):
            importlib.import_module(module.name)
    found, pending = [], [Plain]
    while pending:
        for cls in pending.pop().__subclasses__():
            pending.append(cls)
            # slots=True makes a class anew; the first one may linger.
            if getattr(sys.modules[cls.__module__], cls.__name__, None) is cls:
                found.append(cls)
    return sorted(found, key=lambda cls: cls.__name__)


RESULTS = _results()


def _sample(hint: Any) -> Any:
    """A value of a type."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _sample(next(each for each in inner if each is not type(None)))
    if origin is Literal:
        return inner[0]
    if origin is tuple:
        return (_sample(inner[0]),) * 2
    if origin in (dict, list, set, frozenset):
        return {"key": _sample(inner[1])} if origin is dict else origin([_sample(inner[0])])
    if dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        return hint(**{field.name: _sample(hints[field.name]) for field in dataclasses.fields(hint)})
    if isinstance(hint, typing.TypeVar):
        return {"prompt": ("a", "b")}
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return next(iter(hint))
    return {str: "text", int: 3, float: 1.5, bool: True, BaseException: LookupError("none")}[hint]


@pytest.mark.covers("UX-16")
@pytest.mark.parametrize("cls", RESULTS, ids=lambda cls: cls.__name__)
def test_a_result_is_a_frozen_typed_value_that_json_knows(cls: type[Any]) -> None:
    """All fields are in to_dict, as JSON would bring them back; nothing can be changed, and it survives pickle."""
    hints = typing.get_type_hints(cls)
    assert Any not in hints.values()
    value = _sample(cls)
    told = value.to_dict()
    assert set(told) == {field.name for field in dataclasses.fields(cls)}
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, dataclasses.fields(cls)[0].name, 5)
    if cls is not Done:
        assert pickle.loads(pickle.dumps(value)) == value  # noqa: S301 - made a moment ago


@pytest.mark.covers("UX-16")
def test_every_exported_dataclass_is_a_result_or_an_input() -> None:
    """Nobody forgets to_dict."""
    exported = {getattr(ratelease, name) for name in ratelease.__all__}
    values = {each for each in exported if isinstance(each, type) and dataclasses.is_dataclass(each)}
    assert values - INPUTS <= set(RESULTS)
    assert len(RESULTS) >= 8


def test_plain_takes_anything() -> None:
    """What JSON does not know becomes text; what has no end becomes nothing."""

    class Odd:
        def __repr__(self) -> str:
            return "<odd>"

    endless: list[Any] = []
    endless.append(endless)
    assert plain({1: (math.inf, math.nan, 2.5), "e": ValueError("x"), "o": Odd(), "c": int}) == {
        "1": [None, None, 2.5],
        "e": "ValueError: x",
        "o": "<odd>",
        "c": "<class 'int'>",
    }
    assert json.dumps(plain(endless))


def test_a_done_tells_its_error_as_text() -> None:
    """An item and a result that JSON knows stay as they are."""
    assert Done(3, "prompt", None, LookupError("no")).to_dict() == {
        "index": 3,
        "item": "prompt",
        "result": None,
        "error": "LookupError: no",
    }
    assert Done(0, "prompt", {"text": "answer"}).to_dict()["result"] == {"text": "answer"}
