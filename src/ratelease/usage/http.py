"""Asking for usage over HTTP, with an end to everything: time, size, redirects."""

from __future__ import annotations

import asyncio
import importlib
import logging
from contextlib import aclosing
from typing import TYPE_CHECKING, cast

from ..checks import is_number
from ..core.provider_usage import LONGEST_ANSWER, ProviderUsage, summed
from ..errors import ConfigError
from .calling import BEARER, Headers, places_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    import httpx

    from .calling import Place

TIMEOUT = 2.0

# Replicas that are asked at the same time.
_AT_ONCE = 16

_log = logging.getLogger("ratelease.usage")


def need(*libraries: str) -> None:
    """
    Import what an adapter works with.

    Raises:

        ConfigError: Something is not installed.
    """
    missing = []
    for library in libraries:
        try:
            importlib.import_module(library)
        except ImportError:
            missing.append(library.partition(".")[0])
    if missing:
        names = " and ".join(missing)
        raise ConfigError(f"{names} cannot be imported: install what asks providers, pip install 'ratelease[usage]'")


class _SaysNothing(Exception):
    """An answer that holds no usage; the text says why."""


class HttpUsage:
    """
    The usage that one or several addresses report together.

    Connections are made for each poll and closed after it: at one poll a second in the whole fleet that costs little,
    follows a name to its new address, never meets a connection that the server has closed meanwhile, and leaves
    nothing behind in a forked child or another event loop.
    """

    _accept = "application/json"
    _urls_name = "url"

    def __init__(
        self,
        urls: object,
        *,
        headers: object = None,
        secret: object = None,
        auth: object = BEARER,
        auth_header: object = "authorization",
        timeout: object = TIMEOUT,
        faults: list[str],
    ) -> None:
        import httpx

        self._places = places_of(urls, self._urls_name, faults)
        self._headers = Headers(self._accept, headers, secret, auth, auth_header, faults)
        if self._headers.say_who and any(place.basic for place in self._places):
            faults.append(f"{self._urls_name} holds a user, and another authorization is given: give one of them")
        if not is_number(timeout, 0.05, 60.0):
            faults.append(f"timeout must be 0.05 to 60 s, not {timeout!r:.60}")
        if faults:
            raise ConfigError.of(f"{type(self).__name__}: {fault}" for fault in faults)
        self._timeout = float(timeout)  # type: ignore[arg-type]
        # Reads the certificates of all authorities, which takes time that an event loop should not spend.
        self._tls = httpx.create_ssl_context()
        self._said: dict[str, str] = {}
        self._closed = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(place.shown for place in self._places)})"

    async def get_usage(self) -> ProviderUsage | None:
        """
        What is in flight now, all replicas together; None where one of them says nothing that can be understood.

        Raises:

            ConnectionError: An address could not be reached, or broke off.

            TimeoutError: An answer was not complete within the timeout.

            ConfigError: The secret could not be had.

            RuntimeError: The adapter is closed.
        """
        import httpx

        if self._closed:
            raise RuntimeError(f"{self!r} is closed")
        deadline = asyncio.get_running_loop().time() + self._timeout
        headers = await self._headers_by(deadline)
        limits = httpx.Limits(max_connections=_AT_ONCE)
        async with httpx.AsyncClient(verify=self._tls, timeout=self._timeout, limits=limits) as client:
            answers = await asyncio.gather(*(self._ask(client, place, headers, deadline) for place in self._places))
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return summed(answer for answer in answers if not isinstance(answer, Exception))

    async def aclose(self) -> None:
        """Ask no more."""
        self.close()

    def close(self) -> None:
        """Ask no more; a poll on its way comes to its own end."""
        self._closed = True

    async def _headers_by(self, deadline: float) -> dict[str, str]:
        try:
            async with asyncio.timeout_at(deadline):
                return await self._headers.now()
        except TimeoutError:
            pass
        raise TimeoutError(f"{self!r}: secret() did not answer within {self._timeout:g} s")

    async def _ask(
        self, client: httpx.AsyncClient, place: Place, headers: dict[str, str], deadline: float
    ) -> ProviderUsage | Exception | None:
        """One replica's usage, or what went wrong, without what the library's error holds: headers and address."""
        import httpx

        if place.basic is not None:
            headers = {**headers, "authorization": place.basic}
        try:
            async with asyncio.timeout_at(deadline):
                body = await self._fetch(client, place, headers)
        except _SaysNothing as nothing:
            self._note(place, str(nothing))
            return None
        except (TimeoutError, httpx.TimeoutException):
            return TimeoutError(f"{place.shown} did not answer within {self._timeout:g} s")
        except Exception as error:  # noqa: BLE001 - whatever it is, it may hold the secret
            return ConnectionError(f"{place.shown} could not be asked: {type(error).__name__}")
        usage = self._read(body)
        self._note(place, "" if usage is not None else f"does not say {self._sought}")
        return usage

    async def _fetch(self, client: httpx.AsyncClient, place: Place, headers: dict[str, str]) -> bytes:
        # Redirects are not followed: they could take the secret elsewhere.
        async with client.stream("GET", place.url, headers=headers, follow_redirects=False) as response:
            if response.status_code != 200:
                raise _SaysNothing(f"answers with status {response.status_code}")
            if response.headers.get("content-encoding", "identity").strip().lower() != "identity":
                raise _SaysNothing("answers compressed, which it was asked not to")
            body = bytearray()
            async with aclosing(cast("AsyncGenerator[bytes]", response.aiter_raw())) as chunks:
                async for chunk in chunks:
                    body += chunk
                    if len(body) > LONGEST_ANSWER:
                        raise _SaysNothing(f"answers with more than {LONGEST_ANSWER:,} bytes")
        return bytes(body)

    def _note(self, place: Place, what: str) -> None:
        """Log why a poll says nothing, when that begins or changes, not every second."""
        if what and self._said.get(place.shown) != what:
            _log.warning("usage is not known: %s %s", place.shown, what)
        self._said[place.shown] = what

    @property
    def _sought(self) -> str:
        raise NotImplementedError

    def _read(self, body: bytes) -> ProviderUsage | None:
        raise NotImplementedError
