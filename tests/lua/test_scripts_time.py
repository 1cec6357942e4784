"""The server's clock alone decides: a client's is never sent, and changes nothing."""

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from ratelease import Client, Limits, Refusal
from ratelease.core.scripts import Call
from ratelease.store import wire
from ratelease.testing import config
from support.clock import DrivenClock
from support.store import FOR_EVER, Store
from support.store_view import StoreView

MakeStore = Callable[..., Store]
APART = 600.0  # seconds that a client's clock is wrong by
LIMITS = {"openai/gpt-4o": Limits(rpm=2, concurrency=2), "total": Limits(rpm=50)}
REAL_TIME = time.time


@pytest.fixture
def wrong_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let this process' wall clock be wrong by so many seconds."""

    def set_wrong(seconds: float) -> None:
        monkeypatch.setattr(time, "time", lambda: REAL_TIME() + seconds)
        monkeypatch.setattr(time, "time_ns", lambda: round((REAL_TIME() + seconds) * 1e9))

    return set_wrong


def every_script(store: Store, clock: DrivenClock) -> list[tuple[str, list[Any]]]:
    """The arguments of a run that uses each script, of a session with the store's first name."""
    sent, run = [], store.run

    def record(call: Call) -> Any:
        sent.append((call.script, [str(each) for each in call.arguments]))
        return run(call)

    store.run = record  # type: ignore[method-assign]
    one = store.instance()
    one.beat()
    held = one.acquire("gpt-4o", tokens=5)
    one.acquire("gpt-4o", wait=7.5)
    waiting = one.acquire("gpt-4o", wait=FOR_EVER)
    clock.advance(1.0)
    one.renew("gpt-4o", held.held)
    one.look("gpt-4o")
    one.release("gpt-4o", held.id, unsent=True)
    one.grant("gpt-4o")
    one.acquire("gpt-4o", waiting.id, wait=FOR_EVER)
    one.release("gpt-4o", waiting.id)
    return sent


@pytest.mark.covers("LS-08")
def test_two_sessions_twenty_minutes_apart_send_the_same_arguments(
    make_store: MakeStore, clock: DrivenClock, wrong_clock: Callable[[float], None]
) -> None:
    """Of every script, value for value."""
    start, sent = clock.ms, []
    for wrong in (APART, -APART):
        wrong_clock(wrong)
        clock.ms = start
        sent.append(every_script(make_store(limits=LIMITS), clock))
    assert sent[0] == sent[1]
    assert {script for script, _ in sent[0]} == {"acquire", "release", "renew", "grant", "beat", "snapshot"}


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[Any, ...]]]:
    """The script and arguments of every call that clients of this process send."""
    sent, plain = [], wire._command

    def record(call: Call, load: bool) -> tuple[Any, ...]:
        sent.append((call.script, tuple(call.arguments)))
        return plain(call, load)

    monkeypatch.setattr(wire, "_command", record)
    return sent


@pytest.fixture
def make_client(redis_url: str, free_namespace: str) -> Iterator[Callable[[], Client]]:
    """Clients of one namespace, closed in the end."""
    made: list[Client] = []

    def make() -> Client:
        made.append(Client(redis_url, limits=LIMITS, namespace=free_namespace, config=config()))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.mark.covers("LS-08")
def test_windows_and_leases_act_by_the_servers_clock(
    make_client: Callable[[], Client],
    wrong_clock: Callable[[float], None],
    redis_client: redis.Redis,
    free_namespace: str,
) -> None:
    """One client is ten minutes ahead, one behind: one window for both, leases that end a TTL from the server's now."""
    view = StoreView(redis_client, free_namespace)
    held = []
    for wrong in (APART, -APART):
        wrong_clock(wrong)
        client = make_client()
        before = view.now()
        lease = client.try_acquire("openai", "gpt-4o")
        assert lease
        held.append(lease)
        expiry = view.expiries()[lease.id]
        assert before + 1000 <= expiry <= view.now() + 1000
        assert view.charged("r60000") == len(held)
    for wrong in (APART, -APART):
        wrong_clock(wrong)
        refused = make_client().try_acquire("openai", "gpt-4o")
        assert isinstance(refused, Refusal)
        assert refused.used == 2
    for lease in held:
        assert lease.valid
        lease.release()
    wrong_clock(0.0)
    after = make_client().try_acquire("openai", "gpt-4o")
    assert isinstance(after, Refusal)
    assert after.dimension == "requests/60s"
    assert after.retry_after is not None
    assert 55.0 < after.retry_after < 64.0


@pytest.mark.covers("LS-08")
def test_no_argument_of_a_client_is_near_its_own_wall_clock(
    make_client: Callable[[], Client],
    wrong_clock: Callable[[float], None],
    words: list[tuple[str, tuple[Any, ...]]],
) -> None:
    """In s, ms or µs. A profile, which no script reads, is left out: people see its start time."""
    wrong_clock(APART)
    client = make_client()
    with client.acquire("openai", "gpt-4o", timeout=5.0) as lease:
        assert lease.valid
    client.status()
    client.close()
    assert {script for script, _ in words} >= {"acquire", "release", "beat", "snapshot"}
    ours = REAL_TIME() + APART
    numbers = [
        int(word)
        for _, arguments in words
        for word in itertools.chain.from_iterable(
            str(each).split(".") for each in arguments if not isinstance(each, bytes)
        )
        if word.isdecimal()
    ]
    assert len(numbers) > 20
    for scale in (1, 1000, 1_000_000):
        assert [number for number in numbers if abs(number / scale - ours) < APART / 2] == []
