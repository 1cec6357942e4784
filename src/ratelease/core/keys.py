"""
The only place that spells a key, a scope, a path or a hash tag.

    rl:{<namespace>}:store | instances | paths | profiles | overrides | journal   of the namespace
    rl:{<namespace>}:<scope>:state | windows | leases | index | learned   of a scope
    rl:{<namespace>}:<model scope>:records | graves                  of a model
    rl:{<namespace>}:q:<path>:queue | claims                         of a path
    rl:{<namespace>}:inbox:<instance>                                channel of a process

A scope is `m:<provider>:<model>`, `g:<pool>`, `p:<provider>` or `t`, the first and third with `:<credential>` if the
client has one; a path is its scopes joined by `~`, the model first. Names are case-folded, and every byte outside
`a-z 0-9 . _ -` is written %XX: the spelling is injective, has no separator of ours in a name, and one hash tag.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from urllib.parse import unquote

from ..names import check_name, check_provider

# How many names each kind of scope has, the credential's among them.
_SCOPE_PARTS: dict[str, tuple[int, ...]] = {"m": (2, 3), "g": (1,), "p": (1, 2), "t": (0,)}

_SAFE = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789._-")


def encode(name: str) -> str:
    """Spell a name for a key: case-folded, injective, in a safe charset."""
    return "".join(chr(byte) if byte in _SAFE else f"%{byte:02X}" for byte in name.casefold().encode("utf-8"))


def decode(part: str) -> str:
    """The case-folded name that :func:`encode` spelt."""
    return unquote(part)


def credential_label(credential: str | None) -> str | None:
    """A short hash of a credential's label: the label itself never reaches Redis."""
    if credential is None:
        return None
    return hashlib.sha256(check_name(credential, "credential", "credential='team-a'").encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Path:
    """The scopes that one acquire must satisfy together: model, its pools, provider, total."""

    scopes: tuple[str, ...]
    name: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", "~".join(self.scopes))

    @property
    def provider(self) -> str:
        """The provider's case-folded name."""
        return decode(self.scopes[0].split(":")[1])

    @property
    def model(self) -> str:
        """The model's case-folded name."""
        return decode(self.scopes[0].split(":")[2])


def make_path(provider: str, model: str, pools: tuple[str, ...], credential: str | None) -> Path:
    """The path of a model in these pools; names are checked by the caller."""
    owner, tail = encode(provider), f":{credential}" if credential else ""
    return Path(
        (
            f"m:{owner}:{encode(model)}{tail}",
            *(f"g:{encode(pool)}" for pool in sorted(set(pools))),
            f"p:{owner}{tail}",
            "t",
        )
    )


def scope_of(provider: str, model: str | None, credential: str | None) -> str:
    """
    The scope that people mean: a model, or by one name a provider, "total" or "pool:<name>".

    Raises:

        ConfigError: A name cannot be one.
    """
    if model is not None:
        return make_path(check_provider(provider), check_name(model, "model"), (), credential).scopes[0]
    name = check_name(provider, "provider").casefold()
    if name == "total":
        return "t"
    if name.startswith("pool:"):
        return make_path("-", "-", (check_name(name[5:], "pool", "'pool:opus'"),), None).scopes[1]
    return make_path(check_provider(name, alone=True), "-", (), credential).scopes[1]


def parse_path(name: str) -> Path | None:
    """The path that a script has named; None for anything that no path is called (the store is not trusted)."""
    scopes = tuple(name.split("~"))
    if len(name) > 8192 or len(scopes) < 3 or not name.startswith("m:") or scopes[-1] != "t":
        return None
    return Path(scopes) if all(map(is_scope, scopes)) else None


def is_scope(name: str) -> bool:
    """Whether a scope may be called so."""
    kind, *parts = name.split(":")
    return len(parts) in _SCOPE_PARTS.get(kind, ()) and all(parts)


def scope_label(scope: str) -> str:
    """How people write a scope: openai/gpt-4o, pool:opus, openai, total."""
    kind, *parts = scope.split(":")
    names = [decode(part) for part in parts]
    if kind == "m":
        return "/".join(names[:2])
    if kind == "g":
        return f"pool:{names[0]}"
    return names[0] if kind == "p" else "total"


class Keyspace:
    """The keys of one namespace."""

    def __init__(self, namespace: str) -> None:
        self.namespace = check_name(namespace, "namespace")
        self.base = f"rl:{{{encode(namespace)}}}:"
        self.inbox_prefix = f"{self.base}inbox:"
        self.overrides = f"{self.base}overrides"
        self.journal = f"{self.base}journal"

    @property
    def instance_keys(self) -> list[str]:
        """KEYS of beat.lua."""
        return [self.base + kind for kind in ("store", "instances", "paths", "profiles")]

    def scope_keys(self, scope: str) -> list[str]:
        """KEYS of configure.lua."""
        own = f"{self.base}{scope}:"
        return [f"{self.base}store", self.overrides, f"{own}state", self.journal, f"{own}learned"]

    def path_keys(self, path: Path) -> list[str]:
        """KEYS of every script that works on a path, in the order of acquire.lua's header."""
        model, queue = f"{self.base}{path.scopes[0]}", f"{self.base}q:{path.name}"
        keys = [self.base + kind for kind in ("store", "instances", "paths")]
        keys += [f"{queue}:queue", f"{queue}:claims", f"{model}:records", f"{model}:graves", self.overrides]
        for scope in path.scopes:
            keys += [f"{self.base}{scope}:{kind}" for kind in ("state", "windows", "leases", "index", "learned")]
        return keys
