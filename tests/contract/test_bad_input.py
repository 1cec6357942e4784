"""Mistakes of the caller: a typed error that says what to do, before anything is sent."""

import math
from datetime import timedelta
from typing import Any

import pytest

from ratelease import Limits, Pool, Rate
from ratelease.errors import ConfigError, ImpossibleRequest
from ratelease.testing import config
from support.both import Limiter
from support.round_trips import round_trips

SCOPE = "openai/gpt-4o"

HOSTILE_NAMES = {
    "empty": "",
    "blank": "   ",
    "newline": "gpt\n4o",
    "carriage return": "gpt\r\n*3\r\n",
    "null": "gpt\x004o",
    "delete": "gpt\x7f",
    "open brace": "gpt{",
    "template": "{model}",
    "lone surrogate": "gpt\ud800",
    "too long": "g" * 257,
    "a prompt": "x" * 10_000,
    "no text": 4,
    "nothing": None,
    "bytes": b"gpt-4o",
}

BAD_REQUESTS: dict[str, dict[str, Any]] = {
    "timeout below 0": {"timeout": -1},
    "timeout that is no number": {"timeout": math.nan},
    "timeout of text": {"timeout": "5"},
    "timeout that is true": {"timeout": True},
    "negative timedelta": {"timeout": timedelta(seconds=-1)},
    "weight 0": {"weight": 0},
    "negative weight": {"weight": -3},
    "fractional weight": {"weight": 1.5},
    "weight beyond any limit": {"weight": 100_000},
    "negative tokens": {"tokens": -1},
    "fractional tokens": {"tokens": 10.5},
    "tokens that are no number": {"tokens": math.nan},
    "endless tokens": {"tokens": 10**18},
    "negative input tokens": {"input_tokens": -1},
    "the total and a part": {"tokens": 10, "input_tokens": 5},
    "a hostile pool": {"pools": ["a\nb"]},
    "a pool that is no text": {"pools": [3]},
}


@pytest.fixture
async def nowhere(colour, proxy, free_namespace):
    """A limiter whose connections are counted: none may be made."""
    limiter = Limiter(colour(config=config(url=proxy.url, namespace=free_namespace), limits={SCOPE: Limits(rpm=9)}))
    with round_trips() as trips:
        yield limiter
        assert trips.count == 0
    assert proxy.accepted == 0, "a connection was made"
    await limiter.close()
    limiter.callers.end()


@pytest.mark.parametrize("which", ["provider", "model"])
@pytest.mark.parametrize("name", HOSTILE_NAMES.values(), ids=HOSTILE_NAMES)
async def test_names_that_can_be_none_are_refused_before_anything_is_sent(nowhere, which, name) -> None:
    """Each verb says which name is wrong."""
    names = ("openai", name) if which == "model" else (name, "gpt-4o")
    for call in (nowhere.acquire(*names).take, lambda: nowhere.try_acquire(*names)):
        with pytest.raises(ConfigError, match=which) as caught:
            await call()
        _is_readable(str(caught.value))
    with pytest.raises(ConfigError, match=which):
        await nowhere.acquire_many(*names, 2)
    if name is not None:
        with pytest.raises(ConfigError, match=which):
            await nowhere.reset(*names)


@pytest.mark.parametrize("options", BAD_REQUESTS.values(), ids=BAD_REQUESTS)
async def test_requests_that_make_no_sense_are_refused_before_anything_is_sent(nowhere, options) -> None:
    """The message names the argument and what it may be."""
    with pytest.raises(ConfigError) as caught:
        await nowhere.acquire("openai", "gpt-4o", **options)
    assert any(name.rstrip("s") in str(caught.value) for name in options)
    with pytest.raises(ConfigError):
        await nowhere.acquire_many("openai", "gpt-4o", 2, **options)
    if "timeout" not in options:
        with pytest.raises(ConfigError):
            await nowhere.try_acquire("openai", "gpt-4o", **options)


@pytest.mark.parametrize(
    "n, options",
    [(0, {}), (-1, {}), (1.5, {}), ("2", {}), (True, {}), (10_000, {}), (2, {"at_least": 3}), (2, {"at_least": -1})],
)
async def test_groups_of_a_size_that_makes_no_sense_are_refused(nowhere, n, options) -> None:
    """A group has from 1 lease, and at_least is from 0 to as many."""
    with pytest.raises(ConfigError, match=r"n must be|at_least must be"):
        await nowhere.acquire_many("openai", "gpt-4o", n, **options)


async def test_an_unknown_keyword_is_a_type_error(nowhere) -> None:
    """A keyword that nobody knows is Python's own error, at the call."""
    with pytest.raises(TypeError, match="token_count"):
        await nowhere.acquire("openai", "gpt-4o", token_count=5)
    with pytest.raises(TypeError, match="wait"):
        await nowhere.try_acquire("openai", "gpt-4o", wait=True)


@pytest.mark.parametrize("provider", ["total", "Total", "pool:opus"])
async def test_a_provider_is_not_called_as_what_several_share(nowhere, provider) -> None:
    """Nobody could tell the two apart in a status."""
    with pytest.raises(ConfigError, match="is no provider"):
        await nowhere.acquire(provider, "gpt-4o")


async def test_a_pool_that_nobody_knows_is_a_mistake_where_unknown_models_are(make_limiter) -> None:
    """A misspelt pool would limit nothing. By default a request may name one that only an operator sets limits of."""
    limits, pools = {"openai": Limits(rpm=5)}, {"opus": Pool(), "tenant:*": Pool()}
    strict = make_limiter(limits=limits, pools=pools, unknown="error")
    with pytest.raises(ConfigError, match="no limits are known for pool 'opsu'"):
        await strict.acquire("openai", "gpt-4o", pools=["opus", "opsu"])
    await strict.hold("openai", "gpt-4o", pools=["Opus", "tenant:acme"])
    await make_limiter(limits=limits).hold("openai", "gpt-4o", pools=["opsu"])


async def _nobody_awaits(_: object) -> None:
    """Would never run."""


async def test_resetting_a_model_needs_its_provider(nowhere) -> None:
    """A model's name alone says nothing."""
    with pytest.raises(ConfigError, match="needs its provider"):
        await nowhere.reset(None, "gpt-4o")


@pytest.mark.parametrize(
    "options, said",
    [
        ({"url": "http://localhost:6379"}, "http://.*memory://, redis://, rediss://, unix://"),
        ({"url": "localhost:6379"}, "url must look like"),
        ({"url": ""}, "url must look like"),
        ({"url": "redis://localhost:port/0"}, "cannot be read"),
        ({"namespace": ""}, "namespace is empty: name it, as in namespace='prod'"),
        ({"namespace": "a{b}"}, "namespace .* braces"),
        ({"namespace": "a\nb"}, "namespace .* control"),
        ({"namespace": "n" * 300}, "namespace has 300 characters"),
        ({"credential": ""}, "credential is empty: name it, as in credential='team-a'"),
        ({"default_timeout": -1}, "default_timeout"),
        ({"default_timeout": math.nan}, "default_timeout"),
        ({"lease_ttl": 5}, "lease_ttl must be 10 to 600"),
        ({"lease_ttl": math.nan}, "lease_ttl"),
        ({"heartbeat": 0}, "heartbeat must be 1 to 300"),
        ({"heartbeat": 9, "lease_ttl": 10}, "twice the heartbeat"),
        ({"unknown": "whatever"}, "unknown must be"),
        ({"require_shared": True}, "require_shared"),
        ({"metadata": {"role": 3}}, "metadata must map text to text"),
        ({"metadata": {"role": "x" * 10_000}}, "metadata takes more"),
        ({"limits": {"openai/gpt-4o": {"rpm": 5}}}, r"limits\['openai/gpt-4o'\] must be Limits"),
        ({"limits": {"": Limits()}}, "a key of limits"),
        ({"limits": {"*": Limits()}}, r"bare '\*'"),
        ({"limits": {"openai/": Limits()}}, "name a provider"),
        ({"limits": {"open*/gpt": Limits()}}, "behind the slash"),
        ({"limits": {3: Limits()}}, "a key of limits"),
        ({"limits": {"Pool:opus": Limits()}}, r"pools={'opus': Pool\(limits=…\)}"),
        ({"limits": {"total/gpt-4o": Limits()}}, "'total' stands for all providers"),
        ({"pools": {"opus": Limits()}}, "must be a Pool"),
        ({"pools": {"": Pool()}}, "must be a Pool"),
        ({"on_lost": "x"}, "on_lost must be a plain function of a lease, not 'x'"),
        ({"on_lost": _nobody_awaits}, "on_lost must be a plain function of a lease, not one that is async"),
        ({"on_queued": 3}, "on_queued must be a plain function of a Refusal, not 3"),
        ({"on_queued": _nobody_awaits}, "on_queued must be a plain function .* async"),
    ],
)
def test_a_client_with_a_wrong_setting_is_not_made(colour, options, said) -> None:
    """The constructor names the setting; it sends nothing."""
    with round_trips() as trips, pytest.raises(ConfigError, match=said):
        colour(**{"url": "memory://bad-input", **options})
    assert trips.count == 0


def test_all_wrong_settings_are_named_together(colour) -> None:
    """Nobody has to mend one mistake to learn of the next."""
    limits = {"*": Limits(), "openai/": Limits()}
    with pytest.raises(ConfigError) as caught:
        colour("memory://bad-input", limits=limits, pools={"opus": 3})
    assert "'*'" in str(caught.value)
    assert "'openai/'" in str(caught.value)
    assert "'opus'" in str(caught.value)


@pytest.mark.parametrize("url", ["redis://:hunter2@localhost:no-port/0", "http://user:hunter2@localhost"])
def test_a_password_in_a_wrong_url_is_not_repeated(colour, url) -> None:
    """The message shows the address without it, and carries no cause that does."""
    with pytest.raises(ConfigError) as caught:
        colour(url)
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(caught.value.__cause__)


@pytest.mark.covers("AD-10")
@pytest.mark.parametrize("options", [{"weight": 10}, {"tokens": 90_000}, {"n": 12}])
async def test_what_no_limit_could_hold_leaves_no_trace(make_limiter, store, options) -> None:
    """More than the agreed limit: one round trip, and every counter is as it was."""
    limiter = make_limiter(limits={SCOPE: Limits(concurrency=8, tpm=50_000)}, lease_ttl=20.0, heartbeat=10.0)
    await (await limiter.acquire("openai", "gpt-4o", tokens=10)).release()
    before = {key: store.dump(key) for key in store.keys("*m:openai*")}
    acquire = limiter.acquire_many if "n" in options else limiter.acquire
    with round_trips() as trips, pytest.raises(ImpossibleRequest, match="never be granted"):
        await acquire("openai", "gpt-4o", **{"tokens": 10, **options})
    assert trips.count == 1
    assert {key: store.dump(key) for key in store.keys("*m:openai*")} == before


@pytest.mark.parametrize(
    "model", ["llama3:8b", "anthropic.claude-3-v2:0", "~%:~", "org/model", "Ünïcode-模型", "a b", "*"]
)
async def test_names_that_are_only_unusual_work(make_limiter, model) -> None:
    """Colons, slashes, per cent signs and letters of the world: each its own scope, alike in every verb."""
    limiter = make_limiter(limits={"ollama/*": Limits(concurrency=1, rpm=50)})
    async with limiter.acquire("ollama", model) as lease:
        assert lease.model == model.casefold()
        assert await limiter.in_flight(f"ollama/{model}") == 1
        assert not await limiter.try_acquire("Ollama", model.upper())
        assert await limiter.try_acquire("ollama", f"{model}:other")
    assert await limiter.used(f"ollama/{model}", "requests/60s") == 1
    assert await limiter.reset("ollama", model) == 1
    assert await limiter.used(f"ollama/{model}", "requests/60s") == 0


async def test_names_that_look_alike_share_nothing(make_limiter) -> None:
    """What separates scopes in keys cannot be written into a name."""
    limiter = make_limiter(limits={f"{provider}/*": Limits(concurrency=1) for provider in ("a", "a:b", "a~t")})
    for provider, model in (("a", "b:c"), ("a:b", "c"), ("a", "b%3Ac"), ("a~t", "b"), ("a", "t~b")):
        assert await limiter.try_acquire(provider, model), (provider, model)


def test_a_rate_outside_its_range_is_refused() -> None:
    """Limits are checked where they are written down."""
    with pytest.raises(ConfigError, match=r"Rate\.per"):
        Rate(5, per=math.inf)


def _is_readable(message: str) -> None:
    """A message is one line of printable ASCII or punctuation, and not as long as the name it complains of."""
    assert message.isprintable()
    assert len(message) < 300
