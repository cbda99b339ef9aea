"""A job's metrics as a DataFrame and as a chart."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainkit.api.charts import (
    SMALLEST_FAMILY,
    TEST,
    TRAINING,
    VALIDATION,
    Chart,
    charts,
    quantity_of,
    without_numbers,
)
from trainkit.api.view import brief, clean, title
from trainkit.errors import OptionError, missing_extra
from trainkit.files.metrics import as_recorded
from trainkit.files.record import Record
from trainkit.files.streams import tail

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

#: Okabe and Ito's colours, which colour-blind people can tell apart.  https://jfly.uni-koeln.de/color/
_COLOURS = {TRAINING: "#0072B2", VALIDATION: "#D55E00", TEST: "#009E73"}
#: A figure of more charts takes seconds to draw, and nobody scrolls through it.
MOST_CHARTS = 30
#: A line of more points is drawn without a mark at each.
_MOST_MARKERS = 100
#: How many names an error lists.
_MOST_NAMED = 20


def metrics_frame(path: Path) -> pd.DataFrame:
    """Return a metrics stream as a table: index ``step``; columns ``epoch`` and the metrics, as logged.

    A step that an older attempt reached, but a newer attempt was resumed before, is left out.  Several
    lines of one step make one row.
    """
    import pandas as pd

    lines, _ = tail(path)
    try:
        frame = pd.DataFrame.from_records(lines)
    except OverflowError:  # before pandas 3, of an integer that no recorder writes
        frame = pd.DataFrame()
    if not _is_as_recorded(frame):
        lines = [line for each in lines if (line := as_recorded(each)) is not None]
        frame = pd.DataFrame.from_records(lines)
    if not lines:
        return pd.DataFrame({"epoch": pd.Series(dtype="int64")}, index=pd.Index([], name="step", dtype="int64"))
    first_steps = frame.groupby("attempt")["step"].min()
    # For each attempt, where the attempts after it begin.
    cut_at = first_steps[::-1].cummin().shift(1)[::-1]
    keep = ~(frame["step"] >= frame["attempt"].map(cut_at))
    frame = frame[keep].drop(columns=["attempt", "time"], errors="ignore")
    return frame.groupby("step", sort=True).last()


def _is_as_recorded(frame: pd.DataFrame) -> bool:
    """Whether all lines hold what a recorder writes: a table of numbers, each line with its place."""
    kinds = {name: dtype.kind for name, dtype in frame.dtypes.items()}
    return kinds.get("attempt") == kinds.get("step") == "i" and set(kinds.values()) <= {"i", "f"}


def metrics_figure(frame: pd.DataFrame, record: Record, patterns: Sequence[str] = ()) -> Figure:
    """Return a figure with a chart for each metric, the validation of a metric next to its training.

    Args:
        frame: the metrics, as :func:`metrics_frame` returns them.
        record: of the job.
        patterns: names of metrics or charts, where ``*`` stands for anything; without them all metrics.  Of very
            many, those whose names differ only in a part share a chart, and charts beyond a limit are left out.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OptionError: nothing that was logged has such a name.
    """
    try:
        # Not pyplot: it keeps figures in global state, which threads must not touch.
        from matplotlib.figure import Figure
    except ImportError:
        raise missing_extra("job.plot() needs matplotlib", "notebook") from None

    logged = [str(name) for name in frame.columns if name != "epoch"]
    shown = charts(_chosen(logged, patterns) if patterns else logged)
    if len(shown) > MOST_CHARTS:
        shown = _families(shown)
    left_out = shown[MOST_CHARTS:]
    shown = shown[:MOST_CHARTS] or [Chart("nothing logged yet", [])]
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)

    class Picture(Figure):
        """A figure that a notebook shows as a picture, also where nobody has imported pyplot."""

        def _repr_png_(self) -> bytes:
            file = io.BytesIO()
            self.savefig(file, format="png")
            return file.getvalue()

    figure = Picture(figsize=(4.2 * columns, 2.9 * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for chart, axis in zip(shown, axes, strict=False):
        _draw(axis, chart, frame, record)
    for axis in axes[len(shown) :]:
        axis.set_axis_off()
    note = f'   ·   {len(left_out)} more charts: job.plot("{left_out[0].title}", …) draws them' if left_out else ""
    figure.suptitle(title(record.name) + note, x=0.01, ha="left", fontsize=11, parse_math=False)
    return figure


def _chosen(logged: list[str], patterns: Sequence[str]) -> list[str]:
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise OptionError(f"job.plot() takes names of metrics, not {type(pattern).__name__}: {brief(pattern)}")
        if not any(_matches(name, pattern) for name in logged):
            names = ", ".join(map(repr, logged[:_MOST_NAMED])) or "nothing yet"
            more = f" and {len(logged) - _MOST_NAMED} more" if len(logged) > _MOST_NAMED else ""
            raise OptionError(f"no metric is called {pattern!r}; the job logged {names}{more}")
    return [name for name in logged if any(_matches(name, pattern) for pattern in patterns)]


def _matches(name: str, pattern: str) -> bool:
    # A name may hold brackets, which fnmatch takes for a choice of characters.
    regex = ".*".join(map(re.escape, pattern.split("*")))
    return any(re.fullmatch(regex, each, re.DOTALL) for each in (name, quantity_of(name)[0]))


def _families(shown: list[Chart]) -> list[Chart]:
    """Put metrics of the same kind on one chart, one per layer or class say, until the charts are few enough."""
    for family_of in (without_numbers, _without_first_part, _without_last_part):
        families: dict[str, list[Chart]] = {}
        for chart in shown:
            single = len(chart.lines) == 1
            families.setdefault(family_of(chart.title) if single else chart.title, []).append(chart)
        shown = []
        for family, members in families.items():
            if len(members) < SMALLEST_FAMILY:
                shown += members
            else:
                shown.append(Chart(family, [line for chart in members for line in chart.lines]))
        if len(shown) <= MOST_CHARTS:
            break
    return shown


def _without_first_part(title: str) -> str:
    return re.sub(r"^[^/]+(?=/)", "*", title)


def _without_last_part(title: str) -> str:
    head, slash, _ = title.rpartition("/")
    return f"{head}/*" if slash else title


def _draw(axis: Any, chart: Chart, frame: pd.DataFrame, record: Record) -> None:
    family = len(chart.lines) >= SMALLEST_FAMILY
    styles = {split: itertools.cycle(["-", "--", ":", "-."]) for split in _COLOURS}  # where a split has several
    for index, (name, label, split) in enumerate(chart.lines):
        values = frame[name].dropna()
        axis.plot(
            values.index,
            values,
            color=_shade(index / (len(chart.lines) - 1)) if family else _COLOURS[split],
            marker="o" if len(values) == 1 or (split != TRAINING and len(values) <= _MOST_MARKERS) else None,
            markersize=3,
            linestyle="-" if family else next(styles[split]),
            linewidth=0.8 if family else 1.3,
            # Of a family the first and the last are named: the shades between them follow their order.
            label=(title(name) if index in (0, len(chart.lines) - 1) else None) if family else clean(label),
        )
        if record.best is not None and record.best.metric == name:
            axis.plot(record.best.step, record.best.value, "*", color="black", markersize=9, label="best")
    axis.set_title(title(chart.title), loc="left", fontsize=10, parse_math=False)
    axis.set_xlabel("step", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    if any(not line.get_label().startswith("_") for line in axis.get_lines()):
        for text in axis.legend(frameon=False, fontsize=8).get_texts():
            text.set_parse_math(False)


def _shade(share: float) -> tuple[float, float, float]:
    """Return a colour between two that can be distinguished in any vision and in grey, for a share of 0 to 1."""
    low, high = (0.13, 0.15, 0.45), (0.99, 0.72, 0.15)
    red, green, blue = (a + share * (b - a) for a, b in zip(low, high, strict=True))
    return red, green, blue
