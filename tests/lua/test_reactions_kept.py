"""Strategy "decrement", and what becomes of what was learned: by operators, resets, restarts and time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from ratelease import Limits
from ratelease.core import scripts
from ratelease.strategies import Decrement, Parallelism, Penalty
from support.clock import DrivenClock
from support.store import Instance, Store

MakeStore = Callable[..., Store]
THROTTLED = "t,-1,,0"
MODEL = "gpt-4o"
SCOPE = "m:openai:gpt-4o"
LEARNED = f"rl:{{test}}:{SCOPE}:learned"
WEEK = 7 * 86_400


def limits(base: int = 4, strategy: object = None) -> dict[str, Limits]:
    """Limits of the one model."""
    return {f"openai/{MODEL}": Limits(concurrency=base, strategy=strategy or Decrement())}


def limit(one: Instance) -> int | None:
    """The limit in force."""
    return one.reaction(MODEL).limit


def reset(store: Store, model: str, meant: tuple[bool, ...] = (True, True, True), *, everything: bool = False) -> None:
    """Reset as an operator does."""
    operator = store.instance()
    operator.session.instance = ""
    line = operator.line(model)
    store.run(scripts.reset(operator.session, store.keyspace, line, meant, everything=everything, namespace=False))


@pytest.mark.covers("AL-33", "AL-37")
def test_each_episode_takes_one_away_for_good(make_store: MakeStore, clock: DrivenClock) -> None:
    """4, 3, 2, 1, 1: what it was at first is known after a restart of everybody as well, and told with a notice."""
    store = make_store(limits=limits())
    one = store.instance()
    held = [one.acquire(MODEL) for _ in range(3)]
    one.release_all(MODEL, [each.id for each in held], lesson=THROTTLED)
    assert limit(one) == 3, "three failures of one episode"
    clock.advance(1)
    one.call(MODEL, THROTTLED)
    one.call(MODEL, "w,-1,")
    clock.advance(86_400)
    later = store.instance()
    later.call(MODEL)
    reaction = later.reaction(MODEL)
    assert (reaction.limit, reaction.auto_reduced, reaction.auto_reduced_from) == (2, True, 4)
    assert reaction.notice == ("Concurrency limit auto-reduced to 2 after a 429 — restore manually when ready.")
    for expected in (1, 1):
        clock.advance(1)
        later.call(MODEL, THROTTLED)
        assert limit(later) == expected


@pytest.mark.covers("AL-34")
def test_a_quiet_time_restores_where_asked(make_store: MakeStore, clock: DrivenClock) -> None:
    """All at once, 30 s after the last 429; each new one begins them again."""
    one = make_store(limits=limits(strategy=Decrement(restore_after=30.0))).instance()
    one.call(MODEL, THROTTLED)
    clock.advance(29.9)
    one.call(MODEL, THROTTLED)
    assert limit(one) == 2
    clock.advance(29.9)
    assert limit(one) == 2
    clock.advance(0.1)
    reaction = one.reaction(MODEL)
    assert (reaction.limit, reaction.reason) == (4, "recovery")
    assert all(each.granted for each in one.send([one.request(MODEL) for _ in range(4)]))
    assert not one.reaction(MODEL).auto_reduced


@pytest.mark.covers("AL-35")
@pytest.mark.parametrize("strategy", [Decrement(), Penalty(), Parallelism()], ids=lambda each: each.kind)
def test_what_an_operator_sets_holds_at_once(make_store: MakeStore, clock: DrivenClock, strategy: object) -> None:
    """Reduced to 2 or less, set to 8: eight for every instance, and nothing is reduced any more."""
    store = make_store(limits=limits(4, strategy))
    one, two = store.instance(), store.instance()
    for _ in range(2):
        one.call(MODEL, THROTTLED)
        clock.advance(1)
    store.configure(SCOPE, "set", "c8")
    for each in (one, two):
        reaction = each.reaction(MODEL)
        assert (reaction.limit, reaction.auto_reduced, reaction.penalty) == (8, False, 0)
    assert all(each.granted for each in two.send([two.request(MODEL) for _ in range(8)]))


@pytest.mark.covers("AL-35")
def test_setting_a_rate_leaves_what_the_concurrency_has_learned(make_store: MakeStore) -> None:
    """It says nothing of it."""
    store = make_store(limits=limits())
    one = store.instance()
    one.call(MODEL, THROTTLED)
    store.configure(SCOPE, "set", "r60000=50")
    assert limit(one) == 3


@pytest.mark.covers("AL-26")
@pytest.mark.parametrize("strategy", [Decrement(), Penalty(), Parallelism()], ids=lambda each: each.kind)
@pytest.mark.parametrize("everything", [False, True])
def test_a_reset_forgets_what_was_learned(
    make_store: MakeStore, clock: DrivenClock, strategy: object, everything: bool
) -> None:
    """In every instance; leases stay unless all is meant. Failures of calls before it teach again."""
    store = make_store(limits={**limits(4, strategy), "openai/other": Limits(concurrency=4, strategy=strategy)})
    one, two = store.instance(), store.instance()
    held = one.acquire(MODEL)
    for model in (MODEL, "other"):
        one.call(model, "t,7000,")
        two.report(model, "q,60000,m")
    reset(store, MODEL, (True, False, False), everything=everything)
    for each in (one, two):
        assert each.acquire(MODEL).granted
        reaction = each.reaction(MODEL)
        assert (reaction.limit, reaction.penalty, reaction.quota, reaction.events) == (4, 0, None, ())
        assert each.reaction("other").quota is not None
        assert each.acquire("other").answer.dimension == "quota"
    assert one.release(MODEL, held.id) == (scripts.Ended.UNKNOWN if everything else scripts.Ended.RELEASED)
    one.call(MODEL, THROTTLED)
    assert limit(one) < 4


@pytest.mark.covers("AL-26")
def test_a_reset_of_all_clears_every_scope(make_store: MakeStore) -> None:
    """Model, provider and total, whatever each has learned."""
    store = make_store(limits={**limits(), "openai": Limits(concurrency=9)})
    one = store.instance()
    one.call(MODEL, THROTTLED)
    one.report(MODEL, "q,60000,")
    reset(store, MODEL)
    assert [key for key in store.client.scan_iter() if key.endswith(b":learned")] == []
    assert one.acquire(MODEL).granted


@pytest.mark.covers("AL-26")
def test_a_learned_key_of_a_wrong_type_is_an_error_that_reset_mends(make_store: MakeStore) -> None:
    """Each script on it fails before its first write; what was held stays held."""
    store = make_store(limits=limits())
    one = store.instance()
    held = one.acquire(MODEL)
    one.call(MODEL, THROTTLED)
    store.client.delete(LEARNED)
    store.client.rpush(LEARNED, "garbage")
    store.client.expire(LEARNED, 60)
    before = [store.client.dump(key) for key in sorted(store.client.keys("*"))]
    for act in (
        lambda: one.acquire(MODEL),
        lambda: one.release(MODEL, held.id, lesson=THROTTLED),
        lambda: one.report(MODEL, THROTTLED),
        lambda: one.grant(MODEL),
        lambda: one.look(MODEL),
        lambda: store.configure(SCOPE, "penalize", "rate_limit"),
        lambda: store.configure(SCOPE, "calm"),
        lambda: store.configure(SCOPE, "resume"),
        lambda: store.configure(SCOPE, "set", "c3"),
        lambda: store.configure(SCOPE, "forgive", "0"),
    ):
        with pytest.raises((redis.ResponseError, LookupError)):
            act()
        assert [store.client.dump(key) for key in sorted(store.client.keys("*"))] == before
    reset(store, MODEL)
    assert limit(one) == 4
    assert one.release(MODEL, held.id, lesson=THROTTLED) is scripts.Ended.RELEASED
    assert limit(one) == 3


@pytest.mark.covers("AL-37")
@pytest.mark.parametrize(
    "strategy", [Decrement(), Parallelism(recovery_interval=3 * 86_400)], ids=lambda each: each.kind
)
def test_what_was_learned_outlives_all_processes_for_a_week(
    make_store: MakeStore, clock: DrivenClock, strategy: object
) -> None:
    """Limit, reasons and pauses; a week after the last change they are gone."""
    store = make_store(limits=limits(4, strategy))
    one = store.instance()
    one.call(MODEL, "t,86400000,")
    before = one.reaction(MODEL)
    clock.advance(86_399)
    later = store.instance()
    blocked = later.acquire(MODEL).answer
    assert (blocked.dimension, blocked.at) == ("pause", store.now() + 1000)
    after = later.reaction(MODEL)
    assert (after.limit, after.events) == (before.limit, before.events)
    clock.advance(WEEK - 86_400 + 2)
    fresh = store.instance()
    fresh.call(MODEL)
    assert (limit(fresh), fresh.reaction(MODEL).events) == (4, ())


@pytest.mark.covers("AL-17")
def test_a_colon_in_a_name_is_a_letter_as_any_other(make_store: MakeStore, clock: DrivenClock) -> None:
    """Names of local models and of versions: one state each, which is cut, recovers and is reset by itself."""
    names = ("ollama/llama3:8b", "ollama/llama3", "bedrock/anthropic.claude-v2:0")
    store = make_store(limits={name: Limits(concurrency=4, strategy=Parallelism()) for name in names})
    one = store.instance()
    store.listen()
    for name in names[::2]:
        one.call(name, THROTTLED)
        assert one.reaction(name).limit == 2
    assert [path for who, path, _ in store.mail() if who == "everyone"] == [
        "m:ollama:llama3%3A8b",
        "m:bedrock:anthropic.claude-v2%3A0",
    ]
    assert one.reaction(names[1]).events == ()
    assert len([key for key in store.client.scan_iter() if key.endswith(b":learned")]) == 2
    clock.advance(60)
    assert one.reaction(names[0]).limit == 3
    reset(store, names[0], (True, False, False))
    one.call(names[0])
    assert (one.reaction(names[0]).limit, one.reaction(names[2]).limit) == (4, 3)
    store.close()
