"""When a provider wants to be asked again, in every form in which it may say so."""

import email.message
import math
import time
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelease.providers import retry_after_of
from ratelease.providers.google import until_midnight
from ratelease.providers.hints import seconds

# 2026-11-22 12:00 in UTC.
NOW = 1_795_348_800.0


def http_date(wait: float) -> str:
    return format_datetime(datetime.fromtimestamp(NOW + wait, UTC), usegmt=True)


@pytest.mark.covers("RT-05")
@pytest.mark.parametrize(
    "headers, wait",
    [
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": " 7 "}, 7.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "0.5"}, 0.0005),
        ({"x-ms-retry-after-ms": "1200"}, 1.2),
        ({"retry-after": http_date(10)}, 10.0),
        ({"retry-after": "Sunday, 22-Nov-26 12:00:10 GMT"}, 10.0),
        ({"retry-after": "Sun Nov 22 12:00:10 2026"}, 10.0),
        ({"retry-after": http_date(-10)}, 0.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0.0),
        ({"retry-after": "6m0s"}, 360.0),
        ({"retry-after": "34s"}, 34.0),
        # What is exact comes before what is rounded, and what can be read before what cannot.
        ({"retry-after": "1", "retry-after-ms": "250", "x-ms-retry-after-ms": "900"}, 0.25),
        ({"retry-after": "3", "x-ms-retry-after-ms": "900"}, 3.0),
        ({"retry-after-ms": "soon", "retry-after": "3"}, 3.0),
        # A header that came twice, from a provider and from a gateway: the first one.
        ({"retry-after": "7, 9"}, 7.0),
        ({"retry-after-ms": "250, 900", "retry-after": "7, 7"}, 0.25),
        ({"retry-after": "34s, soon"}, 34.0),
    ],
)
def test_every_form_of_retry_after_is_read(headers: dict[str, str], wait: float) -> None:
    """To the millisecond where the provider says so; what has passed is now."""
    assert retry_after_of(headers, now=NOW) == pytest.approx(wait)


@pytest.mark.covers("RT-05")
@pytest.mark.parametrize(
    "value",
    [
        "", " ", "soon", "-1", "-0.5", "nan", "NaN", "inf", "Infinity", "-inf", "1e3", "1_000", "0x10", "+5", "٣",
        "1,5", "soon, 5", "5 s", "Please try again in 20s", "s", "6m 0s", "1s2", "Mon", "Fri, 99 Foo 2026 25:61:61 GMT",
        "2026-99-99T12:00:00Z", "Sun, 22 Nov", "9" * 65, "1" * 1_000_000, "5" + " " * 1_000_000, "\x00", "5\x00",
        "[1]", "null", "🕛",
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_no_hint(value: str) -> None:
    """Then the caller backs off by itself."""
    for headers in ({"retry-after": value}, {"retry-after-ms": value}, {"retry-after": value.encode()}):
        assert retry_after_of(headers, now=NOW) is None
    spent = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": value}
    assert retry_after_of(spent, now=NOW) is None


@pytest.mark.covers("RT-05")
def test_an_absurd_time_is_told_as_it_is() -> None:
    """Who waits has an upper limit of its own."""
    year_9999 = retry_after_of({"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, now=NOW)
    assert year_9999 is not None
    assert 2.5e11 < year_9999 < 2.6e11
    assert retry_after_of({"retry-after": "86400000"}, now=NOW) == 86_400_000.0
    assert math.isfinite(retry_after_of({"retry-after": "9" * 20}, now=NOW) or math.inf)


@pytest.mark.covers("RT-05")
def test_dates_are_measured_by_the_providers_own_clock() -> None:
    """A machine whose clock is off by minutes waits as long as every other."""
    headers = {"retry-after": http_date(10), "date": http_date(0)}
    assert retry_after_of(headers) == pytest.approx(10)
    assert retry_after_of(headers, now=NOW + 4) == pytest.approx(6), "what the caller says comes first"
    ahead = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert retry_after_of({"retry-after": ahead}) == pytest.approx(30, abs=2), "without it by the clock here"


class Multi:
    """Headers as aiohttp has them: several of one name."""

    def items(self) -> Iterator[tuple[str, str]]:
        """Yield each."""
        yield "Retry-After", "5"
        yield "Retry-After", "6"


def _message() -> email.message.Message:
    message = email.message.Message()
    message["Retry-After"] = "5"
    return message


@pytest.mark.parametrize(
    "headers",
    [
        {"Retry-After": "5"},
        {"RETRY-AFTER": "5"},
        {"retry-after": 5},
        {"retry-after": 5.0},
        {"retry-after": ["5", "9"]},
        {b"Retry-After": b"5"},
        [("retry-after", "5")],
        [(b"retry-after", b"5")],
        (("content-type", "text/html"), ["Retry-After", "5"]),
        {"llm_provider-retry-after": "5"},
        Multi(),
        _message(),
    ],
)
def test_headers_may_come_in_any_shape(headers: object) -> None:
    """As libraries have them."""
    assert retry_after_of(headers, now=NOW) == 5.0


@pytest.mark.parametrize(
    "headers",
    [
        None, 5, "retry-after: 5", b"retry-after:5", object(), [], ["retry-after"], [("retry-after",)], [None], {1: 2},
        {"retry-after": None}, {"retry-after": True}, {"retry-after": []}, {"retry-after": {"a": 1}},
        {"retry-after": 10**400}, {"retry-after": math.nan}, {"retry-after": -5}, {"retry-after": math.inf},
    ],
)  # fmt: skip
def test_what_are_no_headers_hold_no_hint(headers: object) -> None:
    """And no error."""
    assert retry_after_of(headers, now=NOW) is None


RESETS: list[tuple[str, float]] = [
    ("1s", 1.0),
    ("6m0s", 360.0),
    ("12ms", 0.012),
    ("2m59.56s", 179.56),
    ("1h2m3.5s", 3723.5),
    ("1d2h", 93_600.0),
    ("250us", 0.00025),
    ("250µs", 0.00025),
    ("5", 5.0),
    ("5.25", 5.25),
    ("2026-11-22T12:00:30Z", 30.0),
    ("2026-11-22T12:00:30.5+00:00", 30.5),
    ("2026-11-22t13:00:30+01:00", 30.0),
    ("2026-11-22T12:00:30.123456789Z", 30.123456),
    ("2026-11-22T11:00:00Z", 0.0),
    (str(int(NOW) + 20), 20.0),
    (str((int(NOW) + 20) * 1000), 20.0),
    (str(int(NOW) - 20), 0.0),
    ("1970-01-01T00:00:00Z", 0.0),
    ("0", 0.0),
]


@pytest.mark.parametrize("value, wait", RESETS)
def test_resets_come_as_durations_dates_and_numbers(value: str, wait: float) -> None:
    """Go's durations, RFC 3339, seconds, and seconds or milliseconds since 1970."""
    headers = {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": value}
    assert retry_after_of(headers, now=NOW) == pytest.approx(wait, abs=1e-6)


def test_only_what_is_used_up_is_waited_for() -> None:
    """The latest of it; a reset of something else tells when that is full again, which nobody needs to wait for."""
    headers = {
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "2s",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "5s",
        "x-ratelimit-remaining-project-tokens": "1",
        "x-ratelimit-reset-project-tokens": "6m0s",
    }
    assert retry_after_of(headers, now=NOW) == 5.0
    assert retry_after_of({**headers, "x-ratelimit-remaining-tokens": "17"}, now=NOW) == 2.0
    assert retry_after_of({**headers, "retry-after": "1"}, now=NOW) == 1.0, "the provider's own word comes first"
    unknown = {**headers, "x-ratelimit-remaining-requests": "-1", "x-ratelimit-remaining-tokens": "-1"}
    assert retry_after_of(unknown, now=NOW) is None
    anthropic = {
        "anthropic-ratelimit-output-tokens-remaining": "0",
        "anthropic-ratelimit-output-tokens-reset": "2026-11-22T12:00:30Z",
        "anthropic-ratelimit-requests-remaining": "49",
        "anthropic-ratelimit-requests-reset": "2026-11-22T12:05:00Z",
    }
    assert retry_after_of(anthropic, now=NOW) == 30.0


@pytest.mark.parametrize(
    "delay, wait",
    [
        ("34s", 34.0),
        ("34.074824224s", 34.074824224),
        ({"seconds": 34, "nanos": 500_000_000}, 34.5),
        ({"seconds": "34"}, 34.0),
        (SimpleNamespace(seconds=34, nanos=0), 34.0),
        (timedelta(seconds=34), 34.0),
        (timedelta(days=1, seconds=1), 86_401.0),
        (timedelta(seconds=-34), 0.0),
        ("soon", None),
        ("-34s", None),
        ({"seconds": "soon"}, None),
        ({"seconds": 34.5}, 34.5),
        ({"seconds": -34}, None),
        # Its text has more digits than Python writes.
        ({"seconds": 10**5000}, None),
        ({}, None),
        (34j, None),
    ],
)
def test_google_says_it_in_the_body(delay: object, wait: float | None) -> None:
    """As JSON, as a message of protobuf, or as its Python classes; a header comes before it."""
    for body in (
        {"error": {"details": [{"@type": "other"}, {"retryDelay": delay}]}},
        SimpleNamespace(details=[SimpleNamespace(retry_delay=delay)]),
    ):
        assert retry_after_of({}, body, now=NOW) == (None if wait is None else pytest.approx(wait))
        assert retry_after_of({"retry-after": "1"}, body, now=NOW) == 1.0


@pytest.mark.parametrize(
    "moment, hours",
    [
        ("2026-11-22T12:00:00+00:00", 20.0),
        ("2026-07-01T12:00:00+00:00", 19.0),
        # The days on which clocks are changed have 23 and 25 hours.
        ("2026-03-08T08:00:00+00:00", 23.0),
        ("2026-11-01T07:00:00+00:00", 25.0),
    ],
)
def test_googles_day_ends_at_midnight_in_california(moment: str, hours: float) -> None:
    """In summer and in winter."""
    assert until_midnight(datetime.fromisoformat(moment).timestamp()) == hours * 3600


def test_a_day_ends_without_a_database_of_time_zones(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the time of winter, so that a wait is an hour too long at most."""
    monkeypatch.setattr(zoneinfo, "ZoneInfo", _missing)
    assert until_midnight(datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()) == 20 * 3600
    assert until_midnight(datetime(2026, 7, 1, 12, tzinfo=UTC).timestamp()) == 20 * 3600


def _missing(key: str) -> Any:
    raise zoneinfo.ZoneInfoNotFoundError(key)


@pytest.mark.parametrize("now", [0.0, -1e9, 1e18, math.inf, math.nan])
def test_a_clock_that_is_wrong_beyond_belief_breaks_nothing(now: float) -> None:
    """Some wait results, of a length that a wait may have."""
    assert 0 <= until_midnight(now) <= 25 * 3600
    wait = retry_after_of({"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, now=now)
    assert wait is None or (math.isfinite(wait) and wait >= 0)


@given(st.text(max_size=80) | st.from_regex(r"[0-9.:TZ+a-zA-Z, -]{0,80}", fullmatch=True))
def test_any_text_is_a_wait_or_none(value: str) -> None:
    """From 0, and finite."""
    wait = seconds(value, NOW)
    assert wait is None or (math.isfinite(wait) and wait >= 0)


@given(st.floats(min_value=0, max_value=1e8))
def test_plain_seconds_are_themselves(value: float) -> None:
    """Whatever their number of digits."""
    assert seconds(f"{value:.6f}", NOW) == pytest.approx(value, abs=1e-6)


def test_a_megabyte_is_refused_by_its_length() -> None:
    """Nothing is parsed, searched or copied of it."""
    headers = {"retry-after": "1" * 2**20, "x-ratelimit-remaining-requests": "0" * 2**20}
    began = time.perf_counter()
    for _ in range(100):
        assert retry_after_of(headers, now=NOW) is None
    assert time.perf_counter() - began < 0.5
