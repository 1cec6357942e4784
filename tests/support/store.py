"""
The scripts, called as the product calls them, by instances that a test steers one call at a time.

No keeper, no exchange, no waiting: what a script answers is all that happens.

    store = Store(client, limits={"openai/gpt-4o": Limits(concurrency=2)})
    one, two = store.instance(), store.instance()
    lease = one.acquire("gpt-4o")
    assert two.release("gpt-4o", lease.id) is Ended.RELEASED
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import NoScriptError

from ratelease import Config, Limits, Pool
from ratelease.book import LimitBook
from ratelease.core import scripts
from ratelease.core.keys import Keyspace, parse_path
from ratelease.core.model import Answer, Ended, Header, Held, Line, Request, Verdict, costs_of
from ratelease.core.reaction import Reaction
from ratelease.core.scripts import Call, Ending
from ratelease.core.share import Standing
from ratelease.core.status import QueueStatus, ScopeStatus, read_snapshot
from ratelease.store.lua_source import load_script
from ratelease.store.runtime import Runtime
from support.clock import DrivenClock

GRANTED, PARKED, REFUSED, IMPOSSIBLE, TOMBSTONED = Verdict
RELEASED, LOST, WITHDRAWN, UNKNOWN = Ended

FOR_EVER = 0.0  # seconds to wait: without end

_LAST = "nobody"  # the instance that ends a look at the mail

Rewrite = Callable[[str, str], str]
"""Changes the text of a script: (name, text) -> text."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request with the answer it got."""

    id: str
    request: Request
    answer: Answer

    @property
    def status(self) -> Verdict:
        return self.answer.status

    @property
    def granted(self) -> bool:
        return self.answer.status is Verdict.GRANTED

    @property
    def held(self) -> list[Held]:
        """Its leases, as a heartbeat names them."""
        request = self.request
        return [Held(id, request.weight, self.answer.at, request.costs) for id in request.lease_ids]


class Store:
    """
    One namespace on one server, and the instances that call it.

    Args:

        client: A synchronous redis-py client without decoded responses.

        limits, pools: What instances are given that are not told otherwise.

        rewrite: Changes the scripts before they are sent, to see a test fail.
    """

    def __init__(
        self,
        client: Any,
        *,
        limits: Mapping[str, Limits] | None = None,
        pools: Mapping[str, Pool] | None = None,
        namespace: str = "test",
        rewrite: Rewrite | None = None,
        **settings: Any,
    ) -> None:
        self.client = client
        self.limits, self.pools = limits, pools
        self.keyspace = Keyspace(namespace)
        self.config = Config(
            namespace=namespace, unknown="unlimited", relaxed=True, **{"lease_ttl": 15.0, "heartbeat": 5.0, **settings}
        )
        self._rewrite = rewrite
        self._texts: dict[str, tuple[str, str]] = {}
        self._numbers = itertools.count(1)
        self._inbox: Any = None
        self.calls = 0

    def instance(self, limits: Mapping[str, Limits] | None = None, **settings: Any) -> Instance:
        """Begin another instance; it takes its generation at its first call."""
        config = self.config.replace(**settings)
        book = LimitBook(self.limits if limits is None else limits, self.pools)
        name = f"instance{next(self._numbers)}"
        return Instance(self, Runtime(config, book, credential=None, metadata=None, on_lost=None), name)

    def run(self, call: Call) -> Any:
        """Run one script, and return its raw reply."""
        text, sha = self._text(call.script)
        self.calls += 1
        try:
            return self.client.evalsha(sha, len(call.keys), *call.keys, *call.arguments)
        except NoScriptError:
            return self.client.eval(text, len(call.keys), *call.keys, *call.arguments)

    def _text(self, name: str) -> tuple[str, str]:
        if name not in self._texts:
            text = load_script(name)
            if self._rewrite is not None:
                text = self._rewrite(name, text)
            self._texts[name] = text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        return self._texts[name]

    def configure(self, scope: str, verb: str, what: str = "") -> tuple[str, int]:
        """Act as an operator; returns the figures that are set and the ms until which the scope is paused."""
        reply = self.run(scripts.configure(self.keyspace, scope, verb, what, b"entry-%d" % self.calls))
        if reply[0] == 2:
            raise LookupError(f"known causes are {scripts.causes_in(reply[1].decode())}")
        _, _, figures, pause = reply
        return figures.decode(), pause

    def listen(self) -> None:
        """Collect what scripts publish from now on, for :meth:`mail`."""
        self._inbox = self.client.pubsub()
        self._inbox.psubscribe(f"{self.keyspace.inbox_prefix}*")
        assert self._inbox.get_message(timeout=1)["type"] == "psubscribe"

    def close(self) -> None:
        """Listen no more."""
        if self._inbox is not None:
            self._inbox.close()

    def mail(self) -> list[tuple[str, str, list[str]]]:
        """Everything published since the last look: instance, path, words. Needs :meth:`listen` before."""
        letters = []
        # Messages come in their order: after this one nothing is on its way.
        self.client.publish(f"{self.keyspace.inbox_prefix}{_LAST}", "")
        while (message := self._inbox.get_message(timeout=5.0)) is not None:
            instance = message["channel"].decode().rpartition(":")[2]
            if instance == _LAST:
                break
            path, *words = message["data"].decode().split(" ")
            letters.append((instance, path, words))
        return letters

    def now(self) -> int:
        """The server's time in ms."""
        seconds, microseconds = self.client.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    def leases(self, line: Line, scope: int = 0) -> list[str]:
        """The members of one scope's leases that have not expired."""
        found = self.client.zrangebyscore(line.keys[8 + 5 * scope + 2], f"({self.now()}", "+inf")
        return [member.decode() for member in found]

    def queue(self, line: Line) -> list[str]:
        """The ids that wait on a path, the head first."""
        return [member.decode() for member in self.client.zrange(line.keys[3], 0, -1)]

    def dump(self, *, ttl: bool = False) -> dict[bytes, Any]:
        """Every key with its contents, and its TTL if asked."""
        found: dict[bytes, Any] = {}
        for key in sorted(self.client.keys("*")):
            kind = self.client.type(key)
            value = self.client.hgetall(key) if kind == b"hash" else self.client.zrange(key, 0, -1, withscores=True)
            found[key] = (kind, value, self.client.pttl(key)) if ttl else (kind, value)
        return found


def let_pass(clock: DrivenClock, seconds: float, *instances: Instance) -> None:
    """Move the clock while these instances beat, so that the store is not taken for a new one."""
    while seconds > 5:
        clock.advance(5)
        seconds -= 5
        for each in instances:
            each.beat()
    clock.advance(seconds)


class Instance:
    """
    One instance: its own session, generation and limits. `provider` is "openai" unless a model says "other/model".

    Each method is one script call. A wait of None does not wait, FOR_EVER waits without end.
    """

    def __init__(self, store: Store, runtime: Runtime, name: str) -> None:
        self.store = store
        self.runtime = runtime
        self.session = runtime.session
        self.session.instance = runtime.instance = self.name = name
        self.session.fresh_epoch = f"epoch-of-{name}"
        self._ids = itertools.count(1)
        self.header: Header | None = None

    def line(self, model: str, pools: Sequence[str] = ()) -> Line:
        """The path of a model, with this instance's limits."""
        provider, slash, name = model.rpartition("/")
        return self.runtime.line(provider if slash else "openai", name, tuple(pools))

    def request(
        self,
        model: str | Line,
        id: str | None = None,
        *,
        n: int = 1,
        weight: int = 1,
        tokens: int = 0,
        wait: float | None = None,
        requests: int = 1,
        costs: str = "",
    ) -> Request:
        """A request to send; without an id, one that nobody else uses."""
        line = model if isinstance(model, Line) else self.line(model)
        if id is None:
            id = f"{self.name}-{next(self._ids)}" + (".1" if n > 1 else "")
        deadline = float("inf") if wait == FOR_EVER else wait or 0.0
        costs = costs or costs_of({"requests": requests, "tokens": tokens})
        return Request(line, id, n, weight, costs, deadline, wait is not None)

    def send(self, requests: Sequence[Request]) -> list[Asked]:
        """Ask for all of these in one call."""
        answers = scripts.acquire_answers(self._run(scripts.acquire(self.session, self._keyspace, requests, 0.0)), 0.0)
        self._note(answers[0].header)
        return [Asked(request.id, request, answer) for request, answer in zip(requests, answers, strict=True)]

    def acquire(self, model: str | Line, id: str | None = None, **options: Any) -> Asked:
        """Ask for one; `options` as of :meth:`request`."""
        return self.send([self.request(model, id, **options)])[0]

    def release(
        self, model: str | Line, id: str, *, unsent: bool = False, may_land: bool = False, lesson: str = ""
    ) -> Ended:
        """End one lease, or withdraw one waiter."""
        return self.release_all(model, [id], unsent=unsent, may_land=may_land, lesson=lesson)[0]

    def release_all(
        self,
        model: str | Line,
        ids: Iterable[str],
        *,
        unsent: bool = False,
        may_land: bool = False,
        lesson: str = "",
    ) -> list[Ended]:
        """End these in one call; `lesson` says how their calls went ("t,2000,r")."""
        line = model if isinstance(model, Line) else self.line(model)
        return self.end(*(Ending(line, id, unsent, may_land, lesson=lesson) for id in ids))

    def end(self, *endings: Ending) -> list[Ended]:
        """End leases in all the ways there are."""
        header, ended = scripts.release_answers(self._run(scripts.release(self.session, self._keyspace, endings)))
        self._note(header)
        return ended

    def call(self, model: str | Line, lesson: str = "o", **options: Any) -> None:
        """Acquire, and tell at once how the call went; `options` as of :meth:`request`."""
        asked = self.acquire(model, **options)
        assert asked.granted, asked.answer
        self.release(model, asked.id, lesson=lesson)

    def settle(self, model: str | Line, id: str, usage: str, *, ends: bool = True) -> Ended:
        """Say what a lease has really used ("t200"), with its release or before."""
        line = model if isinstance(model, Line) else self.line(model)
        return self.end(Ending(line, id, usage=usage, only_settle=not ends))[0]

    def grant(self, model: str | Line, *, foreign: bool = False) -> list[str]:
        """Hand on what is free; returns this instance's unclaimed ids. `foreign`: as for a path it knows nothing of."""
        line = model if isinstance(model, Line) else self.line(model)
        if foreign:
            line = scripts.foreign_line(self._keyspace, line.path)
        header, ids = scripts.ids_after_header(self._run(scripts.grant(self.session, self._keyspace, line)))
        self._note(header)
        return ids

    def renew(self, model: str | Line, held: Iterable[Held], epoch: str | None = None) -> list[str]:
        """Beat for these leases; returns the ids that are lost."""
        line = model if isinstance(model, Line) else self.line(model)
        known = self.session.epoch if epoch is None else epoch
        header, lost = scripts.ids_after_header(
            self._run(scripts.renew(self.session, self._keyspace, line, held, known))
        )
        self._note(header)
        return lost

    def beat(self, *, leave: bool = False) -> Standing:
        """Stay listed, or leave; how many instances are alive, and the rank of this one."""
        header, standing = scripts.beat_answer(self._run(scripts.beat(self.session, self._keyspace, b"", leave=leave)))
        self._note(header)
        return standing

    def backdate(self, model: str | Line, id: str, charges: Iterable[tuple[int, str]]) -> None:
        """Charge what was admitted so many ms ago."""
        line = model if isinstance(model, Line) else self.line(model)
        self._note(scripts.header(self._run(scripts.backdate(self.session, self._keyspace, line, id, charges))))

    def report(self, model: str | Line, lesson: str, id: str = "") -> bool:
        """Say how a call went that had no lease; whether the report was new."""
        line = model if isinstance(model, Line) else self.line(model)
        id = id or f"{self.name}-report-{next(self._ids)}"
        header, new, causes = scripts.reported(
            self._run(scripts.report(self.session, self._keyspace, line, id, lesson))
        )
        if header is None:
            raise LookupError(f"known causes are {causes}")
        self._note(header)
        return new

    def usage(self, model: str | Line, verb: str, words: Sequence[int]) -> list[int]:
        """Keep up a provider's gate, or say what its source has said; `model` is "provider/-"."""
        line = model if isinstance(model, Line) else self.line(model)
        line = scripts.foreign_line(self._keyspace, line.path)
        header, answer = scripts.usage_answer(self._run(scripts.usage(self.session, self._keyspace, line, verb, words)))
        self._note(header)
        return answer

    def reaction(self, model: str | Line, scope: int = 0) -> Reaction:
        """What a scope of a path has learned."""
        return self.look(model)[0][scope].reaction

    def look(self, model: str | Line) -> tuple[list[ScopeStatus], QueueStatus | None]:
        """What the store says of a path's scopes and of its queue."""
        line = model if isinstance(model, Line) else self.line(model)
        return read_snapshot(line.path, self._run(scripts.snapshot(self.session, self._keyspace, line)))

    def used(self, model: str | Line, scope: int = 0) -> int:
        """Leases in use in one scope of a path."""
        return self.look(model)[0][scope].in_flight

    @property
    def following(self) -> str:
        """The path that the last answer named as the next in line."""
        return self.header.following if self.header else ""

    def following_lines(self) -> list[Line]:
        """The same as a stranger knows them, to grant them."""
        paths = [parse_path(name) for name in self.following.split()]
        return [scripts.foreign_line(self._keyspace, path) for path in paths if path is not None]

    @functools.cached_property
    def _keyspace(self) -> Keyspace:
        return self.store.keyspace

    def _run(self, call: Call) -> Any:
        return self.store.run(call)

    def _note(self, header: Header) -> None:
        self.header = header
        self.session.note(header)
