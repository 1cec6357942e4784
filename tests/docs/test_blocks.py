"""The examples of README.md and of docs/ do what they show: every python block runs, every redis-cli line too.

A block is complete by itself. Where it names redis://localhost:6379 it gets the server of the test; functions called
test_… are called. A sh block runs as it stands, with a redis-cli on PATH that knows the server, if every command in
it is redis-cli; blocks that install or start something are for people.
"""

import asyncio
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ratelease import Client, Limits
from ratelease.testing import RedisServer
from support.redis_cli import shell
from support.repository import ROOT, shown

PLACEHOLDER = "redis://localhost:6379"

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block, and the line of the file at which it begins."""

    path: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{shown(self.path)}:{self.line}"


def _blocks() -> Iterator[Block]:
    for path in (ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "lua" / "README.md", *_pages()):
        text = path.read_text(encoding="utf-8")
        for found in _FENCE.finditer(text):
            yield Block(path, text.count("\n", 0, found.start()) + 2, found[1], found[2])


def _pages() -> list[Path]:
    return sorted((ROOT / "docs").rglob("*.md"))


def _commands(block: Block) -> list[str]:
    """The commands of a sh block: lines without comments, continued lines joined."""
    text = block.text.replace("\\\n", " ")
    return [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


BLOCKS = list(_blocks())
PYTHON = [block for block in BLOCKS if block.language == "python"]
SHELL = [block for block in BLOCKS if block.language == "sh" and "redis-cli" in block.text]


def test_there_are_blocks() -> None:
    """The patterns above still find what the pages hold."""
    assert {"README.md"} < {shown(block.path) for block in PYTHON}
    assert "README.md" in {shown(block.path) for block in SHELL}


@pytest.mark.parametrize("path", [ROOT / "README.md", *_pages()], ids=shown)
def test_every_fence_names_its_language(path: Path) -> None:
    """What is not run is text or sh; a forgotten language would leave an example untested."""
    odd = [str(block) for block in BLOCKS if block.path == path and block.language not in {"python", "sh", "text"}]
    assert odd == []
    assert path.read_text(encoding="utf-8").count("\n```") % 2 == 0


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_a_python_block_runs(block: Block, redis_server: RedisServer, redis_url: str) -> None:
    """In a namespace of its own, and without leaving a client at work."""
    assert redis_url
    source = block.text.replace(PLACEHOLDER, redis_server.url.removesuffix("/0"))
    # Tracebacks show the line of the page.
    code = compile("\n" * (block.line - 1) + source, block.path, "exec")
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(code, names)  # noqa: S102 - the pages are ours
    tests = [value for name, value in names.items() if name.startswith("test_")]
    for test in tests:
        result = test()
        if inspect.iscoroutine(result):
            asyncio.run(result)


@pytest.mark.covers("UX-06")
@pytest.mark.parametrize("block", SHELL, ids=str)
def test_a_block_of_redis_cli_runs(block: Block, redis_server: RedisServer, redis_url: str, tmp_path: Path) -> None:
    """Against a server on which a model is in use; every line answers something."""
    foreign = [line for line in _commands(block) if not line.startswith("redis-cli ")]
    assert foreign == [], "a block with redis-cli holds nothing else, so that all of it can be run"
    with _in_use(redis_url):
        for command in _commands(block):
            assert shell(redis_server, command, tmp_path), command


def _in_use(url: str) -> Any:
    """A client that holds a lease of openai/gpt-4o in the namespace `default`, and one in `prod`."""
    limits = {
        "openai/gpt-4o": Limits(rpm=500, tpm=200_000, concurrency=8),
        "openai": Limits(rpm=1000, concurrency=20),
        "total": Limits(concurrency=40),
    }
    return _InUse([Client(url, limits=limits, namespace=namespace) for namespace in ("default", "prod")])


class _InUse:
    def __init__(self, clients: list[Client]) -> None:
        self._clients = clients

    def __enter__(self) -> None:
        self._leases = [client.acquire("openai", "gpt-4o", tokens=1200) for client in self._clients]

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.close()
