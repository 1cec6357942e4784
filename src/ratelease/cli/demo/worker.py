"""Be one worker process of the demo: many tasks that call the provider as fast as they may.

Both halves of the demo run this same loop; with the limiter the call stands inside `limiter.acquire(…)`, and
that is the whole difference. The parent speaks on standard input (one line of settings, one line to start)
and hears one JSON object per line on standard output. When standard input ends the worker stops, so it cannot
outlive its parent.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import json
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx

from ratelease.cli.demo.messages import Order, Report
from ratelease.cli.demo.plan import MODEL, MODEL_PATH, PROVIDER
from ratelease.errors import RateleaseError

REPORT_EVERY = 0.2  # seconds
DRAIN_TIMEOUT = 10.0  # seconds; calls in flight at the end take less than one
FIRST_BACKOFF, LONGEST_BACKOFF = 0.5, 8.0  # seconds, doubling, as provider libraries do it
LONGEST_HINT = 60.0  # seconds; they heed a longer Retry-After no more
BODY = {"model": MODEL, "messages": [{"role": "user", "content": "Say something."}]}

Admission = Callable[[], AbstractAsyncContextManager[Any]]


def backoff(attempt: int, headers: httpx.Headers, draw: Callable[[], float] = random.random) -> float:
    """Return the seconds to sleep after the failed attempt number `attempt`, counted from 0.

    The provider's hint wins; without one the pause doubles, less up to a quarter at random.
    """
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        with contextlib.suppress(ValueError):
            hint = float(headers.get(name, "")) * scale
            if 0 < hint <= LONGEST_HINT:
                return hint
    doubled = FIRST_BACKOFF * 2.0 ** min(attempt, 16)
    return min(doubled, LONGEST_BACKOFF) * (1 - 0.25 * draw())


class Caller:
    """Be one task: call, and call again."""

    def __init__(self, http: httpx.AsyncClient, order: Order, admission: Admission, report: Report) -> None:
        self._http = http
        self._order = order
        self._url = f"{order.provider_url}/v1/chat/completions"
        self._admission = admission
        self._report = report
        self._stopping = asyncio.Event()
        self._calling = False
        self._wanted_at = 0.0
        self.done = 0
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while not self._stopping.is_set():
            self._wanted_at = time.monotonic()
            for attempt in itertools.count():
                refusal = await self._attempt()
                if refusal is None:
                    break
                if self._stopping.is_set():
                    self._report.open_waits.append(time.monotonic() - self._wanted_at)
                    break
                await asyncio.sleep(backoff(attempt, refusal))

    async def _attempt(self) -> httpx.Headers | None:
        """Make one attempt; return None when it was answered, else the headers of the refusal."""
        try:
            async with asyncio.timeout(None) as patience, self._admission() as lease:
                self._set_calling(True)
                sent_at = time.monotonic()
                if self._order.patience is not None:
                    patience.reschedule(asyncio.get_running_loop().time() + self._order.patience)
                answer = await self._http.post(self._url, json=BODY)
                patience.reschedule(None)
                if self._order.react and answer.is_error:
                    await lease.fail(answer)
        except (httpx.HTTPError, RateleaseError) as fault:
            self._report.errors += 1
            self._report.last_error = f"{type(fault).__name__}: {fault}"
            return httpx.Headers()
        except TimeoutError:
            self._report.given_up += 1
            return httpx.Headers()
        finally:
            self._set_calling(False)
        if answer.status_code == httpx.codes.OK:
            self.done += 1
            self._report.done += 1
            self._report.waits.append(sent_at - self._wanted_at)
            return None
        if answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
            self._report.throttled += 1
        else:
            self._report.errors += 1
            self._report.last_error = f"the provider answered {answer.status_code}"
        return answer.headers

    def _set_calling(self, calling: bool) -> None:
        self._report.in_flight += calling - self._calling
        self._calling = calling

    def stop(self) -> asyncio.Task[None]:
        """Let a call in flight end, give up waiting for one, and return the task to wait for."""
        self._stopping.set()
        if not self._calling and not self.task.done():
            self._report.open_waits.append(time.monotonic() - self._wanted_at)
            self.task.cancel()
        return self.task


@contextlib.asynccontextmanager
async def open_admission(order: Order) -> AsyncIterator[Admission]:
    """Give what every attempt stands inside: nothing, or a lease of the limiter."""
    if order.limiter_url is None:
        yield contextlib.nullcontext
        return
    from ratelease import AsyncClient, Limits, Rate

    if order.limit:
        limits = {MODEL_PATH: Limits(rates=[Rate(order.limit, per=order.window)], concurrency=order.concurrency)}
    else:
        limits = {PROVIDER: Limits(concurrency=order.concurrency)}
    async with AsyncClient(
        order.limiter_url,
        namespace=order.namespace,
        limits=limits,
        require_shared=True,
    ) as limiter:
        if order.usage_url is not None:
            from ratelease.usage import JsonUsage

            # As for the calls: the adapter would take the machine's proxy to 127.0.0.1.
            os.environ["NO_PROXY"] = "*"
            limiter.watch_usage(PROVIDER, JsonUsage(order.usage_url), cooldown=order.lag, lag=order.lag)
        yield lambda: limiter.acquire(PROVIDER, MODEL)


async def work(order: Order, http: httpx.AsyncClient, admission: Admission, report: Report) -> None:
    """Run all tasks for the ordered time, then let the calls in flight end."""
    callers = [Caller(http, order, admission, report) for _ in range(order.tasks)]
    try:
        await asyncio.sleep(order.seconds)
        await asyncio.wait([caller.stop() for caller in callers], timeout=DRAIN_TIMEOUT)
    finally:
        for caller in callers:
            caller.task.cancel()
        report.by_task = [caller.done for caller in callers]
        results = await asyncio.gather(*(caller.task for caller in callers), return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result


def emit(kind: str, **fields: object) -> None:
    """Write one line to the parent."""
    sys.stdout.write(json.dumps({"kind": kind, **fields}) + "\n")
    sys.stdout.flush()


def progress(report: Report) -> dict[str, object]:
    """Return the counts of a report, without the waits, which only grow."""
    return {name: getattr(report, name) for name in ("done", "throttled", "errors", "in_flight", "last_error")}


async def main() -> None:
    """Take the order, report ready, work when told to, report."""
    lines = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(lines)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    order = Order(**json.loads(await lines.readline()))
    report = Report()
    # The demo speaks to 127.0.0.1 alone: proxies and certificates have no part in it.
    limits = httpx.Limits(max_connections=order.tasks, max_keepalive_connections=order.tasks)
    async with (
        httpx.AsyncClient(trust_env=False, verify=False, timeout=30.0, limits=limits) as http,  # noqa: S501
        open_admission(order) as admission,
    ):
        emit("ready")
        if not await lines.readline():
            return
        working = asyncio.create_task(work(order, http, admission, report))
        parent = asyncio.create_task(lines.read())
        while not working.done() and not parent.done():
            await asyncio.wait({working, parent}, timeout=REPORT_EVERY, return_when=asyncio.FIRST_COMPLETED)
            emit("progress", **progress(report))
        parent.cancel()
        if not working.done():
            working.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await working
            return
        await working
    emit("final", **dataclasses.asdict(report))


if __name__ == "__main__":
    asyncio.run(main())
