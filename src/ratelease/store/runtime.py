"""What one client is in one process: settings, address, session, keeper. A fork begins another."""

from __future__ import annotations

import math
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..book import LimitBook
from ..builtin import fallback
from ..config import Config
from ..core.estimates import Estimates
from ..core.instances import Instance
from ..core.keys import Keyspace, Path, credential_label, make_path, scope_label
from ..core.model import Header, Line, spec_of
from ..core.session import Session
from ..errors import ConfigError
from ..limits import Limits
from ..strategies import DEFAULT
from .endpoint import Endpoint
from .log import Told, logger

if TYPE_CHECKING:
    from .hold import Hold
    from .keeper import Keeper
    from .outage import Outage

MOST_LINES = 4096
MOST_WARNINGS = 1000


def new_id() -> str:
    """128 random bits as text; from the operating system, so forks and simultaneous starts never share one."""
    return secrets.token_urlsafe(16)


class Runtime:
    """
    Everything of a client that belongs to this process.

    `dead` is set in a child after fork: what the parent held stays the parent's.
    """

    def __init__(
        self,
        config: Config,
        book: LimitBook,
        *,
        credential: str | None,
        metadata: dict[str, str] | None,
        on_lost: Callable[[Any], object] | None,
    ) -> None:
        from .keeper import Keeper
        from .outage import Outage

        self.config = config
        self.book = book
        self.credential = credential_label(credential)
        self.metadata = metadata
        self.on_lost = on_lost
        self.endpoint = Endpoint(config)
        self.keyspace = Keyspace(config.namespace)
        self.instance = secrets.token_hex(6)
        self.session = Session.begin(config, self.instance, secrets.token_hex(8))
        self.pid = os.getpid()
        self.host = socket.gethostname()
        self.started_at = time.time()
        self.dead = False
        self.clock_offset = 0.0
        self.estimates = Estimates(config.default_tokens)
        self.told = Told(config)
        self._lines: dict[tuple[str, str, tuple[str, ...]], Line] = {}
        self._warned: set[str] = set()
        self._lock = threading.Lock()
        self.outage: Outage = Outage(self)
        self.keeper: Keeper = Keeper(self)

    def line(self, provider: str, model: str, pools: tuple[str, ...]) -> Line:
        """
        The path of a model, with what this client says of its limits. Names are checked and case-folded.

        Raises:

            ConfigError: No entry speaks of the model, or of a pool, and unknown="error".
        """
        key = (provider, model, pools)
        line = self._lines.get(key)
        if line is None:
            line = self._make_line(provider, model, pools)
            with self._lock:
                if len(self._lines) >= MOST_LINES:
                    self._lines.pop(next(iter(self._lines)))
                self._lines[key] = line
        return line

    def lines(self) -> list[Line]:
        """The paths that this client has used."""
        with self._lock:
            return list(self._lines.values())

    def path(self, provider: str, model: str, pools: Sequence[str] | None = None) -> Path:
        """The scopes of a model; in the pools that it belongs to by configuration, unless they are given."""
        found = self.book.pools_of(provider, model) if pools is None else pools
        return make_path(provider, model, tuple(found), self.credential)

    def _make_line(self, provider: str, model: str, pools: tuple[str, ...]) -> Line:
        everything = tuple(sorted({*pools, *self.book.pools_of(provider, model)}))
        path = self.path(provider, model, everything)
        if len(path.scopes) > 16:
            raise ConfigError(f"{provider}/{model} is in {len(everything)} pools: at most 13 can be decided at once")
        found = self.book.resolve(provider, model, self.config.unknown)
        if "fallback" in found.sources.values():
            self._warn_of_fallback(f"{provider}/{model}")
        of_pools = {pool: self.book.pool(pool) for pool in everything}
        unknown = [ascii(pool) for pool, entry in of_pools.items() if entry is None]
        if unknown and self.config.unknown == "error":
            raise ConfigError(f"no limits are known for pool {', '.join(unknown)}: add it to pools, or set unknown")
        limits = [found.limits, *of_pools.values()]
        limits += [self.book.provider(provider), self.book.total]
        keys = tuple(self.keyspace.path_keys(path))
        strategy = DEFAULT if self.config.strategy is None else self.config.strategy
        if strategy != DEFAULT and not any(limits[:-1]):
            # Nothing is known, but what failures teach.
            limits[0] = Limits(strategy=strategy)
        specs = tuple(spec_of(entry, self.config.headroom, strategy) for entry in limits)
        return Line(path, keys, specs, provider, model)

    def _warn_of_fallback(self, name: str) -> None:
        if name not in self._warned and len(self._warned) < MOST_WARNINGS:
            self._warned.add(name)
            logger.warning(
                "no limits are known for %a: it gets the fallback of %d requests a minute and %d at once. Add an "
                "entry to limits, or set unknown='unlimited'",
                name,
                fallback().rpm,
                fallback().concurrency,
            )

    @property
    def heartbeat(self) -> float:
        """Seconds between heartbeats: ours, or what the namespace has agreed on if that is shorter."""
        return min(self.config.heartbeat, self.session.agreed_beat / 1000)

    def note(self, line: Line | None, header: Header, hops: int = 0, *, sent: float = -math.inf) -> None:
        """
        Take over what an answer says beside its results: session, store time, and what to do next.

        `sent` is the monotonic time before the call was sent, where it is known.
        """
        heartbeat = self.heartbeat
        self.outage.heard = time.monotonic()
        lost = self.session.note(header)
        if self.heartbeat < heartbeat:
            self.keeper.beat_faster()
        # The server has read its clock, in whole ms, between the sending of the call and this, which may be much later.
        lowest, highest = header.now / 1000 - time.monotonic(), (header.now + 1) / 1000 - sent
        self.clock_offset = min(max(self.clock_offset, lowest), highest)
        if lost:
            self.keeper.store_lost()
        for path_name in header.following.split():
            self.keeper.follow(path_name, hops)
        if header.timer and line is not None:
            self.keeper.set_timer(line, header.timer)

    def until(self, server_ms: int) -> float:
        """Seconds from now to a moment of the server's clock."""
        return server_ms / 1000 - self.clock_offset - time.monotonic()

    def lease_lost(self, hold: Hold) -> None:
        """Tell that a lease is no longer ours."""
        hold.lost = True
        logger.warning(
            "lease %s of %a was lost: it was not renewed in time, its slot may be in use by somebody else (acquired at "
            "%s)",
            hold.id,
            scope_label(hold.line.path.scopes[0]),
            hold.place,
        )
        if self.on_lost is not None:
            try:
                self.on_lost(hold.owner())
            except BaseException as error:
                # The user's code must not end ours, as SystemExit would; in the user's own thread that is meant.
                if not isinstance(error, Exception) and not self.keeper.here:
                    raise
                logger.exception("on_lost raised")

    def profile(self) -> Instance:
        """What this instance says of itself in a heartbeat."""
        keeper = self.keeper
        models: dict[str, int] = {}
        limits = {
            scope: spec
            for line in self.lines()
            for scope, spec in zip(line.path.scopes, line.specs, strict=True)
            if spec not in ("-", "?")
        }
        for hold in list(keeper.holds.values()):
            name = f"{hold.line.provider}/{hold.line.model}"
            models[name] = models.get(name, 0) + 1
        return Instance(
            id=self.instance,
            host=self.host,
            pid=self.pid,
            started_at=self.started_at,
            models=models,
            active=sum(models.values()),
            waiting=keeper.waiting(),
            average_latency=keeper.busy_seconds / keeper.completed if keeper.completed else None,
            last_completed=keeper.last_completed,
            lost=keeper.lost_count,
            unavailable_admissions=dict(self.outage.admissions),
            metadata=self.metadata or {},
            limits=limits,
        )
