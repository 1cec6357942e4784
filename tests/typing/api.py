"""Never run, only type-checked: what a type checker knows of the public surface."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import timedelta
from typing import assert_type

from ratelease import (
    AsyncClient,
    AsyncGroup,
    AsyncLease,
    Client,
    Config,
    EffectiveLimits,
    Group,
    Instance,
    Lease,
    Limits,
    Outcome,
    Pool,
    Rate,
    Refusal,
    Status,
)
from ratelease.errors import RateleaseError, StoreCorrupt, StoreUnavailable, WaitTimeout


def settings() -> Client:
    """Everything that the constructor takes."""
    return Client(
        "redis://localhost:6379/0",
        limits={"openai/gpt-4o": Limits(rpm=500, tpm=200_000, concurrency=8, rates=[Rate(10, per=1.0, of="requests")])},
        pools={"opus": Pool(["anthropic/claude-opus-*"], Limits(concurrency=4))},
        config=Config(lease_ttl=15.0),
        config_file="limits.toml",
        namespace="prod",
        credential="account-1",
        tiers={"openai": "tier2"},
        env_prefix="MY_LIMIT_",
        headroom=0.9,
        on_unavailable="closed",
        expected_instances=4,
        redis_options={"ssl_ca_certs": "ca.pem"},
        default_timeout=timedelta(minutes=5),
        lease_ttl=15,
        heartbeat=5.0,
        unknown="unlimited",
        require_shared=True,
        on_lost=print,
        on_queued=told,
        metadata={"role": "worker"},
    )


def told(refusal: Refusal) -> None:
    """What on_queued is called with."""
    assert_type(refusal.scope, str)
    assert_type(refusal.used, int)
    assert_type(refusal.retry_after, float | None)


def threads(client: Client) -> None:
    """The synchronous client."""
    with client, client.acquire("openai", "gpt-4o", tokens=100, timeout=math.inf) as lease:
        assert_type(lease, Lease)
        assert_type(lease.id, str)
        assert_type(lease.deadline, float)
        assert_type(lease.valid, bool)
        assert_type(lease.flags, frozenset[str])
        lease.release(Outcome.UNSENT)
    with client.acquire_many("openai", "gpt-4o", 3, at_least=1, timeout=timedelta(seconds=3)) as group:
        assert_type(group, Group)
        assert_type(group[0], Lease)
        assert_type(group[1:], Sequence[Lease])
        for further in group.rest():
            assert_type(further, Lease)
    assert_type(client.status(), Status)
    assert_type(client.instances(), list[Instance])
    assert_type(client.limits("openai", "gpt-4o"), EffectiveLimits)
    assert_type(client.reset("openai", "gpt-4o", all=True), int)


def narrowing(client: Client) -> str:
    """A lease is always true and a refusal always false, for type checkers too."""
    result = client.try_acquire("openai", "gpt-4o", weight=2, pools=["opus"])
    assert_type(result, Lease | Refusal)
    if result:
        assert_type(result, Lease)
        return result.id
    assert_type(result, Refusal)
    return f"{result.scope} {result.dimension}"


def narrowing_by_not(client: Client) -> float | None:
    """The other way round."""
    if not (result := client.try_acquire("openai", "gpt-4o")):
        assert_type(result, Refusal)
        return result.retry_after
    assert_type(result, Lease)
    return result.waited


async def loops(client: AsyncClient) -> None:
    """The asynchronous client: the same names, types of its own."""
    async with client, client.acquire("openai", "gpt-4o", input_tokens=10, output_tokens=20) as lease:
        assert_type(lease, AsyncLease)
        await lease.release(Outcome.OK)
    assert_type(await client.acquire("openai", "gpt-4o"), AsyncLease)
    assert_type(await client.acquire_many("openai", "gpt-4o", 2), AsyncGroup)
    async with client.acquire_many("openai", "gpt-4o", 2) as group:
        assert_type(group[0], AsyncLease)
        async for further in group.rest():
            assert_type(further, AsyncLease)
    result = await client.try_acquire("openai", "gpt-4o")
    assert_type(result, AsyncLease | Refusal)
    if result:
        assert_type(result, AsyncLease)
    else:
        assert_type(result, Refusal)
    assert_type(await client.status(), Status)
    assert_type(await client.limits(), EffectiveLimits)
    assert_type(await client.instances(), list[Instance])
    assert_type(await client.reset(), int)
    await client.close()


def errors(client: Client) -> float | None:
    """Typed attributes, and the classes that people know."""
    try:
        client.acquire("openai", "gpt-4o")
    except StoreCorrupt as error:
        assert_type(error.key, str | None)
    except StoreUnavailable as error:
        connection: ConnectionError = error
        raise connection from None
    except WaitTimeout as error:
        timeout: TimeoutError = error
        assert_type(error.position, int | None)
        if error.retry_after is None:
            raise timeout from None
        return error.retry_after
    except RateleaseError as error:
        assert_type(error.limit, int | None)
    return None


def mistakes(client: Client, limits: Limits) -> None:
    """What a type checker refuses; an ignore that is not needed is an error itself."""
    client.acquire("openai")  # type: ignore[call-arg]
    client.acquire("openai", "gpt-4o", tokens="many")  # type: ignore[arg-type]
    client.acquire("openai", "gpt-4o", token=5)  # type: ignore[call-arg]
    Limits(500)  # type: ignore[call-arg]
    Limits(rpm="500")  # type: ignore[arg-type]
    Limits(rmp=500)  # type: ignore[call-arg]
    Rate(5, of="characters")  # type: ignore[arg-type]
    Client(on_unavailable="never")  # type: ignore[arg-type]
    Config(lease_tll=3)  # type: ignore[call-arg]
    limits.rpm = 3  # type: ignore[misc]
    Client(limits={"openai/gpt-4o": {"rpm": 5}})  # type: ignore[dict-item]
