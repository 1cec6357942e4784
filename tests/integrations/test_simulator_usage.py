"""The simulator's report of its usage over HTTP: read by the real adapters, broken by phases, and obeyed by a gate."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from ratelease import Client, Limits, ProviderUsage
from ratelease.testing import ProviderSimulator, SimulatorStats, config
from ratelease.usage import FeatherlessUsage, JsonUsage, PrometheusUsage
from support.wait_until import wait_until, wait_until_async

CHAT = "/v1/chat/completions"
BODY = {"model": "chat-model", "messages": [{"role": "user", "content": "say something"}]}


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own proxy has nothing to do with loopback."""
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=10.0) as client:
        yield client


def gateway(sim: ProviderSimulator, **options: float) -> JsonUsage:
    """Return what reads the report in JSON, with its limits."""
    limits = {"limit": "limits.concurrency.limit", "hard_cap": "limits.concurrency.hard_cap"}
    return JsonUsage(f"{sim.url}/v1/usage", **limits, **options)


# --- shapes ------------------------------------------------------------------------------------------------


async def test_the_real_adapters_read_every_shape(http):
    """Two calls of ours and one of others, as JSON, as Featherless' and as metrics; each poll is counted."""
    async with ProviderSimulator(concurrency=4, hard_cap=5, latency=30.0, phases=["foreign@0"]) as sim:
        calls = [asyncio.create_task(http.post(sim.url + CHAT, json=BODY)) for _ in range(2)]
        await wait_until_async(lambda: sim.stats().in_flight == 2, description="both calls are in flight")

        assert await gateway(sim).get_usage() == ProviderUsage(3, limit=4, hard_cap=5)
        featherless = FeatherlessUsage(lambda: "any key", url=f"{sim.url}/account/concurrency")
        assert await featherless.get_usage() == ProviderUsage(3, limit=4)
        assert await PrometheusUsage(f"{sim.url}/metrics").get_usage() == ProviderUsage(3)
        stats = sim.stats()
        sim.stop()
        await asyncio.gather(*calls)

    assert (stats.usage_polls, stats.requests, stats.counted, stats.foreign, stats.foreign_calls) == (3, 2, 3, 1, 1)


async def test_a_report_is_late_and_a_ghost_stays_in_it(http):
    """Nothing shows at once; a call whose client has left shows until it would have ended."""
    async with ProviderSimulator(latency=1.5, lag=0.5, ghosts=True) as sim:
        began = time.monotonic()
        call = asyncio.create_task(http.post(sim.url + CHAT, json=BODY))
        await wait_until_async(lambda: sim.stats().in_flight == 1, description="the call is in flight")
        early = await gateway(sim).get_usage()
        seen_after = time.monotonic() - began
        call.cancel()
        await wait_until_async(lambda: sim.stats().in_flight == 0, description="its client has left")

        async def count() -> int:
            usage = await gateway(sim).get_usage()
            assert usage is not None
            return usage.concurrent_sessions

        while await count() == 0:
            assert time.monotonic() - began < 1.9
        while await count() == 1:
            assert time.monotonic() - began < 8.0
        gone_after = time.monotonic() - began

    assert early == ProviderUsage(0) or seen_after >= 0.5
    assert gone_after >= 2.0


async def test_a_broken_report_is_what_the_adapters_take_for_none():
    """An error, garbage and silence, in all shapes; and a stop does not wait for whoever is left without an answer."""
    async with ProviderSimulator(concurrency=4) as sim:
        adapters = (
            gateway(sim, timeout=0.2),
            FeatherlessUsage(lambda: "any key", url=f"{sim.url}/account/concurrency", timeout=0.2),
            PrometheusUsage(f"{sim.url}/metrics", timeout=0.2),
        )
        for phase in ("usage_error@0x3", "usage_error:429@0x3", "usage_garbage@0x36"):
            sim.disturb(phase)
            for _ in range(12 if "garbage" in phase else 1):
                assert [await adapter.get_usage() for adapter in adapters] == [None] * 3
        sim.disturb("usage_hang@0x3")
        for adapter in adapters:
            with pytest.raises(TimeoutError):
                await adapter.get_usage()
        assert [usage and usage.concurrent_sessions for usage in [await each.get_usage() for each in adapters]] == [
            0
        ] * 3

        sim.disturb("usage_hang@0")
        hanging = asyncio.create_task(gateway(sim, timeout=30).get_usage())
        polls = sim.stats().usage_polls
        await wait_until_async(lambda: sim.stats().usage_polls > polls, description="it has been asked")
        began = time.monotonic()
        await asyncio.to_thread(sim.stop)
        stopped_after = time.monotonic() - began
        assert await hanging is None
    assert stopped_after < 2.0


# --- a gate ------------------------------------------------------------------------------------------------

LIMIT, LAG = 4, 0.4
"""Calls at once, and seconds by which the provider counts late."""


def run_fleet(sim: ProviderSimulator, *, gated: bool, seconds: float) -> tuple[SimulatorStats, float]:
    """Let 8 threads call for so long; every 15th call is given up by its client. Return the counts, and the use."""
    limits = {"gateway/chat-model": Limits(strategy="off"), "gateway": Limits(concurrency=LIMIT, strategy="off")}
    given_up = httpx.Timeout(5.0, read=0.1)
    with (
        Client(f"memory://{sim.url}", limits=limits, config=config()) as limiter,
        httpx.Client(base_url=sim.url, timeout=5.0) as http,
    ):
        if gated:
            limiter.watch_usage(
                "gateway", gateway(sim), repoll=0.1, timeout=1.0, cooldown=LAG + 0.1, lag=LAG + 0.1, hold=5.0
            )
        sim.reset()
        stop = time.monotonic() + seconds
        numbers = iter(range(1_000_000))
        lock = threading.Lock()

        def work(_: int) -> None:
            while time.monotonic() < stop:
                with lock:
                    number = next(numbers)
                try:
                    with limiter.acquire("gateway", "chat-model"):
                        timeout = given_up if number % 15 == 7 else http.timeout
                        refused = http.post(CHAT, json=BODY, timeout=timeout).status_code == 429
                except httpx.ReadTimeout:
                    continue
                time.sleep(0.1 if refused else 0.0)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
        stats = sim.stats()
    return stats, stats.counted_seconds / (LIMIT * stats.elapsed)


@pytest.mark.faults
@pytest.mark.covers("UG-05", "UG-14")
def test_a_gate_keeps_a_fleet_within_what_a_late_counter_counts():
    """With ghosts, without calls of others: no 429 and no call beyond the limit, and the limit is used."""
    with ProviderSimulator(concurrency=LIMIT, hard_cap=50, lag=LAG, ghosts=True, latency=(0.2, 0.4)) as sim:
        without, _ = run_fleet(sim, gated=False, seconds=1.0)
        wait_until(lambda: sim.stats().counted == 0, description="everything has ended")
        gated, use = run_fleet(sim, gated=True, seconds=2.5)

    assert without.beyond_limit > 0
    assert without.peak_counted > LIMIT
    assert (gated.throttled, gated.beyond_limit) == (0, 0)
    assert gated.peak_counted <= LIMIT
    assert gated.disconnected > 0
    assert use > 0.5
