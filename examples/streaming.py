"""A streamed answer holds its lease until its last byte, not until its headers."""

import os

import httpx

from ratelease import Client, Limits
from ratelease.testing import ProviderSimulator

LIMITS = {"openai/gpt-4o": Limits(concurrency=1)}
BODY = {"model": "gpt-4o", "stream": True, "messages": [{"role": "user", "content": "Tell me of a clear day"}]}


def main() -> None:
    """Stream from a simulated provider, and look at what is in flight meanwhile."""
    with (
        ProviderSimulator(concurrency=1, latency=0.2) as provider,
        Client(os.environ.get("REDIS_URL", "memory://"), limits=LIMITS) as limiter,
        httpx.Client(base_url=provider.url) as http,
    ):
        lease = limiter.acquire("openai", "gpt-4o", timeout=5)
        with http.stream("POST", "/v1/chat/completions", json=BODY) as response:
            events = lease.wrap_stream(response.iter_lines())
            first = next(events)
            free = limiter.try_acquire("openai", "gpt-4o")
            print(f"after the first event: lease valid {lease.valid}, another slot free {bool(free)}")
            count = sum(1 for line in events if line)
        print(f"after {count + bool(first)} events: lease valid {lease.valid}")
        limiter.acquire("openai", "gpt-4o", timeout=5).release()
        print(f"the provider saw {provider.stats().throttled} calls too many")


if __name__ == "__main__":
    main()
