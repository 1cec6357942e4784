"""Results as JSON has them."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Mapping
from typing import Any

DEEPEST = 20


class Plain:
    """A result that people and other programs read: a frozen dataclass, which JSON knows as well."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values: None, booleans, numbers, text, lists and dicts."""
        return dict(plain(self))


def plain(value: object, depth: int = 0) -> Any:
    """
    The same of None, booleans, numbers, text, lists and dicts alone, so that `json.dumps` takes it.

    A number without end is None; an error is its class and message; of anything else its repr is left.
    """
    if value is None or isinstance(value, bool | int | str):
        return value.value if isinstance(value, enum.Enum) else value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, enum.Enum):
        return plain(value.value, depth)
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {value}"
    if depth < DEEPEST:
        if isinstance(value, Mapping):
            return {str(key): plain(each, depth + 1) for key, each in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [plain(each, depth + 1) for each in value]
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {field.name: plain(getattr(value, field.name), depth + 1) for field in dataclasses.fields(value)}
    return repr(value)
