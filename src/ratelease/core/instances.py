"""What an instance says of itself: packed by it, unpacked with caps and checks by whoever reads the list."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import msgpack

from ..errors import ConfigError
from .plain import Plain

LARGEST_PROFILE = 65_536
LARGEST_METADATA = 4096
MOST_LIMITS = 48


@dataclass(frozen=True, slots=True)
class Instance(Plain):
    """
    One client in one process.

    Attributes:

        id: Random, for this process' life. host, pid: where it runs; told, never compared.

        started_at: Unix seconds by its own clock. heartbeat_age: seconds since it last beat, by the store's.

        models: Leases held per "provider/model". active: in all. waiting: callers parked.

        average_latency: Seconds that its ended leases were held on average. last_completed: Unix seconds, or None.

        lost: Leases it lost. metadata: what the program added.

        limits: What it says of the scopes that it uses most, by their keys, as scripts spell limits.

        unavailable_admissions: Leases it admitted while the store was away, by policy ("local", "open").
    """

    id: str
    host: str = ""
    pid: int = 0
    started_at: float = 0.0
    heartbeat_age: float = 0.0
    models: dict[str, int] = field(default_factory=dict)
    active: int = 0
    waiting: int = 0
    average_latency: float | None = None
    last_completed: float | None = None
    lost: int = 0
    metadata: dict[str, str] = field(default_factory=dict)
    limits: dict[str, str] = field(default_factory=dict)
    unavailable_admissions: dict[str, int] = field(default_factory=dict)


def check_metadata(metadata: dict[str, str] | None) -> dict[str, str] | None:
    """Return metadata that fits a profile, or raise ConfigError."""
    if metadata is None:
        return None
    if not isinstance(metadata, dict) or not all(isinstance(part, str) for pair in metadata.items() for part in pair):
        raise ConfigError("metadata must map text to text")
    if len(msgpack.packb(metadata)) > LARGEST_METADATA:
        raise ConfigError(f"metadata takes more than {LARGEST_METADATA:,} bytes: keep it to a few labels")
    return dict(metadata)


def encode_profile(instance: Instance) -> bytes:
    """Pack a profile; the models with most leases stay where it would grow too large."""
    values = instance.to_dict()
    top = sorted(instance.models.items(), key=lambda item: (-item[1], item[0]))[:64]
    values["models"] = dict(top)
    values["limits"] = dict(list(instance.limits.items())[-MOST_LIMITS:])
    packed: bytes = msgpack.packb(values)
    return packed


def _number(value: object) -> float | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None


def _count(value: object) -> int:
    number = _number(value)
    return int(number) if number is not None and number >= 0 else 0


def decode_profile(id: str, packed: bytes, heartbeat_age: float) -> Instance:
    """Unpack what somebody wrote into the store; whatever is not as it should be is left at its default."""
    values: Any = {}
    if packed and len(packed) <= LARGEST_PROFILE:
        try:
            values = msgpack.unpackb(
                packed,
                raw=False,
                max_array_len=1024,
                max_map_len=256,
                max_str_len=4096,
                max_bin_len=4096,
                max_ext_len=0,
            )
        except Exception:  # noqa: BLE001 - msgpack's errors have no common base, and none of them is our caller's
            values = {}
    if not isinstance(values, dict):
        values = {}

    def mapping(name: str) -> dict[Any, Any]:
        found = values.get(name)
        return found if isinstance(found, dict) else {}

    return Instance(
        id=id,
        host=str(values.get("host", ""))[:256],
        pid=_count(values.get("pid")),
        started_at=_number(values.get("started_at")) or 0.0,
        heartbeat_age=heartbeat_age,
        models={str(name)[:600]: _count(count) for name, count in mapping("models").items()},
        active=_count(values.get("active")),
        waiting=_count(values.get("waiting")),
        average_latency=_number(values.get("average_latency")),
        last_completed=_number(values.get("last_completed")),
        lost=_count(values.get("lost")),
        limits={str(key)[:1024]: str(spec)[:1024] for key, spec in mapping("limits").items()},
        metadata={str(name)[:256]: str(text)[:4096] for name, text in mapping("metadata").items()},
        unavailable_admissions={
            policy: _count(mapping("unavailable_admissions")[policy])
            for policy in ("local", "open")
            if policy in mapping("unavailable_admissions")
        },
    )
