"""
The gate in front of the store's queues: of one client and path, only so many requests are on their way or parked in
Redis at once; the others wait here, in order, and cost Redis nothing.

Every waiting acquire passes its path's gate before it is sent: at once where there is room and nobody stands here. Who
leaves (granted, refused, timed out, cancelled) lets the next one in. Requests are known by their ids, in containers
that change by single steps: an interrupt in the middle leaves at worst an id in two of them, and leaving once more
mends that.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace

from ..config import Config
from ..core import admission
from ..core.keys import scope_label
from ..core.model import Answer, Line, Refusal, Request
from ..errors import QueueFull, StoreUnavailable

MOST_GATES = 1024


class Place:
    """
    One caller that stands at a gate: with one request, or with a group's that enter together.

    `wake` is called, from any thread, when it is `inside` or has an `error`; `tell` once with what it waits for.
    A `threaded` caller says when its requests are on their way: the system may wake threads in any order.
    """

    __slots__ = ("_tell", "error", "inside", "number", "requests", "threaded", "wake")

    def __init__(
        self,
        requests: Sequence[Request],
        wake: Callable[[], None],
        tell: Callable[[Answer], None],
        *,
        threaded: bool,
    ) -> None:
        self.requests = requests
        self.threaded = threaded
        self.wake = wake
        self.number = 0
        self.inside = False
        self.error: Exception | None = None
        self._tell = [tell]

    def fail(self, error: Exception) -> None:
        """End the wait with an error, unless the caller is inside already; it leaves the gate itself."""
        if not self.inside:
            self.error = error
            self.wake()

    def tell(self, answer: Answer | None) -> None:
        """Tell the caller, unless nothing is known yet, or it has been told."""
        if answer is not None and self._tell:
            self._tell.pop()(answer)


class _Gate:
    """
    The gate of one path. `last` is the newest answer that a parked request got, while anybody is inside; `entering` is
    the thread that has been let in and has not sent its request yet.
    """

    __slots__ = ("entering", "inside", "last", "local", "number", "parked")

    def __init__(self) -> None:
        self.inside: dict[str, None] = {}
        self.parked: dict[str, None] = {}
        self.local: OrderedDict[str, Place] = OrderedDict()
        self.number = 0
        self.entering: Place | None = None
        self.last: Answer | None = None

    @property
    def waiting(self) -> int:
        """How many are known to wait, here or in the store."""
        return len(self.parked) + len(self.local)

    def has_room(self, count: int, most: int) -> bool:
        """Whether so many may enter; more than there are places enter together once everybody else has left."""
        return len(self.inside) + min(count, most) <= most

    def admit(self, requests: Sequence[Request]) -> None:
        for request in requests:
            self.inside[request.id] = None

    def feed(self, most: int) -> None:
        """Let in whom there is room for, in their order."""
        while self.local and self.entering is None:
            place = next(iter(self.local.values()))
            if not self.has_room(len(place.requests), most):
                return
            self.admit(place.requests)
            self.entering = place if place.threaded else None
            place.inside = True
            self.dismiss(place)

    def dismiss(self, place: Place) -> None:
        for request in place.requests:
            self.local.pop(request.id, None)
        place.wake()

    def seen_from(self, place: Place) -> Answer | None:
        """The newest answer, as it is for one that stands here: further behind, and nobody knows until when."""
        if self.last is None:
            return None
        first = next(iter(self.local.values()), place)
        position = len(self.inside) + max(place.number - first.number, 0) + 1
        return replace(self.last, position=position, at=0, estimate=-1)


class Gates:
    """The gates of one client. Methods may be called from any thread."""

    def __init__(self, config: Config) -> None:
        self._most = config.max_parked
        self._max_waiting = config.max_waiting
        self._gates: dict[str, _Gate] = {}
        # Re-entrant: a collected coroutine may leave while this very thread is in here.
        self._lock = threading.RLock()
        self._closed = False

    def _gate(self, line: Line) -> _Gate:
        gate = self._gates.get(line.path.name)
        if gate is None:
            if len(self._gates) >= MOST_GATES:
                self._gates = {name: each for name, each in self._gates.items() if each.inside or each.local}
            gate = self._gates[line.path.name] = _Gate()
        return gate

    def pass_by(self, requests: Sequence[Request], *, anyway: bool = False) -> bool:
        """
        Enter if there is room and nobody stands here, or `anyway`. Requests are of one path and enter together.

        Raises:

            QueueFull: As many wait already as may.
        """
        with self._lock:
            gate = self._gate(requests[0].line)
            self._check_full(gate, requests)
            enters = anyway or not (gate.local or gate.entering or not gate.has_room(len(requests), self._most))
            if enters:
                gate.admit(requests)
            return enters

    def stand(self, place: Place) -> None:
        """
        Stand behind the others; :meth:`leave` with each request in the end. May be let in from here.

        Raises:

            QueueFull: As many wait already as may.
        """
        with self._lock:
            gate = self._gate(place.requests[0].line)
            self._check_full(gate, place.requests)
            place.number = gate.number
            gate.number += len(place.requests)
            for request in place.requests:
                gate.local[request.id] = place
            gate.feed(self._most)
            if self._closed:
                self._send_away(gate, place, closed())
            seen = None if place.inside or place.error else gate.seen_from(place)
        place.tell(seen)

    def entered(self, place: Place) -> None:
        """Note that the requests of a place are on their way: whoever is let in next cannot overtake them."""
        with self._lock:
            gate = self._gate(place.requests[0].line)
            if gate.entering is place:
                gate.entering = None
                gate.feed(self._most)

    def parked(self, request: Request, answer: Answer) -> None:
        """
        Note that the store has parked a request. Those who stand here and do not know yet what for are told.

        Raises:

            QueueFull: More wait than may, and nobody has come later than this one.
        """
        with self._lock:
            gate = self._gate(request.line)
            if request.id not in gate.inside:
                # It was granted before its caller has heard that it waits, and has left.
                return
            gate.parked[request.id] = None
            first, gate.last = gate.last is None, answer
            while self._max_waiting is not None and gate.waiting > self._max_waiting:
                error = self._full(gate.waiting - 1, request.line)
                if not gate.local:
                    raise error
                self._send_away(gate, next(reversed(gate.local.values())), error)
            untold = [(place, gate.seen_from(place)) for place in gate.local.values()] if first else []
        for place, seen in untold:
            place.tell(seen)

    def _check_full(self, gate: _Gate, requests: Sequence[Request]) -> None:
        # Until the store has parked one, it may grant them all.
        if self._max_waiting is not None and gate.parked and gate.waiting + len(requests) > self._max_waiting:
            raise self._full(gate.waiting, requests[0].line)

    def _full(self, waiting: int, line: Line) -> QueueFull:
        scope = scope_label(line.path.scopes[0])
        return QueueFull(
            f"{scope}: {waiting:,} callers of this client wait for it already, and max_waiting is "
            f"{self._max_waiting:,}. Ask less at once, come back later, or raise max_waiting",
            scope=scope,
            dimension="waiting",
            used=waiting,
            limit=self._max_waiting,
        )

    def _send_away(self, gate: _Gate, place: Place, error: Exception) -> None:
        place.error = error
        gate.dismiss(place)

    def renamed(self, request: Request, old: str) -> None:
        """Note that a request which is inside has got another id."""
        with self._lock:
            gate = self._gates.get(request.line.path.name)
            if gate is not None:
                for ids in (gate.inside, gate.parked):
                    if old in ids:
                        del ids[old]
                        ids[request.id] = None

    def leave(self, request: Request) -> None:
        """Be done with a request, wherever it stands, and let in who is next. Harmless when repeated."""
        with self._lock:
            gate = self._gates.get(request.line.path.name)
            if gate is None:
                return
            gate.parked.pop(request.id, None)
            gate.local.pop(request.id, None)
            gate.inside.pop(request.id, None)
            if gate.entering is not None and request in gate.entering.requests:
                gate.entering = None
            gate.feed(self._most)
            if not gate.inside:
                gate.last = None

    def stood(self, place: Place) -> Place | Refusal:
        """
        How it ended for one who has been woken, or has stood until its deadline: the place if it is inside now.

        Raises:

            StoreUnavailable: The store has answered nobody who stood before, or the client was closed.

            QueueFull: More wait than may.
        """
        if place.error is not None:
            raise place.error
        return place if place.inside else self._given_up(place)

    def _given_up(self, place: Place) -> Refusal:
        line = place.requests[0].line
        with self._lock:
            gate = self._gate(line)
            seen, ahead = gate.seen_from(place), len(gate.inside)
            for request in place.requests:
                self.leave(request)
        if seen is None:
            raise StoreUnavailable(
                f"{scope_label(line.path.scopes[0])}: the store has answered none of the {ahead:,} requests of this "
                "client that were sent before this one: is it overloaded, or cut off?"
            )
        return admission.refusal(line, seen, "deadline")

    def waiting(self) -> int:
        """How many requests stand at all gates."""
        with self._lock:
            return sum(len(gate.local) for gate in self._gates.values())

    def close(self) -> None:
        """Send everybody away who stands here or comes later."""
        with self._lock:
            self._closed = True
            for gate in self._gates.values():
                for place in list(gate.local.values()):
                    self._send_away(gate, place, closed())


def closed() -> StoreUnavailable:
    """What a caller gets whose client was closed while it waited."""
    return StoreUnavailable("the client was closed while this caller waited")
