"""The adjuster's own counting: what is configured for others, and what models are called, does not disturb it."""

import pytest

from ratelease import Limits
from ratelease.errors import ConfigError
from ratelease.parallelism import DynamicAdjusterConfig, DynamicParallelismAdjuster

EIGHT = DynamicAdjusterConfig(base_parallelism=8)
ONE = DynamicAdjusterConfig(base_parallelism=1)


@pytest.mark.covers("AL-03")
def test_limits_of_the_environment_and_of_files_are_for_other_clients(settings, monkeypatch, tmp_path) -> None:
    """Where the store is still comes from there."""
    file = tmp_path / "limits.toml"
    file.write_text('[settings]\nunknown = "error"\nstrategy = "off"\n[limits."anthropic/*"]\nconcurrency = 3\n')
    monkeypatch.setenv("RATELEASE_LIMIT_OPENAI_RPM", "500")
    monkeypatch.setenv("RATELEASE_LIMIT_GROQ_CONCURRENCY", "3")
    monkeypatch.setenv("RATELEASE_URL", settings.url)
    monkeypatch.setenv("RATELEASE_NAMESPACE", settings.namespace)
    with DynamicParallelismAdjuster(EIGHT, config_file=file) as adjuster:
        assert adjuster._client._config.url == settings.url
        for provider in ("openai", "groq", "anthropic"):
            assert adjuster.get_parallelism(provider, "model") == 8
            adjuster.adjust_for_error(provider, "model", "429")
            assert adjuster.get_parallelism(provider, "model") == 5


@pytest.mark.covers("AL-17", "AL-25")
@pytest.mark.parametrize(
    "provider, model",
    [("or/x", "g"), ("beyond", "x"), ("openai", "m" * 256), ("p" * 200, "m" * 200), ("Ünï", "A:b~c%")],
    ids=["slash", "beyond", "long", "both long", "odd"],
)
@pytest.mark.parametrize("credential", [None, "team-a"])
def test_calls_beyond_the_parallelism_are_counted_whatever_the_names_are(settings, provider, model, credential) -> None:
    """Three run where one may; all are seen, and under the right name."""
    with DynamicParallelismAdjuster(ONE, settings=settings, credential=credential) as adjuster:
        for _ in range(3):
            adjuster.request_started(provider, model)
        assert adjuster.get_health(provider, model).active_requests == 3
        states = adjuster.get_all_states()
        assert list(states) == [f"{provider}/{model}".casefold()]
        assert [state.health.active_requests for state in states.values()] == [3]
        adjuster.adjust_for_error(provider, model, "429")
        assert adjuster.get_health(provider, model).recent_429_count == 1
        for _ in range(3):
            adjuster.request_completed(provider, model)
        assert adjuster.get_health(provider, model).active_requests == 0


@pytest.mark.covers("AL-17")
def test_names_that_look_alike_when_joined_are_two_models(settings) -> None:
    """A slash may stand in either."""
    with DynamicParallelismAdjuster(ONE, settings=settings) as adjuster:
        for _ in range(3):
            adjuster.request_started("or/x", "g")
        assert adjuster.get_health("or", "x/g").active_requests == 0


def test_the_name_that_the_adjuster_counts_under_is_refused(settings) -> None:
    """By every method that takes a provider."""
    name = "RateLease-Beyond"
    with DynamicParallelismAdjuster(ONE, settings=settings) as adjuster:
        for call in (
            adjuster.get_parallelism,
            adjuster.get_config,
            adjuster.get_health,
            lambda provider, model: adjuster.adjust_for_error(provider, model, "429"),
            adjuster.attempt_recovery,
            lambda provider, model: adjuster.record_success(provider, model, 1.0),
            adjuster.request_started,
            adjuster.request_completed,
            lambda provider, model: adjuster.apply_cross_instance_limits(provider, model, 2),
            adjuster.reset,
        ):
            with pytest.raises(ConfigError, match="cannot be named ratelease-beyond"):
                call(name, "x")


def test_an_adjuster_takes_no_limits(settings) -> None:
    """Its figures are those of its config."""
    with pytest.raises(ConfigError, match="an adjuster takes no limits"):
        DynamicParallelismAdjuster(ONE, settings=settings, limits={"openai": Limits(concurrency=3)})
