"""Who learns from an exception that leaves several leases: one provider has answered, and one of its calls."""

import asyncio
import contextlib

import pytest

from ratelease import Client, Limits, Outcome

OUTER, INNER = ("anthropic", "claude"), ("openai", "gpt-4o")
LIMITS = {"/".join(model): Limits(concurrency=8) for model in (OUTER, INNER)}


class Throttled(Exception):
    """As SDKs raise it."""

    status_code = 429

    def __init__(self) -> None:
        super().__init__("429")
        self.headers = {"retry-after": "30"}


class Frozen(Throttled):
    """One whose attributes nobody can set, as a frozen dataclass has it."""

    def __init__(self) -> None:
        super(Exception, self).__init__()
        self.__dict__["headers"] = {"retry-after": "30"}

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)


class Broken(Exception):
    """A server's own fault."""

    status_code = 500


async def learned(limiter, model: tuple[str, str]) -> bool:
    """Whether a model was cut and is paused."""
    health = await limiter.health(*model)
    return bool(health.limit < 8 and health.paused_for > 0)


@pytest.mark.covers("AL-19")
@pytest.mark.parametrize("error", [Throttled, Frozen])
async def test_of_leases_inside_one_another_the_innermost_learns(make_limiter, error) -> None:
    """A call of OpenAI inside a call of Anthropic: its 429 is no failure of Anthropic's."""
    limiter = make_limiter(limits=LIMITS)
    with contextlib.suppress(error):
        async with limiter.acquire(*OUTER), limiter.acquire(*INNER):
            raise error
    assert (await learned(limiter, OUTER), await learned(limiter, INNER)) == (False, True)


async def call(limiter, error: Exception) -> None:
    """A call by a target that does not try again."""

    def ask() -> None:
        raise error

    async def ask_soon() -> None:
        raise error

    target = limiter.client.target(*INNER, retries=0)
    await limiter.call(target.call, ask if limiter.is_sync else ask_soon)


async def read(limiter, error: Exception) -> None:
    """A stream that holds a lease, and fails."""
    async for _ in (await limiter.acquire(*INNER)).wrap_stream(limiter.stream("a", error)):
        pass


async def fail(limiter, error: Exception) -> None:
    """A lease that is told by its owner."""
    lease = await limiter.acquire(*INNER)
    await lease.fail(error)
    raise error


async def leave(limiter, error: Exception) -> None:
    """A group that is left."""
    async with limiter.acquire_many(*INNER, 2):
        raise error


@pytest.mark.covers("AL-19")
@pytest.mark.parametrize("wrapped", ["as it is", "raised from it", "in a group"])
@pytest.mark.parametrize("inner", [call, read, fail, leave])
async def test_however_the_inner_one_is_told_of_it(make_limiter, inner, wrapped) -> None:
    """Also where another exception is raised from it, or one for all that have failed."""
    limiter = make_limiter(limits=LIMITS)
    with contextlib.suppress(Exception):
        async with limiter.acquire(*OUTER):
            try:
                await inner(limiter, Throttled())
            except Throttled as error:
                if wrapped == "raised from it":
                    raise RuntimeError("the tool failed") from error
                if wrapped == "in a group":
                    raise ExceptionGroup("all of them", [error]) from None
                raise
    assert (await learned(limiter, OUTER), await learned(limiter, INNER)) == (False, True)


@pytest.mark.parametrize("how", ["an own failure", "after the inner one has ended", "while it handles the other's"])
async def test_the_outer_one_learns_what_was_told_to_no_inner_one(make_limiter, how) -> None:
    """A failure of its own is its own, whatever has come before it."""
    limiter = make_limiter(limits=LIMITS)
    with contextlib.suppress(Throttled):
        async with limiter.acquire(*OUTER):
            if how == "after the inner one has ended":
                async with limiter.acquire(*INNER) as inner:
                    await inner.release()
                    raise Throttled
            try:
                async with limiter.acquire(*INNER):
                    raise Throttled
            except Throttled:
                if how == "while it handles the other's":
                    raise Throttled  # noqa: B904 - its context is the other's failure
            raise Throttled
    assert await learned(limiter, OUTER)


@pytest.mark.parametrize("store_url", ["memory"], indirect=True)
def test_what_a_call_inside_has_raised_is_still_tried_again(settings) -> None:
    """Nobody learns twice, but the whole may succeed next time."""
    with Client(config=settings, limits=LIMITS) as client:
        calls = []

        def outer() -> str:
            calls.append(1)
            return client.target(*INNER, retries=0).call(inner)

        def inner() -> str:
            if len(calls) == 1:
                raise ConnectionResetError
            return "answer"

        assert client.target(*OUTER, retries=1).call(outer) == "answer"
        assert len(calls) == 2


@pytest.mark.covers("AL-19")
@pytest.mark.parametrize("colour", ["async"], indirect=True)
async def test_a_group_of_tasks_inside_a_lease_teaches_it_nothing(make_limiter) -> None:
    """Each of the tasks has a lease of its own, and all their errors come in one exception."""
    limiter = make_limiter(limits=LIMITS)

    async def ask() -> None:
        async with limiter.acquire(*INNER):
            raise Throttled

    with contextlib.suppress(ExceptionGroup):
        async with limiter.acquire(*OUTER), asyncio.TaskGroup() as tasks:
            for _ in range(2):
                tasks.create_task(ask())
    assert (await learned(limiter, OUTER), await learned(limiter, INNER)) == (False, True)


async def test_one_exception_that_leaves_a_group_is_one_failure(make_limiter) -> None:
    """Five leases of one call are not the five failures in a row of which a breaker opens."""
    limiter = make_limiter(limits={"openai/gpt-4o": Limits(concurrency=8, strategy="breaker")})
    for _ in range(4):
        with contextlib.suppress(Broken):
            async with limiter.acquire_many(*INNER, 5) as group:
                await group[0].release(Outcome.IGNORED)
                raise Broken
    assert (await limiter.reaction("openai/gpt-4o")).breaker is None
    with contextlib.suppress(Broken):
        async with limiter.acquire_many(*INNER, 5):
            raise Broken
    assert (await limiter.reaction("openai/gpt-4o")).breaker is not None
    assert await limiter.in_flight("openai/gpt-4o") == 0


async def test_an_exception_that_refuses_to_be_noted_on_comes_through(make_limiter) -> None:
    """Both learn from it then."""

    class Sealed(Throttled):
        @property
        def __dict__(self):
            raise AttributeError

    limiter = make_limiter(limits=LIMITS)
    with pytest.raises(Sealed):
        async with limiter.acquire(*OUTER), limiter.acquire(*INNER):
            raise Sealed
    assert (await learned(limiter, OUTER), await learned(limiter, INNER)) == (True, True)
