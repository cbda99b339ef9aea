"""Parquet: what a table can hold of it, and no more memory than allowed.

A few hundred bytes of Parquet can stand for a billion values, so sizes are looked at before they are taken.
"""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trainkit.errors import TableError
from trainkit.tabular.grammar import in_parallel, refuse_many_columns

#: pandas stores an unnamed index as a column of this name; it is not part of the table.
INDEX = re.compile(r"__index_level_\d+__")


def parse_parquet(raw: memoryview, file: Path, limit_bytes: int, max_columns: int) -> pa.Table:
    """Read a Parquet file whose columns hold one value per row.

    Args:
        raw: the whole file.
        file: its name, for messages.
        limit_bytes: the largest size of the table in memory.
        max_columns: the largest number of columns.

    Raises:
        TableError: it is damaged, too large, or holds what is no column of a table.
    """
    try:
        buffer = pa.BufferReader(pa.py_buffer(raw))
        opened = pq.ParquetFile(buffer, page_checksum_verification=True)
        refuse_many_columns(opened.metadata.num_columns, max_columns, file)
        schema = opened.schema_arrow
        keep = [field for field in schema if not INDEX.fullmatch(field.name)]
        _check_columns(schema.names, keep, file)
        rows = opened.metadata.num_rows
        if rows == 0:
            raise TableError(f"{file} has no rows; expected at least one", path=file)
        size = max(_width(keep) * rows, _stored_bytes(opened.metadata))
        _check_size(size, limit_bytes, file)
        texts = [field for field in keep if _is_text(field.type)]
        # A text that repeats is stored once: its column is read as a dictionary, to see its size before taking it.
        opened = pq.ParquetFile(
            buffer, page_checksum_verification=True, read_dictionary=[field.name for field in texts]
        )
        table = opened.read(columns=[field.name for field in keep]).replace_schema_metadata(None)
        encoded = [table.column(field.name) for field in texts]
        _check_size(size + sum(in_parallel(_decoded_bytes, encoded)), limit_bytes, file)
        decoded = in_parallel(pa.ChunkedArray.cast, encoded, [field.type for field in texts])
        for field, column in zip(texts, decoded, strict=True):
            table = table.set_column(table.column_names.index(field.name), field.name, column)
        return table
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, TableError):
            raise
        raise TableError(f"{file} is not a sound Parquet file: {error}", path=file) from error


def claimed_bytes(path: Path) -> int:
    """Return how many bytes a file says that its table has, apart from texts that repeat."""
    opened = pq.ParquetFile(path)
    metadata = opened.metadata
    rows = int(metadata.num_rows)
    return max(_width(list(opened.schema_arrow)) * rows, _stored_bytes(metadata))


def _check_columns(names: list[str], fields: list[pa.Field], file: Path) -> None:
    seen: set[str] = set()
    for position, name in enumerate(names, start=1):
        if not name.strip():
            raise TableError(f"{file}: column {position} has no name; give it one", path=file, column=position)
        if name in seen:
            raise TableError(f"{file}: column {name!r} is there twice; rename one", path=file, column=name)
        seen.add(name)
    for field in fields:
        if not _is_plain(field.type):
            raise TableError(
                f"{file}, column {field.name!r}: holds {field.type}; expected numbers, texts, booleans or dates",
                path=file,
                column=field.name,
            )
    if not fields:
        raise TableError(f"{file} has no columns", path=file)


def _is_plain(kind: pa.DataType) -> bool:
    kinds = pa.types
    if kinds.is_dictionary(kind):
        return _is_plain(kind.value_type)
    number = kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_decimal(kind) or kinds.is_boolean(kind)
    return bool(number or _is_text(kind) or kinds.is_temporal(kind) or kinds.is_null(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _width(fields: list[pa.Field]) -> int:
    """Bytes of a row in memory, without its texts."""
    return sum(max(1, field.type.bit_width // 8) if _is_fixed(field.type) else 4 for field in fields)


def _is_fixed(kind: pa.DataType) -> bool:
    return not (_is_text(kind) or pa.types.is_dictionary(kind) or pa.types.is_null(kind))


def _stored_bytes(metadata: pq.FileMetaData) -> int:
    return sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))


def _decoded_bytes(column: pa.ChunkedArray) -> int:
    """Bytes of a column of texts once each value has a text of its own."""
    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    lengths = (pc.take(pc.binary_length(chunk.dictionary), chunk.indices) for chunk in column.chunks)
    return sum(pc.sum(pc.cast(each, pa.int64())).as_py() or 0 for each in lengths)


def _check_size(size_bytes: int, limit_bytes: int, file: Path) -> None:
    if size_bytes > limit_bytes:
        raise TableError(
            f"{file} unpacks to {size_bytes:,} bytes, the limit is {limit_bytes:,}; if that is right, train on "
            f"tk.read_table(..., max_bytes={size_bytes})",
            path=file,
        )
