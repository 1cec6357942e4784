"""Leases and streams that somebody forgot."""

import linecache
import re

import pytest

from ratelease import Limits
from support.wait_until import wait_until_async

ONE = {"openai/gpt-4o": Limits(concurrency=1)}


@pytest.mark.covers("LS-13")
async def test_a_lease_held_too_long_is_no_longer_renewed(make_limiter, caplog) -> None:
    """After max_hold the renewal ends: the slot frees within a TTL, and a warning says where it was acquired."""
    forgetful, other = (make_limiter(limits=ONE, max_hold=hold) for hold in (0.3, 3600.0))
    lease = await forgetful.acquire("openai", "gpt-4o")
    freed = await other.acquire("openai", "gpt-4o", timeout=5)
    assert freed.waited > 0.9
    assert lease.lost
    said = [record.getMessage() for record in caplog.records if "no longer renewed" in record.getMessage()]
    assert len(said) == 1
    assert "forgotten" in said[0]
    _names_an_acquire(said[0])


@pytest.mark.covers("LS-13")
async def test_a_lease_within_max_hold_is_renewed_for_as_long_as_it_is_held(make_limiter, caplog) -> None:
    """Held for more than two TTLs, it is valid and nobody else gets the slot."""
    limiter = make_limiter(limits=ONE, lease_ttl=0.5, heartbeat=0.1)
    lease = await limiter.acquire("openai", "gpt-4o")
    start = lease.deadline
    await wait_until_async(lambda: lease.deadline > start + 1.0, description="two TTLs of renewals")
    assert lease.valid
    assert not await limiter.try_acquire("openai", "gpt-4o")
    assert "no longer renewed" not in caplog.text


@pytest.mark.covers("LS-13")
async def test_an_idle_stream_is_told_once_and_keeps_its_slot(make_limiter, caplog) -> None:
    """A stream without activity warns after stream_idle, once, with the place; the slot stays held."""
    limiter = make_limiter(limits=ONE, stream_idle=0.2)
    lease = await limiter.acquire("openai", "gpt-4o")
    stream = lease.wrap_stream(limiter.stream("ab"))
    start = lease.deadline
    await wait_until_async(lambda: "idle" in caplog.text, description="the idle stream is told")
    await wait_until_async(lambda: lease.deadline > start + 1.0, description="it is renewed again and again")
    said = [record.getMessage() for record in caplog.records if "idle" in record.getMessage()]
    assert len(said) == 1
    _names_an_acquire(said[0])
    assert await limiter.in_flight("openai/gpt-4o") == 1
    await stream.close()


@pytest.mark.covers("LS-13")
async def test_an_active_stream_is_not_reported(make_limiter, caplog) -> None:
    """Every item that is read counts as activity."""
    limiter = make_limiter(limits=ONE, stream_idle=0.6)
    lease = await limiter.acquire("openai", "gpt-4o")
    stream = lease.wrap_stream(limiter.stream(range(1000)))
    start = lease.deadline

    async def read() -> bool:
        await anext(stream)
        return bool(lease.deadline > start + 1.0)

    await wait_until_async(read, description="a second of reading")
    assert "idle" not in caplog.text
    await stream.close()


def _names_an_acquire(message: str) -> None:
    """The message ends with file and line of the call that acquired."""
    place = re.search(r"(\S+\.py):(\d+)\)?$", message)
    assert place, message
    assert "acquire" in linecache.getline(place[1], int(place[2])) or "start" in linecache.getline(
        place[1], int(place[2])
    )
