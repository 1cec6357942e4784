"""A fleet that shares its limits by the real scripts, run by fakeredis in virtual time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import fakeredis

from benchmarks.strategies.provider import Provider
from benchmarks.strategies.world import World
from ratelease import Config, Limits
from ratelease.core import scripts
from ratelease.core.feedback import Feedback, lesson
from ratelease.core.keys import Keyspace, make_path
from ratelease.core.model import Answer, Header, Line, Outcome, Request, spec_of
from ratelease.core.model import Verdict as Status
from ratelease.core.session import Session
from ratelease.store.lua_source import script
from ratelease.testing.simulator.model import Verdict

BEGIN = 1_800_000_000  # what the server's clock says at 0, in seconds
MAIL = 0.001  # seconds that a message takes
FIRST, LONGEST = 0.8, 10.0  # seconds that a caller backs off
OUTCOMES = {"overloaded": Outcome.OVERLOADED, "quota": Outcome.QUOTA}
DIMENSIONS = {"requests": "requests", "burst": "requests", "tokens": "tokens", "concurrency": "concurrency"}

# Messages are never lost here and nobody dies, so that polls and heartbeats may be rare.
CONFIG = Config(lease_ttl=90.0, heartbeat=20.0)
POLL = 10.0  # seconds


class Server:
    """Run scripts on a fakeredis whose time is the world's, and deliver what they publish."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._client: Any = fakeredis.FakeRedis(server=fakeredis.FakeServer(server_type="redis", version=(7,)))
        for name in scripts.SCRIPTS:
            self._client.script_load(script(name).text)
        self.keyspace = Keyspace("bench-strategies")
        self._inbox = self._client.pubsub(ignore_subscribe_messages=True)
        self._inbox.psubscribe(f"{self.keyspace.inbox_prefix}*")
        self._members: dict[str, Member] = {}

    def join(self, member: Member) -> None:
        """Deliver a process its messages."""
        self._members[member.session.instance] = member

    def run(self, call: scripts.Call) -> Any:
        """Run one script."""
        reply = self._client.evalsha(script(call.script).sha, len(call.keys), *call.keys, *call.arguments)
        while (message := self._inbox.get_message()) is not None:
            instance = message["channel"].decode().rpartition(":")[2]
            # What changes is told to everyone; the fleet here does not ask.
            if instance in self._members:
                _, *words = message["data"].decode().split(" ")
                self._world.after(MAIL, _bound(self._members[instance].receive, words))
        return reply

    def close(self) -> None:
        """Forget everything."""
        self._inbox.close()
        self._client.flushall()
        self._client.close()


@contextmanager
def server(world: World) -> Iterator[Server]:
    """Serve in virtual time: while this is entered, time.time is the world's."""

    def now() -> float:
        return BEGIN + math.floor(world.now * 1000) / 1000

    with mock.patch("time.time", new=now):
        serving = Server(world)
        try:
            yield serving
        finally:
            serving.close()


class Member:
    """Do what one client of the fleet does: ask, wait, claim, call, release; timers, polls and heartbeats."""

    def __init__(
        self, world: World, server: Server, provider: Provider, limits: Limits, number: int, tasks: int
    ) -> None:
        self._world, self._server, self._provider, self._number = world, server, provider, number
        self.session = Session.begin(CONFIG, f"member{number}", f"epoch{number}")
        path = make_path("bench", "model", (), None)
        specs = (spec_of(limits), spec_of(None), spec_of(None))
        self._line = Line(path, tuple(server.keyspace.path_keys(path)), specs, "bench", "model")
        self._numbers = itertools.count()
        self._jitter = world.random(f"jitter {number}")
        self._waiting: dict[str, tuple[Request, int]] = {}
        self._timer: float | None = None
        server.join(self)
        self._beat()
        for _ in range(tasks):
            # Programs do not start in the same instant.
            world.after(self._jitter.uniform(0, 1), lambda: self._ask(0))
        world.after(POLL * self._jitter.random(), self._poll)

    # --- one task -----------------------------------------------------------------------------------------------

    def _ask(self, failures: int) -> None:
        id = f"{self._number}-{next(self._numbers):020}"
        request = Request(self._line, id, 1, 1, "r1", math.inf, waits=True)
        self._waiting[id] = (request, failures)
        self._claim([id])

    def _claim(self, ids: Iterable[str]) -> None:
        """Send requests, for the first time or again."""
        requests = [self._waiting[id][0] for id in ids if id in self._waiting]
        if not requests:
            return
        reply = self._server.run(scripts.acquire(self.session, self._server.keyspace, requests, 0.0))
        answers = scripts.acquire_answers(reply, 0.0)
        self._note(answers[0].header)
        for request, answer in zip(requests, answers, strict=True):
            if answer.status is Status.GRANTED:
                _, failures = self._waiting.pop(request.id)
                self._call(request, answer, failures)
            elif answer.status is not Status.PARKED:
                raise RuntimeError(f"a request without end was answered {answer}")

    def _call(self, request: Request, answer: Answer, failures: int) -> None:
        # A store that has something to learn asks to be told of good ends.
        watched = bool(answer.position)

        def done(verdict: Verdict) -> None:
            feedback = feedback_of(verdict)
            told = feedback.outcome is not Outcome.OK or (watched and failures == 0)
            said = lesson(feedback, CONFIG) if told else ""
            self._release(scripts.Ending(self._line, request.id, lesson=said))
            if verdict.admitted:
                self._ask(0)
            else:
                self._world.after(self._wait(failures, verdict.retry_after), lambda: self._ask(failures + 1))

        self._provider.call(self._number, done)

    def _wait(self, failures: int, hint: float | None) -> float:
        if hint is not None:
            return hint
        return min(LONGEST, FIRST * 2**failures) * self._jitter.uniform(0.5, 1.0)

    def _release(self, ending: scripts.Ending) -> None:
        reply = self._server.run(scripts.release(self.session, self._server.keyspace, [ending]))
        self._note(scripts.release_answers(reply)[0])

    # --- the process --------------------------------------------------------------------------------------------

    def receive(self, words: Iterable[str]) -> None:
        """Read one message of the inbox."""
        granted = []
        for word in words:
            if word.startswith("@"):
                self._arm(int(word[1:]))
            elif word[:1] in ("+", "-"):
                granted.append(word[1:])
        self._claim(granted)

    def _note(self, header: Header) -> None:
        self.session.note(header)
        if header.following:
            self._world.after(MAIL, self._grant)
        if header.timer:
            self._arm(header.timer)

    def _arm(self, server_ms: int) -> None:
        """Keep one timer: the earliest that was asked for and is still to come."""
        when = max(server_ms / 1000 - BEGIN, self._world.now + 0.001)
        if self._timer is not None and self._world.now < self._timer <= when:
            return
        self._timer = when

        def due() -> None:
            if self._timer == when:
                self._timer = None
                self._grant()

        self._world.at(when, due)

    def _grant(self) -> None:
        reply = self._server.run(scripts.grant(self.session, self._server.keyspace, self._line))
        header, ids = scripts.ids_after_header(reply)
        self._claim(ids)
        self._note(header)

    def _poll(self) -> None:
        if self._waiting:
            self._grant()
        self._world.after(POLL * self._jitter.uniform(0.8, 1.2), self._poll)

    def _beat(self) -> None:
        self._note(scripts.header(self._server.run(scripts.beat(self.session, self._server.keyspace, b""))))
        self._world.after(CONFIG.heartbeat, self._beat)


def feedback_of(verdict: Verdict) -> Feedback:
    """Return what classification makes of the simulator's answer."""
    if verdict.reason is None:
        return Feedback(Outcome.OK)
    outcome = OUTCOMES.get(verdict.reason, Outcome.THROTTLED)
    dimension: Any = DIMENSIONS.get(verdict.reason) if outcome is Outcome.THROTTLED else None
    return Feedback(outcome, retry_after=verdict.retry_after, dimension=dimension)


def _bound(receive: Any, words: list[str]) -> Any:
    return lambda: receive(words)
