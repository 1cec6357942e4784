"""Where settings and limits come from, in which order, and what says so."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ratelease import Config, Limits, Pool, Rate
from ratelease.core.figures import EffectiveLimits, effective_limits
from ratelease.core.keys import make_path
from ratelease.errors import ConfigError
from ratelease.settings import Settings, settle

GPT = "RATELEASE_LIMIT_OPENAI_GPT4O_"


@pytest.fixture
def file(tmp_path: Path) -> Any:
    """Write a file and return its path."""

    def file(text: str) -> Path:
        path = tmp_path / "limits.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return file


def sources_of(settings: Settings, provider: str, model: str) -> dict[str, tuple[float, str]]:
    """Figure -> value and source, of a model."""
    found = settings.book.resolve(provider, model, settings.config.unknown)
    figures = found.limits.figures if found.limits is not None else {}
    return {name: (value, found.sources[name]) for name, value in figures.items()}


# ---- settings ----------------------------------------------------------------------------------------------


@pytest.mark.covers("LC-12")
def test_a_setting_is_taken_from_argument_then_environment_then_file_then_default(file) -> None:
    """Each of them alone decides what the ones before it leave open."""
    path = file("[settings]\nnamespace = 'file'\npoll = 1\nheartbeat = 6\nlease_ttl = 40")
    environment = {"RATELEASE_NAMESPACE": "env", "RATELEASE_POLL_MS": "2000", "RATELEASE_HEARTBEAT_MS": "7000"}
    settings = settle(
        arguments={"namespace": "argument", "poll": None, "lease_ttl": None},
        config=Config(namespace="config", poll=3),
        config_file=path,
        environment=environment,
    )
    config = settings.config
    assert (config.namespace, config.poll, config.heartbeat, config.lease_ttl) == ("argument", 3, 7, 40)
    assert config.claim_ttl == 3.0
    assert settings.sources == {"namespace": "argument", "poll": "argument", "heartbeat": "env", "lease_ttl": "file"}


@pytest.mark.covers("LC-12")
def test_none_is_no_argument() -> None:
    """It never beats the environment."""
    settings = settle(arguments={"namespace": None}, environment={"RATELEASE_NAMESPACE": "env"})
    assert settings.config.namespace == "env"
    assert settle(arguments={}, config=Config(), environment={"RATELEASE_NAMESPACE": "env"}).config.namespace == "env"


def test_times_may_be_timedeltas() -> None:
    """As everywhere in Python."""
    assert settle(arguments={"lease_ttl": timedelta(minutes=1)}, environment={}).config.lease_ttl == 60


@pytest.mark.covers("LC-17")
def test_lease_time_and_heartbeat_must_fit_together_wherever_they_come_from(file) -> None:
    """Each may be right by itself, and need the other."""
    path = file("[settings]\nheartbeat = 20")
    with pytest.raises(ConfigError, match="twice the heartbeat"):
        settle(arguments={}, config_file=path, environment={})
    assert settle(arguments={"lease_ttl": 40}, config_file=path, environment={}).config.heartbeat == 20
    with pytest.raises(ConfigError, match="twice the heartbeat"):
        settle(arguments={"lease_ttl": 30}, config_file=path, environment={})
    both = {"RATELEASE_LEASE_TTL_MS": "10000", "RATELEASE_HEARTBEAT_MS": "9000"}
    with pytest.raises(ConfigError, match=r"^RATELEASE_LEASE_TTL_MS and RATELEASE_HEARTBEAT_MS: lease_ttl"):
        settle(arguments={}, environment=both)


@pytest.mark.covers("LC-17")
@pytest.mark.parametrize("heartbeat", [1, 300])
def test_the_ends_of_the_ranges_are_inside(heartbeat: float) -> None:
    """Heartbeats of 1 to 300 s, leases of 10 to 600 s."""
    assert Config(heartbeat=heartbeat, lease_ttl=max(10, 2 * heartbeat)).heartbeat == heartbeat
    with pytest.raises(ConfigError, match="heartbeat must be 1 to 300 seconds"):
        Config(heartbeat=heartbeat * 1.01 if heartbeat > 1 else 0.99, lease_ttl=600)
    for lease_ttl in (9.99, 600.1):
        with pytest.raises(ConfigError, match="lease_ttl must be 10 to 600 seconds"):
            Config(lease_ttl=lease_ttl)


def test_the_arguments_of_outages_are_settings() -> None:
    """With their ranges."""
    stated = {"on_unavailable": "open", "expected_instances": 8, "redis_options": {"ssl_cert_reqs": "none"}}
    config = settle(arguments=stated, environment={}).config
    assert (config.on_unavailable, config.expected_instances) == ("open", 8)
    assert config.redis_options == {"ssl_cert_reqs": "none"}
    assert hash(config) == hash(settle(arguments=stated, environment={}).config)
    for name, value in (
        ("on_unavailable", "never"),
        ("expected_instances", 0),
        ("expected_instances", 1.0),
        ("redis_options", [1]),
        ("redis_options", {"decode_responses": True}),
        ("env_prefix", ""),
        ("env_prefix", "a-b"),
        ("env_prefix", "RATELEASE_"),
        ("require_shared", "yes"),
    ):
        with pytest.raises(ConfigError, match=f"^{name} must"):
            settle(arguments={name: value}, environment={})


def test_options_may_hold_secrets_that_nobody_shows() -> None:
    """Neither settings nor an error about them."""
    config = Config(redis_options={"password": "sentinel-password"})
    assert "sentinel-password" not in repr(config)
    with pytest.raises(ConfigError) as caught:
        Config(redis_options={"password": "sentinel-password", "retry": 1})
    assert "sentinel-password" not in f"{caught.value!r} {caught.value.__context__!r}"


@pytest.mark.parametrize(
    "url, option",
    [
        ("redis://cache:6379/0", "host"),
        ("redis://cache:6379/0", "port"),
        ("redis://cache:6379/0", "db"),
        ("rediss://cache?db=3", "db"),
        ("redis://app:hunter2@cache", "username"),
        ("redis://app:hunter2@cache", "password"),
        ("unix:///run/redis.sock", "path"),
        ("redis+cluster://a:7000,b:7001", "host"),
    ],
)
def test_an_option_that_the_address_states_is_refused(url: str, option: str) -> None:
    """The address would prevail, and nobody would know. What it leaves open may be an option."""
    for given in (
        {"arguments": {"url": url, "redis_options": {option: "sentinel"}}},
        {"arguments": {"url": url}, "config": Config(redis_options={option: "sentinel"})},
    ):
        with pytest.raises(ConfigError, match=f"redis_options must leave out {option}: the URL") as caught:
            settle(**given, environment={})  # type: ignore[arg-type]
        assert "sentinel" not in str(caught.value)
        assert "hunter2" not in str(caught.value)
    free = {"port": 6380, "db": 1, "username": "app", "password": "sentinel"}
    assert (
        settle(arguments={"url": "redis://cache", "redis_options": free}, environment={}).config.redis_options == free
    )


def test_config_and_file_must_be_what_they_are_called() -> None:
    """A dict is no Config."""
    with pytest.raises(ConfigError, match="config must be a Config"):
        settle(arguments={}, config={"poll": 1}, environment={})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="config_file must be a path"):
        settle(arguments={}, config_file=3, environment={})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="tiers must map"):
        settle(arguments={}, tiers=["a"], environment={})  # type: ignore[arg-type]


# ---- limits ------------------------------------------------------------------------------------------------


@pytest.mark.covers("LC-12")
def test_each_figure_of_a_model_has_its_own_source(file) -> None:
    """What one source leaves open the next one fills."""
    path = file("[limits.'openai/gpt-4o']\nrpm = 1\ntpm = 1\nconcurrency = 1\nrates = [{limit = 1, per = 10.0}]")
    settings = settle(
        arguments={},
        limits={"openai/gpt-4o": Limits(rpm=3, tpm=None)},
        config_file=path,
        environment={GPT + "RPM": "2", GPT + "TPM": "2"},
    )
    assert sources_of(settings, "openai", "gpt-4o") == {
        "rpm": (3, "argument"),
        "tpm": (2, "env"),
        "concurrency": (1, "file"),
        "requests/10s": (1, "file"),
    }


@pytest.mark.covers("LC-12")
def test_a_rate_is_one_figure_however_it_is_spelt(file) -> None:
    """500 in 60 s and rpm=500 are the same, so one replaces the other."""
    path = file("[limits.'openai/gpt-4o']\nrpm = 1")
    settings = settle(arguments={}, limits={"openai/gpt-4o": Limits(rates=[Rate(9)])}, config_file=path, environment={})
    assert sources_of(settings, "openai", "gpt-4o") == {"rpm": (9, "argument")}


@pytest.mark.covers("LC-12")
def test_shared_scopes_are_laid_over_each_other_as_well(file) -> None:
    """Providers, pools and the total."""
    path = file("[limits.openai]\nrpm = 1\n[limits.total]\nrpm = 1\n[pools.big]\nmodels = ['openai/*']\nrpm = 1")
    environment = {f"RATELEASE_LIMIT_{scope}_CONCURRENCY": "2" for scope in ("OPENAI", "TOTAL", "POOL_BIG")}
    limits = {"openai": Limits(tpm=3), "total": Limits(tpm=3)}
    settings = settle(
        arguments={},
        limits=limits,
        pools={"big": Pool(limits=Limits(tpm=3))},
        config_file=path,
        environment=environment,
    )
    for found in (
        settings.book.resolve_provider("openai"),
        settings.book.resolve_total(),
        settings.book.resolve_pool("big"),
    ):
        assert found.limits == Limits(rpm=1, concurrency=2, tpm=3)
        assert found.sources == {"rpm": "file", "concurrency": "env", "tpm": "argument"}
    assert settings.book.pools_of("openai", "gpt-4o") == ["big"]


@pytest.mark.covers("LC-12")
def test_the_fallback_is_for_what_nothing_else_speaks_of() -> None:
    """A variable for a model, or for its provider, is something."""
    settings = settle(arguments={}, environment={"RATELEASE_LIMIT_MISTRAL_LARGE_RPM": "9"})
    assert sources_of(settings, "mistral", "large") == {"rpm": (9, "env")}
    assert sources_of(settings, "mistral", "small") == {"rpm": (30, "fallback"), "concurrency": (2, "fallback")}
    settings = settle(arguments={}, environment={"RATELEASE_LIMIT_MISTRAL_RPM": "9"})
    assert sources_of(settings, "mistral", "small") == {}


def test_limits_know_what_was_given() -> None:
    """By name; a figure that is None was not."""
    limits = Limits(rpm=5, tpm=None, rates=[Rate(6, per=10), Rate(7, per=1)], guard=0.25, headroom=0.5)
    assert limits.figures == {"rpm": 5, "requests/10s": 6, "burst": 7, "guard": 0.25, "headroom": 0.5}
    assert Limits.of_figures(limits.figures) == Limits(rpm=5, burst=7, rates=[Rate(6, per=10)], headroom=0.5)
    assert Limits().figures == {}
    assert limits.model_fields_set == {"rpm", "tpm", "rates", "guard", "headroom"}


# ---- what a client shows -----------------------------------------------------------------------------------


def shown(settings: Settings, *models: str, **options: Any) -> EffectiveLimits:
    """The limits of a client that has used these models."""
    paths = [make_path("openai", model, tuple(settings.book.pools_of("openai", model)), None) for model in models]
    headroom = (settings.config.headroom, settings.sources.get("headroom", "default"))
    options = {"credential": None, "unknown": settings.config.unknown, "headroom": headroom, **options}
    return effective_limits(settings.book, paths, **options)


@pytest.mark.covers("LC-12")
def test_every_scope_that_is_configured_or_used_is_shown_with_its_sources() -> None:
    """Also what operators have set, above all others."""
    settings = settle(
        arguments={},
        limits={"openai/gpt-4o": Limits(rpm=500, concurrency=8), "mistral": Limits(rpm=7), "total": Limits(rpm=9)},
        pools={"big": Pool(["openai/*"], Limits(tpm=3)), "tenant:*": Pool()},
        environment={GPT + "TPM": "9000"},
    )
    overrides = {"m:openai:gpt-4o": {"concurrency": 2, "requests/10s": 4}, "p:azure": {"rpm": 1}}
    limits = shown(settings, "gpt-4o", "o3", overrides=overrides)
    assert [scope.scope for scope in limits.scopes] == [
        "pool:big",
        "openai/gpt-4o",
        "openai/o3",
        "azure",
        "mistral",
        "openai",
        "total",
    ]
    assert [(figure.name, figure.value, figure.source) for figure in limits.scopes[1].figures] == [
        ("rpm", 500, "argument"),
        ("tpm", 9000, "env"),
        ("concurrency", 2, "operator"),
        ("requests/10s", 4, "operator"),
    ]
    assert limits.to_dict()["scopes"][3] == {
        "scope": "azure",
        "key": "p:azure",
        "figures": [{"name": "rpm", "value": 1, "effective": 1, "source": "operator"}],
        "estimates": {},
    }
    assert limits.scope("Total").figure("rpm").value == 9  # type: ignore[union-attr]
    assert limits.scope("openai/o3").figures == ()  # type: ignore[union-attr]
    assert limits.scope("nobody/knows") is None


@pytest.mark.covers("RW-08")
@pytest.mark.parametrize("model, part, source", [("gpt-4o", 0.9, "default"), ("o3", 0.7, "argument")])
def test_a_headroom_is_shown_with_what_it_leaves(model: str, part: float, source: str) -> None:
    """Of the settings, or of the limits themselves; concurrency is not scaled."""
    limits = {"openai/gpt-4o": Limits(rpm=501, concurrency=8), "openai/o3": Limits(rpm=500, headroom=0.7)}
    settings = settle(arguments={}, limits=limits, environment={})
    found = shown(settings, headroom=(0.9, "default")).scope(f"openai/{model}")
    assert found is not None
    figures = {figure.name: (figure.value, figure.effective, figure.source) for figure in found.figures}
    assert figures["headroom"] == (part, part, source)
    assert figures["rpm"] == ((501, 450, "argument") if model == "gpt-4o" else (500, 350, "argument"))
    assert figures.get("concurrency") in (None, (8, 8, "argument"))
