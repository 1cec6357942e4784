"""
A fleet that goes by the count of a provider which lags, and the account of what really runs there.

A call shows in the provider's count up to LAG after it began, and leaves it up to COOLDOWN after it ended; a call that
was given up here runs on for a while, though never as long as its hold. Calls that are not the fleet's only become
fewer. An answer to a poll is counted at any moment between its begin and its coming.

The steps are drawn by weight, and not by Hypothesis: what can go wrong here takes a full provider, which its evenly
drawn steps hardly ever reach.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ratelease import Limits
from support.clock import DrivenClock
from support.store import FOR_EVER, Asked, Instance, Rewrite, Store
from support.usage_gate import Watcher

LIMIT = 4
LAG, COOLDOWN, HOLD = 300, 400, 5000  # ms
MODELS = ("gpt-4o", "gpt-mini")
LONG = 600_000  # no snapshot expires, and nobody loses patience: what goes by no snapshot is promised nothing
NEVER = 1 << 62


@dataclass(slots=True)
class Call:
    """One call at the provider; times are ms."""

    asked: Asked
    one: Instance
    begins: int
    shows: int
    end_lag: int
    gone: int = NEVER
    released: bool = False

    @property
    def weight(self) -> int:
        return self.asked.request.weight


class GateWalk:
    """See the module. What runs or is still counted there never passes the limit."""

    def __init__(
        self, client: Any, clock: DrivenClock, seed: int, *, strict: bool, rewrite: Rewrite | None = None
    ) -> None:
        client.flushall()
        self.clock, self.pick, self.strict = clock, random.Random(seed), strict
        limits = {"openai": Limits(concurrency=LIMIT)}
        self.store = Store(client, limits=limits, lease_ttl=300.0, heartbeat=5.0, rewrite=rewrite)
        self.fleet = [self.store.instance() for _ in range(2)]
        times: dict[str, Any] = {
            "lag": LAG,
            "cooldown": COOLDOWN,
            "hold": HOLD,
            "max_age": LONG,
            "patience": LONG,
            "lasts": LONG,
        }
        self.watchers = [Watcher(one, strict=1, **times) for one in self.fleet]
        self.calls: list[Call] = []
        self.waiting: list[tuple[Instance, Asked]] = []
        self.poller: Watcher | None = None
        self.counted: int | None = None
        self.most = 0
        # Who has not waited knows nothing of others before the first answer.
        self.foreign = self.pick.randrange(4)
        self.watchers[0].answer(self.foreign)
        for watcher in self.watchers:
            watcher.words[2] = int(strict)

    def walk(self, steps: int) -> None:
        """So many steps, and then whoever waits is served."""
        weights: dict[Callable[[], None], int] = {
            self.ask: 30,
            self.claim: 25,
            self.end: 18,
            self.wait: 20,
            self.others_end: 1,
            self.poll: 8,
            self.measure: 8,
            self.seen: 8,
            self.answer: 6,
        }
        for step in self.pick.choices([*weights], [*weights.values()], k=steps):
            step()
        self.settle()

    # ---- the provider ------------------------------------------------------------------------------------------

    def load(self) -> int:
        """What runs there or is still counted, of anybody's."""
        now = self.clock.ms
        return self.foreign + sum(call.weight for call in self.calls if call.begins <= now < call.gone)

    def count(self) -> int:
        """What the provider counts."""
        now = self.clock.ms
        return self.foreign + sum(call.weight for call in self.calls if call.shows <= now < call.gone)

    def begin(self, one: Instance, asked: Asked) -> None:
        """A call begins at the provider."""
        now = self.clock.ms
        start_lag, end_lag = self.pick.choice((0, LAG // 2, LAG)), self.pick.choice((0, COOLDOWN // 2, COOLDOWN))
        self.calls.append(Call(asked, one, now, now + start_lag, end_lag))
        self.most = max(self.most, self.load())
        assert self.load() <= LIMIT, f"{self.load()} at the provider"

    # ---- steps -------------------------------------------------------------------------------------------------

    def ask(self) -> None:
        """One to three requests of one model, by somebody who may wait or not."""
        who, model = self.pick.randrange(2), self.pick.choice(MODELS)
        waits = self.pick.random() < (0.7 if len(self.waiting) < 4 else 0.1)
        for _ in range(self.pick.choice((1, 2, 3))):
            weight = self.pick.choice((1, 1, 1, 2))
            asked = self.fleet[who].acquire(model, weight=weight, wait=FOR_EVER if waits else None)
            if asked.granted:
                self.begin(self.fleet[who], asked)
            elif waits:
                self.waiting.append((self.fleet[who], asked))
        self.watchers[who].follow()

    def claim(self) -> None:
        """Those of one instance that were granted begin."""
        one = self.pick.choice(self.fleet)
        for place in [place for place in self.waiting if place[0] is one]:
            if one.send([place[1].request])[0].granted:
                self.waiting.remove(place)
                self.begin(*place)

    def end(self) -> None:
        """A call ends, or is given up while it may run on."""
        live = [call for call in self.calls if not call.released]
        if live:
            self.release(self.pick.choice(live), self.pick.choice((None, None, 0, 100, 2000, HOLD - COOLDOWN)))

    def release(self, call: Call, runs_on: int | None) -> None:
        """End one; None: it has ended there as well."""
        call.released = True
        call.gone = max(self.clock.ms + (runs_on or 0) + call.end_lag, call.shows)
        call.one.release(call.asked.request.line, call.asked.id, lesson="" if runs_on is None else "c")
        self.watchers[self.fleet.index(call.one)].follow()

    def wait(self) -> None:
        """Time passes."""
        self.clock.advance(self.pick.choice((1, 20, 90, 250, 500, 1100, 2900)) / 1000)
        for one in self.fleet:
            one.beat()
        self.calls = [call for call in self.calls if call.gone > self.clock.ms or not call.released]

    def others_end(self) -> None:
        """A call of somebody else's ends."""
        self.foreign = max(self.foreign - 1, 0)

    def poll(self) -> None:
        """A poll begins, if it is due."""
        watcher = self.pick.choice(self.watchers)
        if watcher.poll().due:
            self.poller, self.counted = watcher, None

    def measure(self) -> None:
        """The provider counts, for the poll that has begun."""
        if self.poller is not None:
            self.counted = self.count()

    def seen(self) -> None:
        """Its answer comes."""
        if self.poller is not None and self.counted is not None:
            self.poller.seen(self.counted)
            self.poller.follow()
            self.poller, self.counted = None, None

    def answer(self) -> None:
        """A poll that is answered at once."""
        self.poll()
        self.measure()
        self.seen()

    def settle(self) -> None:
        """Whoever waits is served, once calls end and polls come."""
        self.foreign = 0
        for _ in range(40):
            for call in self.calls:
                if not call.released:
                    self.release(call, None)
            for _ in range(3):
                self.wait()
            self.answer()
            self.clock.advance(1.0)
            self.answer()
            for one in self.fleet:
                for place in [place for place in self.waiting if place[0] is one]:
                    if one.send([place[1].request])[0].granted:
                        self.waiting.remove(place)
                        self.begin(*place)
            if not self.waiting:
                return
        raise AssertionError(f"{len(self.waiting)} wait for ever")
