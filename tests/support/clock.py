"""A clock that moves fakeredis alone, and only when a test says so. The test's own time.time is left as it is."""

import contextlib
import importlib
import sys
import time
from collections.abc import Iterator
from types import ModuleType

START_MS = 1_700_000_000_000


class DrivenClock:
    """
    The time of every fakeredis server in this process, while :func:`driven_clock` is entered.

    `ms` is integer milliseconds, as the scripts see it; it may go back.
    """

    def __init__(self, start_ms: int = START_MS) -> None:
        self.ms = start_ms

    def advance(self, seconds: float) -> None:
        """Move the clock; negative seconds move it back."""
        self.ms += round(seconds * 1000)

    def time(self) -> float:
        """Stand in for time.time."""
        return self.ms / 1000


class _TimeModule:
    """What fakeredis takes for the module `time`."""

    def __init__(self, clock: DrivenClock) -> None:
        self.time = clock.time

    def __getattr__(self, name: str) -> object:
        return getattr(time, name)


def _modules() -> list[ModuleType]:
    importlib.import_module("fakeredis")
    loaded = [module for name, module in list(sys.modules.items()) if name.partition(".")[0] == "fakeredis"]
    return [module for module in loaded if getattr(module, "time", None) is time]


@contextlib.contextmanager
def driven_clock(start_ms: int = START_MS) -> Iterator[DrivenClock]:
    """Give fakeredis a clock that the caller drives."""
    clock = DrivenClock(start_ms)
    shim, modules = _TimeModule(clock), _modules()
    assert modules, "no module of fakeredis reads the time where it used to"
    for module in modules:
        module.time = shim  # type: ignore[attr-defined]
    try:
        yield clock
    finally:
        for module in modules:
            module.time = time  # type: ignore[attr-defined]
