"""What this process does by itself while Redis is away, and how it comes back."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from ratelease import Limits, Rate, Refusal
from ratelease.core.share import Standing
from ratelease.errors import ImpossibleRequest, StoreUnavailable, WaitTimeout
from ratelease.store.lua_source import script
from support.both import Limiter
from support.outages import away, back, known, queued
from support.proxy import TcpProxy
from support.store_view import StoreView
from support.wait_until import wait_until_async

pytestmark = pytest.mark.faults

SCOPE = "openai/gpt-4o"
LIMITS = {SCOPE: Limits(concurrency=4)}

Make = Callable[..., Limiter]


# --- at the start ------------------------------------------------------------------------------------------


@pytest.mark.covers("RD-01")
@pytest.mark.parametrize(
    "policy, expected, admitted",
    [("closed", None, 0), ("closed", 1, 0), ("open", None, 6), ("local", None, 0), ("local", 2, 2), ("local", 3, 1)],
)
async def test_a_store_that_is_away_at_the_start_is_told_within_one_attempt(
    make: Make, proxy: TcpProxy, policy: str, expected: int | None, admitted: int
) -> None:
    """Closed raises, open admits, local admits a share of what is expected; without a figure it is as closed."""
    proxy.refuse()
    limiter = make(on_unavailable=policy, expected_instances=expected, store_timeout=30.0)
    began = time.monotonic()
    given: list[Any] = []
    for _ in range(6):
        try:
            given.append(await limiter.try_acquire("openai", "gpt-4o"))
        except StoreUnavailable as error:
            given.append(error)
    assert time.monotonic() - began < 1.0, "one attempt takes 0.2 s, and then it is known"
    leases = [each for each in given if not isinstance(each, (Refusal, StoreUnavailable))]
    assert [lease.flags for lease in leases] == [{policy}] * admitted
    assert limiter.client._rt.outage.admissions.total() == admitted
    if admitted == 0:
        assert all(isinstance(each, StoreUnavailable) and each.away for each in given)
    if policy == "local" and expected is None:
        assert "set expected_instances" in str(given[-1])


@pytest.mark.covers("RD-01")
async def test_a_store_that_comes_late_is_used_as_soon_as_it_is_there(
    make: Make, proxy: TcpProxy, view: StoreView
) -> None:
    """Leases of before it came are known to it then."""
    proxy.refuse()
    limiter = make(expected_instances=1)
    lease = await limiter.acquire("openai", "gpt-4o")
    await wait_until_async(lambda: limiter.client._rt.outage.away)
    await back(proxy, limiter)
    assert list(view.expiries()) == [lease.id]
    second = await limiter.acquire("openai", "gpt-4o")
    assert second.flags == frozenset()
    await lease.release()
    assert list(view.expiries()) == [second.id]


# --- while running -----------------------------------------------------------------------------------------


@pytest.mark.covers("RD-02", "RL-12")
async def test_instances_admit_their_shares_and_no_more(make: Make, proxy: TcpProxy, view: StoreView) -> None:
    """Of 5 slots and 2 instances one gets 3, the other 2; leases of before count; afterwards all are in the store."""
    limits = {SCOPE: Limits(concurrency=5)}
    fleet = [make(limits), make(limits)]
    before = await fleet[0].acquire("openai", "gpt-4o")
    await known(*fleet)
    await away(proxy, *fleet)
    held = {}
    for limiter in fleet:
        asked = [await limiter.try_acquire("openai", "gpt-4o") for _ in range(5)]
        held[limiter] = [each for each in asked if each]
        refused = asked[-1]
        assert isinstance(refused, Refusal)
        assert (refused.scope, refused.dimension, refused.reason, refused.share) == (
            SCOPE,
            "concurrency",
            "limit",
            True,
        )
        assert refused.used == refused.limit == limiter.client._rt.outage.standing.share(5)
    assert sum(map(len, held.values())) + 1 == 5
    assert before.valid
    assert all(lease.valid and lease.flags == {"local"} for leases in held.values() for lease in leases)
    await back(proxy, *fleet)
    everything = [before, *(lease for leases in held.values() for lease in leases)]
    await wait_until_async(lambda: sorted(view.expiries()) == sorted(lease.id for lease in everything))
    for lease in everything:
        assert lease.valid
        await lease.release()
    assert view.in_flight() == 0


@pytest.mark.covers("RD-02", "RL-12")
async def test_rates_are_shared_as_well_and_what_was_used_before_counts(
    make: Make, proxy: TcpProxy, view: StoreView
) -> None:
    """6 a minute of every scope: 2 of them used before, 4 more locally, and none in the minute after the return."""
    limiter = make({SCOPE: Limits(rates=[Rate(6, per=60.0)])})
    await known(limiter)
    for _ in range(2):
        await (await limiter.acquire("openai", "gpt-4o")).release()
    await away(proxy, limiter)
    for _ in range(4):
        await (await limiter.acquire("openai", "gpt-4o")).release()
    refused = await limiter.try_acquire("openai", "gpt-4o")
    assert (refused.dimension, refused.used, refused.limit) == ("requests/60s", 6, 6)
    assert 55 < refused.retry_after < 63
    await back(proxy, limiter)
    assert view.charged("r60000") == 6
    assert not await limiter.try_acquire("openai", "gpt-4o")


@pytest.mark.covers("RD-02")
async def test_waiters_of_before_follow_the_policy(make: Make, proxy: TcpProxy, view: StoreView) -> None:
    """They were parked in the store: local admits them by the share, in order; what stays goes on waiting there."""
    limiter = make({SCOPE: Limits(concurrency=1)})
    await known(limiter)
    first = await limiter.acquire("openai", "gpt-4o")
    order: list[int] = []

    async def wait(number: int) -> Any:
        lease = await limiter.acquire("openai", "gpt-4o", timeout=20)
        order.append(number)
        return lease

    waiting = []
    for number in range(3):
        waiting.append(asyncio.create_task(wait(number)))
        await wait_until_async(lambda number=number: view.waiting() == number + 1, description="it is parked")
    await away(proxy, limiter)
    assert order == []
    await first.release()
    second = await waiting[0]
    assert second.flags == {"local"}
    await second.release()
    third = await waiting[1]
    await back(proxy, limiter)
    await wait_until_async(lambda: view.waiting() == 1, description="those admitted here have left the store's queue")
    assert list(view.expiries()) == [third.id]
    await third.release()
    last = await waiting[2]
    assert (last.flags, order) == (frozenset(), [0, 1, 2])
    await last.release()
    assert view.in_flight() == 0


@pytest.mark.covers("RD-02")
@pytest.mark.parametrize("policy", ["closed", "open"])
async def test_waiters_of_before_are_told_or_admitted(
    make: Make, proxy: TcpProxy, view: StoreView, policy: str
) -> None:
    """Closed: each is told long before its deadline. Open: each is admitted."""
    limiter = make({SCOPE: Limits(concurrency=1)}, on_unavailable=policy)
    await known(limiter)
    held = await limiter.acquire("openai", "gpt-4o")
    waiting = [asyncio.create_task(limiter.acquire("openai", "gpt-4o", timeout=60).take()) for _ in range(3)]
    waiting.append(asyncio.create_task(limiter.acquire_many("openai", "gpt-4o", 1, timeout=60).take()))
    await wait_until_async(lambda: view.waiting() == 4, description="all are parked")
    began = time.monotonic()
    await away(proxy, limiter)
    ends = await asyncio.gather(*waiting, return_exceptions=True)
    assert time.monotonic() - began < 3.0
    if policy == "closed":
        assert [type(end) for end in ends] == [StoreUnavailable] * 4
    else:
        assert [end.flags for end in (*ends[:3], ends[3][0])] == [{"open"}] * 4
    await back(proxy, limiter)
    await wait_until_async(lambda: view.waiting() == 0, description="all are withdrawn")
    out = [] if policy == "closed" else [*ends[:3], ends[3][0]]
    await wait_until_async(lambda: sorted(view.expiries()) == sorted(each.id for each in (held, *out)))
    for each in (held, *out):
        await each.release()
    assert view.in_flight() == 0


@pytest.mark.covers("RD-02", "QU-02")
async def test_callers_wait_here_in_order_and_go_on_waiting_in_the_store(
    make: Make, proxy: TcpProxy, view: StoreView
) -> None:
    """They came while the store was away; some are admitted by a release here, some by the store."""
    limiter = make({SCOPE: Limits(concurrency=1)})
    await known(limiter)
    await away(proxy, limiter)
    held = await limiter.acquire("openai", "gpt-4o")
    order: list[int] = []

    async def wait(number: int) -> Any:
        lease = await limiter.acquire("openai", "gpt-4o", timeout=20)
        order.append(number)
        return lease

    waiting = []
    for number in range(3):
        waiting.append(asyncio.create_task(wait(number)))
        await wait_until_async(lambda number=number: queued(limiter) == number + 1, description="it waits here")
    assert not await limiter.try_acquire("openai", "gpt-4o"), "nobody barges"
    late = await asyncio.gather(limiter.acquire("openai", "gpt-4o", timeout=0.2).take(), return_exceptions=True)
    assert isinstance(late[0], WaitTimeout)
    assert "its share while the store is away" in str(late[0])
    await held.release()
    await waiting[0]
    await back(proxy, limiter)
    await wait_until_async(lambda: view.waiting() == 2, description="the others wait in the store")
    for task in waiting:
        await (await task).release()
    assert order == [0, 1, 2]
    assert view.in_flight() == view.waiting() == 0


@pytest.mark.covers("RL-12")
async def test_time_makes_room_here_too(make: Make, proxy: TcpProxy) -> None:
    """A waiter gets the share of a rate as soon as its window has room, without anybody's release."""
    limiter = make({SCOPE: Limits(rates=[Rate(1, per=0.6)], guard=0.0)})
    await known(limiter)
    await away(proxy, limiter)
    began = time.monotonic()
    for _ in range(3):
        lease = await limiter.acquire("openai", "gpt-4o", timeout=5)
        await lease.release()
    assert 1.2 <= time.monotonic() - began < 1.6


@pytest.mark.covers("RL-12")
async def test_groups_are_admitted_by_the_share_and_their_rest_follows(make: Make, proxy: TcpProxy) -> None:
    """Two of four at once; the others come as slots are given back; what the share cannot hold is told at once."""
    limiter = make({SCOPE: Limits(concurrency=2)})
    await known(limiter)
    await away(proxy, limiter)
    group = await limiter.acquire_many("openai", "gpt-4o", 4, at_least=2, timeout=10)
    assert [lease.flags for lease in (group[0], group[1])] == [{"local"}] * 2
    rest = group.rest()
    for number in range(2):
        await group[number].release()
        assert (await anext(rest)).flags == {"local"}
    free = await limiter.acquire_many("openai", "gpt-4o", 3, at_least=0)
    assert len(free) == 0
    await group.release()
    assert len(await limiter.acquire_many("openai", "gpt-4o", 3, at_least=0)) == 2
    with pytest.raises(ImpossibleRequest):
        await limiter.acquire("openai", "gpt-4o", weight=3)


@pytest.mark.covers("RL-12")
async def test_a_share_that_cannot_hold_the_request_is_as_closed(make: Make, proxy: TcpProxy) -> None:
    """1 slot, 2 instances: one of them has no share of it. Another limit of the path counts as well."""
    limits = {SCOPE: Limits(concurrency=8), "openai": Limits(concurrency=1)}
    fleet = [make(limits), make(limits)]
    await known(*fleet)
    await away(proxy, *fleet)
    ends = []
    for limiter in fleet:
        try:
            ends.append(await limiter.acquire("openai", "gpt-4o", timeout=5))
        except StoreUnavailable as error:
            ends.append(error)
    errors = [end for end in ends if isinstance(end, StoreUnavailable)]
    assert len(errors) == 1
    assert "Of openai concurrency the share of this instance, one of 2, is 0: the request needs 1" in str(errors[0])


@pytest.mark.covers("RL-12")
async def test_agreed_limits_that_the_store_has_told_count_here(make: Make, proxy: TcpProxy) -> None:
    """An instance of a newer configuration has lowered the limit; the older one has been refused by it once."""
    older = make({SCOPE: Limits(concurrency=9)})
    await known(older)
    await (await older.acquire("openai", "gpt-4o")).release()
    newer = make({SCOPE: Limits(concurrency=2)})
    held = [await newer.acquire("openai", "gpt-4o") for _ in range(2)]
    await known(older, newer)
    refused = await older.try_acquire("openai", "gpt-4o")
    assert refused.limit == 2
    for lease in held:
        await lease.release()
    await away(proxy, older, newer)
    asked = [await older.try_acquire("openai", "gpt-4o") for _ in range(3)]
    assert [bool(each) for each in asked] == [True, False, False]


# --- the way back ------------------------------------------------------------------------------------------


@pytest.mark.covers("RD-02")
async def test_leases_of_an_outage_do_not_end_with_their_ttl(make: Make, proxy: TcpProxy, view: StoreView) -> None:
    """They have no deadline before the store knows them, and the usual one from then on."""
    limiter = make(lease_ttl=0.6, heartbeat=0.2)
    before = await limiter.acquire("openai", "gpt-4o")
    await known(limiter)
    await away(proxy, limiter)
    lease = await limiter.acquire("openai", "gpt-4o")
    await wait_until_async(lambda: before.lost, description="the lease that the store had given is over")
    await asyncio.sleep(0.7)
    assert lease.valid
    assert not lease.lost
    await back(proxy, limiter)
    assert lease.deadline < time.monotonic() + 0.6
    deadline = lease.deadline
    await wait_until_async(lambda: lease.deadline > deadline, description="it is renewed")
    assert list(view.expiries()) == [lease.id]
    await lease.release()
    assert view.in_flight() == 0


@pytest.mark.covers("RD-02")
async def test_a_store_that_has_lost_its_data_learns_what_is_out(
    make: Make, proxy: TcpProxy, redis_client: redis.Redis, view: StoreView
) -> None:
    """A restart without persistence: leases of before and of the outage are registered before anything is granted."""
    limiter = make()
    before = await limiter.acquire("openai", "gpt-4o")
    await known(limiter)
    await away(proxy, limiter)
    lease = await limiter.acquire("openai", "gpt-4o")
    redis_client.flushall()
    await back(proxy, limiter)
    assert sorted(view.expiries()) == sorted([before.id, lease.id])
    assert before.valid
    assert lease.valid


@pytest.mark.covers("RD-02", "RL-12")
async def test_an_outage_is_told_once_and_counted(
    make: Make, proxy: TcpProxy, caplog: pytest.LogCaptureFixture
) -> None:
    """One WARNING, one INFO, and the number of admissions in the instance's record and in the status."""
    limiter = make()
    await known(limiter)
    with caplog.at_level(logging.INFO, "ratelease"):
        for _ in range(2):
            await away(proxy, limiter)
            for _ in range(3):
                await (await limiter.acquire("openai", "gpt-4o")).release()
            await asyncio.sleep(0.5)
            await back(proxy, limiter)
            await wait_until_async(lambda: "answers again" in caplog.text)
            told = [record for record in caplog.records if record.levelno >= logging.INFO]
            assert [record.levelname for record in told] == ["WARNING", "INFO"]
            assert "one of 1, admits its share" in told[0].getMessage()
            caplog.clear()

    async def counted() -> bool:
        status = await limiter.status()
        return status.unavailable_admissions == {"local": 6}

    await wait_until_async(counted, description="the next heartbeat tells it")


@pytest.mark.covers("RL-12")
async def test_a_lease_of_an_outage_that_is_dropped_frees_its_slot(make: Make, proxy: TcpProxy) -> None:
    """Without the garbage collector's help: the failed call of the store keeps no frame of the caller."""
    limiter = make({SCOPE: Limits(concurrency=1)})
    await known(limiter)
    proxy.refuse()
    gc.disable()
    try:
        await limiter.acquire("openai", "gpt-4o", timeout=0.5)
        lease = await limiter.acquire("openai", "gpt-4o", timeout=5)
    finally:
        gc.enable()
    assert lease.flags == {"local"}


@pytest.mark.covers("RD-02")
async def test_whoever_is_back_first_does_not_take_itself_for_the_only_one(make: Make, proxy: TcpProxy) -> None:
    """The others are not listed again yet: for one TTL a heartbeat may raise their number, not lower it."""
    fleet = [make(lease_ttl=0.8, heartbeat=0.3), make(lease_ttl=0.8, heartbeat=0.3)]
    await known(*fleet)
    await away(proxy, *fleet)
    outage = fleet[0].client._rt.outage
    outage.stands(Standing(1, 0))
    assert outage.standing.instances == 2
    await fleet[1].close()
    await back(proxy, fleet[0])
    outage.stands(Standing(3, 2))
    assert outage.standing == Standing(3, 2)
    outage.stands(Standing(1, 0))
    assert outage.standing.instances == 3
    await wait_until_async(lambda: outage.standing == Standing(1, 0), description="a TTL later it is believed")


# --- what is no outage -------------------------------------------------------------------------------------


@pytest.mark.covers("RL-12")
async def test_a_store_that_refuses_is_no_outage(make: Make, proxy: TcpProxy, redis_client: redis.Redis) -> None:
    """A full memory and a newer schema are errors, whatever the policy is."""
    limiter = make(on_unavailable="open")
    await known(limiter)
    redis_client.config_set("maxmemory", 1)
    try:
        with pytest.raises(StoreUnavailable, match="out of memory") as raised:
            await limiter.acquire("openai", "gpt-4o")
    finally:
        redis_client.config_set("maxmemory", 0)
    assert not raised.value.away
    redis_client.hset(limiter.client._rt.keyspace.instance_keys[0], "schema", 2)
    with pytest.raises(StoreUnavailable, match="schema is 2"):
        await limiter.acquire("openai", "gpt-4o")
    redis_client.flushall()
    assert limiter.client._rt.outage.admissions == {}
    assert not limiter.client._rt.outage.away


@pytest.mark.covers("RL-12")
async def test_a_wrong_password_is_no_outage(make: Make, proxy: TcpProxy) -> None:
    """It stays an error at the start as well."""
    url = proxy.url.replace("redis://", "redis://nobody:wrong@")
    limiter = make(on_unavailable="open", url=url)
    with pytest.raises(StoreUnavailable, match="refused the user or password"):
        await limiter.acquire("openai", "gpt-4o")
    assert limiter.client._rt.outage.admissions == {}


@pytest.mark.covers("RL-12")
async def test_one_call_that_gets_no_answer_is_no_outage(make: Make, proxy: TcpProxy, view: StoreView) -> None:
    """The store has answered this process a moment ago: its caller is told, and no policy admits it."""
    limiter = make({SCOPE: Limits(concurrency=2)}, heartbeat=0.1, attempt_timeout=0.4, on_unavailable="open")
    await known(limiter)
    await (await limiter.acquire("openai", "gpt-4o")).release()
    proxy.drop_replies(3, matching=script("acquire").sha.encode(), hang=True)
    with pytest.raises(StoreUnavailable) as raised:
        await limiter.acquire("openai", "gpt-4o", timeout=0.3)
    assert not raised.value.away
    assert not limiter.client._rt.outage.away
    proxy.passing()
    await wait_until_async(lambda: view.in_flight() == 0, description="what it took has been returned")
    assert (await limiter.acquire("openai", "gpt-4o")).flags == frozenset()
    assert limiter.client._rt.outage.admissions == {}
