"""The simulated provider's limits and counts, on a clock that the test drives."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelease.errors import ConfigError
from ratelease.testing.simulator import Settings, max_in_any_window
from ratelease.testing.simulator.headers import go_duration, retry_headers
from ratelease.testing.simulator.judge import Judge
from ratelease.testing.simulator.limits import ContinuousBucket, StrictWindow
from ratelease.testing.simulator.model import ProviderModel, Verdict
from ratelease.testing.simulator.openai_api import OpenAi

# Binary fractions, so that the sums of a driven clock are exact.
steps = st.lists(st.integers(0, 40).map(lambda eighths: eighths / 8), min_size=1, max_size=120)


def admit_all(model: ProviderModel, stamps: list[float]) -> list[float]:
    """Send one request at every stamp, each over at once, and return the stamps of the admitted ones."""
    admitted = []
    for now in stamps:
        if model.admit(now).admitted:
            model.end(now)
            admitted.append(now)
    return admitted


def accumulate(gaps: list[float]) -> list[float]:
    stamps, now = [], 0.0
    for gap in gaps:
        now += gap
        stamps.append(now)
    return stamps


# --- strict window -----------------------------------------------------------------------------------------


def test_strict_window_admits_its_limit_and_refuses_the_next():
    model = ProviderModel(requests=StrictWindow(3, 10.0))

    assert admit_all(model, [0.0, 1.0, 2.0, 3.0, 9.75]) == [0.0, 1.0, 2.0]


def test_strict_window_readmits_exactly_when_the_oldest_has_left():
    model = ProviderModel(requests=StrictWindow(2, 10.0))

    assert admit_all(model, [1.0, 4.0, 10.875, 11.0, 11.0, 13.875, 14.0]) == [1.0, 4.0, 11.0, 14.0]


def test_strict_window_says_when_the_next_request_fits():
    model = ProviderModel(requests=StrictWindow(2, 10.0))
    admit_all(model, [1.0, 4.0])

    assert model.admit(5.0).retry_after == 6.0


def test_strict_window_standing_counts_down_and_resets_with_the_newest():
    window = StrictWindow(5, 10.0)
    window.charge(0.0)
    window.charge(4.0)

    assert (window.standing(5.0).remaining, window.standing(5.0).reset) == (3, 9.0)
    assert (window.standing(10.0).remaining, window.standing(14.0).remaining) == (4, 5)


@given(gaps=steps, limit=st.integers(1, 6), window=st.sampled_from([1.0, 2.5, 10.0]))
def test_strict_window_never_exceeds_its_limit_and_never_refuses_what_fits(gaps, limit, window):
    stamps = accumulate(gaps)

    admitted = admit_all(ProviderModel(requests=StrictWindow(limit, window)), stamps)

    assert max_in_any_window(admitted, window) <= limit
    expected: list[float] = []
    for now in stamps:
        if sum(1 for stamp in expected if now - stamp < window) < limit:
            expected.append(now)
    assert admitted == expected


def test_refused_requests_count_where_the_provider_counts_them():
    lenient = ProviderModel(requests=StrictWindow(2, 10.0))
    strict = ProviderModel(requests=StrictWindow(2, 10.0), count_refused=True)
    stamps = [0.0, 0.0, 5.0, 5.0, 10.0, 12.0, 20.0, 22.0]

    assert admit_all(lenient, stamps) == [0.0, 0.0, 10.0, 12.0, 20.0, 22.0]
    # The two refusals at 5 fill the window until 15, those at 10 and 12 until 20 and 22.
    assert admit_all(strict, stamps) == [0.0, 0.0, 20.0, 22.0]


# --- bucket ------------------------------------------------------------------------------------------------


def test_bucket_admits_its_size_at_once_and_then_at_its_rate():
    model = ProviderModel(requests=ContinuousBucket(4, 10.0))
    stamps = [0.0] * 6 + [2.4, 2.5, 2.5, 5.0, 10.0, 10.0, 10.0]

    assert admit_all(model, stamps) == [0.0] * 4 + [2.5, 5.0, 10.0, 10.0]


def test_bucket_says_when_the_next_request_fits():
    model = ProviderModel(requests=ContinuousBucket(2, 10.0))
    admit_all(model, [0.0, 0.0])

    refused = model.admit(1.0)

    assert refused.retry_after == pytest.approx(4.0)
    assert model.admit(1.0 + (refused.retry_after or math.inf)).admitted


def test_bucket_standing_resets_when_it_is_full():
    bucket = ContinuousBucket(5000, 60.0)
    bucket.charge(0.0)

    standing = bucket.standing(0.0)

    assert (standing.limit, standing.remaining, go_duration(standing.reset)) == (5000, 4999, "12ms")


@given(gaps=steps, limit=st.integers(1, 6), window=st.sampled_from([1.0, 10.0]))
def test_bucket_admits_in_any_interval_no_more_than_its_size_and_refill(gaps, limit, window):
    admitted = admit_all(ProviderModel(requests=ContinuousBucket(limit, window)), accumulate(gaps))

    for first in range(len(admitted)):
        for last in range(first, len(admitted)):
            span = admitted[last] - admitted[first]
            assert last - first + 1 <= limit + span * limit / window + 1e-6


@given(gaps=steps, limit=st.integers(1, 6))
def test_what_a_strict_window_admits_a_bucket_of_the_same_figures_admits_too(gaps, limit):
    admitted = admit_all(ProviderModel(requests=StrictWindow(limit, 10.0)), accumulate(gaps))

    assert admit_all(ProviderModel(requests=ContinuousBucket(limit, 10.0)), admitted) == admitted


def test_bucket_that_counts_refused_requests_never_owes_more_than_a_window():
    model = ProviderModel(requests=ContinuousBucket(2, 10.0), count_refused=True)
    admit_all(model, [0.0] * 50)

    assert not model.admit(4.0).admitted
    # The refusal at 4 emptied what had refilled: a request takes 5 s, and the bucket was empty then.
    assert not model.admit(8.75).admitted
    assert model.admit(13.75).admitted


# --- burst, concurrency, all together ----------------------------------------------------------------------


def test_burst_limits_any_single_second():
    model = ProviderModel(requests=StrictWindow(100, 60.0), burst=StrictWindow(2, 1.0))

    assert admit_all(model, [0.0, 0.5, 0.75, 0.875, 1.0, 1.25, 1.5]) == [0.0, 0.5, 1.0, 1.5]
    assert model.admit(1.75).reason == "burst"


def test_concurrency_is_held_from_arrival_until_leaving():
    model = ProviderModel(concurrency=2)

    first, second, third = (model.admit(0.0) for _ in range(3))
    assert (first.admitted, second.admitted, third.reason) == (True, True, "concurrency")
    assert (third.limit, third.retry_after) == (2, None)

    model.end(0.0)
    assert model.admit(0.0).admitted
    assert model.in_flight == 2


def test_a_refusal_charges_nothing():
    model = ProviderModel(requests=StrictWindow(3, 10.0), burst=StrictWindow(2, 1.0), concurrency=1)

    assert model.admit(0.0).admitted
    assert model.admit(0.0).reason == "concurrency"
    model.end(0.0)
    assert admit_all(model, [0.0]) == [0.0]
    assert model.admit(0.0).reason == "burst"
    assert admit_all(model, [1.0]) == [1.0]
    assert model.admit(2.0).reason == "requests"


def test_leaving_without_having_come_is_a_fault_of_the_simulator():
    with pytest.raises(RuntimeError, match="without a request in flight"):
        ProviderModel(concurrency=1).end(0.0)


def test_a_provider_without_limits_admits_everything_and_has_no_standing():
    verdict = ProviderModel().admit(0.0)

    assert verdict == Verdict(reason=None, limit=None, retry_after=None, standing=None)
    assert OpenAi().standing_headers(verdict, 0.0, "both") == []


# --- headers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "seconds,text",
    [
        (0.0, "0s"),
        (0.0001, "1ms"),
        (0.012, "12ms"),
        (1.0, "1s"),
        (7.66, "7.66s"),
        (59.9999, "1m0s"),
        (179.56, "2m59.56s"),
        (360.0, "6m0s"),
        (3603.5, "1h0m3.5s"),
        (86400.0, "24h0m0s"),
    ],
)
def test_durations_are_written_as_go_writes_them(seconds, text):
    assert go_duration(seconds) == text


def test_refusal_headers_never_send_a_client_back_too_early():
    model = ProviderModel(requests=StrictWindow(1, 10.0))
    model.admit(0.0)

    refused = model.admit(0.0001)
    headers = dict(OpenAi().standing_headers(refused, 0.0, "both") + retry_headers("both", refused.retry_after, 0.0, 0))

    assert headers == {
        b"x-ratelimit-limit-requests": b"1",
        b"x-ratelimit-remaining-requests": b"0",
        b"x-ratelimit-reset-requests": b"10s",
        b"retry-after": b"10",
        b"retry-after-ms": b"10000",
    }


# --- judge -------------------------------------------------------------------------------------------------


def test_max_in_any_window_is_exact_at_both_ends():
    assert max_in_any_window([], 1.0) == 0
    assert max_in_any_window([0.0, 1.0, 2.0], 1.0) == 1
    assert max_in_any_window([0.0, 0.875, 1.0, 1.75], 1.0) == 3


@given(gaps=steps, window=st.sampled_from([0.5, 1.0, 4.0]))
def test_max_in_any_window_agrees_with_counting_every_interval(gaps, window):
    stamps = accumulate(gaps)

    most = max(sum(1 for other in stamps if 0 <= other - start < window) for start in stamps)

    assert max_in_any_window(stamps, window) == most


def test_judge_counts_what_happened_and_forgets_on_reset():
    now = 100.0
    judge = Judge(lambda: now, window=10.0)
    for stamp in (100.0, 101.0, 105.0):
        judge.admit(stamp)
    judge.refuse("requests")
    judge.refuse("concurrency")
    judge.refuse_invalid()
    judge.leave(completed=True)
    judge.leave(completed=False)
    now = 110.5

    stats = judge.stats(limit=3, burst=None, concurrency=3, model=ProviderModel())

    assert (stats.requests, stats.admitted, stats.throttled, stats.invalid) == (6, 3, 2, 1)
    assert {reason: count for reason, count in stats.throttled_by.items() if count} == {"requests": 1, "concurrency": 1}
    assert (stats.completed, stats.disconnected, stats.in_flight, stats.peak_in_flight) == (1, 1, 1, 3)
    assert (stats.in_window, stats.peak_in_window, stats.elapsed) == (2, 3, 10.5)
    assert judge.arrivals() == [0.0, 1.0, 5.0]

    judge.reset()
    after = judge.stats(limit=3, burst=None, concurrency=3, model=ProviderModel())
    assert (after.requests, after.in_flight, after.peak_in_flight, after.elapsed) == (0, 1, 1, 0.0)
    assert judge.arrivals() == []


# --- settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"rpm": 0},
        {"rpm": 1.5},
        {"rpm": True},
        {"burst": -1},
        {"concurrency": 0},
        {"window": 0},
        {"window": math.nan},
        {"window": "10"},
        {"algorithm": "fixed"},
        {"latency": -0.1},
        {"latency": (0.2, 0.1)},
        {"latency": (0.1,)},
        {"latency": math.inf},
        {"latency": [0.1, 0.2]},
    ],
)
def test_settings_name_the_figure_that_is_wrong(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Settings(**wrong)
