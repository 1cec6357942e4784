"""What the simulated provider counts as in flight, late and with what is not ours, and how it reports it: pure."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelease.core.provider_usage import ProviderUsage, parse_usage
from ratelease.errors import ConfigError
from ratelease.testing.simulator import Phase, Settings
from ratelease.testing.simulator.model import ProviderModel, Usage
from ratelease.testing.simulator.usage_api import GARBAGE, SHAPES, garbage
from ratelease.usage import FeatherlessUsage, JsonUsage, PrometheusUsage

GATEWAY, FEATHERLESS, VLLM = SHAPES


def reported(model: ProviderModel, now: float) -> int:
    """Return the count that the model reports at `now`."""
    usage = model.usage(now)
    assert isinstance(usage, Usage)
    return usage.concurrent_sessions


# --- the lag -----------------------------------------------------------------------------------------------


def test_the_report_is_late_on_both_sides():
    """A call of 1 s holds its place for 1.5 s, and shows from 0.5 s to 1.5 s."""
    model = Settings(concurrency=4, lag=0.5).model()
    model.admit(0.0)

    assert [(model.counted(now), reported(model, now)) for now in (0.0, 0.25, 0.5)] == [(1, 0), (1, 0), (1, 1)]
    model.end(1.0)
    assert [(model.counted(now), reported(model, now)) for now in (1.0, 1.25, 1.5)] == [(1, 1), (1, 1), (0, 0)]


def test_a_call_shorter_than_the_lag_shows_all_the_same():
    """For as long as it took, half a second later."""
    model = Settings(lag=0.5).model()
    model.admit(1.0)
    model.end(1.25)

    assert [reported(model, now) for now in (1.25, 1.5, 1.625, 1.75)] == [0, 1, 1, 0]


def test_without_a_lag_the_report_is_what_runs():
    """And a call is gone when it has ended."""
    model = Settings().model()
    model.admit(0.0)
    assert reported(model, 0.0) == 1
    model.end(0.25)
    assert (reported(model, 0.25), model.usage(0.25)) == (0, Usage(0, None, None))


def test_a_ghost_is_reported_until_it_ends():
    """Its client left at 1 s; it runs until 3 s and counts until 3.5 s."""
    model = Settings(concurrency=1, lag=0.5).model()
    model.admit(0.0)
    model.end(1.0, runs_until=3.0)

    assert [reported(model, now) for now in (2.0, 3.25, 3.5)] == [1, 1, 0]
    assert model.occupancy.seconds == pytest.approx(3.5)


@given(
    calls=st.lists(st.tuples(st.integers(0, 80), st.integers(0, 40), st.integers(0, 20)), max_size=20),
    eighths=st.integers(0, 16),
)
def test_the_report_is_what_ran_a_lag_ago(calls, eighths):
    """Also with ghosts; and places are held for the lag longer, whatever begins and ends when."""
    lag = eighths / 8
    model = Settings(lag=lag).model()
    spans = [(start / 8, (start + length) / 8, (start + length + ghost) / 8) for start, length, ghost in calls]
    begins = [(start, 1, None) for start, _, _ in spans]
    ends = [(left, 0, until) for _, left, until in spans]
    events = sorted(begins + [(left, 2, until) for left, _, until in ends], key=lambda event: event[:2])

    def agrees(now: float) -> None:
        ran = sum(start + lag <= now < until + lag for start, _, until in spans)
        held = sum(start <= now < until + lag for start, _, until in spans)
        assert (reported(model, now), model.counted(now)) == (ran, held)

    for position, (now, kind, until) in enumerate(events):
        if kind == 1:
            model.admit(now)
        else:
            model.end(now, until)
        following = events[position + 1][0] if position + 1 < len(events) else math.inf
        if following > now:
            agrees(now)
    for now in (17.0, 17.5, 20.0, 21.0):
        agrees(now)
    assert model.occupancy.seconds == pytest.approx(sum(until + lag - start for start, _, until in spans))


# --- others on the account ---------------------------------------------------------------------------------


def test_calls_of_others_count_and_hold_places():
    """Three of them from 10 s to 20 s, late in the report on both sides."""
    model = Settings(concurrency=4, lag=0.5, phases=["foreign@10+10x3"]).model()

    moments = (9.9, 10.0, 10.5, 20.0, 20.5)
    assert [(model.counted(now), reported(model, now)) for now in moments] == [(0, 0), (3, 0), (3, 3), (3, 3), (0, 0)]
    assert (model.occupancy.foreign, model.occupancy.foreign_calls, model.occupancy.peak) == (0, 3, 3)
    assert model.in_flight == 0


def test_our_calls_are_refused_for_those_of_others():
    """One place is left of four, and all four are ours again when the others have gone."""
    model = Settings(concurrency=4, phases=["foreign@10+10x3"]).model()

    assert [model.admit(15.0).reason for _ in range(2)] == [None, "concurrency"]
    model.end(15.0)
    assert [model.admit(20.0).reason for _ in range(5)] == [None] * 4 + ["concurrency"]


def test_others_take_no_place_that_is_taken_and_the_first_that_becomes_free():
    """A full provider admits them as it does anybody: in the moment in which a place is free."""
    model = Settings(concurrency=2, lag=1.0, phases=["foreign@5+100x1"]).model()
    model.admit(0.0)
    model.admit(0.0)
    assert (model.counted(6.0), model.occupancy.foreign) == (2, 0)
    model.end(7.0)

    assert (reported(model, 7.5), model.occupancy.foreign) == (2, 0)
    # Nobody has looked meanwhile: the place was free at 8 s, and its new call shows since 9 s.
    assert (reported(model, 9.0), model.occupancy.foreign, model.occupancy.peak) == (2, 1, 2)
    assert model.admit(9.0).reason == "concurrency"


def test_phases_of_others_add_up_and_can_begin_at_any_moment():
    """Two and one more; what a phase does not say is one call."""
    model = Settings(phases=["foreign@0+10x2"]).model(begin=100.0)
    model.disturb(105.0, [Phase("foreign", seconds=2.0)])

    assert [model.counted(now) for now in (105.0, 106.9, 107.0, 110.0)] == [3, 3, 2, 0]


@given(
    phases=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 40), st.integers(1, 4)), max_size=4),
    looks=st.lists(st.integers(0, 100), max_size=12),
)
def test_what_others_do_does_not_depend_on_who_looks(phases, looks):
    """Their calls come and go at their moments, whether the model is asked often or once."""
    settings = Settings(
        concurrency=5,
        lag=0.3,
        phases=[Phase("foreign", start / 10, length / 10, count) for start, length, count in phases],
    )
    watched, alone = settings.model(begin=1e6 / 7), settings.model(begin=1e6 / 7)
    for look in sorted(looks):
        watched.counted(1e6 / 7 + look / 10)
    end = 1e6 / 7 + 11.0

    assert watched.usage(end) == alone.usage(end)
    assert watched.occupancy.seconds == pytest.approx(alone.occupancy.seconds)
    assert (watched.occupancy.peak, watched.occupancy.foreign_calls) == (
        alone.occupancy.peak,
        alone.occupancy.foreign_calls,
    )
    assert alone.occupancy.peak <= 5


# --- the judge's figures -----------------------------------------------------------------------------------


def test_a_provider_that_tolerates_more_counts_what_went_beyond():
    """Two are allowed and the fourth is refused: the third is a violation, and is seen in the peak."""
    model = Settings(concurrency=2, hard_cap=3).model()

    assert [model.admit(0.0).reason for _ in range(4)] == [None, None, None, "concurrency"]
    assert (model.beyond_limit, model.occupancy.peak) == (1, 3)
    assert model.usage(0.0) == Usage(3, limit=2, hard_cap=3)


def test_less_capacity_is_reported():
    """What is allowed shrinks with the limits, and what is tolerated with it."""
    model = Settings(concurrency=8, hard_cap=10, phases=["capacity@1*0.5"]).model()

    assert (model.usage(0.0), model.usage(1.0)) == (Usage(0, 8, 10), Usage(0, 4, 5))


# --- faults of the report ----------------------------------------------------------------------------------


def test_the_report_can_be_broken_by_phases_while_calls_go_on():
    """Twice an error, then a hang for a second; who calls notices nothing."""
    model = Settings(phases=["usage_error:503@0x2", "usage_hang@5+1"]).model()

    answers = [model.usage(now) for now in (0.0, 0.0, 0.0, 5.0, 6.0)]
    kinds = [answer.kind if isinstance(answer, Phase) else None for answer in answers]
    assert kinds == ["usage_error", "usage_error", None, "usage_hang", None]
    assert isinstance(answers[0], Phase)
    assert answers[0].status == 503
    assert model.admit(5.5).admitted


def test_an_overload_leaves_the_report_alone():
    """The two kinds of phases do not use each other up."""
    model = Settings(phases=["overloaded@0x1", "usage_garbage@0x1"]).model()

    assert isinstance(model.usage(0.0), Phase)
    assert (model.admit(0.0).reason, model.admit(0.0).reason) == ("overloaded", None)


# --- shapes ------------------------------------------------------------------------------------------------


def test_every_shape_says_the_same_to_its_reader():
    """The adapters read what the simulator writes."""
    usage = Usage(3, limit=4, hard_cap=5)
    full = ProviderUsage(3, limit=4, hard_cap=5)

    assert parse_usage(GATEWAY.write(usage)) == full
    assert json.loads(FEATHERLESS.write(usage)) == {"limit": 4, "used_cost": 3, "request_count": 3}
    assert b'\nvllm:num_requests_running{engine="0",model_name="simulated"} 3.0\n' in VLLM.write(usage)
    assert parse_usage(GATEWAY.write(Usage(3, None, None))) == ProviderUsage(3)


def test_garbage_is_no_count_in_any_shape():
    """Another one each time, and no adapter takes any of it for a figure."""
    adapters = (JsonUsage("http://host/"), FeatherlessUsage(lambda: "key"), PrometheusUsage("http://host/"))

    assert [garbage(number) for number in range(len(GARBAGE))] == list(GARBAGE)
    for body in GARBAGE:
        assert [adapter._read(body) for adapter in adapters] == [None] * 3


# --- settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["foreign@10.0+30.0x3", "usage_error:503@0.0x2", "usage_hang@1.0*0.5", "usage_garbage@2.0"]
)
def test_the_new_phases_read_what_they_write(text):
    """The text form goes both ways."""
    assert str(Phase.parse(text)) == text


@pytest.mark.parametrize(
    "text,complaint",
    [
        ("foreign@1*0.5", "foreign calls has a count"),
        ("foreign@1x0", "count of a phase"),
        ("foreign:500@1", "status of foreign"),
        ("usage_hang:500@1", "status of usage_hang must be one of none"),
        ("usage_error:200@1", "status of usage_error"),
        ("usage@1", "kind of a phase"),
    ],
)
def test_a_wrong_phase_of_the_new_kinds_is_named(text, complaint):
    """Text from outside gets one clear error."""
    with pytest.raises(ConfigError, match=complaint):
        Phase.parse(text)


@pytest.mark.parametrize("concurrency,hard_cap", [(5, 4), (5, 0), (5, True)])
def test_a_hard_cap_is_at_least_the_limit(concurrency, hard_cap):
    """It is what is tolerated beyond one."""
    with pytest.raises(ConfigError, match="hard_cap must be"):
        Settings(concurrency=concurrency, hard_cap=hard_cap)
    assert Settings(concurrency=5, hard_cap=5).model().admit(0.0).admitted


def test_a_hard_cap_needs_a_limit_that_it_lies_above() -> None:
    """Without one it would be the limit."""
    with pytest.raises(ConfigError, match="hard_cap needs concurrency"):
        Settings(hard_cap=5)
