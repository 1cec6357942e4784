"""Write the headers by which providers say where their limits stand and when to come back. Pure."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from email.utils import formatdate
from typing import Literal

from ratelease.testing.simulator.limits import Standing

Style = Literal["both", "seconds", "float", "ms", "date", "reset", "none", "garbage"]

STYLES: tuple[Style, ...] = ("both", "seconds", "float", "ms", "date", "reset", "none", "garbage")

Headers = list[tuple[bytes, bytes]]

# What has been seen, or could be: none of it says when to come back.
GARBAGE = (
    b"soon",
    b"-5",
    b"NaN",
    b"inf",
    b"1e400",
    b"Thu, 99 Foo 9999 25:61:61 GMT",
    b"Thu, 01 Jan 1970 00:00:00 GMT",
    b"Fri, 31 Dec 9999 23:59:59 GMT",
    b"",
    b"9" * 4096,
)


def retry_headers(style: Style, wait: float | None, wall: float, refusals: int) -> Headers:
    """Return what a refusal says of when to come back.

    `wait` is in seconds, None where nobody knows; `wall` is the time in seconds since 1970; `refusals` counts
    those before this one. All figures are rounded up, so that who comes back after exactly this time is not early.
    """
    if style == "garbage":
        return [(b"retry-after", GARBAGE[refusals % len(GARBAGE)])]
    if wait is None or style in ("reset", "none"):
        return []
    whole = (b"retry-after", b"%d" % math.ceil(wait))
    ms = (b"retry-after-ms", b"%d" % milliseconds(wait))
    if style == "float":
        return [(b"retry-after", b"%.3f" % (milliseconds(wait) / 1000))]
    if style == "date":
        return [(b"retry-after", formatdate(math.ceil(wall + wait), usegmt=True).encode())]
    return {"seconds": [whole], "ms": [ms]}.get(style, [whole, ms])


def openai_standing(kind: str, standing: Standing | None) -> Headers:
    """Return the `x-ratelimit-*` headers of a rate of requests or tokens."""
    if standing is None:
        return []
    return [
        (b"x-ratelimit-limit-" + kind.encode(), b"%d" % standing.limit),
        (b"x-ratelimit-remaining-" + kind.encode(), b"%d" % standing.remaining),
        (b"x-ratelimit-reset-" + kind.encode(), go_duration(standing.reset).encode()),
    ]


def anthropic_standing(kind: str, standing: Standing | None, wall: float) -> Headers:
    """Return the `anthropic-ratelimit-*` headers; tokens that remain are rounded to the nearest thousand."""
    if standing is None:
        return []
    remaining = standing.remaining if kind == "requests" else round(standing.remaining, -3)
    head = b"anthropic-ratelimit-" + kind.encode()
    return [
        (head + b"-limit", b"%d" % standing.limit),
        (head + b"-remaining", b"%d" % remaining),
        (head + b"-reset", rfc_3339(wall + standing.reset).encode()),
    ]


def rfc_3339(wall: float) -> str:
    """Write a time in seconds since 1970 as whole seconds of UTC, rounded up."""
    return datetime.fromtimestamp(math.ceil(wall), UTC).isoformat().replace("+00:00", "Z")


def milliseconds(seconds: float) -> int:
    """Return whole milliseconds, rounded up beyond the error of a float."""
    return math.ceil(round(seconds * 1000, 6))


def go_duration(seconds: float) -> str:
    """Write a duration as Go does, to the millisecond: `0s`, `12ms`, `7.66s`, `6m0s`, `1h0m3.5s`."""
    whole = milliseconds(seconds)
    if 0 < whole < 1000:
        return f"{whole}ms"
    minutes, rest = divmod(whole, 60_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{rest / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text
