"""Simulate an LLM provider on loopback: a real HTTP server that enforces its limits and counts what came.

`limits` decides, `judge` counts, `wire` speaks the provider's format, `app` has the routes, `server` runs
them. Only entering a `ProviderSimulator` loads starlette and uvicorn.
"""

from ratelease.testing.simulator.judge import SimulatorStats, max_in_any_window
from ratelease.testing.simulator.server import ProviderSimulator
from ratelease.testing.simulator.settings import Settings

__all__ = ["ProviderSimulator", "Settings", "SimulatorStats", "max_in_any_window"]
