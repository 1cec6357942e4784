"""Errors are values: typed attributes, a class that says what to do, and they survive pickle and copy."""

import copy
import pickle
from concurrent.futures import ProcessPoolExecutor
from typing import Any, get_type_hints

import pytest

from ratelease import errors
from ratelease.errors import RateleaseError

CLASSES = [getattr(errors, name) for name in errors.__all__]

ATTRIBUTES = {
    "scope": "openai/gpt-4o",
    "dimension": "requests/60s",
    "used": 500,
    "limit": 500,
    "retry_after": 12.5,
    "waited": 3.25,
    "position": 4,
    "attempts": 2,
    "key": "rl:{x}:store",
}


def _attributes(error: RateleaseError) -> dict[str, object]:
    return {name: getattr(error, name) for name in ATTRIBUTES}


def _fail(error: RateleaseError) -> None:
    raise error


@pytest.mark.covers("UX-13")
@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("again", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy])  # noqa: S301
def test_an_error_survives_pickle_and_copy(cls, again) -> None:
    """Class, message, attributes and notes are what they were."""
    error = cls("what happened", **ATTRIBUTES)
    error.add_note("seen by worker 3")
    other = again(error)
    assert type(other) is cls
    assert str(other) == "what happened"
    assert _attributes(other) == ATTRIBUTES
    assert other.__notes__ == ["seen by worker 3"]


class TenantTimeout(errors.WaitTimeout):
    """A program's own subclass, made from other arguments."""

    def __init__(self, tenant: int) -> None:
        super().__init__(f"tenant {tenant} waited too long", scope="openai", waited=1.5)
        self.tenant = tenant


@pytest.mark.covers("UX-13")
def test_a_subclass_with_arguments_of_its_own_survives_as_well() -> None:
    """What it added is kept."""
    other = pickle.loads(pickle.dumps(TenantTimeout(7)))  # noqa: S301 - made a moment ago
    assert (type(other), str(other)) == (TenantTimeout, "tenant 7 waited too long")
    assert (other.tenant, other.scope, other.waited) == (7, "openai", 1.5)


@pytest.mark.covers("UX-13")
def test_an_error_comes_back_from_another_process() -> None:
    """Every one of them, as a ProcessPoolExecutor brings it, with its attributes."""
    with ProcessPoolExecutor(1) as pool:
        for cls in CLASSES:
            with pytest.raises(cls, match="too long") as caught:
                pool.submit(_fail, cls("too long", **ATTRIBUTES)).result(timeout=30)
            assert type(caught.value) is cls
            assert _attributes(caught.value) == ATTRIBUTES


@pytest.mark.covers("UX-13")
@pytest.mark.parametrize("cls", CLASSES)
def test_every_attribute_has_a_type(cls) -> None:
    """Each is None where it has no meaning, and nothing is left to Any."""
    hints = get_type_hints(cls)
    assert {name: hints[name] for name in ATTRIBUTES} == {
        name: type(value) | None for name, value in ATTRIBUTES.items()
    }
    assert Any not in hints.values()


@pytest.mark.parametrize("cls", CLASSES)
def test_an_error_without_words_says_what_its_class_means(cls) -> None:
    """The first line of the class' documentation; no attribute is missing."""
    error = cls()
    assert str(error) == cls.__doc__.strip().partition("\n")[0]
    assert set(_attributes(error).values()) == {None}


@pytest.mark.parametrize(
    "cls, builtin",
    [
        (errors.WaitTimeout, TimeoutError),
        (errors.ImpossibleRequest, ValueError),
        (errors.ConfigError, ValueError),
        (errors.StoreUnavailable, ConnectionError),
        (errors.StoreCorrupt, errors.StoreUnavailable),
    ],
)
def test_an_error_is_caught_by_what_people_know(cls, builtin) -> None:
    """`except TimeoutError` catches a wait that took too long."""
    assert issubclass(cls, builtin)


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_is_a_ratelease_error(cls) -> None:
    """One root; only a store that cannot be reached is a ConnectionError, and only a wait a TimeoutError."""
    assert issubclass(cls, RateleaseError)
    assert issubclass(cls, TimeoutError) == (cls is errors.WaitTimeout)
    assert issubclass(cls, ConnectionError) == issubclass(cls, errors.StoreUnavailable)
