"""Groups of this process' share while Redis is away: what else asks while their leases are made."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from ratelease import AsyncClient, Client, Limits
from ratelease.core.model import Verdict
from ratelease.store.waiter import Waiter
from ratelease.testing import config
from support.both import Limiter
from support.outages import away, known
from support.proxy import TcpProxy

pytestmark = pytest.mark.faults

LIMITS = {"openai/gpt-4o": Limits(concurrency=4)}


@pytest.fixture(params=[Client, AsyncClient], ids=["sync", "async"])
async def limiter(request: pytest.FixtureRequest, proxy: TcpProxy, free_namespace: str) -> AsyncIterator[Limiter]:
    """The only client of a store that has just gone away: its share is all four slots."""
    settings = config(
        url=proxy.url, namespace=free_namespace, lease_ttl=20.0, heartbeat=0.3, attempt_timeout=0.2, store_timeout=0.3
    )
    limiter = Limiter(request.param(limits=LIMITS, config=settings))
    await known(limiter)
    await away(proxy, limiter)
    yield limiter
    proxy.passing()
    await limiter.close()
    limiter.callers.end()


@pytest.mark.covers("RL-12")
async def test_a_group_of_the_share_counts_while_its_leases_are_made(
    limiter: Limiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody asks when the first of four is there: all four are taken."""
    keeper, asked = limiter.client._rt.keeper, []
    keep = keeper.keep

    def keep_and_ask(hold: Any) -> None:
        keep(hold)
        if len(keeper.holds) == 1:
            another = replace(hold.request, id="another", n=1, waits=False)
            asked.append(keeper.runtime.outage.decide(Waiter(another, asked.clear)))

    monkeypatch.setattr(keeper, "keep", keep_and_ask)
    group = await limiter.acquire_many("openai", "gpt-4o", 4)
    assert len(group) == 4
    assert [answer.status for answer in asked] == [Verdict.REFUSED]


@pytest.mark.covers("RL-12")
@pytest.mark.parametrize("made", [1, 2])
async def test_a_group_of_the_share_counts_once_while_its_leases_are_made(
    limiter: Limiter, monkeypatch: pytest.MonkeyPatch, made: int
) -> None:
    """Somebody asks for two when one of two, or both, are there: two of four are free."""
    keeper, asked = limiter.client._rt.keeper, []
    keep = keeper.keep

    def keep_and_ask(hold: Any) -> None:
        keep(hold)
        if len(keeper.holds) == made:
            another = replace(hold.request, id="another", n=2, waits=False)
            asked.append(keeper.runtime.outage.decide(Waiter(another, asked.clear)))

    monkeypatch.setattr(keeper, "keep", keep_and_ask)
    group = await limiter.acquire_many("openai", "gpt-4o", 2)
    assert len(group) == 2
    assert [answer.status for answer in asked] == [Verdict.GRANTED]
