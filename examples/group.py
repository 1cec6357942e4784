"""Several leases together: all of them, or as many as are worth beginning with."""

import os

from ratelease import Client, Limits

LIMITS = {"openai/gpt-4o": Limits(rpm=500, concurrency=4)}


def main() -> None:
    """Take three of four slots; then want three more, and begin with the one that is free."""
    with Client(os.environ.get("REDIS_URL", "memory://"), limits=LIMITS) as limiter:
        with limiter.acquire_many("openai", "gpt-4o", 3, timeout=5) as panel:
            print(f"a panel of {len(panel)} calls, all at once or not at all")
            team = limiter.acquire_many("openai", "gpt-4o", 3, at_least=1, timeout=5)
            print(f"a team begins with {len(team)}")
        # The panel has left: its slots go to those of the team that still wait.
        with team:
            for number, _ in enumerate(team.rest(), start=len(team) + 1):
                print(f"member {number} joins")
        scope = limiter.status().scope("openai/gpt-4o")
        print(f"in flight at the end: {scope.in_flight if scope else 'unknown'}")


if __name__ == "__main__":
    main()
