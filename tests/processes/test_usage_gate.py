"""Processes that share a provider which says how many calls it has in flight."""

import time

import pytest

from ratelease import Client, Limits
from ratelease.testing import config
from support.lagging_provider import LaggingProvider
from support.wait_until import wait_until
from support.workers import Fleet

# Real time, and much of it.
pytestmark = pytest.mark.faults

FOUR = {"openai": {"concurrency": 4}}
QUICK = {"repoll": 0.2, "timeout": 0.5}


def run(
    redis_url: str, provider: LaggingProvider, *, processes: int = 4, tasks: int, gate: dict | None, **more
) -> float:
    """So many tasks in every process call the provider; how many seconds that took."""
    with Fleet(redis_url, processes) as fleet:
        began = fleet.run("call_provider", limits=FOUR, port=provider.port, tasks=tasks, gate=gate, **more)
        fleet.wait("done", timeout=50)
        return time.monotonic() - began


@pytest.mark.covers("UG-05")
def test_a_provider_that_counts_ended_calls_is_never_asked_for_too_much(redis_url: str) -> None:
    """Its count falls 500 ms after the end of a call, later than the cooldown: 20 callers, limit 4, no 429."""
    with LaggingProvider(limit=4, end_lag=0.5) as provider:
        run(redis_url, provider, tasks=5, gate=QUICK)
    assert (provider.served, provider.refused, provider.peak) == (20, 0, 4)


@pytest.mark.covers("UG-05")
def test_without_the_gate_the_same_provider_refuses(redis_url: str) -> None:
    """The limit of 4 alone does not help: slots are free again while the provider still counts them."""
    with LaggingProvider(limit=4, end_lag=0.5) as provider:
        run(redis_url, provider, tasks=5, gate=None)
    assert provider.refused > 0


@pytest.mark.covers("UG-05", "UG-08")
def test_calls_that_run_on_after_they_were_given_up_are_waited_for(redis_url: str) -> None:
    """Every third call of 1 s is given up after 50 ms: its slot is held until the provider counts fewer."""
    with LaggingProvider(limit=4, end_lag=0.2) as provider:
        run(redis_url, provider, tasks=3, gate={**QUICK, "hold": 5.0}, lasts=1.0, given_up=0.35)
        wait_until(lambda: provider.served == 12, description="all calls have ended there")
    assert (provider.refused, provider.peak) == (0, 4)


@pytest.mark.covers("UG-05", "UG-06")
def test_calls_of_others_leave_less_for_the_fleet(redis_url: str) -> None:
    """Two of four are always somebody else's: who waits is granted what is left."""
    with LaggingProvider(limit=4, foreign=2) as provider:
        run(redis_url, provider, tasks=4, gate={**QUICK, "strict": True})
    assert (provider.served, provider.refused, provider.peak) == (16, 0, 4)


@pytest.mark.covers("UG-11", "UG-10")
def test_ten_processes_with_twenty_waiters_each_poll_once_a_second_in_sum(redis_url: str, free_namespace: str) -> None:
    """The only slot is held by this process: two hundred wait, and one of ten polls for all; at rest nobody does."""
    settings = config(url=redis_url, namespace=free_namespace, default_timeout=30.0)
    limits = {"openai": Limits(concurrency=1)}
    with (
        LaggingProvider(limit=1) as provider,
        Client(limits=limits, config=settings) as client,
        Fleet(redis_url, 10, namespace=free_namespace) as fleet,
    ):
        lease = client.acquire("openai", "gpt-4o")
        fleet.run(
            "call_provider",
            limits={"openai": {"concurrency": 1}},
            port=provider.port,
            tasks=20,
            lasts=0.0,
            gate={"repoll": 1.0, "timeout": 1.0, "cooldown": 0.0},
        )
        wait_until(lambda: client.status().queues and client.status().queues[0].waiting == 200, timeout=20)
        wait_until(lambda: len(provider.polls) >= 4, timeout=10, description="four polls")
        polls = list(provider.polls)
        assert (len(polls) - 1) / (polls[-1] - polls[0]) <= 1.05, "polls a second"
        assert len({event["pid"] for event in fleet.of("poll")}) == 1
        lease.release()
        fleet.signal("stop")
