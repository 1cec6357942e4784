"""What an answer or an exception of a provider says of how its call went, and how scripts are told of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..errors import ConfigError
from .model import Outcome
from .plain import Plain

# What was exceeded, where the provider says so: a rate by its unit, calls in flight, how fast use may grow, or
# "model": the model itself is not open to this account.
Dimension = Literal["requests", "tokens", "input_tokens", "output_tokens", "concurrency", "ramp", "model"]

# One letter an outcome that the fleet may learn from; all others end a lease and teach nothing.
LESSONS: dict[Outcome, str] = {
    Outcome.OK: "o",
    Outcome.THROTTLED: "t",
    Outcome.OVERLOADED: "v",
    Outcome.TIMEOUT: "w",
    Outcome.ERROR: "e",
    Outcome.QUOTA: "q",
}

# One letter for what was exceeded.
EXCEEDED: dict[str, str] = {
    "requests": "r",
    "tokens": "t",
    "input_tokens": "i",
    "output_tokens": "o",
    "concurrency": "c",
    "ramp": "g",
    "model": "m",
}

_RETRYABLE = frozenset({Outcome.THROTTLED, Outcome.OVERLOADED, Outcome.TIMEOUT, Outcome.ERROR})


@dataclass(frozen=True, slots=True)
class Feedback(Plain):
    """
    How a call went, from typed sources alone: status, error code, headers, exception type.

    Attributes:

        outcome: What it means for the limits.

        retry_after: Seconds after which the provider wants to be asked again, from 0; None where it has not said.

        code: The provider's own word for the error, such as "rate_limit_exceeded".

        dimension: What was exceeded, where the provider says so.

        terminal: Trying again does not help, now or later: an empty account, or a mistake in the request.

        status: The HTTP status, where there was one.
    """

    outcome: Outcome
    retry_after: float | None = None
    code: str | None = None
    dimension: Dimension | None = None
    terminal: bool = False
    status: int | None = None

    @property
    def retryable(self) -> bool:
        """Whether the same call may succeed later."""
        return self.outcome in _RETRYABLE and not self.terminal


FINE = Feedback(Outcome.OK)


def feedback_of(outcome: Outcome | Feedback) -> Feedback:
    """
    An outcome with nothing more said of it, or what was said.

    Raises:

        ConfigError: It is neither.
    """
    if isinstance(outcome, Outcome):
        return Feedback(outcome)
    if not isinstance(outcome, Feedback):
        raise ConfigError(f"outcome must be an Outcome or a Feedback, not {outcome!r:.80}")
    return outcome


def lesson(feedback: Feedback, longest_pause: float) -> str:
    """
    As release.lua and report.lua read it: "t,2000,r" is throttled, with a pause of 2000 ms, by a rate of requests.

    '' where there is nothing to learn. A pause is never longer than `longest_pause` seconds; -1 says that none is asked
    for.
    """
    letter = LESSONS.get(feedback.outcome, "")
    if not letter or feedback.outcome is Outcome.OK:
        return letter
    wait = feedback.retry_after
    pause = -1 if wait is None else round(min(max(wait, 0.0), longest_pause) * 1000)
    return f"{letter},{pause},{EXCEEDED.get(feedback.dimension or '', '')}"
