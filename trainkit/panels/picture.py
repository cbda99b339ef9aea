"""What stays in the notebook when a job has ended: a small picture with text, readable without a kernel.

HTML and plain text, no widget: GitHub, nbconvert and a reader without the kernel see the same.  Ids, times and
absolute paths are kept out, so that the output of two equal runs is equal.
"""

from __future__ import annotations

import base64
import html
import io
import itertools
from typing import Any

import numpy as np

from trainkit.api import view
from trainkit.api.charts import TEST, TRAINING, VALIDATION, Chart, charts
from trainkit.api.job import Job
from trainkit.files.record import Record, Status
from trainkit.panels.happened import Happened
from trainkit.panels.plain import gone_text, live_text, without_folder
from trainkit.panels.series import History, thinned

#: Tones that read well on white and on black, since a stored picture cannot follow the theme.
_COLOURS = {TRAINING: "#2a8fcf", VALIDATION: "#e07b1f", TEST: "#1f9d73"}
#: For the lines of the same rows on one chart, such as ``val/loss`` and ``eval_loss``, one after the other.
_DASHES = {
    TRAINING: ["-", (0, (4, 2)), (0, (1, 1.5))],
    VALIDATION: [(0, (4, 2)), (0, (1, 1.5)), "-"],
    TEST: [(0, (4, 2)), (0, (1, 1.5)), "-"],
}
_INK, _GRID = "#84898f", "#84898f"
_TONES = {Status.COMPLETED: "#1f9d73", Status.FAILED: "#d9534f", Status.INTERRUPTED: "#a8558a"}
_MOST_CHARTS = 6
#: Drawn finer than it is shown (96 pixels an inch), for screens with small pixels.
_WIDTH_IN, _DPI, _SHOWN_DPI = 9.6, 132, 96
_POINTS = 500
#: Of many live changes the last are told in words.
_MOST_CHANGES = 6
Changes = list[dict[str, Any]]


def bundle(job: Job) -> dict[str, str]:
    """Return the stored output of a job that has ended, by MIME type."""
    record = job.record
    history, happened = History(job.paths.metrics), Happened(job.paths.events)
    history.read()
    happened.read()
    return drawn(record, history, happened.changes(history.begins))


def drawn(record: Record, history: History, changes: Changes, *, deleted: bool = False) -> dict[str, str]:
    """Return the stored output of a job from what was read of it; no file is opened, so it may be gone meanwhile.

    Args:
        record: of the job.
        history: its metrics.
        changes: what was changed while it ran.
        deleted: whether this is all that is left of it.
    """
    html = as_html(record, charts_png(history, record, changes), changes, deleted=deleted)
    return {"text/html": html, "text/plain": gone_text(record) if deleted else live_text(record)}


def as_html(record: Record, png: bytes | None, changes: Changes, *, deleted: bool = False) -> str:
    """Return the job as HTML that stays readable when a sanitiser takes all styles away.

    Args:
        record: of the job.
        png: its charts, or None.
        changes: what was changed while it ran.
        deleted: whether this is all that is left of it.
    """
    seen = view.view(record)
    tone = "#84898f" if deleted else _TONES.get(record.status, "#84898f")
    status = "Deleted" if deleted else str(record.status).capitalize()
    say = html.escape
    parts = [
        # The classes keep MathJax, of any version, from reading a pair of $ as a formula.
        '<div class="tex2jax_ignore mathjax_ignore" style="border:1px solid rgba(127,134,143,.35);'
        'border-radius:6px;padding:10px 14px;max-width:1072px;font-size:13px;line-height:1.45">',
        f'<div><b style="font-size:15px">{say(seen.name)}</b> &nbsp; <b style="color:{tone}">{status}</b>'
        f' &nbsp; <span style="opacity:.75">{say(seen.headline)}</span></div>',
    ]
    if seen.message and seen.fault is None and not deleted:
        parts.append(f'<div style="opacity:.85">{say(seen.message)}</div>')
    if seen.fault is not None:
        place = f"<br>{say(seen.fault.place)}" if seen.fault.place else ""
        code = f"<pre>{say(seen.fault.code)}</pre>" if seen.fault.code else ""
        trace = f"<details><summary>Traceback</summary><pre>{say(seen.fault.traceback[-4000:])}</pre></details>"
        parts.append(
            f'<div style="border-left:3px solid {tone};padding:2px 10px;margin:8px 0">'
            f"<b>{say(seen.fault.title)}</b>{place}{code}{trace if seen.fault.traceback else ''}</div>"
        )
    if png is not None:
        names = ", ".join(chart.title for chart in charts(record.metrics)[:_MOST_CHARTS])
        data = base64.b64encode(png).decode()
        parts.append(
            f'<img alt="Charts of {say(names, quote=True)}" width="{round(_WIDTH_IN * _SHOWN_DPI)}" '
            'style="max-width:100%;height:auto;margin:6px 0 4px" '
            f'src="data:image/png;base64,{data}">'
        )
    if changes:
        words = " · ".join(f"step {each['step']}: {each['text']}" for each in changes[-_MOST_CHANGES:])
        earlier = len(changes) - _MOST_CHANGES
        more = f" · and {earlier} earlier" if earlier > 0 else ""
        parts.append(
            f'<div style="font-size:12px;margin-bottom:2px"><span style="opacity:.7">changed at</span> '
            f"{say(words + more)}</div>"
        )
    params = [(name, without_folder(value)) for name, value in seen.params]
    parts += [_line(pairs) for pairs in ([*seen.numbers, *seen.facts], params) if pairs]
    return "\n".join([*parts, "</div>"])


def _line(pairs: list[tuple[str, str]]) -> str:
    """Return labels with their values as a line of HTML; wide enough for all, it stays one."""
    words = " ".join(
        '<span style="display:inline-block;margin-right:14px;overflow-wrap:anywhere">'
        f'<span style="opacity:.7">{html.escape(label)}</span> <b>{html.escape(value)}</b></span>'
        for label, value in pairs
    )
    return f'<div style="font-size:12px;line-height:1.7">{words}</div>'


def charts_png(history: History, record: Record, changes: Changes) -> bytes | None:
    """Return a small picture of the job's charts; None if nothing was logged, or without matplotlib."""
    shown = charts(history.metrics)[:_MOST_CHARTS]
    if not shown:
        return None
    try:
        # Not pyplot: its state is global, and this may run beside a cell that draws.
        from matplotlib.figure import Figure
    except ImportError:
        return None  # the text says it all, only less well
    columns = min(3, max(2, len(shown)))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(_WIDTH_IN, 2.0 * rows), layout="constrained", dpi=_DPI)
    figure.patch.set_alpha(0.0)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis, chart in zip(axes, shown, strict=False):
        _draw(axis, chart, history, record)
        for change in changes:
            axis.axvline(change["step"], color=_INK, linestyle=(0, (2, 2)), linewidth=0.7)
    for axis in axes[len(shown) :]:
        axis.set_axis_off()
    return _small_png(figure)


def _draw(axis: Any, chart: Chart, history: History, record: Record) -> None:
    dashes = {split: itertools.cycle(patterns) for split, patterns in _DASHES.items()}
    for name, label, split in chart.lines:
        points = history.metrics[name]
        x, y = thinned(points.x, points.y, _POINTS)
        axis.plot(
            x,
            y,
            color=_COLOURS[split],
            linestyle=next(dashes[split]),
            marker="o" if len(x) == 1 or (split != TRAINING and len(x) <= 25) else None,
            markersize=2.6,
            linewidth=1.2,
            label=view.title(label),
        )
        if record.best is not None and record.best.metric == name and np.isfinite(record.best.value):
            axis.plot(record.best.step, record.best.value, "*", color=_INK, markersize=8, zorder=5)
    axis.set_title(view.title(chart.title), loc="left", fontsize=9, color=_INK, parse_math=False)
    axis.tick_params(labelsize=7, colors=_INK, length=0)
    axis.grid(color=_GRID, alpha=0.25, linewidth=0.6)
    axis.patch.set_alpha(0.0)
    for side in ("top", "right", "left", "bottom"):
        axis.spines[side].set_visible(False)
    if len(chart.lines) > 1 or chart.lines[0].label:
        legend = axis.legend(frameon=False, fontsize=7, labelcolor=_INK, borderaxespad=0.1)
        for text in legend.get_texts():
            text.set_parse_math(False)


def _small_png(figure: Any) -> bytes:
    """Return the figure as a palette PNG with transparency: a third of the size."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba()))
    file = io.BytesIO()
    image.quantize(48, method=Image.Quantize.FASTOCTREE).save(file, "PNG", optimize=True)
    return file.getvalue()
