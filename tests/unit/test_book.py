"""Which entry a model gets, and what is laid over what."""

import re

import pytest

from ratelease import Limits, Pool
from ratelease.book import Entries, LimitBook
from ratelease.builtin import EXAMPLES, examples
from ratelease.errors import ConfigError
from ratelease.names import dashed, normal_form, spellings, undated
from support.repository import ROOT

A, B, C, D = (Limits(rpm=number) for number in (1, 2, 3, 4))


def test_a_model_gets_its_own_entry_before_any_pattern() -> None:
    """The exact name, then the pattern with most letters, however they are ordered."""
    book = LimitBook({"openai/*": A, "openai/gpt-4*": B, "openai/gpt-4o": C, "openai/*mini": D}, None)
    assert book.model("openai", "gpt-4o") == C
    assert book.model("openai", "gpt-4-turbo") == B
    assert book.model("openai", "o3-mini") == D
    assert book.model("openai", "davinci") == A
    assert book.model("anthropic", "gpt-4o") is None


@pytest.mark.parametrize(
    "pattern, name, matches",
    [
        ("claude-*", "claude-3", True),
        ("claude-*", "claude-", True),
        ("claude-*", "claude", False),
        ("*-opus-*", "claude-opus-4", True),
        ("*-opus-*", "claude-opus", False),
        ("a*b*c", "a-b-c", True),
        ("a*b*c", "acb", False),
        ("a*a", "a", False),
        ("ab*ba", "aba", False),
        ("*.*", "a.b", True),
        ("gpt-4.1", "gpt-451", False),
        ("llama3:*", "llama3:8b", True),
    ],
)
def test_a_star_stands_for_any_letters_and_nothing_else_is_special(pattern: str, name: str, matches: bool) -> None:
    """Dots, brackets and the like are themselves."""
    book = LimitBook({f"some/{pattern}": A}, None)
    assert (book.model("some", name) == A) is matches


def test_keys_are_split_at_their_first_slash_and_case_folded() -> None:
    """A model's name may have slashes; total and providers have none."""
    book = LimitBook({"OpenAI": A, "total": B, "HuggingFace/Meta/Llama": C}, None)
    assert book.provider("openai") == A
    assert book.total == B
    assert book.model("huggingface", "meta/llama") == C


def test_a_model_is_in_every_pool_that_lists_it() -> None:
    """By name or by pattern, in order of the pools' names; a template gives limits to pools that requests name."""
    pools = {
        "Opus": Pool(["anthropic/claude-opus-*"], A),
        "big": Pool(["openai/gpt-4o", "Anthropic/*"], B),
        "tenant:*": Pool(limits=C),
        "tenant:vip*": Pool(limits=D),
    }
    book = LimitBook(None, pools)
    assert book.pools_of("anthropic", "claude-opus-4") == ["big", "opus"]
    assert book.pools_of("openai", "gpt-4o") == ["big"]
    assert book.pools_of("openai", "o3") == []
    assert book.pool("opus") == A
    assert book.pool("tenant:7") == C
    assert book.pool("tenant:vip-1") == D
    assert book.pool("other") is None


# ---- spellings ---------------------------------------------------------------------------------------------


@pytest.mark.covers("LC-04")
@pytest.mark.parametrize(
    "name, base",
    [
        ("claude-3-5-sonnet-20241022", "claude-3-5-sonnet"),
        ("claude-3-5-sonnet@20241022", "claude-3-5-sonnet"),
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
        ("gpt-4o-mini", "gpt-4o-mini"),
        ("gpt-4-0613", "gpt-4-0613"),
        ("mistral-large-2407", "mistral-large-2407"),
        ("gpt-4o-2024-13-06", "gpt-4o-2024-13-06"),
        ("model-20241322", "model-20241322"),
        ("model-19991231", "model-19991231"),
        ("model-20241022-v2", "model-20241022-v2"),
        ("gpt-4o2024-08-06", "gpt-4o2024-08-06"),
        ("-20241022", "-20241022"),
        ("20241022", "20241022"),
    ],
)
def test_only_a_date_is_taken_off_a_name(name: str, base: str) -> None:
    """A year, a month and a day at the very end; shorter numbers may be sizes or versions."""
    assert undated(name) == base


@pytest.mark.covers("LC-04")
@pytest.mark.parametrize(
    "name, spelt",
    [
        ("claude-3.5-sonnet", "claude-3-5-sonnet"),
        ("gpt-4.1", "gpt-4-1"),
        ("a.b", "a.b"),
        ("v2.x", "v2.x"),
        ("1.2.3", "1-2-3"),
    ],
)
def test_only_a_dot_between_digits_is_a_dash(name: str, spelt: str) -> None:
    """Any other dot is part of the name."""
    assert dashed(name) == spelt


@pytest.mark.covers("LC-04")
@pytest.mark.parametrize("entry", ["claude-3.5-sonnet", "claude-3-5-sonnet"])
@pytest.mark.parametrize(
    "asked",
    ["claude-3.5-sonnet", "claude-3-5-sonnet", "claude-3-5-sonnet-20241022", "claude-3.5-sonnet-20241022"],
)
def test_dots_dashes_and_dates_are_spellings_of_one_entry(entry: str, asked: str) -> None:
    """Whichever of them is written down, each of them finds it."""
    book = LimitBook({f"anthropic/{entry}": A}, None)
    assert book.model("anthropic", asked) == A


@pytest.mark.covers("LC-04")
def test_the_closest_spelling_wins() -> None:
    """A snapshot with an entry of its own does not get its base's, and any entry comes before a pattern."""
    book = LimitBook({"some/m-1.5": A, "some/m-1.5-20240101": B, "some/m-1-5*": C}, None)
    assert book.model("some", "m-1-5-20240101") == B
    assert book.model("some", "m-1-5-20240202") == A
    assert book.model("some", "m-1.5-large") == C
    assert list(spellings("m-1.5-20240101")) == ["m-1.5-20240101", "m-1-5-20240101", "m-1.5", "m-1-5"]


@pytest.mark.covers("LC-04")
def test_a_pool_takes_its_models_in_every_spelling() -> None:
    """A snapshot is not outside of the pool that its base is in."""
    book = LimitBook(None, {"opus": Pool(["anthropic/claude-opus-4.1"], A)})
    assert book.pools_of("anthropic", "claude-opus-4-1-20250805") == ["opus"]
    assert book.pools_of("anthropic", "claude-opus-4") == []
    assert book.pools_of("anthropic", "claude-opus-4.1-mini") == []


@pytest.mark.covers("LC-02")
@pytest.mark.parametrize(
    "entry, other",
    [
        ("gpt-4o", "gpt-4o-mini"),
        ("gpt-4o", "gpt-4"),
        ("gpt-4", "gpt-4o"),
        ("gpt-4", "gpt-4.1"),
        ("gpt-4.1", "gpt-4"),
        ("o1", "o1-mini"),
        ("o1-mini", "o1"),
    ],
)
def test_a_name_is_never_the_beginning_of_another(entry: str, other: str) -> None:
    """Names are compared whole."""
    book = LimitBook({f"openai/{entry}": A}, None)
    assert book.model("openai", entry) == A
    assert book.model("openai", other) is None


@pytest.mark.covers("LC-02")
def test_an_exact_entry_comes_before_every_pattern() -> None:
    """Also before one with as many letters."""
    book = LimitBook({"openai/gpt-4o*": A, "openai/gpt-4o-min*": B, "openai/gpt-4o-mini": C}, None)
    assert book.model("openai", "gpt-4o-mini") == C


@pytest.mark.covers("LC-03")
@pytest.mark.parametrize("turned", [False, True])
def test_the_longest_pattern_wins_in_whatever_order_they_are_given(turned: bool) -> None:
    """Which one stands first does not matter."""
    limits = [("openai/gpt-*", A), ("openai/gpt-4o-*", B), ("openai/*", C)]
    book = LimitBook(dict(limits[::-1] if turned else limits), None)
    assert book.model("openai", "gpt-4o-2024-08-06") == B
    assert book.model("openai", "gpt-4o") == A
    assert book.model("openai", "o3") == C


# ---- the built-in table ------------------------------------------------------------------------------------


@pytest.mark.covers("LC-01")
@pytest.mark.parametrize(
    "provider, model, rpm",
    [
        ("openai", "gpt-4o", 500),
        ("openai", "gpt-4o-mini", 1000),
        ("anthropic", "claude-3.5-sonnet", 1000),
        ("anthropic", "claude-3-5-haiku-20241022", 2000),
        ("google", "gemini-1.5-pro", 300),
        ("gemini", "gemini-1.5-pro", 300),
    ],
)
def test_the_table_has_examples(provider: str, model: str, rpm: int) -> None:
    """Where nothing else is said, with their source."""
    found = LimitBook(None, None, builtin=examples()).resolve(provider, model, "fallback")
    assert (found.limits, dict(found.sources)) == (Limits(rpm=rpm), {"rpm": "built-in"})


@pytest.mark.covers("LC-01")
@pytest.mark.parametrize(
    "limits, pools",
    [
        ({"openai/gpt-4o": Limits(concurrency=3)}, None),
        ({"openai/gpt-*": Limits(concurrency=3)}, None),
        ({"openai": Limits(concurrency=3)}, None),
        (None, {"big": Pool(["openai/gpt-4o"], Limits(concurrency=3))}),
    ],
)
def test_any_entry_that_speaks_of_a_model_drops_its_example_whole(limits, pools) -> None:
    """An example's requests a minute do not mix with somebody's own figures."""
    book = LimitBook(limits, pools, builtin=examples())
    assert "rpm" not in book.resolve("openai", "gpt-4o", "fallback").sources
    assert book.resolve("anthropic", "claude-3.5-sonnet", "fallback").sources == {"rpm": "built-in"}


@pytest.mark.covers("LC-01")
def test_who_wants_unknown_models_unlimited_or_refused_gets_no_examples() -> None:
    """They are a better fallback, and nothing more."""
    book = LimitBook(None, None, builtin=examples())
    assert book.resolve("openai", "gpt-4o", "unlimited").limits is None
    with pytest.raises(ConfigError, match="openai/gpt-4o"):
        book.resolve("openai", "gpt-4o", "error")


@pytest.mark.covers("LC-05")
@pytest.mark.parametrize("model", ["claude", "gpt", "gpt-", "gemini", "c", "claude-3.5", "claude-3.5-sonnet-latest"])
@pytest.mark.parametrize("provider", ["openai", "anthropic", "google"])
def test_a_bare_name_matches_nothing(provider: str, model: str) -> None:
    """It is unknown, and not the first entry that begins with it."""
    own = {f"{provider}/{name}": A for name in ("claude-4", "gpt-5", "gemini-3")}
    book = LimitBook(own, None, builtin=examples())
    assert book.resolve(provider, model, "fallback").sources == {"rpm": "fallback", "concurrency": "fallback"}


# ---- unknown models ----------------------------------------------------------------------------------------


@pytest.mark.covers("LC-06")
def test_an_unknown_model_gets_the_fallback() -> None:
    """30 requests a minute, 2 at once, and their source says so."""
    found = LimitBook(None, None).resolve("mistral", "large", "fallback")
    assert found.limits == Limits(rpm=30, concurrency=2)
    assert set(found.sources.values()) == {"fallback"}


@pytest.mark.covers("LC-06")
@pytest.mark.parametrize(
    "limits, pools",
    [
        ({"mistral/large": Limits()}, None),
        ({"mistral/l*": Limits()}, None),
        ({"mistral": Limits()}, None),
        (None, {"big": Pool(["mistral/*"])}),
    ],
)
@pytest.mark.parametrize("unknown", ["fallback", "error"])
def test_a_model_that_any_entry_speaks_of_is_not_unknown(limits, pools, unknown) -> None:
    """Its own, a pattern, its provider's, or a pool's."""
    assert LimitBook(limits, pools).resolve("mistral", "large", unknown).sources == {}


# ---- faults ------------------------------------------------------------------------------------------------


@pytest.mark.covers("LC-10")
@pytest.mark.parametrize(
    "name, form",
    [
        ("gemini-1.5-pro", "GEMINI15PRO"),
        ("llama3:8b", "LLAMA38B"),
        ("gpt_4o", "GPT4O"),
        ("a/b", "AB"),
        ("模型-1", "模型1"),
    ],
)
def test_the_normal_form_has_capital_letters_and_digits_alone(name: str, form: str) -> None:
    """As names of variables are."""
    assert normal_form(name) == form


@pytest.mark.covers("LC-10")
@pytest.mark.parametrize(
    "one, other",
    [
        ("openai/gpt-4.1", "openai/gpt-41"),
        ("ollama/llama3:8b", "ollama/llama-38b"),
        ("azure-openai/gpt-4o", "azure.openai/gpt-4o"),
        ("azure-openai", "azure_openai"),
    ],
)
def test_two_models_with_one_normal_form_are_refused_by_name(one: str, other: str) -> None:
    """No variable could tell them apart; the message names both."""
    with pytest.raises(ConfigError) as caught:
        LimitBook({one: A, other: B}, None)
    assert f"'{one}'" in str(caught.value)
    assert f"'{other}'" in str(caught.value)


@pytest.mark.covers("LC-10")
def test_two_names_in_argument_and_file_clash_as_well() -> None:
    """The sources are one configuration; the same name in both is one model."""
    faults: list[str] = []
    file = Entries({"some/m-1.5": A, "some/other": B}, {"a b": Pool()}, faults)
    assert LimitBook({"some/m-1.5": C, "some/m*": D}, {"a b": Pool()}, file=file).model("some", "m-1.5") == C
    with pytest.raises(ConfigError, match=r"'some/m-1-5' and 'some/m-1\.5'.*\(SOME_M15\)"):
        LimitBook({"some/m-1-5": A}, None, file=file)
    with pytest.raises(ConfigError, match="'pool a b' and 'pool a-b'"):
        LimitBook(None, {"a-b": Pool()}, file=file)


@pytest.mark.covers("LC-24")
def test_a_key_that_is_there_twice_is_refused() -> None:
    """Upper and lower case are the same, so one of the two would be lost."""
    with pytest.raises(ConfigError, match=r"'OpenAI/GPT-4o'.*twice"):
        LimitBook({"openai/gpt-4o": A, "OpenAI/GPT-4o": B}, None)
    with pytest.raises(ConfigError, match=r"'Opus'.*twice"):
        LimitBook(None, {"opus": Pool(), "Opus": Pool()})


@pytest.mark.covers("LC-24")
def test_a_model_is_split_off_at_the_first_slash() -> None:
    """So a model's name may have slashes."""
    book = LimitBook({"a/b/c": A, "a/b/*": B}, None)
    assert (book.model("a", "b/c"), book.model("a", "b/d"), book.model("a/b", "c")) == (A, B, None)


@pytest.mark.covers("LC-24")
@pytest.mark.parametrize("key", ["*", "**", "*/gpt-4o", "", " ", "openai/", "/gpt-4o", "open*/x", 3, "a\nb", "a/{b}"])
def test_a_key_that_can_be_none_is_refused_by_name(key) -> None:
    """A star for a provider would hide every mistake in a name."""
    with pytest.raises(ConfigError) as caught:
        LimitBook({key: A}, None)
    assert ascii(key) in str(caught.value)


def test_all_faults_are_named_together() -> None:
    """Keys, values and pools in one error, each of them once."""
    with pytest.raises(ConfigError) as caught:
        LimitBook({"*": A, "openai/": B, "openai": 3}, {"opus": 3, "": Pool()})  # type: ignore[dict-item]
    assert len(caught.value.faults) == 5
    assert all(fault in str(caught.value) for fault in caught.value.faults)
    with pytest.raises(ConfigError, match="limits must map"):
        LimitBook([], None)  # type: ignore[arg-type]


def test_the_table_of_examples_is_what_the_documentation_shows() -> None:
    """Row by row."""
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    rows = {found[1]: int(found[2]) for found in re.finditer(r"^\| `([\w./-]+)` \| (\d+) \|$", page, re.MULTILINE)}
    assert rows == dict(EXAMPLES)
