"""Draw lines over time as plain SVG that is readable on light and on dark pages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 720, 300
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 58, 34

# Mid-tones: each has enough contrast on white and on black.
COLOURS = {
    "possible": "#8b949e",
    "penalty": "#2f81f7",
    "parallelism": "#3fa34d",
    "decrement": "#b87a00",
    "off": "#c2527f",
    "each by itself": "#8957e5",
}

STYLE = """\
text { font: 12px system-ui, sans-serif; fill: #57606a }
.title { font-size: 14px; font-weight: 600 }
.grid { stroke: #8b949e; stroke-opacity: 0.3 }
.line { fill: none; stroke-width: 1.6; stroke-linejoin: round }
@media (prefers-color-scheme: dark) { text { fill: #9aa4ae } }"""


@dataclass(frozen=True, slots=True)
class Line:
    """Hold one named line; the name decides its colour."""

    name: str
    points: Sequence[tuple[float, float]]


def chart(title: str, horizontal: str, lines: Sequence[Line]) -> str:
    """Return the text of an SVG file."""
    widest = max((x for line in lines for x, _ in line.points), default=1.0)
    step_x, step_y = _step(widest, 6), _step(max((y for line in lines for _, y in line.points), default=1.0), 4)
    highest = step_y * max(1, math.ceil(max((y for line in lines for _, y in line.points), default=1.0) / step_y))
    plot_width, plot_height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x_of(value: float) -> float:
        return LEFT + plot_width * value / widest

    def y_of(value: float) -> float:
        return TOP + plot_height * (1 - value / highest)

    size = f'viewBox="0 0 {WIDTH} {HEIGHT}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(title)}">',
        f"<style>\n{STYLE}\n</style>",
        f'<text class="title" x="{LEFT}" y="18">{escape(title)}</text>',
    ]
    for number in range(round(highest / step_y) + 1):
        value = number * step_y
        parts.append(f'<path class="grid" d="M{LEFT} {y_of(value):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y_of(value) + 4:.1f}" text-anchor="end">{value:g}</text>')
    for number in range(math.floor(widest / step_x) + 1):
        value = number * step_x
        unit = f" {horizontal}" if number == 0 else ""
        anchor = "start" if number == 0 else "middle"
        parts.append(
            f'<text x="{x_of(value):.1f}" y="{HEIGHT - 12}" text-anchor="{anchor}">{value:g}{escape(unit)}</text>'
        )
    at = LEFT
    for line in lines:
        colour = COLOURS.get(line.name, "#8b949e")
        dashes = ' stroke-dasharray="5 4"' if line.name == "possible" else ""
        points = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in line.points)
        parts.append(f'<polyline class="line" stroke="{colour}"{dashes} points="{points}"/>')
        parts.append(f'<path class="line" stroke="{colour}"{dashes} d="M{at} 36h22"/>')
        parts.append(f'<text x="{at + 27}" y="40">{escape(line.name)}</text>')
        at += 44 + 7 * len(line.name)
    return "\n".join([*parts, "</svg>", ""])


def _step(highest: float, parts: int) -> float:
    """Return a round distance of grid lines: 1, 2 or 5 times a power of ten."""
    raw = max(highest, 1e-9) / parts
    power = 10.0 ** math.floor(math.log10(raw))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
