"""Operators change limits for every process at once, pause and resume; what they do is written down."""

import asyncio

import pytest

from ratelease import AsyncOperator, Limits, Operator, Rate
from ratelease.errors import ConfigError, ImpossibleRequest, StoreCorrupt, WaitTimeout
from support.wait_until import wait_until_async

MODEL = ("openai", "gpt-4o")
SCOPE = "openai/gpt-4o"
LIMITS = {SCOPE: Limits(concurrency=2, rpm=100), "openai": Limits(concurrency=9)}
# Neither a poll nor a heartbeat looks at the queues while a test runs.
QUIET = {"poll": 9.0, "lease_ttl": 30.0, "heartbeat": 15.0}


class BothOperator:
    """An operator of the limiter's colour, apart from any client."""

    def __init__(self, limiter, settings, **options) -> None:
        self._limiter = limiter
        made = Operator if limiter.is_sync else AsyncOperator
        self.operator = made(config=settings, **options)

    def __getattr__(self, verb):
        return lambda *names, **options: self._limiter.call(getattr(self.operator, verb), *names, **options)


@pytest.fixture
async def operate(settings):
    """Make operators; all are closed afterwards."""
    made = []

    def make(limiter, **options):
        made.append(BothOperator(limiter, settings, **options))
        return made[-1]

    yield make
    for each in made:
        await each.close()


def waiters(limiter, count, **options):
    """Callers that wait, as tasks."""
    return [asyncio.create_task(limiter.acquire(*MODEL, **options).take()) for _ in range(count)]


@pytest.mark.covers("LC-13")
@pytest.mark.permanent_keys("rl:{*}:overrides")
async def test_a_raised_limit_wakes_who_waits_in_every_process_at_once(make_limiter, operate) -> None:
    """Without a release, without a poll: three more are granted by the operator's own call."""
    one, two = make_limiter(limits=LIMITS, **QUIET), make_limiter(limits=LIMITS, **QUIET)
    await one.hold(*MODEL, 2)
    waiting = [*waiters(one, 2), *waiters(two, 2)]
    await one.until_waiting(4)
    operator = operate(one)
    assert await operator.set_limits(*MODEL, Limits(concurrency=5), reason="new tier") == {"concurrency": 5}
    await wait_until_async(lambda: _are_done(waiting, 3), timeout=2.0, description="three are granted")
    assert await one.in_flight(SCOPE) == 5
    status = (await two.status()).scope(SCOPE)
    assert (status.concurrency, status.overrides, [rate.limit for rate in status.rates]) == (
        5,
        {"concurrency": 5},
        [100],
    )
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def _are_done(tasks, count) -> bool:
    return sum(task.done() for task in tasks) == count


@pytest.mark.covers("LC-13", "LC-15")
async def test_what_is_set_merges_and_what_is_unset_falls_back(make_limiter, operate) -> None:
    """Figure by figure; without names all of them."""
    limiter = make_limiter(limits=LIMITS)
    operator = operate(limiter)
    await operator.set_limits(*MODEL, Limits(concurrency=5))
    both = await operator.set_limits(*MODEL, Limits(tpm=9000, rates=[Rate(7, per=10.0)]))
    assert both == {"concurrency": 5, "tpm": 9000, "requests/10s": 7}
    assert await operator.unset_limits(*MODEL, "requests/10s", "concurrency") == {"tpm": 9000}
    await limiter.hold(*MODEL, 2)
    assert (await limiter.try_acquire(*MODEL)).limit == 2
    assert await operator.unset_limits(*MODEL) == {}
    assert [rate.dimension for rate in (await limiter.status()).scope(SCOPE).rates] == ["requests/60s"]


@pytest.mark.covers("LC-12", "LC-13", "RW-08")
async def test_limits_shows_what_operators_have_set_above_all_other_sources(make_limiter, operate) -> None:
    """Figure by figure, headroom too, on the model that was asked for and on all; the admission goes by it."""
    limiter = make_limiter(limits=LIMITS)
    operator = operate(limiter)
    await operator.set_limits(*MODEL, Limits(rpm=10, headroom=0.3))
    await operator.set_limits("anthropic", limits=Limits(concurrency=3))
    shown = (await limiter.call(limiter.client.limits, *MODEL)).scope(SCOPE)
    assert [(each.name, each.value, each.effective, each.source) for each in shown.figures] == [
        ("rpm", 10, 3, "operator"),
        ("concurrency", 2, 2, "argument"),
        ("headroom", 0.3, 0.3, "operator"),
    ]
    every = await limiter.call(limiter.client.limits)
    assert every.scope("anthropic").figure("concurrency").source == "operator"
    for _ in range(3):
        await (await limiter.acquire(*MODEL)).release()
    refusal = await limiter.try_acquire(*MODEL)
    assert (refusal.dimension, refusal.used, refusal.limit) == ("requests/60s", 3, 3)
    assert await operator.unset_limits(*MODEL, "headroom") == {"rpm": 10}
    assert await operator.unset_limits("anthropic") == {}
    assert await limiter.try_acquire(*MODEL)


@pytest.mark.covers("LC-13")
@pytest.mark.parametrize("names, scope", [(("openai", None), "openai"), (("total", None), "total")])
async def test_shared_scopes_are_set_by_their_names(make_limiter, operate, names, scope) -> None:
    """The provider's and the total's limits hold for every model."""
    limiter = make_limiter(limits=LIMITS)
    operator = operate(limiter)
    await operator.set_limits(*names, Limits(concurrency=1))
    await limiter.hold(*MODEL)
    refusal = await limiter.try_acquire("openai", "gpt-5")
    assert (refusal.scope, refusal.limit) == (scope, 1)
    await operator.unset_limits(*names)


@pytest.mark.covers("LC-14", "AD-10")
async def test_a_parked_request_that_a_lowered_limit_excludes_is_told_at_once(make_limiter, operate) -> None:
    """And the one behind it goes on."""
    limiter = make_limiter(limits={SCOPE: Limits(concurrency=4)}, **QUIET)
    held = await limiter.acquire(*MODEL, weight=4)
    large = asyncio.create_task(limiter.acquire(*MODEL, weight=3).take())
    await limiter.until_waiting(1)
    small = asyncio.create_task(limiter.acquire(*MODEL).take())
    await limiter.until_waiting(2)
    await operate(limiter).set_limits(*MODEL, Limits(concurrency=2))
    with pytest.raises(ImpossibleRequest, match="limit is 2"):
        await asyncio.wait_for(large, 2.0)
    assert held.valid
    await held.release()
    await (await small).release()


async def test_a_paused_scope_admits_nobody_until_it_is_resumed(make_limiter, operate) -> None:
    """Provider-wide and without end; then a waiter of another process goes on at once."""
    one, two = make_limiter(limits=LIMITS, **QUIET), make_limiter(limits=LIMITS, **QUIET)
    operator = operate(one)
    running = await one.acquire(*MODEL)
    await operator.pause("openai", reason="maintenance")
    refusal = await two.try_acquire("openai", "gpt-5")
    assert (refusal.reason, refusal.scope, refusal.dimension, refusal.retry_after) == (
        "paused",
        "openai",
        "pause",
        None,
    )
    waiting = waiters(two, 1)
    await two.until_waiting(1)
    scope = (await operator.status()).scope("openai")
    assert (scope.paused, scope.resumes_in, running.valid) == (True, None, True)
    await operator.resume("openai")
    await (await asyncio.wait_for(waiting[0], 2.0)).release()


async def test_a_pause_with_an_end_says_when_to_come_back(make_limiter, operate) -> None:
    """A caller that cannot wait that long is told at once; one that can is granted when it is over."""
    limiter = make_limiter(limits=LIMITS)
    operator = operate(limiter)
    await operator.pause(*MODEL, seconds=0.6)
    with pytest.raises(WaitTimeout, match="is paused") as raised:
        await limiter.acquire(*MODEL, timeout=0.1)
    assert 0.1 < raised.value.retry_after <= 0.6
    assert await limiter.acquire(*MODEL, timeout=5)
    await operator.pause(*MODEL, seconds=50)
    assert await limiter.reset(*MODEL) >= 0
    assert await limiter.try_acquire(*MODEL), "reset ends pauses"


@pytest.mark.covers("LC-22")
async def test_status_names_the_instances_that_were_started_with_other_limits(make_limiter) -> None:
    """The newest one's hold; the older is named with both figures."""
    old = make_limiter(limits=LIMITS)
    await (await old.acquire(*MODEL)).release()
    new = make_limiter(limits={**LIMITS, SCOPE: Limits(concurrency=7, rpm=100)})
    await (await new.acquire(*MODEL)).release()

    async def named() -> bool:
        return bool((await new.status()).disagreements)

    await wait_until_async(named, description="the heartbeat has told")
    [found] = (await new.status()).disagreements
    assert (found.scope, found.instance) == (SCOPE, old.instance_id)
    assert (found.ours["concurrency"], found.agreed["concurrency"]) == (2, 7)


async def test_what_operators_do_is_written_down_with_who_and_why(make_limiter, operate, store) -> None:
    """The newest first; what somebody else has put into the journal is passed over."""
    limiter = make_limiter(limits=LIMITS)
    operator = operate(limiter, who="ana")
    await operator.set_limits(*MODEL, Limits(rpm=5), reason="bill")
    await operator.pause("openai", seconds=1.5)
    await operator.reset("openai", reason="new month")
    store.lpush(f"{limiter.client._rt.keyspace.base}journal", b"rubbish", b"7:\xc1", b"x" * 10_000)
    deeds = await operator.journal()
    assert [(deed.verb, deed.scope, deed.what, deed.who, deed.reason) for deed in deeds] == [
        ("reset", "openai", "", "ana", "new month"),
        ("pause", "openai", "1500", "ana", ""),
        ("set", SCOPE, "r60000=5", "ana", "bill"),
    ]
    assert deeds[0].at >= deeds[2].at > 1e9


async def test_a_clients_own_operator_shares_its_connections(make_limiter) -> None:
    """And is no further instance."""
    limiter = make_limiter(limits=LIMITS)
    await limiter.start()
    await limiter.call(limiter.client.operator.set_limits, *MODEL, Limits(concurrency=1))
    await limiter.call(limiter.client.operator.close)
    await limiter.hold(*MODEL)
    assert not await limiter.try_acquire(*MODEL)
    assert len(await limiter.call(limiter.client.operator.instances)) == 1


@pytest.mark.parametrize(
    "verb, names, options, said",
    [
        ("set_limits", MODEL, {}, "needs Limits"),
        ("set_limits", (*MODEL, {"rpm": 5}), {}, "needs Limits"),
        ("set_limits", ("openai", Limits(rpm=3)), {}, r"given Limits\(…\) as model: .* write limits=Limits\(…\)"),
        ("set_limits", (*MODEL, Limits()), {}, "without a figure"),
        ("set_limits", ("", "x", Limits(rpm=1)), {}, "provider is empty"),
        ("unset_limits", (*MODEL, "rps", "requests/xs"), {}, "'rps', 'requests/xs'"),
        ("pause", ("openai",), {"seconds": 0}, "more than 0"),
        ("pause", ("openai",), {"seconds": "long"}, "the length of a pause must be seconds above 0, up to 2,678,400,"),
        ("pause", ("openai",), {"seconds": -1}, "the length of a pause must be seconds above 0"),
        ("pause", ("pool:",), {}, "pool is empty: name it, as in 'pool:opus'"),
        ("pause", ("OpenAI/gpt-4o",), {}, r"as in \('openai', 'gpt-4o'\)"),
        ("set_limits", ("openai/gpt-4o",), {"limits": Limits(rpm=1)}, "give the names apart"),
        ("resume", ("total", "gpt-4o"), {}, "is no provider"),
        ("reset", ("openai/gpt-4o",), {}, "give the names apart"),
        ("resume", ("openai",), {"reason": 5}, "reason must be text"),
        ("reset", (None, "gpt-4o"), {}, "needs its provider"),
    ],
)
async def test_what_cannot_be_done_is_said_before_anything_is_sent(make_limiter, operate, verb, names, options, said):
    """One clear error, nothing half applied."""
    limiter = make_limiter(limits=LIMITS)
    operator = operate(limiter)
    with pytest.raises(ConfigError, match=said):
        await getattr(operator, verb)(*names, **options)
    assert await operator.journal() == ()


async def test_a_closed_operator_does_nothing_more(make_limiter, operate) -> None:
    """It says so, as a closed client does; one of a client leaves the client as it is."""
    limiter = make_limiter(limits=LIMITS)
    own = limiter.client.operator
    await limiter.call(own.close)
    with pytest.raises(ConfigError, match="operator is closed"):
        await limiter.call(own.status)
    operator = operate(limiter)
    await operator.status()
    await operator.close()
    with pytest.raises(ConfigError, match="operator is closed"):
        await operator.pause("openai")
    await limiter.hold(*MODEL)


@pytest.mark.covers("AL-26")
async def test_a_journal_of_a_wrong_type_is_named_and_mended_by_reset(make_limiter, operate, store, settings) -> None:
    """Nothing is done that could not be written down."""
    limiter = make_limiter(limits=LIMITS)
    operator = operate(limiter)
    await limiter.hold(*MODEL)
    key = f"rl:{{{settings.namespace}}}:journal"
    store.set(key, "not ours", ex=600)
    for verb, names in (("penalize", MODEL), ("pause", ("openai",)), ("set_limits", (*MODEL, Limits(rpm=1)))):
        with pytest.raises(StoreCorrupt, match="journal"):
            await getattr(operator, verb)(*names)
    status = await limiter.status()
    assert status.scope(SCOPE).reaction.penalty == 0
    assert not status.scope("openai").paused
    assert await operator.reset() >= 1
    await operator.pause("openai", reason="at last")
    assert [deed.verb for deed in await operator.journal()] == ["pause", "reset"]


@pytest.mark.covers("LC-16")
async def test_an_operator_finds_the_store_by_the_environment_too(make_limiter, settings, monkeypatch) -> None:
    """As the clients that it is about."""
    limiter = make_limiter(limits={"openai/gpt-4o": Limits(concurrency=2)})
    await (await limiter.acquire("openai", "gpt-4o")).release()
    monkeypatch.setenv("RATELEASE_URL", settings.url)
    monkeypatch.setenv("RATELEASE_NAMESPACE", settings.namespace)
    status = await asyncio.to_thread(lambda: Operator().status())
    assert status.prefix == (await limiter.status()).prefix
    assert status.scope("openai/gpt-4o") is not None
