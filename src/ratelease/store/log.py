"""The one logger of the package, and what it says of providers."""

from __future__ import annotations

import logging
import time

from ..config import Config
from ..core.feedback import Feedback
from ..core.model import Line, Outcome

logger = logging.getLogger("ratelease")
logger.addHandler(logging.NullHandler())

MOST_PAUSES = 1000


class Told:
    """
    What providers have told this process, and everybody has to live with: an empty account, a wish for a pause.

    Each is said once while it lasts: all calls that are under way meet it, and say the same.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._until: dict[tuple[str, str, Outcome], float] = {}

    def note(self, line: Line, feedback: Feedback) -> None:
        """Log what a call was told. Only the provider's own code is shown of its answer."""
        config, now = self._config, time.monotonic()
        empty = feedback.outcome is Outcome.QUOTA
        wait = min(feedback.retry_after or 0.0, config.quota_pause if empty else config.max_pause)
        if empty and feedback.retry_after is None:
            wait = config.quota_pause
        key = (line.provider, line.model, feedback.outcome)
        if (wait <= 0 and not empty) or self._until.get(key, 0.0) > now:
            return
        if len(self._until) >= MOST_PAUSES:
            self._until.clear()
        self._until[key] = now + wait
        name, code = f"{line.provider}/{line.model}", (feedback.code or feedback.outcome.value)[:80]
        if empty:
            logger.warning(
                "%a: the provider says that the account has nothing left to spend, or no access (%a). Nobody calls it "
                "for %.0f s, then one call tries again; resume() ends that",
                name,
                code,
                wait,
            )
        else:
            logger.info("%a: the provider asks for a pause of %.1f s (%a)", name, wait, code)
