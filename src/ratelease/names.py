"""Names of providers, models and pools: which are allowed, and which spellings mean the same entry."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .errors import ConfigError

LONGEST_NAME = 256

# A snapshot's date at the end of a name: -20241022, @20241022, -2024-08-06. Four digits may be anything (-0613, -2407).
_DATE = re.compile(
    r"(?<=.)[-@]20\d\d(?:(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])|-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01]))$"
)
_DOT = re.compile(r"(?<=\d)\.(?=\d)")


def check_name(name: object, what: str, example: str = "acquire('openai', 'gpt-4o')") -> str:
    """
    Return the name, if it can be one. `example` shows where it stands.

    Raises:

        ConfigError: It is no text, empty, too long, not encodable, or holds control characters or braces.
    """
    if not isinstance(name, str):
        raise ConfigError(f"{what} must be text, not {type(name).__name__}")
    if not name.strip():
        raise ConfigError(f"{what} is empty: name it, as in {example}")
    if len(name) > LONGEST_NAME:
        raise ConfigError(
            f"{what} has {len(name):,} characters ({name[:24]!a}…): the longest name is {LONGEST_NAME}. "
            "Is this a prompt instead of a name?"
        )
    if any(ord(char) < 32 or ord(char) == 127 for char in name):
        raise ConfigError(f"{what} {name!a} has control characters: pass the bare name")
    if "{" in name or "}" in name:
        raise ConfigError(f"{what} {name!a} has braces: is this a template that was not filled in?")
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise ConfigError(f"{what} {name!a} is not valid Unicode: it has a lone surrogate") from None
    return name


def check_provider(name: object, *, alone: bool = False) -> str:
    """
    Return a provider's name, case-folded. `alone`: it was given without a model.

    Raises:

        ConfigError: As :func:`check_name`; or it names another kind of scope, or a provider and a model in one.
    """
    provider = check_name(name, "provider").casefold()
    if provider == "total" or provider.startswith("pool:"):
        raise ConfigError(f"provider {provider!a} is no provider: that is what the total and pools are called")
    if alone and "/" in provider:
        owner, _, model = provider.partition("/")
        raise ConfigError(f"provider {provider!a} has a slash: give the names apart, as in ({owner!a}, {model!a})")
    return provider


def normal_form(name: str) -> str:
    """Spell a name as environment variables do: upper case, letters and digits alone. gemini-1.5-pro is GEMINI15PRO."""
    return "".join(char for char in name.upper() if char.isalnum())


def undated(model: str) -> str:
    """Return the name without the date of a snapshot; as it is where it has none."""
    return _DATE.sub("", model)


def dashed(model: str) -> str:
    """Return the name with a dash for each dot between two digits: claude-3.5-sonnet is claude-3-5-sonnet."""
    return _DOT.sub("-", model)


def spellings(model: str) -> Iterator[str]:
    """
    Yield what an entry for this model may be called, the closest first: itself, with dashes, then without its date.

    An entry is compared with each of them as it is written and with dashes.
    """
    seen = set()
    base = undated(model)
    for name in (model, dashed(model), base, dashed(base)):
        if name not in seen:
            seen.add(name)
            yield name


def matches(pattern: str, name: str) -> bool:
    """Whether the name is the pattern, where each star stands for any letters, or none. Nothing else is special."""
    head, *rest = pattern.split("*")
    if not rest:
        return pattern == name
    if not name.startswith(head) or not name.endswith(rest[-1]) or len(name) < len(pattern.replace("*", "")):
        return False
    at, end = len(head), len(name) - len(rest[-1])
    for part in rest[:-1]:
        found = name.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


def precedence(pattern: str) -> tuple[int, str]:
    """Sort key of patterns: the one with most letters first, however they were ordered."""
    return -len(pattern.replace("*", "")), pattern


def split_key(key: object) -> tuple[str, str | None]:
    """
    Split a key of limits at its first slash into provider and model, case-folded; no slash, no model.

    Raises:

        ConfigError: It names no provider, or the provider is a pattern.
    """
    if not isinstance(key, str) or not key.strip():
        raise ConfigError(f"a key of limits must be 'provider/model', 'provider' or 'total', not {key!a}")
    provider, slash, model = key.casefold().partition("/")
    if provider.startswith("pool:"):
        raise ConfigError(
            f"limits[{key!a}]: pools have an argument of their own: pools={{{provider[5:]!a}: Pool(limits=…)}}"
        )
    if provider == "total" and slash:
        raise ConfigError(f"limits[{key!a}]: 'total' stands for all providers together, it has no models")
    if provider.strip("*") == "" or (slash and not model):
        raise ConfigError(f"limits[{key!a}]: name a provider; a bare '*' would hide every mistake in a name")
    if "*" in provider:
        raise ConfigError(f"limits[{key!a}]: a pattern may stand behind the slash only")
    try:
        check_name(provider, "the provider")
        if slash:
            check_name(model, "the model")
    except ConfigError as error:
        raise ConfigError(f"limits[{key[:80]!a}]: {error}") from None
    return provider, model if slash else None
