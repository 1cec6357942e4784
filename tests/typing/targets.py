"""Never run, only type-checked: targets keep the signatures of what they call, in both colours."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from typing import Any, assert_type

from ratelease import (
    AsyncClient,
    AsyncLease,
    AsyncTarget,
    Client,
    Done,
    Lease,
    Progress,
    Refusal,
    Retry,
    Stats,
    Target,
    Usage,
)
from ratelease.core.retrying import RetryEvent


class Answer:
    """What a provider returns."""

    text: str
    tokens: int


def ask(prompt: str, *, temperature: float = 1.0) -> Answer:
    """A function of the user's."""
    raise NotImplementedError


def stream(prompt: str) -> Iterator[str]:
    """A generator of the user's."""
    yield prompt


async def ask_soon(prompt: str, *, temperature: float = 1.0) -> Answer:
    """A coroutine function of the user's."""
    raise NotImplementedError


async def stream_soon(prompt: str) -> AsyncIterator[str]:
    """An asynchronous generator of the user's."""
    yield prompt


def sdk(prompt: str) -> Awaitable[Answer]:
    """What an SDK wraps around its coroutine functions."""
    return ask_soon(prompt)


def used(answer: Any) -> int:
    """A usage function."""
    assert isinstance(answer, Answer)
    return answer.tokens


def told(event: RetryEvent) -> None:
    """A callback of retries."""
    assert_type(event.delay, float)


def threads(client: Client) -> None:
    """The synchronous target."""
    target = client.target(
        "openai", "gpt-4o", timeout=60, tokens=lambda prompt: len(prompt) // 4, weight=2, pools=["big"], usage=used
    )
    assert_type(target, Target)
    target = client.target("openai", "gpt-4o", retries=Retry.long(max_hint=60), on_retry=told)
    for attempt in target.retrying(tokens=5):
        with attempt as lease:
            assert_type(lease, Lease)
    with target.acquire(tokens=100) as lease:
        assert_type(lease, Lease)
    assert_type(target.call(ask, "hello", temperature=0.5), Answer)
    assert_type(client.call("openai", "gpt-4o", ask, "hello"), Answer)
    assert_type(client.stats(), Stats)
    batch = target.map(ask, ["one", "two"], in_flight=4, ordered=True, return_exceptions=True)
    for done in batch:
        assert_type(done, Done[str, Answer])
        assert_type(done.index, int)
        assert_type(done.item, str)
        assert_type(done.result, Answer | None)
        assert_type(done.error, BaseException | None)
    assert_type(batch.stats(), Progress)
    assert_type(batch.stats().remaining_seconds, float | None)
    batch.close()
    with target.map(ask, (text for text in ["one"])) as entered:
        assert_type(next(entered), Done[str, Answer])


def narrowing(target: Target) -> str:
    """try_acquire of a target narrows as the client's does."""
    if lease := target.try_acquire():
        assert_type(lease, Lease)
        return lease.id
    assert_type(lease, Refusal)
    return lease.dimension


def decorated(client: Client, target: Target) -> None:
    """A decorated function has the signature that it had."""

    @client.limited("openai", "gpt-4o", tokens=500)
    def first(prompt: str, times: int = 1) -> Answer:
        raise NotImplementedError

    @target.limited
    def second(prompt: str) -> Generator[str, int, bool]:
        got = yield prompt
        return got > 1

    assert_type(first("hello", times=2), Answer)
    assert_type(second("hello"), Generator[str, int, bool])
    kept: Callable[[str], Iterator[str]] = target.limited(stream)
    assert_type(kept("hello"), Iterator[str])
    first(5)  # type: ignore[arg-type]
    first("hello", time=2)  # type: ignore[call-arg]
    second()  # type: ignore[call-arg]


async def loops(client: AsyncClient) -> None:
    """The asynchronous target: the same names, types of its own."""
    target = client.target("openai", "gpt-4o", input_tokens=len, output_tokens=200)
    assert_type(target, AsyncTarget)
    async for attempt in client.target("openai", "gpt-4o", retries=4, on_retry=told).retrying(timeout=5):
        async with attempt as attempted:
            assert_type(attempted, AsyncLease)
    async with target.acquire(timeout=5) as lease:
        assert_type(lease, AsyncLease)
    assert_type(await target.acquire(), AsyncLease)
    assert_type(await target.call(ask_soon, "hello", temperature=0.5), Answer)
    assert_type(await target.call(sdk, "hello"), Answer)
    assert_type(await client.call("openai", "gpt-4o", ask_soon, "hello"), Answer)
    assert_type(client.stats(), Stats)
    batch = target.map(ask_soon, ["one", "two"], in_flight=4)
    async for done in batch:
        assert_type(done, Done[str, Answer])
        assert_type(done.result, Answer | None)
    assert_type(batch.stats(), Progress)
    await batch.aclose()
    async with target.map(sdk, stream_soon("one")) as entered:
        assert_type(await anext(entered), Done[str, Answer])


async def narrowing_soon(target: AsyncTarget) -> str:
    """Both branches."""
    if not (lease := await target.try_acquire(tokens=5)):
        assert_type(lease, Refusal)
        return lease.dimension
    assert_type(lease, AsyncLease)
    return lease.id


async def decorated_soon(client: AsyncClient, target: AsyncTarget) -> None:
    """A decorated coroutine function stays one."""

    @client.limited("openai", "gpt-4o")
    async def first(prompt: str, times: int = 1) -> Answer:
        raise NotImplementedError

    assert_type(await first("hello", times=2), Answer)
    async for text in target.limited(stream_soon)("hello"):
        assert_type(text, str)
    await first(5)  # type: ignore[arg-type]


def used_tokens() -> None:
    """What of() gives, and what it may be given."""
    usage = Usage.of(object())
    assert_type(usage, Usage | None)
    assert_type(Usage(tokens=5).tokens, int | None)
    Usage(tokens="5")  # type: ignore[arg-type]


async def mistakes(client: Client, target: Target, soon: AsyncTarget) -> None:
    """What a type checker refuses."""
    target.call(ask)  # type: ignore[call-arg]
    target.call(ask, "hello", temperature="hot")  # type: ignore[arg-type]
    client.call("openai", "gpt-4o", ask, 5)  # type: ignore[arg-type]
    client.target("openai", "gpt-4o", tokens="many")  # type: ignore[arg-type]
    await soon.call(ask, "hello")  # type: ignore[arg-type]
    soon.limited(ask)  # type: ignore[type-var]
    target.map(ask, [5])  # type: ignore[arg-type]
