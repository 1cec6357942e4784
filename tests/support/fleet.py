"""
A small fleet over the scripts, and a plain account of what the store must hold after every call.

The account is kept from answers and messages alone: which leases are out and until when, which charges count, who
waits. After each call it is compared with the store, so a script that counts wrongly is found at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from ratelease.core.keys import parse_path
from ratelease.core.model import Line
from support.clock import DrivenClock
from support.store import LOST, PARKED, RELEASED, TOMBSTONED, UNKNOWN, WITHDRAWN, Asked, Instance, Store

TTL, CLAIM_TTL, AGED = 15_000, 3_000, 20_000  # ms
MOST_FUTILE_HOPS = 8


@dataclass(frozen=True, slots=True)
class Figure:
    """One rate of a scope, in ms."""

    unit: str
    window: int
    limit: int
    guard: int

    @property
    def name(self) -> str:
        return f"{self.unit}{self.window}"

    def counts_until(self, at: int) -> int:
        """When a charge of this moment stops to count."""
        width = (self.window + 59) // 60
        return (at // width + 1) * width + self.window + self.guard


@dataclass(slots=True)
class Scope:
    """One scope: its limits, and where its keys are."""

    name: str
    limit: int | None
    rates: list[Figure]
    state: str
    windows: str
    leases: str
    index: str


@dataclass(slots=True)
class Entry:
    """A request that is parked (W), granted (G) or held (H), or was parked until its queue expired (L)."""

    asked: Asked
    owner: Instance
    state: str
    ticket: int = 0
    touched_at: int = 0
    deadline: int = 0
    placed: bool = True  # in the queue or the claims, as its state says
    out: set[str] = field(default_factory=set)  # leases of it that were not ended yet

    @property
    def id(self) -> str:
        return self.asked.id

    @property
    def line(self) -> Line:
        return self.asked.request.line

    @property
    def size(self) -> int:
        return self.asked.request.n * self.asked.request.weight

    def need(self, unit: str) -> int:
        """What it charges in all, of one unit."""
        return self.asked.request.n * self.charge(unit)

    def charge(self, unit: str) -> int:
        """What one of its leases charges."""
        costs = self.asked.request.costs
        at = costs.find(unit)
        digits = "" if at < 0 else "".join(_digits(costs[at + 1 :]))
        return int(digits or 0)


def _digits(text: str) -> Iterator[str]:
    for char in text:
        if not char.isdigit():
            return
        yield char


@dataclass(frozen=True, slots=True)
class Charge:
    """What one lease was charged, everywhere on its path."""

    lease: str
    at: int
    entry: Entry


class Fleet:
    """Instances over one store. Every call goes through :meth:`call`, which checks what it did."""

    def __init__(self, store: Store, clock: DrivenClock, lines: list[Line]) -> None:
        self.store, self.clock, self.lines = store, clock, lines
        self.scopes: dict[str, Scope] = {}
        self.of_line: dict[str, list[Scope]] = {}
        for line in lines:
            self.of_line[line.path.name] = [self._scope(line, k) for k in range(len(line.specs))]
        self.entries: dict[str, Entry] = {}
        self.expiry: dict[str, tuple[int, Entry]] = {}  # lease -> until, whose
        self.charges: list[Charge] = []
        self.graves: dict[tuple[str, str], int] = {}  # model scope and id -> until
        self.buried: list[Entry] = []  # released with a tombstone, the whole of it
        self.muted: set[str] = set()
        self.silent: set[str] = set()
        store.listen()

    def _scope(self, line: Line, k: int) -> Scope:
        name = line.path.scopes[k]
        if name not in self.scopes:
            limit, rates = None, []
            for word in line.specs[k].split():
                if word.startswith("c"):
                    limit = int(word[1:])
                elif "=" in word:
                    head, _, tail = word.partition("=")
                    most, _, guard = tail.partition("+")
                    rates.append(Figure(head[0], int(head[1:]), int(most), int(guard)))
            self.scopes[name] = Scope(name, limit, rates, *line.keys[8 + 5 * k : 12 + 5 * k])
        return self.scopes[name]

    # ---- what the account says ---------------------------------------------------------------------------------

    def use(self, scope: Scope) -> int:
        """Leases of a scope that have not expired, by weight."""
        return sum(
            entry.asked.request.weight
            for until, entry in self.expiry.values()
            if until > self.clock.ms and scope.name in entry.line.path.scopes
        )

    def total(self, scope: Scope, rate: Figure) -> int:
        """What counts of a rate now."""
        return sum(
            charge.entry.charge(rate.unit)
            for charge in self.charges
            if scope.name in charge.entry.line.path.scopes and rate.counts_until(charge.at) > self.clock.ms
        )

    def fits_scope(self, entry: Entry, scope: Scope) -> bool:
        """Whether one scope has room for it."""
        if scope.limit is not None and self.use(scope) + entry.size > scope.limit:
            return False
        return all(
            not entry.need(rate.unit) or self.total(scope, rate) + entry.need(rate.unit) <= rate.limit
            for rate in scope.rates
        )

    def fits(self, entry: Entry) -> bool:
        """Whether every scope has room for it."""
        return all(self.fits_scope(entry, scope) for scope in self.of_line[entry.line.path.name])

    def waiting(self, line: Line) -> list[Entry]:
        """Who is parked on a path by the account, in order."""
        found = [entry for entry in self.entries.values() if entry.state == "W" and entry.line.path == line.path]
        return sorted(found, key=lambda entry: entry.ticket)

    def standing(self, entry: Entry) -> str:
        """alive, muted or dead; or gave up."""
        if 0 < entry.deadline <= self.clock.ms:
            return "gave up"
        if entry.touched_at + 4 * TTL <= self.clock.ms and not self.store.client.hexists(entry.line.keys[5], entry.id):
            return "forgotten"
        score = self.store.client.zscore(entry.line.keys[1], entry.owner.name)
        if score is None or score <= self.clock.ms:
            return "dead"
        return "muted" if entry.owner.name in self.muted else "alive"

    # ---- calls -------------------------------------------------------------------------------------------------

    def acquire(self, one: Instance, asks: list[Any]) -> list[Asked]:
        """Send requests of one path (new, or repeated ones) as one call."""
        line = asks[0].line
        before = self._begin(one, line, [each.id for each in asks])
        answered = one.send(asks)
        self._mail(one, line, before)
        seen_waiting = [entry for entry in self.waiting(line) if self._in_the_way(entry, one)]
        for asked in answered:
            self._take(one, asked, before, seen_waiting)
        self._end(line)
        return answered

    def _take(self, one: Instance, asked: Asked, before: dict[str, int], ahead: list[Entry]) -> None:
        id, now, known = asked.id, self.clock.ms, self.entries.get(asked.id)
        grave = asked.request.line.path.scopes[0], id
        if asked.status is TOMBSTONED:
            assert grave in self.graves, f"{id} was never buried"
            return
        assert self.graves.get(grave, 0) <= now, f"{id} is buried, answer {asked.status}"
        ticket = self.store.client.zscore(asked.request.line.keys[3], id)
        if known is not None and known.state == "W" and self.standing(known) == "gave up" and ticket != known.ticket:
            del self.entries[id]  # its deadline has passed: the same id asks anew
            known = None
        if asked.granted and known is not None and known.state in "GH" and self._alive(known):
            for lease in known.out:
                self.expiry[lease] = now + TTL, known
            known.state = "H"
        elif asked.granted:
            assert not (known and known.state == "W"), f"{id} was granted out of its queue"
            assert not ahead, f"{id} passed {[entry.id for entry in ahead]} of its own path"
            assert not before, f"{id} passed {before}, which wait for the same scopes"
            self._charge(Entry(asked, one, "H"), now + TTL)
        elif asked.status is PARKED:
            if known is None or known.state != "W":
                line = asked.request.line
                assert ticket is not None, f"{id} is parked and not in the queue"
                deadline = now + round(asked.request.deadline * 1000) if asked.request.deadline < 1e9 else 0
                entry = Entry(asked, one, "W", int(ticket), now, deadline)
                assert all(entry.ticket > other.ticket for other in self.waiting(line)), "tickets rise"
                self.entries[id] = entry
                self._forget_leases(asked.request.lease_ids)
            self.entries[id].touched_at = now
        else:
            assert known is None or not self._alive(known), f"{id} is {known}, and was answered {asked.status}"

    def _alive(self, entry: Entry) -> bool:
        return any(self.expiry.get(lease, (0, entry))[0] > self.clock.ms for lease in entry.out)

    def _in_the_way(self, entry: Entry, one: Instance) -> bool:
        return self.standing(entry) == "alive" or (entry.owner is one and self.standing(entry) == "muted")

    def release(self, one: Instance, line: Line, id: str, *, unsent: bool = False, may_land: bool = False) -> None:
        """End or withdraw any id of a path, whoever's it is."""
        before = self._begin(one, line, [id])
        now = self.clock.ms
        until, holder = self.expiry.get(id, (0, None))
        entry = self.entries.get(id)
        expected = {UNKNOWN}
        if entry is not None and entry.state in "WG":
            expected = {WITHDRAWN}
            for lease in list(entry.out):
                self._end_lease(lease, refund=True)
            del self.entries[id]
        elif holder is not None and until > now and holder.state == "H":
            expected = {RELEASED}
            self._end_lease(id, refund=unsent)
        elif holder is not None:
            # An expired lease is told as lost until its record is purged.
            expected = {LOST, UNKNOWN} if holder.state == "H" else {UNKNOWN}
            self._end_lease(id, refund=False)
        ended = one.release(line, id, unsent=unsent, may_land=may_land)
        assert ended in expected, f"release of {id} answered {ended}, not {expected}"
        if may_land or ended is UNKNOWN:
            self.graves[line.path.scopes[0], id] = now + TTL
            if entry is not None and entry.asked.request.n == 1:
                self.buried.append(entry)
        self._mail(one, line, before)
        self._end(line)

    def grant(self, one: Instance, line: Line, *, foreign: bool = False) -> list[str]:
        """Poll, timer or hop: the same script."""
        before = self._begin(one, line, (), knows=not foreign)
        ids = one.grant(line, foreign=foreign)
        self._mail(one, line, before)
        self._end(line)
        return ids

    def renew(self, one: Instance, line: Line) -> None:
        """Beat for every lease that this instance holds on a path."""
        now = self.clock.ms
        mine = [
            (lease, entry)
            for lease, (_, entry) in self.expiry.items()
            if entry.owner is one and entry.state == "H" and entry.line.path == line.path
        ]
        held = [item for _, entry in mine for item in entry.asked.held if item.id in dict(mine)]
        held = list({item.id: item for item in held}.values())
        if not held:
            return
        self.muted.discard(one.name)
        lost = set(one.renew(line, held))
        for lease, entry in mine:
            alive = self.expiry[lease][0] > now
            assert (lease in lost) == (not alive), f"{lease}: alive {alive}, lost {lost}"
            if alive:
                self.expiry[lease] = now + TTL, entry
        self.check()

    def heartbeat(self, one: Instance) -> None:
        """Renew all that an instance holds, and keep it listed."""
        for line in self.lines:
            self.renew(one, line)
        self.muted.discard(one.name)
        one.beat()

    def close(self) -> None:
        """Listen no more."""
        self.store.close()

    def _begin(self, one: Instance, line: Line, asked: Collection[str], *, knows: bool = True) -> dict[str, int]:
        """What a call on a path does first: unmute the caller, take back lapsed grants. Returns who is ahead."""
        agreed = all(self.store.client.hexists(scope.state, "generation") for scope in self.of_line[line.path.name])
        self.muted.discard(one.name)
        self._expire_keys(line, asked)
        for entry in [entry for entry in self.entries.values() if entry.line.path == line.path and entry.state == "G"]:
            if self._alive(entry) or not entry.placed or not (knows or agreed):
                continue
            if entry.owner is not one:
                self.muted.add(entry.owner.name)
            for lease in list(entry.out):
                self._end_lease(lease, refund=True)
            entry.state = "W"
        ahead: dict[str, int] = {}
        for scope in self.of_line[line.path.name]:
            for member, ticket in self.store.client.zrange(scope.index, 0, -1, withscores=True):
                if member.decode() != line.path.name:
                    ahead[member.decode()] = min(int(ticket), ahead.get(member.decode(), 1 << 62))
        return ahead

    def _expire_keys(self, line: Line, asked: Collection[str]) -> None:
        """
        Forget what the store has forgotten because nobody of a path called for two TTLs.

        A waiter whose record outlived its place in the queue (L) gets it back when it asks; a grant whose record
        outlived its claim is taken back then.
        """
        client, places = self.store.client, {"W": line.keys[3], "L": line.keys[3], "G": line.keys[4]}
        for entry in [entry for entry in self.entries.values() if entry.line.path == line.path]:
            if entry.state not in places:
                continue
            recorded = client.hexists(line.keys[5], entry.id)
            entry.placed = client.zscore(places[entry.state], entry.id) is not None or entry.id in asked
            if not (recorded and entry.placed):
                assert self.clock.ms - entry.touched_at >= 2 * TTL, f"{entry.id} has vanished"
            if not recorded:
                del self.entries[entry.id]
                self._forget_leases(list(entry.out))
            elif entry.state != "G":
                entry.state = "W" if entry.placed else "L"

    def _mail(self, one: Instance, line: Line, ahead: dict[str, int]) -> None:
        """Take over the grants that a call has announced."""
        announced: list[Entry] = []
        for name, path, words in self.store.mail():
            for word in words:
                if word.startswith("@"):
                    continue
                assert path == line.path.name
                entry = self.entries[word[1:]]
                assert entry.owner.name == name, "messages go to the waiter's own instance"
                assert word[0] == "+", f"{entry.id} can never fit?"
                assert entry.state == "W"
                announced.append(entry)
        # One message an instance: only the tickets tell the order of the grants.
        for entry in sorted(announced, key=lambda entry: entry.ticket):
            passed = [each for each in self.waiting(line) if each.ticket < entry.ticket]
            passed = [each for each in passed if self._in_the_way(each, one)]
            assert not passed, f"{entry.id} passed {[each.id for each in passed]} of its own path"
            barged = {other: ticket for other, ticket in ahead.items() if ticket < entry.ticket}
            assert not barged, f"{entry.id} passed {barged}, which wait for the same scopes"
            self._charge(entry, self.clock.ms + CLAIM_TTL)
            entry.state, entry.touched_at = "G", self.clock.ms

    def _charge(self, entry: Entry, until: int) -> None:
        self._forget_leases(entry.asked.request.lease_ids)
        entry.out = set(entry.asked.request.lease_ids)
        self.entries[entry.id] = entry
        for lease in entry.out:
            self.expiry[lease] = until, entry
            self.charges.append(Charge(lease, self.clock.ms, entry))

    def _end_lease(self, lease: str, *, refund: bool) -> None:
        _, entry = self.expiry.pop(lease)
        entry.out.discard(lease)
        if not entry.out and self.entries.get(entry.id) is entry and entry.state == "H":
            del self.entries[entry.id]
        if refund:
            last = max(index for index, charge in enumerate(self.charges) if charge.lease == lease)
            del self.charges[last]

    def _forget_leases(self, leases: list[str]) -> None:
        for lease in leases:
            _, entry = self.expiry.pop(lease, (0, None))
            if entry is not None:
                entry.out.discard(lease)

    def _end(self, line: Line) -> None:
        queued = set(self.store.queue(line))
        for entry in self.waiting(line):
            if entry.id not in queued:
                assert self.standing(entry) in ("dead", "gave up", "forgotten"), (
                    f"{entry.id} has vanished from its queue"
                )
                del self.entries[entry.id]
        # A waiter that nobody has repeated for four TTLs is forgotten, and leaves the queue when its turn comes.
        recorded = set(map(bytes.decode, self.store.client.hkeys(line.keys[5])))
        assert queued & recorded == {entry.id for entry in self.waiting(line)} & recorded
        self.check()

    # ---- what a keeper does ------------------------------------------------------------------------------------

    def follow(self, one: Instance) -> None:
        """Grant the paths that the last answer named, and those that these name, to the end."""
        named, futile = one.following.split(), 0
        while named:
            path = parse_path(named.pop(0))
            assert path is not None
            line = next(each for each in self.lines if each.path == path)
            waiting = len(self.waiting(line))
            self.grant(one, line, foreign=True)
            futile = 0 if len(self.waiting(line)) < waiting else futile + 1
            assert futile <= MOST_FUTILE_HOPS, f"hops do not end: {one.following}"
            named += [name for name in one.following.split() if name not in named]

    def settle(self) -> None:
        """Let every instance that is not silent do what its keeper does, until nothing changes any more."""
        for _ in range(50):
            before = [(entry.id, entry.state) for entry in self.entries.values()]
            for entry in list(self.entries.values()):
                if entry.owner.name in self.silent or entry.id not in self.entries:
                    continue
                if entry.state == "W":
                    self.grant(entry.owner, entry.line)
                elif entry.state == "G":
                    self.acquire(entry.owner, [entry.asked.request])
                else:
                    continue
                self.follow(entry.owner)
            if before == [(entry.id, entry.state) for entry in self.entries.values()]:
                return
        raise AssertionError("the fleet does not come to rest")

    # ---- checks ------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Compare the store with the account: leases and rates of every scope, and that no limit is passed."""
        client, now = self.store.client, self.clock.ms
        for scope in self.scopes.values():
            stored = client.zcount(scope.leases, f"({now}", "+inf")
            assert stored == self.use(scope), f"{scope.name}: {stored} leases in the store, {self.use(scope)} out"
            assert scope.limit is None or stored <= scope.limit, f"{scope.name}: {stored} of {scope.limit}"
            for rate in scope.rates:
                counted, used = self._stored_total(scope, rate), self.total(scope, rate)
                assert counted == used, f"{scope.name} {rate.name}: {counted} stored, {used} charged"
                assert used <= rate.limit, f"{scope.name} {rate.name}: {used} of {rate.limit}"

    def _stored_total(self, scope: Scope, rate: Figure) -> int:
        """The sum over the slots that still count, and whether <rate>:n agrees with all slots there are."""
        found = self.store.client.hgetall(scope.windows)
        fields = {name.decode(): int(value) for name, value in found.items() if name != b"by"}
        prefix, width = f"{rate.name}:", (rate.window + 59) // 60
        if f"{prefix}n" not in fields:
            return 0
        old, new = fields[f"{prefix}old"], fields[f"{prefix}new"]
        slots = {slot: fields.get(f"{prefix}{slot % 128}", 0) for slot in range(old, new + 1)}
        assert sum(slots.values()) == fields[f"{prefix}n"], f"{scope.name}: {fields}"
        assert all(count >= 0 for count in slots.values())
        return sum(
            count for slot, count in slots.items() if (slot + 1) * width + rate.window + rate.guard > self.clock.ms
        )

    def check_at_rest(self) -> None:
        """Nobody waits who could be served: each head lacks room, or a lower ticket has a claim to a scope of it."""
        heads: dict[str, Entry] = {}
        for line in self.lines:
            alive = [entry for entry in self.waiting(line) if self.standing(entry) == "alive"]
            if alive:
                heads[line.path.name] = alive[0]
        for name, head in heads.items():
            if not self.fits(head):
                continue
            blockers = []
            for scope in self.of_line[name]:
                for member, ticket in self.store.client.zrange(scope.index, 0, -1, withscores=True):
                    other = heads.get(member.decode())
                    if member.decode() == name or ticket >= head.ticket:
                        continue
                    assert other is not None, f"{head.id} waits behind {member!r}, where nobody waits"
                    assert other.ticket == ticket, f"{member!r} stands in {scope.name} with an old ticket"
                    aged = self.clock.ms - other.ticket >= AGED
                    lower = any(each.ticket < other.ticket for each in heads.values())
                    assert aged or lower or not self.fits_scope(other, scope), f"{other.id} keeps {scope.name} idle"
                    blockers.append(other)
            assert blockers, f"{head.id} fits, nobody is before it, and it waits"
