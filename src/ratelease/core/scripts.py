"""One typed binding per Lua file: what goes in, what comes out. Pure; a test compares it with the files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import StoreUnavailable
from .keys import Keyspace, Path
from .model import Answer, Ended, Header, Held, Line, Request, Verdict
from .session import Session
from .share import Standing

HEADER_VALUES = 9
ANSWER_VALUES = 8
SCHEMA = 1

ACQUIRE, RELEASE, GRANT, RENEW, BEAT, BACKDATE, REPORT, USAGE, SNAPSHOT, RESET, CONFIGURE = (
    "acquire",
    "release",
    "grant",
    "renew",
    "beat",
    "backdate",
    "report",
    "usage",
    "snapshot",
    "reset",
    "configure",
)
SCRIPTS = (ACQUIRE, RELEASE, GRANT, RENEW, BEAT, BACKDATE, REPORT, USAGE, SNAPSHOT, RESET, CONFIGURE)


@dataclass(frozen=True, slots=True)
class Call:
    """One EVALSHA to come."""

    script: str
    keys: Sequence[str]
    arguments: list[Any]


@dataclass(frozen=True, slots=True)
class Ending:
    """
    One lease to end or only to settle, or waiter to withdraw.

    `unsent`: its charges return. `may_land`: its acquire may yet arrive, so a tombstone must stay. `usage`: what the
    call has really used, as scripts read it. `only_settle`: the lease stays. `lesson`: what the fleet learns from how
    its call went, see :func:`ratelease.core.feedback.lesson`. `hold`: ms that its slot is to stay counted.
    """

    line: Line
    id: str
    unsent: bool = False
    may_land: bool = False
    usage: str = ""
    only_settle: bool = False
    lesson: str = ""
    hold: int = 0

    @property
    def how(self) -> str:
        """As release.lua is told: 0 end, 1 unsent, 2 only settle, or the lesson of an end."""
        return "2" if self.only_settle else "1" if self.unsent else self.lesson or "0"


def withdrawals(request: Request) -> list[Ending]:
    """What takes a request back wherever it has got to: waiting under its first id, or granted under each of them."""
    return [Ending(request.line, id, unsent=True, may_land=True) for id in request.lease_ids]


def text(value: Any) -> str:
    """A reply's word as text, whatever it is."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _path_call(script: str, session: Session, keyspace: Keyspace, line: Line, arguments: Iterable[Any]) -> Call:
    head = [*session.arguments(), line.path.name, keyspace.inbox_prefix, *line.specs]
    return Call(script, line.keys, [*head, *arguments])


def header(reply: Any) -> Header:
    """
    Read the first values of an answer.

    Raises:

        StoreUnavailable: The store is of a newer schema, or the answer is none of ours.
    """
    if isinstance(reply, list) and len(reply) == 2 and reply[0] == 1:
        raise StoreUnavailable(
            f"the store's schema is {text(reply[1])}, this version of ratelease knows up to {SCHEMA}: upgrade "
            "ratelease here, or use another namespace"
        )
    if not isinstance(reply, list) or len(reply) < HEADER_VALUES or reply[0] != 0:
        raise StoreUnavailable(f"the store answered something that no script of ratelease says: {reply!r:.200}")
    return Header(
        int(reply[1]),
        text(reply[2]),
        int(reply[3]),
        int(reply[4]),
        int(reply[5]),
        int(reply[6]),
        text(reply[7]),
        int(reply[8]),
    )


def acquire(session: Session, keyspace: Keyspace, requests: Sequence[Request], now: float) -> Call:
    """Ask for all of these requests, which are of one line. `now` is monotonic seconds."""
    arguments: list[Any] = []
    for request in requests:
        remaining = request.deadline - now
        wait = -1 if not request.waits else 0 if remaining > 1e9 else max(1, round(remaining * 1000))
        arguments += (request.id, request.n, request.weight, wait, request.costs)
    return _path_call(ACQUIRE, session, keyspace, requests[0].line, arguments)


def acquire_answers(reply: Any, sent: float) -> list[Answer]:
    """What each request was answered, in order."""
    head = header(reply)
    answers = []
    for at in range(HEADER_VALUES, len(reply), ANSWER_VALUES):
        status, scope, dimension, used, limit, when, position, estimate = reply[at : at + ANSWER_VALUES]
        answers.append(
            Answer(
                Verdict(status),
                scope,
                text(dimension),
                used,
                limit,
                when,
                position,
                estimate,
                head,
                sent,
            )
        )
    return answers


def release(session: Session, keyspace: Keyspace, endings: Sequence[Ending]) -> Call:
    """End all of these, which are of one line."""
    arguments: list[Any] = []
    for ending in endings:
        arguments += (ending.id, ending.how, int(ending.may_land), ending.usage, ending.hold or "")
    return _path_call(RELEASE, session, keyspace, endings[0].line, arguments)


def release_answers(reply: Any) -> tuple[Header, list[Ended]]:
    """How each ended, in order."""
    return header(reply), [Ended(value) for value in reply[HEADER_VALUES:]]


def grant(session: Session, keyspace: Keyspace, line: Line) -> Call:
    """Give the line's queue what has become free."""
    return _path_call(GRANT, session, keyspace, line, ())


def ids_after_header(reply: Any) -> tuple[Header, list[str]]:
    """Answer of grant (own unclaimed ids) and renew (lost ids)."""
    return header(reply), [text(value) for value in reply[HEADER_VALUES:]]


def renew(session: Session, keyspace: Keyspace, line: Line, held: Iterable[Held], epoch: str) -> Call:
    """
    Extend these leases of one line, which were last confirmed under this epoch.

    Under another epoch the store has lost them, and registers them again.
    """
    arguments: list[Any] = []
    for lease in held:
        arguments += (lease.id, lease.weight, lease.at, lease.costs)
    call = _path_call(RENEW, session, keyspace, line, arguments)
    call.arguments[2] = epoch
    return call


def beat(session: Session, keyspace: Keyspace, profile: bytes, *, leave: bool = False) -> Call:
    """Keep the instance listed, or take it off."""
    arguments = [*session.arguments(), "", "", "leave" if leave else "stay", profile]
    return Call(BEAT, keyspace.instance_keys, arguments)


def beat_answer(reply: Any) -> tuple[Header, Standing]:
    """How many instances are alive, and this one's place among them."""
    head = header(reply)
    alive, rank = reply[HEADER_VALUES:]
    return head, Standing(max(alive, 1), rank)


def backdate(session: Session, keyspace: Keyspace, line: Line, id: str, charges: Iterable[tuple[int, str]]) -> Call:
    """Charge a line's rates for what was admitted so many ms ago. The same id again charges nothing more."""
    return _path_call(BACKDATE, session, keyspace, line, [id, *(word for charge in charges for word in charge)])


def report(session: Session, keyspace: Keyspace, line: Line, id: str, lesson: str) -> Call:
    """Say how a call went that had no lease. The same id again changes nothing."""
    return _path_call(REPORT, session, keyspace, line, (id, lesson))


def reported(reply: Any) -> tuple[Header | None, bool, tuple[str, ...]]:
    """
    Whether the report was new, with the header; the causes that are known, where it named another one.

    Raises:

        StoreUnavailable: As :func:`header`.
    """
    if isinstance(reply, list) and len(reply) == 2 and reply[0] == 2:
        return None, False, causes_in(text(reply[1]))
    return header(reply), reply[HEADER_VALUES] == 1, ()


def usage(session: Session, keyspace: Keyspace, line: Line, verb: str, words: Iterable[int]) -> Call:
    """Keep a provider's gate up, choose who polls, take in an answer; see the file's header for `words`."""
    return _path_call(USAGE, session, keyspace, line, (verb, *words))


def usage_answer(reply: Any) -> tuple[Header, list[int]]:
    """What the verb answers behind the header."""
    return header(reply), [int(value) for value in reply[HEADER_VALUES:]]


def causes_in(words: str) -> tuple[str, ...]:
    """The causes that a penalty knows, of its word: "10000,30000,rate_limit=2000,…"."""
    return tuple(word.partition("=")[0] for word in words.split(",") if "=" in word)


def foreign_line(keyspace: Keyspace, path: Path) -> Line:
    """A path of somebody else's, whose limits are not guessed."""
    return Line(path, tuple(keyspace.path_keys(path)), ("?",) * len(path.scopes), path.provider, path.model)


def snapshot(session: Session, keyspace: Keyspace, line: Line) -> Call:
    """Look at one path."""
    return _path_call(SNAPSHOT, session, keyspace, line, ())


def reset(
    session: Session, keyspace: Keyspace, line: Line, meant: Sequence[bool], *, everything: bool, namespace: bool
) -> Call:
    """Clear the scopes of a path that are meant, and mend the namespace's own keys if that is meant."""
    flags = (int(everything), int(namespace), *map(int, meant))
    call = _path_call(RESET, session, keyspace, line, flags)
    return Call(RESET, [*line.keys, keyspace.instance_keys[3], keyspace.journal], call.arguments)


def configure(keyspace: Keyspace, scope: str, verb: str, what: str, entry: bytes) -> Call:
    """
    Set, unset, pause or resume one scope; see the file's header for `what`.

    `entry` is for the journal, and no other call's: by it the script knows a call that is sent again.
    """
    return Call(CONFIGURE, keyspace.scope_keys(scope), [scope, verb, what, entry])


def configured(reply: Any) -> tuple[str, tuple[str, ...] | None]:
    """
    What an operator has set on the scope by now, as scripts spell figures; the causes that are known, where another one
    was named.

    Raises:

        StoreUnavailable: As :func:`header`.
    """
    if isinstance(reply, list) and len(reply) == 2 and reply[0] == 2:
        return "", causes_in(text(reply[1]))
    if not isinstance(reply, list) or len(reply) != 4 or reply[0] != 0:
        header(reply)
    return text(reply[2]), None
