"""Never run, only type-checked: sources of usage, ours and those that a user writes."""

from __future__ import annotations

from typing import assert_type

from ratelease import ProviderUsage
from ratelease.core.provider_usage import UsageSource
from ratelease.usage import WAITING, FeatherlessUsage, JsonUsage, PrometheusUsage, parse_usage


async def key() -> str:
    """A secret may be awaited."""
    return "key"


def adapters() -> list[UsageSource]:
    """Each is a source; secrets are names or callables of either colour."""
    return [
        JsonUsage(
            "http://host/usage", in_flight="a.0.b", limit="c", hard_cap="d", headers={"x-team": "blue"}, timeout=1
        ),
        JsonUsage(["http://a/", "http://b/"], secret=lambda: "key", auth="{secret}", auth_header="x-api-key"),
        PrometheusUsage("http://host/metrics", running=["a"], waiting=WAITING, secret="METRICS_KEY"),
        FeatherlessUsage(),
        FeatherlessUsage(key, url="http://host/account/concurrency"),
    ]


class Ready:
    """A source of a user's own, that knows at once."""

    def get_usage(self) -> ProviderUsage | None:
        """What is in flight."""
        return ProviderUsage(1, limit=4)


class Asking:
    """A source of a user's own, that has to ask."""

    async def get_usage(self) -> ProviderUsage:
        """What is in flight."""
        return ProviderUsage(1)


def own() -> list[UsageSource]:
    """Both are sources."""
    return [Ready(), Asking()]


async def asked() -> None:
    """What is answered is known in full."""
    assert_type(await JsonUsage("http://host/").get_usage(), ProviderUsage | None)
    usage = parse_usage(b"{}", 200)
    assert_type(usage, ProviderUsage | None)
    if usage is not None:
        assert_type((usage.concurrent_sessions, usage.limit), tuple[int, int | None])
        assert_type(usage.as_of, float | None)
    assert_type(ProviderUsage.of(object()), ProviderUsage | None)
