"""How an adapter's requests are made up: addresses, headers and the secret, checked before anything is sent."""

from __future__ import annotations

import base64
import inspect
import os
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..daemons import Daemon
from ..errors import ConfigError

if TYPE_CHECKING:
    import httpx

Secret = str | Callable[[], str | Awaitable[str]]

BEARER = "Bearer {secret}"
MOST_URLS = 256
LONGEST_URL = 2048
LONGEST_VALUE = 8192

_HERE = "{secret}"
_VISIBLE = re.compile(r"[\x20-\x7e]*", re.ASCII)
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}", re.ASCII)
# In capitals, so that a key that is given in place of its variable's name is noticed.
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,99}", re.ASCII)
_HOW = "the name of an environment variable, in capitals, or a callable that returns the secret, not the secret itself"

# Where the key is looked for of a provider that we know.
FEATHERLESS_KEY = "FEATHERLESS_API_KEY"

# A compressed answer could be a thousand times larger than what is read of it.
_OWN_HEADERS = frozenset({"accept-encoding", "connection", "content-length", "host", "transfer-encoding"})


@dataclass(frozen=True, slots=True)
class Place:
    """One address: how it is shown, and how it is asked."""

    shown: str
    url: httpx.URL = field(repr=False)
    basic: str | None = field(repr=False)


def places_of(urls: object, name: str, faults: list[str]) -> list[Place]:
    """The addresses to ask; a user and password that stand in one become its Authorization."""
    listed = [urls] if isinstance(urls, str) else urls
    if not isinstance(listed, Sequence) or isinstance(listed, bytes) or not 1 <= len(listed) <= MOST_URLS:
        faults.append(f"{name} must be one URL or a list of 1 to {MOST_URLS}, not {type(urls).__name__}")
        return []
    found: dict[str, Place] = {}
    for number, url in enumerate(listed, start=1):
        which = name if len(listed) == 1 else f"{name} (number {number})"
        place = _place(url, which, faults)
        if place is None:
            continue
        address = f"{place.shown}?{place.url.query.decode('ascii')}"
        if address in found:
            # The user may not notice that one server is counted twice; the gate would close for nothing.
            faults.append(f"{which} is listed twice")
        found[address] = place
    return list(found.values())


def _place(url: object, which: str, faults: list[str]) -> Place | None:
    """One address; a message never shows it, since it may hold a password."""
    import httpx

    parsed = None
    if isinstance(url, str) and len(url) <= LONGEST_URL and url.isprintable() and not re.search(r"\s", url):
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL:
            parsed = None
    if parsed is None or parsed.scheme not in ("http", "https") or not parsed.host or parsed.fragment:
        faults.append(f"{which} must look like https://host/path")
        return None
    basic = None
    if parsed.userinfo:
        pair = f"{parsed.username}:{parsed.password}".encode()
        basic = "Basic " + base64.b64encode(pair).decode("ascii")
    plain = parsed.copy_with(userinfo=b"")
    return Place(f"{plain.scheme}://{plain.netloc.decode('ascii')}{plain.path}", plain, basic)


class Headers:
    """What every request of an adapter carries; the secret is asked for anew each time, since keys are replaced."""

    def __init__(
        self,
        accept: str,
        headers: object,
        secret: object,
        auth: object,
        auth_header: object,
        faults: list[str],
    ) -> None:
        self._plain = {"accept": accept, "accept-encoding": "identity", "user-agent": "ratelease"}
        given = _given(headers, faults)
        self._plain.update(given)
        self._secret = secret
        # It may ask a vault or a metadata service, and whose loop polls also renews leases.
        self._plain_secret = (
            Daemon(secret, "secret()") if callable(secret) and not inspect.iscoroutinefunction(secret) else None
        )
        self._auth = auth if isinstance(auth, str) else BEARER
        self._auth_header = auth_header.lower() if isinstance(auth_header, str) else ""
        _check_auth(secret, auth, auth_header, given, faults)

    @property
    def say_who(self) -> bool:
        """Whether they hold what an address' user and password would replace."""
        return "authorization" in self._plain or (self._secret is not None and self._auth_header == "authorization")

    async def now(self) -> dict[str, str]:
        """
        The headers of one request.

        Raises:

            ConfigError: There is no secret, or it cannot stand in a header.
        """
        if self._secret is None:
            return self._plain
        return {**self._plain, self._auth_header: self._auth.replace(_HERE, await self._ask())}

    async def _ask(self) -> str:
        if isinstance(self._secret, str):
            value: object = os.environ.get(self._secret)
            if value is None:
                raise ConfigError(_unset(self._secret))
        else:
            value = await self._called()
        text = value.strip() if isinstance(value, str) else ""
        if not text or len(text) > LONGEST_VALUE or not _VISIBLE.fullmatch(text):
            raise ConfigError(f"the secret must be a text of 1 to {LONGEST_VALUE} visible ASCII characters")
        return text

    async def _called(self) -> object:
        try:
            if self._plain_secret is not None:
                value: object = await self._plain_secret.call()
            else:
                value = self._secret() if callable(self._secret) else None
            return await value if inspect.isawaitable(value) else value
        except Exception as error:  # noqa: BLE001 - it is the user's, and its message may hold what it has read
            kind = type(error).__name__
        raise ConfigError(f"secret() has raised {kind}")


def _unset(variable: str) -> str:
    """The fault of a variable that is not set."""
    if variable == FEATHERLESS_KEY:
        return f"the environment variable {FEATHERLESS_KEY} is not set: set it, or say by secret= where the key is"
    # Not named: whoever gives a key in place of a name would find it in a log.
    return "secret names an environment variable that is not set"


def _given(headers: object, faults: list[str]) -> dict[str, str]:
    if headers is None:
        return {}
    if not isinstance(headers, Mapping):
        faults.append(f"headers must map names to texts, not {type(headers).__name__}")
        return {}
    found = {}
    for name, value in headers.items():
        if not isinstance(name, str) or not _HEADER.fullmatch(name):
            faults.append(f"headers: {name!r:.60} cannot be the name of a header")
        elif name.lower() in _OWN_HEADERS:
            faults.append(f"headers must leave out {name.lower()}: it is set for each request")
        elif not isinstance(value, str) or len(value) > LONGEST_VALUE or not _VISIBLE.fullmatch(value):
            # Not shown: it may be a key.
            faults.append(f"headers: {name} must be a text of visible ASCII characters")
        else:
            found[name.lower()] = value
    return found


def _check_auth(secret: object, auth: object, auth_header: object, given: dict[str, str], faults: list[str]) -> None:
    if not isinstance(auth, str) or _HERE not in auth or len(auth) > 200 or not _VISIBLE.fullmatch(auth):
        faults.append(f"auth must be a text with {_HERE} in it, as {BEARER!r}")
    if not isinstance(auth_header, str) or not _HEADER.fullmatch(auth_header) or auth_header.lower() in _OWN_HEADERS:
        faults.append("auth_header must be the name of a header, as x-api-key")
    elif secret is not None and auth_header.lower() in given:
        faults.append(f"{auth_header.lower()} stands in headers and is where the secret goes: give one of them")
    if secret is None:
        if auth != BEARER:
            faults.append("auth says how the secret is sent, and there is none: give secret as well")
    elif isinstance(secret, str):
        if not _VARIABLE.fullmatch(secret):
            faults.append(f"secret must be {_HOW}")
        elif secret not in os.environ:
            faults.append(_unset(secret))
    elif not callable(secret):
        faults.append(f"secret must be {_HOW}")
