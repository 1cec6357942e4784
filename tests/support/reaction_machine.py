"""Ten clients whose calls fail at random, beside a model of what that must teach."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from ratelease import Limits
from ratelease.strategies import Breaker, Parallelism, Penalty
from support.clock import driven_clock
from support.store import LOST, RELEASED, Asked, Instance, Rewrite, Store

CLIENTS = 10
MOST, LEAST = 10.0, 0.125  # of a penalty
HALF_LIFE, OPEN = 30.0, 2.0  # seconds
WEIGHTS = {"t": 2.0, "w": 1.0, "rate_limit": 2.0, "capacity": 1.5, "timeout": 1.0, "schema_violation": 0.5}
PENALTY, PARALLELISM, BREAKER = "penalty", "parallelism", "breaker"
_LESSONS = ("o", "o", "", "t,-1,,0", "t,-1,,0", "w,-1,", "e,-1,", "t,300,", "t,1500,", "v,4000,")
_client, _pick = st.integers(0, CLIENTS - 1), st.integers(0, 1 << 16)
_model = st.sampled_from([PENALTY, PARALLELISM, BREAKER])


def _lesson(model: str, lesson: str) -> str:
    """The same without a pause where a breaker is watched: it would hide that."""
    return f"{lesson[0]},-1,,0" if model == BREAKER and len(lesson) > 1 else lesson


@dataclass
class Learned:
    """What one model must have learned, by the rules alone. Times are ms."""

    level: float = 0.0
    at: int = 0
    cut: int = 0
    stall: int = 0
    pause: int = 0
    events: int = 0
    failures: int = 0
    opened: int | None = None
    good: int = 0
    probe: str = ""
    reports: dict[str, int] = field(default_factory=dict)

    def penalty(self, now: int) -> float:
        """What is left of it."""
        left = self.level * 0.5 ** ((now - self.at) / 1000 / HALF_LIFE)
        return left if left >= LEAST else 0.0

    def raise_by(self, weight: float, now: int) -> None:
        self.level, self.at = min(self.penalty(now) + weight, MOST), now

    def fail(self, letter: str, wait: int, at: int, now: int) -> None:
        """A call that was admitted at `at` has failed."""
        if wait > 0:
            self.pause = max(self.pause, now + wait)
        mild = letter in "ve"
        if at <= self.cut or (mild and at <= self.stall):
            return
        self.events += 1
        if mild:
            self.stall = now
        else:
            self.cut = now
            self.raise_by(WEIGHTS[letter], now)

    def strike(self, id: str, *, failed: bool, now: int) -> None:
        """A call has ended, as a breaker of two failures and two successes sees it."""
        if self.opened is not None and id == self.probe and id:
            self.probe = ""
            if failed:
                self.opened, self.good = now, 0
            else:
                self.good += 1
                if self.good == 2:
                    self.opened = None
        elif self.opened is None and failed:
            self.failures += 1
            if self.failures == 2:
                self.opened, self.good, self.failures, self.probe = now, 0, 0, ""
        if not failed:
            self.failures = 0


class ReactionMachine(RuleBasedStateMachine):
    """After each call what scripts say is compared with the model. `client` and `rewrite` are set by a subclass."""

    client: ClassVar[Any] = None
    rewrite: ClassVar[Any] = None

    def __init__(self) -> None:
        super().__init__()
        self.ending = contextlib.ExitStack()

    @initialize(base=st.integers(1, 9))
    def begin(self, base: int) -> None:
        self.clock = self.ending.enter_context(driven_clock())
        self.client.flushall()
        self.base = {PENALTY: base, PARALLELISM: 6, BREAKER: 50}
        strategies = {
            PENALTY: Penalty(max=MOST, half_life=HALF_LIFE),
            PARALLELISM: Parallelism(min=2, max=8, recovery_interval=5.0),
            BREAKER: Breaker(failures=2, open=OPEN, successes=2),
        }
        limits = {
            f"openai/{name}": Limits(concurrency=self.base[name], strategy=strategies[name]) for name in self.base
        }
        self.store = Store(self.client, limits=limits, rewrite=self.rewrite)
        self.clients = [self.store.instance() for _ in range(CLIENTS)]
        self.learned = {name: Learned() for name in self.base}
        self.held: list[tuple[str, Asked]] = []
        self.over: list[tuple[str, Asked]] = []
        for each in self.clients:
            each.beat()

    @property
    def now(self) -> int:
        return self.store.now()

    @rule(who=_client, model=_model, copies=st.sampled_from([1, 1, 3, 9]))
    def acquire(self, who: int, model: str, copies: int) -> None:
        one, known = self.clients[who], self.learned[model]
        before = one.look(model)[0][0]
        limit, used = before.reaction.limit or 0, before.in_flight
        asked = [each for each in one.send([one.request(model) for _ in range(copies)]) if each.granted]
        assert used + len(asked) <= max(limit, used), "more than the limit"
        assert not asked or self.now >= known.pause, "granted during a pause"
        if model == BREAKER and known.opened is not None and asked:
            assert self.now >= known.opened + OPEN * 1000, "granted while the breaker is open"
            running = self.store.leases(one.line(model))
            assert len(asked) == 1, "two probes in one call"
            assert known.probe not in running or known.probe == asked[0].id, "two probes at a time"
            known.probe = asked[0].id
        self.held += [(model, each) for each in asked]
        self._check(one, model)

    @precondition(lambda self: self.held)
    @rule(who=_client, pick=_pick, lesson=st.sampled_from(_LESSONS), again=st.booleans())
    def end(self, who: int, pick: int, lesson: str, again: bool) -> None:
        """Out of order, by whoever knows the id, and twice."""
        model, asked = self.held.pop(pick % len(self.held))
        one, lesson = self.clients[who], _lesson(model, lesson)
        if one.release(model, asked.id, lesson=lesson) in {RELEASED, LOST}:
            self._teach(model, lesson, asked.answer.at, asked.id)
        if again:
            one.release(model, asked.id, lesson=lesson)
        self.over.append((model, asked))
        self._check(one, model)

    @precondition(lambda self: self.over)
    @rule(who=_client, pick=_pick, lesson=st.sampled_from(_LESSONS))
    def end_again(self, who: int, pick: int, lesson: str) -> None:
        """A duplicate, however late, says nothing new."""
        model, asked = self.over[pick % len(self.over)]
        self.clients[who].release(model, asked.id, lesson=_lesson(model, lesson))
        self._check(self.clients[who], model)

    @rule(
        who=_client,
        model=_model,
        lesson=st.sampled_from([lesson for lesson in _LESSONS if lesson]),
        id=st.integers(0, 3),
    )
    def report(self, who: int, model: str, lesson: str, id: int) -> None:
        known, name, lesson = self.learned[model], f"report-{id}", _lesson(model, lesson)
        seen = known.reports.get(name)
        if seen is not None and self.now - seen >= 59_000:
            name = f"{name}-{self.now}"
            seen = None
        new = self.clients[who].report(model, lesson, name)
        assert new == (seen is None), "a report counts once"
        if new:
            known.reports[name] = self.now
            self._teach(model, lesson, self.now - 5000, "")
        self._check(self.clients[who], model)

    @rule(who=_client, cause=st.sampled_from(sorted(set(WEIGHTS) - {"t", "w"})))
    def name_a_cause(self, who: int, cause: str) -> None:
        self.clients[who].report(PENALTY, f"!{cause}")
        known = self.learned[PENALTY]
        known.raise_by(WEIGHTS[cause], self.now)
        known.events += 1
        self._check(self.clients[who], PENALTY)

    @rule(ms=st.sampled_from([1, 1, 40, 900, 4999, 5000, 12_000]), beating=st.booleans())
    def pass_time(self, ms: int, beating: bool) -> None:
        self.clock.ms += ms
        for each in self.clients if beating else ():
            each.beat()
        for model in self.learned:
            self._check(self.clients[0], model)

    def _teach(self, model: str, lesson: str, at: int, id: str) -> None:
        known, letter = self.learned[model], lesson[:1]
        if letter == "o":
            known.strike(id, failed=False, now=self.now)
        elif letter:
            known.strike(id, failed=True, now=self.now)
            known.fail(letter, int(lesson.split(",")[1]), at, self.now)

    def _limit(self, one: Instance, model: str) -> int:
        return one.reaction(model).limit or 0

    def _check(self, one: Instance, model: str) -> None:
        scope, known = one.look(model)[0][0], self.learned[model]
        reaction = scope.reaction
        assert len(reaction.events) == min(known.events, 100)
        assert (scope.resumes_in or 0) * 1000 == max(known.pause - self.now, 0)
        if model == PARALLELISM:
            assert 2 <= (reaction.limit or 0) <= 8
        elif model == BREAKER:
            assert (reaction.breaker is None) == (known.opened is None)
        else:
            expected, base = known.penalty(self.now), self.base[PENALTY]
            assert 0 <= reaction.penalty <= MOST
            # At its very end it may be over for one of them already.
            ends = max(reaction.penalty, expected) < LEAST + 5e-4
            assert ends or math.isclose(reaction.penalty, expected, abs_tol=0.002)
            least, most = (max(math.floor(base / (reaction.penalty + 1 + error)), 1) for error in (1e-4, -1e-4))
            assert 1 <= least <= (reaction.limit or 0) <= min(most, base)

    def teardown(self) -> None:
        """Time alone, without any call, brings everything back."""
        with self.ending:
            if hasattr(self, "store"):
                self.clock.ms += int(HALF_LIFE * math.log2(MOST / LEAST) + 2) * 1000
                reaction = self.clients[0].reaction(PENALTY)
                assert (reaction.penalty, reaction.limit) == (0, self.base[PENALTY])
                assert self._limit(self.clients[0], PARALLELISM) == self.base[PARALLELISM]


def reaction_machine(client: Any, rewrite: Rewrite | None = None) -> type[ReactionMachine]:
    """The machine, on this client; `rewrite` changes the scripts."""
    return type(
        "Reactions", (ReactionMachine,), {"client": client, "rewrite": staticmethod(rewrite) if rewrite else None}
    )
