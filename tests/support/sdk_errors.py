"""
Exceptions and answers as SDKs make them, without the SDKs: the same names, modules, bases and attributes.

Compared with openai 3.54, anthropic 2.12, httpx2 2.16, botocore 1.44, google-genai 3.4, google-api-core 2.44, litellm
1.109, requests 2.34, aiohttp 3.14 and grpcio 1.85.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

# Module and bases of each type, by "library:Name".
_BASES: dict[str, tuple[str, tuple[str, ...]]] = {
    "openai:OpenAIError": ("openai", ()),
    "openai:APIError": ("openai", ("openai:OpenAIError",)),
    "openai:LengthFinishReasonError": ("openai", ("openai:OpenAIError",)),
    "openai:APIResponseValidationError": ("openai", ("openai:APIError",)),
    "openai:APIStatusError": ("openai", ("openai:APIError",)),
    "openai:APIConnectionError": ("openai", ("openai:APIError",)),
    "openai:APITimeoutError": ("openai", ("openai:APIConnectionError",)),
    "openai:BadRequestError": ("openai", ("openai:APIStatusError",)),
    "openai:RateLimitError": ("openai", ("openai:APIStatusError",)),
    "openai:InternalServerError": ("openai", ("openai:APIStatusError",)),
    "anthropic:AnthropicError": ("anthropic", ()),
    "anthropic:APIError": ("anthropic", ("anthropic:AnthropicError",)),
    "anthropic:APIStatusError": ("anthropic", ("anthropic:APIError",)),
    "anthropic:BadRequestError": ("anthropic", ("anthropic:APIStatusError",)),
    "anthropic:PaymentRequiredError": ("anthropic", ("anthropic:APIStatusError",)),
    "anthropic:RateLimitError": ("anthropic", ("anthropic:APIStatusError",)),
    "anthropic:RampLimitExceededError": ("anthropic", ("anthropic:RateLimitError",)),
    "anthropic:InternalServerError": ("anthropic", ("anthropic:APIStatusError",)),
    "anthropic:OverloadedError": ("anthropic", ("anthropic:InternalServerError",)),
    "anthropic:GatewayTimeoutError": ("anthropic", ("anthropic:InternalServerError",)),
    "litellm:RateLimitError": ("litellm.exceptions", ("openai:RateLimitError",)),
    "litellm:Timeout": ("litellm.exceptions", ("openai:APITimeoutError",)),
    "litellm:BudgetExceededError": ("litellm.exceptions", ()),
    "httpx:HTTPStatusError": ("httpx", ()),
    "httpx:TransportError": ("httpx", ()),
    "httpx:TimeoutException": ("httpx", ("httpx:TransportError",)),
    "httpx:ReadTimeout": ("httpx", ("httpx:TimeoutException",)),
    "httpx:PoolTimeout": ("httpx", ("httpx:TimeoutException",)),
    "httpx:ConnectError": ("httpx", ("httpx:TransportError",)),
    "httpx:UnsupportedProtocol": ("httpx", ("httpx:TransportError",)),
    "httpx2:TransportError": ("httpx2", ()),
    "httpx2:TimeoutException": ("httpx2", ("httpx2:TransportError",)),
    "httpx2:ConnectTimeout": ("httpx2", ("httpx2:TimeoutException",)),
    "httpx2:RemoteProtocolError": ("httpx2", ("httpx2:TransportError",)),
    "requests:RequestException": ("requests.exceptions", ("OSError",)),
    "requests:HTTPError": ("requests.exceptions", ("requests:RequestException",)),
    "requests:ConnectionError": ("requests.exceptions", ("requests:RequestException",)),
    "requests:Timeout": ("requests.exceptions", ("requests:RequestException",)),
    "requests:ConnectTimeout": ("requests.exceptions", ("requests:ConnectionError", "requests:Timeout")),
    "aiohttp:ClientError": ("aiohttp.client_exceptions", ()),
    "aiohttp:ClientResponseError": ("aiohttp.client_exceptions", ("aiohttp:ClientError",)),
    "aiohttp:ClientConnectionError": ("aiohttp.client_exceptions", ("aiohttp:ClientError",)),
    "aiohttp:ServerTimeoutError": (
        "aiohttp.client_exceptions",
        ("aiohttp:ClientConnectionError", "TimeoutError"),
    ),
    "botocore:ClientError": ("botocore.exceptions", ()),
    "botocore:EventStreamError": ("botocore.exceptions", ("botocore:ClientError",)),
    "botocore:HTTPClientError": ("botocore.exceptions", ()),
    "botocore:ReadTimeoutError": ("botocore.exceptions", ("botocore:HTTPClientError",)),
    "botocore:EndpointConnectionError": ("botocore.exceptions", ("botocore:ConnectionError",)),
    "botocore:ConnectionError": ("botocore.exceptions", ()),
    "genai:ClientError": ("google.genai.errors", ()),
    "genai:ServerError": ("google.genai.errors", ()),
    "google:GoogleAPICallError": ("google.api_core.exceptions", ()),
    "google:ResourceExhausted": ("google.api_core.exceptions", ("google:GoogleAPICallError",)),
    "google:DeadlineExceeded": ("google.api_core.exceptions", ("google:GoogleAPICallError",)),
    "google:ServiceUnavailable": ("google.api_core.exceptions", ("google:GoogleAPICallError",)),
    "google:RetryError": ("google.api_core.exceptions", ()),
    "grpc:RpcError": ("grpc", ()),
    "grpc:_InactiveRpcError": ("grpc._channel", ("grpc:RpcError",)),
    "grpc:_MultiThreadedRendezvous": ("grpc._channel", ("grpc:RpcError",)),
    "grpc:AioRpcError": ("grpc.aio._call", ("grpc:RpcError",)),
    "psycopg:OperationalError": ("psycopg.errors", ()),
}

_BUILT_IN: dict[str, type[Exception]] = {"OSError": OSError, "TimeoutError": TimeoutError}
_made: dict[str, type[Exception]] = {}


def kind(name: str) -> type[Exception]:
    """Return the look-alike of one type, "openai:RateLimitError", made once."""
    if name in _BUILT_IN:
        return _BUILT_IN[name]
    if name not in _made:
        module, bases = _BASES[name]
        above = tuple(kind(base) for base in bases) or (Exception,)
        _made[name] = type(name.partition(":")[2], above, {"__module__": module})
    return _made[name]


def error(name: str, /, **attributes: Any) -> Exception:
    """Return such an exception with these attributes; its text is misleading on purpose."""
    made = kind(name)("429 rate limit exceeded, insufficient_quota, overloaded")
    made.__dict__.update(attributes)
    return made


def while_handling(failure: Exception, raised: Exception, module: str) -> Exception:
    """Return the second one as code of this module raises it that has caught the first one."""
    space = {"__name__": module, "failure": failure, "raised": raised}
    exec("def call():\n  try:\n    raise failure\n  except Exception:\n    raise raised", space)  # noqa: S102
    with contextlib.suppress(type(raised)):
        space["call"]()  # type: ignore[operator]
    return raised


class Response:
    """An answer as httpx has it, which notes in `touched` what would read or parse it."""

    def __init__(self, status: int = 200, headers: object = None, body: object = None, *, unread: bool = False) -> None:
        self.status_code = status
        self.headers = {} if headers is None else headers
        if not unread:
            self._content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.is_closed = not unread
        self.touched: list[str] = []

    @property
    def content(self) -> bytes:
        """Read all of it from the network."""
        self.touched.append("a property")
        return b'{"error": {"code": "insufficient_quota"}}'

    # urllib3 reads by this name.
    text = data = content

    def json(self) -> object:
        """Read and parse it."""
        self.touched.append("a method")
        return {"error": {"code": "insufficient_quota"}}

    read = aread = iter_bytes = json


def openai_error(status: int, body: Mapping[str, Any], headers: object = None) -> Exception:
    """Return what the openai package raises for such an answer: `body` is what stood under "error"."""
    names = {400: "BadRequestError", 429: "RateLimitError", 500: "InternalServerError", 503: "InternalServerError"}
    return error(
        f"openai:{names.get(status, 'APIStatusError')}",
        status_code=status,
        response=Response(status, headers, {"error": dict(body)}),
        body=dict(body),
        code=body.get("code"),
        type=body.get("type"),
        param=None,
        message="rate limit",
    )


def anthropic_error(
    status: int, type_: str, code: str | None = None, headers: object = None, name: str = "APIStatusError"
) -> Exception:
    """Return what the anthropic package raises for such an answer; status 200 is that of a stream's error event."""
    inner: dict[str, Any] = {"type": type_, "message": "Number of requests has exceeded your rate limit"}
    if code:
        inner["details"] = {"error_code": code}
    body = {"type": "error", "error": inner}
    return error(
        f"anthropic:{name}",
        status_code=status,
        response=Response(status, headers, body),
        body=body,
        type=type_,
        error_code=code,
        details=None,
        request_id=None,
    )


def aws_error(code: str, status: int | None = None, headers: object = None, name: str = "ClientError") -> Exception:
    """Return what botocore raises: all of it in the dict `response`."""
    response: dict[str, Any] = {"Error": {"Code": code, "Message": "Too many requests"}}
    if status is not None:
        response["ResponseMetadata"] = {"HTTPStatusCode": status, "HTTPHeaders": headers or {}}
    return error(f"botocore:{name}", response=response, operation_name="Converse")


def grpc_error(status: str, name: str = "_InactiveRpcError", **methods: Any) -> Exception:
    """Return what gRPC raises itself, as in SDKs that speak nothing else (xAI): methods tell what it holds."""
    told = SimpleNamespace(name=status, value=(8, status.lower().replace("_", " ")))
    return error(f"grpc:{name}", **{"code": lambda: told, "details": lambda: "insufficient_quota"} | methods)


def gemini_body(*violations: Mapping[str, Any], delay: object = None, status: str = "RESOURCE_EXHAUSTED") -> Any:
    """Return the body of a refusal of the Gemini API."""
    details: list[dict[str, Any]] = [{"@type": "type.googleapis.com/google.rpc.Help", "links": []}]
    if violations:
        details.append({"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": list(violations)})
    if delay is not None:
        details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay})
    return {"error": {"code": 429, "message": "limit: 0", "status": status, "details": details}}


def gemini_error(body: Any, status: int = 429) -> Exception:
    """Return what google-genai raises."""
    name = "genai:ClientError" if status < 500 else "genai:ServerError"
    return error(name, code=status, status=body["error"].get("status"), details=body, response=None, message="m")
