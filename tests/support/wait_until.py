"""Waiting with a deadline, as users of the package have it."""

from ratelease.testing.waiting import wait_until, wait_until_async

__all__ = ["wait_until", "wait_until_async"]
