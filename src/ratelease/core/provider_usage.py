"""What a provider says of the calls that it has in flight, and who may be asked for it."""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from .plain import Plain
from .usage import read

HIGHEST_COUNT = 10**9

# A longer answer says nothing: the figures that are looked for fit into a page.
LONGEST_ANSWER = 1024 * 1024

# The year 5138 in Unix seconds: what is later was not meant as such.
_LATEST = 1e11

_COUNT = ("usage", "concurrent_sessions")
_LIMIT = ("limits", "concurrency", "limit")
_HARD_CAPS = (("limits", "concurrency", "hard_cap"), ("limits", "hard_cap"), ("hard_cap",))


@dataclass(frozen=True, slots=True)
class ProviderUsage(Plain):
    """
    What a provider counts as in flight for the whole account, ours and everybody else's.

    Attributes:

        concurrent_sessions: The calls in flight, or their weight where the provider weighs them.

        limit: How many it allows at once; None where it does not say, or has no limit.

        as_of: When it counted, in Unix seconds; None: when it was asked.

        hard_cap: What it will never go beyond, where that is another figure than its limit.
    """

    concurrent_sessions: int
    limit: int | None = None
    as_of: float | None = None
    hard_cap: int | None = None

    @classmethod
    def of(cls, obj: object) -> ProviderUsage | None:
        """
        Read the usage that attributes or keys of these names say; None where there is no count among them.

        Counts are rounded down. A count that is negative, above 10**9, no finite number or a truth value is none; so
        is another figure of this kind, which leaves the count as it is. Nothing that `obj` is or does raises here.
        """
        count = whole_of(read(obj, "concurrent_sessions"))
        if count is None:
            return None
        as_of = _figure(read(obj, "as_of"), _LATEST)
        return cls(count, whole_of(read(obj, "limit")), as_of, whole_of(read(obj, "hard_cap")))


class UsageSource(Protocol):
    """What may be asked for the usage of a provider; the answer may come at once or be awaited."""

    def get_usage(self) -> ProviderUsage | Awaitable[ProviderUsage | None] | None:
        """What is in flight now; None where that is not known."""
        ...


def getter_of(source: object) -> Callable[[], object] | None:
    """How a source is asked: by its `get_usage`, or by calling it; None where it offers neither."""
    try:
        asked: object = getattr(source, "get_usage", None)
    except Exception:  # noqa: BLE001 - a property of somebody else's class may do anything
        asked = None
    for way in (asked, source):
        if callable(way):
            return way
    return None


def parse_usage(payload: object, status: int = 200) -> ProviderUsage | None:
    """
    Read an answer of the form {"usage": {"concurrent_sessions": 2}}; None where it is anything else.

    `payload` is the answer's text, or what its JSON holds; `status` its HTTP status, of which only 200 says anything.
    A limit is read from limits.concurrency.limit and hard_cap beside it, where they are. Never raises.
    """
    if status != 200:
        return None
    content = parsed(payload)
    caps = (dig(content, path) for path in _HARD_CAPS)
    hard_cap = next((cap for cap in caps if cap is not None), None)
    found = {"concurrent_sessions": dig(content, _COUNT), "limit": dig(content, _LIMIT), "hard_cap": hard_cap}
    return ProviderUsage.of(found)


def parsed(payload: object) -> object:
    """What JSON of up to 1 MiB holds; None of anything else that is text, and all else as it is."""
    try:
        if not isinstance(payload, str | bytes | bytearray):
            return payload
        return json.loads(payload) if len(payload) <= LONGEST_ANSWER else None
    except Exception:  # noqa: BLE001 - no JSON, nested too deeply, or not what its class claims
        return None


def dig(content: object, path: Iterable[str]) -> object:
    """Follow keys, and numbers into lists; None where that leads nowhere."""
    try:
        for step in path:
            if isinstance(content, Mapping):
                content = content.get(step)
            elif isinstance(content, list | tuple) and step.isascii() and step.isdigit():
                content = content[int(step)]
            else:
                return None
    except Exception:  # noqa: BLE001 - past the end of a list, or somebody else's mapping
        return None
    return content


def whole_of(value: object) -> int | None:
    """A number from 0 to 10**9, rounded down; None of anything else."""
    figure = _figure(value, HIGHEST_COUNT)
    return None if figure is None else math.floor(figure)


def summed(parts: Iterable[ProviderUsage | None]) -> ProviderUsage | None:
    """
    The usage of several replicas together; None where one of them says nothing.

    A sum without one of them would look like free capacity. A limit or hard cap that not all of them have is none.
    """
    known = list(parts)
    if not known or None in known:
        return None
    usages = [usage for usage in known if usage is not None]
    limits = [usage.limit for usage in usages if usage.limit is not None]
    caps = [usage.hard_cap for usage in usages if usage.hard_cap is not None]
    found = {
        "concurrent_sessions": sum(usage.concurrent_sessions for usage in usages),
        "limit": sum(limits) if len(limits) == len(usages) else None,
        "hard_cap": sum(caps) if len(caps) == len(usages) else None,
    }
    return ProviderUsage.of(found)


def _figure(value: object, highest: float) -> float | None:
    """A finite number from 0 to the highest, as a plain int or float; None of anything else."""
    try:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        # A subclass may do anything in its methods; these are the methods of the types themselves.
        number = int.__index__(value) if isinstance(value, int) else float.__float__(value)
        return number if 0 <= number <= highest else None
    except Exception:  # noqa: BLE001 - the value is not what its class claims
        return None
