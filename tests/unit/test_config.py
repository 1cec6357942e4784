"""Settings: their ranges, and how changes are laid over them."""

import math
import pickle

import pytest

from ratelease import Config
from ratelease.errors import ConfigError
from ratelease.testing import config


def test_the_defaults_are_valid_and_what_the_documentation_says() -> None:
    """A lease lives 15 s and is renewed every 5 s."""
    settings = Config()
    assert (settings.lease_ttl, settings.heartbeat, settings.claim_ttl, settings.poll) == (15.0, 5.0, 3.0, 0.5)
    assert (settings.default_timeout, settings.max_hold, settings.stream_idle) == (600.0, 3600.0, 600.0)
    assert (settings.url, settings.namespace, settings.unknown) == ("memory://", "default", "fallback")


@pytest.mark.parametrize(
    "name, value",
    [
        ("lease_ttl", 9.9),
        ("lease_ttl", 601),
        ("heartbeat", 0.5),
        ("claim_ttl", 0),
        ("poll", 0),
        ("poll", 11),
        ("store_timeout", 0),
        ("attempt_timeout", 61),
        ("max_hold", 0),
        ("default_timeout", -1),
        ("lease_ttl", math.nan),
        ("lease_ttl", math.inf),
        ("lease_ttl", "15"),
        ("lease_ttl", True),
        ("unknown", "maybe"),
        ("url", "localhost"),
        ("url", None),
    ],
)
def test_a_setting_outside_its_range_is_refused_by_name(name: str, value: object) -> None:
    """The message says which setting, and what it was."""
    with pytest.raises(ConfigError, match=name):
        Config(**{name: value})  # type: ignore[arg-type]


def test_all_wrong_settings_are_named_together() -> None:
    """One error for all of them."""
    with pytest.raises(ConfigError) as caught:
        Config(lease_ttl=1, heartbeat=0, poll=99, url="nowhere", unknown="x")  # type: ignore[arg-type]
    for name in ("lease_ttl", "heartbeat", "poll", "url", "unknown"):
        assert name in str(caught.value)


def test_a_lease_must_outlive_one_missed_heartbeat() -> None:
    """At least two heartbeats fit into its TTL, also in relaxed settings."""
    with pytest.raises(ConfigError, match="twice the heartbeat"):
        Config(lease_ttl=10, heartbeat=6)
    with pytest.raises(ConfigError, match="twice the heartbeat"):
        Config(lease_ttl=1, heartbeat=0.6, relaxed=True)


@pytest.mark.parametrize("timeout", [0, math.inf])
def test_a_default_timeout_may_be_nothing_or_for_ever(timeout: float) -> None:
    """0 does not wait, infinity waits for ever."""
    assert Config(default_timeout=timeout).default_timeout == timeout


def test_none_changes_nothing() -> None:
    """An argument that was not given leaves the setting as it is; a wrong one is refused here as well."""
    settings = Config(namespace="a", lease_ttl=20)
    changed = settings.replace(namespace=None, heartbeat=2.0)
    assert (changed.namespace, changed.lease_ttl, changed.heartbeat) == ("a", 20, 2.0)
    assert settings.heartbeat == 5.0
    with pytest.raises(ConfigError, match="poll"):
        settings.replace(poll=-1)


def test_settings_are_values() -> None:
    """Equal, unchangeable, and fit to be sent to another process."""
    assert Config() == Config()
    assert pickle.loads(pickle.dumps(Config(poll=1.0))) == Config(poll=1.0)  # noqa: S301 - made a moment ago
    with pytest.raises(AttributeError):
        Config().poll = 3  # type: ignore[misc]


def test_settings_for_tests_are_short_and_can_be_changed() -> None:
    """Every time is far below the ordinary ranges."""
    short = config(poll=0.05, namespace="mine")
    assert (short.lease_ttl, short.heartbeat, short.poll, short.namespace) == (1.0, 0.25, 0.05, "mine")
    with pytest.raises(ConfigError, match="poll"):
        config(poll=0)
