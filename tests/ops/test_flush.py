"""lua/ops/flush.lua by plain redis-cli: what it removes, what it keeps, and what is none of its business."""

import queue
import re
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from ratelease import Client, Limits, Outcome
from ratelease.errors import StoreCorrupt
from ratelease.testing import RedisServer, find_cli
from support.redis_cli import redis_cli
from support.repository import ROOT
from support.wait_until import wait_until

LIMITS = {
    "openai/gpt-4o": Limits(rpm=500, tpm=200_000, concurrency=1),
    "openai/gpt-4o-mini": Limits(rpm=500),
    "openai": Limits(rpm=1000, concurrency=20),
    "openai2/gpt-4o": Limits(rpm=500),
    "total": Limits(rpm=5000, concurrency=40),
}
# Names that a careless prefix, pattern or word split would take for the one that is flushed.
NEIGHBOURS = (
    b"rl:{production}:m:openai:gpt-4o:windows",
    b"rl:{prod%3Am}:m:openai:gpt-4o:windows",
    b"rl:{prod}",
    b"rl:{prod}:m:openai:gpt-4o:windows\n",
    b"\nrl:{prod}:m:openai:gpt-4o:windows",
    b"rl:{prod} :m:openai:gpt-4o:windows",
    b"rl:{*}:m:openai:gpt-4o:windows",
    b"rl:{pro?}:m:openai:*:windows",
    b"rl:{prod}:m:openai:gpt-4o:windows copy",
    b"rl:{prod}:m:openai:gpt-4o:windows:backup 1",
    b"xrl:{prod}:m:openai:gpt-4o:windows",
    b"RL:{prod}:m:openai:gpt-4o:windows",
    b"a key with spaces, 'quotes' and \x00\xff bytes",
)


@pytest.fixture
def client(redis_url: str) -> Iterator[Client]:
    """A client of the namespace that is flushed."""
    with Client(redis_url, limits=LIMITS, namespace="prod") as client:
        yield client


def _use(client: Client) -> None:
    """Charge the windows of two providers and three models."""
    for provider, model in (("openai", "gpt-4o"), ("openai", "gpt-4o-mini"), ("openai2", "gpt-4o")):
        with client.acquire(provider, model, tokens=100):
            pass


def _flush(server: RedisServer, *arguments: str) -> int:
    return int(redis_cli(server, "--eval", "lua/ops/flush.lua", ",", *arguments))


def _used(client: Client) -> dict[str, int]:
    """What each scope with a limit has charged of its requests per minute."""
    return {scope.scope: scope.rates[0].used for scope in client.status().scopes if scope.rates}


def _keys(store: redis.Redis, namespace: str) -> set[str]:
    """The keys of a namespace, without what its name makes of them."""
    head = f"rl:{{{namespace}}}:"
    return {key.decode().removeprefix(head) for key in store.scan_iter(count=1000) if key.startswith(head.encode())}


@pytest.mark.covers("UX-06")
def test_flush_of_a_model_clears_its_windows_alone(client: Client, redis_server: RedisServer) -> None:
    """Not those of a model whose name goes on, nor of its provider, nor of another provider's model."""
    _use(client)
    assert _flush(redis_server, "prod", "openai", "gpt-4o") == 1
    expected = {"openai/gpt-4o": 0, "openai/gpt-4o-mini": 1, "openai": 2, "openai2/gpt-4o": 1, "total": 3}
    assert _used(client) == expected


@pytest.mark.covers("UX-06")
def test_flush_of_a_provider_clears_it_and_its_models(client: Client, redis_server: RedisServer) -> None:
    """Not a provider whose name goes on, nor what providers share."""
    _use(client)
    assert _flush(redis_server, "prod", "openai") == 3
    expected = {"openai/gpt-4o": 0, "openai/gpt-4o-mini": 0, "openai": 0, "openai2/gpt-4o": 1, "total": 3}
    assert _used(client) == expected


@pytest.mark.covers("UX-06")
def test_flush_of_a_namespace_clears_every_window_of_it(client: Client, redis_server: RedisServer) -> None:
    """Of that namespace alone."""
    _use(client)
    with Client(redis_server.url, limits=LIMITS, namespace="prod2") as other:
        _use(other)
        assert _flush(redis_server, "prod") == 5
        assert set(_used(client).values()) == {0}
        assert sum(_used(other).values()) == 8


@pytest.mark.covers("UX-06", "AL-26")
def test_flush_forgets_what_was_learned_from_failures(client: Client, redis_server: RedisServer) -> None:
    """Of the scopes that are meant: who fell to one slot, or was paused, goes on at once."""
    for provider, model in (("openai", "gpt-4o"), ("openai", "gpt-4o-mini"), ("openai2", "gpt-4o")):
        client.report(provider, model, Outcome.THROTTLED, retry_after=60.0)
    assert _flush(redis_server, "prod", "openai", "gpt-4o") == 1
    client.acquire("openai", "gpt-4o").release()
    for provider, model in (("openai", "gpt-4o-mini"), ("openai2", "gpt-4o")):
        assert client.try_acquire(provider, model).dimension == "pause"
    _flush(redis_server, "prod", "openai")
    client.acquire("openai", "gpt-4o-mini").release()
    assert client.try_acquire("openai2", "gpt-4o").dimension == "pause"
    _flush(redis_server, "prod")
    client.acquire("openai2", "gpt-4o").release()


@pytest.mark.covers("UX-06")
def test_flush_takes_names_as_the_program_spells_them(redis_url: str, redis_server: RedisServer) -> None:
    """Case, spaces, slashes, colons and glob characters are part of a name, or make no difference."""
    names = ("Open AI", "GPT 4o/Vision:*?[x]'\"\\")
    limits = {"/".join(names): Limits(rpm=10), "open ai/gpt 4o/vision": Limits(rpm=10)}
    with Client(redis_url, limits=limits, namespace="Prod *") as client:
        client.acquire(*names).release()
        client.acquire("open ai", "gpt 4o/vision").release()
        assert _flush(redis_server, "prod *", *names) == 1
        assert sorted(_used(client).values()) == [0, 1]
        assert _flush(redis_server, "*", *names) == 0
        assert sorted(_used(client).values()) == [0, 1]


@pytest.mark.covers("UX-06")
def test_flush_of_a_model_covers_every_credential(redis_url: str, redis_server: RedisServer) -> None:
    """An operator names what people name: the model, whoever pays."""
    for credential in (None, "team-a", "team-b"):
        with Client(redis_url, limits=LIMITS, namespace="prod", credential=credential) as client:
            client.acquire("openai", "gpt-4o").release()
    assert _flush(redis_server, "prod", "openai", "gpt-4o") == 3


@pytest.mark.covers("UX-06")
def test_flush_keeps_leases_and_waiters(client: Client, redis_server: RedisServer, redis_client: redis.Redis) -> None:
    """The holder goes on undisturbed, and the waiter is granted when the slot is released."""
    granted = queue.SimpleQueue[Any]()
    lease = client.acquire("openai", "gpt-4o")
    waiter = threading.Thread(target=lambda: granted.put(client.acquire("openai", "gpt-4o", timeout=8)))
    waiter.start()
    queued = "rl:{prod}:q:m:openai:gpt-4o~p:openai~t:queue"
    wait_until(lambda: redis_client.zcard(queued), description="the second caller waits")
    before = _keys(redis_client, "prod")
    _flush(redis_server, "prod")
    assert before - _keys(redis_client, "prod") == {"m:openai:gpt-4o:windows", "p:openai:windows", "t:windows"}
    assert client.status().scope("openai/gpt-4o").in_flight == 1  # type: ignore[union-attr]
    lease.release()
    waiter.join(8)
    assert lease.lost is False
    granted.get(timeout=1).release()


@pytest.mark.covers("UX-06")
def test_flush_with_all_also_removes_leases_and_waiters(
    client: Client, redis_server: RedisServer, redis_client: redis.Redis
) -> None:
    """For a model whose holders are known to be gone: its slots are free at once."""
    held = client.acquire("openai", "gpt-4o")
    assert not client.try_acquire("openai", "gpt-4o")
    _flush(redis_server, "prod", "openai", "gpt-4o", "--all")
    assert not {
        key for key in _keys(redis_client, "prod") if key.startswith(("m:openai:gpt-4o:", "q:m:openai:gpt-4o~"))
    }
    again = client.try_acquire("openai", "gpt-4o")
    assert again
    again.release()
    held.release()


@pytest.mark.covers("UX-06")
def test_flush_of_a_namespace_with_all_leaves_nothing_of_it(
    redis_url: str, redis_server: RedisServer, redis_client: redis.Redis
) -> None:
    """What a fleet that no longer runs has left behind."""
    with Client(redis_url, limits=LIMITS, namespace="prod") as client:
        _use(client)
    assert _keys(redis_client, "prod")
    _flush(redis_server, "prod", "--all")
    assert _keys(redis_client, "prod") == set()


@pytest.mark.covers("UX-06")
@pytest.mark.permanent_keys("*")
@pytest.mark.parametrize("extra", [(), ("openai",), ("openai", "gpt-4o"), ("--all",)], ids=" ".join)
def test_flush_never_touches_a_neighbour(
    client: Client, redis_server: RedisServer, redis_client: redis.Redis, extra: tuple[str, ...]
) -> None:
    """Whatever is in the names beside ours: the same values, the same expiry, byte for byte."""
    store: Any = redis_client
    _use(client)
    for number, name in enumerate(NEIGHBOURS):
        store.hset(name, mapping={"n": number, "r60000:n": 7})
    store.pexpire(NEIGHBOURS[0], 3_600_000)

    def neighbours() -> dict[bytes, Any]:
        return {name: (store.dump(name), store.ttl(name) > 0) for name in NEIGHBOURS}

    before = neighbours()
    _flush(redis_server, "prod", *extra)
    assert neighbours() == before


@pytest.mark.covers("UX-06")
@pytest.mark.parametrize("everything", [False, True], ids=["reset", "all"])
@pytest.mark.parametrize("names", [(), ("openai",), ("openai", "gpt-4o")], ids=["namespace", "provider", "model"])
def test_flush_and_reset_remove_the_same_keys(
    client: Client, redis_server: RedisServer, redis_client: redis.Redis, names: tuple[str, ...], everything: bool
) -> None:
    """The twin of a namespace is flushed while the namespace is reset; both keep the same keys."""
    store: Any = redis_client
    _use(client)
    held = client.acquire("openai", "gpt-4o")
    wait_until(lambda: store.exists("rl:{prod}:profiles"), description="the first heartbeat has been written")
    for name in _keys(store, "prod"):
        store.restore(f"rl:{{twin}}:{name}", 60_000, store.dump(f"rl:{{prod}}:{name}"))
    client.reset(*names, all=everything)
    _flush(redis_server, "twin", *names, *(["--all"] if everything else []))
    # With all, a flush of the whole namespace also forgets what belongs to no scope.
    own = {"store", "instances", "paths", "profiles"} if everything and not names else set()
    assert _keys(store, "twin") == _keys(store, "prod") - own
    held.release()


@pytest.mark.covers("UX-06")
def test_flush_removes_a_key_of_ours_that_somebody_else_wrote(
    client: Client, redis_server: RedisServer, redis_client: redis.Redis
) -> None:
    """Whatever its kind, and only that one."""
    _use(client)
    wrong = "rl:{prod}:m:openai:gpt-4o:leases"
    redis_client.set(wrong, "a string", px=60_000)
    with pytest.raises(StoreCorrupt, match=re.escape(wrong)):
        client.acquire("openai", "gpt-4o", timeout=1)
    _flush(redis_server, "prod")
    assert redis_client.exists(wrong) == 0
    client.acquire("openai", "gpt-4o", timeout=1).release()


@pytest.mark.covers("UX-06")
@pytest.mark.parametrize("arguments", [(), ("",), ("a", "b", "c", "d")])
def test_flush_explains_itself_when_used_wrongly(redis_server: RedisServer, arguments: tuple[str, ...]) -> None:
    """An empty namespace would otherwise be the prefix of everything."""
    command = [find_cli(), "-p", str(redis_server.port), "--eval", "lua/ops/flush.lua", ",", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=10, check=False)
    assert "usage: flush.lua" in done.stdout + done.stderr
