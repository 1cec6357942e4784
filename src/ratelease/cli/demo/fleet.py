"""Run the worker processes of the demo, and hear from them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
import sys
import tempfile
import threading
import time
from types import TracebackType
from typing import IO, Self, cast

from ratelease.cli.demo.messages import Order, Report

START_TIMEOUT = 30.0  # seconds; several interpreters start at the same moment
STOP_TIMEOUT = 5.0  # seconds until a worker that does not stop by itself is made to
LAST_LINES = 15  # of a failed worker's output


class WorkerFailed(RuntimeError):
    """A worker process ended early; the message quotes the end of what it wrote."""


class Fleet:
    """Run `workers` processes with the same order, as a context manager: none of them outlives it."""

    def __init__(self, order: Order, workers: int) -> None:
        self._order = order
        self._count = workers
        self._workers: list[Worker] = []

    def __enter__(self) -> Self:
        try:
            for _ in range(self._count):
                self._workers.append(Worker(self._order))
            self._await_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def go(self) -> None:
        """Let all workers begin at the same moment."""
        for worker in self._workers:
            worker.write("go\n")

    def reports(self) -> list[Report]:
        """Return the newest report of every worker.

        Raises:
            WorkerFailed: one of them ended without a final report.
        """
        for number, worker in enumerate(self._workers, start=1):
            if worker.failed():
                raise WorkerFailed(f"worker {number} ended with {worker.epitaph()}")
        return [worker.report for worker in self._workers]

    @property
    def finished(self) -> bool:
        """Whether all workers have sent their final report."""
        return all(worker.final for worker in self._workers)

    def stop(self) -> None:
        """End all workers, first kindly, and wait until they are gone."""
        for worker in self._workers:
            worker.close_stdin()
        deadline = time.monotonic() + STOP_TIMEOUT
        for worker in self._workers:
            worker.end(deadline)

    def _await_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        for worker in self._workers:
            if not worker.ready.wait(max(0.0, deadline - time.monotonic())):
                raise WorkerFailed(f"a worker was not ready within {START_TIMEOUT:g} s")
        self.reports()


class Worker:
    """Hold one worker process and what it said last. A thread reads what it writes."""

    def __init__(self, order: Order) -> None:
        self.report = Report()
        self.ready = threading.Event()
        self.final = False
        self._log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - closed in end()
        # A session of its own: an interrupt at the terminal is for the parent, which then stops the fleet.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ratelease.cli.demo.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.write(json.dumps(dataclasses.asdict(order)) + "\n")

    def write(self, line: str) -> None:
        """Send a line; a worker that has ended is noticed by `failed`."""
        stdin = cast("IO[str]", self._process.stdin)
        with contextlib.suppress(BrokenPipeError):
            stdin.write(line)
            stdin.flush()

    def failed(self) -> bool:
        """Say whether the process ended without a final report."""
        return not self._reader.is_alive() and not self.final

    def epitaph(self) -> str:
        """Say how the process ended and quote the end of what it wrote."""
        status = self._process.wait(STOP_TIMEOUT)
        self._log.seek(0)
        last = "".join(self._log.readlines()[-LAST_LINES:]).strip()
        return f"status {status}" + (f":\n{last}" if last else "")

    def close_stdin(self) -> None:
        """Ask the worker to end."""
        with contextlib.suppress(BrokenPipeError):
            cast("IO[str]", self._process.stdin).close()

    def end(self, deadline: float) -> None:
        """Wait for the end of the process until `deadline` (monotonic seconds), then kill it."""
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(STOP_TIMEOUT)
        cast("IO[str]", self._process.stdout).close()
        self._log.close()

    def _read(self) -> None:
        for line in cast("IO[str]", self._process.stdout):
            fields = json.loads(line)
            kind = fields.pop("kind")
            if kind == "ready":
                self.ready.set()
            else:
                self.report = Report(**fields)
                self.final = kind == "final"
        # Whoever waits for a worker that ended is woken too.
        self.ready.set()
