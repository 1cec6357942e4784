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
import contextlib
import inspect
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..core import scripts
from ..core.keys import make_path, scope_label
from ..core.provider_usage import HIGHEST_COUNT, ProviderUsage
from ..core.usage import read
from ..daemons import MOST_HANGING, Daemon
from ..errors import RateleaseError
from .log import logger

if TYPE_CHECKING:
    from .keeper import Keeper

# A poll that nobody needs yet is not made; this often an elected poller renews its election meanwhile.
RENEWALS = 3

# After so many answers in a row that said nothing, another instance may have more luck with its own source.
MOST_FAILURES = 3

# Seconds that a busy store and process may add to a poll.
SLACK = 1.0


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
        """How long an instance polls for all without renewing that: one poll that is not answered, and the next."""
        return self.timeout + max(2 * self.repoll, SLACK)

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
        self._failures = 0
        self._hanging = 0
        self._daemon = Daemon(ask, "the source")
        self._kicked: asyncio.Event | None = None
        self._task: asyncio.Task[None] | None = None
        self.stopped = False

    # ---- from other parts of the keeper's thread -----------------------------------------------------------------

    def start(self) -> None:
        """Begin, in the keeper's loop."""
        if not self.stopped and self._task is None:
            self._kicked = asyncio.Event()
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def leave(self) -> None:
        """End, and poll for all no more: another instance is elected when it looks next."""
        self.stopped = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            await self._send("leave", [])
            self._task = None

    def kick(self) -> None:
        """Poll soon: somebody waits for it."""
        if self._kicked is not None:
            self._kicked.set()

    # ---- the loop ----------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            try:
                least, most = await self._turn()
            except RateleaseError as error:
                logger.debug("the usage of %s cannot be shared: %s", scope_label(self.scope), error)
                least = most = self._settings.repoll
            except Exception:  # noqa: BLE001 - one poll that goes wrong must not be the last
                logger.exception("polling the usage of %s met an error", scope_label(self.scope))
                least = most = self._settings.repoll
            await self._rest(least, most)

    async def _turn(self) -> tuple[float, float]:
        """Be elected, poll if that is due; seconds to the next turn, at least and, unless a poll is wanted, at most."""
        assert self._kicked is not None
        self._kicked.clear()
        settings, began = self._settings, time.monotonic()
        elected, others, due = await self._send("poll", settings.words())
        if not elected:
            # Not all of them in the moment at which the poller is overdue.
            delay = others / 1000 + random.uniform(0.01, settings.repoll / 4 + 0.01)
            return delay, delay
        renewal = settings.elected_for / RENEWALS
        if not due:
            return 0.0, renewal
        usage = await self._usage()
        said = (-1, -1, -1) if usage is None else (usage.concurrent_sessions, usage.limit, usage.hard_cap)
        (waiting,) = await self._send("seen", [-1 if word is None else word for word in said])
        self._failures = 0 if usage is not None else self._failures + 1
        if self._failures and self._failures % MOST_FAILURES == 0:
            # All others have looked by then.
            await self._send("leave", [])
            return settings.elected_for + settings.repoll, settings.elected_for + 2 * settings.repoll
        if waiting or settings.strict:
            self._kicked.set()
        asked_for = time.monotonic() - began
        # Two polls are one repoll apart, whoever wants them.
        least = max(settings.repoll - asked_for, 0.0)
        return least, max(renewal - asked_for, least)

    async def _rest(self, least: float, most: float) -> None:
        """Wait until the next turn, or until a poll is wanted."""
        assert self._kicked is not None
        await asyncio.sleep(least)
        if most > least:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(most - least):
                    await self._kicked.wait()

    async def _send(self, verb: str, words: list[int]) -> list[int]:
        runtime = self._keeper.runtime
        call = scripts.usage(runtime.session, runtime.keyspace, self._line, verb, words)
        header, answer = scripts.usage_answer(await self._keeper.run_script(call))
        runtime.note(self._line, header)
        return answer

    # ---- asking ------------------------------------------------------------------------------------------------

    async def _usage(self) -> ProviderUsage | None:
        """What the source says within its time; None for whatever else it does."""
        try:
            answer = await self._asked()
        except Exception as error:  # noqa: BLE001 - the user's code must not end ours
            # Its message may be the provider's: not shown beyond its type.
            self._failed(error, type(error).__name__)
            return None
        usage = ProviderUsage.of(answer)
        if usage is None and answer is not None:
            why = _no_usage(answer)
            self._failed(TypeError(why), why)
        if usage is not None and self._failing:
            self._failing = False
            logger.info("the usage source of %a answers again", scope_label(self.scope))
        return usage

    def _failed(self, error: Exception, why: str) -> None:
        # Once until it answers again.
        if not self._failing:
            self._failing = True
            logger.warning("the usage source of %a fails (%s): our own count decides", scope_label(self.scope), why)
        if self._on_error is not None:
            try:
                self._on_error(error)
            except BaseException:  # noqa: BLE001 - as above; SystemExit would end the loop
                logger.exception("on_error raised")

    async def _asked(self) -> object:
        """Ask the source, for as long as it may take; what does not end then is left alone."""
        if self._hanging >= MOST_HANGING:
            raise RuntimeError(f"{MOST_HANGING} earlier calls still hang")
        asking = asyncio.get_running_loop().create_task(self._guarded())
        try:
            done, _ = await asyncio.wait((asking,), timeout=self._settings.timeout)
        finally:
            asking.cancel()
        if not done:
            raise TimeoutError(f"no answer within {self._settings.timeout:g} s")
        answer, error = asking.result()
        if error is not None:
            raise error
        return answer

    async def _guarded(self) -> tuple[object, Exception | None]:
        """The answer or the error of the source: whatever it raises would end the loop if it left this task."""
        if not inspect.iscoroutinefunction(self._ask):
            try:
                answer = await self._daemon.call()
            except Exception as error:  # noqa: BLE001 - told to whoever polls
                return None, error
            if not inspect.isawaitable(answer):
                return answer, None
            coroutine = answer
        else:
            coroutine = self._ask()
        self._hanging += 1
        try:
            return await coroutine, None
        except Exception as error:  # noqa: BLE001 - told to whoever polls
            return None, error
        except BaseException as error:  # noqa: BLE001 - SystemExit, or a cancellation: ours comes when nobody listens
            return None, RuntimeError(repr(error))
        finally:
            self._hanging -= 1


def _no_usage(answer: object) -> str:
    """What is wrong with an answer that holds no count."""
    kind = type(answer).__name__
    if read(answer, "concurrent_sessions") is None:
        return f"it must return a ProviderUsage or None, not {kind}"
    return f"concurrent_sessions must be a number from 0 to {HIGHEST_COUNT:,}, which that of its {kind} is not"
