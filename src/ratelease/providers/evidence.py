"""What an exception or an answer holds that tells of a failure: status, words, headers, body."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

from .reading import body_of, call, headers_of, is_mapping, items, read, text, whole, word
from .tables import CLIENT_LIBRARIES, ERROR_HEADER, canonical

# Where SDKs keep a status, and a body that was parsed or read before; reading none of these waits for the network.
_STATUSES = ("status_code", "status", "http_status")
_BODIES = ("body", "details", "response_json", "json_body", "_content", "_body")
_HEADERS = ("headers", "litellm_response_headers")

# Where errors have their word, the most telling names first.
_WORDS = ("error_code", "Code", "code", "error_type", "__type", "type", "rate_limit_type", "status")

# Those that stand for a code everywhere; type and status are names for anything in a program's own exceptions.
_CODES = frozenset({"error_code", "Code", "code", "error_type", "__type"})

# What an event of a stream is called that says only that there is an error.
_FAILED = frozenset({"error", "response.failed"})


@dataclass(frozen=True, slots=True)
class Evidence:
    """
    What was found.

    Attributes:

        status: The HTTP status of the failure, where there is one; else that of the answer.

        words: The provider's words for the error, the most telling first.

        headers: As :func:`headers_of` reads them.

        bodies: Whatever may hold Google's details.

        failed: There is an error, even if no word of it is known.

        foreign: It is an exception that no client's library has raised, and nothing on it comes from an answer: of its
            words only codes count, which mean nothing else.
    """

    status: int | None = None
    words: tuple[str, ...] = ()
    headers: dict[str, str] = field(default_factory=dict)
    bodies: tuple[object, ...] = ()
    failed: bool = False
    foreign: bool = False

    @classmethod
    def of(cls, what: object, kinds: list[tuple[str, str]] | None = None) -> Self:
        """Look at an exception, whose types are `kinds`, or at an answer, and at the answer that an exception has."""
        response = read(what, "response")
        places = [what] if response is None else [what, response]
        bodies = [body for place in places for body in _bodies(place)]
        errors = _errors([*places, *bodies])
        headers = next((each for place in places if (each := _headers(place))), {})
        status = _status_of(places, errors)
        known = not kinds or any(root in CLIENT_LIBRARIES for root, _ in kinds)
        foreign = not (known or headers or status is not None or _bodies(response))
        words = _words([*places, *bodies, *errors], errors, [what, *_errors([what])] if foreign else [])
        if (named := word(headers.get(ERROR_HEADER, "").partition(":")[0])) is not None:
            words.insert(0, named)
        if kinds and kinds[0][0] == "google":
            # Its exceptions bear the names of the codes that they stand for.
            words.append(kinds[0][1])
        if (named := _grpc_code(what, kinds or [])) is not None:
            words.insert(0, named)
        failed = any(is_mapping(error, 1) for error in errors)
        failed = failed or any(text(read(each, "type")) in _FAILED for each in (what, *bodies))
        # google.api_core keeps the details on the exception.
        own = [what] if items(read(what, "details")) else []
        return cls(status, tuple(words), headers, (*bodies, *own), failed and not foreign, foreign)


def _grpc_code(what: object, kinds: list[tuple[str, str]]) -> str | None:
    """The name of the code of a gRPC error: a method tells it, which waits where the call has not ended."""
    if ("grpc", "RpcError") not in kinds or call(what, "done") is False:
        return None
    return word(read(call(what, "code"), "name"))


def _errors(places: list[Any]) -> list[Any]:
    return [error for place in places for name in ("error", "Error") if (error := read(place, name))]


def _status_of(places: list[object], errors: list[Any]) -> int | None:
    status = next((found for place in places if (found := _status(place)) is not None), None)
    if status is None or status < 400:
        # Some keep it as a code, and a gateway may put the one it was given into a body (OpenRouter).
        codes = (whole(read(each, "code"), 400, 599) for each in (places[0], *errors))
        status = next((code for code in codes if code is not None), status)
    return status


def _bodies(place: object) -> list[object]:
    names: tuple[str, ...] = _BODIES
    if is_mapping(place) or text(read(place, "event")) is not None:
        # An event's data; elsewhere the same name may stand for reading all of an answer (urllib3).
        names += ("data",)
    return [body for name in names if (body := body_of(read(place, name))) is not None]


def _headers(place: object) -> dict[str, str]:
    sources = [read(place, name) for name in _HEADERS]
    sources.append(read(read(place, "ResponseMetadata"), "HTTPHeaders"))
    return next((found for source in sources if (found := headers_of(source))), {})


def _status(place: object) -> int | None:
    sources = [read(place, name) for name in _STATUSES]
    sources.append(read(read(place, "ResponseMetadata"), "HTTPStatusCode"))
    return next((status for source in sources if (status := whole(source, 100, 599)) is not None), None)


def _words(nodes: list[object], errors: list[object], foreign: list[object]) -> list[str]:
    """Every word for the error, by how telling the place is where it stands; of `foreign` ones only their codes."""

    def counts(node: object, name: str) -> bool:
        return name in _CODES or not any(node is each for each in foreign)

    sources = [read(read(node, "details"), "error_code") for node in nodes]
    sources += [_renamed(name, read(node, name)) for name in _WORDS for node in nodes if counts(node, name)]
    sources += [read(read(error, "metadata"), "error_type") for error in errors]
    sources += [error for error in errors if counts(error, "")]
    found: list[str] = []
    for source in sources:
        # "com.amazonaws.bedrock#ThrottlingException"
        each = (word(source) or "").rpartition("#")[2]
        if canonical(each) and each not in found and each not in _FAILED and whole(each, 100, 599) is None:
            found.append(each)
    return found


def _renamed(name: str, value: object) -> object:
    """LiteLLM says "budget" of a limit, where others would have a word that is used for nothing else."""
    return "budget_exceeded" if name == "rate_limit_type" and text(value) == "budget" else value
