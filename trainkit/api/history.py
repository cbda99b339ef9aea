"""A job's metrics as a DataFrame and as a chart."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from trainkit.api.view import groups
from trainkit.errors import missing_extra
from trainkit.files.metrics import as_recorded
from trainkit.files.record import Record
from trainkit.files.streams import tail

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

#: Okabe and Ito's colours, which colour-blind people can tell apart.  https://jfly.uni-koeln.de/color/
_TRAINING, _VALIDATION = "#0072B2", "#D55E00"


def metrics_frame(path: Path) -> pd.DataFrame:
    """Return a metrics stream as a table: index ``step``; columns ``epoch`` and the metrics, as logged.

    A step that an older attempt reached, but a newer attempt was resumed before, is left out.  Several
    lines of one step make one row.
    """
    import pandas as pd

    lines, _ = tail(path)
    frame = pd.DataFrame.from_records(lines)
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


def metrics_figure(frame: pd.DataFrame, record: Record) -> Figure:
    """Return a figure with a chart for each metric, the validation of a metric beside its training.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        # Not pyplot: it keeps figures in global state, which threads must not touch.
        from matplotlib.figure import Figure
    except ImportError:
        raise missing_extra("job.plot() needs matplotlib", "notebook") from None

    shown = groups(name for name in frame.columns if name != "epoch") or {"nothing logged yet": []}
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)

    class Chart(Figure):
        """A figure that a notebook shows as a picture, also where nobody has imported pyplot."""

        def _repr_png_(self) -> bytes:
            file = io.BytesIO()
            self.savefig(file, format="png")
            return file.getvalue()

    figure = Chart(figsize=(4.2 * columns, 2.9 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for title, axis in zip(shown, axes, strict=False):
        for name in shown[title]:
            values = frame[name].dropna()
            validation = name.startswith("val_")
            axis.plot(
                values.index,
                values,
                color=_VALIDATION if validation else _TRAINING,
                marker="o" if validation or len(values) == 1 else None,
                markersize=3,
                linewidth=1.3,
                label="validation" if validation else "training",
            )
            if record.best is not None and record.best.metric == name:
                axis.plot(record.best.step, record.best.value, "*", color="black", markersize=9, label="best")
        axis.set_title(title, loc="left", fontsize=10)
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        if shown[title]:
            axis.legend(frameon=False, fontsize=8)
    for axis in list(figure.axes)[len(shown) :]:
        axis.set_axis_off()
    figure.suptitle(record.name, x=0.01, ha="left", fontsize=11)
    return figure
