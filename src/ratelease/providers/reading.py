"""
Reading of what somebody else made: exceptions, answers and events that may be of any type and do anything.

Nothing here raises for what it reads, follows more than a bounded number of parts, or reads an answer from the network:
only what is there already is looked at.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from .tables import HEADERS, PASSED_ON

LONGEST_BODY = 64 * 1024
LONGEST_VALUE = 128
MOST_HEADERS = 512
MOST_DETAILS = 32

# What an SDK, a gateway or a server would use as a word for an error; a text for people has spaces.
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/#-]{0,99}", re.ASCII)


def read(what: object, name: str) -> Any:
    """One key of a mapping or one attribute of anything else; None where there is none, or where it raises."""
    try:
        return what.get(name) if isinstance(what, Mapping) else getattr(what, name, None)
    except Exception:  # noqa: BLE001 - a property of somebody else's class may do anything
        return None


def call(what: object, name: str) -> Any:
    """What a method returns that takes no arguments; None where there is none, or where it raises."""
    method = read(what, name)
    try:
        return method() if callable(method) else None
    except Exception:  # noqa: BLE001 - as above
        return None


def text(value: object, longest: int = LONGEST_VALUE) -> str | None:
    """The text that a value is, spaces at its ends removed; None where it is none, or longer than `longest`."""
    part = slice(longest + 1)
    try:
        # Slices are of exactly these types: a subclass may do anything in its methods.
        if isinstance(value, bytes):
            plain = bytes.__getitem__(value, part).decode("utf-8", "replace")
        elif isinstance(value, str):
            plain = str.__getitem__(value, part)
        else:
            return None
        return plain.strip() if len(plain) <= longest else None
    except Exception:  # noqa: BLE001 - the value is not what its class claims
        return None


def whole(value: object, least: int, most: int) -> int | None:
    """A whole number in this range, also where it stands in a text or is an enum's; None where it is none."""
    try:
        if isinstance(value, bool):
            return None
        if isinstance(value, int):
            number = int.__index__(value)
        else:
            digits = text(value, 10)
            if digits is None or not digits.isascii() or not digits.isdigit():
                return None
            number = int(digits)
        return number if least <= number <= most else None
    except Exception:  # noqa: BLE001 - the value is not what its class claims
        return None


def word(value: object) -> str | None:
    """A word for an error; None where it is anything else, such as a text for people."""
    found = text(value)
    return found if found and _WORD.fullmatch(found) else None


def is_mapping(value: object, least: int = 0) -> bool:
    """Whether it has keys, as the body of an error has, and at least so many."""
    try:
        return isinstance(value, Mapping) and len(value) >= least
    except Exception:  # noqa: BLE001 - __class__ may be a property
        return False


def items(value: object, most: int = MOST_DETAILS) -> list[Any]:
    """The first parts of whatever can be iterated; none of a text, a mapping or what raises."""
    try:
        if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
            return []
        return list(islice(iter(value), most))
    except Exception:  # noqa: BLE001 - an iterator of somebody else's may do anything
        return []


def headers_of(headers: object) -> dict[str, str]:
    """
    The headers that say anything of limits, by their names in lower case: the first value of each.

    `headers` may be a mapping of any case, an object with `items()`, or a list of pairs; names and values texts, bytes
    or numbers. A value of more than 128 characters is passed over.
    """
    found: dict[str, str] = {}
    try:
        # The class' own: an object that has every attribute, as mocks do, is no mapping for that.
        listed = getattr(type(headers), "items", None)
        pairs = items(headers if listed is None else listed(headers), MOST_HEADERS)
    except Exception:  # noqa: BLE001 - somebody else's mapping may do anything
        return found
    for pair in pairs:
        name, value = [*items(pair, 2), None, None][:2]
        key = (text(name) or "").lower().removeprefix(PASSED_ON)
        if key in HEADERS and key not in found:
            plain = plain_text(value)
            if plain is not None:
                found[key] = plain
    return found


def plain_text(value: object) -> str | None:
    """What a text or a number from 0 says, as the value of a header; of several the first. None of all else."""
    number = whole(value, 0, 10**18)
    if number is not None:
        return str(number)
    if type(value) is float:
        return format(value, "f") if abs(value) < 10**18 else None
    if type(value) is list or type(value) is tuple:
        value = value[0] if value else None
    return text(value)


def body_of(value: object) -> object:
    """
    What the body of an error or an answer holds: a mapping as it is, JSON of up to 64 KiB parsed; None of all else.

    Some providers wrap an error in a list of one.
    """
    source = text(value, LONGEST_BODY)
    if source is not None:
        try:
            value = json.loads(source) if source[:1] in ("{", "[") else None
        except (ValueError, RecursionError):
            return None
    if type(value) is list:
        value = value[0] if value else None
    return value if is_mapping(value) else None


def bases(error: object) -> Iterator[tuple[str, str]]:
    """The first part of the module and the name of an object's type and of its bases, nearest first."""
    for cls in items(read(type(error), "__mro__")):
        module, name = text(read(cls, "__module__")), text(read(cls, "__name__"))
        if module and name:
            yield module.partition(".")[0], name
