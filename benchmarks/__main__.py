"""Run the benchmarks: `python -m benchmarks [acquire] [growth] [sizes] [handoff] [window] [rolling] [batch]`."""

from __future__ import annotations

import argparse
import os
import platform
import time
from contextlib import ExitStack

import redis

from benchmarks import acquire, batch, growth, handoff, rolling, sizes, window
from ratelease.testing import RedisServer, find_server

NAMES = ("acquire", "growth", "sizes", "handoff", "window", "rolling", "batch")


def main() -> None:
    """Parse the command line, start a server unless one is named, and print a table a benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="What ratelease costs.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(NAMES)}; none: all")
    parser.add_argument("--seconds", type=float, default=1.5, help="of each figure of acquire and growth (1.5)")
    parser.add_argument("--server", help="the server binary to start, such as valkey-9")
    parser.add_argument(
        "--url", help="a server to use instead; what is in its database 0 under rl:{bench… is in danger"
    )
    options = parser.parse_args()
    unknown = set(options.names) - set(NAMES)
    if unknown:
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}")
    wanted = options.names or NAMES
    began = time.perf_counter()
    with ExitStack() as running:
        url = options.url
        if url is None:
            url = running.enter_context(RedisServer(find_server(options.server))).url
        _say_where(url)
        if "acquire" in wanted:
            acquire.run(url, options.seconds)
        if "growth" in wanted:
            growth.run(url, options.seconds)
        if "sizes" in wanted:
            sizes.run(url)
        if "handoff" in wanted:
            handoff.run(url)
        if "window" in wanted:
            window.run()
        if "rolling" in wanted:
            rolling.run(url)
        if "batch" in wanted:
            batch.run(url)
    print(f"\n{time.perf_counter() - began:.0f} s in all")


def _say_where(url: str) -> None:
    with redis.Redis.from_url(url) as client:
        about = client.info("server")
    kind = "valkey " + about["valkey_version"] if "valkey_version" in about else "redis " + about["redis_version"]
    print(
        f"{kind} on the same machine, redis-py {redis.__version__}, Python {platform.python_version()}, "
        f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    main()
