"""
What an instance does while the store is away.

Theory of operation. A call that fails with `StoreUnavailable.away` is answered by the policy, and asks the keeper for a
heartbeat; not if it was only late, while others in this process have just heard of the store. Once a heartbeat or
another call of the keeper has failed so after all its attempts, the store counts as `away`: nothing asks it any more
but the heartbeat, and callers that wait in its queues follow the policy as well.

    closed   raise StoreUnavailable
    open     admit everything
    local    admit this instance's share of every limit of the path, see core/share.py; the others wait here, in
             order within their path, until their deadline

What was admitted so is a lease like any other, with a flag, and without a deadline: the store has never heard of it.
The first heartbeat that is answered says that the instance is back, renews such leases under no epoch, which registers
them, charges what was admitted into the windows, and sends the requests that still wait to the store's queue. A
request that the store may know is withdrawn there, and goes on here under another id: while the store is out of sight,
or as soon as it is back, it may grant what waits in its queues.

The use of a scope is the weight of all leases that this process holds, of before the outage too; nothing is counted
beside them but grants on their way to their callers. Decisions are made under one lock, for microseconds, in any
thread.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import Counter, deque
from typing import TYPE_CHECKING

from ..core import scripts
from ..core.keys import scope_label
from ..core.model import Answer, Header, Line, Request, Verdict, dimension_label
from ..core.share import Block, Book, LateCharges, Need, ScopeSpec, Standing, agreed_spec, read_spec, too_large
from ..errors import StoreCorrupt, StoreUnavailable
from .faults import away, only_late
from .log import logger
from .runtime import new_id

if TYPE_CHECKING:
    from .hold import Hold
    from .runtime import Runtime
    from .waiter import Waiter

MOST_LEARNED = 4096
BACKDATED_AT_ONCE = 400
LOCAL = frozenset({"local"})

# Admissions by the store that are noted but not counted yet; a heartbeat counts them.
Noted = tuple[int, Line, str]

# Charges of one path that are on their way, with the id that makes them count once.
Late = tuple[Line, str, list[tuple[int, str]]]


class Outage:
    """The state of one client's store, and the decisions that this process makes without it."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._config = runtime.config
        self.policy = runtime.config.on_unavailable
        self.away = False
        self.heard = -math.inf
        self._reason = ""
        self.admissions: Counter[str] = Counter()
        self._standing: Standing | None = None
        self._returned_at = -math.inf
        self._told = False
        self._told_admissions = 0
        self._learned: dict[str, dict[str, int]] = {}
        self._book = Book()
        self._noted: deque[Noted] = deque()
        self._late = LateCharges()
        self._unsure: Late | None = None
        self._aside: list[Late] = []
        self._taking: dict[str, Request] = {}
        self._queues: dict[str, deque[Waiter]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._lock = threading.Lock()
        self._counts = runtime.endpoint.shared and self.policy == "local"

    def hopeful(self) -> bool:
        """
        Whether a call that failed is worth repeating for longer than one attempt's time.

        Not while the store is away, nor before it has ever answered: a wrong address must not take long to be told.
        """
        return self.heard > -math.inf and not self.away

    @property
    def standing(self) -> Standing | None:
        """What the last heartbeat has told; before any did, what was expected, without any remainder."""
        expected = self._config.expected_instances
        if self._standing is None and expected is not None:
            return Standing(expected, expected)
        return self._standing

    # ---- what others note --------------------------------------------------------------------------------------

    def learn(self, line: Line, answer: Answer) -> None:
        """Note the agreed limit that an answer names; it may be another than this client's own."""
        dimension = answer.dimension.removeprefix("queue:")
        if (
            self._counts
            and answer.limit > 0
            and answer.scope >= 0
            and dimension not in ("queue", "recovery", "unknown")
        ):
            known = self._learned.setdefault(line.path.scopes[answer.scope], {})
            if len(known) < MOST_LEARNED:
                known[dimension] = answer.limit
            if len(self._learned) > MOST_LEARNED:
                self._learned.pop(next(iter(self._learned)))

    def note_lease(self, hold: Hold) -> None:
        """Note a lease that this process now has: granted by the store, it counts; granted here, it is counted."""
        if self._counts and not hold.flags:
            self._noted.append((_ms(), hold.line, hold.request.costs))

    def forget(self, request: Request) -> None:
        """Note that a grant of this process has arrived, all its leases are kept, or that it never will."""
        # In that case it has been counted for nobody.
        if self._taking.pop(request.id, None) is not None and self.waits:
            self._runtime.keeper.advance_soon()

    # ---- decisions, in any thread --------------------------------------------------------------------------------

    def endure(self, error: StoreUnavailable) -> None:
        """After a failed call: raise its error, unless the policy answers in the store's place."""
        if not self.away:
            # A machine that is too busy to read an answer in time looks the same from within one call.
            error.away = error.away and self._is_silent(error)
            if not error.away:
                raise error
            # The keeper may not know yet, and whoever is told that the store is away is told why.
            self._reason = str(error)
        self._runtime.keeper.suspect()
        if self.policy == "closed":
            raise error

    def _is_silent(self, error: StoreUnavailable) -> bool:
        patience = min(self._config.attempt_timeout, self._config.store_timeout)
        return not only_late(error) or time.monotonic() - self.heard >= patience

    def decide(self, waiter: Waiter, error: StoreUnavailable | None = None) -> Answer:
        """
        Answer a request in the store's place. One that waits and has no room is queued here, and PARKED.

        `error` is what the caller's own attempt has met, if it has made one: the cause of what is raised.

        Raises:

            StoreUnavailable: The policy is "closed", or this instance's share cannot hold the request.
        """
        request, now = waiter.request, _ms()
        if waiter.answer is not None:
            # The store's has come after all.
            return waiter.answer
        if request.lingers and self.policy != "closed":
            self._runtime.keeper.restart(waiter)
        with self._lock:
            block = None if self.policy == "open" else self._block(request, now, error, newcomer=True)
            if isinstance(block, Answer):
                return block
            if block is None:
                answer = self._grant(request, now)
            elif request.waits:
                self._queues.setdefault(request.line.path.name, deque()).append(waiter)
                waiter.local = True
                # So that it is sent to the store when that is back.
                request.last = Verdict.PARKED
                answer = self._answer(Verdict.PARKED, block, now, LOCAL)
            else:
                answer = self._answer(Verdict.REFUSED, block, now, LOCAL)
        if answer.status is Verdict.GRANTED:
            self._hand_over(waiter, answer)
            if waiter.error is not None:
                raise waiter.error
            return waiter.answer or answer
        if answer.status is Verdict.PARKED:
            self._runtime.keeper.advance_soon()
        return answer

    def _block(
        self, request: Request, now: int, error: StoreUnavailable | None = None, *, newcomer: bool = False
    ) -> Block | Answer | None:
        """What keeps a request from being admitted by this instance's share. The lock is held."""
        if self.policy == "closed":
            raise away(f"{self._gone(error)} Nothing is admitted without it: on_unavailable is 'closed'") from error
        specs, standing = self._specs(request.line), self.standing
        need = Need.of(request.n, request.weight, request.costs, specs, standing)
        never = too_large(specs, need, None)
        if never is not None:
            return self._answer(Verdict.IMPOSSIBLE, never, now)
        if standing is None:
            raise away(
                f"{self._gone(error)} It has never said how many instances share the limits, so nothing is admitted "
                "without it: to go on without it set expected_instances (on_unavailable='open' admits everything)"
            ) from error
        short = too_large(specs, need, standing)
        if short is not None:
            raise away(
                f"{self._gone(error)} Of {scope_label(request.line.path.scopes[short.scope])} "
                f"{dimension_label(short.dimension)} the share of this instance, one of {standing.instances}, is "
                f"{short.limit:,}: the request needs {short.used:,}"
            ) from error
        self._digest()
        queue = self._queues.get(request.line.path.name)
        if newcomer and queue is not None:
            self._drop_gone(queue)
            if queue:
                ahead = self._block(queue[0].request, now)
                return ahead or Block(0, "queue", 0, 0)
        return self._book.blocked(request.line, specs, need, self._use(), standing, now)

    def _gone(self, error: StoreUnavailable | None = None) -> str:
        """What is wrong with the store, as a sentence."""
        why = str(error or self._reason)
        return why if why.endswith("?") else f"{why}."

    def _specs(self, line: Line) -> list[ScopeSpec]:
        own = map(read_spec, line.specs)
        return [
            agreed_spec(spec, known) if (known := self._learned.get(scope)) else spec
            for scope, spec in zip(line.path.scopes, own, strict=True)
        ]

    def _use(self) -> Counter[str]:
        """The slots of each scope that this process has in use."""
        use: Counter[str] = Counter()
        # Before the leases: a grant that becomes one meanwhile is in both, and counts once.
        taking = list(self._taking.values())
        for request in taking:
            for scope in request.line.path.scopes:
                use[scope] += request.n * request.weight
        for hold in list(self._runtime.keeper.holds.values()):
            if hold.request in taking:
                continue
            for scope in hold.line.path.scopes:
                use[scope] += hold.request.weight
        return use

    def _digest(self) -> None:
        """Count what the store has granted since the last look."""
        while self._noted:
            now, line, costs = self._noted.popleft()
            specs = self._specs(line)
            self._book.charge(line, specs, Need.of(1, 1, costs, specs).charges, now)

    def _grant(self, request: Request, now: int) -> Answer:
        """Charge a request and count it. The lock is held."""
        specs = self._specs(request.line)
        standing = self.standing if self.policy == "local" else None
        need = Need.of(request.n, request.weight, request.costs, specs, standing)
        if self._counts:
            self._book.charge(request.line, specs, need.charges, now)
        self._late.note(request.line, need.charges, now)
        self.admissions[self.policy] += request.n
        self._taking[request.id] = request
        return self._answer(Verdict.GRANTED, None, now, frozenset({self.policy}))

    def _hand_over(self, waiter: Waiter, answer: Answer) -> None:
        """Give a caller its grant. If the store's has come first, that one counts."""
        self._tell_once()
        if not waiter.resolve(answer):
            self.forget(waiter.request)

    def _answer(self, status: Verdict, block: Block | None, now: int, flags: frozenset[str] = frozenset()) -> Answer:
        """What the store would say, in its words."""
        session, found = self._runtime.session, block or Block(-1, "", 0, 0)
        head = Header(now, "", 0, session.agreed_ttl, session.agreed_beat, session.claim_ttl, "", 0)
        return Answer(
            status,
            found.scope,
            found.dimension,
            found.used,
            found.limit,
            found.at,
            0,
            -1,
            head,
            time.monotonic(),
            flags,
        )

    # ---- the queues of this process, in the keeper's thread --------------------------------------------------------

    @property
    def waits(self) -> bool:
        """Whether somebody waits for this process' share."""
        return bool(self._queues)

    def advance(self) -> None:
        """Grant the heads of the queues what has become free, and come back when time frees more."""
        granted: list[tuple[Waiter, Answer]] = []
        failed: list[tuple[Waiter, StoreUnavailable]] = []
        now, earliest = _ms(), 0
        with self._lock:
            for name, queue in list(self._queues.items()):
                while self._drop_gone(queue):
                    head = queue[0]
                    try:
                        block = self._block(head.request, now)
                    except StoreUnavailable as error:
                        failed.append((queue.popleft(), error))
                        continue
                    if isinstance(block, Block):
                        earliest = min(filter(None, (earliest, block.at)), default=0)
                        break
                    queue.popleft()
                    granted.append((head, self._grant(head.request, now) if block is None else block))
                if not queue:
                    del self._queues[name]
        for waiter, answer in granted:
            if answer.status is Verdict.GRANTED:
                self._hand_over(waiter, answer)
            else:
                waiter.resolve(answer)
        for waiter, refused in failed:
            self._fail(waiter, refused)
        self._arm(earliest - now if earliest else None)

    def _arm(self, ms: int | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if ms is not None:
            self._timer = asyncio.get_running_loop().call_later(max(ms, 1) / 1000, self.advance)

    def _drop_gone(self, queue: deque[Waiter]) -> bool:
        """Drop the heads that wait no more; whether any is left."""
        waiters = self._runtime.keeper.waiters
        while queue and (queue[0].settled or waiters.get(queue[0].request.id) is not queue[0]):
            queue.popleft()
        return bool(queue)

    def _fail(self, waiter: Waiter, error: StoreUnavailable) -> None:
        """End a wait; what the store may know of it is withdrawn when that is back."""
        waiter.fail(error)
        request = waiter.request
        if request.lingers:
            for ending in scripts.withdrawals(request):
                self._runtime.keeper.end_later(ending)

    def _take_over(self) -> None:
        """Let those who wait in the store's queues follow the policy."""
        for waiter in list(self._runtime.keeper.waiters.values()):
            if waiter.request.parked and not waiter.settled and not waiter.local:
                try:
                    answer = self.decide(waiter)
                except StoreUnavailable as error:
                    self._fail(waiter, error)
                else:
                    if answer.status is not Verdict.PARKED:
                        waiter.resolve(answer)

    # ---- what the keeper finds out, in its thread ------------------------------------------------------------------

    def missed(self, error: StoreUnavailable) -> None:
        """Note that the keeper got no answer, after all its attempts."""
        if error.away:
            if not self._is_silent(error):
                return
            # In this order: callers look at `away` first.
            self._reason = str(error)
            self.away = True
            self._tell_once(error)
            self._take_over()
            return
        # It answers, and refuses: that is no outage. Whoever waits here is told.
        if self.away or self._queues:
            self.away = False
            self._end_queues(error)

    def stands(self, standing: Standing) -> None:
        """Take over what a heartbeat has told. Just after an outage the others may not be listed again yet."""
        ttl, known = self._runtime.session.agreed_ttl / 1000, self._standing
        settling = self.away or time.monotonic() < self._returned_at + ttl
        if known is None or standing.instances >= known.instances or not settling:
            self._standing = standing
        with self._lock:
            self._digest()
            self._book.prune(_ms())

    async def settle(self) -> None:
        """
        Charge in the store what was admitted without it.

        Raises:

            StoreCorrupt: The keys of a path are spoilt: its charges are made at a later heartbeat, the others now.
        """
        runtime, corrupt = self._runtime, None
        again, self._aside = self._aside, []
        try:
            while True:
                if self._unsure is None:
                    self._unsure = again.pop() if again else self._next_late()
                unsure = self._unsure
                if unsure is None:
                    break
                line, id, charges = unsure
                now = _ms()
                aged = ((max(now - at, 0), costs) for at, costs in charges)
                call = scripts.backdate(runtime.session, runtime.keyspace, line, id, aged)
                try:
                    runtime.note(None, scripts.header(await runtime.keeper.run_script(call)))
                except StoreCorrupt as error:
                    corrupt = error
                    self._aside.append(unsure)
                if self._unsure is unsure:
                    self._unsure = None
        finally:
            self._aside += again
        if corrupt is not None:
            raise corrupt

    def _next_late(self) -> Late | None:
        with self._lock:
            taken = self._late.take(BACKDATED_AT_ONCE)
        return None if taken is None else (taken[0], new_id(), taken[1])

    def back(self) -> None:
        """Note that the store answers: from now on it decides, also for those who wait here."""
        if self.away:
            self._returned_at = time.monotonic()
        # The reason stays, for callers that have seen it away a moment ago.
        self.away = False
        if self._queues:
            self._end_queues(None)
        admitted = sum(self.admissions.values())
        if self._told and admitted == self._told_admissions:
            self._told = False
            logger.info("the store at %s answers again; %d calls were admitted without it so far", *self._so_far())
        self._told_admissions = admitted

    def _so_far(self) -> tuple[str, int]:
        return self._runtime.endpoint.label, sum(self.admissions.values())

    def _end_queues(self, error: StoreUnavailable | None) -> None:
        with self._lock:
            waiters = [waiter for queue in self._queues.values() for waiter in queue]
            self._queues.clear()
            for waiter in waiters:
                waiter.local = False
        self._arm(None)
        if error is not None:
            for waiter in waiters:
                self._fail(waiter, error)

    def _tell_once(self, error: StoreUnavailable | None = None) -> None:
        """Say once an outage what happens now."""
        if self._told:
            return
        self._told = True
        what = {"closed": "nothing is admitted", "open": "everything is admitted"}.get(self.policy)
        if what is None:
            standing = self.standing
            what = (
                "its size was never told, so nothing is admitted"
                if standing is None
                else f"this instance, one of {standing.instances}, admits its share"
            )
        logger.warning("leases cannot be renewed: %s on_unavailable=%r: %s", self._gone(error), self.policy, what)


def _ms() -> int:
    return int(time.monotonic() * 1000)
