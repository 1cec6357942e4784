"""Tables and links of the pages agree with the code."""

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from ratelease import Client, Limits, errors
from support.repository import LUA, PACKAGE, ROOT, python_files, shown
from support.wait_until import wait_until

PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", LUA / "README.md"]
PAGES += sorted((ROOT / "docs").rglob("*.md"))

NEVER_RAISED = "Not raised by this version"


def _rows(path: Path, pattern: str) -> Iterator[re.Match[str]]:
    """The rows of a page's tables that begin with a cell of this pattern."""
    return re.finditer(rf"^\| {pattern} \|(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)


def _anchors(path: Path) -> set[str]:
    """The names that the headings of a page are linked by."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_every_link_leads_somewhere(page: Path) -> None:
    """To a file or folder of the repository, and to a heading in it."""
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        found = (page.parent / name).resolve() if name else page
        assert found.exists(), target
        assert not anchor or anchor in _anchors(found), target


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    """Names in backticks that look like a file of the package, of lua/ or of the tests."""
    for name in re.findall(
        r"`((?:lua|lib|core|store|tests|docs|examples)/[\w/.]+\w)`", page.read_text(encoding="utf-8")
    ):
        places = [ROOT / name, PACKAGE / name, LUA / name, LUA / f"{name}.lua"]
        assert any(place.exists() for place in places), name


def test_readme_can_be_read_in_one_go() -> None:
    """Whoever wants more follows its links."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


def test_every_public_error_is_explained() -> None:
    """With the built-in class it also is, and whether this version raises it."""
    rows = {row[1]: row[2] for row in _rows(ROOT / "docs" / "errors.md", r"`(\w+)`")}
    rows = {name: cells for name, cells in rows.items() if name in errors.__all__}
    assert sorted(rows) == sorted(set(errors.__all__) - {"RateleaseError"})
    sources = "\n".join(path.read_text(encoding="utf-8") for path in python_files(PACKAGE))
    for name, cells in rows.items():
        base = getattr(errors, name).__bases__[-1].__name__
        assert (f"`{base}`" in cells) == (base != "RateleaseError"), name
        raised = re.search(rf"(?:raise|return|translate).*\b{name}\(|= {name}\(", sources) is not None
        assert raised != (NEVER_RAISED in cells), name


def test_the_table_of_keys_lists_every_key(redis_url: str, redis_client: redis.Redis) -> None:
    """By the end of its name, with its type, as a store in use holds them."""
    kinds = {
        row[1].rpartition(":")[2]: row[2] for row in _rows(LUA / "README.md", r"`([\w:<> ]+)` \| (hash|zset|list)")
    }
    store: Any = redis_client
    with Client(redis_url, limits={"openai/gpt-4o": Limits(rpm=9, concurrency=1)}) as client:
        lease = client.acquire("openai", "gpt-4o")
        granted: list[Any] = []
        waiter = threading.Thread(target=lambda: granted.append(client.acquire("openai", "gpt-4o", timeout=5)))
        waiter.start()
        wait_until(lambda: store.zcard("rl:{default}:q:m:openai:gpt-4o~p:openai~t:queue"), description="somebody waits")
        wait_until(lambda: store.exists("rl:{default}:profiles"), description="the first heartbeat has been written")
        seen = {key.decode().rpartition(":")[2]: store.type(key).decode() for key in store.scan_iter()}
        lease.release()
        waiter.join(5)
        granted[0].release()
    assert kinds.items() >= seen.items()
    assert {"store", "leases", "windows", "queue", "index", "records"} <= set(seen)
    assert set(kinds) == set(seen) | {"claims", "graves", "overrides", "journal", "learned"}
