"""Draws a job while it is watched: live in a terminal, as plain lines in a pipe, as JSON lines for programs.

What is shown is decided in :mod:`trainkit.api.view`.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import time
from collections.abc import Iterable, Mapping, Sequence

import click
from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from trainkit.api import view
from trainkit.api.charts import paired
from trainkit.clean_text import clean_lines
from trainkit.cli.exits import echo, echo_json
from trainkit.cli.watching import Epoch, Screen, Update
from trainkit.files.modelfile import model_file
from trainkit.files.record import Record, Status, to_dict
from trainkit.files.store import Store

#: Of the 16 colours that every terminal theme defines, those that are readable on light and dark ones.
STYLES = {
    Status.QUEUED: ("○", "dim"),
    Status.RUNNING: ("●", "cyan"),
    Status.PAUSED: ("‖", "yellow"),
    Status.STOPPING: ("◌", "yellow"),
    Status.COMPLETED: ("✓", "green"),
    Status.STOPPED: ("■", "yellow"),
    Status.FAILED: ("✗", "red"),
    Status.INTERRUPTED: ("!", "red"),
}
#: In a pipe, a job that ends no epoch for so long says where it is.
PLAIN_EVERY_S = 5.0
_REDRAW_S = 0.2
_NARROWEST = 7  # column of numbers
_WIDEST = 9  # number, such as 1.234e-05


def screen_for(store: Store, *, as_json: bool) -> Screen:
    """Return the screen that fits where the output goes."""
    if as_json:
        return JsonScreen()
    console = terminal()
    return LiveScreen(console, store) if redraws(console) else PlainScreen(console, store)


def redraws(console: Console) -> bool:
    """Whether the output goes to a terminal that can go up a line; that of a notebook's `!trainkit` cannot."""
    return console.is_terminal and not console.is_dumb_terminal and "JPY_PARENT_PID" not in os.environ


class _Console(Console):
    """A console that obeys no text of a job.

    When its reader has gone, it leaves that to the command: rich would exit with a code of its own.
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render text without what a terminal would obey; rich's own codes are apart from it."""
        for segment in super().render(renderable, options):
            if segment.control is None and not segment.text.isprintable():
                segment = segment._replace(text=clean_lines(segment.text))
            yield segment

    def on_broken_pipe(self) -> None:
        """Let the exception pass."""
        raise  # what rich has caught when it calls this


def terminal() -> Console:
    """Return a console on the output; without control codes or a limit of width where that is no terminal."""
    if sys.stdout.isatty():
        return _Console(highlight=False)
    return _Console(highlight=False, force_terminal=False, no_color=True, color_system=None, width=1_000)


class LiveRows:
    """Lines in a terminal, of which the last ones are drawn again when they change."""

    def __init__(self) -> None:
        self._drawn = 0

    def show(self, text: str, rest: str) -> None:
        """Print lines, and below them what may still change.

        Args:
            text: whole lines, or the end of all.
            rest: what follows them now; what was shown of it before is replaced.
        """
        width, height = shutil.get_terminal_size()
        text, rest = clean_lines(text), clean_lines(rest).expandtabs()
        rows = [set_cell_size(row, width - 1) if cell_len(row) >= width else row for row in rest.split("\n")]
        rows = rows[-max(1, height - 1) :] if rest else []
        back = "" if not self._drawn else "\r" + "\x1b[A" * (self._drawn - 1) + "\x1b[J"
        click.echo(back + text + "\n".join(rows), nl=False, color=True)
        self._drawn = len(rows)


class JsonScreen:
    """One JSON object per update: the record, whenever more of it has changed than its heartbeat."""

    def __init__(self) -> None:
        self._shown: dict[str, object] = {}

    def show(self, update: Update) -> None:
        """Print the record if it has changed."""
        fields = to_dict(update.record)
        telling = {name: value for name, value in fields.items() if name not in ("heartbeat_at", "updated_at")}
        if telling != self._shown:
            self._shown = telling
            echo_json(fields)

    def say(self, text: str) -> None:
        """Tell it beside the JSON."""
        echo(f"trainkit: {text}", err=True)

    def close(self, record: Record | None) -> None:
        """Nothing is left to say: the last line was the final record."""


class _TextScreen:
    """What both text screens share: messages, warnings and the table of epochs, one line below the other."""

    def __init__(self, console: Console, store: Store) -> None:
        self.console = console
        self.store = store
        self._columns: list[str] = []
        self._seen: Record | None = None
        self.said_at = time.monotonic()

    def show(self, update: Update) -> None:
        """Print what is new."""
        self._seen = update.record
        for warning in update.warnings:
            self.line(Text.assemble(("warning  ", "yellow"), warning))
        for word in update.passed:
            self.line(Text.assemble(("passed   ", "green"), word))
        every = view.epochs_shown(update.record.epochs)
        for epoch in update.epochs:
            if epoch.number % every == 0 or epoch.number in (1, update.record.epochs):
                self._epoch(epoch)

    def say(self, text: str) -> None:
        """Print a remark."""
        self.line(Text(text))

    def line(self, text: Text) -> None:
        """Print one line, whatever its width."""
        self.said_at = time.monotonic()
        self.console.print(text, soft_wrap=True)

    def _epoch(self, epoch: Epoch) -> None:
        names = [name for name, _ in paired(epoch.metrics)]
        if not set(names) <= set(self._columns):
            self._columns = names
            self._numbers("epoch", names, style="dim")
        values = [view.aligned(epoch.metrics[name]) if name in epoch.metrics else "" for name in self._columns]
        self._numbers(str(epoch.number), values)

    def _numbers(self, first: str, cells: Sequence[str], style: str = "") -> None:
        room = self.console.width
        text = f"{first:>5}"
        for name, value in zip(self._columns, cells, strict=True):
            cell = f"  {value:>{max(_NARROWEST, len(name))}}"
            if len(text) + len(cell) > room:
                break  # metrics that find no room in this terminal are in the summary and in the files
            text += cell
        self.line(Text(text, style))


class PlainScreen(_TextScreen):
    """Lines without control codes: an epoch each, or one every few seconds where epochs are long or unknown."""

    def __init__(self, console: Console, store: Store) -> None:
        super().__init__(console, store)
        self._said = {""}
        self._running_said = False
        self._status: Status | None = None

    def show(self, update: Update) -> None:
        """Print what is new, and from time to time where the job is."""
        record = update.record
        if self._seen is None:
            self.line(Text(f"{record.name}: {record.job_id}"))
        super().show(update)
        if record.status.terminal:
            return
        late = time.monotonic() - self.said_at > PLAIN_EVERY_S
        # What a job waits for, and what it says first: what was found in a table, say. Later messages may be many.
        running = record.status is Status.RUNNING
        if record.message not in self._said and (
            record.status is Status.QUEUED or (running and not self._running_said)
        ):
            self._said.add(record.message)
            self._running_said = running
            self.line(Text(record.message))
        waits = record.status in (Status.PAUSED, Status.STOPPING)
        if late or (waits and record.status is not self._status):
            self.line(Text(" · ".join(filter(None, [str(record.status).lower(), *_where(record)]))))
        self._status = record.status

    def close(self, record: Record | None) -> None:
        """Sum up."""
        if record is not None:
            self.console.print(summary(record, self.store), soft_wrap=True)


def _where(record: Record) -> list[str]:
    seen = view.view(record, now=time.time())
    numbers = "  ".join(f"{name} {value}" for name, value in seen.numbers)
    left = [f"{value} left" for label, value in seen.facts if label == "time left"]
    return [seen.headline, numbers, *left, seen.message]


class LiveScreen(_TextScreen):
    """Epochs as lines that scroll, and below them a few lines that are drawn anew while the job runs."""

    def __init__(self, console: Console, store: Store) -> None:
        super().__init__(console, store)
        self._live = Live(
            console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
        )
        self._drawn_at = 0.0

    def show(self, update: Update) -> None:
        """Print what is new, and redraw at most five times a second."""
        super().show(update)
        now = time.monotonic()
        if now - self._drawn_at >= _REDRAW_S and not update.record.status.terminal:
            self._drawn_at = now
            drawn = now_running(update.record, width=self.console.width, now=time.time())
            self._live.start()  # not before: of a job that has ended nothing is drawn anew
            self._live.update(drawn, refresh=True)

    def close(self, record: Record | None) -> None:
        """Give the cursor back, and sum up where the live lines were."""
        if self._live.is_started:
            self._live.update("", refresh=True)
            self._live.stop()
        if record is not None:
            if self._columns:
                self.console.print()
            self.console.print(summary(record, self.store), soft_wrap=True)


def now_running(record: Record, *, width: int, now: float) -> Group:
    """Draw the live lines of a job.

    Args:
        record: the job.
        width: characters in a line.
        now: Unix seconds.
    """
    seen = view.view(record, now=now)
    facts = dict(seen.facts)
    lines: list[Text | Table] = [Text(), _title(record)]
    if record.started_at is not None and not (record.total_steps or record.epochs):
        known = [facts[label] for label in ("throughput",) if label in facts]
        lines.append(Text("  ".join([*known, f"{facts['running for']} so far"])))
    elif record.started_at is not None:
        lines.append(_bar(record, facts, width))
    names_width = max([len(name) for name, _ in seen.numbers] or [0])
    lines += _in_columns(seen.numbers, names_width, width)
    if "best" in facts:
        best = (f"{'best':<{names_width}}  ", "dim")
        lines.append(Text.assemble(best, facts["best"], no_wrap=True, overflow="ellipsis"))
    if seen.message:
        lines.append(Text(seen.message, "dim", no_wrap=True, overflow="ellipsis"))
    return Group(*lines)


def _bar(record: Record, facts: Mapping[str, str], width: int) -> Table:
    """Draw how much is done, how fast, and how long yet; in widths that stay while the numbers change."""
    _, style = STYLES[record.status]
    done = ProgressBar(
        total=100, completed=record.progress, style="dim", complete_style=style, finished_style=style
    )
    bar = Table.grid(padding=(0, 2), expand=True)
    bar.add_column(ratio=1)
    bar.add_column(justify="right", no_wrap=True, min_width=5)
    bar.add_column(no_wrap=True, min_width=min(13, width // 5))
    bar.add_column(no_wrap=True, min_width=min(15, width // 5))
    time_left = f"{facts['time left']} left" if "time left" in facts else f"{facts['running for']} so far"
    bar.add_row(done, f"{record.progress:.0f} %", facts.get("throughput", ""), time_left)
    return bar


def _in_columns(numbers: Sequence[tuple[str, str]], names_width: int, width: int) -> list[Text]:
    """Draw names and values in columns that stay where they are while the values change."""
    cell_width = names_width + 2 + _WIDEST + 2
    in_a_line = max(1, (width + 2) // cell_width)
    lines = []
    for at in range(0, len(numbers), in_a_line):
        line = Text(no_wrap=True, overflow="ellipsis")
        for name, value in numbers[at : at + in_a_line]:
            line.append(f"{name:<{names_width}}  ", "dim").append(f"{value:<{_WIDEST}}  ")
        lines.append(line)
    return lines


def _title(record: Record) -> Text:
    mark, style = STYLES[record.status]
    return Text.assemble(
        (f"{mark} ", style),
        (view.clean(record.name), "bold"),
        "  ",
        (str(record.status), style),
        f"  {view.headline(record)}",
        no_wrap=True,
        overflow="ellipsis",
    )


def summary(record: Record, store: Store, *, warnings: Sequence[str] = ()) -> Text:
    """Draw a job at rest: how it is, what it warns of, its numbers, and where its files are."""
    seen = view.view(record, now=time.time())
    paths = store.paths(record.job_id)
    text = _title(record)
    text.no_wrap, text.overflow = None, None
    if seen.message:
        text.append(f"\n  {_wrapped(seen.message, indent=2)}")
    for warning in warnings:
        text.append("\n  warning  ", "yellow").append(_wrapped(view.clean(warning), indent=11))
    if seen.numbers:
        width = max(len(name) for name, _ in seen.numbers)
        text.append("\n")
        for name, value in seen.numbers:
            text.append(f"\n  {name:<{width}}  ", "dim").append(value)
        text.append("\n")
    facts = [*seen.facts, ("id", record.job_id)]
    if seen.params:
        facts.insert(0, ("params", ", ".join(f"{name} {value}" for name, value in seen.params)))
    if model := model_file(paths):
        facts.append(("model", shown_path(str(model))))
    facts.append(("record", shown_path(str(paths.record))))
    width = max(len(label) for label, _ in facts)
    for label, value in facts:
        text.append(f"\n  {label:<{width}}  ", "dim").append(_wrapped(value, indent=width + 4))
    if record.error is not None and record.error.traceback:
        text.append(f"\n\n{view.clean_lines(record.error.traceback).rstrip()}", "dim")
    return text


def _wrapped(value: str, *, indent: int) -> str:
    """Wrap a long value in a terminal below its beginning; paths and lines for programs stay whole."""
    room = terminal().width - indent
    if not sys.stdout.isatty() or len(value) <= room or " " not in value:
        return value
    return f"\n{'':{indent}}".join(textwrap.wrap(value, max(room, 20), break_long_words=False))


def shown_path(path: str) -> str:
    """Return a path as people read it: relative where it lies below the current folder."""
    here = os.getcwd()
    return os.path.relpath(path, here) if path.startswith(here + os.sep) else path


def show_jobs(rows: Sequence[tuple[Status | None, dict[str, str]]]) -> None:
    """Print jobs as a table; in a narrow terminal, columns that ``status`` tells as well are left out.

    Args:
        rows: for each job its state, None where the record cannot be read, and its cells by column.
    """
    console = terminal()
    columns = list(rows[0][1])
    if not console.is_terminal:
        echo(view.table([list(cells.values()) for _, cells in rows], columns))
        return
    widths = {column: max(len(column), *(len(cells[column]) for _, cells in rows)) for column in columns}
    for least in ("runner", "at", "best"):
        if sum(widths[column] + 2 for column in columns) - 2 > console.width:
            columns.remove(least)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns:
        table.add_column(
            column,
            justify="right" if column == "done" else "left",
            no_wrap=True,
            # What is cut must not be what the next command needs.
            min_width=widths[column] if column != "name" else None,
        )
    for status, cells in rows:
        style = STYLES[status][1] if status is not None else "red"
        table.add_row(*[Text(cells[column], style if column == "state" else "") for column in columns])
    console.print(table)
