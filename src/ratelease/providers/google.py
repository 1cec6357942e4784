"""What Google says in the details of an error: which quota was exceeded, and when to come back."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo

from ..core.feedback import Dimension
from .reading import items, read, text

_SHORTEST_DAY = 60.0


@dataclass(frozen=True, slots=True)
class Quotas:
    """
    The quotas that a call exceeded.

    `none_given`: one of them is 0, so the model is not on the plan. `daily`: one of them is of a day.
    """

    none_given: bool = False
    daily: bool = False
    dimension: Dimension | None = None


def details_of(body: object) -> list[object]:
    """The details of an error, from its body, or from an exception that has them itself."""
    error = read(body, "error")
    inner = error if error is not None else body
    found = items(read(inner, "details"))
    return found or (items(read(body, "details")) if inner is not body else [])


def retry_delay(body: object) -> object:
    """The delay of a RetryInfo as it stands there: "34s", a timedelta, or seconds and nanos."""
    for detail in details_of(body):
        for name in ("retryDelay", "retry_delay"):
            delay = read(detail, name)
            if delay is not None:
                return delay
    return None


def quotas_of(body: object) -> Quotas:
    """What QuotaFailure and ErrorInfo tell; nothing where there are none."""
    names, values = [], []
    for detail in details_of(body):
        metadata = read(detail, "metadata")
        names += [read(metadata, "quota_limit"), read(metadata, "quota_metric")]
        values.append(read(metadata, "quota_limit_value"))
        for violation in items(read(detail, "violations")):
            names += [read(violation, name) for name in ("quotaId", "quota_id", "quotaMetric", "quota_metric")]
            values.append(read(violation, "quotaValue"))
    words = [found.lower().replace("_", "") for name in names if (found := text(name))]
    return Quotas(
        # A text, as JSON has it. In a protobuf message 0 also stands for a value that was not given.
        none_given=any(text(value) == "0" for value in values),
        daily=any("perday" in each for each in words),
        dimension=_dimension(words),
    )


def _dimension(words: list[str]) -> Dimension | None:
    """The unit that the names of the quotas share; None where they name several, or none."""
    found: set[Dimension] = set()
    for each in words:
        if "inputtoken" in each:
            found.add("input_tokens")
        elif "outputtoken" in each:
            found.add("output_tokens")
        elif "token" in each:
            found.add("tokens")
        elif "request" in each:
            found.add("requests")
    return found.pop() if len(found) == 1 else None


def until_midnight(now: float) -> float:
    """Seconds until the day ends in California, when Google's daily quotas begin anew: a minute to 25 hours."""
    try:
        here = datetime.fromtimestamp(now, UTC).astimezone(_pacific())
        tomorrow = (here + timedelta(days=1)).date()
        midnight = datetime(tomorrow.year, tomorrow.month, tomorrow.day, tzinfo=here.tzinfo)
        return min(max(midnight.timestamp() - now, _SHORTEST_DAY), 25 * 3600.0)
    except (ValueError, OverflowError, OSError):
        # A clock that shows no year which a calendar has.
        return 24 * 3600.0


def _pacific() -> tzinfo:
    # Loaded here, since it reads the environment and `import ratelease` does not.
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return ZoneInfo("America/Los_Angeles")
    except (ZoneInfoNotFoundError, OSError, ValueError):
        # Without a database of time zones the winter's time: in summer an hour too long, never too short.
        return timezone(timedelta(hours=-8))
