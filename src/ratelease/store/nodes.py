"""
The nodes of a Redis Cluster, as one client knows them.

All keys of a namespace share one hash tag, so all of its decisions are made by one node: the one that owns the tag's
slot. Who that is changes with failovers and resharding, and any node tells: by MOVED it names the owner of what it was
asked for. So a client needs no map of slots, only one node that it believes to be the owner, and others to ask when
that one is gone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple
from urllib.parse import SplitResult, urlsplit

from ..errors import ConfigError

MARK = "+cluster"
DEFAULT_PORT = 6379
MOST_NODES = 1000


class Node(NamedTuple):
    """Where a node listens."""

    host: str
    port: int


class Nodes:
    """
    The nodes that are known, and which of them is asked next.

    May be used from any thread: every step replaces one value by another, and a step that two threads take at once
    costs one redirection more.
    """

    def __init__(self, seeds: Iterable[Node]) -> None:
        self._seeds = tuple(seeds)
        self._known = self._seeds
        self.current = self._seeds[0]

    def moved(self, node: Node, *, told_by: Node) -> None:
        """Take over the owner that a node has named; without a host it is another port of its own."""
        self.current = Node(node.host or told_by.host, node.port)
        if self.current not in self._known:
            self._known = (*self._known, self.current)[-MOST_NODES:]

    def lost(self, node: Node) -> None:
        """Go on to the next one, unless somebody has done so already: this one cannot be asked now."""
        if self.current == node:
            around = self._known
            at = around.index(node) + 1 if node in around else 0
            self.current = around[at % len(around)]

    def learn(self, slots: Any, told_by: Node) -> None:
        """Take over the nodes of a reply to CLUSTER SLOTS. What was learnt before is forgotten, the seeds are not."""
        found = dict.fromkeys(self._seeds)
        for entry in slots if isinstance(slots, list) else ():
            for member in entry[2:] if isinstance(entry, list) else ():
                if isinstance(member, list) and len(member) >= 2 and isinstance(member[1], int):
                    host = member[0].decode("utf-8", "replace") if isinstance(member[0], bytes) else ""
                    found[Node(host or told_by.host, member[1])] = None
        found[self.current] = None
        self._known = tuple(found)[:MOST_NODES]


def cluster_of(url: str) -> tuple[Nodes, str] | None:
    """
    The seeds of redis+cluster://user:password@host:port,host:port and the URL of the first one alone.

    None for any other URL.

    Raises:

        ConfigError: The URL names no hosts, a port that is none, a database, or a user before each host.
    """
    parts = urlsplit(url)
    if not parts.scheme.endswith(MARK):
        return None
    user, _, hosts = parts.netloc.rpartition("@")
    faults: list[str] = []
    found = [_seed(number, text, faults) for number, text in enumerate(hosts.split(","), 1)]
    seeds = [seed for seed in found if seed is not None]
    if "@" in user:
        faults.append("user and password stand once, before the first host (write an @ in them as %40)")
    if parts.path.strip("/") not in ("", "0"):
        faults.append("a cluster has no numbered databases: leave the path out")
    if faults:
        raise ConfigError(f"the store's {parts.scheme}:// URL cannot be read: {'; '.join(faults)}")
    host = f"[{seeds[0].host}]" if ":" in seeds[0].host else seeds[0].host
    first = f"{user}@{host}:{seeds[0].port}" if user else f"{host}:{seeds[0].port}"
    return Nodes(seeds), SplitResult(parts.scheme.removesuffix(MARK), first, "/0", parts.query, "").geturl()


def _seed(number: int, text: str, faults: list[str]) -> Node | None:
    # Nothing is quoted: where the host was left out, its place is taken by user and password.
    host, _, port = text.rpartition(":") if not text.endswith("]") and ":" in text else (text, "", "")
    if not host.strip("[]"):
        faults.append(
            f"host {number} is missing: name one or more nodes, as in redis+cluster://node-a:6379,node-b:6379"
        )
    elif port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        faults.append(f"the port of host {number} is no number from 1 to 65535")
    else:
        return Node(host.strip("[]"), int(port or DEFAULT_PORT))
    return None
