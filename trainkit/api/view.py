"""What to show of a job, decided once.  Panels, text, command line and HTTP only draw it."""

from __future__ import annotations

import json
import re
import sysconfig
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trainkit.api.charts import paired
from trainkit.clean_text import clean as clean
from trainkit.clean_text import clean_lines as clean_lines
from trainkit.files.record import Record, Status
from trainkit.files.store import UNREACHABLE
from trainkit.files.streams import attempt_of
from trainkit.files.units import duration as duration
from trainkit.files.units import size as size

#: Of a job with more metrics the others are counted, where all would fill a screen.
MOST_NUMBERS = 24


@dataclass(frozen=True)
class Action:
    """Something that can be asked of a job."""

    name: str
    label: str
    explains: str


_ACTIONS = {
    "pause": Action("pause", "Pause", "Wait after the current step"),
    "resume": Action("resume", "Resume", "Go on from where it was"),
    "finish": Action("finish", "Finish", "End early: validate, export, complete"),
    "stop": Action("stop", "Stop", "Save and end after the current step"),
    "kill": Action("kill", "Kill", "End its process at once; what was not saved is lost"),
}


def actions(record: Record) -> list[Action]:
    """Return what can be asked of a job in its state, in the order of buttons."""
    killable = ["kill"] if record.runner not in (None, "thread") else []
    names = {
        Status.QUEUED: ["stop"],
        Status.RUNNING: ["pause", "finish", "stop", *killable],
        Status.PAUSED: ["resume", "finish", "stop", *killable],
        Status.STOPPING: killable,
    }.get(record.status, [])
    if record.status in (Status.STOPPED, Status.FAILED, Status.INTERRUPTED) and record.resumable:
        names = ["resume"]
    return [_ACTIONS[name] for name in names]


@dataclass(frozen=True)
class View:
    """What people want to know of a job, as text pieces.

    ``facts`` and ``numbers`` are pairs of a label and a value, in the order in which they should be read.
    """

    name: str
    status: Status
    headline: str
    message: str
    progress: float
    facts: list[tuple[str, str]] = field(default_factory=list)
    numbers: list[tuple[str, str]] = field(default_factory=list)
    actions: list[Action] = field(default_factory=list)
    params: list[tuple[str, str]] = field(default_factory=list)
    fault: Fault | None = None


@dataclass(frozen=True)
class Fault:
    """What ended a job that failed, and where in the user's code.

    Attributes:
        title: the exception in one line.
        place: where the user's code raised it or called what raised it, in words; may be empty.
        code: that line, if the traceback holds it.
        traceback: all of it.
        file, line: the same place for a program; ``line`` counts from 1.
    """

    title: str
    place: str
    code: str
    traceback: str
    file: str = ""
    line: int = 0


def view(record: Record, *, now: float | None = None, memory_bytes: int | None = None) -> View:
    """Decide what to show.

    Args:
        record: as :meth:`trainkit.files.store.Store.observe` returns it.
        now: Unix seconds, to show how long things took; without it nothing is shown that differs
            between two equal runs.
        memory_bytes: what the process that runs the job holds, if known.
    """
    facts: list[tuple[str, str]] = []
    if record.best is not None:
        at = f"epoch {record.best.epoch}" if record.best.epoch else f"step {record.best.step}"
        facts.append(("best", f"{clean(record.best.metric)} {number(record.best.value)} at {at}"))
    facts.append(("runner", clean(" on ".join(filter(None, [record.runner or "none", record.device])))))
    if now is not None:
        if record.throughput and (record.status is Status.RUNNING or record.status.terminal):
            facts.append(("throughput", f"{number(record.throughput.steps_per_s)} steps/s"))
        if record.started_at is not None:
            if record.status.terminal:
                # A process that vanished could not say when; its last sign of life is what is known.
                ended_at = record.finished_at or record.heartbeat_at or record.started_at
                facts.append(("took", duration(ended_at - record.started_at)))
            else:
                facts.append(("running for", duration(now - record.started_at)))
        if (left := eta_s(record)) is not None:
            facts.append(("time left", duration(left)))
    if record.restarts:
        allowed = f" of {retries}" if (retries := record.resources.retries) >= record.restarts else ""
        facts.append(("restarts", f"{record.restarts}{allowed}"))
    if memory_bytes is not None:
        facts.append(("memory", size(memory_bytes)))
    return View(
        name=clean(record.name),
        status=record.status,
        headline=headline(record),
        message=clean(record.message),
        progress=record.progress,
        facts=facts,
        numbers=numbers(record.metrics),
        actions=actions(record),
        # What nobody has set says nothing.
        params=[
            (clean(name), brief(value)) for name, value in record.params.items() if value not in (None, [], {}, "")
        ],
        fault=fault(record),
    )


_FRAME = re.compile(
    r'^  File "(?P<file>.+)", line (?P<line>\d+), in (?P<function>.+)\n(?:    (?P<code>\S.*)\n)?', re.MULTILINE
)
#: Python itself and installed packages: not where the user should look first.
_NOT_THE_USERS = tuple(
    {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")} | {"<frozen"}
)
_OF_A_CELL = re.compile(r"(^<ipython-input-)|([\\/]ipykernel_\d+[\\/]\d+\.py$)")
_OUR_OWN = re.compile(r"[\\/]trainkit[\\/]([a-z_]+[\\/])*[a-z_]+\.py$")


def fault(record: Record) -> Fault | None:
    """Return what ended a job that failed, with the last line of the user's own code in its traceback.

    >>> from trainkit.files.record import ErrorInfo
    >>> trace = 'Traceback …\\n  File "/home/me/train.py", line 3, in fit\\n    x = 1 / 0\\nZeroDivisionError: …'
    >>> error = ErrorInfo("ZeroDivisionError", "division by zero", trace)
    >>> found = fault(Record(job_id="a", name="a", status=Status.FAILED, error=error))
    >>> found.title, found.place, found.code
    ('ZeroDivisionError: division by zero', 'train.py, line 3, in fit', 'x = 1 / 0')
    """
    error = record.error
    if error is None:
        return None
    title, traceback = clean_lines(f"{error.type}: {error.message}".rstrip(": ")), clean_lines(error.traceback)
    frames = list(_FRAME.finditer(error.traceback))
    users = [
        frame
        for frame in frames
        if not frame["file"].startswith(_NOT_THE_USERS) and not _OUR_OWN.search(frame["file"])
    ]
    if not users:
        return Fault(title, "", "", traceback)
    last = users[-1]
    where = "a cell of the notebook" if _OF_A_CELL.search(last["file"]) else re.split(r"[\\/]", last["file"])[-1]
    function = "" if last["function"] == "<module>" else f", in {last['function']}"
    place = f"{where}, line {last['line']}{function}"
    return Fault(
        title, clean(place), clean((last["code"] or "").strip()), traceback, last["file"], int(last["line"])
    )


def brief(value: object) -> str:
    """Return a parameter in one short line.

    >>> brief(1e-3), brief([64, 64]), brief("relu"), brief(True)
    ('0.001', '[64, 64]', 'relu', 'True')
    >>> print(brief("\\t"))
    '\\t'
    """
    if isinstance(value, str):
        text = value if value.strip() else repr(value)  # such as a delimiter, which would not be seen
    elif isinstance(value, float):
        text = f"{value:g}"
    elif isinstance(value, (list, dict)):
        text = json.dumps(value, ensure_ascii=False)
    else:
        text = str(value)
    return clean(text if len(text) <= 80 else text[:79] + "…")


def title(name: str) -> str:
    """Return a name as the title of a chart: on one line, and not wider than a chart.

    >>> title("val_loss"), len(title("a" * 5000))
    ('val_loss', 60)
    """
    name = clean(name)
    return name if len(name) <= 60 else name[:59] + "…"


def headline(record: Record) -> str:
    """Return where a job is, in a few words.

    >>> headline(Record(job_id="a", name="a", status=Status.RUNNING, epoch=3, epochs=20, step=120))
    'epoch 3/20 · step 120'
    """
    parts = []
    if record.epoch:
        parts.append(f"epoch {record.epoch}/{record.epochs}" if record.epochs else f"epoch {record.epoch}")
    if record.step:
        parts.append(f"step {record.step}/{record.total_steps}" if record.total_steps else f"step {record.step}")
    if record.phase and record.status is Status.RUNNING and record.phase != "training":
        parts.append(str(record.phase))
    return " · ".join(parts)


def text(record: Record, *, now: float | None = None, job_id: bool = False) -> str:
    """Draw a job as a few lines for a terminal or a stored output.

    Args:
        record: the job.
        now: Unix seconds; without it no times are shown.
        job_id: also show the id.
    """
    seen = view(record, now=now)
    first = f"{seen.name}: {seen.status}"
    if seen.headline:
        first += f" · {seen.headline}"
    lines = [first]
    if job_id:
        lines.append(f"  id: {record.job_id}")
    if seen.message:
        lines.append(f"  {seen.message}")
    if seen.numbers:
        lines.append("  " + "  ".join(f"{name} {value}" for name, value in seen.numbers))
    lines += [f"  {label}: {value}" for label, value in seen.facts]
    if record.error is not None and record.error.traceback:
        lines += ["", clean_lines(record.error.traceback).rstrip()]
    return "\n".join(lines)


def standing_warnings(events: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return what the newest attempt of a job warned of and has not passed, oldest first.

    >>> events = [{"event": "warning", "message": "ids"}, {"event": "warning", "cause": "disk", "message": "full"}]
    >>> standing_warnings(events), standing_warnings([*events, {"event": "cleared", "cause": "disk"}])
    (['ids', 'full'], ['ids'])
    """
    standing: dict[str, str] = {}
    newest = 1
    for event in events:
        if (attempt := attempt_of(event)) > newest:
            newest, standing = attempt, {}
        if event.get("event") == "warning":
            standing[str(event.get("cause") or event.get("message"))] = clean_lines(str(event.get("message")))
        elif event.get("event") == "cleared":
            standing.pop(str(event.get("cause")), None)
    return list(standing.values())


def row(record: Record) -> dict[str, str]:
    """Return a job as one row of a list of jobs, by column.

    >>> row(Record(job_id="a", name="fit", status=Status.RUNNING, progress=40.4, runner="thread"))
    {'name': 'fit', 'state': 'RUNNING', 'done': '40 %', 'at': '', 'best': '', 'runner': 'thread'}
    """
    unreachable = not record.status.terminal and record.message.startswith(UNREACHABLE)
    return {
        "name": clean(record.name),
        "state": "UNREACHABLE" if unreachable else str(record.status),
        "done": f"{record.progress:.0f} %",
        "at": headline(record),
        "best": f"{clean(record.best.metric)} {number(record.best.value)}" if record.best else "",
        "runner": clean(record.runner or ""),
    }


def eta_s(record: Record) -> float | None:
    """Return the seconds that are left at the present speed, if both are known."""
    if record.status is not Status.RUNNING or not record.total_steps or not record.throughput:
        return None
    if record.throughput.steps_per_s <= 0:
        return None
    return max(0.0, (record.total_steps - record.step) / record.throughput.steps_per_s)


def numbers(metrics: Mapping[str, float]) -> list[tuple[str, str]]:
    """Return metrics with their values as people read them; of very many, the first, and how many more there are.

    >>> numbers({"loss": 0.25, "accuracy": 0.5, "val_loss": 0.75})
    [('loss', '0.25'), ('val_loss', '0.75'), ('accuracy', '0.5')]
    """
    pairs = [(clean(name), number(value)) for name, value in paired(metrics)]
    more = [("more metrics", str(len(pairs) - MOST_NUMBERS))] if len(pairs) > MOST_NUMBERS else []
    return [*pairs[:MOST_NUMBERS], *more]


def number(value: float) -> str:
    """Return a number as people read it: four significant digits.

    >>> number(0.98765432), number(12345.678), number(3.0), number(1.2e-7)
    ('0.9877', '12346', '3', '1.2e-07')
    """
    return f"{value:.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"


def aligned(value: float) -> str:
    """Return a number for a column, where the decimal points of neighbours should stand below each other.

    >>> aligned(0.5), aligned(12.5), aligned(0.00002), aligned(123456.0)
    ('0.5000', '12.500', '2.0e-05', '123456')
    """
    size = abs(value)
    if value == 0 or 1e-3 <= size < 10:
        return f"{value:.4f}"
    if size < 1e-3:
        return f"{value:.1e}"
    return f"{value:#.5g}" if 10 <= size < 1e4 else number(value)


def epochs_shown(epochs: int | None) -> int:
    """Return which epochs a list of them shows: every first, second, third …, so that it stays below 50 lines.

    >>> epochs_shown(20), epochs_shown(50), epochs_shown(1000), epochs_shown(None)
    (1, 1, 20, 1)
    """
    return max(1, -(-(epochs or 0) // 50))


def table(rows: Sequence[Sequence[str]], header: Sequence[str]) -> str:
    """Draw rows as aligned plain text.

    >>> print(table([["fit", "RUNNING"]], ["name", "state"]))
    name  state
    fit   RUNNING
    """
    everything = [[clean(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in everything) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in everything
    )
