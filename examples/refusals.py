"""Not waiting: a refusal says which limit is used up and for how long, and the program does something else."""

import os

from ratelease import Client, Limits

LIMITS = {
    "openai/gpt-4o": Limits(rpm=2),
    "openai/gpt-4o-mini": Limits(rpm=500),
}


def main() -> None:
    """Prefer the large model; fall back to the small one while the large one is used up."""
    with Client(os.environ.get("REDIS_URL", "memory://"), limits=LIMITS) as limiter:
        for number in range(1, 4):
            lease = limiter.try_acquire("openai", "gpt-4o")
            if not lease:
                print(f"{lease.scope}: {lease.used} of {lease.limit} {lease.dimension}, {lease.reason}")
                lease = limiter.acquire("openai", "gpt-4o-mini", timeout=5)
            with lease:
                print(f"call {number} goes to {lease.model}")


if __name__ == "__main__":
    main()
