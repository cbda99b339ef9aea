"""The strict table reader: every value exactly as written, or an error that names the place.

A file is one of CSV, TSV, JSON Lines or Parquet, by its name; each may be gzipped.  What a text
means is defined in :mod:`trainkit.tabular.cells`; what a file may look like, in ``delimited`` and
``jsonl``.  The heavy lifting is Apache Arrow's; the checks around it are ours.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from trainkit.errors import TableError
from trainkit.tabular.delimited import BOM, NEWLINE, line_of_record, parse_delimited
from trainkit.tabular.grammar import in_parallel
from trainkit.tabular.jsonl import parse_json_lines
from trainkit.tabular.parquet import parse_parquet

if TYPE_CHECKING:
    import pandas as pd

    from trainkit.tabular.options import TrainOptions

#: Where a DataFrame that was read from a file says so, for messages that name a line.
SOURCE = "trainkit_source"

FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
OTHERWISE = ". pandas reads many others: train on the DataFrame"
LIMIT_BYTES = 4 * 2**30
SMALL_BYTES = 256 * 2**20
PART_BYTES = 2**16
BOMB_RATIO = 100  # text tables compress 3 to 20 times; gzip's own maximum is about 1030


def read_table(
    path: str | os.PathLike[str],
    *,
    missing: Iterable[str] = (),
    encoding: str = "utf-8",
    delimiter: str | None = None,
    quoting: bool = True,
    max_bytes: int | None = None,
) -> pd.DataFrame:
    """Read a table exactly, or say where and why it cannot be.

    Args:
        path: a ``.csv``, ``.tsv``, ``.jsonl``, ``.ndjson`` or ``.parquet`` file, also with ``.gz``.
        missing: words read as missing, such as ``("NA", "?")``, quoted or not.  Without it only an empty
            field is missing.  A quoted empty field is an empty text in a text column and missing elsewhere.
        encoding: of a text file; a byte-order mark is understood.
        delimiter: one character between fields; else ``,`` in CSV and a tab in TSV.
        quoting: False takes ``"`` as any other character.
        max_bytes: the largest uncompressed size accepted; else 4 GiB, and for compressed files (gzip, Parquet)
            no more than 256 MiB or 100 times the compressed size.

    Returns:
        A DataFrame, (rows, columns).  Whole numbers are int64, or Int64 where some are missing (so that none
        loses digits); numbers float64; booleans bool, or boolean with missing ones; ISO dates datetime64, with
        a zone in UTC; all else is text, as written: 007, NA, 1e400 and 12345678901234567890 stay text.

    Raises:
        TableError: with ``path``, ``line`` (physical, from 1) and ``column``.

    >>> import tempfile, pathlib
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "codes.csv"
    >>> _ = file.write_text("code,label,n\\n007,NA,1\\n008,b,\\n")
    >>> read_table(file).values.tolist()
    [['007', 'NA', 1], ['008', 'b', <NA>]]
    """
    file = Path(os.path.expanduser(path))
    words = (missing,) if isinstance(missing, str) else tuple(missing)
    suffixes = [suffix.lower() for suffix in file.suffixes]
    gzipped = suffixes[-1:] == [".gz"]
    name = (suffixes[:-1] if gzipped else suffixes)[-1:]
    kind = FORMATS.get(name[0]) if name else None
    raw = _read_bytes(file, gzipped, max_bytes)
    if kind is None:
        hint = "; a JSON array? Write one object per line, as .jsonl" if name == [".json"] else OTHERWISE
        raise TableError(
            f"{file}: unknown kind of table {''.join(name) or 'without a suffix'!s}; "
            f"expected {', '.join(FORMATS)}, also with .gz{hint}",
            path=file,
        )
    table: pa.Table
    if kind == "parquet":
        table = parse_parquet(raw, file, max_bytes or _unpacked_limit(len(raw)))
        del raw
        return to_frame(table)
    if len(raw) == 0:
        raise TableError(
            f"{file} is empty; expected {'objects' if kind == 'jsonl' else 'a header'} and rows", path=file
        )
    text = _as_utf8(raw, file, encoding)
    del raw  # the text, its columns and the DataFrame are never there all three
    if kind == "jsonl":
        table = parse_json_lines(text, file, words)
        del text
        return to_frame(table)
    separator = delimiter if delimiter is not None else "\t" if kind == "tsv" else ","
    if len(separator.encode()) != 1 or separator in '"\r\n':
        raise TableError(f"delimiter {separator!r} is not allowed: one ASCII character, not a quote or newline")
    table = parse_delimited(text, file, separator, words, quoting)
    del text
    return to_frame(table)


def to_frame(table: pa.Table) -> pd.DataFrame:
    """Turn Arrow columns into pandas columns without losing digits, missing values or types."""
    import pandas as pd

    nullable = {pa.bool_(): pd.BooleanDtype()}
    for bits in (8, 16, 32, 64):
        nullable[getattr(pa, f"int{bits}")()] = getattr(pd, f"Int{bits}Dtype")()
        nullable[getattr(pa, f"uint{bits}")()] = getattr(pd, f"UInt{bits}Dtype")()

    def convert(column: pa.ChunkedArray) -> pd.Series:
        kind = column.type
        if pa.types.is_null(kind):
            column = column.cast(pa.float64())
        elif pa.types.is_date(kind):
            column = column.cast(pa.timestamp("s"))
        elif pa.types.is_time(kind):
            column = column.cast(pa.string())
        # A mapper, even one that does not know the type, makes Python's texts of Arrow's: 90 ms for a million.
        mapper = nullable.get if column.null_count and column.type in nullable else None
        series: pd.Series = column.to_pandas(types_mapper=mapper)
        return series

    columns = dict(zip(table.column_names, in_parallel(convert, table.columns), strict=True))
    # Not copied into one block per type: that would take as long, and as much memory, as all before it.
    return pd.DataFrame(columns, index=pd.RangeIndex(table.num_rows), copy=False)


def open_table(data: pd.DataFrame | str | Path | None, options: TrainOptions) -> tuple[pd.DataFrame, Path | None]:
    """Return the table and the file it came from, if any.

    Raises:
        TableError: it cannot be read, or is no table.
    """
    if data is None:
        from trainkit.tabular.synthetic import synthetic_table

        return synthetic_table(seed=options.seed), None
    if isinstance(data, (str, Path)):
        return read_table(data, missing=options.missing, delimiter=options.delimiter), Path(data)
    import pandas as pd

    if isinstance(data, pd.DataFrame):
        source = data.attrs.get(SOURCE)
        return data, Path(source) if source else None
    made = "table.to_pandas()" if hasattr(data, "to_pandas") else "pandas.DataFrame(...)"
    raise TableError(
        f"expected a DataFrame, the path of a table, or nothing; got {type(data).__name__}: {made} makes one of it"
    )


def line_of_row(path: str | os.PathLike[str], row: int) -> int | None:
    """Return the physical line where data row ``row`` (from 0) of a table that was read begins.

    For messages about a value: it scans the file from its start.  None for Parquet, which has no lines.

    >>> import tempfile, pathlib
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "notes.csv"
    >>> _ = file.write_text('note\\n"two\\nlines"\\nx\\n')
    >>> line_of_row(file, 1)
    4
    """
    file = Path(path)
    suffixes = [suffix.lower() for suffix in file.suffixes]
    kind = next((FORMATS[suffix] for suffix in reversed(suffixes) if suffix in FORMATS), None)
    if kind == "jsonl":
        return row + 1
    if kind not in ("csv", "tsv"):
        return None
    data = _as_utf8(_read_bytes(file, suffixes[-1] == ".gz", None), file, "utf-8")
    return line_of_record(data, file, "\t" if kind == "tsv" else ",", row + 1)


def _read_bytes(file: Path, gzipped: bool, max_bytes: int | None) -> memoryview:
    """Read a regular file whole; a folder, a pipe or a device is refused before it can block."""
    try:
        mode = os.stat(file).st_mode
    except FileNotFoundError:
        if any(part in ("http:", "https:") for part in file.parts):
            raise TableError(
                f"{file.name!r}: addresses on the web are not read; download the file, or give the DataFrame that "
                "pandas makes of the address",
                path=file,
            ) from None
        folder = file.parent
        names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
        near = difflib.get_close_matches(file.name, names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "" if names else f": there is no folder {folder}"
        raise TableError(f"no file {file.name!r} in {folder}{hint}", path=file) from None
    except (OSError, ValueError) as error:
        raise TableError(f"cannot read {file}: {error}", path=file) from error
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "a pipe" if stat.S_ISFIFO(mode) else "not a regular file"
        raise TableError(f"{file} is {what}; expected a table file", path=file)
    try:
        descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise TableError(f"cannot read {file}: {error.strerror}", path=file) from error
    with os.fdopen(descriptor, "rb") as opened:
        size = os.fstat(descriptor).st_size
        limit = max_bytes or LIMIT_BYTES
        if size > limit:
            raise TableError(
                f"{file} has {size:,} bytes, the limit is {limit:,}; raise it with max_bytes=", path=file
            )
        if gzipped:
            packed = opened.read(limit)
            return memoryview(_inflate(packed, file, max_bytes or _unpacked_limit(size)))
        # Arrow's memory, which is aligned and used again: filling it takes a third of the time of bytes.
        space = memoryview(pa.allocate_buffer(size)).cast("B")
        return space[: opened.readinto(space)]


def _unpacked_limit(packed_bytes: int) -> int:
    return min(LIMIT_BYTES, max(SMALL_BYTES, BOMB_RATIO * packed_bytes))


def _inflate(packed: bytes, file: Path, limit: int) -> bytes:
    """Decompress gzip (one or several members) up to a limit.  Source of the format: RFC 1952."""
    out = bytearray()
    member = zlib.decompressobj(wbits=31)
    begun = False  # whether the member has had any bytes
    # In small parts, for what is left over is copied each time: a file may have a million members.
    for start in range(0, len(packed), PART_BYTES):
        rest = packed[start : start + PART_BYTES]
        while rest:
            if not begun and not rest.strip(b"\0") and not packed[start + PART_BYTES :].strip(b"\0"):
                return bytes(out)  # zeros after the last member are allowed by gzip
            try:
                out += member.decompress(rest, min(PART_BYTES, limit - len(out)) + 1)
            except zlib.error as error:
                raise TableError(f"{file} is not sound gzip ({error}); compress it again", path=file) from None
            if len(out) > limit:
                raise TableError(
                    f"{file} unpacks to more than {limit:,} bytes from {len(packed):,}; "
                    "if that is meant, raise the limit with max_bytes=",
                    path=file,
                )
            rest, begun = member.unconsumed_tail, True
            if member.eof:
                rest, member, begun = member.unused_data, zlib.decompressobj(wbits=31), False
    if begun:
        raise TableError(f"{file} is cut off: its gzip stream has no end; copy it again", path=file)
    return bytes(out)


def _as_utf8(data: memoryview, file: Path, encoding: str) -> memoryview:
    """Return the text as UTF-8 bytes without byte-order mark, or name the first line that is not text."""
    octets = np.frombuffer(data, np.uint8)
    plain = re.sub("[-_]", "", encoding.lower())
    if bytes(data[:2]) in (b"\xff\xfe", b"\xfe\xff") and plain in ("utf8", "utf8sig"):
        wide = "utf-32" if bytes(data[2:4]) == b"\0\0" else "utf-16"
        raise TableError(
            f"{file} looks like {wide.upper()}; "
            f"save it as UTF-8, or train on tk.read_table(..., encoding={wide!r})",
            path=file,
            line=1,
        )
    try:
        if plain in ("utf8", "utf8sig"):
            if octets.max() >= 0x80:
                str(data, "utf-8")
        else:
            data = memoryview(str(data, encoding).encode("utf-8"))
            octets = np.frombuffer(data, np.uint8)
    except UnicodeDecodeError as error:
        line = _line_after(str(data[: error.start], encoding, "ignore"))
        raise TableError(
            f"{file}, line {line}: byte 0x{data[error.start]:02x} is not {encoding}; "
            "save the file as UTF-8, or train on tk.read_table(..., encoding='cp1252'), or 'latin-1'",
            path=file,
            line=line,
        ) from None
    except UnicodeEncodeError as error:
        line = _line_after(error.object[: error.start])
        raise TableError(
            f"{file}, line {line}: read as {encoding} it holds half a character; is it {encoding}?",
            path=file,
            line=line,
        ) from None
    except (LookupError, ValueError):  # codecs of other kinds raise ValueError
        raise TableError(
            f"encoding={encoding!r} is no text encoding; known are such as 'utf-8', 'latin-1', 'cp1252'"
        ) from None
    if len(octets) and octets.min() == 0:
        line = len(NEWLINE.findall(data[: int(np.argmin(octets))])) + 1
        raise TableError(
            f"{file}, line {line}: a zero byte, so this is no text table; "
            "a Parquet file by another name, or UTF-16 (tk.read_table(..., encoding='utf-16'))?",
            path=file,
            line=line,
        )
    return data[len(BOM) :] if bytes(data[: len(BOM)]) == BOM else data


def _line_after(text: str) -> int:
    return len(NEWLINE.findall(text.encode("utf-8", "replace"))) + 1
