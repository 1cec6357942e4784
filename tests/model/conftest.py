"""The one fakeredis server of the models: its Lua interpreter is slow to start."""

import fakeredis
import pytest


@pytest.fixture(scope="session")
def fake_client() -> fakeredis.FakeRedis:
    """A client of a fakeredis server that each example empties."""
    return fakeredis.FakeRedis(server=fakeredis.FakeServer(server_type="redis", version=(7,)))
