"""docker-compose.yml is what the documentation promises, and a real server takes its options."""

import shlex
from collections.abc import Callable
from typing import Any

import pytest
import redis
import yaml

from ratelease.testing.redis_server import RedisServer
from support.repository import ROOT


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """Read the file as Docker Compose does."""
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    return loaded


def test_every_service_names_image_health_and_restart(compose: dict[str, Any]) -> None:
    assert compose["services"]
    for name, service in compose["services"].items():
        assert ":" in service["image"], f"{name}: the image has a version"
        assert service["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}
        assert {"interval", "timeout", "retries"} <= set(service["healthcheck"])
        assert service["restart"] == "unless-stopped"


def test_ports_are_open_on_loopback_alone(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert ports
    assert [port for port in ports if not str(port).startswith("127.0.0.1:")] == []


def test_data_lies_in_a_declared_volume(compose: dict[str, Any]) -> None:
    mounts = compose["services"]["redis"]["volumes"]
    names = {mount.partition(":")[0] for mount in mounts if mount.endswith(":/data")}
    assert names
    assert names <= set(compose["volumes"])


def test_the_options_mean_what_they_say(compose: dict[str, Any], make_server: Callable[..., RedisServer]) -> None:
    command = compose["services"]["redis"]["command"]
    words = shlex.split(command) if isinstance(command, str) else command
    assert words[0] == "redis-server"
    server = make_server(args=words[1:])
    with redis.Redis.from_url(server.url) as client:
        for name, value in [
            ("appendonly", "yes"),
            ("appendfsync", "everysec"),
            ("maxmemory-policy", "noeviction"),
        ]:
            assert client.config_get(name) == {name: value}
