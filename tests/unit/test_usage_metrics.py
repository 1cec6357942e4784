"""Prometheus' text format, as far as usage is read from it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelease.usage.prometheus import total_of

NAMES = ("vllm:num_requests_running", "tgi_batch_current_size")

LINES = st.lists(
    st.text(max_size=30)
    | st.sampled_from(["# TYPE vllm:num_requests_running gauge", "up 1", ""])
    | st.builds(
        lambda name, labels, gap, value: f"{name}{labels}{gap}{value}",
        st.sampled_from([*NAMES, "vllm:num_requests_running_total", "x"]),
        st.sampled_from(["", "{}", '{a="b"}', '{a="}\\"\\\\ 7",c="d",}', "{", "}", '{a="', '{a=b"}', '{"}']),
        st.sampled_from([" ", "\t", "  ", ""]),
        st.floats().map(str) | st.integers().map(str) | st.text(max_size=5),
    ),
    max_size=8,
)


@given(LINES.map(lambda lines: "\n".join(lines).encode("utf-8", "replace") + b"\n") | st.binary(max_size=100))
def test_whatever_a_server_says_gives_a_sum_or_nothing(body: bytes) -> None:
    """Nothing is raised, and no sum is negative or no number."""
    total = total_of(body, NAMES)
    assert total is None or total >= 0


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=20), st.text(max_size=20))
def test_every_series_of_a_name_is_added_whatever_its_labels_are(values: list[int], label: str) -> None:
    """Labels may hold quotes, braces, line ends and figures; escaped, as the format asks."""
    safe = label.encode("utf-8", "replace").decode().replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    lines = [f'{NAMES[0]}{{engine="{number}",model="{safe}"}} {value}.0' for number, value in enumerate(values)]
    assert total_of("\n".join(["# HELP x y", *lines, "other 9", ""]).encode(), NAMES) == sum(values)


@pytest.mark.parametrize(
    "line,total",
    [
        ("tgi_batch_current_size 3", 3.0),
        ("tgi_batch_current_size 3 1700000000000", 3.0),
        ("  tgi_batch_current_size\t3", 3.0),
        ("tgi_batch_current_size 2.5e1", 25.0),
        ("tgi_batch_current_size 1_0", None),
        ("tgi_batch_current_size -0.1", None),
        ("tgi_batch_current_sizes 3", None),
        ("# tgi_batch_current_size 3", None),
    ],
)
def test_a_line_is_read_as_the_format_says(line: str, total: float | None) -> None:
    assert total_of(f"{line}\n".encode(), NAMES) == total


def test_an_infinite_sum_is_left_to_whoever_counts() -> None:
    """It is not finite, so it is no count."""
    assert total_of(b"tgi_batch_current_size +Inf\n", NAMES) == math.inf
