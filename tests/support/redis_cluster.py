"""A real cluster of three servers on loopback."""

from __future__ import annotations

import contextlib
import random
import re
import socket
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ratelease.core.keys import Keyspace
from ratelease.testing.redis_server import RedisServer, ServerBinary, ServerStartError, find_server
from support.wait_until import wait_until

SLOTS = 16384
_BUS = 10_000  # 6.2 has no option for the port of the cluster's bus: it is the server's plus this
_ATTEMPTS = 5


class RedisCluster:
    """
    Three masters that share the slots evenly, without replicas.

    `args` are further options of every server.
    """

    def __init__(self, binary: ServerBinary | None = None, args: tuple[str, ...] = ()) -> None:
        self._binary = binary or find_server()
        self._args = args
        self.servers: list[RedisServer] = []
        self._clients: dict[int, redis.Redis] = {}

    def __enter__(self) -> Self:
        try:
            while len(self.servers) < 3:
                self.servers.append(self._start())
            self._join()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End all servers."""
        for client in self._clients.values():
            client.close()
        for server in self.servers:
            server.stop()

    def _start(self) -> RedisServer:
        for _ in range(_ATTEMPTS):
            options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-config-file", "nodes")
            server = RedisServer(self._binary, port=_free_port_pair(), args=(*options, *self._args))
            with contextlib.suppress(ServerStartError):
                return server.start()
        raise RuntimeError("no pair of free ports was found for a node of a cluster")

    def _join(self) -> None:
        for number, server in enumerate(self.servers):
            slots = range(number * SLOTS // 3, (number + 1) * SLOTS // 3)
            self.tell(server, "SET-CONFIG-EPOCH", number + 1)
            self.tell(server, "ADDSLOTS", *slots)
            self.tell(server, "MEET", "127.0.0.1", self.servers[0].port)
        wait_until(lambda: all(map(self._is_whole, self.servers)), timeout=20, description="the cluster is whole")

    def _is_whole(self, server: RedisServer) -> bool:
        text = self.tell(server, "INFO")
        told = dict(line.split(":") for line in text.decode().split())
        return (told["cluster_state"], told["cluster_slots_ok"], told["cluster_known_nodes"]) == ("ok", str(SLOTS), "3")

    def add_replica(self, master: RedisServer) -> RedisServer:
        """Start one more server that follows a master, and return when it has all of its data."""
        replica = self._start()
        self.servers.append(replica)
        self.tell(replica, "MEET", "127.0.0.1", master.port)
        wait_until(
            lambda: self.id_of(master).encode() in self.tell(replica, "NODES"), description="it knows its master"
        )
        self.tell(replica, "REPLICATE", self.id_of(master))
        client = self.client(replica)
        wait_until(lambda: client.info("replication").get("master_link_status") == "up", timeout=20)
        # Until the masters have heard of it, they do not elect it.
        ids = [self.id_of(each).encode() for each in (replica, master)]
        known = f"{ids[0].decode()} .*slave {ids[1].decode()} ".encode()
        wait_until(lambda: all(re.search(known, self.tell(each, "NODES")) for each in self.servers), timeout=20)
        return replica

    def owner_port(self, namespace: str, told_by: RedisServer) -> int:
        """The port of the node that decides for a namespace, as one of the nodes sees it."""
        slot = self.slot_of(Keyspace(namespace).base)
        return next(int(master[1]) for first, last, master, *_ in self.tell(told_by, "SLOTS") if first <= slot <= last)

    @property
    def url(self) -> str:
        """The URL for clients: all nodes are seeds."""
        return f"redis+cluster://{','.join(f'127.0.0.1:{server.port}' for server in self.servers)}"

    def url_of(self, server: RedisServer) -> str:
        """The URL with one seed."""
        return f"redis+cluster://127.0.0.1:{server.port}"

    def client(self, server: RedisServer) -> Any:
        """A plain client of one node."""
        if server.port not in self._clients:
            self._clients[server.port] = redis.Redis.from_url(server.url, retry=Retry(NoBackoff(), 0), socket_timeout=5)
        return self._clients[server.port]

    def tell(self, server: RedisServer, *command: Any) -> Any:
        """Run a command of CLUSTER on one node."""
        # As two words it escapes redis-py's readers of these replies, which differ between its versions.
        return self.client(server).execute_command("CLUSTER", *command)

    def slot_of(self, key: str) -> int:
        """The slot of a key, as a server of the cluster says."""
        return int(self.tell(self.servers[0], "KEYSLOT", key))

    def id_of(self, server: RedisServer) -> str:
        """The name of a node among the nodes."""
        return str(self.tell(server, "MYID").decode())

    def owner(self, namespace: str) -> RedisServer:
        """The node that decides for a namespace."""
        port = self.owner_port(namespace, self.servers[0])
        return next(server for server in self.servers if server.port == port)

    def namespaces(self) -> Iterator[tuple[str, RedisServer]]:
        """Namespaces without end, each with the node that decides for it."""
        while True:
            namespace = f"test-{random.getrandbits(48):x}"
            yield namespace, self.owner(namespace)

    def namespace_on(self, server: RedisServer) -> str:
        """A new namespace that this node decides for."""
        return next(namespace for namespace, owner in self.namespaces() if owner is server)

    def begin_move(self, namespace: str, target: RedisServer) -> None:
        """Begin to move the slot of a namespace: from here on each of its keys is on one of two nodes."""
        slot, source = self.slot_of(Keyspace(namespace).base), self.owner(namespace)
        self.tell(target, "SETSLOT", slot, "IMPORTING", self.id_of(source))
        self.tell(source, "SETSLOT", slot, "MIGRATING", self.id_of(target))

    def move_keys(self, namespace: str, target: RedisServer, count: int = 1000) -> int:
        """Move so many keys of a slot that is being moved; how many there were."""
        slot, source = self.slot_of(Keyspace(namespace).base), self.owner(namespace)
        keys = self.tell(source, "GETKEYSINSLOT", slot, count)
        if keys:
            self.client(source).execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        return len(keys)

    def end_move(self, namespace: str, target: RedisServer) -> None:
        """Make the target the owner of the slot, once all keys are there."""
        slot, source = self.slot_of(Keyspace(namespace).base), self.owner(namespace)
        for server in (target, source, *(each for each in self.servers if each not in (target, source))):
            self.tell(server, "SETSLOT", slot, "NODE", self.id_of(target))

    def move(self, namespace: str, target: RedisServer) -> None:
        """Move the slot of a namespace with all its keys."""
        self.begin_move(namespace, target)
        while self.move_keys(namespace, target):
            pass
        self.end_move(namespace, target)


def _free_port_pair() -> int:
    while True:
        # Below the ports that systems give out by themselves, on which the bus could be taken a moment later.
        port = random.randrange(11_000, 22_000)
        with socket.socket() as one, socket.socket() as other, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            other.bind(("127.0.0.1", port + _BUS))
            return port
