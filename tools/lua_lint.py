"""Check the Lua scripts: `python -m tools.lua_lint`.

Every script is flattened as the package does it, compiled by Lua 5.1, and its bytecode is read back: there
each access to a global and each call of a library function stands by name, so that nothing in comments or
strings misleads, and no access is missed. The rules are those under which one source means the same on Redis
6.2 to 8, Valkey 8 and 9 and fakeredis; CONTRIBUTING.md tells them.
"""

import re
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lupa import lua51

from ratelease.store.lua_source import load_script, lua_dir


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


# What each library offers that behaves alike on every server, in Lua 5.1 and 5.4.
LIBRARIES = {
    "redis": _set("call error_reply status_reply"),
    "math": _set("abs ceil floor fmod huge log max min"),
    "string": _set("byte char find format gmatch gsub len lower match rep reverse sub upper"),
    "table": _set("concat insert remove sort"),
}
FUNCTIONS = _set("error ipairs next pairs select tonumber tostring type unpack")
TABLES = _set("ARGV KEYS")

# Commands that look beyond the declared keys, that a script may not or should not run, or that one of the
# supported servers lacks.
FORBIDDEN_COMMANDS = _set(
    """
    KEYS SCAN RANDOMKEY FLUSHALL FLUSHDB SWAPDB SELECT CONFIG DEBUG SCRIPT
    EVAL EVALSHA EVAL_RO EVALSHA_RO FCALL WAIT BLPOP BRPOP BZPOPMIN BZPOPMAX MULTI EXEC
    SPUBLISH EXPIRETIME PEXPIRETIME HEXPIRE HPEXPIRE HGETEX INCREX
    """
)
# Operator scripts run by hand, through redis-cli; they find keys by SCAN and compare each with a prefix.
OPERATOR_COMMANDS = frozenset({"SCAN"})

# Lua 5.1 lets these be names; later versions do not.
LATER_KEYWORDS = frozenset({"goto"})

# As everywhere in the repository.
LONGEST_LINE = 120

_INCLUDE = re.compile(r'^--- @include "(?P<name>[^"]+)"\s*$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that a rule forbids, and where."""

    script: str
    line: int
    what: str
    source: str = ""

    def __str__(self) -> str:
        text = f"    {self.source.strip()}" if self.source else ""
        return f"lua/{self.script}.lua, flattened line {self.line}: {self.what}\n{text}".rstrip()


def lint(name: str, text: str) -> list[Fault]:
    """List the faults of one flattened script, named without its suffix."""
    try:
        main = compile_lua(text)
    except lua51.LuaSyntaxError as error:
        return [Fault(name, 0, f"does not compile: {error}")]
    lines = text.splitlines()
    allowed = FORBIDDEN_COMMANDS - OPERATOR_COMMANDS if name.startswith("ops/") else FORBIDDEN_COMMANDS
    return [
        Fault(name, line, what, lines[line - 1] if 0 < line <= len(lines) else "")
        for function in main.walk()
        for line, what in sorted({*_global_faults(function), *_other_faults(function, allowed)})
    ]


def lint_library(name: str, text: str) -> list[Fault]:
    """Check the form of one library file as it stands: one local function, named as the file, and no more."""
    words = _words(text)
    function = Path(name).name
    if words[:3] != ["local", "function", function] or _closing(words) != len(words) - 1:
        return [Fault(name, 1, f"a library file defines one local function, {function}, and nothing else")]
    return []


def lint_lines(name: str, text: str) -> list[Fault]:
    """Check that a file, as it stands, can be read without scrolling."""
    lines = enumerate(text.splitlines(), 1)
    return [
        Fault(name, at, f"longer than {LONGEST_LINE} characters", line)
        for at, line in lines
        if len(line) > LONGEST_LINE
    ]


def lint_includes(name: str, text: str) -> list[Fault]:
    """Check that what a file includes exists, is a library, and is used by this very file."""
    faults = []
    words = set(_words(text))
    if name.startswith("ops/") and _INCLUDE.search(text):
        return [Fault(name, 1, "an operator script runs as it is, through redis-cli, and includes nothing")]
    for match in _INCLUDE.finditer(text):
        included = match["name"]
        line = text.count("\n", 0, match.start()) + 1
        if not included.startswith("lib/") or not (lua_dir() / f"{included}.lua").is_file():
            faults.append(Fault(name, line, f"there is no lua/{included}.lua to include"))
        elif included.removeprefix("lib/") not in words:
            faults.append(Fault(name, line, f"includes {included} and does not use it"))
    return faults


def script_names() -> list[str]:
    """List every Lua file below lua/, without its suffix, scripts first."""
    paths = lua_dir().rglob("*.lua")
    names = [path.relative_to(lua_dir()).with_suffix("").as_posix() for path in paths]
    return sorted(names, key=lambda name: (name.count("/"), name))


def lint_all() -> list[Fault]:
    """List the faults of every Lua file of the package."""
    faults: list[Fault] = []
    included: set[str] = set()
    names = script_names()
    for name in names:
        text = (lua_dir() / f"{name}.lua").read_text(encoding="utf-8")
        included.update(match["name"] for match in _INCLUDE.finditer(text))
        faults += lint_lines(name, text)
        faults += lint_includes(name, text)
        if name.startswith("lib/"):
            faults += lint_library(name, text)
        faults += lint(name, load_script(name))
    unused = [name for name in names if name.startswith("lib/") and name not in included]
    faults += [Fault(name, 1, "no script includes it") for name in unused]
    return faults


def main() -> int:
    """Print the faults; the exit status says whether there are any."""
    names = script_names()
    if not names:
        print("lua: there is nothing to check", file=sys.stderr)
        return 1
    faults = lint_all()
    for fault in faults:
        print(fault, file=sys.stderr)
    print(f"lua: {len(names)} files, {len(faults)} faults")
    return 1 if faults else 0


# --- rules -------------------------------------------------------------------------------------------------


def _global_faults(function: "Function") -> Iterator[tuple[int, str]]:
    for at, (code, _, line) in enumerate(function.code):
        if code not in {"GETGLOBAL", "SETGLOBAL"}:
            continue
        name = function.constant(at)
        if code == "SETGLOBAL":
            yield line, f"sets the global {name}; every variable is local"
        elif name in LIBRARIES:
            member = function.member(at)
            if member is None:
                yield line, f"uses the library {name} as a value; call its functions by their full names"
            elif member not in LIBRARIES[name]:
                yield line, f"{name}.{member} is not available everywhere"
            elif (name, member) == ("string", "format") and "%d" in str(function.first_argument(at)):
                yield line, "string.format with %d fails for a fraction in Lua 5.4; use %.0f"
        elif name not in FUNCTIONS | TABLES:
            yield line, f"reads the global {name}, which is not declared"


def _other_faults(function: "Function", commands: frozenset[str]) -> Iterator[tuple[int, str]]:
    for at, (code, _, line) in enumerate(function.code):
        if code == "LOADK" and str(function.constant(at)).upper() in commands:
            yield line, f"scripts do not run the command {function.constant(at)}"
        elif code == "SELF" and function.constant(at) not in LIBRARIES["string"]:
            yield line, f"calls the method {function.constant(at)}, which no string has everywhere"
    for name in LATER_KEYWORDS.intersection(name for name, _, _ in function.locals):
        yield function.code[0][2], f"{name} is a keyword of later Lua versions and no name"


def _words(text: str) -> list[str]:
    """Split Lua into names, keywords and single signs, without comments and strings."""
    text = re.sub(r"--\[(=*)\[.*?\]\1\]|--[^\n]*", " ", text, flags=re.DOTALL)
    text = re.sub(r'"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|\[(=*)\[.*?\]\1\]', " '' ", text, flags=re.DOTALL)
    return re.findall(r"[A-Za-z_]\w*|[^\w\s]", text)


def _closing(words: list[str]) -> int:
    """Return the index of the word that closes the first block, -1 if none does."""
    depth = 0
    for index, word in enumerate(words):
        if word in {"function", "do", "if", "repeat"}:
            depth += 1
        elif word in {"end", "until"}:
            depth -= 1
            if depth == 0:
                return index
    return -1


# --- bytecode of Lua 5.1 -----------------------------------------------------------------------------------

# Of the 38 instructions, those that name a global, a constant or a member. The constant stands in Bx (the
# upper 18 bits) or in C (9 bits), where 256 and more means a constant and less means a register.
_CODES = {1: "LOADK", 5: "GETGLOBAL", 6: "GETTABLE", 7: "SETGLOBAL", 11: "SELF"}
_CONSTANT = 256


@dataclass(slots=True)
class Function:
    """One compiled function: its instructions as (code, operands, source line), and what they refer to."""

    code: list[tuple[str, int, int]]
    constants: list[Any]
    children: "list[Function]"
    locals: list[tuple[str, int, int]]  # name, first instruction, instruction after the last

    def walk(self) -> "Iterator[Function]":
        """Yield this function and all that it contains."""
        yield self
        for child in self.children:
            yield from child.walk()

    def constant(self, at: int) -> Any:
        """Return the constant that the instruction refers to; None if it refers to a register."""
        code, operands, _ = self.code[at]
        if code in {"GETTABLE", "SELF"}:
            c = operands >> 14 & 0x1FF
            return self.constants[c - _CONSTANT] if c >= _CONSTANT else None
        return self.constants[operands >> 14]

    def member(self, at: int) -> Any:
        """Return the name that is looked up in the library which the instruction has just loaded."""
        following = self._lookup(at)
        if following is None:
            return None
        found = self.constant(following)
        # Beyond 256 constants a name is loaded into a register first.
        return self.constant(following - 1) if found is None and following == at + 2 else found

    def first_argument(self, at: int) -> Any:
        """Return the literal that is the first argument of the member's call, None for anything else."""
        following = self._lookup(at)
        if following is None or self.code[following + 1][0] != "LOADK":
            return None
        return self.constant(following + 1)

    def _lookup(self, at: int) -> int | None:
        register = self.code[at][1] >> 6 & 0xFF
        following = at + 2 if self.code[at + 1][0] == "LOADK" else at + 1
        code, operands, _ = self.code[following]
        # The lowest registers are the locals: loaded into one, the library can be looked into from anywhere.
        named = register < sum(first <= at + 1 < after for _, first, after in self.locals)
        return following if code == "GETTABLE" and operands >> 23 == register and not named else None


def compile_lua(text: str) -> Function:
    """Compile a chunk and read its bytecode back."""
    runtime = lua51.LuaRuntime(encoding=None)
    dump = runtime.eval(b"function(text) return string.dump(assert(loadstring(text, '=script'))) end")
    # Compiled once by the runtime itself as well: its error says where, as a LuaSyntaxError.
    runtime.compile(text.encode())
    return _Reader(dump(text.encode())).function()


class _Reader:
    """Reads what string.dump writes: a header that tells the sizes, then the main function."""

    def __init__(self, dumped: bytes) -> None:
        self._bytes, self._at = dumped, 12
        signature, version, _, little, *sizes = struct.unpack("4s8B", dumped[:12])
        if (signature, version, sizes[2:]) != (b"\x1bLua", 0x51, [4, 8, 0]):
            raise ValueError(f"not the bytecode of Lua 5.1: {dumped[:12]!r}")
        self._order = "<" if little else ">"
        self._int, self._size = ({4: "i", 8: "q"}[size] for size in sizes[:2])

    def function(self) -> Function:
        """Read one function and those inside it."""
        self._string()
        self._take(self._int * 2 + "4B")
        instructions = self._take("I" * self._number())
        constants = [self._constant() for _ in range(self._number())]
        children = [self.function() for _ in range(self._number())]
        lines = self._take(self._int * self._number())
        variables = [self._local() for _ in range(self._number())]
        for _ in range(self._number()):  # names of upvalues, each a local of an outer function
            self._string()
        code = [(_CODES.get(word & 0x3F, ""), word, line) for word, line in zip(instructions, lines, strict=True)]
        return Function(code, constants, children, variables)

    def _take(self, form: str) -> tuple[Any, ...]:
        values = struct.unpack_from(self._order + form, self._bytes, self._at)
        self._at += struct.calcsize(self._order + form)
        return values

    def _number(self) -> int:
        number: int = self._take(self._int)[0]
        return number

    def _string(self) -> str:
        length = self._take(self._size.upper())[0]
        return self._take(f"{length}s")[0][:-1].decode(errors="replace") if length else ""

    def _local(self) -> tuple[str, int, int]:
        name = self._string()
        first, after = self._take(self._int * 2)
        return name, first, after

    def _constant(self) -> Any:
        kind = self._take("B")[0]
        if kind == 1:
            return bool(self._take("B")[0])
        if kind == 3:
            return self._take("d")[0]
        return self._string() if kind == 4 else None


if __name__ == "__main__":
    sys.exit(main())
