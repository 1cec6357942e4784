"""
Rates against adversarial arrivals: never too much in any true window, and hardly less than an exact log admits.

A grant is known by its millisecond, its time cut down. So two grants whose milliseconds are W apart may be less than
W apart in truth, and the checker counts over t to t + W with both ends.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from ratelease import Limits, Rate
from support.clock import START_MS, DrivenClock
from support.store import Instance, Store

MakeStore = Callable[..., Store]
Arrivals = list[tuple[int, int]]
"""Ascending (server ms, requests of that ms)."""
Generator = Callable[[random.Random, int, int, int], Arrivals]
"""(random, limit, window ms, length ms) -> arrivals."""

MODEL = "gpt-4o"
HOUR = 3_600_000


# --- arrivals ----------------------------------------------------------------------------------------------


def edge_spikes(dice: random.Random, limit: int, window: int, length: int) -> Arrivals:
    """Bursts of the whole limit around the edges of windows and of slots, where a count can be cut wrongly."""
    width = slot_width(window)
    near = [-width - 1, -width, -width // 2, -1, 0, 1, width // 2, width - 1, width, width + 1]
    moments = {
        edge + offset
        for edge in range(START_MS + window, START_MS + length - width, window)
        for offset in dice.sample(near, 4)
    }
    return [(at, limit) for at in sorted(moments)]


def sawtooth(dice: random.Random, limit: int, window: int, length: int) -> Arrivals:
    """A load that climbs from nothing to three times the limit, falls to nothing at once, and climbs again."""
    ramp = round(1.37 * window)
    arrivals, at = [], START_MS
    while at < START_MS + length:
        rate = 3 * limit / window * max((at - START_MS) % ramp, window / 20) / ramp
        at += max(1, round(dice.uniform(0.5, 1.5) / rate))
        arrivals.append((at, 1))
    return arrivals


def poisson(dice: random.Random, limit: int, window: int, length: int) -> Arrivals:
    """Arrivals without memory, at one and a half times the limit."""
    times, at = [], float(START_MS)
    while at < START_MS + length:
        at += dice.expovariate(1.5 * limit / window)
        times.append(int(at))
    return [(at, times.count(at)) for at in sorted(set(times))]


GENERATORS = [edge_spikes, sawtooth, poisson]


# --- driving and judging -----------------------------------------------------------------------------------


def slot_width(window: int) -> int:
    """A sixtieth of the window, in whole ms."""
    return -(-window // 60)


def limits(limit: int, window: int, guard: float = 0.0) -> dict[str, Limits]:
    return {f"openai/{MODEL}": Limits(rates=[Rate(limit, per=window / 1000)], guard=guard)}


def store_of(make_store: MakeStore, limits: dict[str, Limits], **options: Any) -> Store:
    """A store whose instances need not beat: a lost store would make them wait for a heartbeat."""
    return make_store(limits=limits, lease_ttl=600.0, **options)


def ask(instance: Instance, line: Any, count: int) -> tuple[int, int]:
    """Ask for so many in one call; returns how many were granted, and when to come again (0: all were granted)."""
    asked = instance.send([instance.request(line) for _ in range(count)])
    return sum(each.granted for each in asked), 0 if asked[-1].granted else asked[-1].answer.at


def impatient(instance: Instance, clock: DrivenClock, arrivals: Arrivals) -> list[int]:
    """The ms of each grant where nobody who is refused comes again."""
    line, grants = instance.line(MODEL), []
    for clock.ms, count in arrivals:
        grants += [clock.ms] * ask(instance, line, count)[0]
    return grants


def patient(instance: Instance, clock: DrivenClock, arrivals: Arrivals, limit: int, end: int) -> list[int]:
    """The ms of each grant before `end` where all who are refused come again when they were told to."""
    line, grants, backlog = instance.line(MODEL), [], 0
    coming, again = iter(arrivals), 0
    following = next(coming, None)
    while following or backlog:
        if following and (not backlog or following[0] <= again):
            clock.ms, count = following
            following, backlog = next(coming, None), backlog + count
        else:
            clock.ms = again
        if clock.ms >= end:
            break
        if clock.ms >= again:
            granted, again = ask(instance, line, min(backlog, limit + 1))
            grants += [clock.ms] * granted
            backlog -= granted
    return grants


def exact_impatient(arrivals: Arrivals, limit: int, window: int) -> list[int]:
    """What a log of every single grant admits where nobody comes again."""
    grants: list[int] = []
    for at, count in arrivals:
        for _ in range(count):
            if len(grants) < limit or grants[-limit] + window <= at:
                grants.append(at)
    return grants


def exact_patient(arrivals: Arrivals, limit: int, window: int, end: int) -> list[int]:
    """What a log of every single grant admits before `end` where all wait for their turn."""
    grants: list[int] = []
    for at, count in arrivals:
        for _ in range(count):
            free = grants[-limit] + window if len(grants) >= limit else at
            grants.append(max(at, free, grants[-1] if grants else at))
    return [at for at in grants if at < end]


def saturated(instance: Instance, clock: DrivenClock, limit: int, phases: Sequence[tuple[int, int]]) -> list[int]:
    """The ms of each grant where in these phases (start, end) somebody always wants more."""
    line, grants = instance.line(MODEL), []
    for start, end in phases:
        at = start
        while at < end:
            clock.ms = at
            granted, again = ask(instance, line, limit + 1)
            grants += [at] * granted
            assert again > at, "whoever was refused is sent back at once"
            at = again
    return grants


def exact_saturated(limit: int, window: int, phases: Sequence[tuple[int, int]]) -> list[int]:
    """What a log of every single grant admits in these phases."""
    grants: list[int] = []
    for start, end in phases:
        at = start
        while at < end:
            free = grants[-limit] + window if len(grants) >= limit else at
            if free <= at:
                grants.append(at)
            at = max(at, free)
    return grants


def most_in_any_window(grants: Sequence[int], window: int) -> int:
    """The most grants that one true window may hold."""
    most = first = 0
    for last, at in enumerate(grants):
        while at - grants[first] > window:
            first += 1
        most = max(most, last - first + 1)
    return most


def one_slot_early(name: str, text: str) -> str:
    """Break a script: the oldest slot leaves its window one slot too early."""
    right = "- rate.window - rate.guard) / rate.width)"
    assert text.count(right) == 1, name
    return text.replace(right, right + " + 1")


def no_end_of_a_slot(name: str, text: str) -> str:
    """Break a script: a charge may go back to a slot that has left its window."""
    return text.replace("slot < rate.first or slot < rate.oldest or slot > rate.newest", "false")


# --- never more than the limit -----------------------------------------------------------------------------


@pytest.mark.covers("RL-02", "PF-08")
@pytest.mark.parametrize("generator", GENERATORS)
def test_no_true_window_of_an_adversarial_hour_holds_more_than_the_limit(
    make_store: MakeStore, clock: DrivenClock, generator: Generator
) -> None:
    """An hour of arrivals at five a minute: no 60 s hold six, and the whole five are used."""
    arrivals = generator(random.Random(11), 5, 60_000, HOUR)
    grants = impatient(store_of(make_store, limits(5, 60_000)).instance(), clock, arrivals)
    assert most_in_any_window(grants, 60_000) == 5


@pytest.mark.covers("RL-02")
@pytest.mark.parametrize("generator", GENERATORS)
def test_a_slot_dropped_one_slot_early_shows_in_a_true_window(
    make_store: MakeStore, clock: DrivenClock, generator: Generator
) -> None:
    """Half an hour at ten a minute: the checker sees eleven as the oldest slot is no longer counted whole."""
    arrivals = generator(random.Random(11), 10, 60_000, HOUR // 2)
    store = store_of(make_store, limits(10, 60_000), rewrite=one_slot_early)
    assert most_in_any_window(impatient(store.instance(), clock, arrivals), 60_000) > 10


@pytest.mark.covers("RL-02")
@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize("window", [10, 100, 1000, 7000], ids="{} ms".format)
def test_a_window_of_any_length_holds_no_more_than_the_limit(
    make_store: MakeStore, clock: DrivenClock, generator: Generator, window: int
) -> None:
    """Also where a slot is one ms, or the window is no whole number of slots."""
    arrivals = generator(random.Random(window), 5, window, 30 * window)
    grants = impatient(store_of(make_store, limits(5, window)).instance(), clock, arrivals)
    assert most_in_any_window(grants, window) == 5


@pytest.mark.covers("RL-02")
@pytest.mark.parametrize("generator", GENERATORS)
def test_waiting_arrivals_never_overfill_a_window(
    make_store: MakeStore, clock: DrivenClock, generator: Generator
) -> None:
    """Those who come again at the very ms that they were told get no more than the limit between them."""
    arrivals = generator(random.Random(12), 10, 60_000, HOUR // 4)
    store = store_of(make_store, limits(10, 60_000))
    grants = patient(store.instance(), clock, arrivals, 10, START_MS + HOUR // 4)
    assert most_in_any_window(grants, 60_000) == 10


def churn(instance: Instance, clock: DrivenClock) -> list[int]:
    """
    The ms of each grant of a limit of 24 in 2 s, but of those whose charge was returned before their 2 s were over.

    Half of the leases are given back unsent after up to 7 s: most slots are then gone, and others stand where they
    stood.
    """
    dice, line = random.Random(13), instance.line(MODEL)
    grants: list[int] = []
    back: list[tuple[int, str]] = []
    for at, count in poisson(dice, 24, 2000, 14_000):
        for due, id in sorted(item for item in back if item[0] <= at):
            clock.ms = due
            instance.release(line, id, unsent=True)
        back = [item for item in back if item[0] > at]
        clock.ms = at
        for asked in instance.send([instance.request(line) for _ in range(count)]):
            delay = dice.randrange(7000) if dice.random() < 1 / 2 else None
            if asked.granted and delay is not None:
                back.append((at + delay, asked.id))
            if asked.granted and (delay is None or delay >= 2000):
                grants.append(at)
    return grants


@pytest.mark.covers("RL-02")
def test_returned_charges_make_no_room_for_more_than_the_limit(make_store: MakeStore, clock: DrivenClock) -> None:
    """What is given back, in time or long after its window, lets in no more than itself."""
    store = store_of(make_store, limits(24, 2000))
    assert most_in_any_window(churn(store.instance(), clock), 2000) <= 24


@pytest.mark.covers("RL-02")
def test_a_charge_returned_to_a_slot_that_is_gone_shows_in_a_true_window(
    make_store: MakeStore, clock: DrivenClock
) -> None:
    """The same run overfills windows if charges return to whatever slot stands where theirs stood."""
    store = store_of(make_store, limits(24, 2000), rewrite=no_end_of_a_slot)
    assert most_in_any_window(churn(store.instance(), clock), 2000) > 24


# --- and hardly less ---------------------------------------------------------------------------------------


@pytest.mark.covers("RL-02")
@pytest.mark.parametrize("generator", GENERATORS)
def test_waiting_arrivals_get_95_percent_of_an_exact_log(
    make_store: MakeStore, clock: DrivenClock, generator: Generator
) -> None:
    """Half an hour of the same arrivals, all of them waiting for their turn."""
    end = START_MS + HOUR // 2
    arrivals = generator(random.Random(14), 10, 60_000, HOUR // 2)
    exact = exact_patient(arrivals, 10, 60_000, end)
    grants = patient(store_of(make_store, limits(10, 60_000)).instance(), clock, arrivals, 10, end)
    assert 0.95 * len(exact) <= len(grants) <= len(exact)


@pytest.mark.covers("RL-02")
@pytest.mark.parametrize("generator", [sawtooth, poisson])
def test_arrivals_that_do_not_wait_get_95_percent_of_an_exact_log(
    make_store: MakeStore, clock: DrivenClock, generator: Generator
) -> None:
    """Half an hour of arrivals that go away when refused."""
    arrivals = generator(random.Random(15), 10, 60_000, HOUR // 2)
    exact = exact_impatient(arrivals, 10, 60_000)
    grants = impatient(store_of(make_store, limits(10, 60_000)).instance(), clock, arrivals)
    assert len(grants) >= 0.95 * len(exact)


def steady_use(instance: Instance, clock: DrivenClock, window: int, windows: int) -> float:
    """The share of the limit (20) that saturation uses; the first burst, that every window may begin with, apart."""
    end = START_MS + windows * window
    grants = saturated(instance, clock, 20, [(START_MS, end + 1)])
    assert most_in_any_window(grants, window) <= 20
    return sum(at > START_MS for at in grants) / (20 * windows)


@pytest.mark.covers("PF-08")
@pytest.mark.parametrize("window", [100, 1000, 7000, 10_000, 60_000], ids="{} ms".format)
def test_saturation_uses_98_percent_of_a_rate_without_guard(
    make_store: MakeStore, clock: DrivenClock, window: int
) -> None:
    """Over 102 windows in which somebody always waits."""
    use = steady_use(store_of(make_store, limits(20, window)).instance(), clock, window, 102)
    assert use >= 0.98


@pytest.mark.covers("PF-08")
@pytest.mark.parametrize("window", [10_000, 60_000, 600_000], ids="{} ms".format)
def test_saturation_uses_95_percent_of_a_rate_with_the_default_guard(
    make_store: MakeStore, clock: DrivenClock, window: int
) -> None:
    """Over 102 windows of 10 s and more in which somebody always waits."""
    use = steady_use(store_of(make_store, limits(20, window, guard=Limits().guard)).instance(), clock, window, 102)
    assert use >= 0.95


@pytest.mark.covers("PF-08")
def test_a_spread_load_is_saturated_as_well_as_a_burst(make_store: MakeStore, clock: DrivenClock) -> None:
    """Where the first grants came one by one, each slot frees its own: 98 % over 12 windows."""
    instance = store_of(make_store, limits(20, 60_000)).instance()
    first = [START_MS + 2971 * i for i in range(20)]
    line = instance.line(MODEL)
    for clock.ms in first:
        assert ask(instance, line, 1) == (1, 0)
    start, end = first[0] + 60_000, first[0] + 13 * 60_000
    grants = saturated(instance, clock, 20, [(start, end)])
    exact = len([at for at in first for k in range(1, 13) if at + 60_000 * k < end])
    assert most_in_any_window([*first, *grants], 60_000) == 20
    assert len(grants) >= 0.98 * exact


@pytest.mark.covers("PF-08")
@pytest.mark.parametrize("window", [1000, 60_000], ids="{} ms".format)
def test_an_on_off_load_gets_98_percent_of_an_exact_log(make_store: MakeStore, clock: DrivenClock, window: int) -> None:
    """Forty phases of one to eight windows in which somebody always waits, and as many of rest."""
    dice, phases, at = random.Random(16), [], START_MS
    for _ in range(40):
        end = at + round(dice.uniform(1, 8) * window)
        phases.append((at, end))
        at = end + round(dice.uniform(0.1, 2) * window)
    exact = exact_saturated(20, window, phases)
    grants = saturated(store_of(make_store, limits(20, window)).instance(), clock, 20, phases)
    assert most_in_any_window(grants, window) == 20
    assert len(grants) >= 0.98 * len(exact)


@pytest.mark.covers("RL-02", "RL-22")
@pytest.mark.parametrize("between", ["grant", "settle", "look"])
def test_what_counts_outlives_housekeeping_by_calls_that_charge_nothing(
    make_store: MakeStore, clock: DrivenClock, between: str
) -> None:
    """Somebody else looks after the keys each second, just before the charge: no charge is forgotten too soon."""
    store = make_store(limits=limits(1000, 10_000), lease_ttl=10.0)
    one = store.instance()
    held = one.acquire(MODEL)
    charged = 1
    for second in range(40):
        clock.advance(1.0)
        if between == "grant":
            one.grant(MODEL)
        elif between == "settle":
            one.settle(MODEL, held.id, "t1", ends=False)
        else:
            one.look(MODEL)
        one.renew(MODEL, held.held)
        clock.advance(0.001)
        asked = one.acquire(MODEL)
        charged += 1
        one.release(MODEL, asked.id)
        counted = one.look(MODEL)[0][0].rates[0].used
        assert counted == min(second + 2, 11), f"after {second} s"
        line = one.line(MODEL)
        assert store.client.pttl(line.keys[9]) >= 10_000
        assert store.client.pttl(line.keys[2]) >= 20_000
