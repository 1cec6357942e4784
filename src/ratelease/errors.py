"""
Every error of ratelease. What the caller can do decides the class:

    RateleaseError
    ├── WaitTimeout        (TimeoutError)     wait longer, or come back after `retry_after`
    ├── QueueFull                             ask less at once
    ├── QuotaExhausted                        the account is empty: waiting does not help
    ├── RetriesExhausted                      the provider kept failing
    ├── LeaseLost                             acquire again
    ├── ImpossibleRequest  (ValueError)       ask for less, or raise the limit
    ├── ConfigError        (ValueError)       mend an argument or a setting
    └── StoreUnavailable   (ConnectionError)  look at Redis
        └── StoreCorrupt                      look at one key in Redis
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = [
    "ConfigError",
    "ImpossibleRequest",
    "LeaseLost",
    "QueueFull",
    "QuotaExhausted",
    "RateleaseError",
    "RetriesExhausted",
    "StoreCorrupt",
    "StoreUnavailable",
    "WaitTimeout",
]


def _rebuild(cls: type[RateleaseError], message: str) -> RateleaseError:
    # Not by __init__: a subclass may ask for other arguments, and the attributes come with the state.
    error = cls.__new__(cls, message)
    error.args = (message,)
    return error


class RateleaseError(Exception):
    """
    Something that ratelease could not do. The message says what happened, where, and what to do.

    The attributes are None where they have no meaning: `scope` and `dimension` name the limit that decided, `used` and
    `limit` its figures, `retry_after` and `waited` are seconds, `key` is a key in Redis.
    """

    scope: str | None
    dimension: str | None
    used: int | None
    limit: int | None
    retry_after: float | None
    waited: float | None
    position: int | None
    attempts: int | None
    key: str | None

    def __init__(
        self,
        message: str = "",
        *,
        scope: str | None = None,
        dimension: str | None = None,
        used: int | None = None,
        limit: int | None = None,
        retry_after: float | None = None,
        waited: float | None = None,
        position: int | None = None,
        attempts: int | None = None,
        key: str | None = None,
    ) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip().partition("\n")[0])
        self.scope = scope
        self.dimension = dimension
        self.used = used
        self.limit = limit
        self.retry_after = retry_after
        self.waited = waited
        self.position = position
        self.attempts = attempts
        self.key = key

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), str(self)), dict(self.__dict__))


class WaitTimeout(RateleaseError, TimeoutError):
    """The wait for a lease ended at its deadline, or could not have ended before it."""


class QueueFull(RateleaseError):
    """Too many callers already wait for this path."""


class QuotaExhausted(RateleaseError):
    """The provider's account has nothing left to spend."""


class RetriesExhausted(RateleaseError):
    """The provider failed as often as retries were allowed."""


class LeaseLost(RateleaseError):
    """
    The id of this acquire was withdrawn while it was on its way.

    A lease that expires before its release raises nothing: `lease.lost`, `lease.valid` and `on_lost` tell.
    """


class ImpossibleRequest(RateleaseError, ValueError):
    """The request can never be granted, however long it waits."""


class ConfigError(RateleaseError, ValueError):
    """An argument or a setting is wrong."""

    _faults: tuple[str, ...] = ()

    @classmethod
    def of(cls, faults: Iterable[str]) -> ConfigError:
        """One error for all of these faults."""
        named = tuple(dict.fromkeys(faults))
        error = cls("; ".join(named))
        error._faults = named
        return error

    @property
    def faults(self) -> tuple[str, ...]:
        """Each fault that the message names, by itself."""
        return self._faults or (str(self),)


class StoreUnavailable(RateleaseError, ConnectionError):
    """
    Redis did not answer in time, or refused.

    `away` is True where it cannot be reached, does not answer or cannot serve for now: what `on_unavailable` is for.
    It is False where Redis has answered and refused (user, memory, schema), and where this process was too busy to ask.
    """

    away: bool = False


class StoreCorrupt(StoreUnavailable):
    """A key of ours in Redis holds something that ratelease did not write."""
