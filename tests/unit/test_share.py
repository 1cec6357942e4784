"""What one instance may admit by itself: shares, windows, and what it is to charge later."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelease.core.keys import Keyspace, make_path
from ratelease.core.model import Line
from ratelease.core.share import (
    Block,
    Book,
    LateCharges,
    Need,
    RateSpec,
    ScopeSpec,
    Standing,
    Window,
    agreed_spec,
    read_costs,
    read_spec,
    too_large,
)

PATH = make_path("openai", "gpt-4o", (), None)
ALONE = Standing(1, 0)


def line(*specs: str) -> Line:
    """The path of a model with these limits of model, provider and total."""
    return Line(PATH, tuple(Keyspace("test").path_keys(PATH)), specs, "openai", "gpt-4o")


def specs_of(of: Line) -> list[ScopeSpec]:
    return [read_spec(spec) for spec in of.specs]


@pytest.mark.covers("RL-12")
@given(st.integers(1, 10**6), st.integers(1, 500))
def test_shares_add_up_to_the_limit_and_differ_by_one_at_most(limit: int, instances: int) -> None:
    """The remainder goes to the first ranks."""
    shares = [Standing(instances, rank).share(limit) for rank in range(instances)]
    assert sum(shares) == limit
    assert max(shares) - min(shares) <= 1
    assert shares == sorted(shares, reverse=True)


def test_whoever_is_behind_everybody_gets_nothing_of_the_remainder() -> None:
    """Before the first heartbeat an instance knows no rank."""
    assert [Standing(3, 3).share(limit) for limit in (2, 3, 8)] == [0, 1, 2]


def test_limits_are_read_as_scripts_spell_them() -> None:
    """Concurrency and rates; what limits nothing is nothing."""
    assert read_spec("c8 r60000=500+250 t1000=90+100") == ScopeSpec(
        8, (RateSpec("r", 60_000, 500, 250), RateSpec("t", 1000, 90, 100))
    )
    assert read_spec("c8 h700 r60000=500+250 r1000=1+0").rates == (
        RateSpec("r", 60_000, 350, 250),
        RateSpec("r", 1000, 1, 0),
    )
    for spec in ("-", "?", "none"):
        assert read_spec(spec) == ScopeSpec(None, ())
    assert read_costs("r1t1200o5I7") == {"r": 1, "t": 1200, "o": 5}


def test_what_the_store_has_told_of_a_limit_counts_instead_of_the_own_figure() -> None:
    """It may name a limit that this client knows nothing of."""
    known = agreed_spec(read_spec("c8 r60000=500+250"), {"c": 2, "r60000": 90, "t1000": 7, "queue": 3, "x1": 1})
    assert known == ScopeSpec(2, (RateSpec("r", 60_000, 90, 250), RateSpec("t", 1000, 7, 100)))


@pytest.mark.covers("RL-12")
@given(
    st.lists(st.tuples(st.integers(0, 400), st.integers(1, 4)), max_size=80),
    st.sampled_from([(1000, 0), (1000, 100), (60, 6), (90_000, 250)]),
    st.integers(4, 12),
)
def test_no_true_window_holds_more_than_the_share(
    arrivals: list[tuple[int, int]], rate: tuple[int, int], limit: int
) -> None:
    """Whatever comes when: admitted only if the window has room, and it has room when it says so."""
    spec = RateSpec("r", rate[0], limit, rate[1])
    window, admitted, now = Window(spec), [], 1_700_000_000_123
    for pause, amount in arrivals:
        now += pause * rate[0] // 400
        if window.used(now) + amount > limit:
            frees_at = window.frees_at(limit, amount)
            assert now < frees_at <= now + spec.lifetime
            assert window.used(frees_at - 1) + amount > limit
            now = frees_at
            assert window.used(now) + amount <= limit
        window.charge(now, amount)
        admitted.append((now, amount))
    for end, _ in admitted:
        assert sum(amount for at, amount in admitted if end - spec.window < at <= end) <= limit


@pytest.mark.covers("RL-12")
def test_the_share_of_every_limit_of_the_path_must_have_room() -> None:
    """Concurrency of any scope by what this process holds, rates by what it was granted of late."""
    of = line("c10 r60000=20+250", "c4", "t60000=100+250")
    book, need, half = Book(), Need.of(1, 1, "r1t10"), Standing(2, 0)
    assert book.blocked(of, specs_of(of), need, {}, half, 0) is None
    assert book.blocked(of, specs_of(of), need, {"p:openai": 2}, half, 0) == Block(1, "c", 2, 2)
    assert book.blocked(of, specs_of(of), need, {"m:openai:gpt-4o": 5}, half, 0) == Block(0, "c", 5, 5)
    for _ in range(5):
        book.charge(of, specs_of(of), need.charges, 1000)
    blocked = book.blocked(of, specs_of(of), need, {"p:openai": 2}, half, 2000)
    assert blocked == Block(2, "t60000", 50, 50, 62_250), "time frees it, so that is told"
    assert book.blocked(of, specs_of(of), need, {}, ALONE, 2000) is None
    assert book.blocked(of, specs_of(of), need, {}, half, 62_250) is None
    book.prune(62_250)
    assert book._windows == {}


def test_what_exceeds_a_whole_share_is_found_before_any_wait() -> None:
    """By itself, whatever is in use: of the limit itself, or of the share."""
    of = line("c10 r60000=3+250", "none", "-")
    assert too_large(specs_of(of), Need.of(1, 11, "r1"), None) == Block(0, "c", 11, 10)
    assert too_large(specs_of(of), Need.of(2, 1, "r2"), None) == Block(0, "r60000", 4, 3)
    assert too_large(specs_of(of), Need.of(1, 3, "r1"), Standing(4, 1)) is None
    assert too_large(specs_of(of), Need.of(1, 3, "r1"), Standing(4, 2)) == Block(0, "c", 3, 2)
    assert too_large(specs_of(of), Need.of(1, 1, "r1"), Standing(4, 3)) == Block(0, "r60000", 1, 0)


@pytest.mark.covers("RD-02")
def test_what_was_admitted_is_kept_by_the_second_to_be_charged_later() -> None:
    """Charges of one second and path are one entry, as old as the youngest of them; nothing is told twice."""
    late, of, other = LateCharges(), line("none", "none", "none"), line("c1", "none", "none")
    assert not late
    for now in (1000, 1900, 2100):
        late.note(of, {"r": 1, "t": 10}, now)
    assert late
    assert late.take(1) == (of, [(1900, "r2t20")])
    assert late.take(5) == (of, [(2100, "r1t10")])
    assert late.take(5) is None
    assert not late
    for second in range(LateCharges.MOST + 10):
        late.note(other, {"r": 1}, 1000 * second)
    taken = late.take(10**6)
    assert taken is not None
    assert len(taken[1]) == LateCharges.MOST
    assert taken[1][-1] == (1000 * (LateCharges.MOST + 9), "r1")


@pytest.mark.covers("RL-12", "TK-12")
def test_a_guess_counts_where_a_rate_counts_it_and_is_never_more_than_the_share() -> None:
    """Tokens are limited, input alone is not; of 900 a minute one of three instances has 300."""
    specs = [read_spec("t60000=900+0"), read_spec("r60000=50+0")]
    assert Need.of(1, 1, "r1T1000I500", specs, Standing(3, 0)).charges == {"r": 1, "t": 300}
    assert Need.of(2, 1, "r1T1000I500", specs).charges == {"r": 2, "t": 900}
    assert Need.of(1, 1, "r1t50T1000", specs, Standing(3, 0)).charges == {"r": 1, "t": 50}
    assert Need.of(1, 1, "r1T1000", [read_spec("c5")]).charges == {"r": 1}
