"""Run the simulator as a process: `python -m ratelease.testing.simulator --rpm 300 --window 10`.

The first line of the output is a JSON object with `url`, `port` and `pid`. The process serves until it is
interrupted or terminated, or with `--until-stdin-closes` until its standard input ends, so that it cannot
outlive its parent.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import sys
import threading
from types import FrameType

from ratelease.errors import ConfigError
from ratelease.testing.simulator import ProviderSimulator
from ratelease.testing.simulator.settings import Settings


def main() -> int:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m ratelease.testing.simulator", description=__doc__)
    Settings.add_arguments(parser)
    parser.add_argument("--port", type=int, default=0, help="port of 127.0.0.1 (a free one)")
    parser.add_argument("--until-stdin-closes", action="store_true", help="stop at the end of standard input")
    args = parser.parse_args()
    try:
        simulator = ProviderSimulator(**dataclasses.asdict(Settings.from_args(args)), port=args.port)
    except ConfigError as fault:
        parser.error(str(fault))

    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    def on_stdin_closed() -> None:
        # Not through sys.stdin: a thread waiting in its buffer would hold its lock when the interpreter ends.
        while os.read(sys.stdin.fileno(), 4096):
            pass
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    with simulator:
        port = int(simulator.url.rpartition(":")[2])
        first_line = json.dumps({"url": simulator.url, "port": port, "pid": os.getpid()})
        sys.stdout.write(first_line + "\n")
        sys.stdout.flush()
        if args.until_stdin_closes:
            threading.Thread(target=on_stdin_closed, daemon=True).start()
        stop.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
