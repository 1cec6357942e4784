"""What an answer or an exception of a provider says of how its call went, and how scripts are told of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ..checks import is_number, shown
from ..config import Config
from ..errors import ConfigError
from ..strategies import CAUSE
from .model import Outcome
from .plain import Plain

# What was exceeded, where the provider says so: a rate by its unit, calls in flight, how fast use may grow, or
# "model": the model itself is not open to this account.
Dimension = Literal["requests", "tokens", "input_tokens", "output_tokens", "concurrency", "ramp", "model"]

# One letter an outcome that scripts take notice of; all others end a lease and teach nothing.
LESSONS: dict[Outcome, str] = {
    Outcome.OK: "o",
    Outcome.THROTTLED: "t",
    Outcome.OVERLOADED: "v",
    Outcome.TIMEOUT: "w",
    Outcome.ERROR: "e",
    Outcome.QUOTA: "q",
    Outcome.CANCELLED: "c",
}

# A good end that the store has not asked for.
UNASKED = "k"

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

        local: The call failed in this process, before the provider was asked, such as for want of a free connection:
            nothing is learned from it.

    Raises:

        ConfigError: One of them is not what it says above; all faults are named.
    """

    outcome: Outcome
    retry_after: float | None = None
    code: str | None = None
    dimension: Dimension | None = None
    terminal: bool = False
    status: int | None = None
    local: bool = False

    def __post_init__(self) -> None:
        faults = []
        if not isinstance(self.outcome, Outcome):
            faults.append(f"Feedback.outcome must be an Outcome, not {shown(self.outcome)}")
        if self.retry_after is not None and not is_number(self.retry_after, 0, math.inf):
            faults.append(f"Feedback.retry_after must be seconds from 0, or None, not {shown(self.retry_after)}")
        if self.dimension is not None and not (isinstance(self.dimension, str) and self.dimension in EXCEEDED):
            faults.append(f"Feedback.dimension must be one of {', '.join(EXCEEDED)}, not {shown(self.dimension)}")
        if self.code is not None and not isinstance(self.code, str):
            faults.append(f"Feedback.code must be the provider's word, or None, not {shown(self.code)}")
        for name, value in (("terminal", self.terminal), ("local", self.local)):
            if not isinstance(value, bool):
                faults.append(f"Feedback.{name} must be True or False, not {shown(value)}")
        if self.status is not None and (isinstance(self.status, bool) or not isinstance(self.status, int)):
            faults.append(f"Feedback.status must be a whole number, or None, not {shown(self.status)}")
        # Before the end of a call is told by it: nobody else could say what it means.
        if faults:
            raise ConfigError.of(faults)

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
        raise ConfigError(f"outcome must be an Outcome or a Feedback, not {shown(outcome)}: {_instead(outcome)}")
    return outcome


def _instead(outcome: object) -> str:
    """What somebody may have meant by what is no outcome."""
    if isinstance(outcome, BaseException):
        return "lease.fail(error) takes what was raised, and classify(error) makes a Feedback of it"
    if isinstance(outcome, str) and outcome.upper() in Outcome.__members__:
        return f"write Outcome.{outcome.upper()}"
    return f"write one of {', '.join(f'Outcome.{name}' for name in Outcome.__members__)}"


def cause_of(name: object) -> str:
    """
    A cause for a penalty, by its name.

    Raises:

        ConfigError: It cannot be one.
    """
    if not isinstance(name, str) or not CAUSE.fullmatch(name):
        raise ConfigError(
            f"a cause is named by lower-case letters and underscores, such as 'capacity', not {shown(name)}"
        )
    return name


def lesson(feedback: Feedback, config: Config) -> str:
    """
    As release.lua and report.lua read it: "t,2000,r" is throttled, with a pause of 2000 ms, by a rate of requests.

    '' where there is nothing to learn. A pause is never longer than Config.max_pause; -1 says that none is asked for.
    """
    letter = "" if feedback.local else LESSONS.get(feedback.outcome, "")
    if not letter or feedback.outcome in (Outcome.OK, Outcome.CANCELLED):
        return letter
    wait = feedback.retry_after
    if feedback.outcome is Outcome.QUOTA:
        # Long enough for one call that tries again to cost nothing; the provider's own word may be weeks.
        pause = round((config.quota_pause if wait is None else min(max(wait, 1.0), config.quota_pause)) * 1000)
    else:
        pause = -1 if wait is None else round(min(max(wait, 0.0), config.max_pause) * 1000)
    words = f"{letter},{pause},{EXCEEDED.get(feedback.dimension or '', '')}"
    if config.default_pause is not None:
        words += f",{round(min(config.default_pause, config.max_pause) * 1000)}"
    return words
