"""One failure on one host teaches the whole fleet, once: with processes of its own for every instance."""

import subprocess
import sys
import time

import pytest

from ratelease import Client, Limits
from ratelease.testing import config
from support.wait_until import wait_until
from support.workers import Fleet, elapsed

MODEL = ("openai", "gpt-4o")
SCOPE = "openai/gpt-4o"
REFUSED = {"status": 429}
# The times that users have; only events and timers are quicker than these.
REAL = {"lease_ttl": 15.0, "heartbeat": 5.0, "claim_ttl": 3.0, "poll": 10.0}


def observer(url, namespace, figures, **settings):
    limits = {name: Limits(**each) for name, each in figures.items()}
    return Client(limits=limits, config=config(url=url, namespace=namespace, **settings))


@pytest.mark.covers("AL-08", "AL-09")
@pytest.mark.parametrize(
    "strategy, after, penalty", [("parallelism", [11, 7], 0.0), ("penalty", [5, 3], 2.0), ("in_flight", [15, 6], 0.0)]
)
def test_sixteen_calls_of_four_processes_that_are_refused_together_are_one_cut(
    redis_url, free_namespace, strategy, after, penalty
) -> None:
    """Told within a second, by 16 threads; those that are admitted afterwards and refused again are the next one."""
    figures = {SCOPE: {"concurrency": 16, "strategy": strategy}}
    with (
        observer(redis_url, free_namespace, figures) as client,
        Fleet(redis_url, 4, namespace=free_namespace) as fleet,
    ):
        fleet.run("fail_together", limits=figures, count=4, answer=REFUSED)
        fleet.wait("holding")
        assert client.health(*MODEL).in_flight == 16
        began = time.monotonic()
        fleet.signal("fail")
        fleet.wait("told")
        took = time.monotonic() - began
        first = client.health(*MODEL)
        events = client.status().scope(SCOPE).reaction.events
        print(
            f"{strategy}: 16 × 429 within {took * 1000:.0f} ms: limit 16 -> {first.limit}, penalty {first.penalty:.2f}"
            f", events {[(event.before, event.after, event.reason) for event in events]}"
        )
        assert took < 1.0, "they are told within a second"
        assert (first.limit, len(events), first.recent_429s) == (after[0], 1, 1)
        assert first.penalty == pytest.approx(penalty, abs=0.1)
        group = client.acquire_many(*MODEL, 7 if strategy == "in_flight" else 2)
        for lease in group:
            lease.fail(REFUSED)
        assert client.health(*MODEL).limit == after[1]
        assert len(client.status().scope(SCOPE).reaction.events) == 2


@pytest.mark.covers("PE-07")
def test_two_processes_that_raise_in_one_moment_are_both_counted(redis_url, free_namespace) -> None:
    """Ten of them: no update is lost, and another provider has none."""
    figures = {"openai": {"concurrency": 8}, "anthropic": {"concurrency": 8}}
    penalty = {"kind": "penalty", "max": 100, "half_life": 3600}
    figures = {name: {**each, "strategy": penalty} for name, each in figures.items()}
    with (
        observer(redis_url, free_namespace, figures) as client,
        Fleet(redis_url, 2, namespace=free_namespace) as fleet,
    ):
        fleet.run("report", limits=figures, outcome="rate_limit", count=5)
        fleet.wait("here")
        fleet.signal("report")
        fleet.wait("reported", 5)
        told = [[event["sent"] for event in worker.of("reported")] for worker in fleet]
        assert max(map(min, told)) < min(map(max, told)), "they have been at it at the same time"
        assert client.health(*MODEL).penalty == pytest.approx(20.0, abs=0.1)
        assert client.health("anthropic", "claude").penalty == 0.0


@pytest.mark.covers("RT-07")
def test_no_process_sends_before_the_end_of_a_pause_that_one_was_told_of(redis_url, free_namespace) -> None:
    """Three processes that ask all the time, while a fourth is told to come back in 2 s."""
    figures = {SCOPE: {"concurrency": 50}}
    with (
        observer(redis_url, free_namespace, figures) as client,
        Fleet(redis_url, 3, namespace=free_namespace, **REAL) as fleet,
    ):
        lease = client.acquire(*MODEL)
        fleet.run("cycle", limits=figures, tasks=2, hold=(0.005, 0.01))
        fleet.wait("granted", 5)
        lease.fail({"status": 429, "headers": {"retry-after": "2"}})
        paused_at = client.status().scope(SCOPE).reaction.events[-1].at * 1000
        before = len(fleet.of("granted"))
        wait_until(lambda: len(fleet.of("granted")) > before + 30, timeout=10, description="they go on after it")
        fleet.signal("stop")
        fleet.wait("done")
    grants = sorted(event["at"] for event in fleet.of("granted"))
    after = [at - paused_at for at in grants if at > paused_at]
    print(f"{sum(at <= paused_at for at in grants)} grants before the pause, the first after it at {after[0]:.0f} ms")
    assert after[0] >= 2000
    assert after[0] < 2250


@pytest.mark.covers("RT-12")
def test_a_resume_in_one_process_wakes_the_waiters_of_others_at_once(redis_url, free_namespace) -> None:
    """Parked behind a pause of five minutes, with polls that are 10 s apart."""
    figures = {"openai": {"concurrency": 50}}
    with (
        observer(redis_url, free_namespace, figures, **REAL) as client,
        Fleet(redis_url, 2, namespace=free_namespace, **REAL) as fleet,
    ):
        client.report(*MODEL, "throttled", retry_after=300)
        fleet.run("ask", limits=figures, count=3, timeout=900.0)
        wait_until(lambda: sum(queue.waiting for queue in client.status().queues) == 6, description="six are parked")
        resumed = time.monotonic()
        client.operator.resume("openai", reason="they say that it is over")
        fleet.wait("granted", 3, timeout=5.0)
        last = max(event["when"] for event in fleet.of("granted")) - resumed
        print(f"six waiters of two processes go on within {last * 1000:.0f} ms of resume()")
        assert last < 1.0
        fleet.wait("done")


@pytest.mark.covers("AL-27")
def test_a_subscriber_of_another_process_hears_of_each_change_until_it_unsubscribes(
    redis_url, redis_client, free_namespace
) -> None:
    """One of its callbacks raises; afterwards it hears nothing."""
    figures = {SCOPE: {"concurrency": 4, "strategy": "parallelism"}}
    with (
        observer(redis_url, free_namespace, figures) as client,
        Fleet(redis_url, 2, namespace=free_namespace) as fleet,
    ):
        fleet.run("watch", limits=figures)
        fleet.wait("watching")
        channel = f"{client._rt.keyspace.inbox_prefix}everyone"
        wait_until(lambda: redis_client.pubsub_numsub(channel)[0][1] == 3, description="all listen")
        client.report(*MODEL, "throttled")
        fleet.wait("change")
        fleet.signal("unsubscribe")
        fleet.wait("unsubscribed")
        with client.acquire(*MODEL) as lease:
            lease.fail(REFUSED)
        assert client.health(*MODEL).limit == 1
        wait_until(lambda: not client._rt.keeper._listeners, description="nobody listens here")
        time.sleep(0.2)
        fleet.signal("stop")
        fleet.wait("done")
    changes = [(event["scope"], event["key"], event["limits"], event["why"]) for event in fleet.of("change")]
    assert changes == [(SCOPE, "m:openai:gpt-4o", [4, 2], "429 rate limit error")] * 2


PROGRAM = """
import threading
from ratelease import parallelism

adjuster = parallelism.get_parallelism_adjuster()
adjuster.on_parallelism_change(lambda change: None)
adjuster.request_started("openai", "gpt-4o")
parallelism.adjust_for_error("openai", "gpt-4o", "429")
print(parallelism.get_parallelism("openai", "gpt-4o"), flush=True)
{end}
"""


@pytest.mark.covers("AL-29", "AL-31")
@pytest.mark.parametrize("end", ["adjuster.shutdown()\n" * 2, "parallelism.reset_parallelism_adjuster()", ""])
def test_a_process_with_an_adjuster_ends_at_once(redis_url, free_namespace, monkeypatch, end) -> None:
    """Shut down twice, or not at all; what it counted as running is given back."""
    monkeypatch.setenv("RATELEASE_URL", redis_url)
    monkeypatch.setenv("RATELEASE_NAMESPACE", free_namespace)
    program = [sys.executable, "-W", "error", "-c", PROGRAM.format(end=end)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout.splitlines()[0] == "2"
    assert done.stderr == ""
    with Client(redis_url, namespace=f"{free_namespace}.parallelism") as client:
        assert client.status().scope(SCOPE).in_flight == 0
        assert elapsed(client.close) < 2.0
