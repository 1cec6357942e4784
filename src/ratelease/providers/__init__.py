"""What providers say: their words, statuses, headers and exceptions as data, and what they mean."""

from .classification import classify
from .hints import retry_after_of

__all__ = ["classify", "retry_after_of"]
