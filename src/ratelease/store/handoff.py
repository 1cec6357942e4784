"""
The process' side of hand-off: claims, timers, polls and hops.

Messages of the inbox are "+<id>" granted, "-<id>" can never be granted, "@<ms>" a timer for the head of a path. A
claim is the same acquire with the same id; the lease's time counts from sending the claim. Whatever a message says is
also found by the poll, one `grant` per path with waiters: messages may be lost.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ..core import scripts
from ..core.keys import parse_path
from ..core.model import Line, Request, Verdict
from .log import logger

if TYPE_CHECKING:
    from .keeper import Keeper

CLAIMED_AT_ONCE = 128
LONGEST_HOP_CHAIN = 64


class Handoff:
    """What one client does so that its waiters get what the store has granted them."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._runtime = keeper.runtime
        self._timers: dict[str, asyncio.TimerHandle] = {}
        # In the order of the grants: a group comes before the single leases that were asked for with it.
        self._claims: dict[str, dict[str, None]] = defaultdict(dict)
        self._claiming: set[str] = set()
        self._granting: set[str] = set()
        self._grant_again: set[str] = set()

    def stop(self) -> None:
        """Cancel the timers."""
        for handle in self._timers.values():
            handle.cancel()

    # ---- claims ------------------------------------------------------------------------------------------------

    def message(self, path_name: str, words: Iterable[str]) -> None:
        """One message of the inbox. Ids that nobody here waits for are being withdrawn by who gave up."""
        for word in words:
            kind, rest = word[:1], word[1:]
            if kind == "@":
                line = self._own_line(path_name)
                if line is not None and rest.isdigit():
                    self.arm(line, int(rest))
            elif kind in ("+", "-"):
                self._claim_soon((rest,))
            elif kind == "?":
                self._keeper.kick(path_name)

    def _own_line(self, path_name: str) -> Line | None:
        waiters = list(self._keeper.waiters.values())
        return next((each.request.line for each in waiters if each.request.line.path.name == path_name), None)

    def _claim_soon(self, ids: Iterable[str]) -> None:
        waiters = [waiter for waiter in map(self._keeper.waiters.get, ids) if waiter is not None]
        if not waiters:
            return
        line = waiters[0].request.line
        self._claims[line.path.name].update(dict.fromkeys(waiter.request.id for waiter in waiters))
        if line.path.name not in self._claiming:
            self._claiming.add(line.path.name)
            self._keeper.spawn(self._claim_all(line))

    async def _claim_all(self, line: Line) -> None:
        name = line.path.name
        try:
            while self._claims[name]:
                ids = list(self._claims[name])[:CLAIMED_AT_ONCE]
                for id in ids:
                    del self._claims[name][id]
                await self._claim(line, ids)
        finally:
            self._claiming.discard(name)
            self._claims.pop(name, None)

    async def _claim(self, line: Line, ids: Sequence[str]) -> None:
        """Send these parked requests again: claims what was granted, leaves the rest parked."""
        found = [waiter for id in ids if (waiter := self._keeper.waiters.get(id)) is not None]
        sendings = [(waiter, request) for waiter in found if (request := waiter.sending()) is not None]
        if not sendings:
            return
        runtime, sent = self._runtime, time.monotonic()
        call = scripts.acquire(runtime.session, runtime.keyspace, [request for _, request in sendings], sent)
        answers = scripts.acquire_answers(await self._keeper.run_script(call), sent)
        for (waiter, request), answer in zip(sendings, answers, strict=True):
            # What an outage has given another id meanwhile is withdrawn under this one.
            if waiter.request.id == request.id:
                waiter.request.note(answer.status)
            # A caller that has gone meanwhile withdraws the id itself, with a tombstone.
            if answer.status is not Verdict.PARKED:
                waiter.resolve(answer, request.id)
        runtime.note(line, answers[0].header, sent=sent)

    def send(self, requests: Sequence[Request]) -> None:
        """Send requests of one line that were kept back, as those that are parked are sent again."""
        for request in requests:
            request.last = Verdict.PARKED
        self._claim_soon(request.id for request in requests)

    async def repeat_parked(self) -> None:
        """Send every parked request again: what the store has lost is parked again."""
        for line, ids in self._parked().items():
            for at in range(0, len(ids), CLAIMED_AT_ONCE):
                await self._claim(line, ids[at : at + CLAIMED_AT_ONCE])

    def _parked(self) -> dict[Line, list[str]]:
        parked: dict[Line, list[str]] = defaultdict(list)
        for waiter in list(self._keeper.waiters.values()):
            # What is still on its way for the first time is its caller's to repeat.
            if waiter.request.parked and waiter.answer is None:
                parked[waiter.request.line].append(waiter.request.id)
        return parked

    # ---- polls, timers, hops -----------------------------------------------------------------------------------

    async def polls(self) -> None:
        """Poll until cancelled."""
        while True:
            await asyncio.sleep(self._keeper.config.poll * random.uniform(0.8, 1.2))
            self._keeper.collect_dropped()
            if not self._runtime.outage.away:
                self.poll()

    def poll(self) -> None:
        """Ask the store for what it has granted, one call per path with waiters."""
        for line in self._parked():
            self._grant_soon(line)

    def arm(self, line: Line, server_ms: int) -> None:
        """Keep one timer a path: the earliest that was asked for and is still to come."""
        loop = asyncio.get_running_loop()
        name = line.path.name
        when = loop.time() + max(self._runtime.until(server_ms), 0.001)
        pending = self._timers.get(name)
        if pending is not None:
            if loop.time() < pending.when() <= when:
                return
            pending.cancel()
        self._timers[name] = loop.call_at(when, self._timer_due, line)

    def _timer_due(self, line: Line) -> None:
        self._timers.pop(line.path.name, None)
        self._grant_soon(line)

    def hop(self, path_name: str, hops: int) -> None:
        """Grant the path that an answer has named. Chains end by themselves; the bound is for a corrupt store."""
        path = parse_path(path_name)
        if path is None or hops > LONGEST_HOP_CHAIN:
            logger.debug("the hop to %a is not followed", path_name)
            return
        self._grant_soon(self._own_line(path_name) or scripts.foreign_line(self._runtime.keyspace, path), hops)

    def _grant_soon(self, line: Line, hops: int = 0) -> None:
        """Grant a path; asked for while one is on its way, it is done once more behind it."""
        name = line.path.name
        if name in self._granting:
            self._grant_again.add(name)
            return
        self._granting.add(name)
        self._keeper.spawn(self._grant(line, hops))

    async def _grant(self, line: Line, hops: int) -> None:
        name, runtime = line.path.name, self._runtime
        try:
            while True:
                self._grant_again.discard(name)
                call, sent = scripts.grant(runtime.session, runtime.keyspace, line), time.monotonic()
                header, unclaimed = scripts.ids_after_header(await self._keeper.run_script(call))
                self._claim_soon(unclaimed)
                runtime.note(line, header, hops + 1, sent=sent)
                if name not in self._grant_again:
                    return
        finally:
            self._granting.discard(name)
