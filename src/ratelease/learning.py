"""The half of a client that tells the fleet how calls went, and hears what it has learned."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from .checks import is_number, plain_seconds, shown
from .core.feedback import Feedback, feedback_of, lesson
from .core.health import Health
from .core.model import Outcome
from .core.reaction import Change
from .core.tending import Steps
from .errors import ConfigError
from .providers import retry_after_of
from .shell import Seconds, seconds_of
from .store.runtime import new_id
from .strategies import CAUSE, LONGEST

if TYPE_CHECKING:
    # The other half of a client.
    from .shell import Shell
else:
    Shell = object

LONGEST_ID = 128

_OUTCOMES = frozenset(outcome.value for outcome in Outcome)

T = TypeVar("T")


class _Learning(Shell):
    """What both colours share."""

    def _report(
        self,
        provider: str,
        model: str,
        outcome: Outcome | Feedback | str,
        retry_after: Seconds | None,
        headers: object,
        id: str | None,
        response: Seconds | None,
    ) -> Steps[bool]:
        line = self._line(provider, model, ())
        if id is not None and not _is_id(id):
            raise ConfigError(f"the id of a report must be text of 1 to {LONGEST_ID} characters, not {shown(id)}")
        took = plain_seconds(response)
        if response is not None and not is_number(took, 0, LONGEST):
            raise ConfigError(f"response must be seconds from 0 to {LONGEST:,.0f}, not {shown(response)}")
        told = _told(outcome, retry_after, headers)
        if isinstance(told, str):
            words = f"!{told}"
        else:
            # That somebody cancelled means something to a lease alone.
            words = "" if told.outcome is Outcome.CANCELLED else lesson(told, self._config)
            self._rt.told.note(line, told)
            if told.outcome is Outcome.OK and response is not None:
                words = f"o,{round(took * 1000)}"  # type: ignore[operator]
        if not words:
            return _nothing()
        return self._tending.report(line, id or new_id(), words)

    def on_change(self, callback: Callable[[Change], Any]) -> Callable[[], None]:
        """
        Have `callback` called with a :class:`ratelease.core.reaction.Change` whenever a limit in force has changed, by
        failures, recovery or an operator, whichever process has noticed.

        From another thread, and from when the background has subscribed, a moment later. Messages may be lost while
        Redis is away. A reset is not told.

        Returns a function that ends it.
        """
        if not callable(callback):
            raise ConfigError(f"on_change needs a function, not {shown(callback)}")
        if inspect.iscoroutinefunction(callback):
            raise ConfigError(f"on_change needs a function that is not async: nobody would await {shown(callback)}")
        self._check_open()
        return self._rt.keeper.listen(callback)


def _is_id(id: object) -> bool:
    # A half of a surrogate pair is text that cannot be sent.
    return isinstance(id, str) and 0 < len(id) <= LONGEST_ID and not any("\ud800" <= char <= "\udfff" for char in id)


def _told(outcome: Outcome | Feedback | str, retry_after: Seconds | None, headers: object) -> Feedback | str:
    """What a report says: feedback, or the name of a cause."""
    if isinstance(outcome, str) and outcome not in _OUTCOMES:
        if not CAUSE.fullmatch(outcome):
            raise ConfigError(
                f"outcome must be one of {', '.join(sorted(_OUTCOMES))}, or a cause, not {shown(outcome)}"
            )
        return outcome
    told = feedback_of(Outcome(outcome) if isinstance(outcome, str) else outcome)
    if headers is not None and told.retry_after is None:
        told = replace(told, retry_after=retry_after_of(headers))
    return told if retry_after is None else replace(told, retry_after=seconds_of(retry_after, "retry_after", "from 0"))


def _nothing() -> Steps[bool]:
    """There is nothing to learn from it."""
    return False
    yield


class Learns(_Learning):
    """For threads."""

    if TYPE_CHECKING:

        def _perform(self, steps: Steps[T]) -> T: ...

    def report(
        self,
        provider: str,
        model: str,
        outcome: Outcome | Feedback | str,
        *,
        retry_after: Seconds | None = None,
        headers: Mapping[str, str] | None = None,
        id: str | None = None,
        response: Seconds | None = None,
    ) -> bool:
        """
        Let the fleet learn how a call went that had no lease, or what no answer shows.

        Args:

            outcome: An Outcome or its name, what :func:`ratelease.classify` has made of an error, or the name of a
                cause that the penalty of the scope weighs ("capacity", "schema_violation"). The call counts as admitted
                5 s ago, so that many reports of one incident are one; a cause counts each time.

            retry_after: Seconds that the provider wants to wait. headers: of its answer, to read that from.

            id: Of this report: the same one again changes nothing, for four lease TTLs.

            response: Seconds that a successful call took.

        Returns whether the report was new and there was something to learn from it.

        Raises:

            ConfigError: An argument is wrong, or the cause is not known; its message names those that are.
        """
        steps = self._report(provider, model, outcome, retry_after, headers, id, response)
        return self._perform(steps)

    def health(self, provider: str, model: str) -> Health:
        """How calls of one model go, in the whole fleet."""
        return self._perform(self._tending.health(self._line(provider, model, ())))


class LearnsAsync(_Learning):
    """For event loops."""

    if TYPE_CHECKING:

        async def _perform(self, steps: Steps[T]) -> T: ...

    async def report(
        self,
        provider: str,
        model: str,
        outcome: Outcome | Feedback | str,
        *,
        retry_after: Seconds | None = None,
        headers: Mapping[str, str] | None = None,
        id: str | None = None,
        response: Seconds | None = None,
    ) -> bool:
        """As :meth:`ratelease.Client.report`."""
        steps = self._report(provider, model, outcome, retry_after, headers, id, response)
        return await self._perform(steps)

    async def health(self, provider: str, model: str) -> Health:
        """As :meth:`ratelease.Client.health`."""
        return await self._perform(self._tending.health(self._line(provider, model, ())))
