"""What a provider says it has in flight, as people see it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .plain import Plain
from .scripts import text

# Figures of more digits are nobody's.
_WHOLE = re.compile(r"[0-9]{1,15}")
_USAGE = re.compile(r"(-?[0-9]{1,15}) ([0-9]{1,15})(?: [0-9]{1,15}){5} ([0-9]{1,15}) (-?[0-9]{1,15})")
_GATE = re.compile(r"([0-9]{1,15}) ([01]) .*")


@dataclass(frozen=True, slots=True)
class UsageStatus(Plain):
    """
    The last snapshot of a provider's usage, and the gate that goes by it.

    Attributes:

        in_flight: Calls that the provider counts; None where it has said nothing at the last poll, or never.

        age: Seconds since that poll began; None before any.

        foreign: How many of them cannot be the fleet's: beyond its calls, and those that cool or are held.

        limit, hard_cap: What the provider says it allows; None where it does not.

        blind_grants: Grants for which it had said nothing.

        poller: The instance that polls for all, "" while there is none.

        active: Whether the gate is kept up; strict: whether every grant goes by a snapshot.
    """

    in_flight: int | None
    age: float | None
    foreign: int
    limit: int | None
    hard_cap: int | None
    blind_grants: int
    poller: str
    active: bool
    strict: bool


def read_usage(values: Sequence[Any], now: int) -> UsageStatus | None:
    """What snapshot.lua says of it; None where no source was ever watched. What cannot be read is left out."""
    gate, usage, poller, blind, cap = map(text, values)
    kept = _GATE.fullmatch(gate)
    if kept is None:
        return None
    said = _USAGE.fullmatch(usage)
    count, began, foreign, limit = map(int, said.groups()) if said else (-1, 0, 0, -1)
    name, _, until_ms = poller.partition(" ")
    return UsageStatus(
        in_flight=count if count >= 0 else None,
        age=max(now - began, 0) / 1000 if said else None,
        foreign=foreign,
        limit=limit if limit >= 0 else None,
        hard_cap=int(cap) if _WHOLE.fullmatch(cap) else None,
        blind_grants=int(blind) if _WHOLE.fullmatch(blind) else 0,
        poller=name if _WHOLE.fullmatch(until_ms) and int(until_ms) > now else "",
        active=int(kept[1]) > now,
        strict=kept[2] == "1",
    )
