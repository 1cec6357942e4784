"""The scripts alone, one call after the other: no keeper, no joining of calls, nothing but what is asked for."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from ratelease import Limits
from ratelease.config import Config
from ratelease.core import scripts
from ratelease.core.keys import Keyspace, make_path
from ratelease.core.model import Answer, Ended, Line, Request, costs_of, spec_of
from ratelease.core.session import Session
from ratelease.store.lua_source import script


class Direct:
    """An instance that calls the scripts through redis-py's client, on one path of model, provider and total."""

    def __init__(self, client: Any, namespace: str, *, model: Limits | None, total: Limits | None = None) -> None:
        self._client = client
        self.keyspace = Keyspace(namespace)
        self.session = Session.begin(Config(), secrets.token_hex(6), secrets.token_hex(8))
        path = make_path("bench", "model", (), None)
        specs = (spec_of(model), spec_of(None), spec_of(total))
        self.line = Line(path, tuple(self.keyspace.path_keys(path)), specs, "bench", "model")

    def request(self, *, wait: float = -1.0, charge: int = 1) -> Request:
        """One request for one lease that charges so many requests and waits so many seconds; -1 does not wait."""
        costs = costs_of({"requests": charge})
        return Request(self.line, secrets.token_urlsafe(16), 1, 1, costs, wait, wait >= 0)

    def acquire(self, requests: Sequence[Request]) -> list[Answer]:
        """Send requests in one call."""
        return scripts.acquire_answers(self._run(scripts.acquire(self.session, self.keyspace, requests, 0.0)), 0.0)

    def release(self, ids: Sequence[str], *, unsent: bool = False) -> list[Ended]:
        """End leases in one call."""
        endings = [scripts.Ending(self.line, id, unsent=unsent) for id in ids]
        return scripts.release_answers(self._run(scripts.release(self.session, self.keyspace, endings)))[1]

    def grant(self) -> list[str]:
        """Grant what time has freed; the ids that wait to be claimed."""
        return scripts.ids_after_header(self._run(scripts.grant(self.session, self.keyspace, self.line)))[1]

    def beat(self) -> None:
        """Keep the instance alive."""
        self._run(scripts.beat(self.session, self.keyspace, b""))

    def _run(self, call: scripts.Call) -> Any:
        source = script(call.script)
        arguments = (len(call.keys), *call.keys, *call.arguments)
        try:
            reply = self._client.execute_command("EVALSHA", source.sha, *arguments)
        except Exception as error:
            if "NOSCRIPT" not in str(error) and "No matching script" not in str(error):
                raise
            reply = self._client.execute_command("EVAL", source.text, *arguments)
        self.session.note(scripts.header(reply))
        return reply
