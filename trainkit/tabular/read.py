"""The strict table reader: every value exactly as written, or an error that names the place.

A file is one of CSV, TSV, JSON Lines or Parquet, by its name; each may be gzipped.  What a text
means is defined in :mod:`trainkit.tabular.cells`; what a file may look like, in ``delimited`` and
``jsonl``.  The heavy lifting is Apache Arrow's; the checks around it are ours.
"""

from __future__ import annotations

import contextlib
import difflib
import gzip
import os
import re
import stat
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from trainkit.errors import OptionError, TableError
from trainkit.tabular.delimited import BOM, NEWLINE, line_of_record, parse_delimited
from trainkit.tabular.filetypes import (
    DELIMITED,
    FORMATS,
    GZIP,
    HEAD_BYTES,
    PARQUET,
    foreign_content,
    kind_of_file,
    without_gz,
)
from trainkit.tabular.frames import to_frame, with_missing
from trainkit.tabular.jsonl import parse_json_lines
from trainkit.tabular.parquet import claimed_bytes, parse_parquet

if TYPE_CHECKING:
    import pandas as pd

OTHERWISE = ". pandas reads many others: train on the DataFrame"
LIMIT_BYTES = 4 * 2**30
SMALL_BYTES = 256 * 2**20
PART_BYTES = 2**16
BOMB_RATIO = 100  # text tables compress 3 to 20 times; gzip's own maximum is about 1030
MOST_COLUMNS = 100_000


def read_table(
    path: str | os.PathLike[str] | IO[Any],
    *,
    missing: Iterable[str] = (),
    encoding: str = "utf-8",
    delimiter: str | None = None,
    quoting: bool = True,
    max_bytes: int | None = None,
    max_columns: int = MOST_COLUMNS,
) -> pd.DataFrame:
    """Read a table exactly, or say where and why it cannot be.

    Args:
        path: a ``.csv``, ``.tsv``, ``.jsonl``, ``.ndjson`` or ``.parquet`` file, also with ``.gz``; or an open
            file or ``io.StringIO``, which is read to its end: CSV, unless its name or content is of another kind.
        missing: words read as missing, such as ``("NA", "?")``, quoted or not.  Without it only an empty
            field is missing.  A quoted empty field is an empty text in a text column and missing elsewhere.
        encoding: of a text file; a byte-order mark is understood.
        delimiter: one character between fields; else ``,`` in CSV and a tab in TSV.  A first line such as
            ``sep=;``, which Excel writes, is understood.
        quoting: False takes ``"`` as any other character.
        max_bytes: the largest uncompressed size accepted; else 4 GiB, and for compressed files (gzip, Parquet)
            no more than 256 MiB or 100 times the compressed size.
        max_columns: the largest number of columns accepted.

    Returns:
        A DataFrame, (rows, columns).  Whole numbers are int64, or Int64 where some are missing (so that none
        loses digits); numbers float64; booleans bool, or boolean with missing ones; ISO dates datetime64, with
        a zone in UTC; all else is text, as written: 007, NA, 1e400 and 12345678901234567890 stay text.

    Raises:
        TableError: with ``path``, ``line`` (physical, from 1) and ``column``.
        OptionError: ``delimiter`` with a file that has none.

    >>> import tempfile, pathlib
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "codes.csv"
    >>> _ = file.write_text("code,label,n\\n007,NA,1\\n008,b,\\n")
    >>> read_table(file).values.tolist()
    [['007', 'NA', 1], ['008', 'b', <NA>]]
    """
    words = (missing,) if isinstance(missing, str) else tuple(missing)
    if isinstance(path, (str, os.PathLike)):
        file = _path_of(path)
        raw, kind = _read_bytes(file, max_bytes), kind_of_file(file)
        if kind is None:
            raise _unknown_kind(file)
    else:
        file, raw, kind = _read_stream(path, max_bytes)
    if message := foreign_content(bytes(raw[:HEAD_BYTES]), kind, file):
        raise TableError(message, path=file)
    if delimiter is not None:
        _check_delimiter(delimiter, kind, file)
    table: pa.Table
    if kind == "parquet":
        table = parse_parquet(raw, file, max_bytes or _unpacked_limit(len(raw)), max_columns)
        del raw
        return with_missing(to_frame(table), words)
    if len(raw) == 0:
        raise TableError(
            f"{file} is empty; expected {'objects' if kind == 'jsonl' else 'a header'} and rows", path=file
        )
    text = _as_utf8(raw, file, encoding)
    del raw  # the text, its columns and the DataFrame are never there all three
    if kind == "jsonl":
        table = parse_json_lines(text, file, words, max_columns)
    else:
        table = parse_delimited(text, file, delimiter, "\t" if kind == "tsv" else ",", words, quoting, max_columns)
    del text
    return to_frame(table)


def _path_of(path: str | os.PathLike[str]) -> Path:
    name = os.fspath(path)
    if isinstance(name, bytes):
        raise TableError(f"expected the path of a table as text, got bytes: {name[:60]!r}")
    if "\n" in name:
        raise TableError(
            f"expected the path of a table, got {len(name):,} characters of text ({name[:40]!r}…); "
            "pass a table that is in memory as io.StringIO(text)"
        )
    return Path(os.path.expanduser(name))


def _unknown_kind(file: Path) -> TableError:
    suffix = Path(without_gz(file.name)).suffix
    hint = "; a JSON array? Write one object per line, as .jsonl" if suffix.lower() == ".json" else OTHERWISE
    return TableError(
        f"{file}: unknown kind of table {suffix or 'without a suffix'}; "
        f"expected {', '.join(FORMATS)}, also with .gz{hint}",
        path=file,
    )


def _check_delimiter(delimiter: str, kind: str, file: Path) -> None:
    if kind not in DELIMITED:
        raise OptionError(f"delimiter={delimiter!r} is for CSV and TSV; {file} is {kind}: leave delimiter out")
    if len(delimiter.encode()) != 1 or delimiter in '"\r\n':
        raise TableError(
            f"delimiter {delimiter!r} is not allowed: expected one ASCII character, not a quote or newline"
        )


def _read_stream(stream: Any, max_bytes: int | None) -> tuple[Path, memoryview, str]:
    """Read an open file to its end; return its name, its bytes and its kind."""
    given = getattr(stream, "name", None)
    file = Path(given if isinstance(given, str) else f"<{type(stream).__name__}>")
    limit = max_bytes or LIMIT_BYTES
    if not callable(getattr(stream, "read", None)):
        raise TableError(f"expected the path of a table or an open file, got {type(stream).__name__}")
    try:
        content = stream.read(limit + 1)
        raw = content.encode() if isinstance(content, str) else memoryview(content).tobytes()
    except Exception as error:
        raise TableError(f"cannot read {file}: {error}; pass the path of the table", path=file) from error
    if len(raw) > limit:
        raise _too_large(file, f"has more than {limit:,} bytes", limit)
    if raw.startswith(GZIP):
        raw = _inflate(raw, file, max_bytes or _unpacked_limit(len(raw)))
    kind = kind_of_file(file)
    if kind is None:
        kind = "parquet" if raw.startswith(PARQUET) else "jsonl" if raw.lstrip().startswith(b"{") else "csv"
    return file, memoryview(raw), kind


def _too_large(file: Path, what: str, limit_bytes: int) -> TableError:
    return TableError(
        f"{file} {what}; if that is right, train on tk.read_table(..., max_bytes={4 * limit_bytes})", path=file
    )


def line_of_row(path: str | os.PathLike[str], row: int, delimiter: str | None = None) -> int | None:
    """Return the physical line where data row ``row`` (from 0) of a table that was read begins.

    For messages about a value: it scans the file from its start.  None for Parquet, which has no lines.

    >>> import tempfile, pathlib
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "notes.csv"
    >>> _ = file.write_text('note\\n"two\\nlines"\\nx\\n')
    >>> line_of_row(file, 1)
    4
    """
    file = _path_of(path)
    kind = kind_of_file(file)
    if kind == "jsonl":
        return row + 1
    if kind not in DELIMITED:
        return None
    data = _as_utf8(_read_bytes(file, None), file, "utf-8")
    return line_of_record(data, file, delimiter, "\t" if kind == "tsv" else ",", row + 1)


def _read_bytes(file: Path, max_bytes: int | None) -> memoryview:
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
            raise _too_large(file, f"has {size:,} bytes, the limit is {limit:,}", max(limit, size))
        # By content: a file that was compressed, or unpacked, may have kept its name.
        is_gzip = opened.read(len(GZIP)) == GZIP
        opened.seek(0)
        if is_gzip:
            return memoryview(_inflate(opened.read(limit), file, max_bytes or _unpacked_limit(size)))
        if file.name.lower().endswith(".gz"):
            raise _not_gzip(file, opened.read(HEAD_BYTES))
        # Arrow's memory, which is aligned and used again: filling it takes a third of the time of bytes.
        space = memoryview(pa.allocate_buffer(size)).cast("B")
        return space[: opened.readinto(space)]


def _not_gzip(file: Path, head: bytes) -> TableError:
    plain_name = without_gz(file.name)
    kind = kind_of_file(file) or "csv"
    what = foreign_content(head, kind, file) if kind != "parquet" else None
    if what is None and (kind == "parquet") == head.startswith(PARQUET) and b"\0" not in head[:4]:
        what = f"it is not compressed: rename it to {plain_name!r}"
    return TableError(f"{file} is not valid gzip; {what or 'copy or compress it again'}", path=file)


def unpacked_bytes(path: str | os.PathLike[str], limit_bytes: int) -> int:
    """Return how many bytes a table has uncompressed, without holding them; counting ends above the limit.

    Of what cannot be read it is the size of the file, or 0: reading it says what is wrong.

    >>> import tempfile, pathlib, gzip
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "zeros.csv.gz"
    >>> _ = file.write_bytes(gzip.compress(b"a\\n" + b"0\\n" * 1000))
    >>> unpacked_bytes(file, 10_000), unpacked_bytes(file, 100) > 100
    (2002, True)
    """
    size = 0
    with contextlib.suppress(OSError, EOFError, ValueError, zlib.error, pa.ArrowException):
        file = _path_of(path)
        if not file.is_file():
            return 0
        size = file.stat().st_size
        with file.open("rb") as opened:
            head = opened.read(len(PARQUET))
        if size <= limit_bytes and head.startswith(GZIP):
            unpacked = 0
            with gzip.open(file) as stream:
                while unpacked <= limit_bytes and (part := stream.read(PART_BYTES)):
                    unpacked += len(part)
            return max(size, unpacked)
        if size <= limit_bytes and head == PARQUET:
            return max(size, claimed_bytes(file))
    return size


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
                raise TableError(f"{file} is not valid gzip ({error}); compress it again", path=file) from None
            if len(out) > limit:
                raise _too_large(file, f"unpacks to more than {limit:,} bytes from {len(packed):,}", limit)
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
