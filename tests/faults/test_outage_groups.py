"""Groups of this process' share while Redis is away: what else asks while their leases are made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ratelease import Limits
from ratelease.core.model import Verdict
from ratelease.store.waiter import Waiter
from support.both import Limiter
from support.outages import away, known
from support.proxy import TcpProxy

pytestmark = pytest.mark.faults

LIMITS = {"openai/gpt-4o": Limits(concurrency=4)}

Make = Callable[..., Limiter]


@pytest.mark.covers("RL-12")
@pytest.mark.parametrize(
    "size, made, asks, said", [(4, 1, 1, Verdict.REFUSED), (2, 1, 2, Verdict.GRANTED), (2, 2, 2, Verdict.GRANTED)]
)
async def test_a_group_of_the_share_counts_once_while_its_leases_are_made(
    make: Make, proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch, size: int, made: int, asks: int, said: Verdict
) -> None:
    """The only client of a store that has gone away: its share is all four slots. Somebody asks in between."""
    limiter = make()
    await known(limiter)
    await away(proxy, limiter)
    keeper, asked = limiter.client._rt.keeper, []
    keep = keeper.keep

    def keep_and_ask(hold: Any) -> None:
        keep(hold)
        if len(keeper.holds) == made:
            another = replace(hold.request, id="another", n=asks, waits=False)
            asked.append(keeper.runtime.outage.decide(Waiter(another, asked.clear)))

    monkeypatch.setattr(keeper, "keep", keep_and_ask)
    assert len(await limiter.acquire_many("openai", "gpt-4o", size)) == size
    assert [answer.status for answer in asked] == [said]
