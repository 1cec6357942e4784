"""What time gives back is granted at its moment, by the one timer of the head: at that moment, and not before."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from ratelease import Limits, Rate
from ratelease.strategies import Breaker, Decrement, Parallelism, Penalty
from support.clock import START_MS, DrivenClock
from support.store import FOR_EVER, PARKED, Asked, Instance, Store
from support.timer_walk import TimerWalk

MakeStore = Callable[..., Store]
MODEL = "gpt-4o"
THROTTLED = "t,-1,,0"
HOLDS = 15_000  # ms that a lease lives


def limits(concurrency: int | None = None, **figures: object) -> dict[str, Limits]:
    """Limits of the one model."""
    return {f"openai/{MODEL}": Limits(concurrency=concurrency, **figures)}  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Case:
    """What stops the head: these limits after these lessons, with so many slots taken, for so many ms."""

    name: str
    limits: dict[str, Limits]
    lessons: tuple[str, ...]
    takes: int
    after: int


CASES = [
    Case("a pause", limits(4), ("t,7000,",), 0, 7000),
    Case("a pause of rates alone", limits(rpm=600), ("t,7000,",), 0, 7000),
    Case("a penalty of 2 that leaves one of four", limits(4), (THROTTLED,), 1, 30_000),
    Case("a penalty that leaves one of two", limits(2), (THROTTLED,), 1, 120_001),
    Case("a recovery", limits(4, strategy=Parallelism(recovery_interval=12.0)), (THROTTLED,), 2, 12_000),
    Case("a decrement", limits(4, strategy=Decrement(restore_after=9.0)), (THROTTLED,), 3, 9000),
    Case("a breaker", limits(4, strategy=Breaker(failures=1, open=11.0)), ("e,-1,",), 0, 11_000),
    Case("a pace", limits(rpm=60, strategy=Penalty(half_life=1e5)), (THROTTLED, ""), 0, 3000),
]


def keep_alive(clock: DrivenClock, until: int, one: Instance, held: list[Asked], waiter: Asked) -> None:
    """Let time pass as a live process does: heartbeats, and its waiter is repeated. A grant would end it."""
    while one.store.now() < until:
        clock.advance(min(5000, until - one.store.now()) / 1000)
        if one.store.now() < until:
            one.beat()
            assert one.send([waiter.request])[0].status is PARKED
            for each in held:
                assert one.renew(MODEL, each.held) == []


@pytest.mark.covers("QU-18")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_head_is_granted_at_the_announced_moment(make_store: MakeStore, clock: DrivenClock, case: Case) -> None:
    """Nobody else calls. What the answer announces is right: 2 ms before it nothing is granted."""
    store = make_store(limits=case.limits)
    one = store.instance()
    for lesson in case.lessons:
        one.call(MODEL, lesson)
    held = [one.acquire(MODEL) for _ in range(case.takes)]
    assert all(each.granted for each in held)
    waiter = one.acquire(MODEL, wait=FOR_EVER)
    timer, tries = waiter.answer.header.timer, 0
    while True:
        assert timer > store.now()
        keep_alive(clock, timer - 2, one, held, waiter)
        assert one.grant(MODEL) == []
        keep_alive(clock, timer, one, held, waiter)
        tries += 1
        if one.grant(MODEL):
            break
        timer = one.header.timer if one.header else 0
    assert store.now() - START_MS == pytest.approx(case.after, abs=60 if case.name == "a pace" else 3)
    # A lease that expires is the other way to a slot: a timer for it may come first, once a lease TTL.
    assert tries <= 1 + (case.after // (HOLDS - 5000) if case.takes else 0)


@pytest.mark.covers("QU-18")
@pytest.mark.parametrize("lesson", ["t,7000,", THROTTLED])
def test_a_failure_sends_the_heads_process_its_timer(make_store: MakeStore, clock: DrivenClock, lesson: str) -> None:
    """Whose lease it was does not matter: the one who waits learns when to look again, and once."""
    store = make_store(limits=limits(3))
    one, two = store.instance(), store.instance()
    held = [one.acquire(MODEL) for _ in range(3)]
    waiters = [two.acquire(MODEL, wait=FOR_EVER) for _ in range(2)]
    clock.advance(1)
    store.listen()
    one.release(MODEL, held[0].id, lesson=lesson)
    letters = store.mail()
    assert [(name, len(words)) for name, _, words in letters if name == two.name] == [(two.name, 1)]
    at = int(letters[-1][2][0].removeprefix("@"))
    assert at == (START_MS + 8000 if lesson == "t,7000," else START_MS + HOLDS)
    one.release_all(MODEL, [each.id for each in held[1:]])
    clock.advance((at - store.now()) / 1000)
    two.grant(MODEL)
    assert waiters[0].id not in store.queue(two.line(MODEL))
    store.close()


@pytest.mark.covers("QU-18")
@pytest.mark.parametrize("part", range(4))
def test_announced_moments_are_right_whatever_has_happened(
    make_store: MakeStore, clock: DrivenClock, part: int
) -> None:
    """Whatever has failed: granting at the announced moments serves everybody, and early is harmless."""
    chance = random.Random(part)
    for _ in range(12):
        strategy = chance.choice(
            [
                Penalty(half_life=chance.choice([1.0, 7.0])),
                Parallelism(recovery_interval=chance.choice([1.0, 4.0])),
                Decrement(restore_after=chance.choice([2.0, 9.0])),
                [Parallelism(recovery_interval=2.0), Penalty(half_life=2.0)],
                Breaker(failures=2, open=3.0, successes=1),
            ]
        )
        base, rpm = chance.choice([(2, None), (5, None), (9, 600), (None, 600)])
        store = make_store(limits=limits(base, rpm=rpm, strategy=strategy))
        one = store.instance()
        for _ in range(chance.randrange(1, 6)):
            clock.advance(chance.random())
            asked = one.acquire(MODEL)
            if asked.granted:
                lesson = chance.choice(["t,-1,", "t,1500,", "w,-1,", "e,-1,", "o", "v,300,"])
                one.release(MODEL, asked.id, lesson=lesson)
        waiters = [one.acquire(MODEL, wait=FOR_EVER) for _ in range(4)]
        begun = store.now()
        timer = waiters[-1].answer.header.timer
        waiting = [each for each in waiters if not each.granted]
        mine = [each.id for each in waiters if each.granted]
        while waiting:
            if mine:
                one.release_all(MODEL, mine, lesson="o")
            mine = one.grant(MODEL)
            for each in waiting:
                if each.id in mine:
                    assert one.send([each.request])[0].granted
            waiting = [each for each in waiting if each.id not in mine]
            timer = one.header.timer if one.header else 0
            if not mine and waiting:
                assert timer > store.now(), "who waits knows until when"
                if timer - 2 > store.now():
                    clock.advance((timer - 2 - store.now()) / 1000)
                    one.beat()
                    used = one.used(MODEL)
                    mine = one.grant(MODEL)
                    reaction = one.reaction(MODEL)
                    assert reaction.limit is None or used + len(mine) <= reaction.limit
                    claimed = [one.send([each.request])[0].granted for each in waiting if each.id in mine]
                    assert claimed == [True] * len(mine)
                    waiting = [each for each in waiting if each.id not in mine]
                clock.advance(max(timer - store.now(), 0) / 1000)
            assert store.now() - begun < 60_000


def next_is_told(one: Instance, two: Instance, clock: DrivenClock) -> None:
    """Two's timer comes when one's path is first, whose waiter takes what there is: two is told of what comes next."""
    store = one.store
    one.acquire("a", wait=FOR_EVER)
    waiter = two.acquire("b", wait=FOR_EVER)
    clock.advance((waiter.answer.header.timer - store.now()) / 1000)
    assert two.grant("b") == []
    assert two.following == one.line("a").path.name
    store.listen()
    two.grant(two.following_lines()[0])
    letters = {name: (path, words) for name, path, words in store.mail()}
    path, (word,) = letters[two.name]
    assert path == two.line("b").path.name
    clock.advance((int(word.removeprefix("@")) - 2 - store.now()) / 1000)
    assert two.grant("b") == []
    clock.advance(0.002)
    assert two.grant("b") == [waiter.id]
    store.close()


@pytest.mark.covers("QU-18")
def test_the_next_path_is_told_when_a_pace_ends_that_the_one_before_it_has_begun(
    make_store: MakeStore, clock: DrivenClock
) -> None:
    """Its own timer was for the end of the pause."""
    store = make_store(limits={"openai": Limits(concurrency=9)})
    one, two = store.instance(), store.instance()
    one.call("a", "t,1000,")
    next_is_told(one, two, clock)


@pytest.mark.covers("QU-18")
@pytest.mark.parametrize(
    "shared",
    [Limits(rates=[Rate(2, per=2.0, of="requests")]), Limits(concurrency=2, cooldown=1.0)],
    ids=["rate", "slots"],
)
def test_the_next_path_is_told_when_the_next_slot_is_free(
    make_store: MakeStore, clock: DrivenClock, shared: Limits
) -> None:
    """Its own timer was for the one before: of a rate, or of slots that cool."""
    store = make_store(limits={"openai": shared})
    one, two = store.instance(), store.instance()
    one.call("a")
    clock.advance(0.3)
    one.call("a")
    next_is_told(one, two, clock)


@pytest.mark.covers("QU-18")
def test_a_charge_that_returns_does_not_delay_what_the_next_path_is_told(
    make_store: MakeStore, clock: DrivenClock
) -> None:
    """What was never sent makes room for the first; the call after it leaves the window for the second."""
    store = make_store(limits={"openai": Limits(rates=[Rate(2, per=2.0, of="requests")])})
    one, two = store.instance(), store.instance()
    unsent = one.acquire("a")
    clock.advance(0.3)
    one.call("a")
    clock.advance(1.8)
    one.acquire("a", wait=FOR_EVER)
    waiter = two.acquire("b", wait=FOR_EVER)
    store.listen()
    one.release("a", unsent.id, unsent=True)
    ((_, path, (word,)),) = [letter for letter in store.mail() if letter[0] == two.name]
    assert path == two.line("b").path.name
    clock.advance((int(word.removeprefix("@")) - 2 - store.now()) / 1000)
    assert two.grant("b") == []
    clock.advance(0.002)
    assert two.grant("b") == [waiter.id]
    store.close()


def walk(make_store: MakeStore, clock: DrivenClock, seed: int, rates: list[Rate]) -> None:
    """Steer three processes through two paths of a provider that has these rates, and everything else at random."""
    chance = random.Random(seed)
    strategies = [
        Penalty(half_life=3.0),
        Decrement(restore_after=4.0),
        Parallelism(recovery_interval=2.0),
        [Parallelism(recovery_interval=2.0), Penalty(half_life=2.0), Breaker(failures=2, open=2.0, successes=2)],
    ]
    strategy, slots, cooldown = chance.choice(strategies), chance.choice([2, 5]), chance.choice([None, 0.2])
    store = make_store(limits={"openai": Limits(concurrency=slots, strategy=strategy, rates=rates, cooldown=cooldown)})
    steered = TimerWalk(store, clock, chance)
    steered.steps(60)
    steered.drain()
    store.close()


FEW = [Rate(4, per=2.0, of="requests")]


@pytest.mark.covers("QU-18")
@pytest.mark.parametrize("seed, rates", [(3, []), (13, []), (2, FEW)], ids=["slots", "more slots", "rates"])
def test_timers_and_hops_alone_serve_whoever_waits(
    make_store: MakeStore, clock: DrivenClock, seed: int, rates: list[Rate]
) -> None:
    """Of two paths, through failures, cooling slots and reduced limits: no poll finds anybody that could go."""
    walk(make_store, clock, seed, rates)


@pytest.mark.soak
@pytest.mark.covers("QU-18")
@pytest.mark.parametrize("rates", [[], FEW], ids=["slots", "rates"])
@pytest.mark.parametrize("seed", range(100))
def test_timers_and_hops_alone_serve_whoever_waits_at_length(
    make_store: MakeStore, clock: DrivenClock, seed: int, rates: list[Rate]
) -> None:
    """The same with every seed."""
    walk(make_store, clock, seed, rates)
