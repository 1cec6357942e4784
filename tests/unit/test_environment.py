"""What variables say: settings by fixed names, limits by the normal form of what they are for."""

import pytest

from ratelease import Config, Limits
from ratelease.environment import FIGURES, SETTINGS, EnvironmentLimits, read_settings, variable_of
from ratelease.errors import ConfigError
from ratelease.settings import settle
from ratelease.testing import config

PREFIX = "RATELEASE_LIMIT_"


def limits_of(prefix: str = PREFIX, **variables: str) -> EnvironmentLimits:
    """The limits of some variables, given by what follows the prefix."""
    faults: list[str] = []
    found = EnvironmentLimits({prefix + name: value for name, value in variables.items()}, prefix, faults)
    assert faults == []
    return found


def faults_of(**variables: str) -> list[str]:
    """What is wrong with these variables as a client sees it."""
    try:
        settle(arguments={}, environment=variables)
    except ConfigError as error:
        return list(error.faults)
    return []


# ---- limits ------------------------------------------------------------------------------------------------


@pytest.mark.covers("LC-09")
@pytest.mark.parametrize("figure", FIGURES)
def test_each_figure_has_a_variable(figure: str) -> None:
    """Its name in capital letters, behind provider and model."""
    found = limits_of(**{f"OPENAI_GPT4O_{figure}": "7"})
    assert found.model("openai", "gpt-4o") == Limits(**{figure.lower(): 7})  # type: ignore[arg-type]
    assert found.model("openai", "gpt-4o-mini") is None
    assert found.provider("openai") is None


@pytest.mark.covers("LC-09")
def test_a_variable_overrides_a_figure_and_leaves_the_others() -> None:
    """The example of gpt-4o becomes 1000; a variable for a spelling without dots and dashes finds claude."""
    environment = {f"{PREFIX}OPENAI_GPT4O_RPM": "1000", f"{PREFIX}ANTHROPIC_CLAUDE35SONNET_CONCURRENCY": "4"}
    book = settle(arguments={}, environment=environment).book
    assert book.resolve("openai", "gpt-4o", "fallback").sources == {"rpm": "env"}
    found = book.resolve("anthropic", "claude-3-5-sonnet-20241022", "fallback")
    assert found.limits == Limits(rpm=1000, concurrency=4)
    assert found.sources == {"rpm": "built-in", "concurrency": "env"}


@pytest.mark.covers("LC-09")
@pytest.mark.parametrize("prefix", ["PI_PROVIDER_LIMIT_", "PI_PROVIDER_LIMIT", "x"])
def test_the_prefix_can_be_chosen(prefix: str) -> None:
    """By argument, settings or RATELEASE_ENV_PREFIX; variables of the usual one are then nobody's."""
    environment = {f"{prefix}_OPENAI_GPT4O_RPM": "1000", f"{PREFIX}OPENAI_GPT4O_RPM": "abc"}
    for settings in (
        settle(arguments={"env_prefix": prefix}, environment=environment),
        settle(arguments={}, config=Config(env_prefix=prefix), environment=environment),
        settle(arguments={}, environment={**environment, "RATELEASE_ENV_PREFIX": prefix}),
    ):
        assert settings.book.model("openai", "gpt-4o") == Limits(rpm=1000)


@pytest.mark.covers("LC-09")
def test_providers_pools_and_the_total_have_variables_as_well() -> None:
    """Without a model; a pool as if its provider were called pool."""
    found = limits_of(OPENAI_CONCURRENCY="20", TOTAL_TPM="5000", POOL_BIG1_RPM="9")
    assert found.provider("openai") == Limits(concurrency=20)
    assert found.total == Limits(tpm=5000)
    assert found.pool("big-1") == Limits(rpm=9)
    assert found.pool("other") is None
    assert limits_of().total is None


@pytest.mark.covers("LC-10")
def test_a_variable_is_found_by_the_normal_form_of_what_is_asked_for() -> None:
    """gemini-1.5-pro is GEMINI15PRO, llama3:8b is LLAMA38B."""
    found = limits_of(GOOGLE_GEMINI15PRO_RPM="1", OLLAMA_LLAMA38B_RPM="2", AZUREOPENAI_GPT4O_RPM="3")
    assert found.model("google", "gemini-1.5-pro") == Limits(rpm=1)
    assert found.model("ollama", "llama3:8b") == Limits(rpm=2)
    assert found.model("azure-openai", "gpt-4o") == Limits(rpm=3)
    assert found.model("azure", "openai-gpt-4o") is None


@pytest.mark.covers("LC-10")
def test_an_underscore_inside_a_name_does_not_matter() -> None:
    """Whoever keeps the dash of a name as an underscore is understood."""
    found = limits_of(AZURE_OPENAI_GPT_4O_RPM="3", AZURE_OPENAI_CONCURRENCY="4")
    assert found.model("azure-openai", "gpt-4o") == Limits(rpm=3)
    assert found.provider("azure-openai") == Limits(concurrency=4)


@pytest.mark.covers("LC-10")
def test_the_variable_of_a_snapshot_comes_before_that_of_its_base() -> None:
    """Figure by figure."""
    found = limits_of(OPENAI_GPT4O_RPM="1", OPENAI_GPT4O_TPM="2", OPENAI_GPT4O20240806_RPM="3")
    assert found.model("openai", "gpt-4o-2024-08-06") == Limits(rpm=3, tpm=2)
    assert found.model("openai", "gpt-4o") == Limits(rpm=1, tpm=2)


@pytest.mark.covers("LC-10")
@pytest.mark.parametrize("other", ["OPENAI_GPT_4O_RPM", "OPENAI__GPT4O_RPM", "OPENAI_gpt4o_RPM"])
def test_two_variables_for_one_limit_are_refused_by_name(other: str) -> None:
    """Which of them would count?"""
    (fault,) = faults_of(**{f"{PREFIX}OPENAI_GPT4O_RPM": "1", PREFIX + other: "2"})
    assert f"{PREFIX}OPENAI_GPT4O_RPM" in fault
    assert PREFIX + other in fault


@pytest.mark.covers("LC-11")
@pytest.mark.parametrize("value", ["abc", "0", "-5", "1.5", "", " ", "1e3", "0x10", "٣", "9" * 30, "5 rpm"])
@pytest.mark.parametrize("figure", ["RPM", "CONCURRENCY"])
def test_a_wrong_value_is_refused_with_variable_value_and_range(figure: str, value: str) -> None:
    """Never ignored."""
    (fault,) = faults_of(**{f"{PREFIX}OPENAI_GPT4O_{figure}": value})
    assert fault.startswith(f"{PREFIX}OPENAI_GPT4O_{figure} must be a whole number from 1 to 1,000,000,000,000, not ")
    assert ascii(value)[1:-1] in fault or value == "-5"


@pytest.mark.covers("LC-11")
def test_all_wrong_variables_are_named_together() -> None:
    """Limits and settings alike."""
    faults = faults_of(
        RATELEASE_LIMIT_OPENAI_GPT4O_RPM="abc",
        RATELEASE_LIMIT_OPENAI_TPM="-5",
        RATELEASE_LIMIT_TOTAL_CONCURRENCY="0",
        RATELEASE_POLL_MS="soon",
        RATELEASE_LEASE_TTL_MS="1",
        RATELEASE_REQUIRE_SHARED="perhaps",
    )
    assert len(faults) == 6


@pytest.mark.covers("LC-11")
@pytest.mark.parametrize(
    "name, said",
    [
        ("OPENAI_GPT4O_RPS", "did you mean RPM"),
        ("OPENAI_GPT4O", "Figures are RPM, TPM, ITPM, OTPM, RPD, TPD, BURST, CONCURRENCY"),
        ("OPENAI_GPT4O_", "ends in no figure"),
        ("", "ends in no figure"),
        ("RPM", "names no provider"),
        ("__RPM", "names no provider"),
    ],
)
def test_a_variable_that_states_no_figure_of_anything_is_refused(name: str, said: str) -> None:
    """A mistake in a name would otherwise be a limit that nobody keeps."""
    (fault,) = faults_of(**{PREFIX + name: "5"})
    assert fault.startswith(PREFIX + name)
    assert said in fault


# ---- settings ----------------------------------------------------------------------------------------------


@pytest.mark.covers("LC-16")
def test_every_setting_of_the_environment_arrives() -> None:
    """Times in milliseconds become seconds."""
    environment = {
        "RATELEASE_URL": "redis://localhost:1/0",
        "RATELEASE_NAMESPACE": "prod",
        "RATELEASE_POLL_MS": "250",
        "RATELEASE_TIMEOUT_MS": "5000",
        "RATELEASE_HEARTBEAT_MS": "10000",
        "RATELEASE_LEASE_TTL_MS": "30000",
        "RATELEASE_DEFAULT_TIMEOUT_MS": "0",
        "RATELEASE_MODE": "enforce",
        "RATELEASE_REQUIRE_SHARED": "true",
        "RATELEASE_ON_UNAVAILABLE": "closed",
        "RATELEASE_EXPECTED_INSTANCES": "4",
        "RATELEASE_ENV_PREFIX": "MY_",
    }
    settings = settle(arguments={}, environment=environment)
    assert settings.config == Config(
        url="redis://localhost:1/0",
        namespace="prod",
        poll=0.25,
        store_timeout=5,
        heartbeat=10,
        lease_ttl=30,
        default_timeout=0,
        require_shared=True,
        on_unavailable="closed",
        expected_instances=4,
        env_prefix="MY_",
    )
    assert set(settings.sources.values()) == {"env"}
    assert {"mode", "config_file", "tier"} | settings.config.model_fields_set == {name for name, _ in SETTINGS.values()}


@pytest.mark.covers("LC-16")
def test_the_defaults_are_those_that_the_rows_state() -> None:
    """Half a second, ten seconds, five, fifteen."""
    defaults = settle(arguments={}, environment={}).config
    assert (defaults.poll, defaults.store_timeout, defaults.heartbeat, defaults.lease_ttl) == (0.5, 10, 5, 15)


@pytest.mark.covers("LC-16", "LC-17")
@pytest.mark.parametrize(
    "variable, value, bounds",
    [
        ("RATELEASE_POLL_MS", "99", "100 to 10,000"),
        ("RATELEASE_TIMEOUT_MS", "0", "50 to 300,000"),
        ("RATELEASE_HEARTBEAT_MS", "300001", "1,000 to 300,000"),
        ("RATELEASE_LEASE_TTL_MS", "9999", "10,000 to 600,000"),
        ("RATELEASE_LEASE_TTL_MS", "15s", "10,000 to 600,000"),
        ("RATELEASE_DEFAULT_TIMEOUT_MS", "-1", "from 0"),
        ("RATELEASE_EXPECTED_INSTANCES", "0", "1 to 100,000"),
        ("RATELEASE_EXPECTED_INSTANCES", "two", "1 to 100,000"),
        ("RATELEASE_ON_UNAVAILABLE", "maybe", "local, closed, open"),
        ("RATELEASE_REQUIRE_SHARED", "2", "1, true, yes, on"),
    ],
)
def test_a_setting_outside_its_range_is_refused_with_its_variable(variable: str, value: str, bounds: str) -> None:
    """In the unit of the variable, with the value as it was written."""
    (fault,) = faults_of(**{variable: value})
    assert fault.startswith(f"{variable} must be ")
    assert bounds in fault
    assert value in fault


@pytest.mark.covers("LC-16")
@pytest.mark.parametrize("mode", ["shadow", "off"])
def test_a_mode_of_a_later_version_is_refused(mode: str) -> None:
    """Taken silently, it would enforce what nobody wants to be enforced."""
    (fault,) = faults_of(RATELEASE_MODE=mode)
    assert "RATELEASE_MODE" in fault
    assert "not in this version" in fault
    (fault,) = faults_of(RATELEASE_MODE="strict")
    assert "must be 'enforce', not 'strict'" in fault


@pytest.mark.parametrize("variable", [f"RATELEASE_{suffix}" for suffix in SETTINGS])
def test_an_empty_setting_is_refused(variable: str) -> None:
    """An address that a script failed to fill in must not become memory://."""
    assert any(fault.startswith(f"{variable} is empty") for fault in faults_of(**{variable: " "}))


def test_a_setting_that_is_misspelt_is_refused_and_a_strangers_variable_is_not() -> None:
    """Kubernetes names some after services."""
    (fault,) = faults_of(RATELEASE_TIMOUT_MS="5000")
    assert fault == "RATELEASE_TIMOUT_MS is not known: did you mean RATELEASE_TIMEOUT_MS?"
    strangers = ("PORT", "PORT_6379_TCP", "PORT_6379_TCP_ADDR", "SERVICE_HOST", "SERVICE_PORT", "REDIS_SERVER", "HOME")
    assert faults_of(**{f"RATELEASE_{name}": "5" for name in strangers}) == []


@pytest.mark.parametrize("name", ["UNKNOWN", "HEADROOM", "STRATEGY", "MAX_HOLD_MS", "REDIS_OPTIONS", "RETRY"])
def test_a_variable_of_a_setting_that_has_none_is_refused(name: str) -> None:
    """Whoever states it means it."""
    (fault,) = faults_of(**{f"RATELEASE_{name}": "5"})
    assert fault.startswith(f"RATELEASE_{name} is not read, since {name.removesuffix('_MS').lower()} has no variable")


def test_a_setting_named_as_its_field_is_told_its_variable() -> None:
    """RATELEASE_STORE_TIMEOUT and RATELEASE_POLL, beside those that are only misspelt."""
    for name, variable in (("STORE_TIMEOUT", "TIMEOUT_MS"), ("POLL", "POLL_MS"), ("HEARTBEAT", "HEARTBEAT_MS")):
        (fault,) = faults_of(**{f"RATELEASE_{name}": "5"})
        assert fault == f"RATELEASE_{name} is not known: did you mean RATELEASE_{variable}?"


def test_a_wrong_address_is_not_repeated() -> None:
    """It may hold a password."""
    (fault,) = faults_of(RATELEASE_URL="hunter2@localhost")
    assert "RATELEASE_URL must look like" in fault
    assert "hunter2" not in fault


@pytest.mark.covers("LC-17")
def test_relaxed_settings_may_go_below_the_ranges_by_variable_too() -> None:
    """As in tests."""
    environment = {"RATELEASE_POLL_MS": "20", "RATELEASE_LEASE_TTL_MS": "500"}
    assert settle(arguments={}, config=config(), environment=environment).config.poll == 0.1  # stated by config()
    assert settle(arguments={}, config=Config(relaxed=True, heartbeat=0.1), environment=environment).config.poll == 0.02
    assert read_settings({"RATELEASE_DEFAULT_TIMEOUT_MS": "9" * 15}, []) == {"default_timeout": 999999999999.999}


def test_each_setting_has_one_variable() -> None:
    """Which is found by the setting's name."""
    assert variable_of("store_timeout") == "RATELEASE_TIMEOUT_MS"
    assert len({name for name, _ in SETTINGS.values()}) == len(SETTINGS)
