"""The Lua scripts keep the rules, and the lint that says so finds what breaks them."""

import pytest

from tools import lua_lint


def test_every_script_is_clean() -> None:
    assert [str(fault) for fault in lua_lint.lint_all()] == []


@pytest.mark.parametrize(
    "text",
    [
        "local t = redis.call('TIME') return t[1] * 1000 + math.floor(t[2] / 1000)",
        "local function f(a) return a end return {f(KEYS[1]), #ARGV, unpack(ARGV)}",
        "-- undeclared = 1\nlocal s = 'undeclared = 1' return s:sub(1, 2) .. string.format('%.0f', 1)",
        "for i, v in ipairs(KEYS) do redis.call('DEL', v) end for k in pairs({}) do return k end",
        "local command = 'ZADD' return redis.call(command, KEYS[1], 1, 'a')",
        "local f f = math.floor local g = math.ceil return f(g(1.5)), {floor = math.floor}",
        "return tostring(1), tonumber('1'), type({}), select('#', 1), next({}), error('x')",
    ],
)
def test_portable_lua_passes(text: str) -> None:
    assert lua_lint.lint("sample", text) == []


@pytest.mark.parametrize(
    "text, what",
    [
        ("x = 1", "sets the global x"),
        ("local function f() y = 1 end", "sets the global y"),
        ("return typo", "reads the global typo"),
        ("local function f() return function() return typo end end", "reads the global typo"),
        ("return cjson.encode({})", "reads the global cjson"),
        ("return bit.band(1, 2)", "reads the global bit"),
        ("return pcall(redis.call, 'GET', KEYS[1])", "reads the global pcall"),
        ("return redis.pcall('GET', KEYS[1])", "redis.pcall is not available"),
        ("return redis.sha1hex('')", "redis.sha1hex is not available"),
        ("return math.random(5)", "math.random is not available"),
        ("return table.unpack({})", "table.unpack is not available"),
        ("local m = math return m.random(5)", "uses the library math as a value"),
        ("local f, m = 1, math f = m.random return f", "uses the library math as a value"),
        ("local function f() return math end return f().random(5)", "uses the library math as a value"),
        ("local name = 'random' return math[name](5)", "uses the library math as a value"),
        ("return _G", "reads the global _G"),
        ("return redis.call('KEYS', '*')", "do not run the command KEYS"),
        ("local c = 'flushall' return redis.call(c)", "do not run the command flushall"),
        ("return redis.call('SCAN', '0')", "do not run the command SCAN"),
        ("return string.format('%d', 1.5)", "use %.0f"),
        ("local s = 'a' return s:unknown()", "calls the method unknown"),
        ("local goto = 1 return goto", "goto is a keyword"),
        ("return = 1", "does not compile"),
        ("return 7 // 2", "does not compile"),
    ],
)
def test_what_is_not_portable_is_found(text: str, what: str) -> None:
    faults = lua_lint.lint("sample", text)
    assert [what in fault.what for fault in faults] == [True]


def test_lines_are_no_longer_than_elsewhere() -> None:
    assert lua_lint.lint_lines("sample", "--" + 118 * "é" + "\nreturn 1") == []
    (fault,) = lua_lint.lint_lines("sample", "return 1\n--" + 119 * "x")
    assert (fault.line, fault.what) == (2, "longer than 120 characters")


def test_a_fault_says_where() -> None:
    (fault,) = lua_lint.lint("sample", "local a = 1\nlocal b = a\n\nreturn typo + b")
    assert str(fault) == (
        "lua/sample.lua, flattened line 4: reads the global typo, which is not declared\n    return typo + b"
    )


def test_names_are_found_beyond_256_constants() -> None:
    many = "local t = {" + ",".join(f"'c{n}'" for n in range(300)) + "}\n"
    assert lua_lint.lint("sample", many + "return math.floor(1) + #string.format('%.0f', 1)") == []
    (fault,) = lua_lint.lint("sample", many + "return math.random(5)")
    assert "math.random" in fault.what


def test_operator_scripts_may_scan_and_not_look_up_all_keys() -> None:
    assert lua_lint.lint("ops/sample", "return redis.call('SCAN', '0')") == []
    assert len(lua_lint.lint("ops/sample", "return redis.call('KEYS', '*')")) == 1


@pytest.mark.parametrize(
    "text, faults",
    [
        ("-- Adds.\nlocal function add(a, b)\n  if a then return a + b end\nend\n", 0),
        ("local function add() for i = 1, 2 do repeat local end_ = 'end' until true end end", 0),
        ("local function other() end", 1),
        ("local function add() end local function more() end", 1),
        ("local x = 1\nlocal function add() end", 1),
        ("function add() end", 1),
        ("local function add() end\nreturn add()", 1),
    ],
)
def test_a_library_file_is_one_local_function(text: str, faults: int) -> None:
    assert len(lua_lint.lint_library("lib/add", text)) == faults


def test_includes_exist_and_are_used() -> None:
    assert len(lua_lint.lint_includes("sample", '--- @include "lib/no_such_file"\nno_such_file()')) == 1
    assert len(lua_lint.lint_includes("sample", '--- @include "acquire"\nacquire()')) == 1
    assert len(lua_lint.lint_includes("ops/sample", '--- @include "lib/clock"\nclock()')) == 1
    assert lua_lint.lint_includes("sample", '--- @include "lib/clock"\nreturn clock()') == []
    assert len(lua_lint.lint_includes("sample", '--- @include "lib/clock"\nreturn 1 -- clock')) == 1
