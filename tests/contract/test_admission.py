"""How many are granted, and that whoever is refused has consumed nothing."""

import asyncio

import pytest

from ratelease import Limits, Outcome
from ratelease.core.scripts import RELEASE, Call
from ratelease.errors import ImpossibleRequest, WaitTimeout
from ratelease.strategies import Penalty
from support.wait_until import wait_until_async

MODEL = ("openai", "gpt-4o")
FOUR = {"total": Limits(concurrency=4), "openai": Limits()}


@pytest.mark.covers("AD-01")
async def test_a_caller_gets_the_smaller_of_what_it_asks_and_what_is_free(make_limiter) -> None:
    """Of 4 slots with 2 in use, a request for 3 gets exactly 2."""
    limiter = make_limiter(limits=FOUR)
    held = await limiter.hold("openai", "gpt-4o", 2)
    group = await limiter.acquire_many("openai", "gpt-4o", 3, at_least=0)
    assert len(group) == 2
    assert await limiter.in_flight("total") == 4
    assert all(lease.valid for lease in held)


@pytest.mark.covers("AD-01")
async def test_a_caller_that_asks_for_less_than_is_free_gets_what_it_asks(make_limiter) -> None:
    """Of 4 free slots, a request for 3 takes 3."""
    limiter = make_limiter(limits=FOUR)
    assert len(await limiter.acquire_many("openai", "gpt-4o", 3, at_least=0)) == 3
    assert await limiter.in_flight("total") == 3


@pytest.mark.covers("AD-02")
async def test_a_full_limit_grants_nothing_and_takes_nothing_back(make_limiter) -> None:
    """With 4 of 4 in use, a request for 2 gets none, and use stays 4."""
    limiter = make_limiter(limits=FOUR)
    held = await limiter.acquire_many("openai", "gpt-4o", 4)
    assert len(await limiter.acquire_many("openai", "gpt-4o", 2, at_least=0)) == 0
    assert await limiter.in_flight("total") == 4
    assert all(held[i].valid for i in range(4))


@pytest.mark.covers("AD-02")
async def test_a_limit_lowered_below_the_use_revokes_nobody_and_admits_when_use_is_below_it(make_limiter) -> None:
    """A newer client brings limit 3 while 4 run: nothing is granted until the use has fallen to 2."""
    held = await make_limiter(limits=FOUR).acquire_many("openai", "gpt-4o", 4)
    limiter = make_limiter(limits={"total": Limits(concurrency=3), "openai": Limits()})
    for still_in_use in (4, 3):
        assert len(await limiter.acquire_many("openai", "gpt-4o", 2, at_least=0)) == 0
        assert await limiter.in_flight("total") == still_in_use
        assert all(held[i].valid for i in range(4 - still_in_use, 4))
        await held[4 - still_in_use].release()
    assert len(await limiter.acquire_many("openai", "gpt-4o", 2, at_least=0)) == 1


@pytest.mark.covers("AD-02")
async def test_the_newest_instance_says_what_the_limit_is(make_limiter) -> None:
    """An older instance with another figure keeps to what the newer one has brought."""
    older = make_limiter(limits=FOUR)
    await (await older.acquire("openai", "gpt-4o")).release()
    newer = make_limiter(limits={"total": Limits(concurrency=2), "openai": Limits()})
    await (await newer.acquire("openai", "gpt-4o")).release()
    assert len(await older.acquire_many("openai", "gpt-4o", 4, at_least=0)) == 2
    status = (await older.status()).scope("total")
    assert status is not None
    assert status.concurrency == 2


@pytest.mark.covers("AD-03")
async def test_a_partial_grant_is_completed_by_the_next_release(make_limiter) -> None:
    """Of 3 with at_least=1 and 2 free, 2 come at once; the third comes by itself when a slot is released."""
    limiter = make_limiter(limits=FOUR)
    held = await limiter.hold("openai", "gpt-4o", 2)
    async with limiter.acquire_many("openai", "gpt-4o", 3, at_least=1) as group:
        assert len(group) == 2
        assert await limiter.waiting() == 1
        await held[0].release()
        later = [lease async for lease in group.rest()]
        assert [lease.valid for lease in later] == [True]
        assert len(group) == 3
        assert await limiter.in_flight("total") == 4
    assert await limiter.in_flight("total") == 1


@pytest.mark.covers("AD-05")
async def test_a_group_counts_each_lease_and_releases_each_by_itself(make_limiter) -> None:
    """Two leases with ids of one group: use rises by 2, falls by 1, and leaving the group releases the other."""
    limiter = make_limiter(limits=FOUR)
    async with limiter.acquire_many("openai", "gpt-4o", 2) as group:
        assert await limiter.in_flight("total") == 2
        assert {group[i].id.rpartition(".")[0] for i in range(2)} == {group[0].id.rpartition(".")[0]}
        assert group[0].id != group[1].id
        await group[0].release()
        assert await limiter.in_flight("total") == 1
        assert group[1].valid
    assert await limiter.in_flight("total") == 0


@pytest.mark.covers("AD-05")
async def test_leaving_a_group_by_an_error_releases_what_is_left(make_limiter) -> None:
    """The body of a group raises, and nothing stays in use."""
    limiter = make_limiter(limits=FOUR)
    with pytest.raises(KeyError):
        async with limiter.acquire_many("openai", "gpt-4o", 3):
            raise KeyError
    assert await limiter.in_flight("total") == 0


@pytest.mark.covers("AD-06")
async def test_a_group_takes_all_or_nothing(make_limiter) -> None:
    """With 3 of 4 in use a group of 2 waits and holds nothing; both come together once 2 are free."""
    limiter = make_limiter(limits=FOUR)
    held = await limiter.hold("openai", "gpt-4o", 3)
    asking = asyncio.create_task(limiter.acquire_many("openai", "gpt-4o", 2).take())
    await limiter.until_waiting(1)
    assert await limiter.in_flight("total") == 3
    await held[0].release()
    group = await asking
    assert len(group) == 2
    assert await limiter.in_flight("total") == 4


@pytest.mark.covers("AD-06")
async def test_a_group_that_is_passed_over_holds_nothing(make_limiter) -> None:
    """A limit of 4 is reduced to less than the 2 that are asked for: what is asked for behind them is not kept."""
    limits = {"openai/gpt-4o": Limits(concurrency=4, rpm=100, strategy=Penalty(half_life=3600))}
    limiter, other = make_limiter(limits=limits), make_limiter(limits=limits)
    await (await other.acquire("openai", "gpt-4o")).release(Outcome.THROTTLED)
    asking = asyncio.create_task(limiter.acquire_many("openai", "gpt-4o", 3, at_least=2).take())
    await limiter.until_waiting(1)

    async def all_is_back() -> bool:
        return await limiter.in_flight("openai/gpt-4o") == 0

    await wait_until_async(all_is_back, description="nothing is held")
    assert await limiter.used("openai/gpt-4o", "requests/60s") == 1
    await (await other.acquire("openai", "gpt-4o", timeout=0.5)).release()
    await limiter.reset("openai", "gpt-4o")
    group = await asking
    come = len(group)
    assert come >= 2
    assert len([lease async for lease in group.rest()]) + come == 3


@pytest.mark.covers("AD-03")
async def test_a_group_that_is_granted_together_with_its_rest_gives_nothing_back(make_limiter, monkeypatch) -> None:
    """Six slots are released by one call: the group is claimed before what was asked for behind it."""
    limits = {"openai/gpt-4o": Limits(concurrency=6)}
    limiter = make_limiter(limits=limits)
    held = await make_limiter(limits=limits).acquire_many("openai", "gpt-4o", 6)
    asking = asyncio.create_task(limiter.acquire_many("openai", "gpt-4o", 6, at_least=2).take())
    await limiter.until_waiting(5)
    keeper, scripts = limiter.client._rt.keeper, []
    run = keeper.run_script

    async def noted(call: Call) -> object:
        scripts.append(call.script)
        return await run(call)

    monkeypatch.setattr(keeper, "run_script", noted)
    await held.release()
    group = await asking
    come = len(group)
    assert len([lease async for lease in group.rest()]) + come == 6
    assert RELEASE not in scripts


@pytest.mark.covers("AD-06")
async def test_a_group_does_not_wait_for_a_slot_of_its_own(make_limiter) -> None:
    """It is passed over while a limit is reduced; then an operator makes two slots of it, and it needs them both."""
    limits = {"openai/gpt-4o": Limits(concurrency=4, strategy=Penalty(half_life=0.3))}
    limiter, other = make_limiter(limits=limits), make_limiter(limits=limits)
    await (await other.acquire("openai", "gpt-4o")).release(Outcome.THROTTLED)
    asking = asyncio.create_task(limiter.acquire_many("openai", "gpt-4o", 3, at_least=2, timeout=8).take())
    await limiter.until_waiting(1)
    await limiter.call(other.client.operator.set_limits, "openai", "gpt-4o", Limits(concurrency=2))
    group = await asking
    assert len(group) == 2
    await group[0].release()
    assert len([lease async for lease in group.rest()]) == 1


@pytest.mark.covers("AD-06")
async def test_a_group_that_gives_up_has_consumed_nothing(make_limiter) -> None:
    """A group of 2 with 1 slot free ends at its deadline; the free slot was never taken."""
    limiter = make_limiter(limits={"openai/gpt-4o": Limits(concurrency=4, rpm=100)})
    await limiter.hold("openai", "gpt-4o", 3)
    with pytest.raises(TimeoutError):
        await limiter.acquire_many("openai", "gpt-4o", 2, timeout=0.1)
    assert await limiter.in_flight("openai/gpt-4o") == 3
    assert await limiter.used("openai/gpt-4o", "requests/60s") == 3
    assert await limiter.waiting() == 0
    assert await limiter.try_acquire("openai", "gpt-4o")


@pytest.mark.covers("AD-06")
@pytest.mark.parametrize("at_least", [1, 2])
async def test_a_group_that_cannot_come_before_its_deadline_is_told_so_at_once(make_limiter, at_least) -> None:
    """One request is left in this minute: the group of two is refused now, or after its first lease."""
    limiter = make_limiter(limits={"openai/gpt-4o": Limits(rpm=2)})
    await limiter.hold("openai", "gpt-4o")

    async def all_of_them() -> None:
        async with limiter.acquire_many("openai", "gpt-4o", 2, at_least=at_least, timeout=5) as group:
            assert (at_least, len(group)) == (1, 1)
            assert [lease async for lease in group.rest()] == []

    with pytest.raises(WaitTimeout) as caught:
        await all_of_them()
    error = caught.value
    assert (error.scope, error.dimension, error.limit) == ("openai/gpt-4o", "requests/60s", 2)
    assert error.waited < 1.0
    assert error.retry_after > 50
    assert await limiter.in_flight("openai/gpt-4o") == 1


@pytest.mark.covers("AD-01")
async def test_a_group_that_takes_what_is_free_asks_for_no_rest(make_limiter) -> None:
    """at_least=0 never waits, neither for a slot nor for a rate: rest() yields nothing."""
    limiter = make_limiter(limits={"openai/gpt-4o": Limits(rpm=2)})
    group = await limiter.acquire_many("openai", "gpt-4o", 5, at_least=0)
    assert len(group) == 2
    assert [lease async for lease in group.rest()] == []
    assert await limiter.waiting() == 0


@pytest.mark.covers("AD-08")
async def test_every_limit_of_a_path_must_have_room(make_limiter) -> None:
    """Model limit 2, provider 3, total 8: the provider's limit makes a model wait whose own limit has room."""
    limiter = make_limiter(
        limits={"openai/*": Limits(concurrency=2), "openai": Limits(concurrency=3), "total": Limits(concurrency=8)}
    )
    first = await limiter.hold("openai", "model-a", 2)
    await limiter.hold("openai", "model-b")
    refused = await limiter.try_acquire("openai", "model-b")
    assert (refused.scope, refused.dimension, refused.used, refused.limit) == ("openai", "concurrency", 3, 3)
    waiting = asyncio.create_task(limiter.acquire("openai", "model-b").take())
    await limiter.until_waiting(1)
    use = {scope: await limiter.in_flight(scope) for scope in ("openai/model-a", "openai/model-b", "openai", "total")}
    assert use == {"openai/model-a": 2, "openai/model-b": 1, "openai": 3, "total": 3}
    await first[0].release()
    assert (await waiting).valid
    assert await limiter.in_flight("openai/model-b") == 2


@pytest.mark.covers("AD-09")
async def test_a_request_refused_by_one_rate_changes_no_other_counter(make_limiter, store) -> None:
    """With concurrency free and RPM used up, neither slots nor tokens are charged: every key stays as it was."""
    limiter = make_limiter(limits={"openai/gpt-4o": Limits(concurrency=8, rpm=2, tpm=10_000)}, heartbeat=0.5)
    for _ in range(2):
        await (await limiter.acquire("openai", "gpt-4o", tokens=1000)).release()
    kept = {key: store.dump(key) for key in store.keys("*m:openai*")}
    assert kept
    refused = await limiter.try_acquire("openai", "gpt-4o", tokens=1000)
    assert (refused.scope, refused.dimension) == ("openai/gpt-4o", "requests/60s")
    assert {key: store.dump(key) for key in store.keys("*m:openai*")} == kept
    assert await limiter.used("openai/gpt-4o", "tokens/60s") == 2000
    assert await limiter.in_flight("openai/gpt-4o") == 0


@pytest.mark.covers("AD-10")
@pytest.mark.parametrize(
    "ask, options, dimension, need, limit",
    [
        ("many", {}, "concurrency", 5, 4),
        ("one", {"weight": 5}, "concurrency", 5, 4),
        ("one", {"tokens": 50_000}, "tokens/60s", 50_000, 40_000),
    ],
)
async def test_what_can_never_fit_is_refused_at_once(make_limiter, ask, options, dimension, need, limit) -> None:
    """More at once than a limit has is ImpossibleRequest, with the figures, even while others wait."""
    limiter = make_limiter(limits={"openai/gpt-4o": Limits(concurrency=4, tpm=40_000)})
    with pytest.raises(ImpossibleRequest) as caught:
        await (limiter.acquire_many("openai", "gpt-4o", 5) if ask == "many" else limiter.acquire(*MODEL, **options))
    error = caught.value
    assert (error.scope, error.dimension, error.used, error.limit) == ("openai/gpt-4o", dimension, need, limit)
    assert await limiter.in_flight("openai/gpt-4o") == 0


@pytest.mark.covers("AD-10")
async def test_what_fits_the_agreed_limit_is_not_impossible_however_little_is_free(make_limiter) -> None:
    """A request for all 4 slots waits while one is in use: fit is judged by the limit, not by what is left of it."""
    limiter = make_limiter(limits={"openai/gpt-4o": Limits(concurrency=4)})
    held = await limiter.acquire("openai", "gpt-4o")
    waiting = asyncio.create_task(limiter.acquire("openai", "gpt-4o", weight=4).take())
    await limiter.until_waiting(1)
    await held.release()
    assert (await waiting).valid


@pytest.mark.covers("AD-10")
async def test_a_waiter_that_no_longer_fits_is_told_and_the_queue_goes_on(make_limiter) -> None:
    """The limit falls from 4 to 2: the parked request of weight 3 is impossible now, the one behind it is granted."""
    limiter = make_limiter(limits={"openai/gpt-4o": Limits(concurrency=4)})
    held = await limiter.acquire("openai", "gpt-4o", weight=4)
    large = asyncio.create_task(limiter.acquire("openai", "gpt-4o", weight=3).take())
    await limiter.until_waiting(1)
    small = asyncio.create_task(limiter.acquire("openai", "gpt-4o").take())
    await limiter.until_waiting(2)
    newer = make_limiter(limits={"openai/gpt-4o": Limits(concurrency=2)})
    assert not await newer.try_acquire("openai", "gpt-4o")
    await held.release()
    with pytest.raises(ImpossibleRequest) as caught:
        await large
    assert (caught.value.used, caught.value.limit) == (3, 2)
    assert (await small).valid


@pytest.mark.covers("AD-11")
@pytest.mark.parametrize("options", [{"unknown": "unlimited"}, {"limits": {"openai/gpt-4o": Limits()}}])
async def test_without_a_limit_use_is_granted_and_counted_all_the_same(make_limiter, options) -> None:
    """No limit: granted at once, counted in every scope of the path, and status shows no limit before and after."""
    limiter = make_limiter(**options)
    group = await limiter.acquire_many("openai", "gpt-4o", 50)
    status = await limiter.status()
    assert {scope.scope: (scope.in_flight, scope.concurrency, scope.rates) for scope in status.scopes} == {
        "openai/gpt-4o": (50, None, ()),
        "openai": (50, None, ()),
        "total": (50, None, ()),
    }
    await group.release()
    status = await limiter.status()
    assert {(scope.in_flight, scope.concurrency) for scope in status.scopes} == {(0, None)}


@pytest.mark.covers("AD-03")
async def test_who_waits_for_the_rest_of_a_group_is_told_when_the_group_is_released(make_limiter) -> None:
    """Another task releases it: the loop over the rest ends, rather than wait for its deadline."""
    limiter = make_limiter(limits=FOUR)
    held = await limiter.hold("openai", "gpt-4o", 3)
    group = await limiter.acquire_many("openai", "gpt-4o", 3, at_least=1, timeout=60)

    async def rest() -> int:
        return len([lease async for lease in group.rest()])

    waiting = asyncio.create_task(rest())
    await limiter.until_waiting(2)
    await group.release()
    assert await asyncio.wait_for(waiting, 5.0) == 0
    assert all(lease.valid for lease in held)
