"""
Where the number of calls in flight comes from: adapters for what providers and inference servers report.

They need `pip install 'ratelease[usage]'`. Each has `get_usage()`, which returns a ProviderUsage, None where the answer
says nothing (another status than 200, another form, more than 1 MiB), and raises ConnectionError or TimeoutError
where there was no answer.
"""

from ..core.provider_usage import parse_usage
from .answers import FeatherlessUsage, JsonUsage
from .prometheus import RUNNING, WAITING, PrometheusUsage

__all__ = ["RUNNING", "WAITING", "FeatherlessUsage", "JsonUsage", "PrometheusUsage", "parse_usage"]
