"""Whatever raises, lies, never ends or is far too large: classification gives an answer, and never a wrong one."""

import json
import logging
import math
import time
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, MagicMock, Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelease import Feedback, Outcome, classify
from ratelease.providers import classification, retry_after_of
from ratelease.providers.tables import BUDGETS, CODES, HINTS
from support.sdk_errors import Response, error, gemini_error, openai_error

IGNORED = Feedback(Outcome.IGNORED)


class Raises(Exception):
    """Every attribute of it that anybody asks for raises."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


class RaisesOnAsking:
    """As above, and so does what Python itself may ask."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)

    @property
    def __class__(self) -> Any:
        raise RuntimeError

    def __iter__(self) -> Any:
        raise RuntimeError

    def __len__(self) -> int:
        raise RuntimeError

    def __bool__(self) -> bool:
        raise RuntimeError

    def __eq__(self, other: object) -> bool:
        raise RuntimeError

    __hash__ = None  # type: ignore[assignment]


class Endless(Mapping[Any, Any]):
    """A mapping without end, in which everything is found."""

    def __getitem__(self, key: Any) -> Any:
        return self

    def get(self, *_: Any) -> Any:
        return self

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield "retry-after"

    def items(self) -> Any:
        while True:
            yield "retry-after", self

    def __len__(self) -> int:
        return 10**9


class EvilText(str):
    """A text whose methods lie and raise."""

    __slots__ = ()

    def lower(self) -> Any:
        raise RuntimeError

    def strip(self, *_: Any) -> Any:
        return self

    def __str__(self) -> Any:
        raise RuntimeError

    def __len__(self) -> int:
        return 0


class EvilNumber(int):
    """A number that cannot be compared or shown."""

    def __le__(self, other: object) -> Any:
        raise RuntimeError

    def __ge__(self, other: object) -> Any:
        raise RuntimeError

    __repr__ = __str__ = __format__ = __index__ = __ge__  # type: ignore[assignment]


def _recursive() -> Exception:
    made = error("openai:APIStatusError")
    made.__cause__ = made
    made.__dict__.update(response=made, body=made, error=made, details=made, headers=made, code=made)
    return made


def _circle() -> Exception:
    first, second = RuntimeError(), LookupError()
    first.__cause__, second.__cause__ = second, first
    return first


def _long_chain() -> Exception:
    chain: Exception = openai_error(429, {"code": "rate_limit_exceeded"})
    for _ in range(100_000):
        outer = RuntimeError()
        outer.__cause__ = chain
        chain = outer
    return chain


def _deep_groups() -> Exception:
    group: Exception = ValueError()
    for _ in range(500):
        group = ExceptionGroup("g", [group] * 20)
    return group


NOTHING_TO_LEARN: dict[str, Any] = {
    "attributes raise": Raises(),
    "everything raises": RaisesOnAsking(),
    "raises within": {"headers": RaisesOnAsking(), "body": RaisesOnAsking(), "error": RaisesOnAsking()},
    "a mock": Mock(),
    "a mock of all": MagicMock(),
    "an asynchronous mock": AsyncMock(),
    "a class": TimeoutError,
    "a module": json,
    "an object": object(),
    "a circle": _circle(),
    "a cause beyond reach": _long_chain(),
    "groups in groups": _deep_groups(),
    "odd statuses": error("openai:OpenAIError", status_code=math.nan, status=[429], http_status={"429"}, code=True),
    "statuses that are none": error("openai:OpenAIError", status_code=10**400, status=-429, code="4" * 10**6),
    "a code of a megabyte": error("openai:OpenAIError", code="rate_limit_exceeded" * 60_000),
    "a body of a megabyte": {"body": json.dumps({"error": {"code": "insufficient_quota"}, "pad": "x" * 2**20})},
    "a body without a bottom": {"body": "[" * 60_000},
    "a body of numbers": {"body": '{"error": ' + "9" * 60_000 + "}"},
    "a body that is no JSON": {"body": "<html>429 Too Many Requests</html>"},
    "a body of other bytes": {"body": b"\xff\xfe{\x00error"},
}


@pytest.mark.parametrize("name", NOTHING_TO_LEARN)
def test_nothing_is_learned_from_what_makes_no_sense(name: str) -> None:
    """And nothing raised, and no time lost."""
    began = time.perf_counter()
    assert classify(NOTHING_TO_LEARN[name]) == IGNORED
    assert time.perf_counter() - began < 1


def test_what_can_be_told_of_a_strange_object_is_told() -> None:
    """By its type, its status, or because it holds an error; with values of exactly the types that Feedback has."""
    assert classify(_recursive()) == Feedback(Outcome.ERROR)
    assert classify(Endless()).outcome is Outcome.ERROR
    strange = classify(error("openai:OpenAIError", code=EvilText("slow_down"), status_code=EvilNumber(429)))
    assert strange == Feedback(Outcome.THROTTLED, None, "slow_down", "ramp", status=429)
    assert (type(strange.code), type(strange.status)) == (str, int)


HOSTILE_HEADERS: dict[str, Any] = {
    "a megabyte of digits": {"retry-after": "1" * 2**20},
    "negative": {"retry-after": "-5"},
    "infinite": {"retry-after": "inf"},
    "binary": {"retry-after": "\x00\xff"},
    "a name of a megabyte": {"x" * 2**20: "1", "retry-after-ms": "nan"},
    "ten thousand": {f"x-filler-{n}": "1" for n in range(10_000)},
    "everything raises": RaisesOnAsking(),
    "an endless mapping": Endless(),
    "pairs of anything": [
        RaisesOnAsking(),
        ("retry-after", RaisesOnAsking()),
        (EvilText("retry-after"), EvilText("?")),
    ],
    "a text": "retry-after: 5",
    "a mock": Mock(),
}


@pytest.mark.parametrize("name", HOSTILE_HEADERS)
def test_hostile_headers_leave_a_throttled_call_without_a_hint(name: str) -> None:
    """The status is believed, the headers are not."""
    began = time.perf_counter()
    feedback = classify(Response(429, HOSTILE_HEADERS[name], b"\x00" * 2**20))
    assert feedback == Feedback(Outcome.THROTTLED, status=429)
    assert time.perf_counter() - began < 1


def test_a_property_that_raises_hides_nothing_else() -> None:
    """Each attribute is asked by itself."""

    class Broken(Exception):
        status_code = 429

        @property
        def response(self) -> Any:
            raise RuntimeError

        body = headers = code = response

    assert classify(Broken()) == Feedback(Outcome.THROTTLED, status=429)


def test_what_a_cause_lies_too_deep_for_is_not_looked_at() -> None:
    """Chains of some length are followed."""

    def chain(length: int) -> Exception:
        made: Exception = openai_error(429, {"code": "slow_down"})
        for _ in range(length):
            outer = RuntimeError()
            outer.__cause__ = made
            made = outer
        return made

    assert classify(chain(7)).outcome is Outcome.THROTTLED
    assert classify(chain(8)).outcome is Outcome.IGNORED


def test_a_signal_that_arrives_meanwhile_is_not_swallowed() -> None:
    """Ctrl-C ends the program also here."""

    class Interrupted:
        @property
        def status_code(self) -> int:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        classify(Interrupted())


def test_no_secret_is_logged_and_none_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    """A word for an error has no spaces, and of bodies nothing is told."""
    caplog.set_level(logging.DEBUG)
    body = {"code": "Incorrect API key provided: sk-secret", "type": "sk secret", "message": "sk-secret"}
    feedback = classify(openai_error(401, body, {"authorization": "sk-secret"}))
    assert feedback == Feedback(Outcome.IGNORED, terminal=True, status=401)
    assert "secret" not in caplog.text


_NAMES = [
    "status", "status_code", "code", "type", "error", "Error", "Code", "error_code", "body", "details", "headers",
    "response", "data", "event", "violations", "retryDelay", "quotaValue", "quotaId", "metadata", "seconds", "nanos",
    "ResponseMetadata", "HTTPStatusCode", "HTTPHeaders", "rate_limit_type", "_content", "retry-after",
]  # fmt: skip

ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.sampled_from(["error", "rate_limit_exceeded", "RESOURCE_EXHAUSTED", "0", "34s", "requests", 429, 503, 402]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(_NAMES) | st.text(max_size=5), inner, max_size=5)
        | st.builds(lambda held: SimpleNamespace(**held), st.dictionaries(st.sampled_from(_NAMES), inner, max_size=5))
    ),
    max_leaves=20,
)
_HEADERS = [name for name, _ in HINTS] + [budget.remaining for budget in BUDGETS] + [budget.reset for budget in BUDGETS]


def _is_sound(feedback: Feedback) -> bool:
    wait = feedback.retry_after
    return (
        isinstance(feedback, Feedback)
        and (wait is None or (type(wait) is float and math.isfinite(wait) and wait >= 0))
        and (feedback.code is None or (type(feedback.code) is str and len(feedback.code) <= 100))
        and (feedback.status is None or (type(feedback.status) is int and 100 <= feedback.status < 600))
    )


@given(ANYTHING)
def test_any_object_has_a_feedback(what: Any) -> None:
    """As an answer, as an exception's attributes, as its body and as its cause; with a finite wait or none."""
    assert _is_sound(classification._of(what, None)), "without the last resort against strangers' classes"
    held = what if isinstance(what, dict) else {"body": what}
    held = {str(key): value for key, value in held.items()}
    for name in ("openai:APIError", "genai:ClientError", "psycopg:OperationalError"):
        assert _is_sound(classify(error(name, **held)))


@given(
    st.integers(100, 599),
    st.dictionaries(
        st.sampled_from(_HEADERS) | st.text(max_size=9),
        st.text(max_size=30) | st.binary(max_size=30) | st.from_regex(r"[-0-9.a-zT:]{0,30}", fullmatch=True),
        max_size=6,
    ),
    st.binary(max_size=200) | ANYTHING.map(lambda each: json.dumps(each, default=repr).encode()),
)
def test_any_answer_has_a_feedback(status: int, headers: dict[str, Any], body: bytes) -> None:
    """Whatever its headers and its bytes."""
    assert _is_sound(classify(Response(status, headers, body)))
    wait = retry_after_of(headers, body)
    assert wait is None or (math.isfinite(wait) and wait >= 0)


@given(st.text(max_size=200))
def test_a_text_alone_never_makes_a_reaction(text: str) -> None:
    """In whatever place for people it stands."""
    for what in (text, Exception(text), {"message": text}, {"error": {"message": text}, "status": 400}):
        assert classify(what).outcome is Outcome.IGNORED
    assert classify(gemini_error({"error": {"message": text}}, 503)).outcome is Outcome.OVERLOADED


@given(st.sampled_from(sorted(CODES)), st.integers(200, 599))
def test_a_word_means_the_same_at_every_status(word: str, status: int) -> None:
    """Codes come before statuses."""
    feedback = classify(openai_error(status, {"code": word, "type": "invalid_request_error"}))
    assert (feedback.outcome, feedback.terminal) == (CODES[word].outcome, CODES[word].terminal)
