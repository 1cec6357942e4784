"""ratelease.parallelism: how many calls may run at once, as functions, on state that the fleet shares."""

import threading
import time

import pytest

from ratelease import parallelism
from ratelease.errors import ConfigError
from ratelease.parallelism import DynamicAdjusterConfig, DynamicParallelismAdjuster, create_parallelism_adjuster
from support.wait_until import wait_until

MODEL = ("openai", "gpt-4o")


@pytest.fixture
def make(settings, store):
    """Make adjusters that share the test's store; all are shut down afterwards."""
    made = []

    def make(**figures):
        made.append(DynamicParallelismAdjuster(DynamicAdjusterConfig(**figures), settings=settings))
        return made[-1]

    yield make
    for each in made:
        each.shutdown()
    store.close()


@pytest.fixture
def environment(settings, monkeypatch):
    """Let the adjuster of the process find the test's store."""
    monkeypatch.setenv("RATELEASE_URL", settings.url)
    monkeypatch.setenv("RATELEASE_NAMESPACE", settings.namespace)
    yield
    parallelism.reset_parallelism_adjuster()


@pytest.mark.covers("AL-01")
def test_an_adjuster_begins_with_these_figures(make) -> None:
    """Each can be set; one that is not known is refused, as is what is outside its range, all at once."""
    figures = {
        "min_parallelism": 1,
        "base_parallelism": 4,
        "max_parallelism": 16,
        "reduction_on_429": 0.3,
        "reduction_on_timeout": 0.1,
        "reduction_on_error": 0.05,
        "increase_on_recovery": 0.1,
        "recovery_interval": 60.0,
        "error_window": 300.0,
        "max_error_history": 100,
        "max_response_samples": 50,
        "probe": True,
        "whole_numbers": False,
    }
    assert DynamicAdjusterConfig().model_dump() == figures
    adjuster = make(base_parallelism=6, max_parallelism=9, reduction_on_429=0.5, recovery_interval=7)
    adjuster.adjust_for_error(*MODEL, "429")
    config = adjuster.get_config(*MODEL)
    assert (config.base_parallelism, config.current_parallelism, config.max_parallelism) == (6, 3, 9)
    with pytest.raises(ConfigError) as raised:
        DynamicAdjusterConfig(max_parallelism=0, error_window=-1, probe="no", basis=3)
    for name in ("max_parallelism", "error_window", "probe", "probe must be true or false", "basis is not known"):
        assert name in str(raised.value)
    for odd in ({"min_parallelism": 5}, {"max_parallelism": 3}, {"base_parallelism": 9, "max_parallelism": 8}):
        with pytest.raises(ConfigError, match="must be in this order"):
            DynamicAdjusterConfig(**odd)
    assert make(base_parallelism=20).get_config("openai", "large").max_parallelism == 20


@pytest.mark.covers("AL-02")
def test_a_model_that_nobody_has_used_has_the_base(make) -> None:
    """For a reason that says so; looking changes nothing."""
    adjuster = make()
    assert adjuster.get_parallelism(*MODEL) == 4
    config = adjuster.get_config(*MODEL)
    assert (config.adjustment_reason, config.last_adjusted_at) == ("initial", None)
    assert adjuster.get_all_states() == {}


@pytest.mark.covers("AL-08")
def test_what_one_adjuster_is_told_the_others_answer_at_once(make) -> None:
    """Each type of failure by its own part, once an episode."""
    one, two = make(), make()
    one.adjust_for_error(*MODEL, "429", "a detail")
    one.adjust_for_error(*MODEL, "429")
    assert two.get_parallelism("OpenAI", "GPT-4o") == 2
    config = two.get_config(*MODEL)
    assert config.adjustment_reason == "429 rate limit error"
    assert config.last_adjusted_at > 1e9
    two.adjust_for_error("openai", "other", "timeout")
    two.adjust_for_error("openai", "third", "error")
    assert [one.get_parallelism("openai", model) for model in ("other", "third")] == [3, 3]
    with pytest.raises(ConfigError, match="error_type must be one of 429, timeout, error, not 'quota'"):
        one.adjust_for_error(*MODEL, "quota")
    with pytest.raises(ConfigError, match="error_type"):
        one.adjust_for_error(*MODEL, ["429"])


@pytest.mark.covers("AL-17", "AL-22", "AL-23")
def test_health_counts_what_was_told(make) -> None:
    """Episodes, whatever the names are."""
    adjuster = make()
    assert adjuster.get_health("ollama", "llama3:8b").healthy
    adjuster.adjust_for_error("ollama", "llama3:8b", "429")
    health = make().get_health("ollama", "llama3:8b")
    assert (health.healthy, health.recent_429_count) == (False, 1)
    assert 1.0 < health.recommended_backoff <= 2.0


@pytest.mark.covers("AL-22")
def test_old_failures_and_long_histories_are_left_out(make) -> None:
    """As far back as the settings say, and as many."""
    adjuster = make(error_window=0.05)
    adjuster.adjust_for_error(*MODEL, "429")
    wait_until(lambda: adjuster.get_health(*MODEL).recent_429_count == 0, description="the failure is old")
    with pytest.raises(ConfigError, match="max_error_history must be a whole number from 1 to 100"):
        DynamicAdjusterConfig(max_error_history=101)


@pytest.mark.covers("AL-24")
def test_responses_are_averaged_over_the_fleet(make) -> None:
    """The newest fifty of them."""
    one, two = make(), make()
    assert one.get_health(*MODEL).average_response is None
    for _ in range(10):
        one.record_success(*MODEL, 9.0)
    for _ in range(25):
        one.record_success(*MODEL, 0.1)
        two.record_success(*MODEL, 0.3)
    assert two.get_health(*MODEL).average_response == 0.2
    with pytest.raises(ConfigError, match="response must be seconds"):
        one.record_success(*MODEL, float("nan"))


@pytest.mark.covers("AL-25")
def test_active_requests_are_those_of_the_fleet_and_never_below_none(make) -> None:
    """Also beyond the parallelism, of each model by itself; what completes that never began changes nothing."""
    one, two = make(), make()
    for _ in range(3):
        one.request_started(*MODEL)
        two.request_started("OPENAI", "gpt-4o")
    two.request_started("openai", "other")
    assert [each.get_health(*MODEL).active_requests for each in (one, two)] == [6, 6]
    assert "openai/gpt-4o: 4 of 4 (at most 16), healthy, 6 active" in two.format_summary()
    for _ in range(4):
        one.request_completed(*MODEL)
    assert two.get_health(*MODEL).active_requests == 3
    for _ in range(5):
        two.request_completed(*MODEL)
    assert one.get_health(*MODEL).active_requests == 0
    assert one.get_health("openai", "other").active_requests == 1
    assert one.get_parallelism(*MODEL) == 4


@pytest.mark.covers("AL-25")
def test_calls_are_counted_where_they_run_while_everything_is_paused(make) -> None:
    """Whoever tells of a call is not kept waiting for the end of the pause."""
    adjuster = make()
    adjuster.request_started(*MODEL)
    adjuster._client.operator.pause("total")
    begun = time.monotonic()
    adjuster.request_started(*MODEL)
    assert time.monotonic() - begun < 1
    adjuster._client.operator.resume("total")
    assert adjuster.get_health(*MODEL).active_requests == 2
    assert [state.health.active_requests for state in adjuster.get_all_states().values()] == [2]
    for _ in range(2):
        adjuster.request_completed(*MODEL)
    assert adjuster.get_health(*MODEL).active_requests == 0


@pytest.mark.covers("AL-26")
def test_a_reset_is_everybodys(make) -> None:
    """Of one model, or of all."""
    one, two = make(), make()
    for model in ("gpt-4o", "a:b", "third"):
        one.adjust_for_error("openai", model, "429")
    assert [two.get_parallelism("openai", model) for model in ("gpt-4o", "a:b", "third")] == [2, 2, 2]
    two.reset("OpenAI", "A:B")
    assert [one.get_parallelism("openai", model) for model in ("gpt-4o", "a:b", "third")] == [2, 4, 2]
    assert one.get_config("openai", "a:b").adjustment_reason == "initial"
    one.reset_all()
    assert [two.get_parallelism("openai", model) for model in ("gpt-4o", "a:b", "third")] == [4, 4, 4]


def test_recovery_comes_by_itself(make) -> None:
    """attempt_recovery may be called, and need not be; ten of them are no ten steps."""
    adjuster = make(base_parallelism=10, recovery_interval=0.3)
    adjuster.adjust_for_error(*MODEL, "429")
    assert adjuster.get_parallelism(*MODEL) == 7
    for _ in range(10):
        adjuster.attempt_recovery(*MODEL)
    assert adjuster.get_parallelism(*MODEL) == 7
    wait_until(lambda: adjuster.get_parallelism(*MODEL) == 8, description="a step")
    assert adjuster.get_config(*MODEL).adjustment_reason == "recovery"


@pytest.mark.covers("AL-27")
def test_changes_are_told_until_somebody_unsubscribes(make, store) -> None:
    """To every adjuster."""
    one, two = make(), make()
    heard = []
    end = two.on_parallelism_change(heard.append)
    channel = f"{two._client._rt.keyspace.inbox_prefix}everyone"
    wait_until(lambda: store.pubsub_numsub(channel)[0][1] >= 1, description="somebody listens")
    one.adjust_for_error(*MODEL, "429")
    wait_until(lambda: heard, description="the change is told")
    assert [(change.scope, change.before, change.after, change.reason) for change in heard] == [
        ("openai/gpt-4o", 4, 2, "429 rate limit error")
    ]
    end()
    one.adjust_for_error("openai", "other", "429")
    assert len(heard) == 1


@pytest.mark.covers("AL-41")
def test_a_process_is_told_its_share_of_the_parallelism(make) -> None:
    """By the number of instances that it is told; at least 1, and all of it without a number."""
    one, two = make(), make()
    for count, share in ((4, 1), (3, 1), (2, 2), (1, 4), (5, 1), (1000, 1), (0, 4)):
        one.apply_cross_instance_limits("OpenAI", "gpt-4o", count)
        assert (count, one.get_parallelism(*MODEL)) == (count, share)
    assert two.get_parallelism(*MODEL) == 4, "another process is told by its own caller"
    one.apply_cross_instance_limits(*MODEL, 2)
    assert one.get_config(*MODEL).current_parallelism == 4
    assert one.get_parallelism("openai", "other") == 4
    for odd in (-1, 1.5, "2", True, None):
        with pytest.raises(ConfigError, match="instance_count"):
            one.apply_cross_instance_limits(*MODEL, odd)


@pytest.mark.covers("AL-29")
def test_shutting_down_ends_threads_once_and_again(make) -> None:
    """What it counted is given back; a call afterwards says that it is closed."""
    before = set(threading.enumerate())
    adjuster, other = make(), make()
    adjuster.on_parallelism_change(print)
    adjuster.request_started(*MODEL)
    other.request_started(*MODEL)
    adjuster.shutdown()
    assert other.get_health(*MODEL).active_requests == 1
    adjuster.shutdown()
    adjuster.request_completed(*MODEL)
    with pytest.raises(ConfigError, match="closed"):
        adjuster.get_parallelism(*MODEL)
    other.shutdown()
    mine = [thread for thread in set(threading.enumerate()) - before if thread.name == "ratelease-keeper"]
    assert mine == []


@pytest.mark.covers("AL-30")
def test_a_process_has_one_adjuster_of_its_own_and_any_number_of_others(environment) -> None:
    """A new one after a reset; others have the figures that they are given, and defaults."""
    first = parallelism.get_parallelism_adjuster()
    assert parallelism.get_parallelism_adjuster() is first
    with create_parallelism_adjuster(base_parallelism=7) as other:
        assert other is not first
        assert other.get_parallelism("openai", "o") == 7
        assert other._config.max_parallelism == 16
    with create_parallelism_adjuster(DynamicAdjusterConfig(base_parallelism=5)) as given:
        assert given.get_parallelism("openai", "p") == 5
    with pytest.raises(ConfigError, match="not both"):
        create_parallelism_adjuster(DynamicAdjusterConfig(), base_parallelism=5)
    with pytest.raises(ConfigError, match="DynamicAdjusterConfig"):
        DynamicParallelismAdjuster({"base_parallelism": 5})
    parallelism.reset_parallelism_adjuster()
    parallelism.reset_parallelism_adjuster()
    assert parallelism.get_parallelism_adjuster() is not first
    with pytest.raises(ConfigError, match="closed"):
        first.get_parallelism(*MODEL)


@pytest.mark.covers("AL-31")
def test_the_functions_use_the_adjuster_of_the_process(environment) -> None:
    """The short way."""
    assert parallelism.format_parallelism_summary().splitlines()[1:] == ["  no model has been used yet"]
    assert parallelism.get_parallelism(*MODEL) == 4
    parallelism.adjust_for_error(*MODEL, "429")
    parallelism.attempt_recovery(*MODEL)
    assert parallelism.get_parallelism(*MODEL) == 2
    assert parallelism.get_parallelism_adjuster().get_parallelism(*MODEL) == 2
    assert parallelism.format_parallelism_summary().splitlines()[1:] == [
        "  openai/gpt-4o: 2 of 4 (at most 16), not healthy, 0 active, 1 recent 429s, because: 429 rate limit error"
    ]
