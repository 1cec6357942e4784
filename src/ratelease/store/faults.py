"""The one border where Redis' errors become ours, and where it is decided what another attempt may mend."""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from typing import NamedTuple

import redis
import redis.exceptions

from ..errors import RateleaseError, StoreCorrupt, StoreUnavailable
from .nodes import MARK, Node


class Cure(enum.Enum):
    """What may help after a failed attempt."""

    LOAD = "send the script itself"
    RECONNECT = "another connection"
    REDIRECT = "the node of the cluster that the error names"
    WAIT = "the same connection, a little later"
    NONE = "nothing"


class Redirect(NamedTuple):
    """Another node of a cluster, to be asked from now on (MOVED), or for the very next attempt alone (ASK)."""

    node: Node
    once: bool


# Classes of newer versions of redis-py, which cut the code off the text; older ones have only the text.
_CODES: dict[type[Exception], str] = {
    redis.exceptions.MovedError: "MOVED",
    redis.exceptions.AskError: "ASK",
    redis.exceptions.TryAgainError: "TRYAGAIN",
    redis.exceptions.MasterDownError: "MASTERDOWN",
    redis.exceptions.ClusterDownError: "CLUSTERDOWN",
}
# Said before a script has begun: its keys' slot is on its way between two nodes, or nobody's now.
_SLOT_AWAY = ("TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN")


def _code(error: BaseException) -> str:
    """The code of an error reply of a cluster's node; of other errors the first word."""
    if not isinstance(error, redis.exceptions.ResponseError):
        return ""
    return next((code for known, code in _CODES.items() if isinstance(error, known)), str(error).partition(" ")[0])


def is_slot_away(error: BaseException) -> bool:
    """Whether the error says that no node can serve the keys' slot now."""
    return _code(error) in _SLOT_AWAY


def is_down(error: BaseException) -> bool:
    """Whether the node that said so belongs to no cluster that works, as far as it knows."""
    return _code(error) in ("CLUSTERDOWN", "MASTERDOWN")


def redirect(error: BaseException) -> Redirect | None:
    """Where the error sends its caller: "MOVED 3999 127.0.0.1:6381", with or without its code."""
    code = _code(error)
    if code not in ("MOVED", "ASK"):
        return None
    host, _, port = str(error).rpartition(" ")[2].rpartition(":")
    return Redirect(Node(host, int(port)), code == "ASK") if port.isascii() and port.isdigit() else None


def cure(error: BaseException) -> Cure:
    """What may help after this error. Texts are compared by prefix: classes differ between versions of redis-py."""
    text = str(error)
    if isinstance(error, redis.exceptions.AuthenticationError | redis.exceptions.AuthorizationError):
        return Cure.NONE
    if redirect(error) is not None:
        return Cure.REDIRECT
    if isinstance(error, redis.exceptions.ResponseError):
        if "NOSCRIPT" in text or "No matching script" in text:
            return Cure.LOAD
        if isinstance(error, redis.exceptions.ReadOnlyError) or "READONLY" in text:
            return Cure.RECONNECT
        if is_slot_away(error) or any(word in text[:40] for word in ("BUSY", "LOADING")):
            return Cure.WAIT
        return Cure.NONE
    if isinstance(error, redis.exceptions.BusyLoadingError):
        return Cure.WAIT
    if isinstance(error, redis.exceptions.ConnectionError | redis.exceptions.TimeoutError | OSError | EOFError):
        return Cure.RECONNECT
    return Cure.NONE


def has_not_run(error: BaseException) -> bool:
    """Whether the error says that the script was not even begun."""
    return is_slot_away(error) or cure(error) in (Cure.LOAD, Cure.REDIRECT)


def replied(error: BaseException) -> bool:
    """Whether the error is Redis' reply, so that the connection is still in step and of use."""
    return isinstance(error, redis.exceptions.ResponseError) and cure(error) is not Cure.RECONNECT


def _is_forbidden(error: BaseException, told: str) -> bool:
    """Whether the store's user lacks a right: to a command, a key or a channel, by itself or inside a script."""
    # Redis 6 has no word of its own for what is forbidden inside a script, nor has redis-py a class for it.
    signs = ("NOPERM", "ACL failure", "The user executing the script can't")
    return isinstance(error, redis.exceptions.NoPermissionError) or any(sign in told for sign in signs)


def _reason(told: str) -> str:
    """What a script's error says, without the place in the script that Redis puts before or behind it."""
    return re.sub(r"^.*@user_script: ?\d+: |,? script: (?:\w+, )?on @user_script:.*$| \(call to f_.*$", "", told)[:200]


def translate(error: BaseException, label: str) -> RateleaseError:
    """Our error for what Redis or redis-py raised; `label` is the store's address without secrets."""
    if isinstance(error, RateleaseError):
        return error
    told = str(error)
    text = told.split("script:", maxsplit=1)[0].strip()[:200]
    # Redis 6 puts it behind the place in the script.
    if "OOM" in told or "maxmemory" in told:
        return StoreUnavailable(
            f"the store at {label} is out of memory and admits nothing new (oom): raise its maxmemory. Leases that "
            "are out are still renewed and released"
        )
    if isinstance(error, redis.exceptions.AuthenticationError):
        return StoreUnavailable(f"the store at {label} refused the user or password: check the URL's credentials")
    if _is_forbidden(error, told):
        return StoreUnavailable(
            f"the store at {label} forbids its user something that ratelease needs ({_reason(told)!a}): "
            "docs/operations.md lists the access rights of clients and of operators"
        )
    if isinstance(error, TimeoutError | redis.exceptions.TimeoutError):
        or_what = ", or does it not speak TLS?" if label.startswith("rediss") else "?"
        return away(f"the store at {label} did not answer in time: is it overloaded, or cut off{or_what}")
    if redirect(error) is not None and MARK not in label:
        return StoreUnavailable(
            f"the store at {label} is a node of a Redis Cluster, and another node has these keys: write the URL as "
            "redis+cluster:// (rediss+cluster:// for TLS)"
        )
    if redirect(error) is not None or is_slot_away(error):
        return away(
            f"the cluster at {label} does not serve this namespace now ({text!a}): has a node failed without a "
            "replica, or does moving a slot take so long?"
        )
    if isinstance(error, redis.exceptions.ResponseError):
        refused = f"the store at {label} refused: {text!a}"
        # A script that runs too long, data that is being loaded, a failover: it serves nobody, as if it were away.
        return StoreUnavailable(refused) if cure(error) is Cure.NONE else away(refused)
    return away(
        f"the store at {label} cannot be reached ({type(error).__name__}): is Redis running there, and the URL right?"
    )


def only_late(error: StoreUnavailable) -> bool:
    """Whether nothing but time has told that the store is away: a busy machine may have kept its answer from us."""
    cause = error.__cause__
    return cause is None or isinstance(cause, TimeoutError | redis.exceptions.TimeoutError)


def without_frames(error: BaseException) -> BaseException:
    """
    The same error without its tracebacks.

    redis-py keeps some errors in cycles, and with them every frame down to the caller's: a lease that is dropped there
    would wait for the garbage collector.
    """
    seen: BaseException | None = error
    while seen is not None:
        seen.__traceback__ = None
        seen = seen.__context__
    return error


def away(message: str) -> StoreUnavailable:
    """The error for a store that serves nobody: the policy of an outage decides what its caller gets."""
    error = StoreUnavailable(message)
    error.away = True
    return error


# What each of our keys holds, by the last part of its name.
KINDS = {
    "store": b"hash",
    "instances": b"zset",
    "paths": b"zset",
    "profiles": b"hash",
    "queue": b"zset",
    "claims": b"zset",
    "records": b"hash",
    "graves": b"zset",
    "overrides": b"hash",
    "journal": b"list",
    "state": b"hash",
    "windows": b"hash",
    "learned": b"hash",
    "leases": b"zset",
    "index": b"zset",
}


def is_wrong_type(error: BaseException) -> bool:
    """Whether a script stumbled over a key that holds another type than ours."""
    return isinstance(error, redis.exceptions.ResponseError) and "WRONGTYPE" in str(error)


def wrong_type(keys: Sequence[str], types: Sequence[bytes]) -> StoreCorrupt:
    """Name the keys among these that hold something that ratelease did not write."""
    wrong = [
        (key, kind.decode())
        for key, kind in zip(keys, types, strict=True)
        if kind not in (b"none", KINDS[key.rpartition(":")[2]])
    ]
    if not wrong:
        return StoreCorrupt("a key of ratelease held a wrong type a moment ago; it no longer does: try again")
    named = ", ".join(f"{key} is a {kind}" for key, kind in wrong)
    return StoreCorrupt(
        f"somebody else wrote to keys of ratelease: {named}. Nothing was overwritten; reset() or lua/ops/flush.lua "
        "removes such keys",
        key=wrong[0][0],
    )
