"""Usage from the metrics of inference servers, in Prometheus' text format."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ..core.provider_usage import ProviderUsage
from .calling import BEARER, Secret
from .http import TIMEOUT, HttpUsage, need

# What servers call the requests that they work on: vLLM, SGLang, llama.cpp, TGI.
RUNNING = (
    "vllm:num_requests_running",
    "sglang:num_running_reqs",
    "llamacpp:requests_processing",
    "tgi_batch_current_size",
)

# And those that have come and are not worked on yet.
WAITING = (
    "vllm:num_requests_waiting",
    "sglang:num_queue_reqs",
    "llamacpp:requests_deferred",
    "tgi_queue_size",
)

# Characters of the lines that are looked for: about a thousand series, parsed in a few hundredths of a second.
_MOST = 128 * 1024

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]{0,199}", re.ASCII)


class PrometheusUsage(HttpUsage):
    """
    Usage from the /metrics of one or several inference servers: vLLM, SGLang, llama.cpp, TGI and others.

    All series of the names given are added, over their labels and over all servers. A server that does not answer, or
    has none of these metrics, makes the whole unknown: a sum without it would look like free capacity.

    Args:

        urls: The address of the metrics of each server, as "http://gpu-1:8000/metrics".

        running: The metrics that count requests in work.

        waiting: The metrics that count requests waiting at the server, where these are to be counted as well: WAITING.

        headers, secret, auth, auth_header, timeout: As JsonUsage takes them.

    Raises:

        ConfigError: An argument is wrong (all faults are named), or httpx or prometheus-client is not installed.
    """

    _accept = "text/plain;version=0.0.4"
    _urls_name = "urls"

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        running: Sequence[str] = RUNNING,
        waiting: Sequence[str] = (),
        headers: Mapping[str, str] | None = None,
        secret: Secret | None = None,
        auth: str = BEARER,
        auth_header: str = "authorization",
        timeout: float = TIMEOUT,
    ) -> None:
        need("httpx", "prometheus_client.parser")
        faults: list[str] = []
        self._running = _names("running", running, 1, faults)
        self._waiting = _names("waiting", waiting, 0, faults)
        super().__init__(
            urls, headers=headers, secret=secret, auth=auth, auth_header=auth_header, timeout=timeout, faults=faults
        )

    @property
    def _sought(self) -> str:
        return " and ".join(" or ".join(names) for names in (self._running, self._waiting) if names)

    def _read(self, body: bytes) -> ProviderUsage | None:
        running = total_of(body, self._running)
        waiting = total_of(body, self._waiting) if self._waiting else 0.0
        if running is None or waiting is None:
            return None
        return ProviderUsage.of({"concurrent_sessions": running + waiting})


def total_of(body: bytes, names: Sequence[str]) -> float | None:
    """
    All series of these names together, in an answer in Prometheus' text format; None where there is none of them.

    None as well where one of them is negative or no number, or the answer breaks off before the end of a line. Only
    the lines of these names are parsed: a server has thousands of others. Never raises.
    """
    from prometheus_client.parser import text_string_to_metric_families

    wanted = tuple(names)
    try:
        text = body.decode("utf-8")
        lines = [line for line in text.split("\n") if line.lstrip(" \t").startswith(wanted)]
        if not text.endswith("\n") or sum(map(len, lines)) > _MOST:
            return None
        families = list(text_string_to_metric_families("\n".join(lines) + "\n"))
    except Exception:  # noqa: BLE001 - the parser raises ValueError, IndexError and others for what is malformed
        return None
    values = [float(sample.value) for family in families for sample in family.samples if sample.name in wanted]
    if not values or not all(value >= 0 for value in values):
        return None
    return sum(values)


def _names(name: str, given: object, least: int, faults: list[str]) -> tuple[str, ...]:
    listed = (given,) if isinstance(given, str) else given
    if not isinstance(listed, Sequence) or isinstance(listed, bytes) or not least <= len(listed) <= 100:
        faults.append(f"{name} must be a list of {least} to 100 names of metrics, not {given!r:.60}")
        return ()
    odd = [each for each in listed if not isinstance(each, str) or not _NAME.fullmatch(each)]
    faults += [f"{name}: {each!r:.60} cannot be the name of a metric" for each in odd]
    return () if odd else tuple(dict.fromkeys(listed))
