"""Random runs of every script: the same answers on every server, no key without an end, nothing left behind."""

import functools
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import fakeredis
import pytest
import redis

from ratelease import Limits, Pool, Rate
from ratelease.core import scripts
from ratelease.core.model import Held, costs_of
from ratelease.core.scripts import Call
from ratelease.testing.redis_server import RedisServer
from support.clock import START_MS, DrivenClock
from support.key_leaks import key_leaks
from support.store import FOR_EVER, GRANTED, PARKED, REFUSED, TOMBSTONED, Instance, Store

TTL, LONGEST = 15.0, 120.0  # seconds: of a lease, of a window
LIMITS = {
    "openai/gpt-4o": Limits(rpm=12, concurrency=3, strategy=["parallelism", "breaker"]),
    "openai/gpt-mini": Limits(rates=[Rate(90, per=60.0, of="tokens")], concurrency=2),
    "other/llama": Limits(rates=[Rate(30, per=10.0)], strategy=["penalty", "decrement"]),
    "openai": Limits(concurrency=4, rates=[Rate(40, per=LONGEST)]),
    "total": Limits(concurrency=6),
}
POOLS = {"small": Pool(["openai/gpt-mini"], Limits(concurrency=2))}
PATHS = (("gpt-4o", ()), ("gpt-mini", ("small",)), ("other/llama", ()))
STEPS = (0, 0, 0, 1, 40, 500, 3000, 7000, 20_000, -300)  # ms
SEEDS, OPERATIONS = range(6), 580  # of a replay; with three servers that is 10,440 in all
CLOCK = "driven-clock"


class Recorder(Store):
    """A store that keeps every reply, and whose scripts may take the time from a key."""

    def __init__(self, client: Any, *, clock_key: bool = False, **settings: Any) -> None:
        def rewrite(_name: str, text: str) -> str:
            assert text.count("redis.call('TIME')") == 1
            return text.replace("redis.call('TIME')", f"redis.call('LRANGE', '{CLOCK}', 0, 1)")

        settings = {"lease_ttl": TTL, "heartbeat": 5.0, **settings}
        super().__init__(client, limits=LIMITS, pools=POOLS, rewrite=rewrite if clock_key else None, **settings)
        self.replies: list[Any] = []

    def run(self, call: Call) -> Any:
        reply = super().run(call)
        self.replies.append((call.script, reply))
        return reply


def set_clock(client: Any, ms: int) -> None:
    """Give scripts that take the time from a key this time."""
    client.delete(CLOCK)
    client.rpush(CLOCK, ms // 1000, ms % 1000 * 1000)
    client.expire(CLOCK, 600)


# What instances and operators do, and how often.
KINDS: dict[str, float] = {
    "acquire": 40,
    "release": 21,
    "settle": 4,
    "renew": 8,
    "grant": 12,
    "foreign": 4,
    "beat": 8,
    "leave": 1,
    "backdate": 3,
    "look": 4,
    "reset": 1.5,
    "lost": 0.5,
    "set": 2,
    "report": 3,
    "usage": 4,
}
# How calls went: a good deal better than not, or nobody would be granted anything.
LESSONS = (*[""] * 6, *["o"] * 6, "t,-1,", "t,300,r", "t,-1,c", "v,-1,", "w,-1,", "e,-1,", "q,400,")
USAGES = (
    *[("poll", [9000, 3000, 0, 0, 300, 4000, 1500, 5000, 350, 1])] * 3,
    ("poll", [9000, 3000, 1, 1, 300, 4000, 1500, 0, 0, 0]),
    *[("seen", [count, limit, -1]) for count, limit in ((0, -1), (2, 3), (4, -1), (-1, -1))],
    ("leave", []),
)
REPORTS = ("o,120", "t,-1,", "t,200,", "t,-1,,150", "w,-1,", "v,100,", "!timeout", "q,300,m")
SETTINGS = [
    ("set", "c2"),
    ("set", "t60000=40 r1000=3"),
    ("unset", "c"),
    ("unset", ""),
    ("pause", "400"),
    ("pause", ""),
    ("penalize", "rate_limit"),
    ("forgive", "500"),
    ("forgive", "0"),
    ("calm", ""),
    *[("resume", "")] * 4,
]


def operate(pick: random.Random, instances: list[Instance], now: int, kinds: dict[str, float]) -> None:  # noqa: C901
    """One random call by one instance, with ids that come again and again."""
    one = pick.choice(instances)
    model, pools = pick.choice(PATHS)
    line = one.line(model, pools)
    number = pick.randrange(30)
    n = 1 + number % 5 // 4 * 2
    id = f"{model}-{number}" + (".1" if n > 1 else "")
    kind = pick.choices([*kinds], [*kinds.values()])[0]
    if kind == "acquire":
        asks = [
            one.request(
                line,
                id if turn == 0 else f"{model}-{pick.randrange(0, 30, 5)}",
                n=n if turn == 0 else 1,
                weight=1 + number % 7 // 6,
                tokens=number,
                wait=pick.choice((None, FOR_EVER, FOR_EVER, 5.0)),
            )
            for turn in range(pick.choice((1, 1, 1, 3)))
        ]
        one.send(asks)
    elif kind == "release":
        ids = [id] + [f"{model}-{pick.randrange(30)}" for _ in range(pick.choice((0, 0, 2)))]
        lesson = pick.choice(LESSONS) if kinds["report"] else ""
        one.release_all(line, ids, unsent=pick.random() < 0.3, may_land=pick.random() < 0.3, lesson=lesson)
    elif kind == "report":
        with suppress(LookupError):
            one.report(line, pick.choice(REPORTS), f"report-{number}")
    elif kind == "settle":
        one.settle(line, id, f"t{pick.randrange(60)}", ends=pick.random() < 0.5)
    elif kind == "set":
        with suppress(LookupError):  # not every scope knows every cause
            one.store.configure(pick.choice(line.path.scopes), *pick.choice(SETTINGS))
    elif kind in ("renew", "lost"):
        costs = costs_of({"requests": 1, "tokens": number})
        held = [Held(each, 1, now, costs) for each in (id, f"{model}-{pick.randrange(30)}")]
        one.renew(line, held, epoch="of-lost-data" if kind == "lost" else None)
    elif kind in ("grant", "foreign"):
        one.grant(line, foreign=kind == "foreign")
    elif kind in ("beat", "leave"):
        one.beat(leave=kind == "leave")
    elif kind == "backdate":
        one.backdate(line, f"late-{number}", [(pick.choice((0, 900, 30_000, 90_000)), f"r{n}t{number}")])
    elif kind == "usage":
        provider = line.path.scopes[-2].split(":")[1]
        one.usage(f"{provider}/-", *pick.choice(USAGES))  # type: ignore[arg-type]
    elif kind == "look":
        one.look(line)
    else:
        meant = [pick.random() < 0.5 for _ in line.path.scopes]
        call = scripts.reset(
            one.session, one.store.keyspace, line, meant, everything=pick.random() < 0.3, namespace=True
        )
        one.store.run(call)


def run(
    store: Store, seed: int, count: int, move: Callable[[int], None] = lambda _ms: None, *, left_out: Sequence[str] = ()
) -> None:
    """Many random calls by three instances; before each, `move` is given the ms that a clock goes on by."""
    pick = random.Random(seed)
    kinds = {**KINDS, **dict.fromkeys(left_out, 0)}
    instances = [store.instance() for _ in range(3)]
    for _ in range(count):
        step = pick.choice(STEPS)
        move(step)
        operate(pick, instances, START_MS, kinds)


def contents(client: Any) -> dict[str, Any]:
    """What every key holds."""
    found: dict[str, Any] = {}
    for key in client.scan_iter(count=1000):
        kind = client.type(key)
        if kind == b"zset":
            found[key.decode()] = client.zrange(key, 0, -1, withscores=True)
        elif key.decode() != CLOCK:
            found[key.decode()] = client.lrange(key, 0, -1) if kind == b"list" else client.hgetall(key)
    return found


def replay(client: Any, seed: int) -> tuple[list[Any], dict[str, Any]]:
    """The replies of one random run, all times driven, and what it leaves."""
    client.flushall()
    store, now = Recorder(client, clock_key=True), START_MS

    def move(ms: int) -> None:
        nonlocal now
        now += ms
        set_clock(client, now)

    run(store, seed, OPERATIONS, move)
    return store.replies, contents(client)


@functools.cache
def replay_on_fakeredis(seed: int) -> tuple[list[Any], dict[str, Any]]:
    """The replay that servers are compared with."""
    client = fakeredis.FakeRedis(server=fakeredis.FakeServer(server_type="redis", version=(7,)))
    with client:
        return replay(client, seed)


@pytest.fixture
def client_of_each(each_server: RedisServer) -> Iterator[Any]:
    """A plain client of every server in turn."""
    with redis.Redis.from_url(each_server.url) as client:
        yield client


@pytest.mark.covers("RL-28")
@pytest.mark.parametrize("seed", [*SEEDS[:2], *(pytest.param(seed, marks=pytest.mark.faults) for seed in SEEDS[2:])])
def test_every_server_answers_a_random_run_as_fakeredis_does(client_of_each: Any, seed: int) -> None:
    """Replies equal to the last value, times among them, and equal contents of all keys afterwards."""
    expected, left = replay_on_fakeredis(seed)
    replies, left_here = replay(client_of_each, seed)
    assert len(replies) >= OPERATIONS
    for number, (theirs, ours) in enumerate(zip(expected, replies, strict=True)):
        assert ours == theirs, f"call {number}"
    assert left_here == left
    statuses = {status for script, reply in replies if script == "acquire" for status in reply[9::8]}
    assert statuses >= {GRANTED, PARKED, REFUSED, TOMBSTONED}


@pytest.mark.covers("RL-28")
def test_the_scripts_as_they_are_sent_answer_alike_where_time_plays_no_part(
    client_of_each: Any, fake_server: fakeredis.FakeServer
) -> None:
    """Each server's own clock: the statuses, what blocks, its use and limit, places, and what ended how."""
    told = []
    with fakeredis.FakeRedis(server=fake_server) as fake:
        for client in (fake, client_of_each):
            client.flushall()
            # Nothing ends while the run lasts, however busy the machine is.
            store = Recorder(client, lease_ttl=300.0, claim_ttl=60.0)
            run(store, 3, 150, left_out=("set", "report", "usage"))
            told.append([timeless(*each) for each in store.replies])
        fake.flushall()
    assert told[0] == told[1]


def timeless(script: str, reply: list[Any]) -> list[Any]:
    """What a reply says that depends on no clock."""
    if script == "configure":
        return [reply[2]]
    if script == "snapshot":
        return [reply[3], *reply[6:7]]
    body = reply[9:]
    if script == "acquire":
        body = [value for at, value in enumerate(body) if at % 8 not in (5, 7)]
    return [*reply[4:8], *body]


@pytest.mark.covers("RL-22")
def test_every_key_has_a_ttl_after_each_call_of_a_random_run(client_of_each: Any) -> None:
    """Looked at after every single call, not only in the end."""
    store = Recorder(client_of_each)
    run(store, 4, 400, lambda _ms: check_ttls(client_of_each))
    check_ttls(client_of_each)
    assert {script for script, _ in store.replies} == set(scripts.SCRIPTS)
    assert client_of_each.dbsize() > 10


def check_ttls(client: Any) -> None:
    assert key_leaks(client) == []


@pytest.mark.covers("RL-22")
@pytest.mark.parametrize("window", [0.1, 1.0, 60.0, 86_400.0])
def test_an_idle_scope_vanishes_within_twice_its_window_or_ttl(
    make_store: Callable[..., Store], clock: DrivenClock, window: float
) -> None:
    """Whichever is longer. Of every scope of a path with a lease and a waiter: state, windows, leases and index."""
    limits = {name: Limits(rates=[Rate(9, per=window)], concurrency=1) for name in ("openai/gpt-4o", "openai", "total")}
    one = make_store(limits=limits, lease_ttl=TTL).instance()
    line, client = one.line("gpt-4o"), one.store.client
    one.acquire(line)
    one.acquire(line, wait=FOR_EVER)
    keys = [key for key in line.keys[8:] if client.exists(key)]
    assert {key.rpartition(":")[2] for key in keys} == {"state", "windows", "leases", "index"}
    clock.advance(2 * max(window, TTL) + 0.001)  # Redis keeps a key through the last ms of its TTL
    assert [key for key in keys if client.exists(key)] == []


@pytest.mark.covers("RD-08", "RL-22")
@pytest.mark.parametrize("seed", range(4, 8))
def test_no_key_is_left_once_everybody_has_stopped_and_the_longest_ttl_has_passed(
    fake_server: fakeredis.FakeServer, clock: DrivenClock, seed: int
) -> None:
    """Four lease TTLs, or twice the longest window with its guard: what was learned remains alone, for a week."""
    with fakeredis.FakeRedis(server=fake_server) as client:
        client.flushall()
        run(Recorder(client), seed, 150, lambda ms: clock.advance(ms / 1000), left_out=("set",))
        assert client.dbsize() > 5
        clock.advance(max(4 * TTL, 2 * LONGEST * 1.2))
        assert {key.rpartition(b":")[2] for key in client.scan_iter(count=1000)} <= {b"learned"}
        clock.advance(7 * 86_400)
        assert list(client.scan_iter(count=1000)) == []


@pytest.mark.covers("RL-22")
def test_the_keys_of_one_scope_stay_small(client_of_each: Any) -> None:
    """A model with a request and a token rate, all slots of both windows in use, eight calls in flight, one waiting."""
    store = Recorder(client_of_each)
    one = store.instance({"openai/gpt-4o": Limits(rpm=10**6, tpm=10**9, concurrency=8)})
    line = one.line("gpt-4o")
    one.send([one.request(line, f"{number:022}", tokens=900_000, wait=FOR_EVER) for number in range(9)])
    slots = {f"{rate}:{slot}": 999_999 for rate in ("r60000", "t60000") for slot in range(68)}
    client_of_each.hset(line.keys[9], mapping=slots)
    keys = [key for key in client_of_each.scan_iter(count=1000) if b":m:openai:gpt-4o:" in key]
    sizes = {key.decode().rpartition(":")[2]: client_of_each.memory_usage(key, samples=0) for key in keys}
    assert set(sizes) == {"state", "windows", "leases", "index", "records", "graves"}
    assert sizes["state"] + sizes["windows"] <= 4096
    assert sizes["leases"] <= 8 * 140
    assert sizes["leases"] + sizes["records"] <= 8 * 260 + 320
