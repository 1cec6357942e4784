"""What instances say of themselves is packed, and unpacked with caps and checks: anybody can write to a store."""

import math
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelease import Instance
from ratelease.core.instances import LARGEST_PROFILE, check_metadata, decode_profile, encode_profile
from ratelease.errors import ConfigError

FULL = Instance(
    id="abc",
    host="worker-1",
    pid=17,
    started_at=1_700_000_000.5,
    heartbeat_age=1.5,
    models={"openai/gpt-4o": 2},
    active=2,
    waiting=3,
    average_latency=0.25,
    last_completed=1_700_000_100.0,
    lost=1,
    metadata={"role": "worker"},
)


def test_a_profile_comes_back_as_it_was() -> None:
    """Id and age are the list's to say, the rest is in the profile."""
    assert decode_profile("abc", encode_profile(FULL), 1.5) == FULL


def test_a_profile_with_many_models_keeps_the_busiest() -> None:
    """At most 64, so that a profile never grows without end."""
    many = Instance("a", models={f"m{number}": number for number in range(500)})
    models = decode_profile("a", encode_profile(many), 0).models
    assert len(models) == 64
    assert min(models.values()) == 436


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"\xc1",
        b"\xff" * 100,
        msgpack.packb([1, 2, 3]),
        msgpack.packb("text"),
        msgpack.packb({1: 2, b"host": b"x"}),
        msgpack.packb({"host": "h" * 100_000}),
        msgpack.packb({"models": {str(number): 1 for number in range(1000)}}),
        b"\x91" * 2000,
        b"\xdf\xff\xff\xff\xff",
        b"x" * (LARGEST_PROFILE + 1),
    ],
)
def test_rubbish_is_an_instance_that_says_nothing(packed: bytes) -> None:
    """Too large, too deep, no map, or no msgpack at all."""
    assert decode_profile("abc", packed, 2.0) == Instance("abc", heartbeat_age=2.0)


@pytest.mark.parametrize(
    "name, value, read",
    [
        ("pid", "17", 0),
        ("pid", -3, 0),
        ("pid", True, 0),
        ("started_at", math.nan, 0.0),
        ("started_at", math.inf, 0.0),
        ("average_latency", "fast", None),
        ("last_completed", [], None),
        ("active", 1e300, int(1e300)),
        ("models", [1], {}),
        ("models", {"a": "b", "c": -1, "d": 4}, {"a": 0, "c": 0, "d": 4}),
        ("metadata", 3, {}),
        ("metadata", {"a": 1}, {"a": "1"}),
        ("host", "h" * 300, "h" * 256),
    ],
)
def test_a_field_of_a_wrong_kind_is_left_at_its_default(name: str, value: Any, read: Any) -> None:
    """The others are read all the same."""
    found = decode_profile("abc", msgpack.packb({"waiting": 5, name: value}), 0.0)
    assert getattr(found, name) == read
    assert found.waiting == 5


@given(st.binary(max_size=300))
def test_no_bytes_can_do_harm(packed: bytes) -> None:
    """Whatever is stored, an instance comes of it."""
    assert decode_profile("abc", packed, 0.0).id == "abc"


@pytest.mark.parametrize("metadata", [{"a": 1}, {1: "a"}, ["a"], "text", {"a": None}, {"a": "x" * 5000}])
def test_metadata_must_be_a_few_labels(metadata: Any) -> None:
    """Text to text, at most 4 kB."""
    with pytest.raises(ConfigError, match="metadata"):
        check_metadata(metadata)


def test_metadata_is_copied() -> None:
    """What the program changes afterwards changes nothing here."""
    mine = {"role": "worker"}
    kept = check_metadata(mine)
    mine["role"] = "other"
    assert kept == {"role": "worker"}
    assert check_metadata(None) is None
