"""What providers answer, and what it means."""

from __future__ import annotations

import asyncio

from ..core.feedback import Feedback
from ..core.model import Outcome


def classify(what: object) -> Feedback:
    """How a call went, of its exception."""
    if isinstance(what, (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt)):
        return Feedback(Outcome.CANCELLED)
    return Feedback(Outcome.TIMEOUT if isinstance(what, TimeoutError) else Outcome.ERROR)
