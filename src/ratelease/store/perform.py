"""Performs the steps of a verb on a wire, in either colour. What a step raises is raised inside the verb."""

from __future__ import annotations

import time
from typing import Any, TypeVar

from ..core.scripts import Call
from ..core.tending import Steps
from ..errors import RateleaseError
from .wire import AsyncWire, Wire

T = TypeVar("T")


def perform(wire: Wire, steps: Steps[T], timeout: float) -> T:
    """Perform them all; `timeout` is the longest wait for one script, in seconds."""
    reply: Any = None
    error: RateleaseError | None = None
    try:
        while True:
            step = steps.send(reply) if error is None else steps.throw(error)
            reply, error = None, None
            try:
                if isinstance(step, Call):
                    reply = wire.run(step, time.monotonic() + timeout)
                else:
                    reply = wire.command(*step.words)
            except RateleaseError as raised:
                error = raised
    except StopIteration as stop:
        result: T = stop.value
        return result


async def perform_async(wire: AsyncWire, steps: Steps[T], timeout: float) -> T:
    """As :func:`perform`."""
    reply: Any = None
    error: RateleaseError | None = None
    try:
        while True:
            step = steps.send(reply) if error is None else steps.throw(error)
            reply, error = None, None
            try:
                if isinstance(step, Call):
                    reply = await wire.run(step, time.monotonic() + timeout)
                else:
                    reply = await wire.command(*step.words)
            except RateleaseError as raised:
                error = raised
    except StopIteration as stop:
        result: T = stop.value
        return result
