"""Processes that keep every timer they are told, follow every hop, and find nothing more when they poll."""

from __future__ import annotations

import random
from dataclasses import dataclass

from support.clock import DrivenClock
from support.store import FOR_EVER, PARKED, Asked, Instance, Store

MODELS = ("a", "b")
LESSONS = ("o", "o", "o", "t,-1,", "t,400,", "e,-1,", "c", "v,-1,")
POLL = 500  # ms between two polls
LONGEST = 400_000  # ms after which whoever waits waits for ever


@dataclass(frozen=True, slots=True)
class Use:
    """One request of an instance."""

    one: Instance
    model: str
    asked: Asked


class TimerWalk:
    """
    Steers three instances at random through the two paths of a provider.

    walk = TimerWalk(store, clock, random.Random(seed))
    walk.steps(60)
    walk.drain()
    """

    def __init__(self, store: Store, clock: DrivenClock, chance: random.Random) -> None:
        self.store, self.clock, self.chance = store, clock, chance
        self.instances = {one.name: one for one in (store.instance() for _ in range(3))}
        self.timers: dict[tuple[str, str], int] = {}
        self.held: list[Use] = []
        self.waiting: list[Use] = []
        store.listen()
        self._beat()

    def steps(self, count: int) -> None:
        """Ask, release and let time pass at random."""
        for _ in range(count):
            action = self.chance.random()
            if action < 0.5:
                self._ask(self.chance.choice([*self.instances.values()]), self.chance.choice(MODELS))
            elif self.held and action < 0.9:
                use = self.held.pop(self.chance.randrange(len(self.held)))
                self._release(use, self.chance.choice(LESSONS))
            self.clock.advance(self.chance.choice([0, 0.01, 0.1, 0.7]))
            self._beat()
            for timer in sorted(self.timers, key=lambda each: self.timers[each]):
                if self.timers[timer] <= self.store.now():
                    self._fire(timer)
            for use in self.held:
                assert use.one.renew(use.model, use.asked.held) == []

    def drain(self) -> None:
        """Release all that is held; timers alone serve whoever waits: a poll finds nobody that could go."""
        begun = polled = self.store.now()
        while self.waiting:
            while self.held:
                self._release(self.held.pop(), "o")
            timer = min(self.timers, key=lambda each: self.timers[each], default=None)
            until = min(polled + POLL, self.timers[timer] if timer else LONGEST + begun)
            self.clock.advance(max(until - self.store.now(), 0) / 1000)
            self._beat()
            if timer and until == self.timers[timer]:
                self._fire(timer)
                continue
            self._poll()
            assert not self.held, f"{[use.asked.id for use in self.held]} could go before, and nobody had called"
            polled = self.store.now()
            assert polled - begun < LONGEST, f"{[use.asked.id for use in self.waiting]} wait for ever"

    def _poll(self) -> None:
        """Grant every path that somebody waits for, and repeat the requests as heartbeats do."""
        for one, model in dict.fromkeys((use.one, use.model) for use in self.waiting):
            one.grant(model)
            self._learn(one, model)
        for use in [*self.waiting]:
            use.one.send([use.asked.request])
            self._learn(use.one, use.model)

    def _ask(self, one: Instance, model: str) -> None:
        asked = one.acquire(model, weight=self.chance.choice([1, 1, 1, 2]), wait=FOR_EVER)
        if asked.granted:
            self.held.append(Use(one, model, asked))
        elif asked.status is PARKED:
            self.waiting.append(Use(one, model, asked))
        self._learn(one, model)

    def _release(self, use: Use, lesson: str) -> None:
        use.one.release(use.model, use.asked.id, lesson=lesson)
        self._learn(use.one, use.model)

    def _fire(self, timer: tuple[str, str]) -> None:
        del self.timers[timer]
        name, model = timer
        self.instances[name].grant(model)
        self._learn(self.instances[name], model)

    def _beat(self) -> None:
        for one in self.instances.values():
            one.beat()

    def _learn(self, one: Instance, model: str, hops: int = 0) -> None:
        """Keep what the last answer says, read the mail, and follow to the paths that are next in line."""
        assert one.header is not None
        self._arm(one.name, model, one.header.timer)
        following = one.following_lines()
        self._read_mail()
        for line in following if hops < 30 else []:
            one.grant(line)
            self._learn(one, line.path.model, hops + 1)

    def _arm(self, name: str, model: str, at: int) -> None:
        """Keep one timer an instance and path, the earliest."""
        if at:
            self.timers[name, model] = min(at, self.timers.get((name, model), at))

    def _read_mail(self) -> None:
        for name, path, words in self.store.mail():
            model = path.split("~")[0].rpartition(":")[2]
            for word in words if name in self.instances else []:
                if word.startswith("@"):
                    self._arm(name, model, int(word[1:]))
                else:
                    self._claim(word[1:])

    def _claim(self, id: str) -> None:
        for use in [each for each in self.waiting if each.asked.id == id]:
            self.waiting.remove(use)
            (asked,) = use.one.send([use.asked.request])
            assert asked.granted, asked.answer
            self.held.append(Use(use.one, use.model, asked))
            self._learn(use.one, use.model)
