"""What follows a failed attempt: another one after a wait, or an error. No clock and no chance but what is given."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from ..checks import shown
from ..errors import QuotaExhausted, RateleaseError, RetriesExhausted
from ..retry import Retry
from .feedback import Feedback
from .model import Outcome
from .plain import Plain

# Who has said how long to wait: the provider, or the caller's own policy.
Source = Literal["header", "backoff"]


@dataclass(frozen=True, slots=True)
class RetryEvent(Plain):
    """
    A call has failed and is made again after a wait.

    Attributes:

        provider, model: Whose call.

        attempt: The number of this retry, from 1, of `max` that there may be. Retries after 429s and after other
            failures are counted apart, unless a schedule or a single number of retries holds for all.

        delay: Seconds that are waited before it.

        status: The HTTP status of the failure, where there was one.

        reason: "throttled", "overloaded", "timeout" or "error".

        source: "header" where the provider has said how long to wait, else "backoff".

        error: What the call has raised.
    """

    provider: str
    model: str
    attempt: int
    max: int
    delay: float
    status: int | None
    reason: str
    source: Source
    error: BaseException = field(compare=False)


@dataclass(frozen=True, slots=True)
class Again:
    """Try again after `delay` seconds: retry `attempt` of `most`, as :class:`RetryEvent` counts them."""

    delay: float
    attempt: int
    most: int
    source: Source


class Retrying:
    """
    The attempts of one call. `label` names its model in messages.

    `failures` counts the attempts that have failed, `waited` the seconds of all waits before retries.
    """

    def __init__(self, policy: Retry, label: str) -> None:
        self._policy = policy
        self._label = label
        self.failures = 0
        self.waited = 0.0
        # Apart for 429s, as their bounds are.
        self._retries = {True: 0, False: 0}
        # What max_wait, or the schedule's own limit, is compared with.
        self._spent = {True: 0.0, False: 0.0}

    def failed(self, feedback: Feedback, chance: float, left: float = math.inf) -> Again | RateleaseError | None:
        """
        What follows a failed attempt: another one, an error of ours, or None: the failure itself is the answer.

        Args:

            feedback: What the failure says.

            chance: From 0 to 1, for the jitter.

            left: Seconds that the caller can still wait.
        """
        self.failures += 1
        if feedback.outcome is Outcome.QUOTA:
            return self._quota(feedback)
        if not feedback.retryable:
            return None
        policy, throttled = self._policy, feedback.outcome is Outcome.THROTTLED
        most = policy.retries(throttled=throttled)
        done = self.retries if policy.counts_together else self._retries[throttled]
        if done >= most:
            return self._exhausted(feedback, _MORE) if self.retries else None
        hint = _sound(feedback.retry_after)
        delay = policy.wait(self.retries + 1, chance) if hint is None else hint
        bounded = hint is None or not policy.wait_long_hints
        obstacle = self._obstacle(delay, hint, throttled, left) if bounded else _beyond(delay, left)
        if obstacle is not None:
            return self._exhausted(feedback, obstacle)
        self._retries[throttled] += 1
        self.waited += delay
        self._spent[throttled] += delay if bounded else 0.0
        return Again(delay, done + 1, most, "backoff" if hint is None else "header")

    @property
    def retries(self) -> int:
        """Retries so far."""
        return sum(self._retries.values())

    def _obstacle(self, delay: float, hint: float | None, throttled: bool, left: float) -> str | None:
        """Why this wait is too long, and what to do about it; None if it is not."""
        policy = self._policy
        limit, spent, name = None, 0.0, "max_wait"
        if hint is not None and hint > policy.max_hint:
            limit, name = policy.max_hint, "max_hint"
        elif policy.schedule is not None:
            limit, spent, name = policy.schedule_limit, sum(self._spent.values()), "schedule_limit"
        elif throttled:
            limit, spent = policy.max_wait, self._spent[True]
        if limit is not None and spent + delay > limit:
            who = "the backoff is" if hint is None else "the provider asks to wait"
            before = f" after {spent:,.1f} s of waiting" if spent else ""
            return f"{who} {delay:,.1f} s{before}, more than {name} ({limit:,.1f} s): come back later, or raise it"
        return _beyond(delay, left)

    def _quota(self, feedback: Feedback) -> QuotaExhausted:
        return QuotaExhausted(
            f"{self._label}: the provider says that the account has nothing left to spend, or no access "
            f"({_how(feedback)}). Trying again does not help: mend the account, then resume() the provider",
            scope=self._label,
            retry_after=_sound(feedback.retry_after),
            attempts=self.failures,
        )

    def _exhausted(self, feedback: Feedback, why: str) -> RetriesExhausted:
        how = f"the call failed ({_how(feedback)})"
        if self.failures > 1:
            waits = f"with {self.waited:,.1f} s of waiting between them"
            how = f"all {self.failures} attempts failed, {waits} (the last: {_how(feedback)})"
        return RetriesExhausted(
            f"{self._label}: {how}; {why}",
            scope=self._label,
            retry_after=_sound(feedback.retry_after),
            waited=self.waited,
            attempts=self.failures,
        )


_MORE = "ask for less at once, or allow more retries"


def _beyond(delay: float, left: float) -> str | None:
    """Why a wait does not fit into the time that the caller has; None if it does."""
    if delay > left or not math.isfinite(delay):
        return f"the next one would be in {delay:,.1f} s, and {left:,.1f} s are left: allow a longer timeout"
    return None


def _sound(hint: float | None) -> float | None:
    """A hint that is a time: not negative, and a number."""
    return hint if hint is not None and hint >= 0 else None


def _how(feedback: Feedback) -> str:
    """What is known of a failure: "throttled, status 429, code 'rate_limit_exceeded'"."""
    parts = [feedback.outcome.value]
    if feedback.status is not None:
        parts.append(f"status {feedback.status}")
    if feedback.code is not None:
        parts.append(f"code {shown(feedback.code)}")
    return ", ".join(parts)
