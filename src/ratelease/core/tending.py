"""
What people do with a store: look, reset, configure. Each verb is a generator that yields script calls and plain
commands, one at a time, and is sent their replies; either colour of wire performs it.

A plain command only looks. Whatever changes anything is a script.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeVar

from ..errors import ConfigError, StoreCorrupt
from . import scripts
from .health import Health, health_of
from .instances import Instance, decode_profile
from .journal import Deed, pack_deed, read_deed
from .keys import Keyspace, Path, make_path, parse_path, scope_label, scope_of
from .model import Figures, Header, Line, Outcome, figures_of
from .scripts import Call
from .session import Session
from .status import QueueStatus, ScopeStatus, Status, disagreements, read_snapshot

T = TypeVar("T")

# Hops of one hand-off between paths; each ends with a grant or with the head that waits.
MOST_HOPS = 256


@dataclass(frozen=True, slots=True)
class Command:
    """A plain command to come, that changes nothing."""

    words: tuple[Any, ...]


Steps = Generator[Call | Command, Any, T]


class Tending:
    """
    The verbs of one namespace. Pure: replies come from outside.

    Args:

        store: The address to show.

        note: Takes over what the answer of a path's script says.

        known: Paths that are known here, beside those that the store lists.
    """

    def __init__(
        self,
        session: Session,
        keyspace: Keyspace,
        store: str,
        note: Callable[[Header], None] = lambda _: None,
        known: Callable[[], Iterable[Path]] = tuple,
    ) -> None:
        self._session = session
        self._keyspace = keyspace
        self._store = store
        self._note = note
        self._known = known
        self._deeds = itertools.count(1)

    # ---- looking -----------------------------------------------------------------------------------------------

    def lines(self) -> Steps[list[Line]]:
        """The paths that the store lists, as somebody looks at them who guesses no limits."""
        listed = yield Command(("ZRANGE", self._keyspace.instance_keys[2], 0, -1))
        paths = [parse_path(name.decode("utf-8", "replace")) for name in listed]
        return [scripts.foreign_line(self._keyspace, path) for path in paths if path is not None]

    def instances(self) -> Steps[list[Instance]]:
        """The clients that are alive."""
        _, members, _, profiles = self._keyspace.instance_keys
        reply = yield Command(("ZRANGE", members, 0, -1, "WITHSCORES"))
        # In this order: a command without a key goes to the node of a cluster that has answered one with a key.
        clock = yield Command(("TIME",))
        now = int(clock[0]) + int(clock[1]) / 1e6
        listed = [(member, until) for member, until in _pairs(reply) if until > int(now * 1000)]
        if not listed:
            return []
        packed = yield Command(("HMGET", profiles, *(member for member, _ in listed)))
        found = []
        for (id, until), profile in zip(listed, packed, strict=True):
            age = max(now - (until - self._session.agreed_ttl) / 1000, 0.0)
            found.append(decode_profile(id.decode("utf-8", "replace"), profile or b"", age))
        return found

    def status(self) -> Steps[Status]:
        """Every scope and queue: one call per path, so not one moment's picture."""
        scopes: dict[str, ScopeStatus] = {}
        queues: list[QueueStatus] = []
        lines = yield from self.lines()
        for line in lines:
            reply = yield scripts.snapshot(self._session, self._keyspace, line)
            found, queue = read_snapshot(line.path, reply)
            scopes.update((scope.key, scope) for scope in found)
            queues += [queue] if queue else []
        instances = yield from self.instances()
        ordered = tuple(scopes[key] for key in sorted(scopes))
        return Status(
            store=self._store,
            namespace=self._keyspace.namespace,
            prefix=self._keyspace.base,
            scopes=ordered,
            queues=tuple(queues),
            instances=len(instances),
            lost=sum(instance.lost for instance in instances),
            unavailable_admissions=dict(sum((Counter(each.unavailable_admissions) for each in instances), Counter())),
            disagreements=disagreements(ordered, instances),
            epoch=self._session.epoch,
        )

    def overrides(self) -> Steps[dict[str, Figures]]:
        """What operators have set: the key of a scope -> its figures."""
        reply = yield Command(("HGETALL", self._keyspace.overrides))
        fields = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
        found = {}
        for field, spec in fields:
            what, _, scope = scripts.text(field).partition(":")
            figures = figures_of(scripts.text(spec)) if what == "limits" else {}
            if figures:
                found[scope] = figures
        return found

    def journal(self) -> Steps[tuple[Deed, ...]]:
        """What operators did, the newest first."""
        listed = yield Command(("LRANGE", self._keyspace.journal, 0, -1))
        deeds = (read_deed(entry) for entry in listed)
        return tuple(deed for deed in deeds if deed is not None)

    def scopes(self, line: Line) -> Steps[list[ScopeStatus]]:
        """The scopes of one path, as far as its client knows them: also of one that nobody has used."""
        scopes, _ = read_snapshot(line.path, (yield scripts.snapshot(self._session, self._keyspace, line)))
        return scopes

    def health(self, line: Line) -> Steps[Health]:
        """How calls of one path go."""
        return health_of((yield from self.scopes(line)))

    # ---- changing ----------------------------------------------------------------------------------------------

    def report(self, line: Line, id: str, lesson: str) -> Steps[bool]:
        """
        Say how a call went that had no lease. Whether this report is new.

        Raises:

            ConfigError: It names a cause that the path does not know.
        """
        header, new, causes = scripts.reported((yield scripts.report(self._session, self._keyspace, line, id, lesson)))
        if header is None:
            raise unknown_cause(lesson[1:], causes, sorted(outcome.value for outcome in Outcome))
        self._note(header)
        return new

    def configure(self, scope: str, verb: str, what: str, who: str, reason: str) -> Steps[str]:
        """Set, unset, pause or resume one scope, write it down, and wake who waits for it. Returns what is set."""
        deed = self._deed(verb, scope_label(scope), what, who, reason)
        reply = yield scripts.configure(self._keyspace, scope, verb, what, deed)
        figures, causes = scripts.configured(reply)
        if causes is not None:
            raise unknown_cause(what, causes)
        if verb == "resume":
            yield from self._calm(scope, deed)
        yield from self._wake(scope)
        return figures

    def _deed(self, *texts: str) -> bytes:
        return pack_deed(*texts, f"{self._session.fresh_epoch}-{next(self._deeds)}")

    def _calm(self, scope: str, deed: bytes) -> Steps[None]:
        """Of a provider that is resumed: what failures have stopped of its models is resumed as well."""
        lines = yield from self.lines()
        beside = {other for line in lines if scope in line.path.scopes for other in line.path.scopes[:-1]}
        for other in sorted(beside - {scope}) if scope.startswith("p:") else ():
            yield scripts.configure(self._keyspace, other, "calm", "", deed)

    def _wake(self, scope: str) -> Steps[None]:
        """Have every queue looked at that has to do with a scope, and those behind them."""
        lines = yield from self.lines()
        todo = {line.path.name: line.path for line in lines if scope in line.path.scopes}
        hops = len(todo) + MOST_HOPS
        while todo and hops > 0:
            hops -= 1
            path = todo.pop(next(iter(todo)))
            line = scripts.foreign_line(self._keyspace, path)
            head, _ = scripts.ids_after_header((yield scripts.grant(self._session, self._keyspace, line)))
            following = (parse_path(name) for name in head.following.split())
            todo.update((each.name, each) for each in following if each is not None)

    def reset(
        self, provider: str | None, model: str | None, *, everything: bool, who: str = "", reason: str = ""
    ) -> Steps[int]:
        """
        Clear the windows and pauses of a model, a provider with its models, the total, a pool, or the namespace.

        Raises:

            ConfigError: A name cannot be one, or a model has no provider. Nothing was sent.
        """
        if provider is None and model is not None:
            raise ConfigError("reset: a model needs its provider, as in reset('openai', 'gpt-4o')")
        # Without a credential: whichever the clients have is meant.
        scope = None if provider is None else scope_of(provider, model, None)
        try:
            lines = yield from self.lines()
        except StoreCorrupt:
            lines = []
        # The store's list of paths may be what is damaged: what is used here is known here.
        paths = {path.name: path for path in (*(line.path for line in lines), *self._known())}
        if provider is None and not paths:
            # The namespace's own keys are mended by the reset of any path.
            nobody = make_path("-", "-", (), None)
            paths[nobody.name] = nobody
        removed = 0
        for path in paths.values():
            meant = scopes_meant(path, scope)
            if any(meant):
                line = scripts.foreign_line(self._keyspace, path)
                call = scripts.reset(
                    self._session, self._keyspace, line, meant, everything=everything, namespace=provider is None
                )
                reply = yield call
                self._note(scripts.header(reply))
                removed += reply[scripts.HEADER_VALUES]
        if reason or who:
            label = "/".join(name for name in (provider, model) if name) or "everything"
            deed = self._deed("reset", label, "all" if everything else "", who, reason)
            yield scripts.configure(self._keyspace, "t", "note", "", deed)
        return removed


def unknown_cause(cause: str, known: Sequence[str], outcomes: Sequence[str] = ()) -> ConfigError:
    """The error for a cause that a scope's penalty does not weigh; `outcomes` could have been meant as well."""
    close = get_close_matches(cause, [*known, *outcomes], n=1, cutoff=0.6)
    end = f". Outcomes are {', '.join(outcomes)}" if outcomes else ""
    end += f": did you mean {close[0]}?" if close else ""
    if not known:
        return ConfigError(
            f"a penalty for {cause!a} needs a scope with limits that has been used, and strategy 'penalty' there: name "
            f"the model, or give the scope limits{end}"
        )
    return ConfigError(
        f"no penalty is known for {cause!a}: known are {', '.join(known)}. Penalty(weights=…) adds more{end}"
    )


def scopes_meant(path: Path, scope: str | None) -> list[bool]:
    """Which scopes of a path the reset of a scope means: a provider's models with it, everything for None."""
    if scope is None:
        return [True] * len(path.scopes)
    wanted = (scope, f"m{scope[1:]}") if scope.startswith("p:") else (scope,)
    return [any(each == name or each.startswith(f"{name}:") for name in wanted) for each in path.scopes]


def _pairs(reply: Sequence[Any]) -> list[tuple[Any, float]]:
    """Members and scores of a ZRANGE … WITHSCORES, however this version of redis-py groups them."""
    if reply and isinstance(reply[0], (list, tuple)):
        return [(member, float(score)) for member, score in reply]
    return [(reply[i], float(reply[i + 1])) for i in range(0, len(reply), 2)]
