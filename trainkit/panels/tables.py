"""Tables below a root: which there are, and what is in one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainkit.api import view
from trainkit.tabular.filetypes import kind_of_file
from trainkit.tabular.plan import proposed_target

if TYPE_CHECKING:
    import pandas as pd

#: A search ends here: a root may be a home folder.
MOST_TABLES, MOST_FOLDERS, DEPTH = 200, 2000, 4
PREVIEW_ROWS = 6
_NOT_DATA = frozenset(
    {"artifacts", "models", "node_modules", "__pycache__", "site-packages", "venv", "dist", "build"}
)


def tables(root: Path) -> list[dict[str, Any]]:
    """Return the tables below a folder: path relative to it, and size; in the order of their names."""
    found: list[dict[str, Any]] = []
    folders = 0
    for folder, names, files in os.walk(root):
        depth = len(Path(folder).relative_to(root).parts)
        names[:] = sorted(
            name for name in names if not name.startswith(".") and name not in _NOT_DATA and depth < DEPTH
        )
        folders += 1
        for name in sorted(files):
            if kind_of_file(name) is not None and not name.startswith("."):
                path = Path(folder) / name
                try:
                    size_bytes = path.stat().st_size
                except OSError:
                    continue  # a link to nowhere
                found.append({"path": path.relative_to(root).as_posix(), "size": view.size(size_bytes)})
        if len(found) >= MOST_TABLES or folders >= MOST_FOLDERS:
            break
    return sorted(found[:MOST_TABLES], key=lambda table: (table["path"].count("/"), table["path"]))


def preview(frame: pd.DataFrame) -> dict[str, Any]:
    """Return the first rows of a table as text, what its columns hold, and the target it suggests.

    >>> import pandas as pd
    >>> found = preview(pd.DataFrame({"code": ["007", None], "mass": [1.5, 2.0]}))
    >>> found["rows"], [column["type"] for column in found["columns"]]
    ([['007', '1.5'], ['', '2']], ['text', 'number'])
    """
    head = frame.head(PREVIEW_ROWS)
    shown = [
        ["" if missing else _shown(value) for value, missing in zip(head[name], head[name].isna(), strict=True)]
        for name in head.columns
    ]
    return {
        "columns": [_column(frame, name) for name in frame.columns],
        "rows": [list(row) for row in zip(*shown, strict=True)],
        "row_count": len(frame),
        "target": proposed_target(frame),
    }


def _column(frame: pd.DataFrame, name: str) -> dict[str, Any]:
    values = frame[name]
    kind = values.dtype.kind
    distinct = int(values.nunique())
    words = {"i": "whole number", "u": "whole number", "f": "number", "b": "yes/no", "M": "date"}.get(kind, "text")
    return {
        "name": str(name),
        "type": words,
        "distinct": distinct,
        "missing": int(values.isna().sum()),
        "detail": f"{distinct} values" if words in ("text", "yes/no") else _span(values),
    }


def _span(values: pd.Series) -> str:
    present = values.dropna()
    if not len(present):
        return "all missing"
    low, high = present.min(), present.max()
    if values.dtype.kind == "M":
        return f"{low:%Y-%m-%d} – {high:%Y-%m-%d}"
    return f"{view.number(float(low))} – {view.number(float(high))}"


def _shown(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 40 else text[:39] + "…"
