"""What counts as a provider's word on its calls in flight, and what does not."""

import enum
import json
import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ratelease
from ratelease import ProviderUsage
from ratelease.core.provider_usage import LONGEST_ANSWER, dig, getter_of, parse_usage, summed


class Raising:
    """Every attribute raises, its class as well."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


class RaisingMapping(Mapping[str, Any]):
    """A mapping that cannot be read."""

    def __getitem__(self, key: str) -> Any:
        raise RuntimeError(key)

    def __iter__(self):
        raise RuntimeError

    def __len__(self):
        raise RuntimeError


class LyingInt(int):
    """A number whose every method raises."""

    def _raise(self, *_: Any) -> Any:
        raise RuntimeError

    __ge__ = __le__ = __lt__ = __gt__ = __floor__ = __int__ = __index__ = __float__ = _raise


class Level(enum.IntEnum):
    TWO = 2


def _named(value: object) -> str:
    """Name a parameter by its start, without an address that differs from run to run."""
    return ascii(value).partition(" object at")[0][:40] + (f"...{len(value)}" if isinstance(value, str) else "")


NO_COUNTS = [
    -1, -0.5, 10**9 + 1, 1e300, math.nan, math.inf, -math.inf, True, False, None, "2", b"2", "", [], [2], {}, object(),
    2 + 0j,
]  # fmt: skip


# --- ProviderUsage.of --------------------------------------------------------------------------------------


@pytest.mark.covers("UG-01")
@pytest.mark.parametrize(
    "obj",
    [
        ProviderUsage(3),
        SimpleNamespace(concurrent_sessions=3),
        {"concurrent_sessions": 3},
        {"concurrent_sessions": 3.9},
    ],
    ids=repr,
)
def test_one_whole_number_is_enough(obj):
    """An object with the attribute or a mapping with the key; nothing else is asked of it."""
    assert ProviderUsage.of(obj) == ProviderUsage(3)


@pytest.mark.covers("UG-01")
@pytest.mark.parametrize("value,count", [(0, 0), (0.0, 0), (2.9, 2), (10**9, 10**9), (Level.TWO, 2), (LyingInt(4), 4)])
def test_counts_are_rounded_down_to_plain_whole_numbers(value, count):
    usage = ProviderUsage.of(SimpleNamespace(concurrent_sessions=value))
    assert usage == ProviderUsage(count)
    assert type(usage.concurrent_sessions) is int


@pytest.mark.covers("UG-01")
@pytest.mark.parametrize("value", NO_COUNTS, ids=_named)
def test_what_is_no_count_is_no_usage(value):
    """Also where it stands in a ProviderUsage that somebody has made of it."""
    assert ProviderUsage.of(ProviderUsage(value)) is None
    assert ProviderUsage.of({"concurrent_sessions": value}) is None


@pytest.mark.covers("UG-01")
@pytest.mark.parametrize("obj", [None, 3, "3", object(), RaisingMapping(), ProviderUsage, {}, [3]], ids=_named)
def test_objects_without_a_count_are_no_usage(obj):
    assert ProviderUsage.of(obj) is None


@pytest.mark.covers("UG-16")
def test_limit_hard_cap_and_time_are_taken_over():
    told = ProviderUsage(1, limit=4, as_of=1_700_000_000.5, hard_cap=5)
    assert ProviderUsage.of(told) == told
    assert ProviderUsage.of(told.to_dict()) == told


@pytest.mark.covers("UG-16")
@pytest.mark.parametrize("value", NO_COUNTS, ids=_named)
def test_a_wrong_limit_leaves_the_count_as_it_is(value):
    assert ProviderUsage.of({"concurrent_sessions": 1, "limit": value, "hard_cap": value}) == ProviderUsage(1)
    if value != 10**9 + 1:  # which is a time
        assert ProviderUsage.of({"concurrent_sessions": 1, "as_of": value}) == ProviderUsage(1)


def test_it_is_exported_and_plain():
    """As every other result."""
    assert ratelease.ProviderUsage is ProviderUsage
    assert ProviderUsage(1).to_dict() == {"concurrent_sessions": 1, "limit": None, "as_of": None, "hard_cap": None}


# --- parse_usage -------------------------------------------------------------------------------------------


@pytest.mark.covers("UG-15")
def test_the_usual_body_is_read():
    """Parsed before, or as text."""
    content = {"usage": {"concurrent_sessions": 2.9}}
    text = json.dumps(content)
    for form in (content, text, text.encode(), text.encode("utf-16"), bytearray(text.encode())):
        assert parse_usage(form) == ProviderUsage(2)


@pytest.mark.covers("UG-15")
@pytest.mark.parametrize("status", [201, 204, 301, 401, 404, 429, 500, 0, -1])
def test_only_status_200_says_anything(status):
    assert parse_usage({"usage": {"concurrent_sessions": 2}}, status) is None


@pytest.mark.covers("UG-15")
@pytest.mark.parametrize(
    "payload",
    [
        "", "{", "2", "null", "<html>", b"\xff\xfe\xff", "[" * 100_000, '{"usage": ' * 50_000,
        '{"usage": {"concurrent_sessions": ' + "9" * 5000 + "}}", '{"usage": {"concurrent_sessions": NaN}}',
        '{"usage": {"concurrent_sessions": 1e999}}', '{"usage": {"concurrent_sessions": "2"}}',
        {"concurrent_sessions": 2}, {"usage": 2}, {"usage": None}, {"usage": {}}, {"usage": [2]}, [], None, 2,
        RaisingMapping(), {"usage": RaisingMapping()},
        '{"usage": {"concurrent_sessions": 2}}' + " " * LONGEST_ANSWER,
    ],
    ids=_named,
)  # fmt: skip
def test_any_other_payload_is_no_usage(payload):
    assert parse_usage(payload) is None


@pytest.mark.covers("UG-15")
@pytest.mark.parametrize("value", NO_COUNTS, ids=_named)
def test_a_body_without_a_count_is_no_usage(value):
    assert parse_usage({"usage": {"concurrent_sessions": value}}) is None


@pytest.mark.covers("UG-16")
@pytest.mark.parametrize(
    "beside,limit,hard_cap",
    [
        ({"limits": {"concurrency": {"limit": 4, "hard_cap": 5}}}, 4, 5),
        ({"limits": {"concurrency": {"limit": 4.7}, "hard_cap": 5}}, 4, 5),
        ({"limits": {"concurrency": {"limit": 4}}, "hard_cap": 5}, 4, 5),
        ({"limits": {"concurrency": {"limit": 4}}}, 4, None),
        ({"limits": {"concurrency": {"limit": None, "hard_cap": "5"}}}, None, None),
        ({"limits": {"concurrency": 4}}, None, None),
        ({"limits": [4]}, None, None),
    ],
)
def test_limit_and_hard_cap_are_read_where_they_are(beside, limit, hard_cap):
    usage = parse_usage({"usage": {"concurrent_sessions": 2}, **beside})
    assert usage == ProviderUsage(2, limit=limit, hard_cap=hard_cap)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["usage", "concurrent_sessions", "limits", "concurrency", "limit"]), inner)
    ),
    max_leaves=12,
)


@pytest.mark.covers("UG-15")
@given(JSON | st.text(max_size=50) | st.binary(max_size=50))
def test_parsing_never_raises_and_only_gives_counts(payload):
    """Whatever is parsed is a count in range, and the same from a text as from its content."""
    usage = parse_usage(payload)
    if usage is not None:
        assert type(usage.concurrent_sessions) is int
        assert 0 <= usage.concurrent_sessions <= 10**9
        assert not isinstance(payload, dict) or parse_usage(json.dumps(payload)) == usage
        assert ProviderUsage.of(usage) == usage


@pytest.mark.covers("UG-15")
@given(st.floats(0, 1e9))
def test_every_number_in_range_is_rounded_down(value):
    assert parse_usage({"usage": {"concurrent_sessions": value}}) == ProviderUsage(math.floor(value))


# --- the pieces --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path,found",
    [
        (["a"], {"b": [1, {"c": 2}], "0": 3}),
        (["a", "b", "0"], 1),
        (["a", "b", "1", "c"], 2),
        (["a", "0"], 3),
        (["a", "b", "2"], None),
        (["a", "b", "-1"], None),
        (["a", "b", "²"], None),
        (["a", "b", "c"], None),
        (["a", "b", "0", "c"], None),
        (["a", "b", "9" * 5000], None),
        (["x"], None),
    ],
)
def test_a_path_follows_keys_and_places_in_lists(path, found):
    assert dig({"a": {"b": [1, {"c": 2}], "0": 3}}, path) == found


def test_replicas_are_added():
    assert summed([ProviderUsage(1), ProviderUsage(2)]) == ProviderUsage(3)
    both = [ProviderUsage(1, limit=4, hard_cap=5), ProviderUsage(2, limit=6, hard_cap=7)]
    assert summed(both) == ProviderUsage(3, limit=10, hard_cap=12)


@pytest.mark.parametrize("parts", [[], [None], [ProviderUsage(1), None], [ProviderUsage(10**9), ProviderUsage(1)]])
def test_a_sum_of_which_a_part_is_missing_is_none(parts):
    assert summed(parts) is None


def test_a_limit_that_one_replica_lacks_is_none():
    """Nobody knows what that one allows."""
    assert summed([ProviderUsage(1, limit=4, hard_cap=5), ProviderUsage(2)]) == ProviderUsage(3)


@pytest.mark.covers("UG-01")
def test_a_source_is_asked_by_its_method_or_by_a_call():
    class Provider:
        async def get_usage(self) -> ProviderUsage | None:
            return None

    async def ask() -> ProviderUsage | None:
        return None

    provider = Provider()
    assert getter_of(provider) == provider.get_usage
    assert getter_of(ask) is ask


@pytest.mark.covers("UG-01")
@pytest.mark.parametrize("source", [None, object(), 3, SimpleNamespace(get_usage=None)], ids=_named)
def test_a_provider_that_offers_no_usage_is_valid(source):
    """There is nothing to ask, which is no mistake."""
    assert getter_of(source) is None


@pytest.mark.covers("UG-01", "UG-15")
def test_nothing_that_an_object_does_is_raised():
    """Not even where its class cannot be asked for."""
    raising = Raising()
    assert ProviderUsage.of(raising) is None
    assert ProviderUsage.of(SimpleNamespace(concurrent_sessions=raising)) is None
    assert parse_usage(raising) is None
    assert parse_usage({"usage": raising}) is None
    assert parse_usage({"usage": {"concurrent_sessions": raising}}) is None
    assert getter_of(raising) is None
