"""Show the demo: live panels in a terminal, plain lines elsewhere, and the table in the end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ratelease.cli.demo.plan import Plan, Scene
from ratelease.cli.demo.tally import Result, percent

WITHOUT, WITH = Plan.names
COLUMNS = 80
PANEL_WIDTH = COLUMNS // 2 - 1
BAR_WIDTH = 21  # what the borders and the longest label leave of a panel
SPARKS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class Sample:
    """Hold what is known at one moment of a phase. Times are in seconds."""

    elapsed: float
    seconds: float
    done: int
    throttled: int
    used: int
    """Of the limit: requests in this window, or calls that the provider counts as in flight."""
    in_flight: int
    by_worker: tuple[int, ...]
    more: tuple[tuple[str, int], ...] = ()
    """Further counts, each with its label."""


class View(Protocol):
    """Show the phases as they run; a context manager."""

    def __enter__(self) -> Self:
        """Begin to show."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last state on the screen."""

    def begin(self, name: str) -> None:
        """Say that a phase is starting."""

    def show(self, name: str, sample: Sample) -> None:
        """Show the newest sample of a phase."""


def make_view(console: Console, plan: Scene) -> View:
    """Return live panels for a terminal that can show them, plain lines for everything else."""
    drawable = console.is_terminal and not console.is_dumb_terminal and console.width >= COLUMNS
    return LiveView(console, plan) if drawable else PlainView(console, plan)


# --- plain lines -------------------------------------------------------------------------------------------


class PlainView:
    """Print a line now and then."""

    def __init__(self, console: Console, plan: Scene) -> None:
        self._console = console
        self._plan = plan
        self._next_at = 0.0

    def __enter__(self) -> Self:
        self._say(self._plan.describe_fleet())
        self._say(self._plan.describe_provider())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def begin(self, name: str) -> None:
        """Say that a phase is starting."""
        self._next_at = self._plan.line_every
        self._say(f"{name}: starting {self._plan.workers} workers")

    def show(self, name: str, sample: Sample) -> None:
        """Print the sample if it is time for one; draining is not shown."""
        if sample.elapsed < self._next_at or self._next_at > sample.seconds:
            return
        self._next_at += self._plan.line_every
        used = percent(sample.used / self._plan.limit)
        more = "".join(f", {count} {label}" for label, count in sample.more)
        self._say(
            f"{name}: {sample.elapsed:.0f} s of {sample.seconds:.0f} s, {sample.done} done, "
            f"{sample.throttled} × 429, {used} {self._plan.use_words}, {sample.in_flight} in flight{more}, "
            f"by worker {' '.join(map(str, sample.by_worker))}"
        )

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


# --- live panels -------------------------------------------------------------------------------------------


@dataclass(slots=True)
class PhasePanel:
    """Hold what one of the two panels shows."""

    name: str
    seconds: float
    state: str = "waiting"
    sample: Sample | None = None
    use: list[float] = field(default_factory=list)
    """Share of the window in use, one figure for each of the sparkline's columns so far."""

    def add(self, sample: Sample, limit: int) -> None:
        """Take a sample; the sparkline keeps the highest use of each of its columns."""
        self.sample = sample
        self.state = "measuring" if sample.elapsed < sample.seconds else "draining"
        column = min(BAR_WIDTH - 1, int(sample.elapsed / sample.seconds * BAR_WIDTH))
        self.use += [0.0] * (column + 1 - len(self.use))
        self.use[column] = max(self.use[column], sample.used / limit)


class LiveView:
    """Redraw two panels side by side, one for each phase."""

    def __init__(self, console: Console, plan: Scene) -> None:
        self._plan = plan
        self._panels = {name: PhasePanel(name, plan.seconds) for name in plan.names}
        self._live = Live(self._draw(), console=console, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for panel in self._panels.values():
            if panel.sample is not None:
                panel.state = "done" if kind is None else "stopped"
        self._live.update(self._draw(), refresh=True)
        self._live.__exit__(kind, error, trace)

    def begin(self, name: str) -> None:
        """Say that a phase is starting, and that the one before it is over."""
        for panel in self._panels.values():
            if panel.sample is not None:
                panel.state = "done"
        self._panels[name].state = "starting"
        self._live.update(self._draw(), refresh=True)

    def show(self, name: str, sample: Sample) -> None:
        """Show the newest sample of a phase."""
        self._panels[name].add(sample, self._plan.limit)
        self._live.update(self._draw(), refresh=True)

    def _draw(self) -> RenderableType:
        panels = [self._draw_panel(panel) for panel in self._panels.values()]
        fleet, provider = Text(self._plan.describe_fleet()), Text(self._plan.describe_provider())
        return Group(fleet, provider, Columns(panels, padding=(0, 1)))

    def _draw_panel(self, panel: PhasePanel) -> Panel:
        colour = "red" if panel.name == self._plan.names[0] else "green"
        rows = Table.grid(padding=(0, 1), expand=True)
        rows.add_column(style="dim", no_wrap=True)
        rows.add_column(justify="right", no_wrap=True)
        for label, figure in self._rows(panel, colour):
            rows.add_row(label, figure)
        return Panel(rows, title=panel.name, border_style=colour, width=PANEL_WIDTH)

    def _rows(self, panel: PhasePanel, colour: str) -> list[tuple[str, RenderableType]]:
        plan = self._plan
        sample = panel.sample or Sample(0, panel.seconds, 0, 0, 0, 0, (0,) * plan.workers)
        elapsed = min(sample.elapsed, sample.seconds)
        throttled = Text(str(sample.throttled), style="bold red" if sample.throttled else "bold")
        return [
            (panel.state, f"{elapsed:.0f} s of {sample.seconds:.0f} s"),
            ("", bar(elapsed / sample.seconds, "blue")),
            ("requests done", Text(str(sample.done), style="bold")),
            ("429s", throttled),
            ("in flight", f"{sample.in_flight} of {plan.concurrency}"),
            *((label, str(count)) for label, count in sample.more),
            (plan.use_label, f"{sample.used} of {plan.limit}"),
            ("", bar(sample.used / plan.limit, colour)),
            ("over time", sparkline(panel.use, colour)),
            ("by worker", by_worker(sample.by_worker)),
        ]


def bar(share: float, colour: str) -> Text:
    """Draw `share` (cut to 0…1) as a bar that can be read without colours too."""
    filled = round(min(1.0, max(0.0, share)) * BAR_WIDTH)
    return Text.assemble(("━" * filled, colour), ("─" * (BAR_WIDTH - filled), "bright_black"))


def sparkline(shares: Sequence[float], colour: str) -> Text:
    """Draw shares (cut to 0…1) as one character each, and a dot for each column still to come."""
    drawn = "".join(SPARKS[round(min(1.0, max(0.0, share)) * (len(SPARKS) - 1))] for share in shares)
    return Text.assemble((drawn, colour), ("·" * (BAR_WIDTH - len(drawn)), "bright_black"))


def by_worker(counts: Sequence[int]) -> str:
    """Write the counts, or their span where they are too many for the panel."""
    text = " ".join(map(str, counts))
    return text if len(text) <= BAR_WIDTH else spread(counts)


def spread(counts: Sequence[int]) -> str:
    """Write the lowest and the highest count."""
    return f"{min(counts)}–{max(counts)}" if counts else "–"


# --- the table ---------------------------------------------------------------------------------------------


def figure_table(names: Sequence[str], rows: Iterable[tuple[str, Iterable[str], str]]) -> Table:
    """Return a table of a label, one figure for each name, and a style in each row."""
    table = Table()
    table.add_column("")
    for name in names:
        table.add_column(name, justify="right")
    for label, figures, style in rows:
        table.add_row(label, *figures, style=style)
    return table


def result_table(plan: Plan, without: Result, with_limiter: Result) -> Table:
    """Return the two results side by side."""
    rows: list[tuple[str, Iterable[str], str]] = []

    def row(label: str, *figures: str, style: str = "") -> None:
        rows.append((label, figures, style))

    results = (without, with_limiter)
    row(f"requests done in {plan.seconds:g} s", *(str(sum(result.by_worker)) for result in results))
    row("429s", *(str(result.throttled) for result in results), style="bold")
    row("share of the limit used", *(percent(result.share) for result in results), style="bold")
    row(f"most in any {plan.window:g} s", *(f"{result.busiest} of {plan.limit}" for result in results))
    row("wait, p50", *(seconds_text(result.p50) for result in results))
    row("wait, p99", *(seconds_text(result.p99) for result in results))
    row("done by a worker, least–most", *(spread(result.by_worker) for result in results))
    row("done by a task, least–most", *(spread(result.by_task) for result in results))
    if any(result.errors for result in results):
        row("failed attempts", *(str(result.errors) for result in results), style="red")
    return figure_table(plan.names, rows)


def seconds_text(wait: float | None) -> str:
    """Write a wait, or a dash for none."""
    return "–" if wait is None else f"{wait:.2f} s"
