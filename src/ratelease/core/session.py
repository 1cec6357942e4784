"""What one instance knows of the store, and says of itself in every call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..config import Config
from .model import Header


@dataclass(slots=True)
class Session:
    """
    The caller's side of every script's first arguments. Times are ms.

    `agreed_ttl` and `agreed_beat` are the namespace's, those of its newest instance. `generation` is 0 until the store
    has given one, `epoch` is '' until the store has told its own. All change by :meth:`note` alone, which every answer
    passes through.
    """

    instance: str
    fresh_epoch: str
    ttl: int
    beat: int
    claim_ttl: int
    agreed_ttl: int
    agreed_beat: int
    generation: int = 0
    epoch: str = ""

    @classmethod
    def begin(cls, config: Config, instance: str, fresh_epoch: str) -> Session:
        """A session that has not spoken to the store yet."""
        ttl, beat, claim = (round(each * 1000) for each in (config.lease_ttl, config.heartbeat, config.claim_ttl))
        return cls(instance, fresh_epoch, ttl, beat, claim, agreed_ttl=ttl, agreed_beat=beat)

    def arguments(self) -> list[Any]:
        """ARGV 1 to 7."""
        return [
            self.instance,
            self.generation,
            self.epoch,
            self.fresh_epoch,
            self.ttl,
            self.beat,
            self.claim_ttl,
        ]

    def note(self, header: Header) -> bool:
        """Take over what the store says; True if it has lost what this session knew of (its epoch is another)."""
        self.generation = max(self.generation, header.generation)
        self.agreed_ttl, self.agreed_beat = header.ttl, header.beat
        lost = self.epoch not in ("", header.epoch)
        self.epoch = header.epoch
        return lost
