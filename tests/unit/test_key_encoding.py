"""Whatever people call their models: keys that never meet, in a safe charset, with one hash tag."""

import re

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from redis.crc import key_slot

from ratelease.core.keys import Keyspace, decode, encode, make_path, parse_path
from ratelease.errors import ConfigError

KEY = re.compile(r"[A-Za-z0-9._~%:{}-]+")
PART = re.compile(r"[a-z0-9._%A-F-]+")

names = st.text(min_size=1, max_size=40)
# Names of few characters, those with a meaning in keys among them: pairs that differ by one of them are likely.
close = st.text(alphabet="aAb:~%{}/.3ßſİ +", min_size=1, max_size=4)
given_names = names | close
pools = st.lists(given_names, max_size=2).map(tuple)


def namespaced(name: str) -> Keyspace:
    """The keyspace of a name, where it can be one."""
    try:
        return Keyspace(name)
    except ConfigError:
        return Keyspace("test")


@pytest.mark.covers("RL-23")
@given(given_names, given_names)
@example("a:b", "a%3Ab")
@example("a%3Ab", "a%3ab")
@example("STRASSE", "straße")
def test_two_names_are_spelt_alike_only_if_they_are_equal_after_case_folding(one: str, other: str) -> None:
    """Both ways: equal names are never told apart, different ones never meet."""
    assert (encode(one) == encode(other)) == (one.casefold() == other.casefold())
    assert decode(encode(one)) == one.casefold()
    assert PART.fullmatch(encode(one))


@pytest.mark.covers("RL-23")
@given(given_names, given_names, given_names, pools, st.none() | st.just("0123456789ab"))
def test_every_key_of_a_path_has_a_safe_charset_and_one_hash_tag(
    namespace: str, provider: str, model: str, grouped: tuple[str, ...], credential: str | None
) -> None:
    """The hash tag decides the slot: one script may use all of them on a cluster."""
    keyspace = namespaced(namespace)
    path = make_path(provider, model, grouped, credential)
    keys = [*keyspace.path_keys(path), *keyspace.instance_keys]
    for key in keys:
        assert KEY.fullmatch(key), key
        assert (key.count("{"), key.count("}")) == (1, 1)
    assert len({key_slot(key.encode()) for key in keys}) == 1
    tag = keys[0].partition("{")[2].partition("}")[0]
    assert tag == encode(keyspace.namespace)
    assert key_slot(keys[0].encode()) == key_slot(tag.encode())


@pytest.mark.covers("RL-23")
@given(st.tuples(given_names, given_names), st.tuples(given_names, given_names), st.booleans())
@example(("a:b", "c"), ("a", "b:c"), False)
@example(("a", "b~p:a"), ("a", "b"), False)
def test_two_models_share_their_own_keys_only_if_they_are_the_same_model(
    one: tuple[str, str], other: tuple[str, str], labelled: bool
) -> None:
    """Provider and model, with or without a credential: no two pairs are joined to the same text."""
    assume([name.casefold() for name in one] != [name.casefold() for name in other])
    keyspace = Keyspace("test")
    label = "0123456789ab" if labelled else None
    mine, theirs = (keyspace.path_keys(make_path(*names, (), label)) for names in (one, other))
    # Between them stands the overrides' key, which all share.
    mine, theirs = ({*keys[3:7], *keys[8:13]} for keys in (mine, theirs))
    assert mine.isdisjoint(theirs)


@pytest.mark.covers("RL-23")
@given(given_names, given_names, pools)
def test_a_path_of_any_names_is_read_back_from_its_name(provider: str, model: str, grouped: tuple[str, ...]) -> None:
    """Other processes learn paths by their names alone."""
    path = make_path(provider, model, grouped, None)
    assert parse_path(path.name) == path
    assert (path.provider, path.model) == (provider.casefold(), model.casefold())


@pytest.mark.covers("RL-23")
@given(given_names, given_names)
def test_namespaces_of_different_names_share_no_key(one: str, other: str) -> None:
    """Not even where one begins like the other."""
    first, second = namespaced(one), namespaced(other)
    assume(encode(first.namespace) != encode(second.namespace))
    path = make_path("openai", "gpt-4o", (), None)
    mine, theirs = ({*space.path_keys(path), *space.instance_keys} for space in (first, second))
    assert mine.isdisjoint(theirs)
