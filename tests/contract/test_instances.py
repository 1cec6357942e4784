"""The list of instances, and what status says."""

import asyncio
import json
import os
import socket
import time

import pytest

from ratelease import Instance, Limits, Pool, Rate, Status
from support.peer import Peer
from support.wait_until import wait_until_async

SCOPE = "openai/gpt-4o"
LIMITS = {SCOPE: Limits(concurrency=4, rpm=100)}


@pytest.mark.covers("ST-01")
async def test_an_instance_is_listed_from_its_first_heartbeat_until_its_end(make_limiter) -> None:
    """Listed within a heartbeat of its start, before it has acquired anything, and gone as soon as it is closed."""
    first, second = make_limiter(limits=LIMITS), make_limiter(limits=LIMITS)
    assert await first.instances() == []
    began = time.monotonic()
    await second.start()
    await _until_listed(first, {second.instance_id})
    assert time.monotonic() - began < 1.0
    await second.close()
    assert await first.instances() == []


@pytest.mark.covers("ST-01")
async def test_an_instance_that_acquires_is_listed_at_once(make_limiter) -> None:
    """Its first request enters it in the list."""
    first, second = make_limiter(limits=LIMITS), make_limiter(limits=LIMITS)
    await second.hold("openai", "gpt-4o")
    assert [instance.id for instance in await first.instances()] == [second.instance_id]
    assert (await first.status()).instances == 1


@pytest.mark.covers("ST-02")
@pytest.mark.parametrize("store_url", ["redis"], indirect=True)
async def test_a_killed_instance_leaves_the_list_after_the_ttl_and_frees_its_slots(make_limiter, settings) -> None:
    """SIGKILL while it holds 2 of 4: it stays listed for a TTL of 1 s, then it and its slots are gone."""
    limits = {SCOPE: {"concurrency": 4}}
    with Peer(limits=limits, url=settings.url, namespace=settings.namespace) as peer:
        peer.do("acquire_many", "openai", "gpt-4o", 2)
        killed = peer.do("instance")
        limiter = make_limiter(limits={SCOPE: Limits(concurrency=4)})
        assert killed in [instance.id for instance in await limiter.instances()]
        peer.kill()
        began = time.monotonic()
        assert len(await limiter.acquire_many("openai", "gpt-4o", 4, at_least=0)) == 2

        async def gone() -> bool:
            return killed not in [instance.id for instance in await limiter.instances()]

        await wait_until_async(gone, description="the killed instance is no longer listed")
        assert 0.5 < time.monotonic() - began < 2.0
        assert len(await limiter.acquire_many("openai", "gpt-4o", 4, timeout=3)) == 4


@pytest.mark.covers("ST-03")
@pytest.mark.parametrize("pid", [1, 0, 2**22 + 1])
async def test_equal_or_unknown_pids_on_several_hosts_are_several_instances(make_limiter, pid) -> None:
    """Whether a process lives is told by its heartbeat alone: containers all have pid 1, and no pid is looked up."""
    limiters = [make_limiter(limits=LIMITS, lease_ttl=0.6, heartbeat=0.1) for _ in range(3)]
    for number, limiter in enumerate(limiters):
        limiter.client._rt.pid = pid
        limiter.client._rt.host = "" if number == 2 else "container"
        await limiter.start()
    everybody = {limiter.instance_id for limiter in limiters}
    await _until_listed(limiters[0], everybody)
    began = time.monotonic()

    async def still_listed() -> bool:
        listed = await limiters[0].instances()
        assert {instance.id for instance in listed} == everybody
        assert {instance.pid for instance in listed} <= {pid}
        return time.monotonic() - began > 0.8

    await wait_until_async(still_listed, description="more than one TTL has passed")


@pytest.mark.covers("ST-04")
async def test_the_record_of_an_instance_says_who_it_is_and_what_it_does(make_limiter) -> None:
    """Id, host, pid, start, heartbeat, models, active, waiting, latency, last completion and metadata."""
    began = time.time()
    limits = {SCOPE: Limits(concurrency=2), "anthropic/claude": Limits(concurrency=2)}
    limiter = make_limiter(limits=limits, metadata={"role": "worker", "version": "1.2"})
    await limiter.hold("openai", "gpt-4o", 2)
    await limiter.hold("anthropic", "claude")
    finished = await limiter.acquire("anthropic", "claude")
    await finished.release()
    waiting = asyncio.create_task(limiter.hold("openai", "gpt-4o"))

    async def complete() -> bool:
        found = (await limiter.instances())[0]
        return (found.active, found.waiting) == (3, 1) and found.last_completed is not None

    await wait_until_async(complete, description="a heartbeat tells what is held and waits")
    record = (await limiter.instances())[0]
    assert isinstance(record, Instance)
    assert (record.id, record.host, record.pid) == (limiter.instance_id, socket.gethostname(), os.getpid())
    assert began - 1 <= record.started_at <= time.time()
    assert began - 1 <= record.last_completed <= time.time()
    assert 0 <= record.heartbeat_age < 1.0
    assert record.models == {SCOPE: 2, "anthropic/claude": 1}
    assert 0 <= record.average_latency < 5
    assert record.lost == 0
    assert record.metadata == {"role": "worker", "version": "1.2"}
    assert json.loads(json.dumps(record.to_dict()))["models"] == record.models
    await limiter.held[0].release()
    await waiting


@pytest.mark.covers("LS-12")
async def test_one_of_two_calls_that_ends_leaves_the_instance_active(make_limiter) -> None:
    """Two calls on one model, the first ends: still listed as active with 1."""
    limiter = make_limiter(limits=LIMITS)
    first, _ = await limiter.hold("openai", "gpt-4o", 2)

    async def active(count: int) -> bool:
        found = await limiter.instances()
        return [instance.models for instance in found] == [{SCOPE: count}]

    await wait_until_async(lambda: active(2), description="two are active")
    await first.release()
    await wait_until_async(lambda: active(1), description="one is active")
    assert (await limiter.instances())[0].active == 1
    assert await limiter.in_flight(SCOPE) == 1


async def test_status_shows_use_limits_and_queues_of_every_scope(make_limiter) -> None:
    """Use over all instances, what remains of rates, and who waits for how long."""
    limits = {SCOPE: Limits(concurrency=2, rates=[Rate(50, per=30)]), "total": Limits(concurrency=10)}
    first, second = make_limiter(limits=limits), make_limiter(limits=limits)
    await first.hold("openai", "gpt-4o")
    held = await second.hold("openai", "gpt-4o")
    waiting = asyncio.create_task(second.hold("openai", "gpt-4o"))
    await first.until_waiting(1)
    status = await first.status()
    assert isinstance(status, Status)
    model, total = status.scope(SCOPE), status.scope("total")
    assert (model.in_flight, model.concurrency, model.waiting_paths) == (2, 2, 1)
    assert [(rate.dimension, rate.used, rate.limit, rate.remaining) for rate in model.rates] == [
        ("requests/30s", 2, 50, 48)
    ]
    assert (total.in_flight, total.concurrency) == (2, 10)
    assert status.scope("openai").in_flight == 2
    assert [(queue.waiting, queue.scopes) for queue in status.queues] == [(1, (SCOPE, "openai", "total"))]
    assert 0 <= status.queues[0].head_waited < 5
    assert (status.instances, status.lost) == (2, 0)
    assert status.scope("OpenAI/GPT-4o") == model
    assert json.loads(json.dumps(status.to_dict()))["namespace"] == status.namespace
    await held[0].release()
    await waiting


async def test_status_of_an_empty_store_is_empty(make_limiter) -> None:
    """Looking changes nothing and needs nothing."""
    status = await make_limiter(limits=LIMITS).status()
    assert (status.scopes, status.queues, status.instances) == ((), (), 0)


async def test_status_names_the_store_without_its_password(make_limiter, settings) -> None:
    """The address that people see has neither user nor password."""
    limiter = make_limiter(limits=LIMITS)
    assert (await limiter.status()).store == settings.url
    assert settings.namespace in repr(limiter.client)


async def test_reset_clears_the_windows_that_it_names_and_keeps_leases(make_limiter) -> None:
    """A model, a provider with its models, or everything; for every instance."""
    limits = {"openai/*": Limits(rpm=10, concurrency=5), "openai": Limits(rpm=50), "anthropic/claude": Limits(rpm=10)}
    limiter, other = make_limiter(limits=limits), make_limiter(limits=limits)

    async def used() -> list[int]:
        status = await other.status()
        scopes = ("openai/a", "openai/b", "openai", "anthropic/claude")
        return [status.scope(scope).rates[0].used for scope in scopes]

    for provider, model in (("openai", "a"), ("openai", "b"), ("anthropic", "claude")):
        await limiter.hold(provider, model)
    assert await used() == [1, 1, 2, 1]
    assert await other.reset("OpenAI", "A") == 1
    assert await used() == [0, 1, 2, 1]
    assert await other.reset("openai") == 2
    assert await used() == [0, 0, 0, 1]
    await other.reset()
    assert await used() == [0, 0, 0, 0]
    assert await other.in_flight("openai/a") == 1
    assert all(lease.valid for lease in limiter.held)


@pytest.mark.parametrize("name, others", [("total", "pool:small"), ("Pool:small", "total")])
async def test_reset_takes_the_names_of_shared_scopes(make_limiter, name, others) -> None:
    """As operators' other verbs do; every other scope keeps what it has counted."""
    pools = {"small": Pool(["openai/*"], Limits(rpm=10))}
    limiter = make_limiter(limits={"total": Limits(rpm=10), "openai": Limits(rpm=10)}, pools=pools)
    await limiter.hold("openai", "gpt-4o")
    assert await limiter.reset(name) == 1
    status = await limiter.status()
    used = {scope: status.scope(scope).rates[0].used for scope in ("total", "pool:small", "openai")}
    assert used == {name.casefold(): 0, others: 1, "openai": 1}


async def test_reset_of_everything_ends_leases_and_wakes_whoever_waited_for_them(make_limiter) -> None:
    """all=True forgets the lease of a stuck client: its holder learns that it is lost, the next one is served."""
    limits = {SCOPE: Limits(concurrency=1)}
    stuck, other = make_limiter(limits=limits), make_limiter(limits=limits)
    held = await stuck.hold("openai", "gpt-4o")
    waiting = asyncio.create_task(other.hold("openai", "gpt-4o", timeout=8))
    await other.until_waiting(1)
    assert await other.reset("openai", "gpt-4o", all=True) >= 1
    assert (await waiting)[0].valid
    await wait_until_async(lambda: held[0].lost, description="the lease is told to be lost")
    assert await other.in_flight(SCOPE) == 1


async def _until_listed(limiter, ids: set[str]) -> None:
    async def listed() -> bool:
        return {instance.id for instance in await limiter.instances()} == ids

    await wait_until_async(listed, description=f"{len(ids)} instances are listed")
