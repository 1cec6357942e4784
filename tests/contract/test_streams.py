"""wrap_stream: the lease belongs to the stream until that ends, however it ends."""

import contextlib

import pytest

from ratelease import Limits
from support.wait_until import wait_until_async

ONE = {"openai/gpt-4o": Limits(concurrency=1)}
SCOPE = "openai/gpt-4o"


@pytest.mark.covers("LS-09", "LS-14")
async def test_the_slot_is_held_from_before_the_request_until_the_stream_has_ended(make_limiter) -> None:
    """Leaving the `with` of the lease does not free the slot while its stream is still read."""
    limiter = make_limiter(limits=ONE)
    async with limiter.acquire("openai", "gpt-4o") as lease:
        assert await limiter.in_flight(SCOPE) == 1
        stream = lease.wrap_stream(limiter.stream(["a", "b"]))
    assert await limiter.in_flight(SCOPE) == 1
    assert await anext(stream) == "a"
    assert not await limiter.try_acquire("openai", "gpt-4o")
    assert [item async for item in stream] == ["b"]
    assert await limiter.in_flight(SCOPE) == 0
    assert not lease.valid


@pytest.mark.covers("LS-14")
async def test_closing_a_half_read_stream_releases(make_limiter) -> None:
    """The stream inside is closed as well, and a second close is harmless."""
    limiter = make_limiter(limits=ONE)
    source = limiter.stream("abc")
    stream = (await limiter.acquire("openai", "gpt-4o")).wrap_stream(source)
    assert await anext(stream) == "a"
    await stream.close()
    assert source.closed
    assert await limiter.in_flight(SCOPE) == 0
    await stream.close()
    assert await limiter.in_flight(SCOPE) == 0


@pytest.mark.covers("LS-14")
async def test_an_error_inside_the_stream_releases_and_goes_on_to_the_reader(make_limiter) -> None:
    """The connection breaks in the middle."""
    limiter = make_limiter(limits=ONE)
    stream = (await limiter.acquire("openai", "gpt-4o")).wrap_stream(limiter.stream("a", ConnectionError("cut off")))
    assert await anext(stream) == "a"
    with pytest.raises(ConnectionError, match="cut off"):
        await anext(stream)
    assert await limiter.in_flight(SCOPE) == 0


@pytest.mark.covers("LS-14")
async def test_breaking_out_of_a_stream_and_leaving_its_with_releases(make_limiter) -> None:
    """The stream's own `with` closes it."""
    limiter = make_limiter(limits=ONE)
    source = limiter.stream("abc")
    async with (await limiter.acquire("openai", "gpt-4o")).wrap_stream(source) as stream:
        async for item in stream:
            assert item == "a"
            break
        assert await limiter.in_flight(SCOPE) == 1
    assert source.closed
    assert await limiter.in_flight(SCOPE) == 0


@pytest.mark.covers("LS-14")
async def test_an_error_of_the_reader_releases_when_the_with_is_left(make_limiter) -> None:
    """The body around the stream raises."""
    limiter = make_limiter(limits=ONE)
    with pytest.raises(KeyError):
        async with (await limiter.acquire("openai", "gpt-4o")).wrap_stream(limiter.stream("abc")):
            raise KeyError
    assert await limiter.in_flight(SCOPE) == 0


@pytest.mark.covers("LS-14")
@pytest.mark.parametrize("read", [0, 1])
async def test_a_stream_that_is_dropped_releases(make_limiter, read) -> None:
    """Never iterated, or left in the middle, and garbage-collected: the slot comes back."""
    limiter = make_limiter(limits=ONE)
    async with limiter.acquire("openai", "gpt-4o") as lease:
        stream = lease.wrap_stream(limiter.stream("abc"))
    for _ in range(read):
        assert await anext(stream) == "a"
    assert await limiter.in_flight(SCOPE) == 1
    del stream, lease
    await _until_free(limiter)


@pytest.mark.covers("LS-14")
async def test_a_dropped_stream_releases_although_its_lease_is_still_referenced(make_limiter) -> None:
    """The lease belongs to the stream: keeping the lease object does not keep the slot."""
    limiter = make_limiter(limits=ONE)
    lease = await limiter.acquire("openai", "gpt-4o")
    stream = lease.wrap_stream(limiter.stream("abc"))
    assert await anext(stream) == "a"
    del stream
    await _until_free(limiter)
    assert not lease.valid


@pytest.mark.covers("LS-14")
async def test_a_wrapped_stream_keeps_its_attributes(make_limiter) -> None:
    """What an SDK's stream offers besides its items is still there."""
    limiter = make_limiter(limits=ONE)
    stream = (await limiter.acquire("openai", "gpt-4o")).wrap_stream(limiter.stream("a"))
    assert stream.stream.request_id == "req-1"
    assert stream.stream.closed is False
    assert not hasattr(stream.stream, "no_such_attribute")
    await stream.close()
    assert stream.stream.closed is True


@pytest.mark.covers("LS-14")
async def test_an_error_that_leaves_the_with_after_wrapping_still_leaves_the_lease_to_the_stream(make_limiter) -> None:
    """The body fails behind wrap_stream: the stream is dropped with it, and that releases."""
    limiter = make_limiter(limits=ONE)

    async def work() -> None:
        async with limiter.acquire("openai", "gpt-4o") as lease:
            stream = lease.wrap_stream(limiter.stream("abc"))
            assert await anext(stream) == "a"
            raise KeyError

    with contextlib.suppress(KeyError):
        await work()
    await _until_free(limiter)


@pytest.mark.covers("LS-14")
async def test_any_iterable_can_be_wrapped(make_limiter) -> None:
    """A generator has no attributes of a response; it is iterated and closed all the same."""
    limiter = make_limiter(limits=ONE)
    closed: list[bool] = []

    def items():
        try:
            yield from "ab"
        finally:
            closed.append(True)

    async def items_async():
        try:
            for item in "ab":
                yield item
        finally:
            closed.append(True)

    for close_early in (False, True):
        source = items() if limiter.is_sync else items_async()
        stream = (await limiter.acquire("openai", "gpt-4o", timeout=5)).wrap_stream(source)
        assert await anext(stream) == "a"
        if close_early:
            await stream.close()
        else:
            assert [item async for item in stream] == ["b"]
        assert await limiter.in_flight(SCOPE) == 0
    assert closed == [True, True]


async def _until_free(limiter) -> None:
    async def free() -> bool:
        return await limiter.in_flight(SCOPE) == 0

    await wait_until_async(free, description="the slot is free")
