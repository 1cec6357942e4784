"""Ratelease from the beginning: read from top to bottom. Every client here keeps its state in memory://."""

import asyncio
import threading

import pytest

from ratelease import AsyncClient, Client, Config, Limits, Outcome, Pool, Rate
from ratelease.errors import ImpossibleRequest, WaitTimeout


@pytest.fixture
def url(free_namespace: str) -> str:
    """A store of the test's own; `redis://host:6379/0` in its place shares the limits between processes and hosts."""
    return f"memory://{free_namespace}"


def test_a_lease_is_the_right_to_have_one_call_in_flight(url: str) -> None:
    """Enter a lease, call the provider, leave it: the slot is taken for exactly that long."""
    with Client(url, limits={"openai/gpt-4o": Limits(concurrency=8)}) as client:
        with client.acquire("openai", "gpt-4o") as lease:
            assert lease.valid
            assert in_flight(client, "openai/gpt-4o") == 1
        assert in_flight(client, "openai/gpt-4o") == 0


def test_a_full_limit_makes_callers_wait(url: str) -> None:
    """One slot: a second thread waits for it, and gets it when the first has finished."""
    with Client(url, limits={"openai/gpt-4o": Limits(concurrency=1)}) as client:
        order: list[str] = []

        def second_call() -> None:
            with client.acquire("openai", "gpt-4o", timeout=30):
                order.append("second")

        with client.acquire("openai", "gpt-4o"):
            thread = threading.Thread(target=second_call)
            thread.start()
            order.append("first")
        thread.join()
        assert order == ["first", "second"]


def test_nobody_waits_longer_than_it_wants(url: str) -> None:
    """`timeout` is in seconds. The error says which limit was in the way, and when to come back if that is known."""
    with Client(url, limits={"openai/gpt-4o": Limits(rpm=1)}) as client:
        client.acquire("openai", "gpt-4o").release()
        with pytest.raises(WaitTimeout) as caught:
            client.acquire("openai", "gpt-4o", timeout=5)
        assert caught.value.scope == "openai/gpt-4o"
        assert caught.value.dimension == "requests/60s"
        assert caught.value.retry_after is not None
        assert caught.value.retry_after > 5


def test_trying_does_not_wait_at_all(url: str) -> None:
    """A lease is true; a refusal is false and says why."""
    with Client(url, limits={"openai/gpt-4o": Limits(concurrency=1)}) as client:
        lease = client.try_acquire("openai", "gpt-4o")
        assert lease
        refusal = client.try_acquire("openai", "gpt-4o")
        assert not refusal
        assert (refusal.scope, refusal.used, refusal.limit) == ("openai/gpt-4o", 1, 1)
        lease.release()


def test_requests_and_tokens_are_counted_per_window(url: str) -> None:
    """`rpm` and `tpm` are limits per minute; any other window is a Rate. `tokens` is the estimate for one call."""
    limits = Limits(rpm=500, tpm=40_000, rates=[Rate(10, per=1.0)])
    with Client(url, limits={"openai/gpt-4o": limits}) as client:
        for _ in range(4):
            with client.acquire("openai", "gpt-4o", tokens=10_000):
                pass
        refusal = client.try_acquire("openai", "gpt-4o", tokens=10_000)
        assert not refusal
        assert refusal.dimension == "tokens/60s"
        with pytest.raises(ImpossibleRequest, match="the limit is 40,000"):
            client.acquire("openai", "gpt-4o", tokens=50_000)


def test_limits_of_models_providers_pools_and_the_total_hold_together(url: str) -> None:
    """Each call has to fit under all of them. A pattern gives each model that matches its own counters."""
    client = Client(
        url,
        limits={
            "anthropic/claude-*": Limits(concurrency=2),
            "anthropic": Limits(concurrency=3),
            "total": Limits(concurrency=40),
        },
        pools={"opus": Pool(["anthropic/claude-opus-*"], Limits(concurrency=1))},
    )
    with client:
        opus = client.acquire("anthropic", "claude-opus-4")
        refusal = client.try_acquire("anthropic", "claude-opus-5")
        assert not refusal
        assert refusal.scope == "pool:opus"
        sonnets = client.acquire_many("anthropic", "claude-sonnet", 2)
        refusal = client.try_acquire("anthropic", "claude-haiku")
        assert not refusal
        assert refusal.scope == "anthropic"
        sonnets.release()
        opus.release()


def test_several_leases_are_taken_together(url: str) -> None:
    """All or none, at least some, or what is free just now; leaving the group releases what is left."""
    with Client(url, limits={"openai/gpt-4o": Limits(concurrency=4)}) as client:
        with client.acquire_many("openai", "gpt-4o", 3) as group:
            assert len(group) == 3
            with client.acquire_many("openai", "gpt-4o", 3, at_least=0) as what_is_free:
                assert len(what_is_free) == 1
            group[0].release()
            assert in_flight(client, "openai/gpt-4o") == 2
        assert in_flight(client, "openai/gpt-4o") == 0


def test_the_outcome_says_what_became_of_the_call(url: str) -> None:
    """A call that never left this host gets its charges back; whatever reached the provider stays counted."""
    with Client(url, limits={"openai/gpt-4o": Limits(rpm=10)}) as client:
        client.acquire("openai", "gpt-4o").release(Outcome.UNSENT)
        client.acquire("openai", "gpt-4o").release(Outcome.ERROR)
        model = client.status().scope("openai/gpt-4o")
        assert model is not None
        assert [(rate.dimension, rate.used, rate.remaining) for rate in model.rates] == [("requests/60s", 1, 9)]


def test_a_stream_keeps_its_lease_until_it_ends(url: str) -> None:
    """Hand the lease over to the stream, and return the stream: it is released with its last item."""
    with Client(url, limits={"openai/gpt-4o": Limits(concurrency=1)}) as client:

        def ask() -> object:
            with client.acquire("openai", "gpt-4o") as lease:
                stream = iter(["Hello", " ", "world"])
                return lease.wrap_stream(stream)

        words = ask()
        assert in_flight(client, "openai/gpt-4o") == 1
        assert "".join(words) == "Hello world"  # type: ignore[call-overload]
        assert in_flight(client, "openai/gpt-4o") == 0


async def test_the_asynchronous_client_has_the_same_calls(url: str) -> None:
    """`async with`, `await`; fifty tasks share eight slots."""
    async with AsyncClient(url, limits={"openai/gpt-4o": Limits(concurrency=8)}) as client:
        running = most = 0

        async def call() -> None:
            nonlocal running, most
            async with client.acquire("openai", "gpt-4o"):
                running += 1
                most = max(most, running)
                await asyncio.sleep(0)
                running -= 1

        await asyncio.gather(*(call() for _ in range(50)))
        assert 1 <= most <= 8
        refusal_or_lease = await client.try_acquire("openai", "gpt-4o")
        assert refusal_or_lease
        await refusal_or_lease.release()


def test_all_clients_of_a_namespace_share_its_limits(url: str) -> None:
    """Another process with the same URL and namespace is another instance of the same fleet."""
    limits = {"openai/gpt-4o": Limits(concurrency=1)}
    with Client(url, limits=limits, namespace="prod") as one, Client(url, limits=limits, namespace="prod") as other:
        with one.acquire("openai", "gpt-4o"):
            assert not other.try_acquire("openai", "gpt-4o")
            with Client(url, limits=limits, namespace="staging") as elsewhere:
                assert elsewhere.try_acquire("openai", "gpt-4o")
        assert len(other.instances()) == 2


def test_settings_are_arguments_or_one_config(url: str) -> None:
    """A Config says all times at once; what stands beside it takes precedence."""
    config = Config(url=url, lease_ttl=30, heartbeat=10, namespace="prod", unknown="error")
    with Client(config=config, limits={"openai": Limits(concurrency=2)}, default_timeout=2.5) as client:
        with client.acquire("openai", "any-model") as lease:
            assert lease.valid
        with pytest.raises(ValueError, match="no limits are known for mistral/large"):
            client.acquire("mistral", "large")


def in_flight(client: Client, scope: str) -> int:
    """How many slots of a scope are in use now, in all processes."""
    status = client.status().scope(scope)
    assert status is not None
    return status.in_flight
