"""Names, scopes and paths as keys spell them."""

import re

import pytest

from ratelease.core.keys import (
    Keyspace,
    Path,
    check_name,
    credential_label,
    decode,
    encode,
    make_path,
    parse_path,
    scope_label,
)
from ratelease.errors import ConfigError

SAFE = re.compile(r"[a-z0-9._%A-F-]*")


@pytest.mark.parametrize(
    "name, spelt",
    [
        ("gpt-4o", "gpt-4o"),
        ("GPT-4o", "gpt-4o"),
        ("llama3:8b", "llama3%3A8b"),
        ("a~b", "a%7Eb"),
        ("a%3Ab", "a%253ab"),
        ("meta/llama 3", "meta%2Fllama%203"),
        ("模型", "%E6%A8%A1%E5%9E%8B"),
        ("STRASSE", "strasse"),
        ("straße", "strasse"),
    ],
)
def test_a_name_is_spelt_in_a_safe_charset_and_read_back(name: str, spelt: str) -> None:
    """Case-folded; whatever could separate anything is escaped."""
    assert encode(name) == spelt
    assert SAFE.fullmatch(spelt)
    assert decode(spelt) == name.casefold()


def test_a_path_lists_its_scopes_from_the_model_to_the_total() -> None:
    """Pools in order, each once; the name joins them."""
    path = make_path("OpenAI", "GPT-4o", ("opus", "big", "opus"), None)
    assert path.scopes == ("m:openai:gpt-4o", "g:big", "g:opus", "p:openai", "t")
    assert path.name == "m:openai:gpt-4o~g:big~g:opus~p:openai~t"
    assert (path.provider, path.model) == ("openai", "gpt-4o")
    assert [scope_label(scope) for scope in path.scopes] == [
        "openai/gpt-4o",
        "pool:big",
        "pool:opus",
        "openai",
        "total",
    ]


def test_a_credential_separates_model_and_provider_and_not_the_rest() -> None:
    """Only its hash is spelt."""
    label = credential_label("account-7")
    assert label is not None
    assert re.fullmatch(r"[0-9a-f]{12}", label)
    path = make_path("openai", "gpt-4o", ("big",), label)
    assert path.scopes == (f"m:openai:gpt-4o:{label}", "g:big", f"p:openai:{label}", "t")
    assert scope_label(path.scopes[0]) == "openai/gpt-4o"
    assert credential_label(None) is None
    assert credential_label("account-8") != label


@pytest.mark.parametrize("pools", [(), ("big",), ("a:b", "c~d")])
@pytest.mark.parametrize("credential", [None, "abc123abc123"])
def test_a_path_is_read_back_from_its_name(pools: tuple[str, ...], credential: str | None) -> None:
    """What scripts say of other paths is understood."""
    path = make_path("ollama", "llama3:8b", pools, credential)
    assert parse_path(path.name) == path


@pytest.mark.parametrize(
    "name",
    [
        "",
        "t",
        "~~",
        "m:a:b~t",
        "m:a:b~p:a",
        "m:a~p:a~t",
        "m:a:b:c:d~p:a~t",
        "x:a:b~p:a~t",
        "m:a:~p:a~t",
        "m:a:b~~t",
        "m:a:b~p:a~x",
        "p:a~m:a:b~t",
        "m:" + "a" * 9000 + ":b~p:a~t",
    ],
)
def test_what_no_path_is_called_is_none(name: str) -> None:
    """The store is not trusted."""
    assert parse_path(name) is None


def test_all_keys_of_a_path_share_one_hash_tag() -> None:
    """So that one script may use them on a cluster."""
    keyspace = Keyspace("Team A")
    keys = keyspace.path_keys(make_path("openai", "gpt-4o", ("big",), None)) + keyspace.instance_keys
    assert {re.match(r"rl:(\{[^}]*\}):", key)[1] for key in keys} == {"{team%20a}"}  # type: ignore[index]
    assert len(set(keys)) == 8 + 5 * 4 + 1


def test_namespaces_share_no_key() -> None:
    """Not even where one name begins like another."""
    path = make_path("openai", "gpt-4o", (), None)
    first, second = (set(Keyspace(name).path_keys(path)) for name in ("a", "a:m"))
    assert first & second == set()


@pytest.mark.parametrize(
    "name, said",
    [
        (3, "must be text, not int"),
        (None, "must be text, not NoneType"),
        ("", "is empty"),
        (" \u3000", "is empty"),
        ("x" * 257, "has 257 characters"),
        ("a\nb", "control characters"),
        ("a\x7f", "control characters"),
        ("a{b", "braces"),
        ("a}b", "braces"),
        ("a\ud800", "lone surrogate"),
    ],
)
def test_a_name_that_can_be_none_says_why(name: object, said: str) -> None:
    """The message has no control character and no surrogate of the name in it."""
    with pytest.raises(ConfigError, match=said) as caught:
        check_name(name, "model")
    assert str(caught.value).startswith("model ")
    assert str(caught.value).isprintable()
    str(caught.value).encode()


@pytest.mark.parametrize("name", ["a", "x" * 256, "llama3:8b", "a/b", "a b", "模型", "\u0130"])
def test_any_other_name_is_returned_as_it_is(name: str) -> None:
    """Checking changes nothing."""
    assert check_name(name, "model") == name


def test_a_path_is_a_value() -> None:
    """Equal by its scopes."""
    assert Path(("m:a:b", "p:a", "t")) == Path(("m:a:b", "p:a", "t"))
    assert hash(Path(("m:a:b", "p:a", "t"))) == hash(Path(("m:a:b", "p:a", "t")))
