"""What children of a fork do in tests; functions of a module, so that spawned children find them."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable
from typing import Any

from ratelease import Client, Limits
from ratelease.testing import config, wait_until

PROVIDER, MODEL = "openai", "gpt-4o"


def make_client(url: str, namespace: str) -> Client:
    """A client with one slot of three left, if the parent holds two; times are those that users have."""
    settings = config(url=url, namespace=namespace, lease_ttl=15.0, heartbeat=5.0)
    return Client(limits={f"{PROVIDER}/{MODEL}": Limits(concurrency=3)}, config=settings)


def use(client: Client) -> dict[str, Any]:
    """Take what is free and give it back; tell what was seen."""
    with client.acquire(PROVIDER, MODEL, timeout=5) as lease:
        refused = client.try_acquire(PROVIDER, MODEL)
        wait_until(lambda: os.getpid() in {each.pid for each in client.instances()}, description="it is listed")
        return {"valid": lease.valid, "refused": not refused, "pid": os.getpid()}


def child_of_its_own(answers: Any, url: str, namespace: str) -> None:
    """A child that makes a client."""
    with make_client(url, namespace) as client:
        answers.put(use(client))


inherited: list[Client] = []


def child_with_inherited(answers: Any) -> None:
    """A forked child that uses the client its parent made."""
    answers.put(use(inherited[0]))
    inherited[0].close()


def status_of_child(work: Callable[[], None]) -> int:
    """Fork, do `work` in the child, and return how that ended: 0 if well, SIGKILL if it hung for 5 s."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:  # noqa: BLE001 - the child must never return from here
            traceback.print_exc()
        finally:
            os._exit(status)
    ended: list[int] = []

    def has_ended() -> bool:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            ended.append(status)
        return bool(ended)

    try:
        wait_until(has_ended, timeout=5.0, description="the child has ended")
    except AssertionError:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return signal.SIGKILL
    return ended[0]
