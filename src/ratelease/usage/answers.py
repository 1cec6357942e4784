"""Usage in JSON: at any path, and as Featherless reports it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ..core.provider_usage import ProviderUsage, dig, parsed
from .calling import BEARER, FEATHERLESS_KEY, Secret
from .http import TIMEOUT, HttpUsage, need

_PATH = re.compile(r"[^.\[\]\s]{1,100}(?:\.[^.\[\]\s]{1,100}){0,19}")


class JsonUsage(HttpUsage):
    """
    Usage from any JSON over HTTP.

    Args:

        url: Where it is asked for by GET; several are replicas, whose figures are added.

        in_flight: The path to the number of calls in flight: keys, and numbers into lists, with dots between them, as
            "usage.concurrent_sessions" or "data.0.running".

        limit, hard_cap: Paths to the provider's limit and hard cap, where it states them; null is none.

        headers: What else each request carries.

        secret: The name of an environment variable, in capitals, or a callable that returns the secret or an awaitable
            of it. Asked before each poll, so that a key may be replaced.

        auth, auth_header: How and in which header the secret is sent.

        timeout: Seconds for a whole poll, 0.05 to 60.

    Raises:

        ConfigError: An argument is wrong (all faults are named), or httpx is not installed.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        in_flight: str = "usage.concurrent_sessions",
        limit: str | None = None,
        hard_cap: str | None = None,
        headers: Mapping[str, str] | None = None,
        secret: Secret | None = None,
        auth: str = BEARER,
        auth_header: str = "authorization",
        timeout: float = TIMEOUT,
    ) -> None:
        need("httpx")
        faults: list[str] = []
        self._in_flight = _path("in_flight", in_flight, faults)
        self._limit = None if limit is None else _path("limit", limit, faults)
        self._hard_cap = None if hard_cap is None else _path("hard_cap", hard_cap, faults)
        super().__init__(
            url, headers=headers, secret=secret, auth=auth, auth_header=auth_header, timeout=timeout, faults=faults
        )

    @property
    def _sought(self) -> str:
        return ".".join(self._in_flight)

    def _read(self, body: bytes) -> ProviderUsage | None:
        content = parsed(body)
        found = {
            "concurrent_sessions": dig(content, self._in_flight),
            "limit": None if self._limit is None else dig(content, self._limit),
            "hard_cap": None if self._hard_cap is None else dig(content, self._hard_cap),
        }
        return ProviderUsage.of(found)


class FeatherlessUsage(JsonUsage):
    """
    What Featherless counts for an account: the weight of the calls in flight, and the plan's limit.

    A larger model weighs more than one, so give such calls their weight in the limits as well.

    Args:

        secret: As JsonUsage takes it: the name of the environment variable that holds the API key, or a callable.

        url: Another address than Featherless' own.

        timeout: Seconds for a whole poll, 0.05 to 60.

    Raises:

        ConfigError: An argument is wrong (all faults are named), or httpx is not installed.
    """

    def __init__(
        self,
        secret: Secret = FEATHERLESS_KEY,
        *,
        url: str = "https://api.featherless.ai/account/concurrency",
        timeout: float = TIMEOUT,
    ) -> None:
        super().__init__(url, in_flight="used_cost", limit="limit", secret=secret, timeout=timeout)


def _path(name: str, path: object, faults: list[str]) -> tuple[str, ...]:
    if not isinstance(path, str) or not _PATH.fullmatch(path):
        faults.append(f"{name} must be a path of up to 20 keys, as data.0.running, not {path!r:.60}")
        return ()
    return tuple(path.split("."))
