"""Values that check themselves when they are made, and name all of their faults at once."""

from __future__ import annotations

import inspect
import math
import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from difflib import get_close_matches
from typing import Any, Never, Self, TypeVar

from pydantic import BaseModel, PlainValidator, ValidationError

from .errors import ConfigError

T = TypeVar("T")

_building = threading.Lock()


def forget_parent() -> None:
    """In a child after fork: a lock that a thread of the parent held would never be given back."""
    global _building  # noqa: PLW0603 - a lock of the module
    _building = threading.Lock()


def shown(value: object) -> str:
    """A value in a message: in ASCII, and not longer than a message may be."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def nearest(name: str, known: Iterable[str]) -> str:
    """': did you mean rpm?' for a name that is close to a known one, else the list of those that are known."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1, cutoff=0.6)
    return f": did you mean {close[0]}?" if close else f": known are {', '.join(names)}"


def is_number(value: object, low: float, high: float) -> bool:
    """Whether it is an int or float, and neither NaN nor outside of the range. True is no number."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and not math.isnan(value) and low <= value <= high  # type: ignore[arg-type, operator]


def plain_function(function: T, name: str, takes: str) -> T:
    """
    The same, if it is None or can be called without being awaited.

    Raises:

        ConfigError: It cannot be called, or nobody would await it.
    """
    if function is not None and (not callable(function) or inspect.iscoroutinefunction(function)):
        kind = "one that is async" if callable(function) else shown(function)
        raise ConfigError(f"{name} must be a plain function of {takes}, not {kind}")
    return function


def whole(low: int, high: int) -> PlainValidator:
    """Take whole numbers from `low` to `high`, no truth values and no text."""

    def check(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"must be a whole number from {low} to {high:,}, not {shown(value)}")
        return value

    return PlainValidator(check)


def number(low: float, high: float, unit: str = "") -> PlainValidator:
    """Take finite or infinite numbers from `low` to `high`."""

    def check(value: object) -> float:
        if not is_number(value, low, high):
            raise ValueError(f"must be {low:,g} to {high:,.10g}{unit}, not {shown(value)}")
        return value  # type: ignore[return-value]

    return PlainValidator(check)


def one_of(*choices: str) -> PlainValidator:
    """Take one of these texts."""

    def check(value: object) -> str:
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}, not {shown(value)}")
        return value

    return PlainValidator(check)


def _truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {shown(value)}")  # noqa: TRY004 - pydantic gathers ValueErrors
    return value


truth = PlainValidator(_truth)


def plain_seconds(value: object) -> object:
    """A timedelta as seconds; anything else as it is."""
    return value.total_seconds() if isinstance(value, timedelta) else value


class Checked(BaseModel, frozen=True, extra="forbid", defer_build=True, hide_input_in_errors=True):
    """
    A frozen value with checked fields.

    Raises:

        ConfigError: Naming every field that is wrong, and every field that is not known.
    """

    def __init__(self, /, **given: Any) -> None:
        self._prepare()
        faults: list[str] = []
        try:
            super().__init__(**given)
        except ValidationError as error:
            faults = self._faults(error, lambda name: f"{type(self).__name__}.{name}")
        # Not inside the except clause: what was given may hold a secret, and must not hang on to our error.
        if faults:
            raise ConfigError.of(faults)

    # Tells pydantic that this constructor does what its own does, so that build() need not call it.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} cannot be changed: make another one")

    def __delattr__(self, name: str) -> Never:
        raise AttributeError(f"{type(self).__name__} cannot be changed: make another one")

    @classmethod
    def build(
        cls, given: Mapping[str, Any], label: Callable[[str], str], faults: list[str], *, part: bool = False
    ) -> Self | None:
        """
        Make one from a table; where that fails, say why in `faults`, with `label(field)` as the field's name.

        `part`: other fields come from elsewhere, so what concerns several together is not checked.
        """
        cls._prepare()
        try:
            return cls.model_validate(dict(given), context={"part": part})
        except ValidationError as error:
            faults += cls._faults(error, label)
        return None

    @classmethod
    def _prepare(cls) -> None:
        # Deferred, so that importing this package costs nothing and reads nothing; pydantic's own way is not safe
        # among threads.
        if not cls.__pydantic_complete__:
            with _building:
                cls.model_rebuild()

    @classmethod
    def _faults(cls, error: ValidationError, label: Callable[[str], str]) -> list[str]:
        faults = []
        for fault in error.errors(include_url=False, include_input=False):
            name = str(fault["loc"][0]) if fault["loc"] else ""
            if fault["type"] == "extra_forbidden":
                faults.append(f"{label(name)} is not known{nearest(name, cls.model_fields)}")
            elif fault["type"] == "missing":
                faults.append(f"{label(name)} is missing")
            else:
                cause = fault.get("ctx", {}).get("error")
                text = str(cause) if cause is not None else fault["msg"]
                faults.append(f"{label(name)} {text}" if name else f"{label('').rstrip('.')}: {text}")
        return faults
