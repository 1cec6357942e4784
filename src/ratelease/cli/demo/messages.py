"""Say what the parent and a worker of the demo tell each other, as JSON on one line each."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Order:
    """Tell a worker what to do; the parent sends it as JSON."""

    provider_url: str
    tasks: int
    seconds: float
    limiter_url: str | None = None
    """None: without the limiter."""
    namespace: str = ""
    limit: int = 0
    """Requests per `window`; 0: no such limit."""
    window: float = 0.0
    concurrency: int = 0
    patience: float | None = None
    """Seconds after which whoever asked does not wait for the answer any more."""
    react: bool = False
    """Whether refusals are told to the limiter, which reacts to them."""
    usage_url: str | None = None
    """Where the provider reports its usage; None: without the usage gate."""
    lag: float = 0.0
    """Seconds by which the provider counts late, as far as the fleet knows."""


@dataclasses.dataclass(slots=True)
class Report:
    """Hold what a worker has done so far."""

    done: int = 0
    throttled: int = 0
    given_up: int = 0
    """Calls that took too long for whoever asked."""
    errors: int = 0
    in_flight: int = 0
    last_error: str = ""
    waits: list[float] = dataclasses.field(default_factory=list)
    """Seconds from wanting to make a call to sending the attempt that was admitted."""
    open_waits: list[float] = dataclasses.field(default_factory=list)
    """Seconds that those had waited who still waited at the end."""
    by_task: list[int] = dataclasses.field(default_factory=list)
    """Calls answered, by task; in the final report alone, as the waits."""
