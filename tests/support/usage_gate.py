"""An instance that watches a provider's usage, one call at a time: as `client.watch_usage` does it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ratelease.core.upstream import UsageStatus
from support.store import Instance

# ms, as the words of usage.lua: a poll each second, which may take two.
SETTINGS = {
    "lasts": 8000,
    "elected": 4000,
    "strict": 0,
    "one": 0,
    "lag": 350,
    "max_age": 9000,
    "patience": 3000,
    "hold": 30_000,
    "cooldown": 350,
    "follow": 0,
}


@dataclass(frozen=True, slots=True)
class Turn:
    """What an instance is told that wants to poll."""

    elected: bool
    others_ms: int
    due: bool


class Watcher:
    """
    Watches a provider for an instance; `settings` as SETTINGS.

    watcher = Watcher(store.instance(), strict=1)
    assert watcher.poll().due
    watcher.seen(3)
    """

    def __init__(self, one: Instance, /, provider: str = "openai", **settings: int) -> None:
        assert settings.keys() <= SETTINGS.keys()
        self.one, self.provider = one, provider
        self.words = [*(SETTINGS | settings).values()]

    def poll(self) -> Turn:
        """Keep the gate up, and begin a poll if that is due."""
        elected, others, due = self.one.usage(f"{self.provider}/-", "poll", self.words)
        return Turn(bool(elected), others, bool(due))

    def seen(self, count: int | None, limit: int = -1, cap: int = -1) -> bool:
        """Say what the source has answered; whether somebody waits for the next poll."""
        (waits,) = self.one.usage(f"{self.provider}/-", "seen", [-1 if count is None else count, limit, cap])
        return bool(waits)

    def leave(self) -> None:
        """Poll no more."""
        self.one.usage(f"{self.provider}/-", "leave", [])

    def answer(self, count: int | None, limit: int = -1) -> None:
        """One whole poll that is due; whoever may go by it is granted, of every path."""
        turn = self.poll()
        assert turn.due, turn
        self.seen(count, limit)
        self.follow()

    def follow(self) -> None:
        """Grant the paths that the last answer named, and those that these name."""
        for _ in range(20):
            lines = self.one.following_lines()
            if not lines:
                return
            for line in lines:
                self.one.grant(line, foreign=True)
        raise AssertionError("hops do not end")

    @property
    def status(self) -> UsageStatus:
        """What people see, without the age."""
        usage = self.one.look(f"{self.provider}/-")[0][1].usage
        assert usage is not None
        return replace(usage, age=None)
