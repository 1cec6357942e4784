"""What is installed is what is in the repository, Lua included."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

from support.repository import LUA, PACKAGE, ROOT


def _files(folder: Path) -> set[str]:
    paths = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix() for path in paths}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel as an installer would."""
    target = tmp_path_factory.mktemp("wheel")
    return Path(next(iter(WheelBuilder(str(ROOT)).build(directory=str(target), versions=["standard"]))))


def test_the_wheel_holds_the_package_and_every_lua_file(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    lua = {f"ratelease/lua/{name}" for name in _files(LUA)}
    assert lua
    assert names == lua | {f"ratelease/{name}" for name in _files(PACKAGE)}


def test_the_wheel_states_licence_types_and_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
        commands = archive.read(entry_points).decode()
    assert "ratelease/py.typed" in names
    assert [name for name in names if name.endswith("licenses/LICENSE")]
    assert "ratelease = ratelease.cli:main" in commands


def test_an_installed_package_uses_its_own_lua(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)  # noqa: S202 - built just now, from this repository
    program = "from ratelease.store import lua_source as lua; lua.load_script('acquire'); print(lua.lua_dir())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert Path(done.stdout.strip()) == tmp_path / "ratelease" / "lua"


def test_the_source_archive_holds_what_the_wheel_is_built_from(tmp_path: Path) -> None:
    built = Path(next(iter(SdistBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"]))))
    with tarfile.open(built) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"lua/{name}" for name in _files(LUA)} <= names
    assert {f"src/ratelease/{name}" for name in _files(PACKAGE)} <= names
    assert {"LICENSE", "README.md", "pyproject.toml"} <= names
