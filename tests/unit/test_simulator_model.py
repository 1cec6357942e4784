"""What the simulated provider limits beside its rates, and its phases, on a clock that the test drives."""

import dataclasses
import inspect
import math
import statistics
from argparse import ArgumentParser
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelease.cli.app import simulate
from ratelease.errors import ConfigError
from ratelease.testing.simulator import Phase, Settings
from ratelease.testing.simulator.anthropic_api import Anthropic
from ratelease.testing.simulator.chat import ChatRequest
from ratelease.testing.simulator.headers import GARBAGE, STYLES, retry_headers
from ratelease.testing.simulator.limits import ContinuousBucket, Ramp, StrictWindow
from ratelease.testing.simulator.model import ProviderModel, Verdict
from ratelease.testing.simulator.openai_api import OpenAi
from ratelease.testing.simulator.settings import Figures

REQUEST = ChatRequest("m", 10, stream=False, include_usage=False)
WALL = 1_700_000_000.25


def reasons(model: ProviderModel, stamps: list[float]) -> list[str | None]:
    """Send one request at every stamp, each over at once, and return why each was refused."""
    found: list[str | None] = []
    for now in stamps:
        verdict = model.admit(now)
        if verdict.admitted:
            model.end(now)
        found.append(verdict.reason)
    return found


# --- tokens ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["strict", "bucket"])
def test_tokens_are_limited_beside_requests(algorithm):
    """Ten tokens fit once; the refusal says when they fit again, and charges nothing."""
    model = Settings(rpm=100, tpm=15, window=10.0, algorithm=algorithm).model()

    assert model.admit(0.0, 10).admitted
    refused = model.admit(1.0, 10)
    assert (refused.reason, refused.limit) == ("tokens", 15)
    assert refused.retry_after is not None
    assert model.admit(1.0, 5).admitted
    assert not model.admit(refused.retry_after, 10).admitted
    assert model.admit(1.0 + 10.0, 15).admitted


def test_what_never_fits_has_no_time_to_come_back():
    """A request of more tokens than the limit is refused without a promise."""
    for rate in (StrictWindow(5, 10.0), ContinuousBucket(5, 10.0)):
        refused = ProviderModel(tokens=rate).admit(0.0, 6)
        assert (refused.reason, refused.retry_after) == ("tokens", None)


@given(
    charges=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 4)), max_size=60),
    limit=st.integers(4, 9),
)
def test_a_strict_window_of_amounts_agrees_with_adding_up_every_charge(charges, limit):
    """The model of amounts keeps the sum of what is younger than the window, and no more."""
    window, now, log = StrictWindow(limit, 10.0), 0.0, []
    for eighths, amount in charges:
        now += eighths / 8
        used = sum(charged for stamp, charged in log if now - stamp < 10.0)
        wait = window.wait(now, amount)
        assert (wait == 0.0) == (used + amount <= limit)
        if wait == 0.0:
            window.charge(now, amount)
            log.append((now, amount))
        else:
            later = now + wait
            assert sum(charged for stamp, charged in log if later - stamp < 10.0) + amount <= limit


# --- concurrency -------------------------------------------------------------------------------------------


def test_a_call_that_has_ended_counts_for_the_lag():
    """The slot is free when the lag is over, not before."""
    model = Settings(concurrency=1, lag=2.0).model()
    model.admit(0.0)
    model.end(1.0)

    assert (model.counted(2.75), model.in_flight) == (1, 0)
    assert model.admit(2.875).reason == "concurrency"
    assert model.admit(3.0).admitted


def test_a_call_that_runs_on_counts_until_it_ends():
    """What nobody waits for keeps its slot at the provider."""
    model = Settings(concurrency=1, lag=0.5).model()
    model.admit(0.0)
    model.end(1.0, runs_until=5.0)

    assert model.admit(5.25).reason == "concurrency"
    assert model.admit(5.5).admitted


# --- ramp --------------------------------------------------------------------------------------------------


def test_use_grows_by_its_share_from_period_to_period():
    """A threshold of 4 that may grow by half: 4, 6, 9, and 4 again after an idle period."""
    ramp = Ramp(4, 0.5, 10.0)
    model = ProviderModel(ramp=ramp)

    def admitted(start: float) -> int:
        return reasons(model, [start] * 20).count(None)

    assert [admitted(0.0), admitted(10.0), admitted(20.0)] == [4, 6, 9]
    refused = model.admit(25.0)
    assert (refused.reason, refused.limit, refused.retry_after) == ("ramp", 9, 5.0)
    assert admitted(50.0) == 4


# --- phases ------------------------------------------------------------------------------------------------


def test_an_overload_refuses_everything_for_its_time():
    """The phase is half-open, its status travels, and nothing is charged meanwhile."""
    model = Settings(rpm=2, phases=["overloaded:503@10+5"]).model(begin=100.0)

    assert reasons(model, [109.875, 110.0, 114.875, 115.0]) == [None, "overloaded", "overloaded", None]
    assert Settings(phases=["overloaded:503@0"]).model().admit(0.0).status == 503


def test_so_many_429s_in_a_row_whatever_the_limits_say():
    """A count ends a phase; the promise is the configured one."""
    model = Settings(rpm=100, phases=["throttled@0x3"], hint=2.5).model()

    refused = model.admit(0.0)
    assert (refused.reason, refused.limit, refused.retry_after) == ("forced", None, 2.5)
    assert reasons(model, [0.0, 0.0, 0.0, 0.0]) == ["forced", "forced", None, None]


def test_a_share_of_requests_is_refused_and_repeats_with_the_seed():
    """About a third of 600 is refused, the same third for the same seed."""

    def refused(seed: int) -> list[str | None]:
        return reasons(Settings(phases=["throttled@0*0.33"], seed=seed).model(), [1.0] * 600)

    assert 150 < refused(1).count("forced") < 250
    assert refused(1) == refused(1)
    assert refused(1) != refused(2)


@pytest.mark.parametrize("algorithm", ["strict", "bucket"])
def test_capacity_halves_and_returns(algorithm):
    """All limits shrink for the time of the phase; what was used stays used."""
    settings = Settings(rpm=8, concurrency=4, window=10.0, algorithm=algorithm, phases=["capacity@20+20*0.5"])
    model = settings.model()

    def in_flight_at(now: float) -> int:
        verdicts = [model.admit(now) for _ in range(10)]
        admitted = sum(verdict.admitted for verdict in verdicts)
        for _ in range(admitted):
            model.end(now)
        return admitted

    assert [in_flight_at(now) for now in (5.0, 30.0, 55.0)] == [4, 2, 4]
    model = settings.model()
    assert reasons(model, [19.0] * 10).count(None) == 8
    assert reasons(model, [20.0, 29.0, 29.0, 29.0, 29.0, 29.0]).count(None) <= 4
    assert model.admit(35.0).standing.limit == 4


def test_a_bucket_that_shrinks_keeps_its_level_and_refills_slower():
    """Three of eight are left; at half the size four fit, and a request takes twice as long to refill."""
    bucket = ContinuousBucket(8, 8.0)
    bucket.charge(0.0, 5)
    bucket.resize(0.0, 4)
    assert bucket.standing(0.0).remaining == 3
    bucket.charge(0.0, 3)
    assert bucket.wait(0.0) == pytest.approx(2.0)
    bucket.resize(0.0, 8)
    assert bucket.wait(0.0) == pytest.approx(1.0)


def test_an_account_is_empty_after_its_quota_or_in_a_phase():
    """Neither says when to come back: money does not come by waiting."""
    assert reasons(Settings(quota=2, hint=3.0).model(), [0.0] * 3) == [None, None, "quota"]
    refused = Settings(phases=["quota:402@0"], hint=3.0).model().admit(0.0)
    assert (refused.reason, refused.status, refused.retry_after) == ("quota", 402, None)


def test_a_phase_can_begin_at_any_moment():
    """Its start counts from the moment at which it is added."""
    model = Settings().model(begin=50.0)
    model.disturb(70.0, [Phase("throttled", start=1.0, count=1)])

    assert reasons(model, [70.5, 71.0, 71.5]) == [None, "forced", None]


@pytest.mark.parametrize(
    "text", ["overloaded@0.0", "overloaded:529@1.5+2.0", "throttled@0.0x3", "quota:402@1.0", "capacity@30.0+60.0*0.5"]
)
def test_a_phase_reads_what_it_writes(text):
    """The text form goes both ways."""
    assert str(Phase.parse(text)) == text


@pytest.mark.parametrize(
    "text,complaint",
    [
        ("", "a phase is written"),
        ("overloaded", "a phase is written"),
        ("overloaded@-1", "a phase is written"),
        ("storm@1", "kind of a phase"),
        ("overloaded@1+0", "length of a phase"),
        ("throttled@1*1.5", "share of a phase"),
        ("throttled@1*0", "share of a phase"),
        ("capacity@1x2", "count of a phase"),
        ("throttled:503@1", "status of throttled"),
        ("overloaded@1e999", "start of a phase"),
    ],
)
def test_a_wrong_phase_is_named(text, complaint):
    """Text from outside gets one clear error."""
    with pytest.raises(ConfigError, match=complaint):
        Phase.parse(text)


# --- latency -----------------------------------------------------------------------------------------------


def test_lognormal_latencies_have_their_median_and_tail():
    """Two figures are the median and the 95th percentile."""
    settings, random = Settings(latency=(1.0, 4.0), distribution="lognormal"), Random(1)
    drawn = sorted(settings.draw_latency(random) for _ in range(4000))

    assert statistics.median(drawn) == pytest.approx(1.0, rel=0.1)
    assert drawn[3800] == pytest.approx(4.0, rel=0.15)


def test_answers_slow_down_under_load():
    """At a tenth for each, ten others double the latency."""
    settings = Settings(latency=0.5, slowdown=0.1)

    assert settings.draw_latency(Random(0), others=0) == 0.5
    assert settings.draw_latency(Random(0), others=10) == 1.0


# --- what refusals say -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "style,expected",
    [
        ("both", [(b"retry-after", b"2"), (b"retry-after-ms", b"1251")]),
        ("seconds", [(b"retry-after", b"2")]),
        ("float", [(b"retry-after", b"1.251")]),
        ("ms", [(b"retry-after-ms", b"1251")]),
        ("date", [(b"retry-after", b"Tue, 14 Nov 2023 22:13:22 GMT")]),
        ("reset", []),
        ("none", []),
    ],
)
def test_retry_after_has_many_forms_and_none_is_early(style, expected):
    """The wait is rounded up in every form."""
    assert retry_headers(style, 1.2501, WALL, 0) == expected


def test_garbage_is_another_one_every_time():
    """Also where there is nothing to promise."""
    assert [retry_headers("garbage", None, WALL, n)[0][1] for n in range(len(GARBAGE))] == list(GARBAGE)


def test_without_hints_the_rates_are_not_told_either():
    """A provider that says nothing has no rate limit headers; one with reset headers alone has them."""
    verdict = ProviderModel(requests=StrictWindow(5, 60.0), tokens=StrictWindow(9_999, 60.0)).admit(0.0, 1_400)

    for api in (OpenAi(), Anthropic()):
        assert api.standing_headers(verdict, WALL, "none") == []
        assert len(api.standing_headers(verdict, WALL, "reset")) == 6
    headers = dict(Anthropic().standing_headers(verdict, WALL, "both"))
    assert headers[b"anthropic-ratelimit-requests-remaining"] == b"4"
    assert headers[b"anthropic-ratelimit-requests-reset"] == b"2023-11-14T22:14:21Z"
    assert headers[b"anthropic-ratelimit-tokens-remaining"] == b"9000"


@pytest.mark.parametrize(
    "reason,status,openai,anthropic",
    [
        ("requests", None, (429, b"rate_limit_exceeded"), (429, b"rate_limit_error")),
        ("tokens", None, (429, b'"type":"tokens"'), (429, b"rate_limit_error")),
        ("concurrency", None, (429, b'"type":"concurrency"'), (429, b"rate_limit_error")),
        ("forced", None, (429, b"rate_limit_exceeded"), (429, b"rate_limit_error")),
        ("ramp", None, (429, b'"code":"slow_down"'), (429, b'"error_code":"ramp_limit_exceeded"')),
        ("quota", None, (429, b'"code":"insufficient_quota"'), (429, b'"error_code":"enforced_spend_limit_reached"')),
        ("quota", 402, (402, b"insufficient_balance"), (402, b"billing_error")),
        ("overloaded", None, (503, b"server_is_overloaded"), (529, b"overloaded_error")),
        ("overloaded", 503, (503, b"server_is_overloaded"), (503, b"overloaded_error")),
        ("overloaded", 529, (529, b"server_is_overloaded"), (529, b"overloaded_error")),
    ],
)
def test_every_refusal_has_the_status_and_the_code_of_its_api(reason, status, openai, anthropic):
    """What classification reads is what the real APIs write."""
    verdict = Verdict(reason, 3, None, None, status=status)
    for api, (expected, word) in ((OpenAi(), openai), (Anthropic(), anthropic)):
        found, body = api.refusal(verdict, REQUEST, "0")
        assert found == expected
        assert word in body


# --- settings ----------------------------------------------------------------------------------------------


def test_all_faults_are_named_at_once():
    """One error, whatever number of figures is wrong."""
    with pytest.raises(ConfigError) as caught:
        Settings(
            rpm=0,
            tpm=True,
            lag=-1,
            window=math.inf,
            hint=math.nan,
            retry_after="often",
            ghosts=1,
            seed="x",
            phases=["storm@1", 7],
            latency=(0, 1),
            distribution="lognormal",
        )
    message = str(caught.value)
    for name in ("rpm", "tpm", "lag", "window", "hint", "retry_after", "ghosts", "seed", "latency"):
        assert f"{name} must be" in message
    assert "phases: the kind" in message
    assert "phases: a phase is" in message


def test_arguments_carry_every_setting_to_a_process():
    """What a process reads from its arguments equals what was meant, for every field."""
    settings = Settings(
        rpm=1, tpm=2, window=3.5, algorithm="bucket", burst=4, concurrency=5, hard_cap=6, lag=0.5, ghosts=True, ramp=6,
        ramp_growth=0.25, ramp_period=7.0, quota=8, phases=["throttled@0.0x3", "capacity@1.0*0.5"],
        count_refused=True, retry_after="date", hint=9.0, latency=(0.1, 0.2), distribution="lognormal",
        slowdown=0.1, seed=10,
    )  # fmt: skip
    assert all(getattr(settings, field.name) != field.default for field in dataclasses.fields(Settings))
    parser = ArgumentParser()
    Settings.add_arguments(parser)

    assert Settings.from_args(parser.parse_args(settings.to_args())) == settings
    assert Settings.from_args(parser.parse_args([])) == Settings(latency=(0.05, 0.05), phases=[])


def test_every_setting_can_be_given_everywhere():
    """Keyword arguments and the command line know the same settings."""
    names = {field.name for field in dataclasses.fields(Settings)}

    assert set(Figures.__annotations__) == names
    assert set(inspect.signature(simulate).parameters) - {"port", "json"} == names - {"phases"} | {"phase"}


def test_every_style_can_be_chosen():
    """The names that are checked are those that are written."""
    for style in STYLES:
        assert Settings(retry_after=style).retry_after == style
