"""Strategies: what they take, what they refuse, how files and layers of limits carry them."""

import itertools
import math
import re
from pathlib import Path

import pytest

from ratelease import Client, Config, Feedback, Limits, Outcome
from ratelease.core.model import spec_of
from ratelease.errors import ConfigError
from ratelease.settings import settle
from ratelease.strategies import (
    DEFAULT,
    DEFAULT_WEIGHTS,
    Breaker,
    Decrement,
    Parallelism,
    Penalty,
    strategy_words,
)
from support.repository import LUA


@pytest.mark.covers("AL-01")
def test_parallelism_begins_with_these_figures_and_each_can_be_set() -> None:
    """A base is 4 where the scope has no concurrency limit."""
    figures = {
        "min": 1,
        "base": 4,
        "max": 16,
        "reduction_on_429": 0.3,
        "reduction_on_timeout": 0.1,
        "reduction_on_error": 0.05,
        "increase_on_recovery": 0.1,
        "recovery_interval": 60.0,
        "probe": True,
        "in_flight": False,
        "escalate": False,
        "whole_numbers": False,
    }
    assert Parallelism().model_dump() == figures
    assert Parallelism().word == "A1,4,16,700,900,950,100,60000,p"
    other = {name: not value if isinstance(value, bool) else value / 2 for name, value in figures.items()}
    other |= {"min": 2, "base": 5, "max": 9}
    assert Parallelism(**other).word == "A2,5,9,850,950,975,50,30000,wef"


@pytest.mark.covers("PE-06")
def test_the_default_is_a_penalty_that_can_rise() -> None:
    """On by default means on."""
    assert Config().strategy == DEFAULT == (Penalty(),)
    assert (Penalty().max, Penalty().half_life) == (10.0, 30.0)
    assert Penalty().weights == {"rate_limit": 2.0, "capacity": 1.5, "timeout": 1.0, "schema_violation": 0.5}
    with pytest.raises(ConfigError, match=r"Penalty\.max must be 0\.001 to 1,000,000, not 0"):
        Penalty(max=0)


def test_scripts_know_the_default_that_clients_do_not_send() -> None:
    """Its word in lib/strategy_of is the one that Penalty() would send."""
    told = (LUA / "lib" / "strategy_of.lua").read_text(encoding="utf-8")
    assert re.findall(r"words or '([^']+)'", told) == [Penalty().word]
    assert strategy_words(DEFAULT) == ""


@pytest.mark.parametrize(
    "given, words",
    [
        ("penalty", ""),
        ("parallelism", " A1,4,16,700,900,950,100,60000,p"),
        ("in_flight", " A1,4,16,700,900,950,100,60000,pf"),
        ("decrement", " D1,1,0"),
        ("breaker", " B5,30000,3"),
        ("off", " O"),
        ([], " O"),
        ({"kind": "decrement", "restore_after": 30}, " D1,1,30000"),
        (["penalty", {"kind": "breaker", "failures": 2}], f" {Penalty().word} B2,30000,3"),
        (Penalty(weights={"refusal": 0.25}), f" {Penalty().word},refusal=250"),
        ((Parallelism(max=8), Breaker(), Decrement()), " A1,4,8,700,900,950,100,60000,p B5,30000,3 D1,1,0"),
    ],
)
def test_a_strategy_is_given_by_name_table_or_object(given: object, words: str) -> None:
    """One of them, or several together; behind the figures of the limits, and of Config alike."""
    assert strategy_words(Limits(strategy=given).strategy) == words
    assert strategy_words(Config(strategy=given).strategy) == words
    assert spec_of(Limits(concurrency=8, strategy=given)) == f"c8{words}"
    assert hash(Limits(strategy=given)) == hash(Limits(strategy=given))


@pytest.mark.parametrize(
    "given, said",
    [
        ("penalti", "must be one of penalty, parallelism, decrement, breaker, in_flight, off"),
        ("PENALTY", "must be one of penalty"),
        (b"penalty", "must be one of penalty"),
        (7, "must be one of penalty"),
        (True, "must be one of penalty"),
        (Penalty, "must be one of penalty"),
        (itertools.count(), "must be one of penalty"),
        ("x" * 1_000_000, "must be one of penalty"),
        (["penalty", "off"], "'off' by itself"),
        (["penalty", Penalty(max=3)], "names penalty twice"),
        (["parallelism", "in_flight"], "names parallelism twice"),
        ({}, "must have a kind, one of penalty, parallelism, decrement, breaker"),
        ({"kind": "in_flight"}, "must have a kind"),
        ({"kind": ["penalty"]}, "must have a kind"),
        ({"kind": "penalty", "half_live": 3}, "Penalty.half_live is not known: did you mean half_life"),
        ({"kind": "penalty", 1: 2}, "Penalty.1 is not known"),
        ({"kind": "penalty", "max": math.nan}, "Penalty.max must be 0.001 to 1,000,000, not nan"),
        ({"kind": "penalty", "half_life": math.inf}, "Penalty.half_life must be 0.01 to 604,800 seconds"),
        ({"kind": "penalty", "weights": {"Rate": 1}}, "lower-case letters and underscores, not 'Rate'"),
        ({"kind": "penalty", "weights": {"x": -1}}, "must give x a number from 0 to 1,000,000, not -1"),
        ({"kind": "penalty", "weights": {"x": math.inf}}, "must give x a number"),
        ({"kind": "penalty", "weights": {"x": True}}, "must give x a number"),
        ({"kind": "penalty", "weights": 3}, "must map causes to numbers"),
        ({"kind": "penalty", "weights": {f"c{'x' * n}": 1 for n in range(65)}}, "at most 64 causes"),
        ({"kind": "parallelism", "min": 5, "max": 2}, r"min (5) must not be above max (2)"),
        ({"kind": "parallelism", "min": 9, "base": 4}, r"min (9) must not be above base (4)"),
        ({"kind": "parallelism", "min": 0.5}, "Parallelism.min must be a whole number"),
        ({"kind": "parallelism", "reduction_on_429": 1.5}, "Parallelism.reduction_on_429 must be 0 to 1"),
        ({"kind": "parallelism", "probe": "yes"}, "Parallelism.probe must be true or false"),
        ({"kind": "decrement", "step": 0}, "Decrement.step must be a whole number from 1"),
        ({"kind": "breaker", "open": 0}, "Breaker.open must be 0.01 to 604,800 seconds"),
    ],
)
def test_what_is_no_strategy_is_refused(given: object, said: str) -> None:
    """By one error that says what would be one; in Limits and in Config, and never as long as what was given."""
    for owner in (Limits, Config):
        with pytest.raises(ConfigError, match=re.escape(said)) as raised:
            owner(strategy=given)
        assert str(raised.value).startswith(f"{owner.__name__}.strategy ")
        assert len(str(raised.value)) < 600


def test_a_base_that_is_not_given_is_no_lower_than_the_minimum() -> None:
    """Or the limit would begin below it."""
    assert Parallelism(min=9).word == Parallelism(min=9, base=9).word


def test_every_fault_of_limits_is_named_with_those_of_their_strategy() -> None:
    """In one error."""
    with pytest.raises(ConfigError) as raised:
        Limits(rpm=0, concurrency=-1, strategy={"kind": "parallelism", "min": 0, "max": 0, "grow": 1})
    for name in ("Limits.rpm", "Limits.concurrency", "Parallelism.min", "Parallelism.max", "Parallelism.grow"):
        assert name in str(raised.value)


@pytest.mark.parametrize(
    "figures, faults",
    [
        ({"retry_after": math.nan}, ["retry_after must be seconds from 0, or None, not nan"]),
        ({"retry_after": -1.0}, ["retry_after must be seconds from 0"]),
        ({"retry_after": "2"}, ["retry_after must be seconds from 0"]),
        ({"retry_after": True}, ["retry_after must be seconds from 0"]),
        ({"dimension": "rpm"}, ["dimension must be one of requests, tokens"]),
        ({"dimension": ["tokens"]}, ["dimension must be one of requests, tokens"]),
        ({"outcome": "throttled", "retry_after": []}, ["outcome must be an Outcome", "retry_after must be seconds"]),
    ],
)
def test_feedback_that_says_nothing_readable_cannot_be_made(figures: dict[str, object], faults: list[str]) -> None:
    """So that no release can fail by it."""
    with pytest.raises(ConfigError) as raised:
        Feedback(**{"outcome": Outcome.THROTTLED, **figures})  # type: ignore[arg-type]
    for fault in faults:
        assert f"Feedback.{fault}" in str(raised.value)


# ---- where strategies come from ----------------------------------------------------------------------------------

FILE = """
[settings]
strategy = "off"

[limits."openai/gpt-4o"]
rpm = 500
strategy = "parallelism"

[limits."openai/*"]
concurrency = 8
strategy = { kind = "parallelism", max = 8 }

[limits.anthropic]
strategy = ["penalty", { kind = "breaker", failures = 3 }]
default_tier = "one"
[limits.anthropic.tiers.one]
rpm = 5
[limits.anthropic.tiers.two]
rpm = 50
strategy = "decrement"

[pools.opus]
models = ["anthropic/claude-*"]
concurrency = 2
strategy = { kind = "penalty", half_life = 5.0, weights = { refusal = 0.25 } }
"""


@pytest.fixture
def written(tmp_path: Path):
    """Write a file, and return its path."""

    def write(text: str) -> Path:
        (path := tmp_path / "limits.toml").write_text(text, encoding="utf-8")
        return path

    return write


def test_a_file_states_strategies_by_name_and_by_table(written) -> None:
    """Of models, patterns, providers, pools, and of whatever does not say."""
    found = settle(arguments={}, config_file=written(FILE), environment={})
    assert found.config.strategy == ()
    assert found.book.model("openai", "gpt-4o").strategy == (Parallelism(),)
    assert found.book.model("openai", "gpt-5").strategy == (Parallelism(max=8),)
    assert found.book.pool("opus").strategy == (Penalty(half_life=5.0, weights={**DEFAULT_WEIGHTS, "refusal": 0.25}),)


@pytest.mark.parametrize("tier, strategy", [("one", (Penalty(), Breaker(failures=3))), ("two", (Decrement(),))])
def test_a_tier_keeps_the_strategy_beside_it_unless_it_states_its_own(written, tier: str, strategy: object) -> None:
    """As it does with figures."""
    book = settle(arguments={}, config_file=written(FILE), environment={}, tiers={"anthropic": tier}).book
    assert book.provider("anthropic").strategy == strategy
    assert book.provider("anthropic").rpm == {"one": 5, "two": 50}[tier]


def test_the_first_source_that_states_a_strategy_decides_it(written) -> None:
    """A variable replaces a figure and leaves the strategy; an argument replaces the file's."""
    environment = {"RATELEASE_LIMIT_OPENAI_GPT4O_RPM": "7", "RATELEASE_LIMIT_OPENAI_GPT4O_CONCURRENCY": "3"}
    path = written(FILE)
    by_file = settle(arguments={}, config_file=path, environment=environment).book.model("openai", "gpt-4o")
    assert (by_file.figures, by_file.strategy) == ({"rpm": 7, "concurrency": 3}, (Parallelism(),))
    limits = {"openai/gpt-4o": Limits(tpm=9, strategy="decrement")}
    told = settle(arguments={}, limits=limits, config_file=path, environment=environment).book.model("openai", "gpt-4o")
    assert (told.tpm, told.rpm, told.strategy) == (9, 7, (Decrement(),))
    silent = {"openai/gpt-4o": Limits(tpm=9)}
    kept = settle(arguments={}, limits=silent, config_file=path, environment=environment).book.model("openai", "gpt-4o")
    assert kept.strategy == (Parallelism(),)


def test_wrong_strategies_of_a_file_are_named_with_their_places(written) -> None:
    """All of them at once, settings and limits, and those of tiers that do not apply."""
    text = """
    [settings]
    strategy = "parallel"
    [limits.openai]
    strategy = { kind = "parallelism", max = 0, growth = 2 }
    [limits.anthropic]
    strategy = ["penalty", "penalty"]
    [limits.google.tiers.one]
    strategy = 5
    """
    path = written(text)
    with pytest.raises(ConfigError) as raised:
        settle(arguments={}, config_file=path, environment={})
    for place in (
        f"{path}: settings.strategy must be one of",
        f"{path}: limits.'openai'.strategy Parallelism.max must be",
        "Parallelism.growth is not known",
        f"{path}: limits.'anthropic'.strategy names penalty twice",
        f"{path}: limits.'google'.tiers.one.strategy must be one of",
    ):
        assert place in str(raised.value)


def test_a_client_shows_its_figures_whatever_its_strategies_are() -> None:
    """limits() is about figures."""
    limits = {
        "openai/gpt-4o": Limits(rpm=500, strategy="parallelism"),
        "openai": Limits(strategy=["penalty", "breaker"]),
        "total": Limits(concurrency=3, strategy="off"),
    }
    with Client("memory://", limits=limits, namespace="figures") as client:
        shown = {scope.scope: {each.name: each.value for each in scope.figures} for scope in client.limits().scopes}
    assert shown == {"openai/gpt-4o": {"rpm": 500}, "openai": {}, "total": {"concurrency": 3}}
