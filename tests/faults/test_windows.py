"""Rates over processes, in real time: one recording of a minute, and what it must show."""

import random

import fakeredis
import pytest

from ratelease import Limits, Rate
from ratelease.testing.redis_server import RedisServer
from ratelease.testing.simulator.limits import StrictWindow
from support.clock import driven_clock
from support.history import densest
from support.store import Store
from support.workers import Fleet

# Both processes' sides of the recording run for 62 s of real time.
pytestmark = [pytest.mark.faults, pytest.mark.timeout(150)]

R, W = 100, 10.0
SECONDS = 62.0
PROCESSES = 6

Recording = dict[str, list[int]]


@pytest.fixture(scope="module")
def recording() -> Recording:
    """Let 6 processes ask in every pattern, and note by the server's clock (ms) when each grant was made."""
    strict = {"openai/gpt-4o": {"rates": [[R, W]], "guard": 0.0}}
    guarded = {"openai/gpt-4o": {"rates": [[R, W]]}}
    each = {"seconds": SECONDS, "pattern": "poisson"}
    with RedisServer() as server, Fleet(server.url, PROCESSES, lease_ttl=4.0, heartbeat=1.0) as fleet:
        for number, worker in enumerate(fleet):
            pattern = "spikes" if number % 2 else "poisson"
            share = 1.5 * R / W / PROCESSES
            patient = {**each, "pattern": pattern, "per_second": share, "timeout": 3.0 + 10 * (number % 3)}
            worker.run("demand", namespace="waiting", limits=strict, **patient)
            # Callers that hardly wait spread over the whole of a sub-bucket: the hardest case for a provider's window.
            hasty = {**each, "per_second": 1.3 * R / W / PROCESSES, "timeout": 0.5}
            worker.run("demand", namespace="guarded", limits=guarded, **hasty)
            worker.run("demand", namespace="unguarded", limits=strict, **hasty)
            rpm = {"seconds": 60.0, "pattern": "at once", "per_second": 1.0, "timeout": SECONDS}
            worker.run("demand", namespace="minute", limits={"openai/gpt-4o": {"rpm": 60, "guard": 0.0}}, **rpm)
        fleet.wait("done", 4, timeout=SECONDS + 45)
        granted = fleet.of("granted")
    names = {event["namespace"] for event in granted}
    return {name: sorted(event["at"] for event in granted if event["namespace"] == name) for name in names}


@pytest.mark.covers("RL-02")
def test_no_true_window_ever_holds_more_grants_than_the_rate(recording: Recording) -> None:
    """Spikes and Poisson arrivals of four processes and more, 1.5 times the limit: exactly counted, guard 0."""
    for name in ("waiting", "unguarded"):
        assert densest(recording[name], W * 1000) == R
    share = len(recording["waiting"]) / (R * SECONDS / W)
    print(f"{len(recording['waiting'])} grants, {share:.1%} of the limit")
    assert share > 0.95


@pytest.mark.covers("RW-02")
def test_sixty_a_minute_are_sixty_over_six_processes(recording: Recording) -> None:
    """360 requests at once: the first minute grants 60, and no sliding minute more."""
    times = recording["minute"]
    assert sum(at < times[0] + 60_000 for at in times) == 60
    assert len(times) == 120, "the next sixty follow as soon as the first have left the window"
    assert times[60] - times[0] <= 60_000 + 2 * 1000, "which is after at most two sub-buckets more"
    assert densest(times, 60_000) == 60


@pytest.mark.covers("RW-13", "RL-02")
def test_the_guard_keeps_a_providers_strict_window_from_refusing(recording: Recording) -> None:
    """Calls arrive 10 to 50 ms after their grant: none is refused with the guard, some are without it."""
    guarded = [_refusals(recording["guarded"], seed) for seed in range(20)]
    unguarded = [_refusals(recording["unguarded"], seed) for seed in range(20)]
    print(f"refused of {len(recording['unguarded'])} calls without guard: {unguarded}")
    assert len(recording["guarded"]) > 0.9 * R * SECONDS / W
    assert sum(guarded) == 0
    assert sum(unguarded) > 0, "the provider refuses nothing at all: this cannot show anything"


@pytest.mark.covers("RW-13")
@pytest.mark.parametrize("guard, seconds, refuses", [(0.25, 300, False), (0.0, 60, True)])
def test_the_guard_holds_for_five_minutes_of_driven_time(guard: float, seconds: int, refuses: bool) -> None:
    """The same by a driven clock, as fast as a computer goes; a minute without the guard is enough to see it fail."""
    limits = {"openai/gpt-4o": Limits(rates=[Rate(R, W)], guard=guard)}
    chance, grants = random.Random(7), []
    with driven_clock() as clock:
        caller = Store(fakeredis.FakeRedis(), limits=limits).instance()
        until = clock.ms + seconds * 1000
        while clock.ms < until:
            clock.ms += round(chance.expovariate(1.3 * R / W / 1000))
            if caller.acquire("gpt-4o").granted:
                grants.append(clock.ms)
    assert len(grants) > 0.85 * R * seconds / W, "callers that do not wait miss a little of what becomes free"
    assert any(_refusals(grants, seed) for seed in range(20)) is refuses


def _refusals(grants: list[int], seed: int) -> int:
    """How many calls a provider with a strict window refuses, if each arrives 10 to 50 ms after its grant."""
    jitter = random.Random(seed)
    arrivals = sorted(at / 1000 + jitter.uniform(0.010, 0.050) for at in grants)
    provider, refused = StrictWindow(R, W), 0
    for arrival in arrivals:
        if provider.wait(arrival) > 0:
            refused += 1
        else:
            provider.charge(arrival)
    return refused
