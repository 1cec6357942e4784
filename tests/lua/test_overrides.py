"""What operators set wins over what instances say, at once and figure by figure; pauses hold everybody."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ratelease import Limits, Rate
from support.clock import DrivenClock
from support.store import FOR_EVER, GRANTED, PARKED, REFUSED, Instance, Store

MakeStore = Callable[..., Store]
SCOPE = "m:openai:gpt-4o"
BASE = {"openai/gpt-4o": Limits(concurrency=2, rpm=100, guard=0)}


def limit(one: Instance) -> int | None:
    """The concurrency in force."""
    return one.look("gpt-4o")[0][0].concurrency


def rates(one: Instance) -> dict[str, tuple[int, int]]:
    """Used and limit of each rate in force."""
    return {rate.dimension: (rate.used, rate.limit) for rate in one.look("gpt-4o")[0][0].rates}


@pytest.mark.covers("LC-13")
def test_a_set_figure_replaces_the_instances_and_leaves_the_others(each_store: MakeStore) -> None:
    """Concurrency is 8 on the next admission of anybody; requests a minute stay, running calls stay counted."""
    store = each_store(limits=BASE)
    one, two = store.instance(), store.instance()
    one.send([one.request("gpt-4o") for _ in range(2)])
    assert two.acquire("gpt-4o").status is REFUSED
    store.configure(SCOPE, "set", "c8")
    assert two.acquire("gpt-4o").status is GRANTED
    assert (limit(two), two.used("gpt-4o")) == (8, 3)
    assert rates(two) == {"requests/60s": (3, 100)}


@pytest.mark.covers("LC-13")
def test_figures_set_one_after_the_other_add_up(make_store: MakeStore) -> None:
    """Setting merges; unsetting takes one away, or all."""
    store = make_store(limits=BASE)
    assert store.configure(SCOPE, "set", "c8 r60000=50")[0] == "c8 r60000=50"
    assert store.configure(SCOPE, "set", "c9 t60000=700")[0] == "c9 r60000=50 t60000=700"
    assert store.configure(SCOPE, "unset", "r60000 i60000")[0] == "c9 t60000=700"
    assert store.configure(SCOPE, "unset")[0] == ""


@pytest.mark.covers("LC-13", "RD-08")
def test_an_override_outlives_everything_else(make_store: MakeStore, clock: DrivenClock) -> None:
    """After a day in which nobody called, only it is left, and it still holds."""
    store = make_store(limits=BASE)
    one = store.instance()
    one.acquire("gpt-4o")
    store.configure(SCOPE, "set", "c5")
    clock.advance(32 * 86_400)
    assert list(store.client.scan_iter()) == [b"rl:{test}:overrides"]
    other = store.instance()
    assert other.acquire("gpt-4o").granted
    assert limit(other) == 5


@pytest.mark.covers("LC-15")
def test_an_unset_figure_is_the_instances_again(make_store: MakeStore) -> None:
    """And whoever waits is granted as far as that allows."""
    store = make_store(limits=BASE)
    store.configure(SCOPE, "set", "c1")
    one = store.instance()
    one.acquire("gpt-4o")
    waiters = [one.acquire("gpt-4o", wait=FOR_EVER) for _ in range(3)]
    store.configure(SCOPE, "unset", "c")
    assert one.grant("gpt-4o") == [waiters[0].id]
    assert limit(one) == 2


@pytest.mark.covers("LC-14", "AD-02")
def test_a_lowered_limit_takes_nothing_back(make_store: MakeStore) -> None:
    """Four in flight, the limit becomes two: the next grant comes when less than two are."""
    store = make_store(limits={"openai/gpt-4o": Limits(concurrency=4)})
    one = store.instance()
    held = one.send([one.request("gpt-4o") for _ in range(4)])
    store.configure(SCOPE, "set", "c2")
    waiter = one.acquire("gpt-4o", wait=FOR_EVER)
    for lease in held[:2]:
        one.release("gpt-4o", lease.id)
        assert one.grant("gpt-4o") == []
    one.release("gpt-4o", held[2].id)
    assert one.grant("gpt-4o") == [waiter.id]
    assert one.used("gpt-4o") == 2


@pytest.mark.covers("RW-08")
def test_headroom_scales_the_rates_alone(make_store: MakeStore) -> None:
    """70 % of 500 a minute is 350; three slots stay three. It scales an operator's figure as well."""
    store = make_store(limits=BASE)
    one = store.instance()
    line = one.line("gpt-4o")
    line = type(line)(line.path, line.keys, ("c3 h700 r60000=500+0", "-", "-"), line.provider, line.model)
    assert one.acquire(line).granted
    scope = one.look(line)[0][0]
    assert (scope.concurrency, [(rate.used, rate.limit) for rate in scope.rates]) == (3, [(1, 350)])
    store.configure(SCOPE, "set", "r60000=100")
    assert [(rate.used, rate.limit) for rate in one.look(line)[0][0].rates] == [(1, 70)]


@pytest.mark.covers("RW-14")
def test_a_lowered_rate_keeps_its_use(make_store: MakeStore) -> None:
    """500 a minute become 300 with 350 used: nothing is granted until that has left the window."""
    store = make_store(limits={"openai/gpt-4o": Limits(rpm=500)})
    one = store.instance()
    assert all(each.granted for each in one.send([one.request("gpt-4o") for _ in range(350)]))
    store.configure(SCOPE, "set", "r60000=300")
    assert one.acquire("gpt-4o").status is REFUSED
    assert rates(one) == {"requests/60s": (350, 300)}


@pytest.mark.covers("RW-14")
@pytest.mark.parametrize("window, label", [(10.0, "requests/10s"), (600.0, "requests/600s")])
def test_another_window_begins_with_what_the_old_one_counted(
    make_store: MakeStore, clock: DrivenClock, window: float, label: str
) -> None:
    """By a newer instance's configuration: shorter or longer, forty requests are forty requests."""
    store = make_store(limits={"openai/gpt-4o": Limits(rates=[Rate(60, per=60.0)], guard=0)})
    one = store.instance()
    one.send([one.request("gpt-4o") for _ in range(40)])
    clock.advance(5)
    newer = store.instance({"openai/gpt-4o": Limits(rates=[Rate(50, per=window)], guard=0)})
    asked = newer.send([newer.request("gpt-4o") for _ in range(20)])
    assert sum(each.granted for each in asked) == 10
    assert rates(newer) == {label: (50, 50)}
    fields = store.client.hkeys(newer.line("gpt-4o").keys[9])
    assert not [field for field in fields if field.startswith(b"r60000:")], "what is gone is forgotten"
    clock.advance(window + window / 60 + 1)
    assert rates(newer) == {label: (0, 50)}


@pytest.mark.covers("RW-14")
def test_what_was_carried_stays_where_the_first_call_charges_nothing(make_store: MakeStore) -> None:
    """It only parks; the others find the new window as full as it did."""
    store = make_store(limits={"openai/gpt-4o": Limits(rpm=60, guard=0)})
    one = store.instance()
    one.send([one.request("gpt-4o") for _ in range(40)])
    newer = store.instance({"openai/gpt-4o": Limits(rates=[Rate(30, per=10.0)], guard=0)})
    assert newer.acquire("gpt-4o", wait=FOR_EVER).status is PARKED
    assert rates(newer) == {"requests/10s": (40, 30)}


@pytest.mark.covers("RW-14")
def test_flapping_between_two_configurations_never_admits_more(make_store: MakeStore, clock: DrivenClock) -> None:
    """An operator goes to and fro between windows within one of them: thirty stay thirty."""
    store = make_store(limits={"openai/gpt-4o": Limits(rates=[], rpm=30, guard=0)})
    one, granted = store.instance(), 0
    for turn in range(12):
        granted += sum(each.granted for each in one.send([one.request("gpt-4o") for _ in range(10)]))
        store.configure(SCOPE, *(("set", "r60000=30 r30000=30") if turn % 2 else ("set", "r20000=30")))
        clock.advance(1)
    assert granted == 30


@pytest.mark.covers("LC-22")
def test_the_newest_instances_limits_hold_for_all(make_store: MakeStore) -> None:
    """Old and new configuration call in turn: the agreed set changes once, not at each call."""
    store = make_store(limits=BASE)
    old = store.instance()
    old.acquire("gpt-4o")
    new = store.instance({"openai/gpt-4o": Limits(concurrency=6, rpm=50)})
    for _ in range(2):
        new.acquire("gpt-4o")
        assert limit(new) == 6
        old.acquire("gpt-4o")
        assert (limit(old), rates(old)["requests/60s"][1]) == (6, 50)


def test_a_pause_holds_everybody_until_its_time(make_store: MakeStore, clock: DrivenClock) -> None:
    """Newcomers learn the time; a waiter is granted by its timer, not before."""
    store = make_store(limits=BASE)
    one = store.instance()
    one.beat()
    _, until = store.configure(SCOPE, "pause", "7000")
    refused = one.acquire("gpt-4o").answer
    assert (refused.dimension, refused.at) == ("pause", until)
    assert one.acquire("gpt-4o", wait=3.0).status is REFUSED, "the pause outlasts its deadline"
    waiter = one.acquire("gpt-4o", wait=FOR_EVER)
    assert (waiter.status, waiter.answer.header.timer) == (PARKED, until)
    clock.advance(6.9)
    assert one.grant("gpt-4o") == []
    clock.advance(0.2)
    assert one.grant("gpt-4o") == [waiter.id]


def test_a_pause_without_end_is_ended_by_resume_alone(make_store: MakeStore, clock: DrivenClock) -> None:
    """Whatever expires meanwhile. Nobody can say when, so nobody is refused for its deadline."""
    store = make_store(limits={**BASE, "openai": Limits(concurrency=9)})
    one = store.instance()
    one.acquire("gpt-4o")
    store.configure("p:openai", "pause")
    clock.advance(40)
    waiter = one.acquire("gpt-4o", wait=3.0)
    assert (waiter.status, waiter.answer.dimension, waiter.answer.at) == (PARKED, "pause", 0)
    scopes, _ = one.look("gpt-4o")
    assert [(each.paused, each.resumes_in) for each in scopes] == [(False, None), (True, None), (False, None)]
    assert one.grant("gpt-4o") == []
    store.configure("p:openai", "resume")
    assert one.grant("gpt-4o") == [waiter.id]


def test_an_operator_is_no_instance(make_store: MakeStore) -> None:
    """Its calls register nobody, change no agreed time, and send waiters their new timer."""
    store = make_store(limits={"openai/gpt-4o": Limits(rpm=1, guard=0)}, lease_ttl=20.0)
    one = store.instance()
    one.acquire("gpt-4o")
    one.acquire("gpt-4o", wait=FOR_EVER)
    before = store.client.hgetall("rl:{test}:store")
    operator = store.instance(lease_ttl=400.0, heartbeat=50.0)
    operator.session.instance = ""
    store.listen()
    store.configure(SCOPE, "set", "r60000=1")
    assert operator.grant("gpt-4o", foreign=True) == []
    assert [words[0][0] for _, _, words in store.mail()] == ["@"]
    assert store.client.hgetall("rl:{test}:store") == before
    store.close()


def test_a_newer_schema_is_left_alone(make_store: MakeStore) -> None:
    """Nothing is written."""
    store = make_store(limits=BASE)
    store.client.hset("rl:{test}:store", "schema", 2)
    store.client.expire("rl:{test}:store", 60)
    with pytest.raises(ValueError, match="unpack"):
        store.configure(SCOPE, "set", "c8")
    assert list(store.client.scan_iter()) == [b"rl:{test}:store"]
