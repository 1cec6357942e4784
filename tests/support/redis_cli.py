"""Plain redis-cli against a server that a test has started."""

import os
import subprocess
from pathlib import Path

from ratelease.testing import RedisServer, find_cli
from support.repository import ROOT

# What redis-cli prints for an error reply: it ends with status 0 all the same.
_ERRORS = ("ERR ", "WRONGTYPE ", "NOSCRIPT ", "NOPERM ", "NOAUTH ", "Unrecognized option")


def redis_cli(server: RedisServer, *arguments: str) -> str:
    """Run redis-cli in the root of the repository and return what it prints; an error reply fails the test."""
    command: list[str | Path] = [find_cli(), "-h", "127.0.0.1", "-p", str(server.port), *arguments]
    return _checked(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=10, check=False))


def shell(server: RedisServer, script: str, directory: Path) -> str:
    """Run lines of shell in the root of the repository, with a redis-cli on PATH that knows where the server is."""
    wrapper = directory / "redis-cli"
    wrapper.write_text(f'#!/bin/sh\nexec "{find_cli()}" -h 127.0.0.1 -p {server.port} "$@"\n')
    wrapper.chmod(0o755)
    environment = {**os.environ, "PATH": f"{directory}{os.pathsep}{os.environ['PATH']}"}
    command = ["/bin/sh", "-euc", script]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=10, check=False)
    return _checked(done)


def _checked(done: subprocess.CompletedProcess[str]) -> str:
    errors = [
        line for line in (done.stdout + done.stderr).splitlines() if line.removeprefix("(error) ").startswith(_ERRORS)
    ]
    assert done.returncode == 0, done.stdout + done.stderr
    assert errors == []
    return done.stdout.rstrip("\n")
