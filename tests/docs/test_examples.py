"""Every program in examples/ runs, alone and on a Redis, and says what it shows."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.repository import ROOT, SOURCE, shown

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

# The last line that each one prints.
LAST_LINES = {
    "threads.py": r"40 answers, the last one: PROMPT 39",
    "tasks.py": r"40 answers, and none for the impatient",
    "batch.py": r"399 answers, 1 failed, 0 in flight",
    "refusals.py": r"call 3 goes to gpt-4o-mini",
    "streaming.py": r"the provider saw 0 calls too many",
    "group.py": r"in flight at the end: 0",
    "processes.py": r"at most 3 calls at once",
}


def _run(path: Path, **environment: str) -> list[str]:
    """Run a program as a user does, with warnings as errors; return the lines it printed."""
    inherited = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(path)],
        env={**inherited, "PYTHONPATH": str(SOURCE), **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_every_example_is_listed() -> None:
    """In the table of examples/README.md, and here."""
    table = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    names = {path.name for path in EXAMPLES}
    assert names == set(re.findall(r"^\| `(\w+\.py)` \|", table, re.MULTILINE)) == set(LAST_LINES)


@pytest.mark.parametrize("path", EXAMPLES, ids=shown)
def test_an_example_runs_by_itself(path: Path) -> None:
    """With nothing in the environment."""
    assert re.fullmatch(LAST_LINES[path.name], _run(path)[-1])


@pytest.mark.parametrize("path", EXAMPLES, ids=shown)
def test_an_example_runs_on_redis(path: Path, redis_url: str) -> None:
    """The one that REDIS_URL names."""
    assert re.fullmatch(LAST_LINES[path.name], _run(path, REDIS_URL=redis_url)[-1])
