"""Who gets what becomes free: order, claims, hops between paths, instances that went silent."""

import pytest

from ratelease import Limits, Pool, Rate
from support.store import FOR_EVER, GRANTED, IMPOSSIBLE, PARKED, REFUSED, WITHDRAWN

MODEL, PROVIDER, TOTAL = 0, 1, 2
ONE_SLOT = {"total": Limits(concurrency=1)}


def _granted(store) -> list[tuple[str, str]]:
    """Instance and id of every grant announced since the last look."""
    return [(name, word[1:]) for name, _, words in store.mail() for word in words if word.startswith("+")]


@pytest.mark.covers("LS-11")
def test_a_late_claim_of_a_slot_that_is_still_free_is_granted(make_store, clock) -> None:
    """With nobody else waiting the silent instance loses nothing but time."""
    store = make_store(limits={"openai/gpt-4o": Limits(rpm=10, concurrency=1)})
    one = store.instance()
    held = one.acquire("gpt-4o")
    waiter = one.acquire("gpt-4o", wait=FOR_EVER)
    one.release("gpt-4o", held.id)
    clock.advance(8)
    assert one.send([waiter.request])[0].status is GRANTED
    assert one.used("gpt-4o") == 1
    assert one.look("gpt-4o")[0][MODEL].rates[0].used == 2


@pytest.mark.covers("LS-11")
@pytest.mark.parametrize("call", ["acquire", "release", "grant", "renew", "beat"])
def test_any_call_ends_the_silence_of_an_instance(make_store, clock, call) -> None:
    """Whatever it says, from then on it is granted again."""
    store = make_store(limits=ONE_SLOT)
    holder, silent = store.instance(), store.instance()
    held = holder.acquire("gpt-4o")
    own = silent.acquire("other/b")
    waiter = silent.acquire("gpt-4o", wait=FOR_EVER)
    holder.release("gpt-4o", held.id)
    clock.advance(3)
    holder.grant("gpt-4o")
    line = holder.line("gpt-4o")
    assert store.queue(line) == [waiter.id], "passed over, although the slot is free"
    store.listen()
    {
        "acquire": lambda: silent.acquire("c", weight=2),
        "release": lambda: silent.release("c", "x"),
        "grant": lambda: silent.grant("c"),
        "renew": lambda: silent.renew("other/b", own.held),
        "beat": silent.beat,
    }[call]()
    holder.grant("gpt-4o")
    assert _granted(store) == [(silent.name, waiter.id)]


@pytest.mark.covers("LS-11")
def test_many_grants_that_lapse_at_once_never_exceed_the_limit(make_store, clock) -> None:
    """More lapse than one call takes back: late claims of the rest are judged anew, not trusted."""
    store = make_store(limits={"total": Limits(concurrency=150)})
    holder, silent, other = (store.instance() for _ in range(3))
    group = holder.acquire("gpt-4o", n=150)
    waiters = silent.send([silent.request("gpt-4o", wait=FOR_EVER) for _ in range(100)])
    holder.release_all("gpt-4o", group.request.lease_ids)
    clock.advance(3)
    assert other.send([other.request("b") for _ in range(150)])[-1].granted
    late = silent.send([waiter.request for waiter in reversed(waiters)])
    assert {asked.status for asked in late} == {PARKED}
    assert holder.used("gpt-4o", TOTAL) == 150
    silent.release_all("gpt-4o", [waiter.id for waiter in waiters])
    assert holder.used("gpt-4o", TOTAL) == 150


@pytest.mark.covers("LS-11")
def test_a_grant_whose_claims_key_has_expired_is_not_trusted(make_store, clock) -> None:
    """The path slept while another took the slot: a claim after that waits, it does not overshoot."""
    store = make_store(limits=ONE_SLOT)
    holder, silent = store.instance(), store.instance()
    held = holder.acquire("gpt-4o")
    waiter = silent.acquire("gpt-4o", wait=FOR_EVER)
    holder.release("gpt-4o", held.id)
    store.client.delete(holder.line("gpt-4o").keys[4])
    clock.advance(3)
    assert holder.acquire("other/b").granted
    assert silent.send([waiter.request])[0].status is PARKED
    assert holder.used("gpt-4o", TOTAL) == 1


def test_the_waiters_of_a_dead_instance_are_dropped(make_store, clock) -> None:
    """An instance that no longer beats loses its places after one TTL; those behind it are granted."""
    store = make_store(limits=ONE_SLOT)
    holder, dead, alive = (store.instance() for _ in range(3))
    held = holder.acquire("gpt-4o")
    for _ in range(10):
        dead.acquire("gpt-4o", wait=FOR_EVER)
    waiter = alive.acquire("gpt-4o", wait=FOR_EVER)
    for _ in range(3):
        clock.advance(5)
        alive.beat()
        holder.renew("gpt-4o", held.held)
    holder.release("gpt-4o", held.id)
    assert alive.grant("gpt-4o") == [waiter.id]
    assert store.queue(holder.line("gpt-4o")) == []


def test_a_waiter_whose_deadline_has_passed_is_dropped(make_store, clock) -> None:
    """Nothing is granted to a caller that has gone."""
    store = make_store(limits=ONE_SLOT)
    one = store.instance()
    held = one.acquire("gpt-4o")
    one.acquire("gpt-4o", wait=2.0)
    patient = one.acquire("gpt-4o", wait=60.0)
    clock.advance(2)
    one.release("gpt-4o", held.id)
    assert one.grant("gpt-4o") == [patient.id]


def test_a_request_repeated_after_its_deadline_is_not_lost(make_store, clock) -> None:
    """It asks anew: what says that it is parked, is in the queue."""
    store = make_store(limits=ONE_SLOT)
    one = store.instance()
    assert one.acquire("gpt-4o").granted
    waiter = one.acquire("gpt-4o", wait=2.0)
    clock.advance(2)
    assert one.send([waiter.request])[0].status is PARKED
    assert store.queue(one.line("gpt-4o")) == [waiter.id]


def test_a_waiter_that_no_longer_fits_is_told_and_the_queue_goes_on(make_store) -> None:
    """A newer instance lowers the limit below what the head needs."""
    store = make_store(limits={"total": Limits(concurrency=4)})
    one = store.instance()
    held = one.acquire("gpt-4o", n=3)
    head, behind = (one.acquire("gpt-4o", n=n, wait=FOR_EVER) for n in (3, 1))
    two = store.instance({"total": Limits(concurrency=2)})
    store.listen()
    two.acquire("b")
    for id in held.request.lease_ids[:2]:
        one.release("gpt-4o", id)
    words = [word for _, _, words in store.mail() for word in words if word[0] in "+-"]
    assert words == [f"-{head.id}", f"+{behind.id}"]
    assert one.send([head.request])[0].status is IMPOSSIBLE


@pytest.mark.covers("QU-17")
def test_a_path_blocked_by_its_own_model_leaves_the_provider_to_others(make_store, clock) -> None:
    """The oldest path waits for its model's requests per minute: the provider's freed slots go to another path."""
    store = make_store(limits={"openai/slow": Limits(rpm=1), "openai": Limits(concurrency=3)})
    one, two = store.instance(), store.instance()
    held = [one.acquire("slow"), one.acquire("fast"), one.acquire("fast")]
    oldest = one.acquire("slow", wait=FOR_EVER)
    waiters = [two.acquire("fast", wait=FOR_EVER) for _ in range(2)]
    for asked, waiter in zip(held, waiters, strict=False):
        model = asked.request.line.model
        one.release(model, asked.id)
        if model == "slow":
            assert one.following == waiter.request.line.path.name
            one.grant(one.following_lines()[0])
        assert two.grant("fast") == [waiter.id]
        assert two.send([waiter.request])[0].status is GRANTED
    assert store.queue(one.line("slow")) == [oldest.id]
    assert two.acquire("fast").status is REFUSED


def test_a_release_names_every_path_that_it_can_serve(make_store) -> None:
    """One release frees the provider and a pool, and another path waits for each of them: both are named."""
    pools = {"small": Pool(["openai/a", "other/c"], Limits(concurrency=1))}
    store = make_store(limits={"openai": Limits(concurrency=1)}, pools=pools)
    one = store.instance()
    held = one.acquire("a")
    at_provider = one.acquire("b", wait=FOR_EVER)
    at_pool = one.acquire("other/c", wait=FOR_EVER)
    one.release("a", held.id)
    assert set(one.following.split()) == {at_provider.request.line.path.name, at_pool.request.line.path.name}


@pytest.mark.parametrize("aged", [False, True])
def test_paths_that_wait_for_more_than_is_free_do_not_call_each_other_for_ever(make_store, clock, aged) -> None:
    """Each of two paths waits for a group in another scope: some is free in both, enough in neither."""
    store = make_store(limits={"openai": Limits(concurrency=4), "total": Limits(concurrency=6)})
    one = store.instance()
    held = [one.acquire("a", n=3), one.acquire("other/c", n=2)]
    group_a = one.acquire("a", n=2, wait=FOR_EVER)
    group_c = one.acquire("other/c", n=2, wait=FOR_EVER)
    assert (group_a.answer.scope, group_c.answer.scope) == (PROVIDER, TOTAL)
    if aged:
        for _ in range(5):
            clock.advance(5)
            one.beat()
            for asked in held:
                one.renew(asked.request.line, asked.held)
    for model in ("a", "other/c", "a"):
        one.grant(model)
        assert one.following == ""
    one.release("a", held[0].request.lease_ids[0])
    assert one.grant("a") == [group_a.id]


def test_a_path_in_the_way_whose_process_has_died_is_named_though_it_does_not_fit(make_store, clock) -> None:
    """It waited for more than is free, and can wait no more: those behind it are not kept by it."""
    store = make_store(limits={"openai": Limits(concurrency=3)})
    one, dead = store.instance(), store.instance()
    held = one.acquire("a")
    dead.acquire("b", n=3, wait=FOR_EVER)
    for _ in range(3):
        clock.advance(5)
        one.beat()
        one.renew("a", held.held)
    waiter = one.acquire("c", wait=FOR_EVER)
    assert waiter.status is PARKED
    assert one.following == dead.line("b").path.name
    one.grant(one.following_lines()[0])
    assert one.following == waiter.request.line.path.name
    one.grant("c")
    assert one.send([waiter.request])[0].status is GRANTED


def test_a_timer_is_given_to_the_process_of_the_head(make_store, clock) -> None:
    """Only time can serve the head: its process is told when, by the answer or by a message."""
    store = make_store(limits={"openai": Limits(rates=[Rate(1, per=10.0)], guard=0)})
    one, two = store.instance(), store.instance()
    first = one.acquire("a")
    due = one.acquire("a").answer.at
    waiter = one.acquire("a", wait=FOR_EVER)
    assert one.header.timer == due
    second = two.acquire("a", wait=FOR_EVER)
    assert two.header.timer == 0, "one timer is enough"
    store.listen()
    assert one.release("a", waiter.id) is WITHDRAWN
    letters = store.mail()
    assert letters == [(two.name, second.request.line.path.name, [f"@{due}"])]
    clock.ms = due
    assert two.grant("a") == [second.id]
    assert one.release("a", first.id)


def test_a_new_head_gets_the_timer_when_the_instance_before_it_went_silent(make_store, clock) -> None:
    """The old head is passed over: the next one's process must know when to come."""
    store = make_store(limits={"openai": Limits(rates=[Rate(2, per=30.0)], guard=0)})
    silent, other, third = (store.instance() for _ in range(3))
    third.acquire("a")
    clock.advance(10)
    third.acquire("a")
    small = silent.acquire("a", wait=FOR_EVER)
    due = silent.header.timer
    large = other.acquire("a", n=2, wait=FOR_EVER)
    for _ in range(4):
        clock.advance(5)
        silent.beat()
        other.beat()
    clock.ms = due
    store.listen()
    third.grant("a")
    assert _granted(store) == [(silent.name, small.id)]
    clock.advance(3)
    other.beat()
    third.grant("a")
    ((name, _, words),) = store.mail()
    assert (name, words[0][0]) == (other.name, "@")
    clock.ms = int(words[0][1:])
    other.beat()
    assert other.grant("a") == [large.id]


def test_who_stands_behind_is_not_named(make_store) -> None:
    """A group waits for more than is free, a single request behind it would fit: nobody hops to the latter in vain."""
    store = make_store(limits={"openai": Limits(concurrency=3)})
    one = store.instance()
    held = one.acquire("a", n=2)
    group = one.acquire("b", n=3, wait=FOR_EVER)
    single = one.acquire("c", wait=FOR_EVER)
    assert (group.status, single.status) == (PARKED, PARKED)
    assert single.answer.dimension == "queue"
    for model in ("b", "c", "b"):
        one.grant(model)
        assert one.following == ""
    one.release("a", held.request.lease_ids[0])
    assert one.following == ""


@pytest.mark.parametrize("aged", [True, False])
def test_a_head_that_has_waited_20_s_is_kept_what_it_needs_together(make_store, clock, aged) -> None:
    """It needs a pool and a provider that are never free at once: the first that frees is kept until the second."""
    pools = {"small": Pool(["openai/b", "other/x"], Limits(concurrency=1))}
    store = make_store(limits={"openai": Limits(concurrency=1)}, pools=pools)
    one = store.instance()
    at_provider, at_pool = one.acquire("a"), one.acquire("other/x")
    head = one.acquire("b", wait=FOR_EVER)
    for _ in range(5 if aged else 3):
        clock.advance(5)
        one.beat()
        for asked in (at_provider, at_pool):
            one.renew(asked.request.line, asked.held)
        one.send([head.request])
    one.release("other/x", at_pool.id)
    assert one.following == head.request.line.path.name
    assert one.grant("b") == []
    newcomer = one.acquire("other/x")
    if aged:
        assert (newcomer.status, newcomer.answer.dimension) == (REFUSED, "queue")
        assert one.following == "", "it is not tried again before the provider frees"
    else:
        assert newcomer.granted
        one.release("other/x", newcomer.id)
    one.release("a", at_provider.id)
    assert one.following == head.request.line.path.name
    assert one.grant("b") == [head.id]
