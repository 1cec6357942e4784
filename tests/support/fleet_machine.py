"""Random fleets: any sequence of calls by three instances on four paths, under limits of any shape."""

from __future__ import annotations

import contextlib
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from ratelease import Limits, Pool, Rate
from support.clock import driven_clock
from support.fleet import Entry, Fleet
from support.store import FOR_EVER, Rewrite, Store

INSTANCES, PATHS = 3, 4
WINDOWS = (0.01, 0.1, 1.0, 7.0, 60.0)  # seconds

_requests = st.builds(Rate, st.integers(3, 8), per=st.sampled_from(WINDOWS), of=st.just("requests"))
_tokens = st.builds(Rate, st.integers(12, 30), per=st.sampled_from(WINDOWS), of=st.just("tokens"))
_limits = st.builds(
    Limits,
    concurrency=st.none() | st.integers(2, 6),
    rates=st.lists(_requests | _tokens, max_size=2, unique_by=lambda rate: (rate.of, rate.per)),
    guard=st.sampled_from([0.0, 0.25]),
)
_books = st.fixed_dictionaries({"a": _limits}, optional=dict.fromkeys(("a/x", "a/y", "b/z", "b", "total"), _limits))
_instance, _path = st.integers(0, INSTANCES - 1), st.integers(0, PATHS - 1)
_pick = st.integers(0, 1 << 16)
_options = st.fixed_dictionaries(
    {
        "n": st.sampled_from([1, 1, 1, 2, 3]),
        "weight": st.sampled_from([1, 1, 1, 2]),
        "tokens": st.sampled_from([0, 1, 4, 9]),
        "wait": st.sampled_from([FOR_EVER, FOR_EVER, FOR_EVER, None, 0.05, 5.0, 30.0]),
    }
)
_asks = st.tuples(_instance, _path, st.sampled_from([1, 1, 2, 4]), _options)


class FleetMachine(RuleBasedStateMachine):
    """Fleet checks every call; the rules only choose them. `client` and `rewrite` are set by a subclass."""

    client: ClassVar[Any] = None
    rewrite: ClassVar[Any] = None

    def __init__(self) -> None:
        super().__init__()
        self.ending = contextlib.ExitStack()

    def teardown(self) -> None:
        self.ending.close()

    @initialize(book=_books, pool=_limits)
    def begin(self, book: dict[str, Limits], pool: Limits) -> None:
        self.clock = self.ending.enter_context(driven_clock())
        self.client.flushall()
        store = Store(self.client, limits=book, pools={"g": Pool(["a/y", "b/*"], pool)}, rewrite=self.rewrite)
        self.instances = [store.instance() for _ in range(INSTANCES)]
        first = self.instances[0]
        lines = [first.line("a/x"), first.line("a/y"), first.line("b/z"), first.line("a/x", ["g"])]
        self.fleet = Fleet(store, self.clock, lines)
        self.ending.callback(self.fleet.close)
        self.watcher = store.instance()
        for one in (*self.instances, self.watcher):
            one.beat()

    def _some(self, pick: int, states: str) -> Entry:
        found = [entry for entry in self.fleet.entries.values() if entry.state in states]
        return found[pick % len(found)]

    def _has(self, states: str) -> bool:
        return any(entry.state in states for entry in self.fleet.entries.values())

    @rule(asks=st.lists(_asks, min_size=1, max_size=5))
    def acquire(self, asks: list[tuple[int, int, int, dict[str, Any]]]) -> None:
        for who, path, copies, options in asks:
            one, line = self.instances[who], self.fleet.lines[path]
            self.fleet.acquire(one, [one.request(line, **options) for _ in range(copies)])
            self.fleet.follow(one)

    @precondition(lambda self: self._has("WGH"))
    @rule(pick=_pick)
    def repeat(self, pick: int) -> None:
        """Claim, or ask again: what a keeper, a retry or a late copy does."""
        entry = self._some(pick, "WGH")
        if len(entry.out) in (0, entry.asked.request.n):
            self.fleet.acquire(entry.owner, [entry.asked.request])
            self.fleet.follow(entry.owner)

    @precondition(lambda self: self._has("WGH"))
    @rule(
        picks=st.lists(_pick, min_size=1, max_size=3), states=st.sampled_from(["H", "H", "WGH"]), unsent=st.booleans()
    )
    def release(self, picks: list[int], states: str, unsent: bool) -> None:
        for pick in picks:
            if self._has(states):
                entry = self._some(pick, states)
                id = entry.id if entry.state != "H" else sorted(entry.out)[pick % len(entry.out)]
                self.fleet.release(entry.owner, entry.line, id, unsent=unsent, may_land=pick % 3 == 0)
                self.fleet.follow(entry.owner)

    @precondition(lambda self: self.fleet.buried)
    @rule(pick=_pick)
    def land_late(self, pick: int) -> None:
        """A copy of a request arrives after its lease was released."""
        entry = self.fleet.buried[pick % len(self.fleet.buried)]
        if entry.id not in self.fleet.entries:
            self.fleet.acquire(entry.owner, [entry.asked.request])
            self.fleet.follow(entry.owner)

    @rule(who=_instance, path=_path, id=st.sampled_from(["x", "instance1-1", "instance2-1", "instance1-2.1"]))
    def release_what_is_not_held(self, who: int, path: int, id: str) -> None:
        one = self.instances[who]
        if id not in self.fleet.entries and id not in self.fleet.expiry:
            self.fleet.release(one, self.fleet.lines[path], id)
            self.fleet.follow(one)

    @rule(who=_instance, path=_path, foreign=st.booleans())
    def grant(self, who: int, path: int, foreign: bool) -> None:
        one = self.instances[who]
        self.fleet.grant(one, self.fleet.lines[path], foreign=foreign)
        self.fleet.follow(one)

    @rule(
        ms=st.sampled_from([1, 7, 100, 1000, 2999, 3000, 5000, 15_000, 20_000, 61_000]), alive=st.integers(0, INSTANCES)
    )
    def wait(self, ms: int, alive: int) -> None:
        """Time passes; some of the instances go on beating, each 5 s and at the end of it."""
        while ms > 0:
            self.clock.ms += min(ms, 5_000)
            ms -= 5_000
            for one in self.instances[:alive]:
                self.fleet.heartbeat(one)
            self.watcher.beat()
        self.fleet.check()

    @rule(picks=st.lists(_pick, max_size=4), unsent=st.booleans())
    def rest_and_release(self, picks: list[int], unsent: bool) -> None:
        """At rest nobody waits in vain; and from there each release is handed on by hops alone, without a poll."""
        self.fleet.settle()
        self.fleet.check_at_rest()
        for pick in picks:
            held = [lease for lease, (until, entry) in self.fleet.expiry.items() if until > self.clock.ms]
            held = [lease for lease in held if self.fleet.expiry[lease][1].state == "H"]
            if held:
                lease = held[pick % len(held)]
                entry = self.fleet.expiry[lease][1]
                self.fleet.release(entry.owner, entry.line, lease, unsent=unsent)
                self.fleet.follow(entry.owner)
                self.fleet.check_at_rest()


def machine(client: Any, rewrite: Rewrite | None = None) -> type[FleetMachine]:
    """A machine over this client, with scripts as they are or rewritten."""
    return type("Machine", (FleetMachine,), {"client": client, "rewrite": staticmethod(rewrite) if rewrite else None})
