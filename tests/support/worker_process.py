"""The program of a worker process: takes jobs as JSON lines on stdin, tells events as JSON lines on stdout.

It ends when stdin does, in the ordinary way of an interpreter.
"""

import json
import os
import queue
import sys
import threading
import time
import traceback
from collections import defaultdict
from typing import Any

from ratelease import Limits, Rate
from ratelease.testing import config
from support import jobs, reaction_jobs, usage_jobs

assert all(module.__doc__ for module in (reaction_jobs, usage_jobs)), "imported for their jobs"


class Stage:
    """What a job is given: settings of this process, a place to tell events, and events to wait for."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._signals: dict[str, threading.Event] = defaultdict(threading.Event)

    def options(
        self, limits: dict[str, dict[str, Any]], namespace: str | None = None, **changes: Any
    ) -> dict[str, Any]:
        """Arguments for a client of this process' store."""
        settings = self._settings
        return {
            "limits": {name: _limits(figures) for name, figures in limits.items()},
            "config": config(
                url=settings["url"], namespace=namespace or settings["namespace"], **{**settings["config"], **changes}
            ),
        }

    def tell(self, event: str, **more: Any) -> None:
        """Write one event, with the time it has now unless it brings its own."""
        line = json.dumps({"event": event, "when": time.monotonic(), "pid": os.getpid(), **more}) + "\n"
        with self._lock:
            sys.stdout.write(line)
            sys.stdout.flush()

    def wait(self, name: str, timeout: float | None = None) -> bool:
        """Wait for a signal of the test."""
        with self._lock:
            event = self._signals[name]
        return event.wait(timeout)

    def told(self, name: str) -> bool:
        """Whether a signal of the test has come."""
        return self.wait(name, 0.0)

    def set(self, name: str) -> None:
        """Note a signal of the test."""
        with self._lock:
            event = self._signals[name]
        event.set()


def _limits(figures: dict[str, Any]) -> Limits:
    """Limits of plain values; a rate is a pair of its limit and its window in seconds."""
    rates = [Rate(limit, per) for limit, per in figures.get("rates", ())]
    return Limits(**{**figures, "rates": rates})


def run(stage: Stage, message: dict[str, Any]) -> None:
    """Carry one job out, and tell how it ended."""
    try:
        arguments = dict(message["arguments"])
        start_at = arguments.pop("start_at", 0.0)
        stage.wait("", max(start_at - time.monotonic(), 0.0))
        jobs.JOBS[message["job"]](stage, **arguments)
    except BaseException:  # noqa: BLE001 - the test is told, whatever it was
        stage.tell("failed", error=traceback.format_exc())
    else:
        stage.tell("done", job=message["job"])


def listen(stage: Stage, main_jobs: "queue.Queue[dict[str, Any] | None]") -> None:
    """Read messages until stdin ends."""
    # Not by sys.stdin: a forked child closes that, and would wait for the thread that reads it here.
    for line in os.fdopen(os.dup(0), encoding="utf-8"):
        message = json.loads(line)
        if "signal" in message:
            stage.set(message["signal"])
        elif message["main"]:
            main_jobs.put(message)
        else:
            threading.Thread(target=run, args=(stage, message), name=message["job"]).start()
    stage.set("stop")
    main_jobs.put(None)


def main() -> None:
    """Serve one test."""
    stage = Stage(json.loads(sys.argv[1]))
    main_jobs: queue.Queue[dict[str, Any] | None] = queue.Queue()
    threading.Thread(target=listen, args=(stage, main_jobs), name="listen", daemon=True).start()
    stage.tell("ready")
    while (message := main_jobs.get()) is not None:
        run(stage, message)


if __name__ == "__main__":
    main()
