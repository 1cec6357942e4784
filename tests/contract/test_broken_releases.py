"""Releases that something interrupts, and feedback that is none."""

import pytest

from ratelease import Feedback, Limits, Outcome
from ratelease.errors import ConfigError
from support.wait_until import wait_until_async

MODEL = ("openai", "gpt-4o")
SCOPE = "openai/gpt-4o"


@pytest.mark.covers("LS-14")
async def test_an_interrupted_release_is_made_as_it_was_asked_for(make_limiter, monkeypatch) -> None:
    """In the background: it holds the slot as long, and a success that was not clean stays so."""
    limiter = make_limiter(limits={SCOPE: Limits(concurrency=2)})
    sent, keeper = [], limiter.client._rt.keeper
    lease = await limiter.acquire(*MODEL)

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(lease.lease, "end", interrupted)
    end_later = keeper.end_later
    monkeypatch.setattr(keeper, "end_later", lambda ending: (sent.append(ending), end_later(ending)))
    lease.lease._hold.watched = True
    with pytest.raises(KeyboardInterrupt):
        await limiter.call(lease.lease.release, clean=False, hold=30)
    assert [(ending.lesson, ending.hold) for ending in sent] == [("", 30_000)]
    # Another one, after which nothing is held.
    monkeypatch.undo()
    lease = await limiter.acquire(*MODEL)
    monkeypatch.setattr(lease.lease, "end", interrupted)
    with pytest.raises(KeyboardInterrupt):
        await lease.release()

    async def one_is_left() -> bool:
        return await limiter.in_flight(SCOPE) == 1

    await wait_until_async(one_is_left, description="only the held one counts")


def test_feedback_of_wrong_figures_is_refused_and_all_of_it_is_told() -> None:
    """Before a lease is ended by it."""
    with pytest.raises(ConfigError) as raised:
        Feedback(Outcome.ERROR, code=123, status=True, terminal=1, local=0)  # type: ignore[arg-type]
    assert all(part in str(raised.value) for part in ("code", "status", "terminal", "local"))
    for status in (429.0, "429", [429]):
        with pytest.raises(ConfigError, match="whole number"):
            Feedback(Outcome.ERROR, status=status)  # type: ignore[arg-type]
