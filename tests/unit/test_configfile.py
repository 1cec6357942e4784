"""The configuration file: what it may say, and how its faults are told."""

import os
from pathlib import Path
from typing import Any

import pytest

from ratelease import Config, Limits, Rate
from ratelease.configfile import LARGEST_FILE
from ratelease.errors import ConfigError
from ratelease.settings import Settings, settle

WHOLE = """
[settings]
url = "redis://user:sentinel-password@localhost:1/0"
namespace = "prod"
lease_ttl = 30
unknown = "error"
headroom = 0.9
mode = "enforce"

[settings.redis_options]
ssl_ca_certs = "/etc/ca.pem"

[limits."OpenAI/gpt-4o"]
rpm = 500
tpm = 200_000
concurrency = 8
guard = 0.5
rates = [{ limit = 10, per = 1.5 }, { limit = 9000, per = 600.0, of = "tokens" }]

[limits."anthropic/claude-*"]
itpm = 30_000

[limits.openai]
concurrency = 20

[limits.total]
concurrency = 40

[pools.opus]
models = ["anthropic/claude-opus-*"]
rpm = 20

[pools."tenant:*"]
concurrency = 4
"""

TIERS = """
[limits."openai/gpt-4o"]
default_tier = "tier1"
concurrency = 8
[limits."openai/gpt-4o".tiers.tier1]
rpm = 500
[limits."openai/gpt-4o".tiers.Tier2]
rpm = 5000
concurrency = 50

[limits."anthropic/claude-4"]
rpm = 50
[limits."anthropic/claude-4".tiers.scale]
rpm = 4000
"""


@pytest.fixture
def settled(tmp_path: Path) -> Any:
    """Settle by a file of this text, with further keywords of settle()."""

    def settled(text: str, **options: Any) -> Settings:
        path = tmp_path / "limits.toml"
        path.write_text(text, encoding="utf-8")
        return settle(**{"arguments": {}, "environment": {}, "config_file": path, **options})

    return settled


@pytest.mark.covers("LC-12")
def test_a_file_says_settings_limits_and_pools(settled) -> None:
    """As the arguments do, in the same words."""
    settings = settled(WHOLE)
    assert settings.config == Config(
        url="redis://user:sentinel-password@localhost:1/0",
        namespace="prod",
        lease_ttl=30,
        unknown="error",
        headroom=0.9,
        redis_options={"ssl_ca_certs": "/etc/ca.pem"},
    )
    book = settings.book
    assert book.model("openai", "gpt-4o") == Limits(
        rpm=500, tpm=200_000, concurrency=8, guard=0.5, rates=[Rate(10, per=1.5), Rate(9000, 600.0, "tokens")]
    )
    assert book.model("anthropic", "claude-opus-4") == Limits(itpm=30_000)
    assert (book.provider("openai"), book.total) == (Limits(concurrency=20), Limits(concurrency=40))
    assert book.pools_of("anthropic", "claude-opus-4") == ["opus"]
    assert (book.pool("opus"), book.pool("tenant:7")) == (Limits(rpm=20), Limits(concurrency=4))
    assert set(book.resolve("openai", "gpt-4o").sources.values()) == {"file"}


@pytest.mark.covers("LC-16")
def test_the_environment_can_name_the_file(settled, tmp_path) -> None:
    """The argument comes first."""
    settled(WHOLE)
    other = tmp_path / "other.toml"
    other.write_text("[settings]\nnamespace = 'other'", encoding="utf-8")
    environment = {"RATELEASE_CONFIG": str(tmp_path / "limits.toml")}
    assert settle(arguments={}, environment=environment).config.namespace == "prod"
    assert settle(arguments={}, environment=environment, config_file=other).config.namespace == "other"


def test_five_faults_are_one_error_that_names_them_all(settled, tmp_path) -> None:
    """File, table and key of each."""
    text = """
surprise = 1
[settings]
lease_tll = 20
heartbeat = "often"
[limits."openai/gpt-4o"]
rpm = 0
concurency = 5
rates = [{limit = 1}, {limit = 5, of = "words"}, 3]
[limits."*"]
rpm = 5
[pools.opus]
models = "anthropic/claude-opus-*"
tpm = -1
[limits."mistral/large"]
default_tier = "none"
[limits."mistral/small"]
default_tier = "none"
tiers = { free = { rpm = "x" }, paid = 3 }
"""
    with pytest.raises(ConfigError) as caught:
        settled(text)
    path = tmp_path / "limits.toml"
    expected = [
        "'surprise' is not known: known are limits, pools, settings",
        "settings.lease_tll is not known: did you mean lease_ttl?",
        "settings.heartbeat must be 1 to 300 seconds, not 'often'",
        "limits.'openai/gpt-4o'.rpm must be a whole number from 1 to 1,000,000,000,000, not 0",
        "limits.'openai/gpt-4o'.concurency is not known: did you mean concurrency?",
        "limits.'openai/gpt-4o'.rates[1].of must be one of requests, tokens, input_tokens, output_tokens, not 'words'",
        "limits.'openai/gpt-4o'.rates[2] must be a table such as {limit = 10, per = 1.0}, not 3",
        "limits['*']: name a provider; a bare '*' would hide every mistake in a name",
        "pools.'opus'.models must be a sequence of keys, not 'anthropic/claude-opus-*'",
        "pools.'opus'.tpm must be a whole number from 1 to 1,000,000,000,000, not -1",
        "limits.'mistral/large'.default_tier needs tiers to choose from",
        "limits.'mistral/small'.tiers.free.rpm must be a whole number from 1 to 1,000,000,000,000, not 'x'",
        "limits.'mistral/small'.tiers.paid must be a table, not 3",
        "limits.'mistral/small'.default_tier must be one of free, paid, not 'none'",
    ]
    assert sorted(caught.value.faults) == sorted(f"{path}: {fault}" for fault in expected)
    assert all(fault in str(caught.value) for fault in caught.value.faults)


def test_faults_of_file_environment_and_arguments_come_together(settled) -> None:
    """Nobody mends one to learn of the next."""
    with pytest.raises(ConfigError) as caught:
        settled(
            "[settings]\npoll = 0",
            arguments={"lease_ttl": 1, "headroom": 2},
            environment={"RATELEASE_LIMIT_OPENAI_GPT4O_RPM": "abc", "RATELEASE_HEARTBEAT_MS": "x"},
            limits={"*": Limits()},
            tiers={"openai": 3},
        )
    assert len(caught.value.faults) == 7


def test_a_rate_that_lacks_its_limit_is_named(settled) -> None:
    """By its place in the list."""
    with pytest.raises(ConfigError, match=r"rates\[0\]\.limit is missing"):
        settled("[limits.'a/b']\nrates = [{per = 5.0}]")
    with pytest.raises(ConfigError, match=r"limits\.'a/b': two rates of requests per 60 s"):
        settled("[limits.'a/b']\nrates = [{limit = 5}]\nrpm = 4")


@pytest.mark.parametrize(
    "text",
    [
        "limits = 3",
        "settings = []",
        "pools = 'x'",
        "limits.openai = 5",
        "limits.openai.rates = 'x'",
        "limits.openai.tiers = 3",
        "pools.x = 1",
        "pools.'' = {}",
        "settings.relaxed = true",
        "settings.url = 5",
        "settings.mode = 'shadow'",
        "settings.redis_options = 3",
        "settings.redis_options.retry = 3",
        "settings.expected_instances = true",
        "settings.headroom = 0.05",
        "settings.namespace = ''",
        "limits.'a/{b}'.rpm = 5",
        "[limits.'a/b']\nrpm = 1\n[limits.'A/B']\nrpm = 2",
    ],
)
def test_a_value_of_a_wrong_kind_is_a_fault_of_its_own(settled, tmp_path, text) -> None:
    """With the path, and never another error."""
    with pytest.raises(ConfigError) as caught:
        settled(text)
    (fault,) = caught.value.faults
    assert fault.startswith(f"{tmp_path / 'limits.toml'}: ")


def test_a_file_that_cannot_be_read_is_named_with_the_reason(settled, tmp_path) -> None:
    """Missing, a folder, no TOML, no UTF-8, far too large, nested too deep."""
    for path, reason in ((tmp_path / "nowhere.toml", "there is no such file"), (tmp_path, "it is a directory")):
        with pytest.raises(ConfigError, match=f"{path}: cannot be read: {reason}"):
            settled("", config_file=path)
    with pytest.raises(ConfigError, match=r"cannot be read: .*line 2"):
        settled("[limits]\n= 3")
    for content, reason in (
        (b"\xff\xfe", "it is no UTF-8"),
        (b"#" * (LARGEST_FILE + 1), "larger than"),
        (b"a = " + b"[" * 100_000, "cannot be read"),
    ):
        path = tmp_path / "odd.toml"
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=reason):
            settled("", config_file=path)
    for path in (3, "a\0b", ""):
        with pytest.raises(ConfigError):
            settled("", config_file=path)


def test_a_key_of_an_entry_that_is_not_known_is_told_with_what_may_stand_there(settled) -> None:
    """A model without quotes is a table inside its provider's."""
    with pytest.raises(
        ConfigError, match=r"limits.'openai'.gpt-4o is a table .* write .limits.\"openai/gpt-4o\"."
    ) as caught:
        settled("[limits.openai.gpt-4o]\nrpm = 5")
    assert len(caught.value.faults) == 1
    for key, said in (("tirs", "did you mean tiers"), ("x", "known are .*default_tier.*tiers")):
        with pytest.raises(ConfigError, match=f"limits.'openai'.{key} is not known: {said}"):
            settled(f"[limits.openai]\n{key} = 5")


def test_a_file_is_never_waited_for(settled, tmp_path) -> None:
    """A pipe that nobody writes to is no file."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="no such file"):
        settled("", config_file=tmp_path / "pipe")


def test_no_fault_repeats_a_password(settled) -> None:
    """Not of an address that is wrong, nor of one that is right beside something wrong."""
    for text in ("url = 'hunter2@localhost'", "url = 'redis://:hunter2@x:1'\nnamespace = ''"):
        with pytest.raises(ConfigError) as caught:
            settled(f"[settings]\n{text}")
        told = f"{caught.value} {caught.value!r} {caught.value.__context__!r} {caught.value.__cause__!r}"
        assert "hunter2" not in told


def test_a_byte_order_mark_does_no_harm(settled) -> None:
    """Some editors write one."""
    assert settled("\ufeff[settings]\nnamespace = 'x'").config.namespace == "x"


# ---- tiers -------------------------------------------------------------------------------------------------


@pytest.mark.covers("LC-07")
def test_without_a_choice_a_model_gets_its_default_figures(settled) -> None:
    """Those of its default tier over those beside it; without one, those beside it alone."""
    book = settled(TIERS).book
    assert book.model("openai", "gpt-4o") == Limits(rpm=500, concurrency=8)
    assert book.model("anthropic", "claude-4") == Limits(rpm=50)


@pytest.mark.covers("LC-07")
@pytest.mark.parametrize("tier", ["tier2", "TIER2"])
def test_a_chosen_tier_gives_its_figures(settled, tier) -> None:
    """What it does not state is taken from beside it; other providers are left alone."""
    book = settled(TIERS, tiers={"OpenAI": tier}).book
    assert book.model("openai", "gpt-4o") == Limits(rpm=5000, concurrency=50)
    assert book.model("anthropic", "claude-4") == Limits(rpm=50)


@pytest.mark.covers("LC-07")
def test_an_unknown_tier_is_refused_with_the_known_ones(settled) -> None:
    """By entry, and with who chose it."""
    with pytest.raises(ConfigError, match=r"tiers\['openai'\]: 'tier9' is no tier of openai/gpt-4o: known are tier1"):
        settled(TIERS, tiers={"openai": "tier9"})
    with pytest.raises(ConfigError, match=r"RATELEASE_TIER_OPENAI: 'tier9' is no tier"):
        settled(TIERS, environment={"RATELEASE_TIER_OPENAI": "tier9"})
    with pytest.raises(ConfigError, match=r"RATELEASE_PROVIDER_TIER: 'tier2' is no tier of anthropic/claude-4"):
        settled(TIERS, environment={"RATELEASE_PROVIDER_TIER": "tier2"})


@pytest.mark.covers("LC-07")
def test_a_tier_of_a_provider_without_any_is_refused(settled) -> None:
    """It would choose nothing."""
    with pytest.raises(ConfigError, match=r"tiers\['mistral'\]: 'x' was chosen, but no entry of that provider"):
        settled(TIERS, tiers={"mistral": "x"})
    with pytest.raises(ConfigError, match="RATELEASE_TIER_OPENAI: 'tier1' was chosen"):
        settle(arguments={}, environment={"RATELEASE_TIER_OPENAI": "tier1"})


@pytest.mark.covers("LC-08")
def test_the_tier_of_a_provider_comes_before_the_general_one(settled) -> None:
    """The argument before both."""
    general = {"RATELEASE_PROVIDER_TIER": "scale"}
    own = {**general, "RATELEASE_TIER_OPENAI": "tier2"}
    book = settled(TIERS, environment=own).book
    assert book.model("openai", "gpt-4o") == Limits(rpm=5000, concurrency=50)
    assert book.model("anthropic", "claude-4") == Limits(rpm=4000)
    book = settled(TIERS, environment=own, tiers={"openai": "tier1"}).book
    assert book.model("openai", "gpt-4o") == Limits(rpm=500, concurrency=8)


@pytest.mark.covers("LC-08")
def test_tiers_of_the_environment_must_name_something(settled) -> None:
    """A provider and a tier, and each provider once."""
    environment = {"RATELEASE_TIER_": "x", "RATELEASE_TIER_A": "", "RATELEASE_TIER_B_C": "x", "RATELEASE_TIER_BC": "y"}
    with pytest.raises(ConfigError) as caught:
        settled("", environment=environment)
    for name in environment:
        assert name in str(caught.value)
