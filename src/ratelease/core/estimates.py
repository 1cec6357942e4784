"""What a call will probably use, where its caller does not say: learned from what calls of the same model have used."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

UNITS = ("tokens", "input_tokens", "output_tokens")
KEPT = 200
NEEDED = 20
MOST_MODELS = 1024
QUANTILE = 0.95


class Estimates:
    """
    The 95th percentile of the last 200 settled calls of each model and unit, in this process.

    `first` is what a model is taken to use before 20 of its calls have settled.
    """

    def __init__(self, first: int) -> None:
        self._first = first
        self._unknown = dict.fromkeys(UNITS, first)
        self._seen: dict[tuple[str, str], dict[str, deque[int]]] = {}
        self._known: dict[tuple[str, str], dict[str, int]] = {}

    def note(self, provider: str, model: str, used: Mapping[str, int]) -> None:
        """Take over what one call has used of each unit."""
        if len(self._seen) >= MOST_MODELS and (provider, model) not in self._seen:
            forgotten = next(iter(self._seen))
            self._seen.pop(forgotten, None)
            self._known.pop(forgotten, None)
        units = self._seen.setdefault((provider, model), {})
        for unit, amount in used.items():
            units.setdefault(unit, deque(maxlen=KEPT)).append(amount)
        self._known.pop((provider, model), None)

    def of(self, provider: str, model: str) -> Mapping[str, int]:
        """What the next call will probably use of "tokens", "input_tokens" and "output_tokens"; never 0."""
        known = self._known.get((provider, model))
        if known is None:
            seen = self._seen.get((provider, model))
            if seen is None:
                return self._unknown
            known = {unit: self._quantile(seen.get(unit)) for unit in UNITS}
            self._known[provider, model] = known
        return known

    def _quantile(self, amounts: deque[int] | None) -> int:
        ordered = sorted(list(amounts)) if amounts is not None else []  # noqa: C414 - a copy in one step: others append
        if len(ordered) < NEEDED:
            return self._first
        return max(ordered[min(int(QUANTILE * len(ordered)), len(ordered) - 1)], 1)
