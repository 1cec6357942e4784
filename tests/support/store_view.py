"""What a store holds of one path, read by plain commands."""

from typing import Any

import redis

from ratelease import Client
from ratelease.core.keys import Keyspace, make_path
from support.wait_until import wait_until


class StoreView:
    """The keys of openai/gpt-4o in a namespace. Scopes are numbered: 0 the model, 1 the provider, 2 the total."""

    def __init__(self, client: redis.Redis, namespace: str, model: str = "gpt-4o") -> None:
        self._client: Any = client
        space = Keyspace(namespace)
        self._keys = space.path_keys(make_path("openai", model, (), None))
        self.instances_key, self.queue_key = self._keys[1], self._keys[3]
        self.records_key, self.graves_key = self._keys[5], self._keys[6]
        self.inbox_prefix = space.inbox_prefix

    def windows_key(self, scope: int = 0) -> str:
        """The hash of the windows of a scope."""
        return self._keys[9 + 5 * scope]

    def leases_key(self, scope: int = 0) -> str:
        """The zset of the leases of a scope."""
        return self._keys[10 + 5 * scope]

    def now(self) -> int:
        """The server's clock in ms."""
        seconds, micros = self._client.time()
        return int(seconds) * 1000 + int(micros) // 1000

    def in_flight(self, scope: int = 0) -> int:
        """How many leases have not expired."""
        return int(self._client.zcount(self.leases_key(scope), f"({self.now()}", "+inf"))

    def expiries(self, scope: int = 0) -> dict[str, int]:
        """Every lease with the ms at which it expires."""
        found = self._client.zrange(self.leases_key(scope), 0, -1, withscores=True)
        return {member.decode(): int(score) for member, score in found}

    def waiting(self) -> int:
        """How many waiters are parked."""
        return int(self._client.zcard(self.queue_key))

    def charged(self, rate: str, scope: int = 0) -> int:
        """What a rate, such as r60000, has counted since its window was last looked at."""
        return int(self._client.hget(self.windows_key(scope), f"{rate}:n") or 0)

    def tombstones(self) -> set[str]:
        """The ids that are never to be granted."""
        return {id.decode() for id in self._client.zrange(self.graves_key, 0, -1)}

    def script_calls(self) -> int:
        """How often any client has run a script on this server."""
        stats = self._client.info("commandstats")
        return sum(int(stats.get(f"cmdstat_{name}", {}).get("calls", 0)) for name in ("eval", "evalsha"))


def check_nothing_is_left(client: Client, view: StoreView, place: str) -> None:
    """Within a second nothing is in use and nobody waits."""
    wait_until(lambda: view.in_flight() == 0, timeout=1.0, description=f"{place} leaves nothing in use")
    wait_until(lambda: view.waiting() == 0, timeout=1.0, description=f"{place} leaves nobody waiting")
    wait_until(lambda: not client._rt.keeper.holds, timeout=1.0, description=f"{place} leaves nothing to renew")
    assert not client._rt.keeper.waiters, f"{place} leaves a waiter"
