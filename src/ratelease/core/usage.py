"""What a call really used, as its own program says, or as any SDK's usage object does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Integral

from ..checks import shown
from ..errors import ConfigError
from .plain import Plain

HIGHEST_TOKENS = 10**12


@dataclass(frozen=True, slots=True)
class Usage(Plain):
    """
    The tokens that a call has used, as far as they are known.

    Args:

        tokens: In all. None: the sum of the other two, where both are known.

        input_tokens, output_tokens: The two parts.

    Raises:

        ConfigError: A figure is not a whole number from 0 to 10**12; all faults are named.
    """

    tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None

    def __post_init__(self) -> None:
        faults = [
            f"{name} must be a whole number from 0 to {HIGHEST_TOKENS:,}, not {value!r}"
            for name, value in self._figures()
            if value is not None
            and (isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= HIGHEST_TOKENS)
        ]
        if faults:
            raise ConfigError("Usage: " + "; ".join(faults))

    def _figures(self) -> list[tuple[str, int | None]]:
        return [(field.name, getattr(self, field.name)) for field in fields(self)]

    @classmethod
    def of(cls, obj: object) -> Usage | None:
        """
        Read the usage that an SDK's answer, or its usage object, reports; None where it reports none.

        Attributes and keys are read alike, in the spellings of OpenAI (both interfaces and whoever copies them),
        Anthropic, Gemini, Bedrock, Cohere and Ollama, also from the last event of a stream. Input that was read from a
        provider's cache does not count where it is reported apart (Anthropic, Bedrock), as their limits do not count it
        either; what was written to the cache does. A whole number stands for tokens. What is negative, no number, or
        absurdly large is passed over; nothing that `obj` is or does raises here.
        """
        if isinstance(obj, Usage):
            return obj if obj.charges() else None
        number = _number(obj)
        if number is not None:
            return cls(tokens=number)
        # A usage object may lie in the answer, and its figures one level below that (Cohere).
        outer = [found for name in _HOLDERS if (found := read(obj, name)) is not None]
        outer += [obj, *(read(read(obj, name), "usage") for name in _EVENTS)]
        for place in outer:
            for each in (place, *(read(place, name) for name in _INNER)):
                usage = _figures(each)
                if usage is not None:
                    return usage
        return None

    @classmethod
    def stated(cls, obj: object) -> Usage | None:
        """
        As :meth:`of`, of what a caller states: objects may be anybody's and say nothing.

        Raises:

            ConfigError: It is a text, or a number that cannot be one of tokens.
        """
        found = cls.of(obj)
        if found is None and issubclass(type(obj), (str, bytes, int, float)):
            # A text is not shown: it may be the answer itself.
            what = type(obj).__name__ if isinstance(obj, (str, bytes)) else shown(obj)
            raise ConfigError(
                f"usage must be a whole number of tokens from 0 to {HIGHEST_TOKENS:,}, a Usage, an SDK's usage object "
                f"or None, not {what}"
            )
        return found

    def charges(self) -> dict[str, int]:
        """What is known of each unit: "tokens", "input_tokens", "output_tokens"."""
        known = {name: value for name, value in self._figures() if value is not None}
        if self.tokens is None and len(known) == 2:
            known["tokens"] = min(sum(known.values()), HIGHEST_TOKENS)
        return known


@dataclass(frozen=True, slots=True)
class _Spelling:
    """
    How one family of SDKs names its figures.

    `more_input` and `more_output` are counted beside the first two. Where `cached` is reported, what was read from
    the cache stands apart from the input, and the total, which may hold it, is not believed.
    """

    input: str
    output: str
    totals: tuple[str, ...] = ()
    more_input: str = ""
    more_output: str = ""
    cached: str = ""


_HOLDERS = ("usage", "usage_metadata", "usageMetadata", "meta")
_INNER = ("tokens", "billed_units")
# Where the last event of a stream has what holds the usage: response.completed of OpenAI, metadata of Bedrock.
_EVENTS = ("response", "metadata")
_SPELLINGS = (
    _Spelling("prompt_tokens", "completion_tokens", ("total_tokens",)),
    _Spelling(
        "input_tokens",
        "output_tokens",
        ("total_tokens", "tokens"),
        more_input="cache_creation_input_tokens",
        cached="cache_read_input_tokens",
    ),
    _Spelling(
        "inputTokens",
        "outputTokens",
        ("totalTokens",),
        more_input="cacheWriteInputTokens",
        cached="cacheReadInputTokens",
    ),
    _Spelling(
        "prompt_token_count",
        "candidates_token_count",
        ("total_token_count",),
        more_input="tool_use_prompt_token_count",
        more_output="thoughts_token_count",
    ),
    _Spelling(
        "promptTokenCount",
        "candidatesTokenCount",
        ("totalTokenCount",),
        more_input="toolUsePromptTokenCount",
        more_output="thoughtsTokenCount",
    ),
    _Spelling("prompt_eval_count", "eval_count"),
)


def _figures(obj: object) -> Usage | None:
    """The usage that these very attributes or keys say; the first spelling of which a part is found decides."""
    if obj is None:
        return None
    only_total: Usage | None = None
    for spelling in _SPELLINGS:
        input_tokens = _sum(obj, spelling.input, spelling.more_input)
        output_tokens = _sum(obj, spelling.output, spelling.more_output)
        totals = [total for name in spelling.totals if (total := _count(obj, name)) is not None]
        if input_tokens is None and output_tokens is None:
            # The spellings share names of the total: a later one may know its parts.
            only_total = only_total or (Usage(max(totals)) if totals else None)
            continue
        if spelling.cached and _count(obj, spelling.cached):
            totals = []
        if input_tokens is not None and output_tokens is not None:
            # Thinking may be in the total alone, so the larger one is what was used.
            totals.append(min(input_tokens + output_tokens, HIGHEST_TOKENS))
        return Usage(max(totals, default=None), input_tokens, output_tokens)
    return only_total


def _sum(obj: object, name: str, more: str) -> int | None:
    found = _count(obj, name)
    if found is None or not more:
        return found
    return min(found + (_count(obj, more) or 0), HIGHEST_TOKENS)


def _count(obj: object, name: str) -> int | None:
    return _number(read(obj, name))


def _number(value: object) -> int | None:
    """A number of tokens, if it is one: whole, from 0 to the highest. Some transports make every number a float."""
    try:
        if isinstance(value, bool):
            return None
        if isinstance(value, float):
            whole = int(value) if math.isfinite(value) and value == int(value) else -1
        elif isinstance(value, Integral):
            whole = int(value)
        else:
            return None
        return whole if 0 <= whole <= HIGHEST_TOKENS else None
    except Exception:  # noqa: BLE001 - somebody else's type may do anything
        return None


def read(obj: object, name: str) -> object:
    """One key of a mapping or one attribute of anything else; None where there is none or it raises."""
    try:
        return obj.get(name) if isinstance(obj, Mapping) else getattr(obj, name, None)
    except Exception:  # noqa: BLE001 - a property of somebody else's class may do anything
        return None
