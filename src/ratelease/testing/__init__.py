"""Help for testing one's own code, and ours: short times, real servers, a provider that enforces its limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..config import Config
from .waiting import wait_until

if TYPE_CHECKING:
    from .redis_server import RedisServer, find_cli, find_server, find_servers
    from .simulator import Phase, ProviderSimulator, SimulatorStats

__all__ = [
    "Phase",
    "ProviderSimulator",
    "RedisServer",
    "SimulatorStats",
    "config",
    "find_cli",
    "find_server",
    "find_servers",
    "wait_until",
]


def config(**changes: Any) -> Config:
    """Settings with short times: leases of 1 s, heartbeats of 0.25 s, claims of 0.5 s, polls of 0.1 s."""
    times = {"lease_ttl": 1.0, "heartbeat": 0.25, "claim_ttl": 0.5, "poll": 0.1, "default_timeout": 10.0}
    return Config(**{**times, "relaxed": True, **changes})


def __getattr__(name: str) -> Any:
    # Loaded when asked for: a simulator needs a web server, a Redis server needs neither.
    if name in ("RedisServer", "find_cli", "find_server", "find_servers"):
        from . import redis_server

        return getattr(redis_server, name)
    if name in ("Phase", "ProviderSimulator", "SimulatorStats"):
        from . import simulator

        return getattr(simulator, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
