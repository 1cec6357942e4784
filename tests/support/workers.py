"""Worker processes for tests: each runs jobs of support.jobs and tells what happens, as JSON lines over pipes.

    with Fleet(redis_url, 4) as fleet:
        fleet.run("cycle", limits={"openai/gpt-4o": {"concurrency": 2}}, tasks=3, rounds=5)
        fleet.wait("done")
        assert peak(fleet.intervals()) == 2

Every event has `when`, seconds of CLOCK_MONOTONIC, which all processes of a machine share.
"""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import ratelease
from support.history import Held, holdings

_TESTS = Path(__file__).resolve().parents[1]
_SOURCE = Path(ratelease.__file__).resolve().parents[1]
START_SECONDS = 20.0  # an idle machine takes 0.3; a busy one with many processes takes its time

Event = dict[str, Any]


class Worker:
    """One worker process; ended with its context, whatever state it is in."""

    def __init__(self, url: str, namespace: str, **config: Any) -> None:
        self.settings = {"url": url, "namespace": namespace, "config": config}
        self.events: list[Event] = []
        self.killed_at: float | None = None
        self._changed = threading.Condition()
        environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(_SOURCE), str(_TESTS)))}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "support.worker_process", json.dumps(self.settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, name="worker-events", daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def ended(self) -> bool:
        """Whether nothing more will be told: its output has ended."""
        return not self._reader.is_alive()

    def run(self, job: str, *, main: bool = False, **arguments: Any) -> None:
        """Start a job beside those that run; in the main thread, after those there, if told so."""
        self._tell({"job": job, "main": main, "arguments": arguments})

    def signal(self, name: str) -> None:
        """Set an event that jobs wait for; `stop` ends whatever runs in rounds."""
        self._tell({"signal": name})

    def of(self, event: str) -> list[Event]:
        """The events of this name so far."""
        with self._changed:
            return [found for found in self.events if found["event"] == event]

    def wait(self, event: str, count: int = 1, timeout: float = START_SECONDS) -> list[Event]:
        """Wait until `count` events of this name have come, and return them. A failed job raises."""

        def come() -> bool:
            found = [one["event"] for one in self.events]
            return found.count(event) >= count or "failed" in found or self.ended

        with self._changed:
            self._changed.wait_for(come, timeout)
            found = [one for one in self.events if one["event"] == event]
            failed = [one["error"] for one in self.events if one["event"] == "failed"]
        if failed and event != "failed":
            raise AssertionError(f"a job failed: {failed[0]}")
        if len(found) < count:
            state = "has ended" if self.ended else f"has told {len(self.events)} events"
            raise AssertionError(f"waited for {count} × {event!r}, {len(found)} came; worker {self.pid} {state}")
        return found

    def intervals(self) -> list[Held]:
        """Every lease that it has held, up to now or to its end."""
        with self._changed:
            return holdings(list(self.events), self.killed_at or time.monotonic())

    def kill(self) -> None:
        """End the process by SIGKILL; returns when it is gone and all that it told is here."""
        self.process.kill()
        self.process.wait()
        self.killed_at = time.monotonic()
        self._reader.join(5.0)

    def pause(self) -> None:
        """Stop the process by SIGSTOP."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a stopped process go on."""
        os.kill(self.pid, signal.SIGCONT)

    def interrupt(self) -> None:
        """Send SIGINT, as Ctrl-C does."""
        os.kill(self.pid, signal.SIGINT)

    def close(self, timeout: float = 15.0) -> int:
        """Let the jobs end and the process with them; return its exit status."""
        self._begin_end()
        status = self.process.wait(timeout)
        self._reader.join(5.0)
        return status

    def end(self) -> None:
        """End the process: orderly where that works, else by force."""
        if self.process.poll() is None:
            self.resume()
            try:
                self.close()
            except subprocess.TimeoutExpired:
                self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _begin_end(self) -> None:
        # Its input may be closed already, or its end of it gone.
        with contextlib.suppress(OSError, ValueError):
            self.signal("stop")
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()

    def _tell(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            # The last line of a killed process may be cut off.
            with contextlib.suppress(json.JSONDecodeError):
                event = json.loads(line)
                with self._changed:
                    self.events.append(event)
                    self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()


class Fleet:
    """Several workers that share a store and a namespace."""

    def __init__(self, url: str, size: int, *, namespace: str | None = None, **config: Any) -> None:
        self.url = url
        self.namespace = namespace or f"fleet-{secrets.token_hex(4)}"
        self._config = config
        self.workers: list[Worker] = []
        self.gone: list[Worker] = []
        for _ in range(size):
            self.add()

    def __enter__(self) -> Self:
        try:
            self.wait("ready")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Worker]:
        return iter(self.workers)

    def __getitem__(self, number: int) -> Worker:
        return self.workers[number]

    def add(self) -> Worker:
        """Start one more worker; it tells `ready` when it has come up."""
        self.workers.append(Worker(self.url, self.namespace, **self._config))
        return self.workers[-1]

    def kill(self, worker: Worker) -> None:
        """Kill a worker; its history stays."""
        worker.kill()
        self.workers.remove(worker)
        self.gone.append(worker)

    def run(self, job: str, *, within: float = 0.1, **arguments: Any) -> float:
        """Start a job on every worker at the same moment, `within` seconds from now; return that moment."""
        start_at = time.monotonic() + within
        for worker in self:
            worker.run(job, start_at=start_at, **arguments)
        return start_at

    def signal(self, name: str) -> None:
        """Set an event on every worker."""
        for worker in self:
            worker.signal(name)

    def wait(self, event: str, count: int = 1, timeout: float = START_SECONDS) -> None:
        """Wait until every worker has told `count` events of this name."""
        deadline = time.monotonic() + timeout
        for worker in self:
            worker.wait(event, count, max(deadline - time.monotonic(), 0.01))

    def of(self, event: str) -> list[Event]:
        """The events of this name of all workers, dead ones included, in the order of their time."""
        return sorted(
            (found for worker in (*self.workers, *self.gone) for found in worker.of(event)),
            key=lambda found: float(found["when"]),
        )

    def held(self) -> list[Held]:
        """Every lease that any worker has held."""
        return [held for worker in (*self.workers, *self.gone) for held in worker.intervals()]

    def close(self) -> None:
        """End all workers that are left, side by side."""
        for worker in self:
            if worker.process.poll() is None:
                worker.resume()
            worker._begin_end()
        for worker in (*self.workers, *self.gone):
            worker.end()


def elapsed(act: Callable[[], object]) -> float:
    """How many seconds a call takes."""
    began = time.monotonic()
    act()
    return time.monotonic() - began
