"""The make targets in a fresh copy of the tree, on a machine that has Python and make and nothing else.

Nothing is installed here: the interpreter is a script that notes what it is told, and pretends to have done it.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from support.repository import ROOT

# Notes each call; `-m venv` makes an environment whose programs note theirs.
_PYTHON = """#!/bin/sh
echo "python3 $*" >> "$NOTES"
case "$*" in
  --version) echo "Python 3.11.0" ;;
  "-c "*) exit "$PYTHON_STATUS" ;;
  "-m venv "*)
    for venv in "$@"; do :; done
    mkdir -p "$venv/bin"
    for program in python ratelease pytest ruff mypy basedpyright; do
      printf '#!/bin/sh\\necho "%s $*" >> "$NOTES"\\n' "$program" > "$venv/bin/$program"
      chmod +x "$venv/bin/$program"
    done ;;
esac
"""
_ALSO_POSIX = ("awk", "chmod", "mkdir", "rm", "find", "touch")

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed"),
    pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a clone"),
]


class Machine:
    """A copy of what git would hand out, and a PATH with nothing of this machine's own."""

    def __init__(self, directory: Path) -> None:
        self.tree, self.notes = directory / "tree", directory / "notes"
        self._bin = directory / "bin"
        self._bin.mkdir()
        listed = subprocess.run(
            ["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
        )
        for name in filter(None, listed.stdout.decode().split("\0")):
            if (ROOT / name).is_file():
                (self.tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, self.tree / name)
        (self._bin / "python3").write_text(_PYTHON)
        (self._bin / "python3").chmod(0o755)
        for program in _ALSO_POSIX:
            (self._bin / program).symlink_to(shutil.which(program) or f"/bin/{program}")

    def make(self, *arguments: str, python: bool = True) -> subprocess.CompletedProcess[str]:
        """Run make; `python` says whether the interpreter is new enough."""
        environment = {"PATH": str(self._bin), "NOTES": str(self.notes), "PYTHON_STATUS": str(int(not python))}
        make = shutil.which("make") or "make"
        return subprocess.run(
            [make, *arguments], cwd=self.tree, env=environment, capture_output=True, text=True, timeout=30, check=False
        )

    def told(self) -> list[str]:
        """What was run since the last look, without the questions to the interpreter."""
        lines = self.notes.read_text().splitlines() if self.notes.exists() else []
        self.notes.unlink(missing_ok=True)
        return [line for line in lines if not re.match(r"python3 (-c|--version)", line)]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine to try it on."""
    return Machine(tmp_path)


@pytest.mark.covers("UX-01")
def test_make_alone_lists_every_target(machine: Machine) -> None:
    """Each with a sentence, and before anything is set up."""
    done = machine.make()
    assert done.returncode == 0, done.stderr
    listed = re.findall(r"^  make (\w+) +\w", done.stdout, re.MULTILINE)
    assert set(listed) == {"help", "demo", "test", "check", "faults", "soak", "bench", "docs", "clean"}
    assert machine.told() == []


@pytest.mark.covers("UX-01")
def test_make_demo_sets_up_what_it_needs_and_runs(machine: Machine) -> None:
    """An environment, the package with the extra that the demo needs, then the demo; the second time the demo alone."""
    done = machine.make("demo", "ARGS=--seconds 30")
    assert done.returncode == 0, done.stdout + done.stderr
    venv, install, demo = machine.told()
    assert venv.startswith("python3 -m venv ")
    assert install.startswith("python -m pip install ")
    assert install.endswith("--editable .[demo]")
    assert demo == "ratelease demo --seconds 30"
    assert machine.make("demo").returncode == 0
    assert machine.told() == ["ratelease demo"]


@pytest.mark.covers("UX-01")
def test_make_test_sets_up_what_it_needs_and_runs(machine: Machine) -> None:
    """After the demo as well, with the environment that is there."""
    assert machine.make("demo").returncode == 0
    machine.told()
    done = machine.make("test")
    assert done.returncode == 0, done.stdout + done.stderr
    install, test = machine.told()
    assert install.endswith("--editable .[dev]")
    assert test.startswith("pytest ")


@pytest.mark.covers("UX-01")
def test_make_says_what_to_install_where_python_is_too_old(machine: Machine) -> None:
    """And how to name another interpreter."""
    done = machine.make("demo", python=False)
    assert done.returncode != 0
    assert "needs Python 3.11 or newer" in done.stderr
    assert "make PYTHON=" in done.stderr


@pytest.mark.covers("UX-01")
def test_no_target_needs_anything_beyond_python_and_make(machine: Machine) -> None:
    """Every program that any target runs is the environment's own, the interpreter, or part of any system."""
    assert (machine.tree / "pyproject.toml").is_file()
    done = machine.make("-n", "demo", "test", "check", "faults", "soak", "bench", "docs")
    assert done.returncode == 0, done.stderr
    commands = [line for line in done.stdout.splitlines() if re.match(r"[\w./]+ ", line)]
    assert commands
    foreign = [line for line in commands if not re.match(r"(\.venv/bin/\w+|echo|touch|exit|for|done) ?", line)]
    assert foreign == []
