"""This process' share while Redis is away: what counts as in use, while grants and callers come and go."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from ratelease import Limits
from ratelease.errors import WaitTimeout
from support.both import Limiter
from support.outages import known
from support.proxy import TcpProxy
from support.wait_until import wait_until

pytestmark = pytest.mark.faults

LIMITS = {"openai/gpt-4o": Limits(concurrency=4)}

Make = Callable[..., Limiter]


@pytest.mark.covers("RL-12")
async def test_a_caller_whose_time_is_over_takes_no_share(make: Make, proxy: TcpProxy) -> None:
    """Its deadline has passed, and the store goes away before it is withdrawn: nobody would give the share back."""
    limiter, other = make(), make()
    await known(limiter, other)
    await other.hold("openai", "gpt-4o", 4)
    outage, release = limiter.client._rt.outage, limiter.client._release

    def withdraw_late(*arguments: Any) -> Any:
        proxy.refuse()
        wait_until(lambda: outage.away, description="it is noticed")
        return release(*arguments)

    limiter.client._release = withdraw_late
    with pytest.raises(WaitTimeout):
        await limiter.acquire("openai", "gpt-4o", timeout=0.3)
    assert outage.admissions == {}
    assert len(await limiter.acquire_many("openai", "gpt-4o", 2)) == 2, "the whole share of one of two is free"


class Watched(dict[str, Any]):
    """Leases of a process; something happens just before, or just after, a decision looks at them."""

    def watch(self, when: str, act: Callable[[], None]) -> None:
        self.acts = {when: act}

    def values(self) -> Any:
        decides = sys._getframe(1).f_code.co_name == "_use"
        acts = self.acts if decides else {}
        acts.pop("before", lambda: None)()
        found = list(super().values())
        acts.pop("after", lambda: None)()
        return found


@pytest.mark.covers("RL-12")
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("room", [1, 2])
async def test_a_grant_that_becomes_a_lease_counts_once(make: Make, proxy: TcpProxy, when: str, room: int) -> None:
    """Another thread takes its lease while this one reads what is in use: just before or after it reads the leases."""
    proxy.refuse()
    limiter = make({"openai/gpt-4o": Limits(concurrency=room)}, expected_instances=1)
    keeper, granted, forgotten = limiter.client._rt.keeper, [], []
    outage = keeper.runtime.outage
    keep, keeper.keep = keeper.keep, granted.append
    forget, outage.forget = outage.forget, forgotten.append
    first = await limiter.try_acquire("openai", "gpt-4o")
    assert len(granted) == len(forgotten) == 1
    keeper.keep, keeper.holds, outage.forget = keep, Watched(), forget

    def take() -> None:
        keep(granted.pop())
        forget(forgotten.pop())

    keeper.holds.watch(when, take)
    second = await limiter.try_acquire("openai", "gpt-4o")
    assert granted == []
    assert [bool(first), bool(second)] == [True, room == 2]
