"""Simulate an LLM provider on loopback: a real HTTP server that enforces its limits and counts what came.

`model` decides (by `limits` and `phases`), `judge` counts, `openai_api` and `anthropic_api` speak the providers'
formats, `app` has the routes, `server` runs them. Only entering a `ProviderSimulator` loads starlette and uvicorn.
"""

from ratelease.testing.simulator.judge import SimulatorStats, max_in_any_window
from ratelease.testing.simulator.phases import Phase
from ratelease.testing.simulator.server import ProviderSimulator
from ratelease.testing.simulator.settings import Settings

__all__ = ["Phase", "ProviderSimulator", "Settings", "SimulatorStats", "max_in_any_window"]
