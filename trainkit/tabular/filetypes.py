"""Which kind of table a file is, by its name and by its first bytes."""

from __future__ import annotations

import os
from pathlib import Path

FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
#: Kinds whose fields are separated by a character.
DELIMITED = ("csv", "tsv")
GZIP = b"\x1f\x8b"
PARQUET = b"PAR1"
HEAD_BYTES = 512
#: How files of other kinds begin, what they are, and what reads them.
_SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (b"BZh", "a file compressed by bzip2", "train on pandas.read_csv(..., compression='bz2')"),
    (b"\xfd7zXZ\x00", "a file compressed by xz", "train on pandas.read_csv(..., compression='xz')"),
    (b"\x28\xb5\x2f\xfd", "a file compressed by Zstandard", "unpack it with zstd -d"),
    (b"\x04\x22\x4d\x18", "a file compressed by LZ4", "unpack it with lz4 -d"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "unpack it"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel workbook (.xls)", "save it as CSV"),
    (b"ARROW1", "an Arrow (Feather) file", "train on pandas.read_feather(...)"),
    (b"ORC", "an ORC file", "train on pandas.read_orc(...)"),
    (b"\x89HDF", "an HDF5 file", "train on pandas.read_hdf(...)"),
    (b"SQLite format 3\x00", "an SQLite database", "train on what pandas.read_sql returns"),
    (b"\x93NUMPY", "a NumPy array", "train on pandas.DataFrame(numpy.load(...))"),
    (b"%PDF", "a PDF document", "export its table as CSV"),
    (b"\x89PNG", "a PNG image", "pass the path of a table"),
    (b"<!doctype html", "a web page", "download the table itself, not the page that shows it"),
    (b"<html", "a web page", "download the table itself, not the page that shows it"),
    (b"<?xml", "an XML document", "train on pandas.read_xml(...)"),
)


def kind_of_file(path: str | os.PathLike[str]) -> str | None:
    """Return ``csv``, ``tsv``, ``jsonl`` or ``parquet`` by a file's name, or None for any other.

    >>> kind_of_file("a.csv"), kind_of_file("b.parquet.gz"), kind_of_file("c.xlsx")
    ('csv', 'parquet', None)
    """
    return FORMATS.get(Path(without_gz(os.fspath(path))).suffix.lower())


def without_gz(path: str) -> str:
    """Return a file's name without ``.gz`` at its end."""
    return path[:-3] if path.lower().endswith(".gz") else path


def foreign_content(head: bytes, kind: str, file: Path) -> str | None:
    """Return what a file is if its first bytes do not fit the kind that its name promises, and what to do.

    Args:
        head: the first bytes, uncompressed.
        kind: that the name promises.
        file: its name.

    >>> foreign_content(b"PAR1...", "csv", Path("t.csv"))
    "t.csv is a Parquet file; rename it to 't.parquet'"
    >>> foreign_content(b"a,b", "csv", Path("t.csv"))
    """
    stem = Path(without_gz(file.name)).stem
    if head.startswith(PARQUET):
        return None if kind == "parquet" else f"{file} is a Parquet file; rename it to {f'{stem}.parquet'!r}"
    if head.startswith(b"PK\x03\x04"):
        workbook = b"xl/" in head or b"[Content_Types].xml" in head
        what = "an Excel workbook (.xlsx); save it as CSV, or train on pandas.read_excel(...)"
        return f"{file} is {what if workbook else 'a ZIP archive; unpack it'}"
    for signature, what, remedy in _SIGNATURES:
        if head[: len(signature)].lower() == signature.lower():
            return f"{file} is {what}; {remedy}"
    if kind in DELIMITED and head.lstrip().startswith((b'{"', b'[{"', b"[\n{")):
        return f"{file} holds JSON; rename it to {f'{stem}.jsonl'!r} if each line is one object"
    if kind == "parquet" and head and b"\0" not in head:
        return f"{file} is text, not Parquet; rename it to {f'{stem}.csv'!r} if it is a CSV"
    return None
