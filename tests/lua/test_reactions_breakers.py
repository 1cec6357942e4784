"""Breakers: of failures in a row, and of an empty account. Open, nobody calls; then one call at a time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ratelease import Limits
from ratelease.strategies import Breaker
from support.clock import START_MS, DrivenClock
from support.store import FOR_EVER, PARKED, REFUSED, Asked, Instance, Store, let_pass

MakeStore = Callable[..., Store]
MODEL = "gpt-4o"
SCOPE = "m:openai:gpt-4o"
LIMITS = {f"openai/{MODEL}": Limits(concurrency=50, strategy=Breaker())}
THROTTLED, OVERLOADED, TIMEOUT, ERROR = "t,-1,,0", "v,-1,", "w,-1,", "e,-1,"
QUOTA = "q,600000,"


def trip(one: Instance, clock: DrivenClock) -> None:
    """Five failures in a row."""
    for lesson in (THROTTLED, OVERLOADED, TIMEOUT, ERROR, ERROR):
        clock.advance(0.001)
        one.call(MODEL, lesson)


def state(one: Instance) -> str:
    """closed, open or half-open."""
    breaker = one.reaction(MODEL).breaker
    return breaker.state if breaker else "closed"


@pytest.mark.covers("RT-24")
def test_failures_in_a_row_open_it_for_all(make_store: MakeStore, clock: DrivenClock) -> None:
    """Five of any kind, 30 s: who waits is granted at their end, and not before."""
    store = make_store(limits=LIMITS)
    one, two = store.instance(), store.instance()
    for _ in range(3):
        for _ in range(4):
            clock.advance(0.001)
            one.call(MODEL, ERROR)
        one.call(MODEL)
    assert state(two) == "closed", "a success between begins the count anew"
    for _ in range(4):
        one.call(MODEL, TIMEOUT)
    assert state(two) == "closed"
    opened = store.now()
    one.call(MODEL, TIMEOUT)
    refused = two.acquire(MODEL).answer
    assert (refused.status, refused.dimension, refused.at) == (REFUSED, "breaker", opened + 30_000)
    waiter = two.acquire(MODEL, wait=FOR_EVER)
    assert (waiter.status, waiter.answer.header.timer) == (PARKED, opened + 30_000)
    let_pass(clock, 29.999, one, two)
    assert two.grant(MODEL) == []
    clock.advance(0.001)
    assert two.grant(MODEL) == [waiter.id]


@pytest.mark.covers("RT-24")
def test_then_one_probe_at_a_time_until_three_succeed(make_store: MakeStore, clock: DrivenClock) -> None:
    """Each waiter in turn, in whatever instance; the third success lets all others go."""
    store = make_store(limits={f"openai/{MODEL}": Limits(concurrency=50, strategy=Breaker(open=10.0))})
    one, two = store.instance(), store.instance()
    trip(one, clock)
    waiters = [each.acquire(MODEL, wait=FOR_EVER) for each in (one, two) * 3]
    let_pass(clock, 10, one, two)
    for number in range(3):
        each = (one, two)[number % 2]
        one.grant(MODEL)
        running = [asked for asked in waiters if store.client.zscore(one.line(MODEL).keys[10], asked.id)]
        assert [asked.id for asked in running] == [waiters[number].id]
        assert each.send([waiters[number].request])[0].granted
        assert (state(one), one.reaction(MODEL).breaker.probing) == ("half-open", True)
        clock.advance(0.5)
        assert one.acquire(MODEL).status is REFUSED
        each.release(MODEL, waiters[number].id, lesson="o")
    assert state(one) == "closed"
    assert sorted([*one.grant(MODEL), *two.grant(MODEL)]) == sorted(asked.id for asked in waiters[3:])


@pytest.mark.covers("RT-24")
@pytest.mark.parametrize("lesson", [THROTTLED, OVERLOADED, TIMEOUT, ERROR])
def test_a_probe_that_fails_opens_it_again(make_store: MakeStore, clock: DrivenClock, lesson: str) -> None:
    """For the whole time, and what had succeeded counts no more."""
    one = make_store(limits=LIMITS).instance()
    trip(one, clock)
    let_pass(clock, 30, one)
    one.call(MODEL)
    one.call(MODEL)
    one.call(MODEL, lesson)
    assert one.acquire(MODEL).answer.at == one.store.now() + 30_000
    let_pass(clock, 30, one)
    for expected in ("half-open", "half-open", "closed"):
        one.call(MODEL)
        assert state(one) == expected


@pytest.mark.covers("RT-24")
def test_a_probe_that_tells_nothing_makes_room_for_the_next(make_store: MakeStore, clock: DrivenClock) -> None:
    """Cancelled, never sent, the caller's own mistake; dead, when its lease ends; a grant that nobody claims."""
    store = make_store(limits=LIMITS)
    one, two = store.instance(), store.instance()
    trip(one, clock)
    let_pass(clock, 30, one)
    for unsent in (False, True):
        probe = one.acquire(MODEL)
        assert one.acquire(MODEL).status is REFUSED
        one.release(MODEL, probe.id, unsent=unsent)
    dead = one.acquire(MODEL)
    refused = one.acquire(MODEL).answer
    assert (refused.dimension, refused.at) == ("breaker", store.now() + 15_000)
    waiter = two.acquire(MODEL, wait=FOR_EVER)
    assert waiter.answer.header.timer == store.now() + 15_000
    let_pass(clock, 15, one, two)
    assert two.grant(MODEL) == [waiter.id]
    let_pass(clock, 3, one)
    assert one.acquire(MODEL).granted
    assert one.release(MODEL, dead.id, lesson="o") is not None
    assert state(one) == "half-open"


@pytest.mark.covers("RT-24", "AL-39")
def test_refused_calls_and_old_ones_count_for_nothing(make_store: MakeStore, clock: DrivenClock) -> None:
    """Neither does a refusal extend it, nor does a late answer of a call from before open, close or extend it."""
    one = make_store(limits=LIMITS).instance()
    old = [one.acquire(MODEL) for _ in range(4)]
    trip(one, clock)
    until = one.acquire(MODEL).answer.at
    one.release(MODEL, old[0].id, lesson=ERROR)
    one.release(MODEL, old[1].id, lesson="o")
    for _ in range(10):
        clock.advance(1)
        assert one.acquire(MODEL).answer.at == until
    clock.advance((until - one.store.now()) / 1000)
    probe = one.acquire(MODEL)
    assert probe.granted
    one.release(MODEL, old[2].id, lesson="o")
    one.report(MODEL, "o")
    assert (state(one), one.reaction(MODEL).breaker.probing) == ("half-open", True)
    for _ in range(2):
        one.release(MODEL, probe.id, lesson="o")
        probe = one.acquire(MODEL)
    one.release(MODEL, probe.id, lesson="o")
    assert state(one) == "closed"


@pytest.mark.covers("RT-24")
def test_no_probe_is_given_to_two_in_one_call(make_store: MakeStore, clock: DrivenClock) -> None:
    """Ten ask together, ten wait together: one goes."""
    one = make_store(limits=LIMITS).instance()
    trip(one, clock)
    let_pass(clock, 30, one)
    assert [each.granted for each in one.send([one.request(MODEL) for _ in range(10)])] == [True] + [False] * 9


@pytest.mark.covers("QU-13", "RT-24")
def test_no_call_names_a_path_that_a_shared_breaker_keeps_out(make_store: MakeStore, clock: DrivenClock) -> None:
    """While it is open, and while its probe runs. Whose call says that the provider serves again names it."""
    store = make_store(limits={"openai": Limits(concurrency=8, strategy=Breaker(failures=1, open=10.0, successes=2))})
    one, two = store.instance(), store.instance()
    held = [one.acquire("a") for _ in range(2)]
    one.release("a", held[0].id, lesson=ERROR)
    waiter = two.acquire("b", wait=FOR_EVER)
    one.release("a", held[1].id)
    assert one.following == ""
    one.acquire("a")
    assert one.following == ""
    let_pass(clock, 10, one, two)
    assert two.grant("b") == [waiter.id]
    assert two.send([waiter.request])[0].granted
    probe, waiter = waiter, one.acquire("a", wait=FOR_EVER)
    assert waiter.status is PARKED
    two.acquire("b")
    assert two.following == "", "its probe runs"
    two.release("b", probe.id, lesson="o")
    assert two.following == one.line("a").path.name
    two.grant(two.following_lines()[0])
    assert one.send([waiter.request])[0].granted


@pytest.mark.covers("RT-19")
def test_an_empty_account_is_told_to_other_paths_whatever_a_breaker_says(
    make_store: MakeStore, clock: DrivenClock
) -> None:
    """Whoever waits there is to be refused at once: a call of another path names them."""
    store = make_store(limits={"openai": Limits(concurrency=8, strategy=Breaker(failures=1, open=30.0))})
    one, two = store.instance(), store.instance()
    held = [one.acquire("a") for _ in range(2)]
    one.release("a", held[0].id, lesson=ERROR)
    two.acquire("b", wait=FOR_EVER)
    one.release("a", held[1].id, lesson=QUOTA)
    assert one.following == two.line("b").path.name


def told(store: Store) -> list[tuple[str, str]]:
    """Who was told that it can never be granted."""
    return [(name, word[1:]) for name, _, words in store.mail() for word in words if word.startswith("-")]


@pytest.mark.covers("RT-19")
def test_an_empty_account_refuses_everybody_at_once(make_store: MakeStore, clock: DrivenClock) -> None:
    """On every model of the provider, however long one would wait; other providers serve on."""
    store = make_store(limits={f"openai/{MODEL}": Limits(concurrency=2)})
    one, two = store.instance(), store.instance()
    one.call(MODEL, QUOTA)
    for each in (one, two):
        for model in (MODEL, "o3"):
            for wait in (None, 5.0, FOR_EVER):
                answer = each.acquire(model, wait=wait).answer
                assert (answer.status, answer.dimension, answer.at) == (REFUSED, "quota", START_MS + 600_000)
        assert each.acquire("anthropic/claude").granted
    assert one.reaction(MODEL, 1).quota is not None
    assert one.reaction(MODEL).limit == 2, "nothing is cut"


@pytest.mark.covers("RT-19")
def test_who_waits_is_told_when_the_account_is_empty(make_store: MakeStore, clock: DrivenClock) -> None:
    """On this path in the same call, on others as soon as they are looked at; nobody stays in the queue."""
    store = make_store(limits={f"openai/{MODEL}": Limits(concurrency=1), "openai/o3": Limits(concurrency=1)})
    one, two = store.instance(), store.instance()
    held = one.acquire(MODEL)
    two.acquire("o3")
    here = [two.acquire(MODEL, wait=FOR_EVER) for _ in range(3)]
    there = two.acquire("o3", wait=FOR_EVER)
    store.listen()
    one.release(MODEL, held.id, lesson=QUOTA)
    assert told(store) == [(two.name, each.id) for each in here]
    assert store.queue(two.line(MODEL)) == []
    two.grant("o3")
    assert told(store) == [(two.name, there.id)]
    assert two.send([here[0].request])[0].answer.dimension == "quota"
    store.close()


@pytest.mark.covers("RT-19")
def test_after_its_time_one_call_tries_the_account(make_store: MakeStore, clock: DrivenClock) -> None:
    """Others are refused while it runs. Empty still: the same again. One success: all go."""
    store = make_store(limits={f"openai/{MODEL}": Limits(concurrency=9)})
    one, two = store.instance(), store.instance()
    one.call(MODEL, QUOTA)
    let_pass(clock, 600, one, two)
    probe = one.acquire(MODEL)
    assert probe.granted
    for model in (MODEL, "o3"):
        assert two.acquire(model, wait=FOR_EVER).answer.dimension == "quota"
    one.release(MODEL, probe.id, lesson=QUOTA)
    assert two.acquire(MODEL).answer.at == store.now() + 600_000
    let_pass(clock, 600, one, two)
    probe = two.acquire("o3")
    assert probe.granted
    assert one.acquire(MODEL).status is REFUSED
    two.release("o3", probe.id, lesson="o")
    assert all(each.granted for each in one.send([one.request(MODEL) for _ in range(9)]))
    assert one.reaction(MODEL, 1).quota is None


@pytest.mark.covers("RT-19")
def test_a_model_that_is_not_open_to_the_account_stops_that_model_alone(make_store: MakeStore) -> None:
    """Another model of the same provider serves on."""
    one = make_store().instance()
    one.call("o3", "q,600000,m")
    assert one.acquire("o3").answer.dimension == "quota"
    assert one.acquire(MODEL).granted


@pytest.mark.covers("RT-19")
def test_a_later_word_of_the_same_shortage_shortens_nothing(make_store: MakeStore, clock: DrivenClock) -> None:
    """Sixteen calls learn of it, with times of their own: the longest holds."""
    one = make_store().instance()
    held: list[Asked] = [one.acquire(MODEL) for _ in range(3)]
    for asked, lesson in zip(held, ("q,60000,", "q,600000,", "q,1000,"), strict=True):
        one.release(MODEL, asked.id, lesson=lesson)
    assert one.acquire(MODEL).answer.at == START_MS + 600_000


@pytest.mark.covers("RT-12")
@pytest.mark.parametrize("verb", ["calm", "resume"])
def test_an_operator_closes_them(make_store: MakeStore, clock: DrivenClock, verb: str) -> None:
    """Who has paid need not wait for the probe."""
    store = make_store(limits=LIMITS)
    one = store.instance()
    trip(one, clock)
    one.report(MODEL, QUOTA)
    assert one.acquire(MODEL).answer.dimension == "quota"
    store.configure("p:openai", verb)
    assert one.acquire(MODEL).answer.dimension == "breaker"
    store.configure(SCOPE, verb)
    assert all(each.granted for each in one.send([one.request(MODEL) for _ in range(5)]))


@pytest.mark.covers("RT-12", "RT-19")
@pytest.mark.parametrize("verb", ["calm", "resume"])
def test_calls_of_before_do_not_empty_an_account_that_has_been_paid(
    make_store: MakeStore, clock: DrivenClock, verb: str
) -> None:
    """What they have met was over when the operator resumed. What calls that began afterwards meet counts."""
    store = make_store()
    one, two = store.instance(), store.instance()
    late = [two.acquire(MODEL) for _ in range(2)]
    one.call(MODEL, QUOTA)
    clock.advance(30)
    store.configure("p:openai", verb)
    two.release(MODEL, late[0].id, lesson=QUOTA)
    two.report(MODEL, QUOTA)
    held = one.acquire(MODEL)
    assert held.granted, "a report without a lease is of a call that began 5 s ago"
    clock.advance(1)
    one.release(MODEL, held.id, lesson=QUOTA)
    assert one.acquire(MODEL).answer.dimension == "quota"
    two.release(MODEL, late[1].id, lesson="o")
    assert one.acquire(MODEL).answer.dimension == "quota", "nor is their success a sign"
