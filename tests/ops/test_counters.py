"""Every counter is read by the redis-cli lines of README.md, and says what the client says."""

import re
import threading
from pathlib import Path
from typing import Any

import pytest
import redis

from ratelease import Client, Limits
from ratelease.testing import RedisServer
from support.redis_cli import shell
from support.repository import ROOT
from support.wait_until import wait_until

LIMITS = {
    "openai/gpt-4o": Limits(rpm=500, tpm=200_000, concurrency=2),
    "openai/gpt-4o-mini": Limits(rpm=500),
    "openai": Limits(concurrency=20),
    "anthropic": Limits(concurrency=20),
}
WAITERS = "rl:{default}:q:m:openai:gpt-4o~p:openai~t:queue"


def _lines() -> list[str]:
    """The lines of the README's block that reads counters."""
    blocks = re.findall(
        r"^```sh\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    block = next(block for block in blocks if "ZCOUNT" in block)
    return [line for line in block.splitlines() if not line.startswith("#")]


@pytest.mark.covers("UX-06")
def test_the_lines_of_readme_read_every_counter(
    redis_url: str, redis_server: RedisServer, redis_client: redis.Redis, tmp_path: Path
) -> None:
    """Two calls of one model, one of another, one of another provider, and one caller that waits."""
    store: Any = redis_client
    with Client(redis_url, limits=LIMITS) as client:
        first, second = (client.acquire("openai", "gpt-4o", tokens=1200) for _ in range(2))
        client.acquire("openai", "gpt-4o-mini")
        client.acquire("anthropic", "claude")
        granted: list[Any] = []
        waiter = threading.Thread(target=lambda: granted.append(client.acquire("openai", "gpt-4o", timeout=8)))
        waiter.start()
        wait_until(lambda: store.zcard(WAITERS), description="the third caller waits")
        *figures, paths, processes, keys = [shell(redis_server, line, tmp_path) for line in _lines()]
        status = client.status()
        first.release()
        second.release()
        waiter.join(8)
    assert figures == ["2", "3", "4", "2", "2400", "c2 r60000=500+250 t60000=200000+250", "1", "0"]
    scopes = {scope.scope: scope for scope in status.scopes}
    assert figures[:3] == [str(scopes[name].in_flight) for name in ("openai/gpt-4o", "openai", "total")]
    assert figures[3:5] == [str(rate.used) for rate in scopes["openai/gpt-4o"].rates]
    assert len(paths.splitlines()) == 3
    assert processes == "1"
    assert set(keys.splitlines()) >= {WAITERS, "rl:{default}:store"}
