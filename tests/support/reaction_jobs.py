"""Jobs of worker processes that have to do with failures of the provider."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from ratelease import Client
from ratelease.errors import RateleaseError
from support.jobs import MODEL, PROVIDER, Figures, job

if TYPE_CHECKING:
    from support.worker_process import Stage


def _together(count: int, one: Any) -> None:
    """Run something in so many threads, and wait for all of them."""
    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@job
def ask(stage: Stage, *, limits: Figures, count: int, timeout: float, **changes: Any) -> None:
    """Acquire in so many threads; tell `granted`, or `refused` with the error. What is granted is released at once."""
    with Client(**stage.options(limits, **changes)) as client:

        def one(_: int) -> None:
            try:
                lease = client.acquire(PROVIDER, MODEL, timeout=timeout)
            except RateleaseError as error:
                stage.tell("refused", error=type(error).__name__, scope=error.scope, text=str(error))
            else:
                stage.tell("granted", at=lease._hold.at)
                lease.release()

        _together(count, one)


@job
def fail_together(stage: Stage, *, limits: Figures, count: int, answer: dict[str, Any], **changes: Any) -> None:
    """Hold so many leases; at the signal `fail` end each of them by this answer of the provider, in threads."""
    with Client(**stage.options(limits, **changes)) as client:
        leases = [client.acquire(PROVIDER, MODEL) for _ in range(count)]
        stage.tell("holding")
        stage.wait("fail")
        _together(count, lambda number: leases[number].fail(answer))
        stage.tell("told")


@job
def report(stage: Stage, *, limits: Figures, outcome: str, count: int = 1, **options: Any) -> None:
    """Report an outcome or a cause so many times, and tell when each call was sent and answered."""
    with Client(**stage.options(limits)) as client:
        # The connection is there before the moment that is measured.
        client.health(PROVIDER, MODEL)
        stage.tell("here")
        stage.wait("report")
        for _ in range(count):
            sent = time.monotonic()
            client.report(PROVIDER, MODEL, outcome, **options)
            stage.tell("reported", sent=sent)


@job
def watch(stage: Stage, *, limits: Figures) -> None:
    """Tell every change of a limit; until the signal `unsubscribe` by two callbacks, one of which raises."""
    with Client(**stage.options(limits)) as client:

        def heard(change: Any) -> None:
            stage.tell(
                "change", scope=change.scope, key=change.key, limits=[change.before, change.after], why=change.reason
            )

        def broken(change: Any) -> None:
            raise RuntimeError(change.scope)

        ends = [client.on_change(broken), client.on_change(heard)]
        stage.tell("watching")
        stage.wait("unsubscribe")
        for end in ends:
            end()
            end()
        stage.tell("unsubscribed")
        stage.wait("stop")
