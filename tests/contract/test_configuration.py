"""Where a client's limits and settings come from, as it acts by them and shows them."""

import logging
from typing import Any

import pytest

from ratelease import Limits
from ratelease.errors import ConfigError
from ratelease.testing import config
from support.both import Limiter
from support.wait_until import wait_until_async


@pytest.fixture
async def make_by_environment(colour, monkeypatch, store_url, free_namespace):
    """Make a limiter that is told where its store is by variables alone; further ones are keywords."""
    made: list[Limiter] = []
    places = {"RATELEASE_URL": store_url, "RATELEASE_NAMESPACE": free_namespace}

    def make(options: dict[str, Any] | None = None, **variables: str) -> Limiter:
        for name, value in {**places, **variables}.items():
            monkeypatch.setenv(name, value)
        made.append(Limiter(colour(**(options or {}))))
        return made[-1]

    yield make
    for limiter in made:
        await limiter.close()
        limiter.callers.end()


async def figures_of(limiter: Limiter, scope: str) -> dict[str, tuple[float, str]]:
    """Figure -> value and source, as the client shows them."""
    found = (await limiter.limits()).scope(scope)
    assert found is not None
    return {figure.name: (figure.value, figure.source) for figure in found.figures}


async def granted(limiter: Limiter, model: str, tries: int) -> int:
    """How many of so many tries are granted one after the other."""
    leases = [await limiter.try_acquire("openai", model) for _ in range(tries)]
    for lease in leases:
        if lease:
            await lease.release()
    return sum(map(bool, leases))


@pytest.mark.covers("LC-01", "LC-04")
async def test_a_client_that_is_told_nothing_shows_the_examples(make_limiter) -> None:
    """Before a model is used as well, if it is asked for."""
    limiter = make_limiter()
    asked = (await limiter.limits("anthropic", "claude-3-5-haiku-20241022")).scopes[0]
    assert [(figure.name, figure.value, figure.source) for figure in asked.figures] == [("rpm", 2000, "built-in")]
    await (await limiter.acquire("OpenAI", "gpt-4o")).release()
    assert await figures_of(limiter, "openai/gpt-4o") == {"rpm": (500, "built-in")}
    with pytest.raises(ConfigError, match="both provider and model"):
        await limiter.limits("openai")


@pytest.mark.covers("LC-01", "LC-04")
async def test_spellings_share_limits_and_not_counters(make_limiter) -> None:
    """Each name as it is asked for is a scope of its own."""
    limiter = make_limiter(limits={"openai/m-1.5": Limits(rpm=2, guard=0)})
    for model in ("m-1.5", "m-1-5", "m-1-5-20240101"):
        assert await granted(limiter, model, 3) == 2


@pytest.mark.covers("LC-06")
async def test_an_unknown_model_gets_the_fallback_with_one_warning(make_limiter, caplog) -> None:
    """One for each model, with the setting that changes it."""
    limiter = make_limiter()
    for model in ("large", "Large", "small"):
        await (await limiter.acquire("mistral", model)).release()
        await (await limiter.acquire("mistral", model, pools=["some"])).release()
    assert await figures_of(limiter, "mistral/large") == {"rpm": (30, "fallback"), "concurrency": (2, "fallback")}
    said = [record.getMessage() for record in caplog.records if "fallback" in record.getMessage()]
    assert len(said) == 2
    assert "'mistral/large'" in said[0]
    assert "unknown='unlimited'" in said[0]
    assert all(record.levelno == logging.WARNING for record in caplog.records if "fallback" in record.getMessage())


@pytest.mark.covers("LC-06")
async def test_an_unknown_model_may_be_unlimited_or_an_error(make_limiter) -> None:
    """As `unknown` says."""
    limiter = make_limiter(unknown="unlimited")
    leases = [await limiter.acquire("mistral", "large") for _ in range(5)]
    for lease in leases:
        await lease.release()
    assert await figures_of(limiter, "mistral/large") == {}
    limiter = make_limiter(unknown="error")
    with pytest.raises(ConfigError, match="mistral/large"):
        await limiter.acquire("mistral", "large")


@pytest.mark.covers("LC-09", "LC-12", "LC-16")
async def test_the_environment_says_where_the_store_is_and_what_holds(make_by_environment, store, tmp_path) -> None:
    """What the argument leaves open comes from a variable, then from the file that a variable names."""
    path = tmp_path / "limits.toml"
    path.write_text("[limits.'openai/gpt-4o']\nconcurrency = 2\nrpm = 1\ntpm = 1\n", encoding="utf-8")
    limiter = make_by_environment(
        {"limits": {"openai/gpt-4o": Limits(tpm=500, rpm=None)}},
        RATELEASE_CONFIG=str(path),
        RATELEASE_LIMIT_OPENAI_GPT4O_RPM="3",
    )
    leases = [await limiter.acquire("openai", "gpt-4o", tokens=1) for _ in range(2)]
    refusal = await limiter.try_acquire("openai", "gpt-4o", tokens=1)
    assert (refusal.dimension, refusal.limit) == ("concurrency", 2)
    for lease in leases:
        await lease.release()
    assert await figures_of(limiter, "openai/gpt-4o") == {
        "tpm": (500, "argument"),
        "rpm": (3, "env"),
        "concurrency": (2, "file"),
    }
    assert await limiter.used("openai/gpt-4o", "requests/60s") == 2
    assert store.keys(f"{(await limiter.status()).prefix}*")


@pytest.mark.covers("LC-16")
async def test_nothing_is_read_after_the_client_is_made(make_by_environment, monkeypatch, tmp_path) -> None:
    """A variable or a file that changes is for the next client."""
    path = tmp_path / "limits.toml"
    path.write_text("[limits.'openai/gpt-4o']\nrpm = 7", encoding="utf-8")
    limiter = make_by_environment(RATELEASE_CONFIG=str(path))
    path.unlink()
    monkeypatch.setenv("RATELEASE_LIMIT_OPENAI_GPT4O_RPM", "abc")
    await (await limiter.acquire("openai", "gpt-4o")).release()
    assert await figures_of(limiter, "openai/gpt-4o") == {"rpm": (7, "file")}


@pytest.mark.covers("LC-11")
async def test_a_client_with_a_wrong_variable_is_not_made(make_by_environment) -> None:
    """The error names it; nothing falls back silently."""
    with pytest.raises(ConfigError, match=r"RATELEASE_LIMIT_OPENAI_GPT4O_RPM must be a whole number.*'abc'"):
        make_by_environment(RATELEASE_LIMIT_OPENAI_GPT4O_RPM="abc")


@pytest.mark.covers("LC-17")
async def test_the_newest_client_decides_on_times_for_all(make_limiter) -> None:
    """Of a namespace; also short ones, as tests use."""
    old, new = make_limiter(lease_ttl=2.0, heartbeat=0.5), make_limiter(lease_ttl=3.0, heartbeat=0.6)
    for limiter in (old, new, old):
        await (await limiter.acquire("openai", "gpt-4o")).release()
    assert [limiter.client._rt.session.agreed_ttl for limiter in (old, new)] == [3000, 3000]
    assert [limiter.client._rt.session.agreed_beat for limiter in (old, new)] == [600, 600]


@pytest.mark.covers("LC-19", "LC-20")
async def test_deployments_of_different_namespaces_share_nothing_and_can_be_told_apart(make_limiter, store) -> None:
    """Neither limits nor instances; status says which prefix it is about."""
    limits = {"openai/gpt-4o": Limits(concurrency=1)}
    one, other = (make_limiter(limits=limits, namespace=f"{name}-deployment") for name in ("one", "other"))
    for limiter in (one, other):
        assert await limiter.try_acquire("openai", "gpt-4o")
        assert not await limiter.try_acquire("openai", "gpt-4o")
        await wait_until_async(limiter.instances, description="it is listed")
    seen = [await limiter.status() for limiter in (one, other)]
    assert [status.instances for status in seen] == [1, 1]
    assert [status.prefix for status in seen] == ["rl:{one-deployment}:", "rl:{other-deployment}:"]
    assert all(status.prefix in str(status) for status in seen)
    prefixes = {key.decode().split("}")[0] for key in store.keys("*")}
    assert prefixes == {"rl:{one-deployment", "rl:{other-deployment"}


@pytest.mark.covers("RW-08")
@pytest.mark.parametrize(
    "rpm, headroom, changes, admitted",
    [(50, 0.7, {}, 35), (50, None, {"headroom": 0.7}, 35), (50, 0.9, {"headroom": 0.7}, 45), (50, None, {}, 50)],
)
async def test_a_headroom_admits_that_part_of_a_rate(make_limiter, rpm, headroom, changes, admitted) -> None:
    """Of the limits, else of the settings, else all of it."""
    limiter = make_limiter(limits={"openai/gpt-4o": Limits(rpm=rpm, headroom=headroom)}, **changes)
    assert await granted(limiter, "gpt-4o", rpm + 2) == admitted


@pytest.mark.covers("RW-08")
async def test_500_with_a_headroom_of_70_per_cent_are_350(make_limiter) -> None:
    """Concurrency is not scaled."""
    limiter = make_limiter(limits={"openai/gpt-4o": Limits(rpm=500, concurrency=500, headroom=0.7)})
    group = await limiter.acquire_many("openai", "gpt-4o", 500, at_least=0)
    assert len(group) == 350
    await group.release()
    (rate,) = (await limiter.status()).scope("openai/gpt-4o").rates
    assert (rate.used, rate.limit) == (350, 350)
    assert (await limiter.status()).scope("openai/gpt-4o").concurrency == 500


@pytest.mark.covers("RW-08")
@pytest.mark.parametrize("headroom", [0.1, 1.0])
def test_a_headroom_is_a_part(headroom: float) -> None:
    """From a tenth to all of it."""
    assert Limits(headroom=headroom).headroom == headroom
    for wrong in (0.09, 1.01, 0, "0.5", True):
        with pytest.raises(ConfigError, match=r"headroom must be 0\.1 to 1"):
            Limits(headroom=wrong)  # type: ignore[arg-type]


@pytest.mark.covers("LC-23")
def test_who_names_no_store_is_warned_once(colour, caplog, tmp_path, monkeypatch) -> None:
    """Whoever names one, be it memory://, by whatever means, is not."""
    colour()
    said = [record.getMessage() for record in caplog.records if "no store was named" in record.getMessage()]
    assert len(said) == 1
    assert "RATELEASE_URL" in said[0]
    caplog.clear()
    path = tmp_path / "limits.toml"
    path.write_text("settings.url = 'memory://named'", encoding="utf-8")
    colour("memory://named")
    colour(config=config(url="memory://named"))
    colour(config_file=path)
    monkeypatch.setenv("RATELEASE_URL", "memory://named")
    colour()
    assert "no store was named" not in caplog.text


@pytest.mark.covers("LC-23")
def test_a_store_that_must_be_shared_cannot_be_memory(colour, monkeypatch) -> None:
    """Named or not, by argument or by variable."""
    for options in ({}, {"url": "memory://named"}):
        with pytest.raises(ConfigError, match="require_shared"):
            colour(require_shared=True, **options)
    monkeypatch.setenv("RATELEASE_REQUIRE_SHARED", "1")
    with pytest.raises(ConfigError, match="require_shared"):
        colour()
    assert colour(require_shared=False)


@pytest.mark.parametrize("option", ["no_such_option", "socket_keepalive_typo"])
def test_an_option_that_redis_py_does_not_know_is_refused(colour, option) -> None:
    """When the client is made, not at its first call."""
    with pytest.raises(ConfigError, match=f"redis_options.*{option}"):
        colour("redis://localhost:1/0", redis_options={option: 1})


def test_options_reach_redis_py(colour) -> None:
    """Such as a name of one's own in CLIENT LIST."""
    client = colour("redis://localhost:1/0", redis_options={"client_name": "mine"})
    endpoint = client._rt.endpoint
    assert (endpoint.connection().client_name, endpoint.async_connection().client_name) == ("mine", "mine")
