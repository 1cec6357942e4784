"""The command line: help, wrong use, missing libraries, and the simulator in the foreground."""

import json
import os
import signal
import subprocess
import sys

import httpx
import pytest

from ratelease.cli import main
from support.wait_until import wait_until

RATELEASE = [sys.executable, "-m", "ratelease.cli"]


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*RATELEASE, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command", ["demo", "simulate"])
def test_help_has_an_example(command):
    done = run(command, "--help")

    assert done.returncode == 0
    assert f"Example: ratelease {command} " in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["demo", "--seconds", "1"],
        ["demo", "--workers", "0"],
        ["simulate", "--rpm", "0"],
        ["simulate", "--algorithm", "fixed"],
        ["simulate", "--latency", "2", "1"],
        ["unknown"],
    ],
)
def test_wrong_use_has_status_2_and_says_why_on_standard_error(arguments):
    done = run(*arguments)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr


@pytest.mark.parametrize("library", ["typer", "rich"])
def test_without_its_libraries_the_command_line_says_what_to_install(library, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.split(".")[0] in {library, "typer"}]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "ratelease.cli.app", raising=False)
    monkeypatch.setitem(sys.modules, library, None)

    with pytest.raises(SystemExit) as caught:
        main()

    assert caught.value.code == 2
    assert "pip install 'ratelease[cli]'" in capsys.readouterr().err


@pytest.mark.parametrize("command,extra", [("demo", "demo"), ("simulate", "web")])
def test_without_a_web_server_its_commands_say_what_to_install(command, extra):
    program = f"""
import sys
sys.modules["uvicorn"] = None
sys.argv = ["ratelease", "{command}"]
from ratelease.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (2, "")
    assert f"needs uvicorn: pip install 'ratelease[{extra}]'" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_simulate_serves_until_interrupted_and_tells_what_it_saw(number):
    command = [*RATELEASE, "simulate", "--rpm", "1", "--latency", "0", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        with httpx.Client(trust_env=False) as http:
            statuses = [http.post(f"{url}/v1/chat/completions", json=body).status_code for _ in range(2)]
        process.send_signal(number)
        stats = json.loads(process.stdout.read())
        wait_until(lambda: process.poll() is not None, description="it has ended")

    assert (process.returncode, statuses) == (0, [200, 429])
    assert (stats["admitted"], stats["throttled"]) == (1, 1)


def test_an_output_that_cannot_write_every_character_is_no_error():
    program = "import sys; sys.argv = ['ratelease', 'simulate', '--help']; from ratelease.cli import main; main()"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment)

    assert (done.returncode, done.stderr) == (0, "")
    assert "ratelease simulate" in done.stdout
