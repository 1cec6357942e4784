"""Settings of a client: where the store is, and the times that everything keeps."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self
from urllib.parse import parse_qs, urlsplit

from pydantic import Field, PlainValidator, ValidationInfo, field_validator, model_validator

from .checks import Checked, is_number, number, one_of, plain_seconds, shown, truth, whole
from .errors import ConfigError
from .limits import HIGHEST_LIMIT
from .names import check_name
from .retry import Retry
from .strategies import DEFAULT, StrategyField

Unknown = Literal["fallback", "unlimited", "error"]
OnUnavailable = Literal["local", "closed", "open"]

# Ranges in seconds, inclusive. A relaxed Config, as ratelease.testing.config() makes, only has to be positive.
RANGES: dict[str, tuple[float, float]] = {
    "lease_ttl": (10.0, 600.0),
    "heartbeat": (1.0, 300.0),
    "claim_ttl": (1.0, 60.0),
    "poll": (0.1, 10.0),
    "store_timeout": (0.05, 300.0),
    "attempt_timeout": (0.05, 60.0),
    "max_hold": (1.0, math.inf),
    "max_pause": (0.0, 86_400.0),
    "quota_pause": (1.0, 86_400.0),
    "stream_idle": (0.0, math.inf),
    "default_timeout": (0.0, math.inf),
}

# What ratelease decides itself about its connections to Redis.
OWN_OPTIONS = frozenset(
    {
        "connection_class", "decode_responses", "encoding", "encoding_errors", "health_check_interval",
        "max_connections", "parser_class", "protocol", "retry", "retry_on_error", "retry_on_timeout",
        "single_connection_client", "socket_connect_timeout", "socket_timeout", "url",
    }
)  # fmt: skip

MOST_PARKED = 100_000
MOST_WAITING = 10**9
MOST_INSTANCES = 100_000

_PREFIX = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


def _check_url(value: object) -> str:
    if not isinstance(value, str) or "://" not in value:
        # The value is not shown: it may hold a password.
        raise ValueError("must look like redis://host:6379/0, rediss://, redis+cluster://, unix:///path or memory://")
    return value


def _check_namespace(value: object) -> str:
    try:
        return check_name(value, "", "namespace='prod'")
    except ConfigError as error:
        raise ValueError(str(error).strip()) from None


def _check_prefix(value: object) -> str:
    if not isinstance(value, str) or not _PREFIX.fullmatch(value):
        raise ValueError(f"must be letters, digits and underscores, as RATELEASE_LIMIT_, not {shown(value)}")
    if "RATELEASE_".startswith(value):
        raise ValueError("must be longer than RATELEASE_: variables that begin so are settings")
    return value


def _stated(url: str) -> set[str]:
    """The options of redis-py that an address states; none of one that cannot be read."""
    try:
        parts = urlsplit(url)
        given: dict[str, object] = {"username": parts.username, "password": parts.password}
        if parts.scheme == "unix":
            given["path"] = parts.path
        elif parts.scheme.endswith("+cluster"):
            given |= {"host": parts.netloc, "port": parts.netloc, "db": parts.path.strip("/")}
        elif parts.scheme != "memory":
            given |= {"host": parts.hostname, "port": parts.port, "db": parts.path.strip("/")}
    except ValueError:
        return set()
    return {name for name, value in given.items() if value} | parse_qs(parts.query).keys()


def _check_options(value: object, info: ValidationInfo) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"must map names of redis-py's options to values, not {type(value).__name__}")
    own = sorted(OWN_OPTIONS & value.keys())
    if own:
        raise ValueError(f"must leave out {', '.join(own)}: ratelease sets them itself")
    twice = sorted(_stated(info.data.get("url", "")) & value.keys())
    if twice:
        raise ValueError(f"must leave out {', '.join(twice)}: the URL states that, and would prevail")
    return dict(value)


def _check_retry(value: object) -> Retry:
    if isinstance(value, Retry):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(f"must be Retry(…), or a table of its fields, not {shown(value)}")  # noqa: TRY004 - as above
    faults: list[str] = []
    retry = Retry.build({str(name): each for name, each in value.items()}, lambda name: name, faults)
    if retry is None:
        raise ValueError("; ".join(faults))
    return retry


class Config(Checked, frozen=True):
    """
    Times and sizes. All times are seconds.

    Args:

        url: Where the store is: memory://, memory://name, redis://, rediss://, unix://, or a Redis Cluster by one or
            more of its nodes: redis+cluster://node-a:6379,node-b:6379, rediss+cluster://.

        namespace: Deployments with different namespaces share nothing.

        lease_ttl: How long a lease lives without a heartbeat, 10 to 600. Agreed per namespace.

        heartbeat: How often leases are renewed, 1 to 300, at most half of lease_ttl. Agreed per namespace.

        claim_ttl: How long a granted waiter may take to claim its lease.

        poll: How often a process asks again for its waiters in case a message was lost (± 20 %).

        default_timeout: How long acquire waits if its call does not say.

        store_timeout: The longest wait for the store. attempt_timeout: for one attempt of it.

        max_hold: A lease held longer is no longer renewed.

        max_pause: The longest that a provider may make the fleet pause, up to a day (300).

        quota_pause: How long nobody calls a provider whose account is empty, before one call tries again (600).

        stream_idle: A wrapped stream without activity for this long is reported, once.

        headroom: The part of each rate that is used where its limits do not say, 0.1 to 1.

        default_tokens: What a call reserves that gives no estimate, before 20 calls of its model have said what they
            used.

        max_parked: How many requests of one client and path wait in Redis at once, 1 to 100,000; the others wait in
            the process, in order.

        max_waiting: How many callers of one client and path may wait at all; who comes beyond gets QueueFull. None: no
            bound.

        unknown: What a model gets that no entry speaks of: "fallback" (30 requests a minute, 2 at once),
            "unlimited", or "error".

        on_unavailable: What holds while the store is away: "local", "closed" or "open".

        expected_instances: How many instances share the limits, where the store cannot tell; from 1.

        require_shared: Refuse a store that only this process sees.

        env_prefix: How variables begin that state limits.

        retry: How often a failed call is made again by targets that do not say it themselves.

        redis_options: Further options for redis-py's connections, such as ssl_ca_certs; what the URL leaves open.

        strategy: How scopes react to failures whose limits do not say: as Limits.strategy ("penalty").

        default_pause: Seconds that the fleet pauses after the third 429 in a row for which the provider names no time,
            0 for not at all. None: 0.8, twice as long each time, up to 120.

        relaxed: Allow times below the ranges above. For tests.

    Raises:

        ConfigError: Naming every setting that is out of range or not known.
    """

    # First, since the ranges of the others depend on it.
    relaxed: Annotated[bool, truth] = False
    # Not shown: it may hold a password.
    url: Annotated[str, PlainValidator(_check_url)] = Field(default="memory://", repr=False)
    namespace: Annotated[str, PlainValidator(_check_namespace)] = "default"
    lease_ttl: float = 15.0
    heartbeat: float = 5.0
    claim_ttl: float = 3.0
    poll: float = 0.5
    default_timeout: float = 600.0
    store_timeout: float = 10.0
    attempt_timeout: float = 1.0
    max_hold: float = 3600.0
    max_pause: float = 300.0
    quota_pause: float = 600.0
    stream_idle: float = 600.0
    headroom: Annotated[float, number(0.1, 1.0)] = 1.0
    default_tokens: Annotated[int, whole(1, HIGHEST_LIMIT)] = 1000
    max_parked: Annotated[int, whole(1, MOST_PARKED)] = 256
    max_waiting: Annotated[int, whole(0, MOST_WAITING)] | None = None
    unknown: Annotated[Unknown, one_of("fallback", "unlimited", "error")] = "fallback"
    on_unavailable: Annotated[OnUnavailable, one_of("local", "closed", "open")] = "local"
    expected_instances: Annotated[int, whole(1, MOST_INSTANCES)] | None = None
    require_shared: Annotated[bool, truth] = False
    strategy: StrategyField = DEFAULT
    default_pause: Annotated[float, number(0, 86_400, " seconds")] | None = None
    env_prefix: Annotated[str, PlainValidator(_check_prefix)] = "RATELEASE_LIMIT_"
    retry: Annotated[Retry, PlainValidator(_check_retry)] = Field(default_factory=Retry)
    redis_options: Annotated[Mapping[str, Any], PlainValidator(_check_options)] = Field(
        default_factory=dict, repr=False
    )

    @field_validator(*RANGES, mode="plain")
    @classmethod
    def _check_time(cls, value: object, info: ValidationInfo) -> float:
        low, high = RANGES[str(info.field_name)]
        if info.data.get("relaxed") and low:
            low = 0.001
        seconds = plain_seconds(value)
        if not is_number(seconds, low, high):
            raise ValueError(f"must be {low:g} to {high:g} seconds, not {shown(value)}")
        return seconds  # type: ignore[return-value]

    @model_validator(mode="after")
    def _outlives_a_heartbeat(self, info: ValidationInfo) -> Self:
        if not (info.context or {}).get("part") and self.lease_ttl < 2 * self.heartbeat:
            raise ValueError(
                f"lease_ttl ({self.lease_ttl:g} s) must be at least twice the heartbeat ({self.heartbeat:g} s), "
                "or one late heartbeat loses every lease"
            )
        return self

    def __hash__(self) -> int:
        # Without redis_options, whose values may be anything.
        return hash(tuple(value for name, value in self.__dict__.items() if name != "redis_options"))

    @property
    def given(self) -> dict[str, Any]:
        """The settings that were stated, by name; the others are defaults."""
        return {name: getattr(self, name) for name in self.model_fields_set}

    def replace(self, **changes: object) -> Config:
        """The same settings with every change that is not None."""
        return Config(**{**self.given, **{name: value for name, value in changes.items() if value is not None}})
