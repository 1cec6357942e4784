"""Settings of a client: where the store is, and the times that everything keeps."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Literal

from .errors import ConfigError

Unknown = Literal["fallback", "unlimited", "error"]

# Ranges in seconds, inclusive. A relaxed Config, as ratelease.testing.config() makes, only has to be positive.
_RANGES: dict[str, tuple[float, float]] = {
    "lease_ttl": (10.0, 600.0),
    "heartbeat": (1.0, 300.0),
    "claim_ttl": (1.0, 60.0),
    "poll": (0.1, 10.0),
    "store_timeout": (0.05, 300.0),
    "attempt_timeout": (0.05, 60.0),
    "max_hold": (1.0, math.inf),
    "default_timeout": (0.0, math.inf),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """
    Times and sizes. All times are seconds.

    Args:

        url: Where the store is: memory://, memory://name, redis://, rediss://, unix://.

        namespace: Deployments with different namespaces share nothing.

        lease_ttl: How long a lease lives without a heartbeat, 10 to 600. Agreed per namespace.

        heartbeat: How often leases are renewed, 1 to 300, at most half of lease_ttl. Agreed per namespace.

        claim_ttl: How long a granted waiter may take to claim its lease.

        poll: How often a process asks again for its waiters in case a message was lost (± 20 %).

        default_timeout: How long acquire waits if its call does not say.

        store_timeout: The longest wait for the store. attempt_timeout: for one attempt of it.

        max_hold: A lease held longer is no longer renewed.

        stream_idle: A wrapped stream without activity for this long is reported, once.

        unknown: What a model gets that no entry speaks of: "fallback" (30 requests a minute, 2 at once),
            "unlimited", or "error".

        require_shared: Refuse a store that only this process sees.

        relaxed: Allow times below the ranges above. For tests.

    Raises:

        ConfigError: Naming every setting that is out of range.
    """

    # Not shown: it may hold a password.
    url: str = field(default="memory://", repr=False)
    namespace: str = "default"
    lease_ttl: float = 15.0
    heartbeat: float = 5.0
    claim_ttl: float = 3.0
    poll: float = 0.5
    default_timeout: float = 600.0
    store_timeout: float = 10.0
    attempt_timeout: float = 1.0
    max_hold: float = 3600.0
    stream_idle: float = 600.0
    unknown: Unknown = "fallback"
    require_shared: bool = False
    relaxed: bool = False

    def __post_init__(self) -> None:
        faults = [fault for name, (low, high) in _RANGES.items() if (fault := self._fault(name, low, high))]
        if not faults and self.lease_ttl < 2 * self.heartbeat:
            faults.append(
                f"lease_ttl ({self.lease_ttl:g} s) must be at least twice the heartbeat ({self.heartbeat:g} s), "
                "or one late heartbeat loses every lease"
            )
        if self.unknown not in ("fallback", "unlimited", "error"):
            faults.append(f"unknown must be 'fallback', 'unlimited' or 'error', not {self.unknown!r}")
        if not isinstance(self.url, str) or "://" not in self.url:
            faults.append("url must look like redis://host:6379/0, rediss://, unix:///path or memory://")
        if faults:
            raise ConfigError("; ".join(faults))

    def _fault(self, name: str, low: float, high: float) -> str | None:
        value = getattr(self, name)
        if self.relaxed and name != "default_timeout":
            low = 0.001
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if number and not math.isnan(value) and low <= value <= high:
            return None
        return f"{name} must be {low:g} to {high:g} seconds, not {value!r}"

    def replace(self, **changes: object) -> Config:
        """The same settings with every change that is not None."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values.update({name: value for name, value in changes.items() if value is not None})
        return Config(**values)
