"""
When a provider wants to be asked again: Retry-After in all its forms, Google's RetryInfo, reset headers.

    retry_after_of({"Retry-After": "1.5"})  ->  1.5

A hint that cannot be read is no hint; one that lies in the past is 0. There is no upper limit: who waits has one.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from ..core.feedback import Dimension
from .google import retry_delay
from .reading import headers_of, plain_text, read, text
from .tables import BUDGETS, HINTS, Budget

# Longer than every form; what is longer is not looked at.
_LONGEST = 64

_NUMBER = re.compile(r"\d{1,20}(?:\.\d{0,20})?|\.\d{1,20}", re.ASCII)
_DURATION = re.compile(r"(?:\d{1,20}(?:\.\d{1,20})?(?:ns|us|µs|μs|ms|s|m|h|d))+", re.ASCII)
_STEP = re.compile(r"([\d.]+)([a-zµμ]+)", re.ASCII)
_SECONDS = {
    "ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0,
}  # fmt: skip
_DATE = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d", re.ASCII)
_HTTP_DATE = re.compile(r"[A-Za-z]{3,9},? ", re.ASCII)

# No wait is this long, so such a number is a time since 1970: in seconds, or from here on in milliseconds.
_EPOCH = 1e9
_EPOCH_MS = 1e12


def retry_after_of(headers: object, body: object = None, *, now: float | None = None) -> float | None:
    """
    Seconds after which a provider wants to be asked again, from 0; None where it has not said.

    The first hint that can be read counts: `retry-after-ms`, `retry-after`, `x-ms-retry-after-ms`, Google's RetryInfo
    in the body, and then the resets of what is used up, the latest of them. A reset of what is left in part says
    nothing: it tells when all of it is there again.

    Args:

        headers: A mapping in any case, an object with `items()`, or pairs; names and values may be bytes.

        body: The parsed body of the error, if there is one.

        now: Seconds since 1970, for dates. None: as the answer's own Date header says, else by the clock of this
            machine.
    """
    found = headers_of(headers)
    clock = clock_of(found, now)
    told = told_wait(found, body, clock)
    return until_reset(found, clock) if told is None else told


def clock_of(headers: Mapping[str, str], now: float | None) -> float:
    """Seconds since 1970 by which dates are read. The provider's own are better than those of a clock that is off."""
    if now is None:
        now = _date(headers.get("date", ""))
    return time.time() if now is None else now


def told_wait(headers: Mapping[str, str], body: object, now: float) -> float | None:
    """The wait that the provider asks for in so many words; `headers` as :func:`headers_of` reads them."""
    for name, per_second in HINTS:
        told = headers.get(name, "")
        # A header that came twice is joined so by most libraries; a date has a comma of its own.
        for value in (told, told.partition(", ")[0]):
            wait = seconds(value, now) if per_second == 1 else _scaled(value, per_second)
            if wait is not None:
                return wait
    delay = retry_delay(body)
    if isinstance(delay, timedelta):
        return max(delay.total_seconds(), 0.0)
    if (source := text(delay)) is not None:
        return seconds(source, now)
    found = [part for name in ("seconds", "nanos") if (part := read(delay, name)) is not None]
    parts = [seconds(plain_text(part) or "", now) for part in found]
    if not parts or None in parts:
        return None
    return parts[0] if len(parts) == 1 else _finite((parts[0] or 0.0) + (parts[1] or 0.0) * 1e-9)


@dataclass(frozen=True, slots=True)
class UsedUp:
    """A rate of which nothing is left, and the seconds until it is whole again, where that is told."""

    budget: Budget
    reset: float | None


def used_up(headers: Mapping[str, str], now: float) -> list[UsedUp]:
    """What is used up, as the headers say. A remaining of -1 is unknown (Azure), not nothing."""
    return [
        UsedUp(budget, seconds(headers.get(budget.reset, ""), now))
        for budget in BUDGETS
        if _is_zero(headers.get(budget.remaining))
    ]


def closed(headers: Mapping[str, str]) -> bool:
    """Whether the model is not on this account's plan: a limit of 0 where the provider means that by it."""
    return any(_is_zero(headers.get(budget.limit)) for budget in BUDGETS if budget.closed_at_zero)


def until_reset(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds until all that is used up is there again; None where nothing is, or nobody says when."""
    return max((each.reset for each in used_up(headers, now) if each.reset is not None), default=None)


def dimension_used_up(headers: Mapping[str, str], now: float) -> Dimension | None:
    """What is used up: of several rates the one that comes back last, the first of the table where that is equal."""
    gone = used_up(headers, now)
    return max(gone, key=lambda each: each.reset or 0.0).budget.dimension if gone else None


def seconds(value: str, now: float) -> float | None:
    """
    A wait in seconds, from 0, in any form that headers have; None where it is none of them.

    "2", "1.5", "6m0s", "12ms", "2026-11-22T12:00:00Z", "Sun, 22 Nov 2026 12:00:00 GMT", seconds or milliseconds since
    1970. A time that has passed is 0. What is negative, infinite or anything else is None.
    """
    value = value.strip()
    if not value or len(value) > _LONGEST:
        return None
    if _NUMBER.fullmatch(value):
        number = float(value)
        if number >= _EPOCH:
            number = number / 1000 if number >= _EPOCH_MS else number
            return _finite(max(number - now, 0.0))
        return number
    if _DURATION.fullmatch(value):
        return _finite(math.fsum(float(count) * _SECONDS[unit] for count, unit in _STEP.findall(value)))
    date = _date(value)
    return None if date is None else _finite(max(date - now, 0.0))


def _scaled(value: str, per_second: int) -> float | None:
    return float(value) / per_second if len(value) <= _LONGEST and _NUMBER.fullmatch(value) else None


def _date(value: str) -> float | None:
    """Seconds since 1970 of a date as RFC 3339 or HTTP have it; UTC where it names no zone."""
    try:
        if _DATE.match(value):
            date = datetime.fromisoformat(value.upper())
        elif _HTTP_DATE.match(value):
            date = parsedate_to_datetime(value)
        else:
            return None
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        # Each of them is how one of the parsers says that it is no date.
        return None


def _is_zero(value: str | None) -> bool:
    return value is not None and len(value) <= _LONGEST and bool(_NUMBER.fullmatch(value)) and float(value) == 0


def _finite(wait: float) -> float | None:
    return wait if math.isfinite(wait) and wait >= 0 else None
