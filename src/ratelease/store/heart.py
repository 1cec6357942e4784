"""Heartbeats: leases inside their local deadline are renewed, the rest are told lost."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import defaultdict
from collections.abc import Coroutine, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..core import scripts
from ..core.instances import encode_profile
from ..core.keys import scope_label
from ..core.model import Answer, Held
from ..errors import StoreCorrupt, StoreUnavailable
from .log import logger

if TYPE_CHECKING:
    from .hold import Hold
    from .keeper import Keeper
    from .waiter import Waiter

RENEWED_AT_ONCE = 500


class Heart:
    """One client's heartbeat. Late or failed ones are repeated sooner."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._runtime = keeper.runtime
        self._config = keeper.config
        self._outage = keeper.runtime.outage
        self._refused = False
        self._corrupt: StoreCorrupt | None = None
        self._hurried = asyncio.Event()

    def renew_soon(self) -> None:
        """Renew now: a lease ends before the next heartbeat would."""
        self._keeper.spawn(self._renew_all())

    def beat_soon(self) -> None:
        """Beat now: the store has lost what it knew."""
        self._keeper.spawn(self._beat())

    async def beats(self) -> None:
        """Beat until cancelled."""
        while True:
            self._hurried.clear()
            # Sooner than agreed: a store that has lost its data waits one heartbeat for this, and a beat takes time.
            pause = self._runtime.heartbeat * random.uniform(0.8, 0.9)
            try:
                await self._beat()
            except StoreUnavailable as error:
                self._outage.missed(error)
                self._tell_refused(error)
                pause = min(pause, max(self._runtime.heartbeat / 5, 0.05))
            else:
                self._tell_refused(None)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._hurried.wait()

    def hurry(self) -> None:
        """Beat now, and go on at the pace that is agreed by now."""
        self._hurried.set()

    def _tell_refused(self, error: StoreUnavailable | None) -> None:
        """Say once that the store refuses, and once that it does no more. Outages are told by themselves."""
        if error is not None and error.away:
            return
        if error is not None and not self._refused:
            logger.warning("leases cannot be renewed: %s", error)
        elif error is None and self._refused:
            logger.info("the store at %s takes renewals again", self._runtime.endpoint.label)
        self._refused = error is not None

    async def _beat(self) -> None:
        runtime, outage = self._runtime, self._outage
        back = outage.away
        if back:
            # Whether the store is there is asked first, and those who hold leases learn meanwhile which are over.
            self._look()
        else:
            await self._renew_all()
        call = scripts.beat(runtime.session, runtime.keyspace, encode_profile(runtime.profile()))
        sent = time.monotonic()
        header, standing = scripts.beat_answer(await self._keeper.run_script(call))
        runtime.note(None, header, sent=sent)
        outage.stands(standing)
        if back:
            await self._renew_all()
        await self._apart(outage.settle())
        outage.back()
        if back and any(hold.flags and not hold.registering for hold in list(self._keeper.holds.values())):
            await self._renew_all()
        await self._keeper.repeat_parked()
        corrupt, self._corrupt = self._corrupt, None
        if corrupt is not None:
            raise corrupt

    def _look(self) -> dict[tuple[str, str], list[Hold]]:
        """Tell those who have lost their lease, and find what is to be renewed, by path and epoch."""
        now = time.monotonic()
        groups: dict[tuple[str, str], list[Hold]] = defaultdict(list)
        for hold in list(self._keeper.holds.values()):
            if hold.ended or hold.lost:
                continue
            if hold.deadline <= now:
                self._lose(hold)
            elif not self._is_forgotten(hold, now):
                groups[hold.line.path.name, hold.epoch].append(hold)
        return groups

    async def _renew_all(self) -> None:
        for (_, epoch), holds in self._look().items():
            for chunk in _chunks(holds):
                await self._apart(self._renew(chunk, epoch))
        for waiter in list(self._keeper.waiters.values()):
            grant = waiter.granted
            # Like a lease that was forgotten: its caller may never come.
            if grant is not None and not grant.flags and -self._runtime.until(grant.at) < self._config.max_hold:
                await self._apart(self._renew_untaken(waiter, grant))

    async def _apart(self, renewal: Coroutine[Any, Any, None]) -> None:
        """Renew what belongs to one path: its spoilt keys must not cost another path its leases."""
        try:
            await renewal
        except StoreCorrupt as error:
            self._corrupt = error

    def _is_forgotten(self, hold: Hold, now: float) -> bool:
        """Whether a lease has been held for too long to be renewed; idle streams and forgotten leases are told once."""
        name = scope_label(hold.line.path.scopes[0])
        if hold.stream_since is not None and now - hold.stream_since > self._config.stream_idle:
            hold.stream_since = None
            logger.warning(
                "a stream of %a has been idle for %.0f s and holds a slot (acquired at %s)",
                name,
                self._config.stream_idle,
                hold.place,
            )
        if now - hold.since < self._config.max_hold:
            return False
        if not hold.forgotten:
            hold.forgotten = True
            logger.warning(
                "lease %s of %a has been held for %.0f s and is no longer renewed: was it forgotten? Acquired at %s",
                hold.id,
                name,
                now - hold.since,
                hold.place,
            )
        return True

    async def _renew(self, holds: Sequence[Hold], epoch: str) -> None:
        runtime = self._runtime
        for hold in holds:
            hold.registering = True
        # Who ends a lease looks at `registering` after `ended`: one of both sees the other.
        holds = [hold for hold in holds if not hold.ended]
        if not holds:
            return
        sent = time.monotonic()
        call = scripts.renew(runtime.session, runtime.keyspace, holds[0].line, (hold.held() for hold in holds), epoch)
        header, lost = scripts.ids_after_header(await self._keeper.run_script(call))
        runtime.note(None, header, sent=sent)
        gone = set(lost)
        for hold in holds:
            if hold.id in gone:
                self._lose(hold)
            else:
                hold.deadline, hold.epoch = header.deadline(sent), header.epoch

    async def _renew_untaken(self, waiter: Waiter, grant: Answer) -> None:
        """Renew what was granted to a caller that has not woken up: its event loop may stand still."""
        runtime, request, sent = self._runtime, waiter.request, time.monotonic()
        held = [Held(id, request.weight, grant.at, request.costs) for id in request.lease_ids]
        call = scripts.renew(runtime.session, runtime.keyspace, request.line, held, grant.header.epoch)
        header, lost = scripts.ids_after_header(await self._keeper.run_script(call))
        runtime.note(None, header, sent=sent)
        if not lost:
            waiter.renewed(sent, header)

    def _lose(self, hold: Hold) -> None:
        # A lease that its owner has released meanwhile is not lost.
        if not hold.ended:
            self._keeper.lose(hold)


def _chunks(holds: Sequence[Hold]) -> Iterator[list[Hold]]:
    """Holds for one renewal each: a lease of weight w is w members in the store."""
    chunk: list[Hold] = []
    size = 0
    for hold in holds:
        if chunk and size + hold.request.weight > RENEWED_AT_ONCE:
            yield chunk
            chunk, size = [], 0
        chunk.append(hold)
        size += hold.request.weight
    if chunk:
        yield chunk
