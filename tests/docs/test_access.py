"""The user that docs/operations.md proposes may do all that clients do, and little else."""

import re
import threading
from typing import Any

import pytest
import redis

from ratelease import Client, Limits, Operator, Outcome
from ratelease.core.scripts import SCRIPTS
from ratelease.errors import StoreUnavailable
from ratelease.store.lua_source import load_script
from ratelease.testing import RedisServer, config
from support.redis_cluster import RedisCluster
from support.repository import ROOT
from support.wait_until import wait_until

LIMITS = {"openai/gpt-4o": Limits(rpm=500, concurrency=1), "total": Limits(concurrency=5)}


RULES = re.findall(r"^ACL SETUSER ratelease .*$", (ROOT / "docs" / "operations.md").read_text("utf-8"), re.MULTILINE)
CALL = re.compile(r"(?:redis\.call|chunked)\('([A-Z]+)'")


@pytest.fixture
def rule() -> list[str]:
    """The line of the page for clients, as the arguments of one command."""
    return RULES[0].split(" ")


@pytest.fixture
def operators() -> list[str]:
    """The line that operators need in addition."""
    return next(rule for rule in RULES if "+lpush" in rule).split(" ")


def _url(server: RedisServer, *rules: list[str]) -> str:
    """The server's URL for a user with these rights."""
    with redis.Redis.from_url(server.url) as admin:
        for rule in rules:
            assert admin.execute_command(*rule) in (b"OK", "OK", True)
    return server.url.replace("redis://", "redis://ratelease:CHANGE-ME@")


def _client(server: RedisServer, rule: list[str]) -> Client:
    return Client(_url(server, rule), limits=LIMITS, config=config())


def test_every_command_of_a_script_is_allowed(rule: list[str], operators: list[str]) -> None:
    """Whichever way a script takes."""
    for script in SCRIPTS:
        allowed = {*rule, *operators} if script == "configure" else set(rule)
        used = {f"+{command.lower()}" for command in CALL.findall(load_script(script))}
        assert used <= allowed, script


def test_the_proposed_operator_may_use_every_verb(
    each_server: RedisServer, rule: list[str], operators: list[str]
) -> None:
    """With both lines; a user without the second is told what is missing."""
    with _client(each_server, rule) as client:
        with pytest.raises(StoreUnavailable, match=r"forbids its user .*docs/operations\.md"):
            client.operator.pause("openai")
        lease = client.acquire("openai", "gpt-4o")
        with Operator(_url(each_server, operators)) as operator:
            operator.set_limits("openai", "gpt-4o", Limits(concurrency=3))
            operator.penalize("openai", "gpt-4o", "capacity")
            operator.forgive("openai", "gpt-4o")
            operator.unset_limits("openai", "gpt-4o")
            operator.pause("openai")
            assert not client.try_acquire("openai", "o3")
            operator.resume("openai")
            assert operator.status().scope("openai/gpt-4o").in_flight == 1
            assert len(operator.instances()) == 1
            assert operator.reset(reason="test") > 0
            assert len(operator.journal()) == 7
        lease.release()


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
    added = next(rule for rule in RULES if "+asking" in rule).split(" ")
    for server in redis_cluster.servers:
        for command in (rule, added):
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
