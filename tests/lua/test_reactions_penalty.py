"""Strategy "penalty": what failures add to it, how it divides a limit or slows rates, and how it decays by itself."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from ratelease import Limits
from ratelease.core import scripts
from ratelease.strategies import Parallelism, Penalty, strategy_words
from support.clock import DrivenClock
from support.store import REFUSED, Instance, Store, let_pass

MakeStore = Callable[..., Store]
THROTTLED, TIMEOUT, ERROR, OVERLOADED = "t,-1,", "w,-1,", "e,-1,", "v,-1,"
MODEL = "gpt-4o"
SCOPE = "m:openai:gpt-4o"


def limits(**figures: object) -> dict[str, Limits]:
    """Limits of the one model."""
    return {f"openai/{MODEL}": Limits(**{"concurrency": 8, **figures})}  # type: ignore[arg-type]


def state(one: Instance, model: str = MODEL) -> tuple[float, int | None]:
    """The penalty and the limit in force."""
    reaction = one.reaction(model)
    return reaction.penalty, reaction.limit


@pytest.mark.covers("PE-01", "PE-02")
def test_each_cause_adds_its_weight_up_to_the_maximum(make_store: MakeStore, clock: DrivenClock) -> None:
    """Six 429s would be 12; ten is the most. The limit is divided by one more."""
    for cause, weight, left in (
        ("rate_limit", 2.0, 2),
        ("capacity", 1.5, 3),
        ("timeout", 1.0, 4),
        ("schema_violation", 0.5, 5),
    ):
        one = make_store(limits=limits()).instance()
        assert one.report(MODEL, f"!{cause}")
        assert state(one) == (weight, left)
    one = make_store(limits=limits()).instance()
    for expected in (2.0, 4.0, 6.0, 8.0, 10.0, 10.0):
        one.report(MODEL, "!rate_limit")
        assert state(one)[0] == expected
    assert state(one)[1] == 1, "never 0"
    clock.advance(30)
    assert state(one)[0] == 5.0, "ten was all there was"


@pytest.mark.covers("PE-02")
@pytest.mark.parametrize(
    "base, expected", [(8, {0: 8, 1: 4, 2: 2, 3: 2, 4: 1, 5: 1}), (4, {0: 4, 1: 2, 2: 1, 5: 1}), (1, {0: 1, 5: 1})]
)
def test_the_limit_is_divided_by_the_penalty_and_one(
    make_store: MakeStore, base: int, expected: dict[int, int]
) -> None:
    """Rounded down, at least one; and so many are admitted."""
    one = make_store(limits=limits(concurrency=base)).instance()
    one.call(MODEL)
    for penalty in range(max(expected) + 1):
        if penalty in expected:
            assert state(one) == (penalty, expected[penalty])
            held = [each for each in one.send([one.request(MODEL) for _ in range(base + 1)]) if each.granted]
            assert len(held) == expected[penalty]
            one.release_all(MODEL, [each.id for each in held])
        one.report(MODEL, "!timeout")


@pytest.mark.covers("PE-03")
def test_forgiving_takes_a_part_away(make_store: MakeStore) -> None:
    """Half by half, any other part, or all at once."""
    store = make_store(limits=limits())
    one = store.instance()
    one.report(MODEL, "!rate_limit")
    for part, left in (("500", 1.0), ("500", 0.5), ("800", 0.4)):
        store.configure(SCOPE, "forgive", part)
        assert one.reaction(MODEL).penalty == left
    store.configure(SCOPE, "penalize", "rate_limit")
    assert one.reaction(MODEL).penalty == 2.4
    store.configure(SCOPE, "forgive", "0")
    assert state(one) == (0, 8)


@pytest.mark.covers("PE-04")
def test_an_unknown_cause_changes_nothing_and_names_the_known_ones(make_store: MakeStore) -> None:
    """By report or by an operator. A cause of one's own is known where it is configured, next to the others."""
    store = make_store(limits=limits())
    one = store.instance()
    one.call(MODEL, TIMEOUT)
    before = store.dump()
    for act in (
        lambda: one.report(MODEL, "!other"),
        lambda: one.report(MODEL, "!30000,rate_limit"),
        lambda: store.configure(SCOPE, "penalize", "other"),
    ):
        with pytest.raises(LookupError, match=r"rate_limit.*capacity.*timeout.*schema_violation"):
            act()
    assert store.dump() == before
    own = limits(strategy=Penalty(weights={"bad_answer": 0.25}))
    one = make_store(limits=own).instance()
    one.report(MODEL, "!bad_answer")
    one.report(MODEL, "!capacity")
    assert one.reaction(MODEL).penalty == 1.75


@pytest.mark.covers("PE-05")
def test_it_halves_with_every_half_life_by_being_looked_at(make_store: MakeStore, clock: DrivenClock) -> None:
    """Nobody calls meanwhile, and looking often or rarely gives the same: no fraction is lost."""
    store = make_store(limits=limits())
    rare, often = store.instance(), store.instance()
    rare.report(MODEL, "!rate_limit")
    rare.report(MODEL, "!rate_limit")
    learned = "rl:{test}:m:openai:gpt-4o:learned"
    before = store.client.hgetall(learned)
    for _ in range(45):
        clock.advance(1)
        often.reaction(MODEL)
    assert store.client.hgetall(learned) == before, "looking writes nothing"
    assert rare.reaction(MODEL).penalty == pytest.approx(1.4142, abs=1e-4)
    clock.advance(15)
    assert state(rare) == (1.0, 4)
    clock.advance(90)
    assert rare.reaction(MODEL).penalty == pytest.approx(0.125, abs=1e-4)
    clock.advance(1)
    assert state(rare) == (0, 8), "what is too little to count is over"


@pytest.mark.covers("PE-05")
def test_a_raise_adds_to_what_is_left(make_store: MakeStore, clock: DrivenClock) -> None:
    """Decayed to half, with thousandths, under a half-life of one's own."""
    one = make_store(limits=limits(strategy=Penalty(half_life=10.0))).instance()
    one.report(MODEL, "!rate_limit")
    clock.advance(5)
    one.report(MODEL, "!rate_limit")
    assert one.reaction(MODEL).penalty == pytest.approx(2 + 2 * 0.5**0.5, abs=2e-4)
    clock.advance(10)
    assert one.reaction(MODEL).penalty == pytest.approx(1 + 0.5**0.5, abs=2e-4)


@pytest.mark.covers("PE-07", "AL-08", "AL-19")
def test_it_is_shared_by_all_and_of_one_provider(make_store: MakeStore) -> None:
    """The next admission of another instance obeys; another provider knows nothing of it; no raise is lost."""
    store = make_store(limits={**limits(), "anthropic/claude": Limits(concurrency=8)})
    one, two = store.instance(), store.instance()
    one.report("anthropic/claude", "!rate_limit")
    two.report("anthropic/claude", "!rate_limit")
    for each in (one, two):
        assert state(each, "anthropic/claude") == (4.0, 1)
        assert state(each) == (0, 8)
    assert [each.granted for each in two.send([two.request("anthropic/claude") for _ in range(2)])] == [True, False]
    assert all(each.granted for each in two.send([two.request(MODEL) for _ in range(8)]))


@pytest.mark.covers("AL-19")
def test_a_success_elsewhere_shortens_no_pause(make_store: MakeStore, clock: DrivenClock) -> None:
    """And a pause of one provider stops no other."""
    store = make_store(limits={**limits(), "anthropic/claude": Limits(concurrency=8)})
    one = store.instance()
    one.call("anthropic/claude", "t,7000,")
    clock.advance(0.001)
    one.call(MODEL)
    blocked = one.acquire("anthropic/claude").answer
    assert (blocked.dimension, blocked.at) == ("pause", store.now() + 6999)


@pytest.mark.covers("PE-08", "PE-06")
def test_a_429_is_punished_once_and_by_penalty_where_nothing_is_said(make_store: MakeStore) -> None:
    """Its weight, and neither another penalty nor a cut beside it."""
    assert strategy_words((Penalty(),)) == "", "what scripts take where no word is said"
    one = make_store(limits=limits()).instance()
    one.call(MODEL, THROTTLED)
    reaction = one.reaction(MODEL)
    assert (reaction.penalty, reaction.limit, reaction.parallelism, reaction.auto_reduced) == (2.0, 2, None, False)
    assert [(event.reason, event.before, event.after) for event in reaction.events] == [("429 rate limit error", 8, 2)]


@pytest.mark.covers("PE-08")
def test_of_several_strategies_each_factor_is_shown(make_store: MakeStore) -> None:
    """Sixteen are cut to 11.2, and then divided by three."""
    one = make_store(limits=limits(concurrency=16, strategy=[Parallelism(), Penalty()])).instance()
    one.call(MODEL, THROTTLED)
    reaction = one.reaction(MODEL)
    assert (reaction.base, reaction.parallelism, reaction.penalty, reaction.limit) == (16, 11.2, 2.0, 3)


@pytest.mark.covers("RT-18", "AL-06", "AL-39")
def test_overload_and_errors_are_no_matter_of_concurrency(make_store: MakeStore, clock: DrivenClock) -> None:
    """Penalty takes no notice of them. Neither do refusals, waits and pauses of our own teach anything."""
    one = make_store(limits=limits(concurrency=2)).instance()
    for lesson in (OVERLOADED, ERROR, ERROR, OVERLOADED):
        clock.advance(1)
        one.call(MODEL, lesson)
    held = [one.acquire(MODEL) for _ in range(2)]
    for _ in range(20):
        assert one.acquire(MODEL).status is REFUSED
        waiter = one.acquire(MODEL, wait=1.0)
        clock.advance(0.5)
        one.release(MODEL, waiter.id, unsent=True)
    assert state(one) == (0, 2)
    assert {event.reason for event in one.reaction(MODEL).events} == {"overloaded", "error"}
    one.release_all(MODEL, [each.id for each in held])


@pytest.mark.covers("AL-42")
def test_rates_alone_are_slowed_and_spread(make_store: MakeStore, clock: DrivenClock) -> None:
    """600 a minute with a penalty of 2 are 200 a minute, each 300 ms after the one before; then as fast as before."""
    one = make_store(
        limits={f"openai/{MODEL}": Limits(rpm=600, guard=0, strategy=Penalty(half_life=10_000))}
    ).instance()
    one.call(MODEL, THROTTLED)
    assert state(one) == (2.0, None)
    admitted = []
    for ms in range(0, 60_000, 50):
        asked = one.acquire(MODEL)
        if asked.granted:
            admitted.append(ms)
        else:
            assert asked.answer.dimension == "pace"
            assert ms < asked.answer.at - 1_700_000_000_000 <= ms + 300
        clock.advance(0.05)
    assert 195 <= len(admitted) <= 201
    assert all(250 <= later - earlier <= 350 for earlier, later in itertools.pairwise(admitted))


@pytest.mark.covers("AL-42")
def test_a_pace_is_over_when_its_penalty_is(make_store: MakeStore, clock: DrivenClock) -> None:
    """One large call takes the whole rate of a minute; nobody waits eleven minutes for what has decayed in three."""
    one = make_store(limits={f"openai/{MODEL}": Limits(tpm=10_000, guard=0)}).instance()
    for _ in range(6):
        one.report(MODEL, "!rate_limit")
    one.call(MODEL, tokens=10_000)
    said = one.acquire(MODEL, tokens=10_000).answer.at
    let_pass(clock, (said - 1_700_000_000_000) / 1000, one)
    assert said <= 1_700_000_000_000 + 190_000
    assert one.acquire(MODEL, tokens=10_000).granted


@pytest.mark.covers("RL-06")
@pytest.mark.parametrize("verb, what, level", [("penalize", "rate_limit", 4.0), ("forgive", "500", 1.0)])
def test_what_an_operator_sends_again_after_a_lost_reply_counts_once(
    make_store: MakeStore, clock: DrivenClock, verb: str, what: str, level: float
) -> None:
    """Also where somebody else acts in between; a deed that is meant twice is another one."""
    store = make_store(limits={f"openai/{MODEL}": Limits(concurrency=16)})
    one = store.instance()
    one.call(MODEL)
    store.configure(f"m:openai:{MODEL}", "penalize", "rate_limit")
    call = scripts.configure(store.keyspace, f"m:openai:{MODEL}", verb, what, b"deed 1")
    store.run(call)
    store.configure("p:openai", "pause", "1000")
    assert store.run(call)[0] == 0
    assert one.reaction(MODEL).penalty == level
    assert store.client.llen(store.keyspace.journal) == 3
    store.run(scripts.configure(store.keyspace, f"m:openai:{MODEL}", verb, what, b"deed 2"))
    assert one.reaction(MODEL).penalty != level
