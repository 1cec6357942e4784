"""What a call used, read from whatever an SDK answers; nothing that an answer holds is believed unread."""

import json
import math
import pickle
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelease import Usage
from ratelease.errors import ConfigError

OPENAI = {"prompt_tokens": 900, "completion_tokens": 100, "total_tokens": 1000}
ANTHROPIC = {
    "input_tokens": 50,
    "cache_creation_input_tokens": 200,
    "cache_read_input_tokens": 9000,
    "output_tokens": 30,
    "service_tier": "standard",
}
GEMINI = {
    "prompt_token_count": 40,
    "candidates_token_count": 10,
    "thoughts_token_count": 25,
    "total_token_count": 75,
}
BEDROCK = {"inputTokens": 7, "outputTokens": 3, "totalTokens": 10}

REPORTS: dict[str, tuple[Any, Usage]] = {
    "OpenAI chat": (OPENAI, Usage(1000, 900, 100)),
    "OpenAI responses": (
        {"input_tokens": 20, "output_tokens": 5, "total_tokens": 25, "input_tokens_details": {"cached_tokens": 10}},
        Usage(25, 20, 5),
    ),
    "OpenAI embeddings": ({"prompt_tokens": 8, "total_tokens": 8}, Usage(8, 8, None)),
    "thinking in the total alone": (
        {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 40},
        Usage(40, 10, 5),
    ),
    "Anthropic": (ANTHROPIC, Usage(280, 250, 30)),
    "Anthropic without a cache": (
        {"input_tokens": 50, "cache_creation_input_tokens": None, "output_tokens": 30},
        Usage(80, 50, 30),
    ),
    "the end of an Anthropic stream": ({"output_tokens": 30}, Usage(None, None, 30)),
    "Gemini": (GEMINI, Usage(75, 40, 35)),
    "Gemini over HTTP": (
        {"promptTokenCount": 40, "candidatesTokenCount": 10, "toolUsePromptTokenCount": 2, "totalTokenCount": 52},
        Usage(52, 42, 10),
    ),
    "Bedrock": (BEDROCK, Usage(10, 7, 3)),
    "Bedrock with a cache": (
        {**BEDROCK, "cacheReadInputTokens": 500, "cacheWriteInputTokens": 20, "totalTokens": 530},
        Usage(30, 27, 3),
    ),
    "Cohere": (
        {"billed_units": {"input_tokens": 5, "output_tokens": 6}, "tokens": {"input_tokens": 71, "output_tokens": 6}},
        Usage(77, 71, 6),
    ),
    "Cohere embeddings": ({"billed_units": {"input_tokens": 5.0}}, Usage(None, 5, None)),
    "Ollama": ({"prompt_eval_count": 26, "eval_count": 298}, Usage(324, 26, 298)),
    "its own": ({"tokens": 12}, Usage(12)),
}


def as_object(value: Any) -> Any:
    """The same with attributes instead of keys, as the SDKs have it."""
    if isinstance(value, dict):
        return SimpleNamespace(**{name: as_object(each) for name, each in value.items()})
    return value


@pytest.mark.covers("TK-03")
@pytest.mark.parametrize("name", REPORTS)
@pytest.mark.parametrize("shape", [dict, as_object], ids=["keys", "attributes"])
@pytest.mark.parametrize("holder", [None, "usage", "usage_metadata", "usageMetadata", "meta"])
def test_the_usage_that_an_sdk_reports_is_read(name, shape, holder) -> None:
    """From the usage object itself, or from an answer that carries it."""
    report, usage = REPORTS[name]
    assert Usage.of(shape(report if holder is None else {"id": "x-1", "tokens": "many", holder: report})) == usage


@pytest.mark.covers("TK-03")
@pytest.mark.parametrize("shape", [dict, as_object], ids=["keys", "attributes"])
def test_the_last_event_of_a_stream_is_read(shape) -> None:
    """Its usage lies one level deeper; the events before it report none."""
    responses, usage = REPORTS["OpenAI responses"]
    completed = {"type": "response.completed", "response": {"id": "resp_1", "metadata": {}, "usage": responses}}
    assert Usage.of(shape(completed)) == usage
    assert Usage.of(shape({"metadata": {"usage": BEDROCK, "metrics": {"latencyMs": 5}}})) == Usage(10, 7, 3)
    for event in ({"type": "response.created", "response": {"usage": None}}, {"contentBlockDelta": {"delta": {}}}):
        assert Usage.of(shape(event)) is None
    # What stands in an answer itself comes first; its other metadata are the caller's.
    assert Usage.of(shape({"usage": BEDROCK, "metadata": {"usage": OPENAI}})) == Usage(10, 7, 3)
    assert Usage.of(shape({"metadata": {"tokens": 5, "usage": 5}})) is None


@pytest.mark.covers("TK-03")
def test_a_usage_and_a_whole_number_stand_for_themselves() -> None:
    """A number is tokens in all; nothing known is None."""
    assert Usage.of(Usage(input_tokens=3)) == Usage(input_tokens=3)
    assert Usage.of(1200) == Usage(tokens=1200)
    assert (Usage.of(None), Usage.of(Usage())) == (None, None)


class Hostile:
    """Raises wherever it is looked at."""

    @property
    def usage(self) -> int:
        raise RuntimeError("not loaded")

    def __getattr__(self, name: str) -> int:
        raise AttributeError(name) if name.startswith("__") else ValueError(name)


class Endless:
    """Has every attribute, each of them as endless as itself."""

    def __getattr__(self, name: str) -> "Endless":
        if name.startswith("__"):
            raise AttributeError(name)
        return Endless()


@pytest.mark.covers("TK-03")
@pytest.mark.parametrize("bad", [-1, True, "900", math.nan, math.inf, 10**13, 1.5, None, [], {}, Hostile()])
def test_a_figure_that_cannot_be_one_is_passed_over(bad) -> None:
    """The others count; with nothing left there is no usage."""
    assert Usage.of({**OPENAI, "prompt_tokens": bad}) == Usage(1000, None, 100)
    assert Usage.of({"prompt_tokens": bad, "completion_tokens": bad, "total_tokens": bad}) is None
    assert Usage.of({**ANTHROPIC, "cache_creation_input_tokens": bad}) == Usage(80, 50, 30)
    assert Usage.of(bad) is None


@pytest.mark.parametrize("odd", ["text", b"bytes", [1, 2], object(), print, Hostile(), Endless(), SimpleNamespace])
def test_what_reports_no_usage_has_none(odd) -> None:
    """Nothing raises, and nothing is made up."""
    assert Usage.of(odd) is None
    assert Usage.of({"usage": odd}) is None
    assert Usage.of(SimpleNamespace(usage=odd)) is None


HOLDERS = ["usage", "meta", "response", "metadata", "tokens", "billed_units", *OPENAI]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.dictionaries(st.sampled_from(HOLDERS), inner),
    max_leaves=12,
)


@given(JSON)
def test_any_answer_is_read_without_raising(answer) -> None:
    """And whatever is read can be charged."""
    usage = Usage.of(answer)
    assert usage is None or all(0 <= n <= 10**12 for n in usage.charges().values())


def test_charges_add_up_what_is_known() -> None:
    """The total is the sum of both parts, unless it is given; with one part alone it is unknown."""
    assert Usage(input_tokens=3, output_tokens=4).charges() == {"tokens": 7, "input_tokens": 3, "output_tokens": 4}
    assert Usage(9, 3, 4).charges() == {"tokens": 9, "input_tokens": 3, "output_tokens": 4}
    assert Usage(input_tokens=3).charges() == {"input_tokens": 3}
    assert Usage().charges() == {}


@pytest.mark.parametrize("bad", [-1, True, "900", math.nan, 1.0, 10**12 + 1])
def test_a_usage_of_ones_own_names_every_wrong_figure(bad) -> None:
    """All of them in one error."""
    with pytest.raises(ConfigError, match=r"tokens must be .* input_tokens must be .* output_tokens must be"):
        Usage(bad, bad, bad)


def test_a_usage_is_a_value() -> None:
    """It is plain in JSON, and survives pickle."""
    usage = Usage(input_tokens=3)
    assert json.loads(json.dumps(usage.to_dict())) == {"tokens": None, "input_tokens": 3, "output_tokens": None}
    assert pickle.loads(pickle.dumps(usage)) == usage  # noqa: S301 - made a moment ago
