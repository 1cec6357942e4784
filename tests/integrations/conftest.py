"""Clients for servers on loopback."""

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    """A client that uses no proxy."""
    with httpx.Client(trust_env=False, timeout=5.0) as client:
        yield client


@pytest.fixture
async def async_http() -> AsyncIterator[httpx.AsyncClient]:
    """The same for an event loop."""
    async with httpx.AsyncClient(trust_env=False, timeout=5.0) as client:
        yield client
