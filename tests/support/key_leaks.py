"""Find keys that would stay in a store for ever."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

# Shell patterns of the keys that may lack a TTL.
PERMANENT: tuple[str, ...] = ("rl:{*}:overrides",)

_NO_TTL = -1  # PTTL of a key without a TTL; -2 is a key that is gone


def key_leaks(client: Any, *, permanent: Iterable[str] = PERMANENT) -> list[str]:
    """List the keys of the client's database that have no TTL and match no pattern of `permanent`.

    Args:
        client: a synchronous redis-py client, with or without decoded responses.
        permanent: shell patterns, matched against the whole key.
    """
    allowed = tuple(permanent)
    keys = sorted(client.scan_iter(count=1000))
    with client.pipeline(transaction=False) as pipeline:
        for key in keys:
            pipeline.pttl(key)
        times = pipeline.execute()
    names = [key.decode(errors="backslashreplace") if isinstance(key, bytes) else str(key) for key in keys]
    return [
        name
        for name, pttl in zip(names, times, strict=True)
        if pttl == _NO_TTL and not any(fnmatchcase(name, pattern) for pattern in allowed)
    ]
