"""The command line: `ratelease demo`, `ratelease simulate`. It uses the package's public interface alone."""

from __future__ import annotations

import io
import sys
from importlib.util import find_spec

__all__ = ["main"]


def main() -> None:
    """Run the command line; without its libraries say what to install and exit with status 2."""
    missing = [library for library in ("typer", "rich") if find_spec(library) is None]
    if missing:
        names = " and ".join(missing)
        sys.stderr.write(f"ratelease: the command line needs {names}: pip install 'ratelease[cli]'\n")
        sys.exit(2)
    for stream in (sys.stdout, sys.stderr):
        # A terminal or file that cannot write × or a bar gets a question mark instead of an error.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    from ratelease.cli.app import app

    app(prog_name="ratelease")
