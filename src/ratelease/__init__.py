"""A distributed rate limiter for LLM API clients: one fleet, one account, no 429s."""

from .aio import AsyncClient
from .aio_target import AsyncTarget
from .client import Client
from .config import Config
from .core.feedback import Feedback
from .core.figures import EffectiveLimits
from .core.instances import Instance
from .core.model import Outcome, Refusal
from .core.progress import Done, Progress, Stats
from .core.provider_usage import ProviderUsage
from .core.status import Status
from .core.usage import Usage
from .lease import AsyncGroup, AsyncLease, Group, Lease
from .limits import Limits, Pool, Rate
from .operator import AsyncOperator, Operator
from .providers import classify
from .retry import Retry
from .target import Target

__all__ = [
    "AsyncClient",
    "AsyncGroup",
    "AsyncLease",
    "AsyncOperator",
    "AsyncTarget",
    "Client",
    "Config",
    "Done",
    "EffectiveLimits",
    "Feedback",
    "Group",
    "Instance",
    "Lease",
    "Limits",
    "Operator",
    "Outcome",
    "Pool",
    "Progress",
    "ProviderUsage",
    "Rate",
    "Refusal",
    "Retry",
    "Stats",
    "Status",
    "Target",
    "Usage",
    "classify",
]
