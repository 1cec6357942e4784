"""Both widely used type checkers know the public surface as the files beside this one say."""

import subprocess
import sys
from pathlib import Path

import pytest

from support.repository import ROOT

FILES = sorted(str(path) for path in Path(__file__).parent.glob("*.py") if not path.name.startswith("test_"))


def _check(*command: str) -> str:
    """Run a type checker on the files; return what it says if it finds anything."""
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False, cwd=ROOT)
    return done.stdout + done.stderr if done.returncode else ""


@pytest.mark.covers("AD-20")
def test_mypy_knows_the_public_surface(tmp_path: Path) -> None:
    """In strict mode, where an ignore that is not needed is an error as well."""
    assert _check("mypy", "--cache-dir", str(tmp_path), "--no-error-summary", *FILES) == ""


@pytest.mark.covers("AD-20")
def test_pyright_knows_the_public_surface() -> None:
    """The same, by the settings in pyproject.toml."""
    assert _check("basedpyright", *FILES) == ""
