"""What time gives back is granted at its moment, by the one timer of the head: at that moment, and not before."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from ratelease import Limits
from ratelease.strategies import Breaker, Decrement, Parallelism, Penalty
from support.clock import START_MS, DrivenClock
from support.store import FOR_EVER, PARKED, Asked, Instance, Store

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
