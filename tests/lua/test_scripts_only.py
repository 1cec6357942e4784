"""Scripts alone write: no module of the package sends Redis a command of its own that changes anything."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

import ratelease

PACKAGE = Path(ratelease.__file__).parent
# What may be sent beside scripts: it reads, or subscribes to a channel.
ALLOWED = {"SUBSCRIBE", "PING", "TYPE", "TIME", "ZRANGE", "HMGET", "HGETALL", "LRANGE", "CLUSTER SLOTS"}
SENDERS = {"send_command", "execute_command", "command", "send_packed_command", "immediate_execute_command"}
# Classes of redis-py and fakeredis with a method for every command; `Store` only takes their connection pool.
CLIENTS = {"Redis", "StrictRedis", "FakeRedis", "FakeAsyncRedis", "RedisCluster", "Sentinel", "pipeline"}


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Every module of the package that is not there for tests or on the command line."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if not name.startswith(("testing/", "cli/")):
            yield name, ast.parse(path.read_text(encoding="utf-8"), name)


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call of a method or function, with its last name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", None) or getattr(node.func, "id", None)
            if name:
                yield name, node


def sent_words() -> dict[str, set[str]]:
    """The first argument of everything that sends a command, by module; `?` where it is no literal."""
    found: dict[str, set[str]] = {}
    for module, tree in modules():
        for name, call in calls(tree):
            if name in SENDERS | {"Command"}:
                first = call.args[0] if call.args else None
                if name == "Command" and isinstance(first, ast.Tuple):
                    first = first.elts[0]
                word = first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else "?"
                found.setdefault(module, set()).add(word.upper())
    return found


@pytest.mark.covers("RD-06")
def test_every_command_that_is_sent_by_name_only_reads_or_subscribes() -> None:
    """What is no literal is passed on alone: by the connection's own module, which the wire calls, or from a verb."""
    found = sent_words()
    assert {module for module, words in found.items() if "?" in words} <= {
        "store/wire.py",
        "store/endpoint.py",
        "store/perform.py",
    }
    assert set().union(*found.values()) - {"?"} <= ALLOWED


@pytest.mark.covers("RD-06")
def test_what_the_wire_is_given_are_scripts_and_such_commands() -> None:
    """It sends what _command() makes of a script, or what command() was called with."""
    tree = dict(modules())["store/wire.py"]
    given = [ast.unparse(call.args[0]) for name, call in calls(tree) if name == "_once"]
    assert set(given) == {"_command(call, attempts.load)", "arguments"}
    (made,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "_command"]
    commands = {node.value for node in ast.walk(made) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert {word for word in commands if word.isupper()} == {"EVAL", "EVALSHA"}


@pytest.mark.covers("RD-06")
def test_only_the_wire_uses_what_passes_on_a_command_as_it_is() -> None:
    """Whoever else called it would have to be looked at here."""
    users = {
        module
        for module, tree in modules()
        for name, call in calls(tree)
        if name in {"send", "_once"} and ast.unparse(call.func).endswith(("endpoint.send", "._once"))
    }
    assert users == {"store/wire.py"}


@pytest.mark.covers("RD-06")
def test_no_client_with_methods_for_commands_is_made() -> None:
    """But for the embedded store's: their connection pools are taken, and one loads the scripts."""
    made = {module: tree for module, tree in modules() if any(name in CLIENTS for name, _ in calls(tree))}
    assert set(made) == {"store/embedded.py"}
    embedded = made["store/embedded.py"]
    used = {node.attr for node in ast.walk(embedded) if isinstance(node, ast.Attribute)}
    assert used == {
        *("Lock", "FakeServer", "FakeRedis", "FakeAsyncRedis", "connection_pool"),
        *("script_load", "text", "close", "clear", "pop"),
    }
    methods = [ast.unparse(call.func) for name, call in calls(embedded) if name in {"pop", "clear"}]
    assert set(methods) == {"_servers.pop", "_servers.clear"}


@pytest.mark.covers("RD-06")
def test_no_command_that_is_allowed_writes(redis_client: redis.Redis) -> None:
    """By the server's own word."""
    client: Any = redis_client
    words = {command.split()[0] for command in ALLOWED}
    told = client.execute_command("COMMAND", "INFO", *sorted(words))
    flags = {name: set(info["flags"]) for name, info in told.items()}
    assert {name.upper() for name in flags} == words
    assert [name for name, each in flags.items() if "write" in each] == []
