"""Interrupts at any line of the package's code, as Ctrl-C or a signal's exception would come."""

import ast
import functools
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import ratelease

PACKAGE = str(Path(ratelease.__file__).parent)
FINALISERS = ("__del__",)


@functools.cache
def with_lines(path: str) -> set[int]:
    """The lines of a file on which a `with` begins."""
    tree = ast.parse(Path(path).read_text())
    return {node.lineno for node in ast.walk(tree) if isinstance(node, (ast.With, ast.AsyncWith))}


class Interrupted(BaseException):
    """What the signal raises."""


class Tracer:
    """Raises Interrupted at one step of the package's code in this thread; `place` is where, once it has."""

    def __init__(self, step: int) -> None:
        self._left = step
        self._inside: set[tuple[FrameType, int]] = set()
        self.place = ""

    def __call__(self, frame: FrameType, event: str, _: object) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE) or in_finaliser(frame):
            return None
        if event == "line" and not self._leaves_a_with(frame):
            self._left -= 1
            if self._left == 0:
                self.place = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} in {frame.f_code.co_name}"
                raise Interrupted
        return self

    def _leaves_a_with(self, frame: FrameType) -> bool:
        """Whether this is a `with` that ends: between its body and its exit no signal is ever raised."""
        line = frame, frame.f_lineno
        if frame.f_lineno not in with_lines(frame.f_code.co_filename):
            return False
        self._inside.symmetric_difference_update({line})
        return line not in self._inside


def in_finaliser(frame: FrameType | None) -> bool:
    """Whether a finaliser has called this; what that raises is lost in any case."""
    while frame is not None and frame.f_code.co_name not in FINALISERS:
        frame = frame.f_back
    return frame is not None


def interrupted_at(step: int, act: Callable[[], Any]) -> str:
    """Call `act` and interrupt it at this step; return where that was, nothing if it came to its end before."""
    tracer, before = Tracer(step), sys.gettrace()
    sys.settrace(tracer)
    try:
        act()
    except Interrupted:
        pass
    finally:
        sys.settrace(before)
    return tracer.place


def every_step(act: Callable[[], Any], stride: int = 1) -> Iterator[str]:
    """Interrupt `act` at its first step, its second and so on, until it comes to its end; tell where it was."""
    for step in itertools.count(1, stride):
        place = interrupted_at(step, act)
        if not place:
            return
        yield place
