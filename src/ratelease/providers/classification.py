"""
What an exception or an answer means for the limits: `classify`.

Only typed sources count: error codes before statuses, statuses before the types of exceptions. No text that is meant
for people is looked at, and nothing here imports an SDK: attributes are read under the names that SDKs give them. No
method is called but the one by which errors of gRPC tell their code.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..core.feedback import Dimension, Feedback
from ..core.model import Outcome
from .evidence import Evidence
from .google import quotas_of, until_midnight
from .hints import clock_of, closed, dimension_used_up, told_wait, until_reset, used_up
from .reading import bases, items, read, text
from .tables import (
    CATEGORIES,
    CLIENT_LIBRARIES,
    CODES,
    DIMENSIONS,
    FAILURE,
    NO_MODEL,
    NO_MONEY,
    PYTHON,
    RATE,
    TYPES,
    Meaning,
    canonical,
    of_status,
)  # fmt: skip

# Exceptions that caused one another, and that came together in a group.
DEEPEST = 8
WIDEST = 16

# Of several failures that came together, the one that says most.
_GRAVEST = (
    Outcome.QUOTA, Outcome.THROTTLED, Outcome.OVERLOADED, Outcome.TIMEOUT, Outcome.ERROR, Outcome.IGNORED,
    Outcome.CANCELLED,
)  # fmt: skip

_NOTHING = Feedback(Outcome.IGNORED)


def classify(what: object, *, now: float | None = None) -> Feedback:
    """
    Say what an exception or an answer means: throttled, overloaded, out of quota, …, and when to come back.

    `what` is an exception of any SDK or HTTP library, an answer of one, an error event of a stream, or a mapping with
    `status`, `headers` and `body`. An answer that is still to be read stays unread. Where an exception says nothing
    itself, the one that caused it is asked. What is of neither kind, such as a ValueError of the caller's own, is
    `ignored`: no limit learns from it. Nothing that `what` is or does raises here.

    Args:

        what: What was raised, or what came back.

        now: Seconds since 1970, for hints that are dates. None: as the answer's own Date header says, else by the
            clock of this machine.
    """
    try:
        return _of(what, now)
    except Exception:  # noqa: BLE001 - what a stranger's object does must not cost the caller its own error
        return _NOTHING


def _of(what: object, now: float | None, width: int = WIDEST) -> Feedback:
    """As :func:`classify`; of a group of exceptions at most `width` are looked at."""
    if not isinstance(what, BaseException):
        return _of_answer(Evidence.of(what), now)
    vague: Feedback | None = None
    above = ""
    for error in _chain(what):
        kinds = list(bases(error))
        if any(root == "ratelease" for root, _ in kinds):
            # A wait or a refusal of this library is no answer of a provider, whatever an SDK has made of it.
            return _NOTHING
        if isinstance(error, BaseExceptionGroup) and width > 1:
            found = [_of(each, now, width // 4) for each in items(read(error, "exceptions"), width)]
            return min(found, key=lambda each: (_GRAVEST.index(each.outcome), each.local), default=_NOTHING)
        feedback, clear = _of_error(error, kinds, above, now)
        if feedback is not None and clear:
            return feedback
        vague = vague or feedback
        above = kinds[0][0] if kinds else above
    return vague or _NOTHING


def _chain(error: BaseException) -> Iterator[BaseException]:
    """
    The error, what caused it, and so on.

    What was being handled when it was raised counts only where a client's library raised it, and had caught the other
    itself: what the caller's own code handles may be another call's failure, as in a loop that tries again.
    """
    seen: set[int] = set()
    current: object = error
    while isinstance(current, BaseException) and id(current) not in seen and len(seen) < DEEPEST:
        seen.add(id(current))
        yield current
        cause = read(current, "__cause__")
        if cause is None and read(current, "__suppress_context__") is False:
            root = next(iter(bases(current)), ("", ""))[0]
            context = read(current, "__context__")
            cause = context if root in CLIENT_LIBRARIES and _catcher(context) in CLIENT_LIBRARIES else None
        current = cause


def _catcher(error: object) -> str:
    """The first part of the module that has caught an exception: a traceback begins there."""
    frame = read(read(error, "__traceback__"), "tb_frame")
    return (text(read(read(frame, "f_globals"), "__name__")) or "").partition(".")[0]


def _of_error(
    error: BaseException, kinds: list[tuple[str, str]], above: str, now: float | None
) -> tuple[Feedback | None, bool]:
    """What one exception says, and whether that is clear; `above` is the library whose exception it caused, if any."""
    hidden = PYTHON if above and above not in CLIENT_LIBRARIES else frozenset()
    meaning = next((TYPES[kind] for kind in kinds if kind in TYPES and kind[0] not in hidden), None)
    if meaning is not None and meaning.outcome is Outcome.CANCELLED:
        return Feedback(Outcome.CANCELLED), True
    evidence = Evidence.of(error, kinds)
    said, known = _meaning(evidence, now)
    if said is not None:
        return _feedback(said, evidence, now, known), True
    if meaning is None:
        return None, False
    return _feedback(meaning, evidence, now), not meaning.vague


def _of_answer(evidence: Evidence, now: float | None) -> Feedback:
    meaning, known = _meaning(evidence, now)
    if meaning is not None:
        return _feedback(meaning, evidence, now, known)
    fine = evidence.status is not None and 200 <= evidence.status < 300
    return Feedback(Outcome.OK if fine else Outcome.IGNORED, status=evidence.status)


def _meaning(evidence: Evidence, now: float | None) -> tuple[Meaning | None, str | None]:
    """What the evidence says, and the word that it was told by; None where it tells of no failure."""
    for word in evidence.words:
        if (meaning := CODES.get(canonical(word))) is not None:
            return meaning, word
    if evidence.status == 403 and _about_limits(evidence, now):
        return RATE, None
    if (meaning := of_status(evidence.status)) is not None:
        return meaning, None
    for word in () if evidence.foreign else evidence.words:
        if (meaning := CATEGORIES.get(canonical(word))) is not None:
            return meaning, word
    return (FAILURE if evidence.failed else None), None


def _about_limits(evidence: Evidence, now: float | None) -> bool:
    """Whether the headers of a refusal say that it is for a limit; without them a 403 is for the key."""
    clock = clock_of(evidence.headers, now)
    return told_wait(evidence.headers, None, clock) is not None or bool(used_up(evidence.headers, clock))


def _feedback(meaning: Meaning, evidence: Evidence, now: float | None, known: str | None = None) -> Feedback:
    """What a meaning and the evidence say together: when to come back, what was exceeded, if it ever can succeed."""
    clock = clock_of(evidence.headers, now)
    waits = (told_wait(evidence.headers, body, clock) for body in (*evidence.bodies, None))
    wait = next((each for each in waits if each is not None), None)
    if meaning.outcome is Outcome.THROTTLED:
        meaning, wait = _throttled(meaning, wait, evidence, clock)
    if meaning.outcome in {Outcome.IGNORED, Outcome.CANCELLED}:
        wait = None
    code = known or next(iter(evidence.words), None)
    return Feedback(meaning.outcome, wait, code, meaning.dimension, meaning.terminal, evidence.status, meaning.local)


def _throttled(meaning: Meaning, wait: float | None, evidence: Evidence, clock: float) -> tuple[Meaning, float | None]:
    """What "too many" really means: too fast, not on the plan, or nothing left until tomorrow or next month."""
    quotas = [quotas_of(body) for body in evidence.bodies]
    if any(each.none_given for each in quotas) or (evidence.status == 429 and closed(evidence.headers)):
        return NO_MODEL, wait
    if any(each.daily for each in quotas):
        # Every call until then would be refused, and would count.
        return NO_MODEL, until_midnight(clock) if wait is None else wait
    if any(each.budget.monthly for each in used_up(evidence.headers, clock)):
        return NO_MONEY, wait
    named: list[Dimension | None] = [meaning.dimension]
    named += [DIMENSIONS.get(canonical(word)) for word in evidence.words]
    named += [each.dimension for each in quotas]
    dimension = next((each for each in named if each is not None), None)
    return (
        replace(meaning, dimension=dimension or dimension_used_up(evidence.headers, clock)),
        until_reset(evidence.headers, clock) if wait is None else wait,
    )
