"""Streams that are left by an exception, or read by methods of their own: what is learned, and what is tried again."""

import asyncio
from typing import Self

import pytest

from ratelease import Limits, Outcome, Retry
from support.targets import ApiError, BothTarget

MODEL = ("openai", "gpt-4o")
LIMITS = {"openai/gpt-4o": Limits(concurrency=8)}
QUICK = Retry(base=0.001, cap=0.01)


def _items():
    yield from "ab"


async def _items_soon():
    for item in "ab":
        yield item


@pytest.mark.covers("LS-14", "AL-08")
@pytest.mark.parametrize(
    "error, outcome",
    [
        (ApiError(429), Outcome.THROTTLED),
        (KeyboardInterrupt(), Outcome.CANCELLED),
        (asyncio.CancelledError(), Outcome.CANCELLED),
        (None, Outcome.OK),
    ],
    ids=repr,
)
async def test_a_stream_that_has_no_with_of_its_own_tells_how_it_was_left(make_limiter, error, outcome) -> None:
    """A generator, say: it is closed, and what its reader met is what the fleet learns, not that it was closed."""
    limiter = make_limiter(limits=LIMITS)
    stream = (await limiter.acquire(*MODEL)).wrap_stream(_items() if limiter.is_sync else _items_soon())
    await stream.__aenter__()
    assert await anext(stream) == "a"
    await stream.__aexit__(type(error) if error else None, error, None)
    ended = limiter.client._rt.keeper.tally.ended
    assert [each for each in Outcome if ended[each]] == [outcome]
    assert ((await limiter.health(*MODEL)).limit < 8) is (outcome is Outcome.THROTTLED)
    assert await limiter.in_flight("openai/gpt-4o") == 0


class _Texts:
    """As the streams of SDKs: read by a method of its own, with a `with` of its own."""

    request_id = "req-1"

    def texts(self) -> str:
        return "ab"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        """Nothing to close."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *raised: object) -> None:
        """Nothing to close."""


class _Manager:
    """As what `.stream(…)` of the SDKs of OpenAI and Anthropic returns: the stream is what it gives when entered."""

    def __init__(self, stream) -> None:
        self._stream = stream
        self.left: list[object] = []

    def __enter__(self):
        return self._stream

    def __exit__(self, *raised: object) -> None:
        self.left.append(raised[1])
        self._stream.close()

    async def __aenter__(self):
        return self._stream

    async def __aexit__(self, *raised: object) -> None:
        self.left.append(raised[1])
        await self._stream.aclose()


@pytest.mark.covers("LS-14")
@pytest.mark.parametrize("error", [None, ApiError(429)], ids=repr)
async def test_a_stream_is_what_its_manager_gives_when_it_is_entered(make_limiter, error) -> None:
    """Its items and its attributes; the manager is left."""
    limiter = make_limiter(limits=LIMITS)
    inner = limiter.stream("ab")
    manager = _Manager(inner)
    stream = (await limiter.acquire(*MODEL)).wrap_stream(manager)
    await stream.__aenter__()
    assert stream.request_id == "req-1"
    assert await anext(stream) == "a"
    assert await limiter.in_flight("openai/gpt-4o") == 1
    await stream.__aexit__(type(error) if error else None, error, None)
    assert (manager.left, inner.closed) == ([error], True)
    assert await limiter.in_flight("openai/gpt-4o") == 0


@pytest.mark.covers("RT-15")
async def test_a_stream_that_is_read_by_its_own_methods_is_not_tried_again(make_limiter) -> None:
    """Nobody knows what its reader has seen. Looking at its headers is no reading."""
    limiter = make_limiter(limits=LIMITS, retry=QUICK, default_pause=0)
    for name, calls in (("texts", 1), ("request_id", 3), ("no_such_thing", 3)):
        made = 0

        async def work(name: str = name) -> None:
            nonlocal made
            async for attempt in BothTarget(limiter).retrying():
                async with attempt as lease, lease.wrap_stream(_Texts()) as stream:
                    made += 1
                    getattr(stream.stream, name, None)
                    raise ApiError(500)

        with pytest.raises(Exception, match=r"500|attempts failed"):
            await work()
        assert made == calls
