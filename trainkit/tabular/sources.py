"""What a user may pass as a table, and how it becomes a DataFrame."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainkit.errors import OptionError, TableError

if TYPE_CHECKING:
    import pandas as pd

    from trainkit.tabular.options import TrainOptions

#: An attribute of a DataFrame that is ready to be trained on: the file it was read from, or an empty text.
SOURCE = "trainkit_source"
ACCEPTED = "a DataFrame, the path of a table, an open file, a dict of columns, a list of dicts, or nothing"
#: Up to this size the values of a DataFrame are copied, which takes 0.2 s; above it memory matters more.
COPIED_BYTES = 256 * 2**20
#: What turns a lazy table of another library into one that is accepted.
_COLLECTORS = ("collect", "compute", "to_table", "toPandas", "execute")


def open_table(data: Any, options: TrainOptions) -> tuple[pd.DataFrame, Path | None]:
    """Return the table and the file it came from, if any.

    Args:
        data: anything that :func:`trainkit.train` takes.
        options: of which ``missing`` and ``delimiter`` say how to read it.

    Raises:
        TableError: it cannot be read, or is not a table.
        OptionError: ``delimiter`` with a table that has none.
    """
    if isinstance(data, (str, os.PathLike)):
        from trainkit.tabular.read import read_table

        return read_table(data, missing=options.missing, delimiter=options.delimiter), Path(data)
    import pandas as pd

    if isinstance(data, pd.DataFrame) and SOURCE in data.attrs:
        return data, Path(data.attrs[SOURCE]) if data.attrs[SOURCE] else None
    if _is_stream(data):
        from trainkit.tabular.read import read_table

        return read_table(data, missing=options.missing, delimiter=options.delimiter), None
    if options.delimiter is not None:
        what = "the synthetic table" if data is None else f"a {type(data).__name__}"
        raise OptionError(
            f"delimiter={options.delimiter!r} is for CSV and TSV files, and {what} has columns already: "
            "leave delimiter out"
        )
    if data is None:
        from trainkit.tabular.synthetic import synthetic_table

        return synthetic_table(seed=options.seed), None
    from trainkit.tabular.frames import with_missing

    return with_missing(as_frame(data), options.missing), None


def as_frame(data: Any) -> pd.DataFrame:
    """Return a table in memory as a DataFrame that changes of the original do not reach.

    Raises:
        TableError: it is not a table; the message says how to make one.

    >>> as_frame([{"a": 1, "y": 2.5}, {"a": 3}]).shape
    (2, 2)
    """
    import pandas as pd

    if isinstance(data, pd.DataFrame):
        return _own(data)
    if isinstance(data, (Mapping, list)):
        return _from_python(data)
    try:
        if type(data).__name__ == "Series" or isinstance(data, type):
            pass
        elif hasattr(data, "__arrow_c_stream__"):
            return _from_arrow(data)
        elif callable(getattr(data, "to_pandas", None)):
            made = data.to_pandas()
            if isinstance(made, pd.DataFrame):
                return made
        elif hasattr(data, "__dataframe__"):
            return pd.api.interchange.from_dataframe(data)
    except TableError:
        raise
    except Exception as error:  # another library's code
        raise TableError(
            f"a {type(data).__module__}.{type(data).__name__} could not be converted to a DataFrame: {error}"
        ) from error
    raise TableError(f"expected {ACCEPTED}; got {described(data)}: {_remedy(data)}")


def _own(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a copy: of the values, or of a large table with copy-on-write of what refers to them.

    Copy-on-write keeps off all changes except those of an array that a DataFrame was made of with ``copy=False``.
    """
    import pandas as pd

    copies_on_write = int(pd.__version__.split(".")[0]) >= 3 or pd.options.mode.copy_on_write is True
    is_large = int(frame.memory_usage(index=False).sum()) > COPIED_BYTES
    return frame.copy(deep=not (copies_on_write and is_large))


def _is_stream(data: Any) -> bool:
    return callable(getattr(data, "read", None)) and not hasattr(data, "__arrow_c_stream__")


def _from_python(data: Mapping[Any, Any] | list[Any]) -> pd.DataFrame:
    import pandas as pd

    if isinstance(data, list) and not (data and all(isinstance(row, Mapping) for row in data)):
        raise TableError(
            f"expected {ACCEPTED}; got {described(data)}: make a table with pandas.DataFrame(rows, columns=[...])"
        )
    try:
        return pd.DataFrame(data, copy=True) if isinstance(data, list) else pd.DataFrame(dict(data), copy=True)
    except Exception as error:
        if isinstance(data, Mapping) and not any(map(pd.api.types.is_list_like, data.values())):
            raise TableError(
                "expected columns of one length, such as {'a': [1, 2], 'y': [3, 4]}; got single values: "
                "[row] makes a table of one row, and [row, row, ...] of several"
            ) from error
        hint = "; pass its .frame" if isinstance(getattr(data, "frame", None), pd.DataFrame) else ""
        raise TableError(
            f"expected columns of one length, such as {{'a': [1, 2], 'y': [3, 4]}}; {error}{hint}"
        ) from error


def _from_arrow(data: Any) -> pd.DataFrame:
    import pyarrow as pa

    from trainkit.tabular.frames import to_frame

    table = pa.table(data)
    names = table.column_names
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise TableError(f"column {twice[0]!r} is a duplicate; rename one", column=twice[0])
    for position, field in enumerate(table.schema):
        if pa.types.is_string_view(field.type):
            table = table.set_column(position, field.name, table.column(position).cast(pa.string()))
    return to_frame(table)


def described(data: Any) -> str:
    """Return what was received instead of a table, for a message.

    >>> described([]), described(["a", 1]), described({"a": [1], "b": [1, 2]}), described(5)
    ('an empty list', 'a list of int, str', 'a dict whose values are not all of one length', 'int 5')
    """
    kind = type(data)
    if isinstance(data, list):
        kinds = sorted({type(row).__name__ for row in data})
        return f"a list of {', '.join(kinds[:3])}" if kinds else "an empty list"
    if isinstance(data, Mapping):
        return "a dict whose values are not all of one length"
    is_short = isinstance(data, (bytes, bool, int, float, complex))
    return f"{kind.__name__} {data!r:.60}" if is_short else kind.__name__


def _remedy(data: Any) -> str:
    """Return how to make a table from something that is not one."""
    if isinstance(data, type):
        return "pass what it returns"
    for method in _COLLECTORS:
        if callable(getattr(data, method, None)):
            return f"pass what its {method}() returns"
    if isinstance(data, (bytes, bytearray, memoryview)):
        return "a path is text, and the content of a file goes into io.BytesIO(...)"
    if type(data).__name__ == "Series":
        return "a table of one column has nothing to learn from; pass the DataFrame it is part of"
    if type(data).__module__.startswith("torch") and hasattr(data, "__getitem__") and hasattr(data, "numpy"):
        return "make a table with pandas.DataFrame(tensor.numpy(), columns=[...])"
    if hasattr(data, "shape"):
        return "make a table with pandas.DataFrame(...)"
    if type(data).__module__.startswith("torch") or (hasattr(data, "__getitem__") and not isinstance(data, tuple)):
        return "to train on a dataset, write a training function and run it with tk.submit(fit, ...)"
    if callable(data):
        return "pass what it returns, or run it with tk.submit(...)"
    if hasattr(data, "__iter__"):
        return "make a table with pandas.DataFrame(list(rows), columns=[...])"
    return "make a table with pandas.DataFrame(...)"
