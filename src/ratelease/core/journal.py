"""What operators did, who it was and why: written into the store's journal, read with caps and checks."""

from __future__ import annotations

from dataclasses import dataclass

import msgpack

from .plain import Plain

LONGEST_TEXT = 500
LARGEST_DEED = 4096


@dataclass(frozen=True, slots=True)
class Deed(Plain):
    """
    One act of an operator.

    Attributes:

        at: Unix seconds by the store's clock.

        verb: set, unset, pause, resume, penalize, forgive or reset. scope: what it meant. what: its figures or ms, a
            cause, or thousandths that stay, as scripts spell them.

        who, reason: as the operator has said.
    """

    at: float
    verb: str
    scope: str
    what: str
    who: str
    reason: str


def pack_deed(*texts: str) -> bytes:
    """Pack verb, scope, what, who, reason and an id that no other deed has."""
    packed: bytes = msgpack.packb([text[:LONGEST_TEXT] for text in texts])
    return packed


def read_deed(entry: object) -> Deed | None:
    """Unpack what somebody wrote into the journal; None for what is no deed."""
    if not isinstance(entry, bytes) or len(entry) > LARGEST_DEED:
        return None
    at, _, packed = entry.partition(b":")
    try:
        texts = msgpack.unpackb(packed, raw=False, max_array_len=8, max_str_len=LARGEST_DEED, max_ext_len=0)
        milliseconds = int(at)
    except Exception:  # noqa: BLE001 - msgpack's errors have no common base
        return None
    if not isinstance(texts, list) or len(texts) != 6 or not all(isinstance(text, str) for text in texts):
        return None
    return Deed(milliseconds / 1000, *texts[:5])
