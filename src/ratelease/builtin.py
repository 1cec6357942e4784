"""
Limits that hold where nobody has said anything: examples for a few models, and the fallback for all others.

The examples are figures of the order that these providers have had for accounts of a middle tier. Accounts differ and
providers change: they are a start, and no promise. Whatever an argument or a file says of a model, of its provider or
of a pool that it is in, drops its example whole.
"""

from __future__ import annotations

import functools
from types import MappingProxyType
from typing import Final

from .limits import Limits

# Requests a minute of one model.
EXAMPLES: Final = MappingProxyType(
    {
        "openai/gpt-4o": 500,
        "openai/gpt-4o-mini": 1000,
        "anthropic/claude-3.5-sonnet": 1000,
        "anthropic/claude-3.5-haiku": 2000,
        "google/gemini-1.5-pro": 300,
        "gemini/gemini-1.5-pro": 300,
    }
)


@functools.cache
def examples() -> dict[str, Limits]:
    """The entries of the table. Made when they are first asked for, since importing makes no limits."""
    return {key: Limits(rpm=rpm) for key, rpm in EXAMPLES.items()}


@functools.cache
def fallback() -> Limits:
    """What a model gets that nothing speaks of, unless `unknown` says otherwise."""
    return Limits(rpm=30, concurrency=2)
