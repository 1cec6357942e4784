"""Releases in the background: what a caller could not release itself is repeated until the store has taken it."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..core import scripts
from ..core.model import Line
from ..core.scripts import Ending
from ..errors import StoreCorrupt, StoreUnavailable
from .log import logger

if TYPE_CHECKING:
    from .hold import Hold
    from .keeper import Keeper

ENDED_AT_ONCE = 128
SETTLED_AFTER = 0.02
AWAY_PAUSE = 0.05


class Endings:
    """
    A queue of endings. Each is given up when its lease has expired by itself, twice the TTL later at most; while the
    store is away no time passes for them.
    """

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._queue: deque[tuple[Ending, float]] = deque()
        self._running = False
        self._stopped = False

    def add(self, ending: Ending) -> None:
        """Release by id, soon."""
        self._queue.append((ending, time.monotonic() + 2 * self._keeper.config.lease_ttl))
        if not self._running:
            self._running = True
            self._keeper.spawn(self._run())

    def settle_soon(self, hold: Hold) -> None:
        """Settle a lease that stays; most are released at once, and then their release settles them."""
        asyncio.get_running_loop().call_later(SETTLED_AFTER, self._settle, hold)

    def _settle(self, hold: Hold) -> None:
        # A lease of an outage that the store does not know yet is settled by its release.
        if not hold.ended and not self._stopped and hold.epoch:
            self.add(hold.settling())

    def collect_dropped(self) -> None:
        """End the leases and the requests of groups whose owners were garbage-collected."""
        dropped = self._keeper.dropped
        while dropped:
            for ending in dropped.popleft().give_up():
                self.add(ending)

    async def _run(self) -> None:
        pause = 0.05
        outage = self._keeper.runtime.outage
        try:
            while self._queue:
                if outage.away:
                    # What waits in the store's queue outlives any outage: its withdrawal has to as well.
                    until = time.monotonic() + 2 * self._keeper.config.lease_ttl
                    self._queue = deque((ending, until) for ending, _ in self._queue)
                    await asyncio.sleep(AWAY_PAUSE)
                    continue
                now = time.monotonic()
                batch = [self._queue.popleft() for _ in range(min(len(self._queue), ENDED_AT_ONCE))]
                batch = [(ending, until) for ending, until in batch if until > now]
                try:
                    spoilt = await self._send([ending for ending, _ in batch])
                    batch = [entry for entry in batch if entry[0] in spoilt]
                except StoreUnavailable as error:
                    logger.debug("releases wait for the store: %s", error)
                except BaseException:
                    self._queue.extend(batch)
                    raise
                self._queue.extend(batch)
                pause = min(2 * pause, 1.0) if batch else 0.05
                if batch:
                    await asyncio.sleep(pause)
        finally:
            self._running = False

    def stop(self) -> None:
        """Send no more in the background: what is added from here on goes with the last :meth:`flush`."""
        self._running = self._stopped = True

    async def flush(self) -> None:
        """Send everything once, before the end."""
        while self._queue:
            batch = [self._queue.popleft()[0] for _ in range(min(len(self._queue), ENDED_AT_ONCE))]
            await self._send(batch)

    async def _send(self, endings: Sequence[Ending]) -> list[Ending]:
        """Send them, path by path; returns those of paths whose keys are spoilt, which must not hold up the others."""
        spoilt: list[Ending] = []
        runtime = self._keeper.runtime
        by_line: dict[Line, list[Ending]] = defaultdict(list)
        for ending in endings:
            by_line[ending.line].append(ending)
        for line, group in by_line.items():
            call = scripts.release(runtime.session, runtime.keyspace, group)
            try:
                header, _ = scripts.release_answers(await self._keeper.run_script(call))
            except StoreCorrupt as error:
                logger.debug("releases wait for a spoilt key: %s", error)
                spoilt += group
            else:
                runtime.note(line, header)
        return spoilt
