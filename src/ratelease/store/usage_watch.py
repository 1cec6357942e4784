"""
Asks a provider's usage source for the whole fleet: one instance at a time, and only while somebody waits for it.

Theory of operation. Every instance that watches a provider tries to be the one that polls; the store elects, for some
seconds that each poll renews. Whoever is not elected looks again when those seconds are over, so that a poller that
dies or stands still is replaced. A poll is begun in the store before the source is asked: what is granted from then on
is added to what it answers. Whatever the source does (hang, raise, answer rubbish) counts as no answer, and what waits
for an answer goes without one after `patience`: a broken poll never stops the fleet.
"""

from __future__ import annotations

import asyncio
import inspect
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..core import scripts
from ..core.keys import make_path, scope_label
from ..core.provider_usage import ProviderUsage
from ..errors import RateleaseError
from .log import logger

if TYPE_CHECKING:
    from .keeper import Keeper

# Threads that a source may leave hanging; beyond them it is not asked until one comes back.
MOST_HANGING = 4

# A poll that nobody needs yet is not made; this often an elected poller renews its election meanwhile.
RENEWALS = 3


@dataclass(frozen=True, slots=True)
class GateSettings:
    """How a gate behaves. Times are seconds."""

    strict: bool
    one: bool
    repoll: float
    timeout: float
    lag: float
    max_age: float
    hold: float
    cooldown: float
    follow_limit: bool

    @property
    def patience(self) -> float:
        """How long somebody waits for an answer before going without one."""
        return self.timeout + self.repoll

    @property
    def elected_for(self) -> float:
        """How long an instance polls for all without renewing that."""
        return max(RENEWALS * self.repoll, self.timeout + 2 * self.repoll)

    def words(self) -> list[int]:
        """As usage.lua reads them."""
        times = (self.lag, self.max_age, self.patience, self.hold, self.cooldown)
        lasts = (2 * self.elected_for, self.elected_for)
        return [
            *(round(seconds * 1000) for seconds in lasts),
            int(self.strict),
            int(self.one),
            *(round(seconds * 1000) for seconds in times),
            int(self.follow_limit),
        ]


class UsageWatch:
    """One provider's source, in one instance."""

    def __init__(
        self,
        keeper: Keeper,
        provider: str,
        ask: Callable[[], object],
        settings: GateSettings,
        on_error: Callable[[Exception], object] | None,
    ) -> None:
        runtime = keeper.runtime
        path = make_path(provider, "-", (), runtime.credential)
        self.scope = path.scopes[1]
        self._keeper = keeper
        self._line = scripts.foreign_line(runtime.keyspace, path)
        self._ask = ask
        self._settings = settings
        self._on_error = on_error
        self._failing = False
        self._hanging = 0
        self._kicked: asyncio.Event | None = None
        self._task: asyncio.Task[None] | None = None
        self.stopped = False

    # ---- from other parts of the keeper's thread -----------------------------------------------------------------

    def start(self) -> None:
        """Begin, in the keeper's loop."""
        if not self.stopped and self._task is None:
            self._kicked = asyncio.Event()
            self._task = asyncio.get_running_loop().create_task(self._run())

    def stop(self) -> None:
        """End, in the keeper's loop; another instance is elected soon."""
        self.stopped = True
        if self._task is not None:
            self._task.cancel()
            self._keeper.spawn(self._leave())

    def kick(self) -> None:
        """Poll soon: somebody waits for it."""
        if self._kicked is not None:
            self._kicked.set()

    # ---- the loop ----------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            try:
                delay = await self._turn()
            except RateleaseError as error:
                logger.debug("the usage of %s cannot be shared: %s", scope_label(self.scope), error)
                delay = self._settings.repoll
            except Exception:  # noqa: BLE001 - one poll that goes wrong must not be the last
                logger.exception("polling the usage of %s met an error", scope_label(self.scope))
                delay = self._settings.repoll
            await self._rest(delay)

    async def _turn(self) -> float:
        """Be elected, poll if that is due; seconds until the next turn."""
        assert self._kicked is not None
        self._kicked.clear()
        settings, began = self._settings, time.monotonic()
        elected, others, due = await self._send("poll", settings.words())
        if not elected:
            # Not all of them in the moment at which the poller is overdue.
            return others / 1000 + random.uniform(0.01, settings.repoll / 4)
        if not due:
            return settings.elected_for / RENEWALS
        usage = await self._usage()
        said = (-1, -1, -1) if usage is None else (usage.concurrent_sessions, usage.limit, usage.hard_cap)
        (waiting,) = await self._send("seen", [-1 if word is None else word for word in said])
        if waiting or settings.strict:
            self._kicked.set()
        return max(settings.repoll - (time.monotonic() - began), 0.0)

    async def _rest(self, delay: float) -> None:
        """Wait until the next turn, or until a poll is wanted; two polls are one repoll apart, whoever wants them."""
        assert self._kicked is not None
        settings = self._settings
        if delay <= settings.repoll:
            await asyncio.sleep(delay)
            if self._kicked.is_set():
                return
            delay = settings.elected_for / RENEWALS
        try:
            async with asyncio.timeout(delay):
                await self._kicked.wait()
        except TimeoutError:
            pass

    async def _send(self, verb: str, words: list[int]) -> list[int]:
        runtime = self._keeper.runtime
        call = scripts.usage(runtime.session, runtime.keyspace, self._line, verb, words)
        header, answer = scripts.usage_answer(await self._keeper.run_script(call))
        runtime.note(self._line, header)
        return answer

    async def _leave(self) -> None:
        await self._send("leave", [])

    # ---- asking ------------------------------------------------------------------------------------------------

    async def _usage(self) -> ProviderUsage | None:
        """What the source says within its time; None for whatever else it does."""
        try:
            async with asyncio.timeout(self._settings.timeout):
                usage = ProviderUsage.of(await self._asked())
        except TimeoutError:
            self._failed(TimeoutError(f"no answer within {self._settings.timeout:g} s"))
            return None
        except Exception as error:  # noqa: BLE001 - the user's code must not end ours
            self._failed(error)
            return None
        if self._failing:
            self._failing = False
            logger.info("the usage source of %s answers again", scope_label(self.scope))
        return usage

    def _failed(self, error: Exception) -> None:
        # Its message may be the provider's: not shown beyond its type, and once until it answers again.
        if not self._failing:
            self._failing = True
            kind = type(error).__name__
            logger.warning("the usage source of %a fails (%s): our own count decides", scope_label(self.scope), kind)
        if self._on_error is not None:
            try:
                self._on_error(error)
            except Exception:  # noqa: BLE001 - as above
                logger.exception("on_error raised")

    async def _asked(self) -> object:
        if inspect.iscoroutinefunction(self._ask):
            return await self._ask()
        answer = await self._in_thread()
        return await answer if inspect.isawaitable(answer) else answer

    def _in_thread(self) -> asyncio.Future[Any]:
        """Ask a plain function where it may block: in a daemon thread, since nobody can stop one that hangs."""
        if self._hanging >= MOST_HANGING:
            raise RuntimeError(f"{MOST_HANGING} earlier calls still hang")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def settle(answer: object, error: BaseException | None) -> None:
            self._hanging -= 1
            if not future.done():
                if error is None:
                    future.set_result(answer)
                else:
                    future.set_exception(error if isinstance(error, Exception) else RuntimeError(repr(error)))

        def ask() -> None:
            answer: object = None
            failure: BaseException | None = None
            try:
                answer = self._ask()
            except BaseException as error:  # noqa: BLE001 - it is told to whoever polls
                failure = error
            try:
                loop.call_soon_threadsafe(settle, answer, failure)
            except RuntimeError:
                logger.debug("the usage source of %s answers too late", scope_label(self.scope))

        self._hanging += 1
        threading.Thread(target=ask, name="ratelease-usage", daemon=True).start()
        return future
