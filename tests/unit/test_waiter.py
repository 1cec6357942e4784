"""Where two answers to one request meet: the caller's own, and the one that the keeper has claimed."""

import threading

import pytest

from ratelease.core.keys import make_path
from ratelease.core.model import Answer, Header, Line, Request, Verdict
from ratelease.store.waiter import Waiter

HEADER = Header(1_000_000, "e1", 1, 500, 100, 300, "", 0)
LINE = Line(make_path("openai", "gpt-4o", (), None), (), ("c1", "-", "-"), "openai", "gpt-4o")


def answer(status: Verdict, sent: float) -> Answer:
    return Answer(status, 0, "", 1, 1, 0, 0, -1, HEADER, sent)


@pytest.mark.covers("LS-04")
@pytest.mark.parametrize("late", [Verdict.GRANTED, Verdict.PARKED, Verdict.REFUSED])
def test_a_claimed_grant_that_was_renewed_counts_for_more_than_what_its_caller_reads_late(late: Verdict) -> None:
    """The same grant, or the news that it waits, sent before the loop stood still: the keeper knows better."""
    waiter = Waiter(Request(LINE, "id", 1, 1, "r1", 50.0, True), lambda: None)
    waiter.resolve(answer(Verdict.GRANTED, 20.0))
    waiter.renewed(22.0, HEADER)
    assert waiter.fresher(answer(late, 20.1)) == answer(Verdict.GRANTED, 22.0)


@pytest.mark.parametrize("claimed", [None, Verdict.IMPOSSIBLE, Verdict.REFUSED])
def test_without_a_claimed_grant_the_callers_own_answer_counts(claimed: Verdict | None) -> None:
    """What ends a wait without a grant says nothing about a request that the store has just answered."""
    waiter = Waiter(Request(LINE, "id", 1, 1, "r1", 50.0, True), lambda: None)
    if claimed is not None:
        waiter.resolve(answer(claimed, 20.0))
    own = answer(Verdict.GRANTED, 20.1)
    assert waiter.fresher(own) is own


def test_a_wait_may_be_ended_by_a_finaliser_in_the_middle_of_its_answer() -> None:
    """A batch that is collected ends the waits of its workers, in whatever thread that is."""
    waiter = Waiter(Request(LINE, "id", 1, 1, "r1", 50.0, True), lambda: None)
    stopped = RuntimeError("stopped")

    class Collecting(str):
        """An id that is compared while the waiter is locked."""

        __slots__ = ()

        def __ne__(self, other: object) -> bool:
            waiter.fail(stopped)
            return False

    thread = threading.Thread(
        target=waiter.resolve, args=(answer(Verdict.GRANTED, 20.0), Collecting("id")), daemon=True
    )
    thread.start()
    thread.join(5.0)
    assert not thread.is_alive()
    assert waiter.error is stopped


@pytest.mark.covers("RL-07", "RL-12")
def test_a_caller_that_has_given_up_takes_nothing_more() -> None:
    """Neither an answer nor another id, and its request is not sent again: whoever brings a grant takes it back."""
    waiter = Waiter(Request(LINE, "id", 1, 1, "r1", 50.0, True), lambda: None)
    assert waiter.give_up() is None
    assert not waiter.resolve(answer(Verdict.GRANTED, 20.0))
    assert not waiter.restart("another")
    assert waiter.sending() is None
    assert (waiter.granted, waiter.request.id, waiter.request.lingers) == (None, "id", False)


@pytest.mark.covers("QU-09")
def test_a_grant_that_came_first_is_its_callers() -> None:
    """The deadline passes while the keeper brings the grant: it is not given back."""
    waiter = Waiter(Request(LINE, "id", 1, 1, "r1", 50.0, True), lambda: None)
    waiter.resolve(answer(Verdict.GRANTED, 20.0))
    assert waiter.give_up() == answer(Verdict.GRANTED, 20.0)


@pytest.mark.covers("RL-07")
def test_what_is_sent_again_is_the_request_as_it_was() -> None:
    """It gets another id while the call is on its way: the answer is one to the id that was sent."""
    waiter = Waiter(Request(LINE, "id", 1, 1, "r1", 50.0, True), lambda: None)
    sent = waiter.sending()
    assert sent is not None
    assert waiter.request.lingers, "who gives up from here on has to withdraw it"
    assert waiter.restart("another")
    assert not waiter.resolve(answer(Verdict.GRANTED, 20.0), sent.id)
    assert (sent.id, waiter.request.id, waiter.request.sent) == ("id", "another", 0)
