"""
A fleet that goes by the count of a provider which lags, and the account of what really runs there.

A call shows in the provider's count up to LAG after it began, and leaves it up to COOLDOWN after it ended; a call that
was given up here runs on for a while, though never as long as its hold. Calls that are not the fleet's only become
fewer. An answer to a poll is counted at any moment between its begin and its coming.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from ratelease import Limits
from support.clock import driven_clock
from support.store import FOR_EVER, Asked, Instance, Rewrite, Store
from support.usage_gate import Watcher

LIMIT = 4
LAG, COOLDOWN, HOLD, CLAIM = 300, 400, 5000, 3000  # ms
MODELS = ("gpt-4o", "gpt-mini")
NEVER = 1 << 62
LONG = 600_000  # no snapshot expires, and nobody loses patience: what goes by no snapshot is promised nothing

milliseconds = st.sampled_from((1, 20, 90, 250, 500, 1100, 2900, 6000))
lags = st.tuples(st.sampled_from((0, LAG // 2, LAG)), st.sampled_from((0, COOLDOWN // 2, COOLDOWN)))


@dataclass(slots=True)
class Call:
    """One call at the provider; times are ms."""

    asked: Asked
    one: Instance
    begins: int
    shows: int
    end_lag: int
    ends: int = NEVER
    gone: int = NEVER
    released: bool = False

    @property
    def weight(self) -> int:
        return self.asked.request.weight

    def end(self, at: int) -> None:
        """Let it end at the provider."""
        self.ends, self.gone = at, max(at + self.end_lag, self.shows)


class GateMachine(RuleBasedStateMachine):
    """See the module. What runs or is counted there, together, never passes the limit."""

    client: Any
    strict: bool
    rewrite: Rewrite | None

    def __init__(self) -> None:
        super().__init__()
        self.time = driven_clock()
        self.clock = self.time.__enter__()
        self.client.flushall()
        self.store = Store(
            self.client,
            limits={"openai": Limits(concurrency=LIMIT)},
            lease_ttl=300.0,
            heartbeat=5.0,
            rewrite=self.rewrite,
        )
        times = {"lag": LAG, "cooldown": COOLDOWN, "hold": HOLD, "max_age": LONG, "patience": LONG, "lasts": LONG}
        self.fleet = [self.store.instance() for _ in range(2)]
        self.watchers = [Watcher(one, strict=1, **times) for one in self.fleet]
        self.calls: list[Call] = []
        self.waiting: list[tuple[Instance, Asked]] = []
        self.foreign = 0
        self.poller: Watcher | None = None
        self.counted: int | None = None

    @initialize(foreign=st.integers(0, 3))
    def begin(self, foreign: int) -> None:
        self.foreign = foreign
        self.watchers[0].answer(foreign)
        for watcher in self.watchers:
            watcher.words[2] = int(self.strict)
        self.watchers[0].poll()

    def teardown(self) -> None:
        try:
            self.settle()
        finally:
            self.time.__exit__(None, None, None)

    # ---- the provider ------------------------------------------------------------------------------------------

    def load(self) -> int:
        """What runs there or is still counted, of anybody's."""
        now = self.clock.ms
        return self.foreign + sum(call.weight for call in self.calls if call.begins <= now < max(call.ends, call.gone))

    def count(self) -> int:
        """What the provider counts."""
        now = self.clock.ms
        return self.foreign + sum(call.weight for call in self.calls if call.shows <= now < call.gone)

    def started(self, one: Instance, asked: Asked, start_lag: int, end_lag: int) -> None:
        now = self.clock.ms
        self.calls.append(Call(asked, one, now, now + start_lag, end_lag))
        assert self.load() <= LIMIT, f"{self.load()} at the provider"

    # ---- the fleet ---------------------------------------------------------------------------------------------

    @rule(
        who=st.integers(0, 1),
        model=st.sampled_from(MODELS),
        weight=st.sampled_from((1, 1, 1, 2)),
        waits=st.booleans(),
        times=st.integers(1, 3),
        lags=lags,
    )
    def ask(self, who: int, model: str, weight: int, waits: bool, times: int, lags: tuple[int, int]) -> None:
        one = self.fleet[who]
        for _ in range(times):
            asked = one.acquire(model, weight=weight, wait=FOR_EVER if waits else None)
            if asked.granted:
                self.started(one, asked, *lags)
            elif waits:
                self.waiting.append((one, asked))
        self.watchers[who].follow()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), lags=lags)
    def claim(self, data: st.DataObject, lags: tuple[int, int]) -> None:
        place = data.draw(st.sampled_from(self.waiting))
        one, waiter = place
        if one.send([waiter.request])[0].granted:
            self.waiting.remove(place)
            self.started(one, waiter, *lags)

    def held(self) -> list[Call]:
        return [call for call in self.calls if not call.released]

    @precondition(lambda self: self.held())
    @rule(data=st.data(), runs_on=st.sampled_from((None, None, 0, 100, 2000, HOLD - 500)))
    def end(self, data: st.DataObject, runs_on: int | None) -> None:
        """Release a call that has ended, or give it up while it runs on."""
        call = data.draw(st.sampled_from(self.held()))
        self.release(call, runs_on)

    def release(self, call: Call, runs_on: int | None) -> None:
        call.released = True
        call.end(self.clock.ms + (runs_on or 0))
        call.one.release(call.asked.request.line, call.asked.id, lesson="" if runs_on is None else "c")
        self.watchers[self.fleet.index(call.one)].follow()

    @rule(ms=milliseconds)
    def wait(self, ms: int) -> None:
        self.clock.advance(ms / 1000)

    @precondition(lambda self: self.foreign)
    @rule()
    def others_end(self) -> None:
        self.foreign -= 1

    # ---- polls -------------------------------------------------------------------------------------------------

    @rule(who=st.integers(0, 1))
    def poll(self, who: int) -> None:
        turn = self.watchers[who].poll()
        if turn.due:
            self.poller, self.counted = self.watchers[who], None

    @precondition(lambda self: self.poller is not None)
    @rule()
    def measure(self) -> None:
        self.counted = self.count()

    @precondition(lambda self: self.counted is not None)
    @rule()
    def seen(self) -> None:
        assert self.poller is not None
        self.poller.seen(self.counted)
        self.poller.follow()
        self.poller, self.counted = None, None

    @rule(who=st.integers(0, 1))
    def answer(self, who: int) -> None:
        """A poll that is answered at once."""
        self.poll(who)
        if self.poller is not None:
            self.measure()
            self.seen()

    # ---- in the end --------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Whoever waits is served, once calls end and polls come."""
        self.foreign = 0
        for _ in range(30):
            for call in self.held():
                self.release(call, None)
            self.clock.advance(5.0)
            for one in self.fleet:
                one.beat()
            for watcher in self.watchers:
                if watcher.poll().due:
                    watcher.seen(self.count())
                    watcher.follow()
            for one, waiter in list(self.waiting):
                if one.send([waiter.request])[0].granted:
                    self.waiting.remove((one, waiter))
                    self.started(one, waiter, 0, 0)
            if not self.waiting:
                return
        raise AssertionError(f"{len(self.waiting)} wait for ever")


def gate_machine(fake_client: Any, *, strict: bool, rewrite: Rewrite | None = None) -> type[GateMachine]:
    """The machine over this client; strict: every grant goes by a snapshot."""
    return type(
        "Machine",
        (GateMachine,),
        {"client": fake_client, "strict": strict, "rewrite": staticmethod(rewrite) if rewrite else None},
    )
