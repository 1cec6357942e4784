"""Limits as people state them, and what each model gets from them."""

import copy
import math
import pickle
import subprocess
import sys

import pytest

from ratelease import Config, Limits, Pool, Rate
from ratelease.core.model import spec_of
from ratelease.errors import ConfigError


@pytest.mark.parametrize(
    "name, of, per",
    [
        ("rpm", "requests", 60.0),
        ("rpd", "requests", 86_400.0),
        ("tpm", "tokens", 60.0),
        ("tpd", "tokens", 86_400.0),
        ("itpm", "input_tokens", 60.0),
        ("otpm", "output_tokens", 60.0),
        ("burst", "requests", 1.0),
    ],
)
def test_a_short_form_is_a_rate(name: str, of: str, per: float) -> None:
    """Each name says what is counted, and over which window."""
    assert Limits(**{name: 7}).windows == (Rate(7, per=per, of=of),)  # type: ignore[arg-type]


def test_short_forms_and_rates_are_one_list() -> None:
    """Further rates stand behind the short forms."""
    limits = Limits(rpm=500, tpm=1000, rates=[Rate(90, per=10)])
    assert [(rate.of, rate.per, rate.limit) for rate in limits.windows] == [
        ("requests", 60.0, 500),
        ("tokens", 60.0, 1000),
        ("requests", 10, 90),
    ]


@pytest.mark.parametrize("name", ["rpm", "rpd", "tpm", "tpd", "itpm", "otpm", "burst", "concurrency"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "5", True, math.nan, math.inf, 10**13])
def test_a_limit_must_be_a_positive_whole_number(name: str, value: object) -> None:
    """The message names the figure and what it was."""
    with pytest.raises(ConfigError, match=f"{name} must be a whole number from 1"):
        Limits(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "make, said",
    [
        (
            lambda: Limits(rmp=5, concurency=2),
            r"Limits\.rmp is not known: did you mean rpm\?; Limits\.concurency is not",
        ),
        (
            lambda: Limits(requests=5),
            "known are burst, concurrency, cooldown, guard, headroom, itpm, otpm, rates, rpd, rpm, strategy, tpd,",
        ),
        (lambda: Config(lease_tll=5), r"Config\.lease_tll is not known: did you mean lease_ttl\?"),
    ],
)
def test_a_field_that_is_not_known_is_refused_with_the_nearest(make, said) -> None:
    """Else a limit with a mistake in its name would be none."""
    with pytest.raises(ConfigError, match=said) as caught:
        make()
    assert caught.value.__context__ is None


def test_values_are_made_by_many_threads_at_once() -> None:
    """Also the first of a process, whose class is only then made ready."""
    program = (
        "import threading, ratelease\n"
        "from ratelease import Config, Limits, Pool, Rate\n"
        "made, gate = [], threading.Barrier(16)\n"
        "def make():\n"
        "    gate.wait()\n"
        "    made.append((Limits(rpm=5, rates=[Rate(3, per=2)]), Config(poll=1), Pool(['a/*'])))\n"
        "threads = [threading.Thread(target=make) for _ in range(16)]\n"
        "[thread.start() for thread in threads]; [thread.join() for thread in threads]\n"
        "print(len(made), len(set(made)))\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("16 1\n", "")


@pytest.mark.parametrize("per", [0, -1, math.nan, math.inf, 40 * 86_400, "60", True, None])
def test_a_window_must_be_a_time(per: object) -> None:
    """10 ms to 31 days."""
    with pytest.raises(ConfigError, match=r"Rate\.per must be 0\.01 to"):
        Rate(5, per=per)  # type: ignore[arg-type]


def test_a_rate_must_count_something_known() -> None:
    """The message lists the units."""
    with pytest.raises(ConfigError, match="requests, tokens, input_tokens, output_tokens"):
        Rate(5, of="characters")  # type: ignore[arg-type]


@pytest.mark.parametrize("guard", [-0.1, 61, math.nan, math.inf, "1", True])
def test_a_guard_must_be_a_time(guard: object) -> None:
    """0 to 60 seconds."""
    with pytest.raises(ConfigError, match="guard must be 0 to 60"):
        Limits(rpm=5, guard=guard)  # type: ignore[arg-type]


def test_all_faults_of_limits_are_named_together() -> None:
    """Nobody mends one to learn of the next."""
    with pytest.raises(ConfigError) as caught:
        Limits(rpm=0, tpm=-1, concurrency=0, guard=-1)
    for name in ("rpm", "tpm", "concurrency", "guard"):
        assert name in str(caught.value)


def test_two_rates_of_one_window_are_refused() -> None:
    """Which of them would count?"""
    with pytest.raises(ConfigError, match="two rates of requests per 60 s"):
        Limits(rpm=500, rates=[Rate(400)])


@pytest.mark.parametrize("rates", [Rate(5), 5, [5], ["rpm"]])
def test_rates_must_hold_rates(rates: object) -> None:
    """A single rate, a number or a text is no list of them."""
    with pytest.raises(ConfigError, match="rates must"):
        Limits(rates=rates)  # type: ignore[arg-type]


def test_limits_and_rates_are_values() -> None:
    """Equal ones are equal, fit to be keys and to be sent to another process, and none can be changed."""
    assert Limits(rpm=5, rates=[Rate(1, per=2)]) == Limits(rpm=5, rates=(Rate(1, per=2),))
    pool = Pool(["openai/*"], Limits(rpm=5, rates=[Rate(1, per=2)]))
    for again in (pickle.loads(pickle.dumps(pool)), copy.deepcopy(pool)):  # noqa: S301 - made a moment ago
        assert again == pool
        assert {again: 1}[pool] == 1
        assert again.limits.figures == pool.limits.figures
    with pytest.raises(AttributeError):
        del Limits(rpm=5).rpm
    with pytest.raises(AttributeError):
        Limits(rpm=5).rpm = 6  # type: ignore[misc]


@pytest.mark.parametrize(
    "limits, spec",
    [
        (None, "-"),
        (Limits(), "none"),
        (Limits(concurrency=8), "c8"),
        (Limits(rpm=500, concurrency=8), "c8 r60000=500+250"),
        (Limits(rpm=500, guard=0), "r60000=500+0"),
        (Limits(rates=[Rate(5, per=0.5)], guard=1), "r500=5+50"),
        (Limits(itpm=3, otpm=4), "i60000=3+250 o60000=4+250"),
    ],
)
def test_scripts_read_limits_as_one_line(limits: Limits | None, spec: str) -> None:
    """The guard is capped at a tenth of its window."""
    assert spec_of(limits) == spec


@pytest.mark.parametrize("models", ["openai/gpt-4o", [""], [4]])
def test_a_pool_must_list_keys(models: object) -> None:
    """One text would be read letter by letter."""
    with pytest.raises(ConfigError, match=r"Pool\.models"):
        Pool(models)  # type: ignore[arg-type]


def test_a_pool_must_have_limits() -> None:
    """A dict is none."""
    with pytest.raises(ConfigError, match=r"Pool\.limits must be Limits"):
        Pool([], {"rpm": 5})  # type: ignore[arg-type]
