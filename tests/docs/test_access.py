"""The user that docs/operations.md proposes may do all that clients do, and little else."""

import re
import threading
from typing import Any

import pytest
import redis

from ratelease import Client, Limits, Outcome
from ratelease.testing import RedisServer, config
from support.redis_cluster import RedisCluster
from support.repository import ROOT
from support.wait_until import wait_until

LIMITS = {"openai/gpt-4o": Limits(rpm=500, concurrency=1), "total": Limits(concurrency=5)}


@pytest.fixture
def rule() -> list[str]:
    """The line of the page, as the arguments of one command."""
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    found = re.search(r"^ACL SETUSER .*$", page, re.MULTILINE)
    assert found
    return found[0].split(" ")


def _client(server: RedisServer, rule: list[str]) -> Client:
    with redis.Redis.from_url(server.url) as admin:
        assert admin.execute_command(*rule) in (b"OK", "OK", True)
    url = server.url.replace("redis://", "redis://ratelease:CHANGE-ME@")
    return Client(url, limits=LIMITS, config=config())


def test_the_proposed_user_is_sufficient(each_server: RedisServer, rule: list[str]) -> None:
    """For taking, waiting, handing on by a message, groups, refunds, heartbeats, reading, reset and leaving."""
    with _client(each_server, rule) as one, _client(each_server, rule) as two:
        lease = one.acquire("openai", "gpt-4o")
        assert not two.try_acquire("openai", "gpt-4o")
        granted: list[Any] = []
        waiter = threading.Thread(target=lambda: granted.append(two.acquire("openai", "gpt-4o", timeout=5)))
        waiter.start()
        wait_until(lambda: one.status().queues, description="the second client waits")
        lease.release(Outcome.UNSENT)
        waiter.join(5)
        expiry = granted[0].deadline
        wait_until(lambda: granted[0].deadline > expiry, description="a heartbeat renewed the lease")
        granted[0].release()
        with one.acquire_many("openai", "gpt-4o", 1):
            assert len(one.instances()) == 2
        assert one.reset() > 0


def test_the_proposed_user_is_sufficient_on_a_cluster(redis_cluster: RedisCluster, rule: list[str]) -> None:
    """With what the page adds for that, while its slot moves; and nothing shows the password."""
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    added = re.search(r"^ACL SETUSER ratelease \+asking .*$", page, re.MULTILINE)
    assert added
    for server in redis_cluster.servers:
        for command in (rule, added[0].split(" ")):
            redis_cluster.client(server).execute_command(*command)
    owner, target, _ = redis_cluster.servers
    namespace = redis_cluster.namespace_on(owner)
    url = redis_cluster.url_of(target).replace("://", "://ratelease:CHANGE-ME@")
    with Client(url, limits=LIMITS, config=config(namespace=namespace)) as client:
        assert "CHANGE-ME" not in f"{client!r} {client.status()}"
        lease = client.acquire("openai", "gpt-4o")
        redis_cluster.begin_move(namespace, target)
        while redis_cluster.move_keys(namespace, target):
            pass
        assert [each.id for each in client.instances()] == [client._rt.instance], "asked by ASKING"
        redis_cluster.end_move(namespace, target)
        assert client._rt.endpoint.nodes is not None
        assert len(client._rt.endpoint.nodes._known) == 3, "told by CLUSTER SLOTS"
        lease.release()
        assert client.status().scope("openai/gpt-4o").in_flight == 0
    for server in redis_cluster.servers:
        redis_cluster.client(server).execute_command("ACL", "DELUSER", "ratelease")


def test_the_proposed_user_is_refused_everything_else(each_server: RedisServer, rule: list[str]) -> None:
    """Neighbours' keys and channels, and what could look at or harm a server."""
    _client(each_server, rule).close()
    with redis.Redis(port=each_server.port, username="ratelease", password="CHANGE-ME") as user:
        for command in (
            ("HGET", "somebody:else", "field"),
            ("PUBLISH", "somebody", "hello"),
            ("EVAL", "return redis.call('HGET', 'somebody:else', 'field')", "0"),
            ("FLUSHALL",),
            ("KEYS", "*"),
            ("SCAN", "0"),
            ("CONFIG", "GET", "*"),
            ("SCRIPT", "FLUSH"),
        ):
            with pytest.raises(redis.ResponseError):
                user.execute_command(*command)
