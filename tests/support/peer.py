"""A client in another process, told what to do line by line: a second instance of a fleet, that can be killed."""

from __future__ import annotations

import json
import subprocess
import sys
from types import TracebackType
from typing import Any, Self


class Peer:
    """
    A process with one synchronous client. Every call waits for its answer.

        with Peer(url=redis_url, namespace="fleet", limits={"total": {"concurrency": 4}}) as peer:
            granted = peer.do("acquire_many", "openai", "gpt-4o", 4, at_least=0)     # how many leases it got
            peer.kill()

    Args:

        limits: as the client takes them, each entry as keywords of Limits.

        settings: of ratelease.testing.config().
    """

    def __init__(self, *, limits: dict[str, dict[str, Any]], **settings: Any) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.pid = self._process.pid
        self.do("open", limits, **settings)

    def do(self, verb: str, *arguments: Any, **options: Any) -> Any:
        """
        Tell the process what to do, and return what it answers.

        acquire and acquire_many answer the number of leases they got, instance the id of the client, and release,
        which takes a number of leases, how many are left.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([verb, arguments, options]), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        assert answer, f"the peer ended instead of answering {verb}"
        return json.loads(answer)

    def kill(self) -> None:
        """End the process by SIGKILL."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        # The process ends at the end of its orders.
        self._process.stdin.close()
        try:
            self._process.wait(10.0)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process.stdout.close()


class _Told:
    """The other side: obeys orders with its client."""

    def __init__(self) -> None:
        self.client: Any = None
        self.leases: list[Any] = []

    def open(self, limits: dict[str, dict[str, Any]], **settings: Any) -> bool:
        from ratelease import Client, Limits
        from ratelease.testing import config

        self.client = Client(config=config(**settings), limits={key: Limits(**each) for key, each in limits.items()})
        self.client.__enter__()
        return True

    def acquire(self, *arguments: Any, **options: Any) -> int:
        self.leases.append(self.client.acquire(*arguments, **options))
        return 1

    def acquire_many(self, *arguments: Any, **options: Any) -> int:
        group = self.client.acquire_many(*arguments, **options)
        self.leases += group
        return len(group)

    def release(self, count: int) -> int:
        for _ in range(count):
            self.leases.pop().release()
        return len(self.leases)

    def instance(self) -> str:
        id: str = self.client._rt.instance
        return id


def _obey() -> None:
    told = _Told()
    for line in sys.stdin:
        verb, arguments, options = json.loads(line)
        print(json.dumps(getattr(told, verb)(*arguments, **options)), flush=True)
    told.client.close()


if __name__ == "__main__":
    _obey()
