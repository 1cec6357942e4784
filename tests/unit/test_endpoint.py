"""URLs of stores: what they mean, and what is never shown of them."""

import pytest

from ratelease import Config
from ratelease.errors import ConfigError
from ratelease.store.endpoint import Endpoint


@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis+cluster", "rediss+cluster"])
@pytest.mark.parametrize(
    "password", ["hun/ter2", "hun#ter2", "hun?ter2", "hun@ter/2", "hun[ter2", "12?hunter@2", "hun/t@er2"]
)
def test_a_password_that_is_not_encoded_is_refused_and_not_shown(scheme: str, password: str) -> None:
    """Some of its signs end the host, so that the rest would be shown as a path, or looked up as a host."""
    for user in ("", "app"):
        with pytest.raises(ConfigError) as caught:
            Endpoint(Config(url=f"{scheme}://{user}:{password}@cache.example:6379/0"))
        assert "hun" not in str(caught.value)
        assert "ter" not in str(caught.value).replace("cluster", "")
        assert "quote(password" in str(caught.value)


@pytest.mark.parametrize(
    "url, label",
    [
        ("redis://app:hunter2@cache:6380/3", "redis://cache:6380/3"),
        ("redis://:hun%2Fter%402@cache/0?client_name=a%40b", "redis://cache/0"),
        ("rediss://cache:6379/0?username=app&password=hun@ter2", "rediss://cache:6379/0"),
        ("redis://[::1]:6379", "redis://[::1]:6379"),
        ("redis://:6379/0", "redis://:6379/0"),
        ("redis://cache/", "redis://cache/"),
        ("unix://app:hunter2@/run/redis.sock?db=1", "unix:///run/redis.sock"),
        ("unix:///run/@shared/redis.sock", "unix:///run/@shared/redis.sock"),
        ("redis+cluster://app:hunter2@a:6379,b:6380", "redis+cluster://a:6379,b:6380"),
        ("memory://anything@all", "memory://all"),
    ],
)
def test_an_address_is_shown_without_user_and_password(url: str, label: str) -> None:
    assert Endpoint(Config(url=url)).label == label


@pytest.mark.parametrize(
    "url, said",
    [
        ("redis://cache:6379/prod", "number of a database: write redis://host:6379/0"),
        ("rediss://cache/0/1", "number of a database"),
        ("redis://cache:port/0", "is its port a number"),
        ("valkey://cache:6379/0", "write redis:// for Valkey"),
        ("redis+sentinel://cache:26379/main", "Sentinel is not supported"),
        ("http://cache", "begins with 'http://', but only memory://, redis://"),
        ("a:hunter2@://cache", "begins with '…://'"),
    ],
)
def test_other_urls_are_refused_with_what_to_write(url: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Endpoint(Config(url=url))
    assert said in str(caught.value)
    assert "hunter2" not in str(caught.value)
