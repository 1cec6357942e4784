"""What acquire.lua decides: the whole path at once, all of a request or none of it."""

import pytest

from ratelease import Limits, Pool, Rate
from ratelease.core.model import Verdict
from support.store import FOR_EVER, GRANTED, IMPOSSIBLE, PARKED, REFUSED

MODEL, PROVIDER, TOTAL = 0, 1, 2


@pytest.mark.covers("AD-02")
def test_a_full_scope_grants_nothing_and_takes_nothing_back(each_store) -> None:
    """Of 4 slots all are in use: two more are refused, and 4 stay in use."""
    one = each_store(limits={"total": Limits(concurrency=4)}).instance()
    assert one.acquire("gpt-4o", n=4).status is GRANTED
    refused = one.acquire("gpt-4o", n=2)
    assert refused.status is REFUSED
    assert (refused.answer.scope, refused.answer.dimension) == (TOTAL, "c")
    assert (refused.answer.used, refused.answer.limit) == (4, 4)
    assert one.used("gpt-4o", TOTAL) == 4


@pytest.mark.covers("AD-02")
def test_a_limit_below_the_use_waits_for_releases(each_store) -> None:
    """A newer instance lowers 4 to 3 while 4 are in use: the next grant comes when fewer than 3 are."""
    store = each_store(limits={"total": Limits(concurrency=4)})
    one = store.instance()
    ids = [one.acquire("gpt-4o").id for _ in range(4)]
    two = store.instance({"total": Limits(concurrency=3)})
    for expected in (4, 3):
        refused = two.acquire("gpt-4o")
        assert refused.status is REFUSED
        assert (refused.answer.used, refused.answer.limit) == (expected, 3)
        one.release("gpt-4o", ids.pop())
    assert two.acquire("gpt-4o").status is GRANTED
    assert one.used("gpt-4o", TOTAL) == 3


@pytest.mark.covers("AD-06")
def test_a_group_waits_holding_nothing_until_all_of_it_fits(each_store) -> None:
    """Of 4 slots 3 are in use: a group of 2 takes none, and gets both at once when 2 are free."""
    store = each_store(limits={"total": Limits(concurrency=4)})
    one, two = store.instance(), store.instance()
    ids = [one.acquire("gpt-4o").id for _ in range(3)]
    group = two.acquire("gpt-4o", n=2, wait=FOR_EVER)
    assert group.status is PARKED
    assert one.used("gpt-4o", TOTAL) == 3
    one.release("gpt-4o", ids[0])
    assert one.used("gpt-4o", TOTAL) == 4
    assert two.acquire("gpt-4o", group.id, n=2).status is GRANTED
    assert set(group.request.lease_ids) <= set(store.leases(one.line("gpt-4o"), TOTAL))


@pytest.mark.covers("AD-08")
def test_every_scope_of_the_path_must_have_room(each_store) -> None:
    """A holds 2 of its model's 2, B 1: the provider's 3 are full for B until A releases, and nothing else changes."""
    limits = {
        "openai/a": Limits(concurrency=2),
        "openai": Limits(concurrency=3),
        "total": Limits(concurrency=8),
    }
    store = each_store(limits=limits)
    one = store.instance()
    held = [one.acquire("a").id for _ in range(2)]
    assert one.acquire("b").granted
    refused = one.acquire("b")
    assert refused.status is REFUSED
    assert (refused.answer.scope, refused.answer.used, refused.answer.limit) == (PROVIDER, 3, 3)
    assert [one.used("b", scope) for scope in (MODEL, PROVIDER, TOTAL)] == [1, 3, 3]
    one.release("a", held[0])
    assert one.acquire("b").granted
    assert [one.used("a", scope) for scope in (MODEL, PROVIDER, TOTAL)] == [1, 3, 3]


@pytest.mark.covers("AD-09")
def test_a_full_rate_leaves_slots_and_tokens_alone(each_store) -> None:
    """Requests per minute are used up, slots and tokens are not: the refusal names the rate and takes none of them."""
    one = each_store(limits={"openai/gpt-4o": Limits(rpm=2, tpm=1000, concurrency=5)}).instance()
    for _ in range(2):
        assert one.acquire("gpt-4o", tokens=10).granted
    refused = one.acquire("gpt-4o", tokens=10)
    assert (refused.status, refused.answer.dimension) == (REFUSED, "r60000")
    model = one.look("gpt-4o")[0][MODEL]
    assert model.in_flight == 2
    assert {rate.dimension: rate.used for rate in model.rates} == {"requests/60s": 2, "tokens/60s": 20}


@pytest.mark.parametrize(
    "options, dimension",
    [
        ({"n": 5}, "c"),
        ({"weight": 5}, "c"),
        ({"n": 2, "weight": 3}, "c"),
        ({"tokens": 101}, "t60000"),
        ({"n": 4, "tokens": 26}, "t60000"),
    ],
)
def test_what_can_never_fit_is_impossible_even_when_nothing_is_free(make_store, options, dimension) -> None:
    """Judged by the limit alone, a wait does not help."""
    one = make_store(limits={"openai/gpt-4o": Limits(tpm=100, concurrency=4)}).instance()
    for hold in (False, True):
        if hold:
            assert one.acquire("gpt-4o", n=4).granted
        asked = one.acquire("gpt-4o", wait=FOR_EVER, **options)
        assert (asked.status, asked.answer.dimension) == (IMPOSSIBLE, dimension)
        assert asked.answer.used > asked.answer.limit


def test_requests_of_one_call_are_decided_in_their_order(each_store) -> None:
    """Of five in one call three fit: the first three, and the others wait behind them."""
    one = each_store(limits={"total": Limits(concurrency=3)}).instance()
    asked = one.send([one.request("gpt-4o", wait=FOR_EVER) for _ in range(5)])
    assert [each.status for each in asked] == [GRANTED] * 3 + [PARKED] * 2
    assert [each.answer.position for each in asked] == [0, 0, 0, 1, 2]


def test_a_pool_is_shared_by_its_models_over_providers(each_store) -> None:
    """Two models of two providers fill one pool of 2."""
    pools = {"big": Pool(["openai/*", "other/*"], Limits(concurrency=2))}
    one = each_store(limits={}, pools=pools).instance()
    assert one.acquire("gpt-4o").granted
    assert one.acquire("other/opus").granted
    refused = one.acquire("gpt-4o")
    assert refused.status is REFUSED
    assert refused.request.line.path.scopes[refused.answer.scope] == "g:big"


def test_a_refusal_by_several_limits_tells_the_time_at_which_all_rates_have_room(make_store, clock) -> None:
    """Two rates are full: the later one counts, and its time is exact to the ms."""
    rates = [Rate(1, per=1.0), Rate(1, per=10.0)]
    one = make_store(limits={"openai/gpt-4o": Limits(rates=rates, guard=0)}).instance()
    assert one.acquire("gpt-4o").granted
    refused = one.acquire("gpt-4o")
    assert refused.answer.dimension == "r10000"
    clock.ms = refused.answer.at - 1
    assert one.acquire("gpt-4o").status is REFUSED
    clock.ms += 1
    assert one.acquire("gpt-4o").status is GRANTED


def test_a_wait_that_cannot_end_in_time_is_refused_at_once(make_store, clock) -> None:
    """Room comes in about 10 s: a wait of 5 s is refused, one of 30 s is parked."""
    one = make_store(limits={"openai/gpt-4o": Limits(rates=[Rate(1, per=10.0)])}).instance()
    assert one.acquire("gpt-4o").granted
    assert one.acquire("gpt-4o", wait=5.0).status is REFUSED
    assert one.acquire("gpt-4o", wait=30.0).status is PARKED


def test_an_answer_says_everything_about_the_limit_in_the_way(make_store, clock) -> None:
    """Scope, dimension, use, limit and, where time decides, when."""
    one = make_store(limits={"openai": Limits(rates=[Rate(2, per=60.0)], guard=0)}).instance()
    assert one.acquire("gpt-4o", n=2).granted
    answer = one.acquire("gpt-4o").answer
    assert answer.status is Verdict.REFUSED
    assert (answer.scope, answer.dimension, answer.used, answer.limit) == (PROVIDER, "r60000", 2, 2)
    assert answer.at == clock.ms + 61_000
    assert answer.estimate == 61_000
