"""What was learned is not trusted: rubbish, times of another clock, a full memory and strangers do no harm."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from ratelease import Limits
from ratelease.core import scripts
from ratelease.strategies import Breaker, Decrement, Parallelism, Penalty
from ratelease.testing import RedisServer
from support.clock import START_MS, DrivenClock
from support.key_leaks import key_leaks
from support.store import FOR_EVER, GRANTED, PARKED, REFUSED, Instance, Store, let_pass

MakeStore = Callable[..., Store]
MODEL = "gpt-4o"
SCOPE = "m:openai:gpt-4o"
LEARNED = f"rl:{{test}}:{SCOPE}:learned"
STATE = f"rl:{{test}}:{SCOPE}:state"
ALL = [Parallelism(recovery_interval=0.01), Decrement(restore_after=5.0), Penalty(), Breaker()]
NOW = str(START_MS - 1000)
# A word as scripts write it, of each field.
FIELDS = {
    "cut": [NOW], "stall": [NOW], "resumed": [NOW], "penalty": ["2.0", NOW], "parallel": ["3.5", NOW, "3", "1", "0"],
    "reduced": ["3", "4", NOW], "paced": [NOW], "pause": [NOW], "episodes": ["3", NOW], "grown": ["3", NOW],
    "breaker": [NOW, "1", "1", "30000", "x"], "quota": [NOW, "1", "1", "30000", "x"], "failures": ["3"], "shown": ["3"],
    "history": [NOW, "t", "3", "2", "r"], "responses": ["3"],
}  # fmt: skip
NUMBERS = ("nan", "1e400", "-5", "0", "1.5", "9" * 20, "9" * 400, "٣")
DAY = 86_400
LONGEST = START_MS + 8 * DAY * 1000


def garbage(field: str) -> list[str]:
    """Each number at each place of its words, and words that are missing, too many or too long."""
    words = FIELDS[field]
    found = ["", "1 2 3 4 5 6 7", "x" * 100_000, " ".join(words[:-1]), ";".join(["1 t 2 3 "] * 5000)]
    for place in range(len(words)):
        found += [" ".join([*words[:place], number, *words[place + 1 :]]) for number in NUMBERS]
    return found


def use(one: Instance) -> None:
    """Every script once; every answer is one of ours, and what is said of times can be true."""
    now = one.store.now()
    for wait in (None, FOR_EVER):
        asked = one.acquire(MODEL, wait=wait)
        assert 0 <= asked.answer.at <= now + 8 * DAY * 1000
        assert 0 <= asked.answer.header.timer <= now + 8 * DAY * 1000
        one.grant(MODEL)
        one.release(MODEL, asked.id, lesson="o" if wait is None else "t,100,")
    one.report(MODEL, "e,-1,")
    one.grant(MODEL, foreign=True)
    reaction = one.reaction(MODEL)
    assert 0 <= reaction.penalty <= 10
    assert reaction.limit is None or 1 <= reaction.limit <= 16
    assert reaction.parallelism is None or 1 <= reaction.parallelism <= 16


@pytest.mark.covers("AL-37")
@pytest.mark.parametrize(
    "field, rates_alone", [*((field, False) for field in FIELDS), ("penalty", True), ("paced", True), ("pause", True)]
)
def test_rubbish_in_a_field_neither_crashes_nor_blocks_for_ever(
    make_store: MakeStore, clock: DrivenClock, field: str, rates_alone: bool
) -> None:
    """Whatever it holds: scripts answer, and after a week at most somebody is admitted."""
    limits = Limits(rpm=600, strategy=Penalty()) if rates_alone else Limits(concurrency=8, rpm=600, strategy=ALL)
    store = make_store(limits={f"openai/{MODEL}": limits})
    one = store.instance()
    line = one.line(MODEL)
    keys = line.keys[8:13]
    for text in garbage(field):
        clock.ms = START_MS
        for key in keys:
            store.client.delete(key)
        one.call(MODEL)
        store.client.hset(LEARNED, field, text)
        store.client.pexpire(LEARNED, 604_800_000)
        store.client.hset(STATE, "learned", "1")
        use(one)
        while not (asked := one.acquire(MODEL)).granted:
            assert clock.ms < asked.answer.at <= LONGEST, (text, asked.answer)
            clock.ms = asked.answer.at
        one.release(MODEL, asked.id)


@pytest.mark.parametrize(
    "words",
    ["P", "P1,0,x=1", "P,,", "A1,2", "A0,0,0,1,1,1,1,0,", "D0,0,0", "B", "Bx", "Z9", "P1 A D B O", "P" + "9" * 400],
)
def test_rubbish_in_the_words_of_a_strategy_is_left_out(make_store: MakeStore, words: str) -> None:
    """They come out of the store as well, since a hand-off obeys what is agreed there."""
    store = make_store(limits={f"openai/{MODEL}": Limits(concurrency=8)})
    one = store.instance()
    one.call(MODEL)
    store.client.hset(STATE, mapping={"limits": f"c8 {words}", "generation": START_MS * 2, "learned": "1"})
    use(one)
    assert one.reaction(MODEL).base == 8


@pytest.mark.covers("AL-37", "RT-09")
@pytest.mark.parametrize("back", [0.5, 300, 3600, 30 * DAY])
def test_a_clock_that_goes_back_makes_no_pause_endless(make_store: MakeStore, clock: DrivenClock, back: float) -> None:
    """What was to last seven seconds lasts ten minutes at most; a breaker not longer than it stays open."""
    store = make_store(limits={f"openai/{MODEL}": Limits(concurrency=8, strategy=Breaker(failures=1))})
    one = store.instance()
    one.call(MODEL, "t,7000,")
    one.report(MODEL, "q,60000,")
    clock.advance(-back)
    begun, waited = store.now(), 0.0
    while not one.acquire(MODEL).granted:
        let_pass(clock, 5, one)
        waited = (store.now() - begun) / 1000
        assert waited <= min(600, 60 + back) + 10
    assert waited >= 7 or back > DAY, "what lies further ahead than any pause is none"


@pytest.mark.covers("AL-10")
@pytest.mark.parametrize("back", [10, 3600])
@pytest.mark.parametrize("strategy", [Penalty(), Parallelism(), Decrement()], ids=lambda each: each.kind)
def test_a_clock_that_goes_back_does_not_end_the_learning(
    make_store: MakeStore, clock: DrivenClock, back: int, strategy: object
) -> None:
    """The last cut lies ahead: the next failure cuts all the same, once."""
    store = make_store(limits={f"openai/{MODEL}": Limits(concurrency=8, strategy=strategy)})
    one = store.instance()
    one.call(MODEL, "t,-1,")
    clock.advance(-back)
    let_pass(clock, 1, one)
    held = [one.acquire(MODEL) for _ in range(2)]
    before = one.reaction(MODEL)
    one.release_all(MODEL, [each.id for each in held], lesson="t,-1,")
    after = one.reaction(MODEL)
    assert len(after.events) == len(before.events) + 1
    assert (after.limit or 0) < (before.limit or 0)


@pytest.mark.covers("PE-05")
@pytest.mark.parametrize("back", [6, 3600, 30 * DAY])
def test_a_clock_that_goes_back_keeps_no_limit_down(make_store: MakeStore, clock: DrivenClock, back: int) -> None:
    """Penalty, recovery and restoring go on within ten minutes."""
    for strategy in (Penalty(), Parallelism(), Decrement(restore_after=30.0)):
        store = make_store(limits={f"openai/{MODEL}": Limits(concurrency=4, strategy=strategy)})
        one = store.instance()
        one.call(MODEL, "t,-1,")
        clock.advance(-back)
        let_pass(clock, 600 + 300, one)
        assert one.reaction(MODEL).limit == 4
        one.call(MODEL)
        clock.advance(back)


@pytest.mark.covers("AL-38")
def test_every_learned_key_has_a_ttl(make_store: MakeStore, clock: DrivenClock) -> None:
    """However it came to be: by calls, reports, operators, paces and ramps; a week, and no longer."""
    store = make_store(
        limits={
            **{f"openai/{number}": Limits(concurrency=4, strategy=ALL) for number in range(20)},
            "openai/rates": Limits(rpm=600),
        }
    )
    one = store.instance()
    for number in range(20):
        one.call(str(number), ("t,-1,", "w,-1,", "e,-1,", "v,200,", "q,100,m")[number % 5])
        one.report(str(number), "o,120,")
        store.configure(f"m:openai:{number}", "penalize", "capacity")
    one.report("never-seen", "t,-1,")
    one.report("rates", "t,100,")
    clock.advance(0.2)
    one.call("rates")
    found = [key for key in store.client.scan_iter() if key.endswith(b":learned")]
    assert len(found) >= 22
    assert all(0 < store.client.pttl(key) <= 7 * DAY * 1000 for key in found)
    assert key_leaks(store.client) == []
    clock.advance(7 * DAY + 1)
    assert list(store.client.scan_iter(match="*:learned")) == []


def test_a_stranger_neither_learns_nor_forgets(make_store: MakeStore) -> None:
    """A path whose limits nobody here knows: no key comes of it, and nobody is granted."""
    store = make_store(limits={f"openai/{MODEL}": Limits(concurrency=2)})
    one, stranger = store.instance(), store.instance({})
    one.call(MODEL, "t,60000,")
    waiter = one.acquire(MODEL, wait=FOR_EVER)
    before = store.client.hgetall(LEARNED)
    for key in store.client.scan_iter(match="*:state"):
        store.client.delete(key)
    line = scripts.foreign_line(store.keyspace, one.line(MODEL).path)
    assert stranger.grant(line) == []
    stranger.report(line, "t,-1,")
    assert store.client.hgetall(LEARNED) == before
    assert list(store.client.scan_iter(match="*:learned")) == [LEARNED.encode()]
    assert one.send([waiter.request])[0].status is PARKED
    assert one.acquire(MODEL).answer.dimension == "pause", "who knows the limits finds what was learned"


def test_a_state_that_has_expired_hides_nothing(make_store: MakeStore, clock: DrivenClock) -> None:
    """It says that there is something to look at; without it one looks."""
    store = make_store(limits={f"openai/{MODEL}": Limits(concurrency=8, strategy=Penalty(half_life=1000.0))})
    one = store.instance()
    one.call(MODEL, "t,-1,")
    let_pass(clock, 120, one)
    assert not store.client.exists(STATE)
    asked = one.send([one.request(MODEL) for _ in range(3)])
    assert [each.status for each in asked] == [GRANTED, GRANTED, REFUSED]
    assert store.client.hget(STATE, "learned") == b"1"


def test_what_has_passed_is_looked_at_no_more(make_store: MakeStore, clock: DrivenClock) -> None:
    """Once nothing of it holds, an admission reads no learned key; what it remembers stays."""
    store = make_store(limits={f"openai/{MODEL}": Limits(concurrency=8)})
    one = store.instance()
    one.call(MODEL, "t,1000,")
    assert store.client.hget(STATE, "learned") == b"1"
    let_pass(clock, 30, one)
    one.call(MODEL)
    assert store.client.hget(STATE, "learned") == b"1"
    let_pass(clock, 240, one)
    one.call(MODEL)
    assert store.client.hget(STATE, "learned") != b"1"
    assert len(one.reaction(MODEL).events) == 1


@pytest.mark.covers("AL-08")
def test_lessons_are_learned_when_memory_is_full(redis_server: RedisServer) -> None:
    """A release tells how its call went, and a report is taken: their first write is one that does not grow."""
    client = redis.Redis.from_url(redis_server.url)
    client.flushall()
    store = Store(client, limits={f"openai/{MODEL}": Limits(concurrency=8)})
    one = store.instance()
    held = [one.acquire(MODEL) for _ in range(2)]
    client.config_set("maxmemory", 1)
    try:
        one.release(MODEL, held[0].id, lesson="t,-1,")
        one.report(MODEL, "!capacity")
        with pytest.raises(redis.ResponseError, match="OOM"):
            store.configure(SCOPE, "penalize", "capacity")
        one.grant(MODEL)
        assert one.reaction(MODEL).penalty == pytest.approx(3.5, abs=0.2)
    finally:
        client.config_set("maxmemory", 0)
    one.release(MODEL, held[1].id)
    client.flushall()
    client.close()
