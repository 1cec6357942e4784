"""What `import ratelease` does: nothing that anybody would notice."""

import json
import subprocess
import sys

import pytest

# Runs in a fresh interpreter and tells what importing did to it.
PROGRAM = """
import io, json, logging, os, sys, threading

class Watched(dict):
    reads = []
    def note(self, name):
        frame = sys._getframe(2)
        while frame is not None and not frame.f_code.co_filename.startswith("<frozen"):
            Watched.reads.append([frame.f_code.co_filename, str(name)])
            frame = frame.f_back
    def __getitem__(self, name): self.note(name); return super().__getitem__(name)
    def get(self, name, default=None): self.note(name); return super().get(name, default)
    def __contains__(self, name): self.note(name); return super().__contains__(name)
    def __iter__(self): self.note("*"); return super().__iter__()
    def items(self): self.note("*"); return super().items()

said = io.StringIO()
logging.basicConfig(level=0, stream=said)
os.environ = Watched(os.environ)
before = set(sys.modules)
import ratelease, ratelease.errors, ratelease.testing
print(json.dumps({
    "modules": sorted(set(sys.modules) - before),
    "reads": Watched.reads,
    "said": said.getvalue(),
    "threads": threading.active_count(),
    "handlers": [type(each).__name__ for each in logging.getLogger("ratelease").handlers],
    "package": os.path.dirname(ratelease.__file__),
}))
"""

OPTIONAL = {
    "fakeredis", "lupa", "httpx", "httpx2", "prometheus_client", "typer", "rich", "starlette", "uvicorn",
    "opentelemetry", "pytest",
}  # fmt: skip


@pytest.fixture(scope="module")
def told() -> dict:
    """What a fresh interpreter has to tell after its import."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1
    return json.loads(done.stdout)


@pytest.mark.covers("UX-14")
def test_import_loads_no_optional_and_no_heavy_library(told) -> None:
    """Not even what memory:// needs: that is loaded when the first memory store is used."""
    assert "ratelease.client" in told["modules"]
    assert {name.split(".")[0] for name in told["modules"]} & OPTIONAL == set()


@pytest.mark.covers("UX-14")
def test_import_reads_no_environment(told) -> None:
    """Settings come from arguments; where the environment counts, it is read by a call."""
    assert [read for read in told["reads"] if read[0].startswith(told["package"])] == []


@pytest.mark.covers("UX-14")
def test_import_says_nothing_and_starts_nothing(told) -> None:
    """No log record, no output, no thread; the package's logger has nothing but a NullHandler."""
    assert told["said"] == ""
    assert told["threads"] == 1
    assert told["handlers"] == ["NullHandler"]


@pytest.mark.covers("UX-14")
def test_making_a_client_sends_nothing_and_loads_no_memory_store() -> None:
    """The constructor of a client for redis:// imports nothing more, opens no socket, and starts no thread."""
    program = (
        "import sys, threading, ratelease\n"
        "def hook(event, arguments):\n"
        "    if event.startswith('socket.connect'): raise SystemExit(f'{event} {arguments}')\n"
        "sys.addaudithook(hook)\n"
        "client = ratelease.Client('redis://localhost:1', limits={'openai/gpt-4o': ratelease.Limits(rpm=5)})\n"
        "client.close()\n"
        "print(threading.active_count(), 'fakeredis' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("1 False\n", "")
