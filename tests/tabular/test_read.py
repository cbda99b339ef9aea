"""The strict reader, case by case: what it reads, and what it says when it does not."""

from __future__ import annotations

import gzip
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from trainkit.errors import TableError
from trainkit.tabular.cells import dates
from trainkit.tabular.read import line_of_row, read_table

from .dtypes import TEXT


def table(tmp_path: Path, content: bytes | str, name: str = "t.csv", **options: Any) -> pd.DataFrame:
    file = tmp_path / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_table(file, **options)


@pytest.mark.parametrize(
    ("cells", "kind", "values"),
    [
        ("1\n2", "int64", [1, 2]),
        ("9007199254740993", "int64", [9007199254740993]),
        ("007\n8", "str", ["007", "8"]),
        ("+5", "str", ["+5"]),
        ("0x10", "str", ["0x10"]),
        ("1e400", "str", ["1e400"]),
        ("nan\n1.5", "str", ["nan", "1.5"]),
        ("12345678901234567890", "str", ["12345678901234567890"]),
        ("9007199254740993\n0.5", "str", ["9007199254740993", "0.5"]),
        ("NA\nNone", "str", ["NA", "None"]),
        ("True\nfalse", "bool", [True, False]),
        ("2020-02-29\n2020-03-01", "datetime64[s]", [pd.Timestamp("2020-02-29"), pd.Timestamp("2020-03-01")]),
        ("9999-12-31 23:59:59.5", "datetime64[us]", [pd.Timestamp("9999-12-31 23:59:59.5")]),
        ("9999-12-31 23:59:59.5000001", "str", ["9999-12-31 23:59:59.5000001"]),
        ("12:30", "str", ["12:30"]),
        ('"a\nb"', "str", ["a\nb"]),
        ('""\nx', "str", ["", "x"]),
        ('""\n1', "Int64", [None, 1]),
    ],
)
def test_a_value_means_what_it_says(tmp_path: Path, cells: str, kind: str, values: list[Any]) -> None:
    """Each column is read as the narrowest kind that keeps every value as it was written."""
    column = table(tmp_path, f"a\n{cells}\n")["a"]
    assert str(column.dtype) == (TEXT if kind == "str" else kind)
    assert [None if pd.isna(value) else value for value in column] == values


@pytest.mark.parametrize(
    ("begins", "ends", "kind"),
    [
        ("1", "2", "int64"),
        ("1", "0.5", "float64"),
        ("1", "x", "str"),
        ("1", "007", "str"),
        ("0.0", "1e-400", "str"),
        ("", "3", "Int64"),
        ("True", "0", "str"),
        ("2020-02-29", "2020-02-29 12:30", "datetime64[s]"),
        ("2020-02-29 12:30", "2020-02-29 12:30:15.5", "datetime64[ns]"),
        ("2020-02-29 12:30:15.5", "1600-01-01 12:30:15.5", "datetime64[us]"),
    ],
)
def test_what_a_file_begins_with_is_no_promise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begins: str, ends: str, kind: str
) -> None:
    """The kinds of a large file's first part are tried on all of it, and given up where it goes on otherwise."""
    monkeypatch.setattr("trainkit.tabular.delimited.BLOCK_BYTES", 100)
    monkeypatch.setattr("trainkit.tabular.grammar.BLOCK_BYTES", 100)
    column = table(tmp_path, "a,b\n" + f"{begins},1\n" * 100 + f"{ends},1\n")["a"]
    assert str(column.dtype) == (TEXT if kind == "str" else kind)
    few = table(tmp_path, f"a,b\n{begins},1\n{ends},1\n")["a"]
    assert [str(column[0]), str(column[100])] == list(map(str, few))


@pytest.mark.parametrize(
    ("content", "line", "column", "words"),
    [
        ("a,b\n1\n", 2, "b", "1 fields, the header has 2"),
        ("a,b\n1,2\n1,2,3\n", 3, 3, "'3' is one too many"),
        ('a,b\n1,"x\n\n\ny"\n2\n', 6, "b", "1 fields"),
        ("a,b,a\n1,2,3\n", 1, "a", "twice"),
        ("a,\n1,2\n", 1, 2, "no name; give it one"),
        (",a\n0,1\n", 1, 1, "to_csv(..., index=False)"),
        ("a,b\n", 1, None, "no rows"),
        ("a,b\n1,2\n\n3,4\n", 3, None, "empty line"),
        ("a\n1\n\n", 3, None, "empty line"),
        ("\na,b\n", 1, None, "empty line"),
        ('a,b\n1,"x\n', 2, "b", "never closed"),
        ('a,b\n"x"y,2\n', 2, "a", "after a closing quote"),
        ('a,b\n1,5" pipe\n', 2, "b", "tk.read_table(..., quoting=False)"),
        ('a,b\n"x,1\n2,3\n"y",4\n', 4, "a", "begins at line 2"),
        (b"a,b\n1,\xff\n", 2, None, "tk.read_table(..., encoding='cp1252')"),
        (b"a,b\n1,\x00\n", 2, None, "zero byte"),
        ("", None, None, "is empty"),
    ],
)
def test_a_malformed_file_is_refused_at_its_place(
    tmp_path: Path, content: bytes | str, line: int | None, column: str | int | None, words: str
) -> None:
    """The error knows file, physical line and column, and says what came."""
    with pytest.raises(TableError, match=r"t\.csv") as error:
        table(tmp_path, content)
    assert (error.value.line, error.value.column, error.value.path) == (line, column, tmp_path / "t.csv")
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("content", "line", "column", "words"),
    [
        ('{"a":1,"a":2}\n', 1, "a", "twice"),
        ('{"a":1}\n{"a":NaN}\n', 2, None, "write null"),
        ('{"a":1e400}\n', 1, None, "too large"),
        ('{"a":1}\n{"a":"x"}\n', 2, "a", "'x' is a text, but line 1 has a number"),
        ('{"a":1}\n{"a":2', 2, None, "cut off"),
        ('{"a":1}\n\n{"a":2}\n', 2, None, "empty line"),
        ('{"a":1} {"a":2}\n', 1, None, "Extra data"),
        ("[1]\n", 1, None, "JSON array"),
        ('{"a":{"b":1}}\n', 1, "a", "nested"),
        ('{"a":12345678901234567890}\n', 1, "a", "64 bits"),
        ('{"a":9007199254740993}\n{"a":0.5}\n', 1, "a", "loses digits"),
        ("{}\n", 1, None, "without keys"),
    ],
)
def test_malformed_json_lines_are_refused_at_their_place(
    tmp_path: Path, content: str, line: int, column: str | None, words: str
) -> None:
    """The same for JSON Lines."""
    with pytest.raises(TableError) as error:
        table(tmp_path, content, "t.jsonl")
    assert (error.value.line, error.value.column) == (line, column)
    assert words in str(error.value)


def test_every_lenience_is_asked_for_by_name(tmp_path: Path) -> None:
    """Words for missing, a legacy encoding, another delimiter and quotes as plain characters are options."""
    frame = table(tmp_path, 'a,b\nNA,"?"\n1,x\n', missing=["NA", "?"])
    assert str(frame["a"].dtype) == "Int64"
    assert frame.isna().sum().tolist() == [1, 1]
    assert table(tmp_path, b"a\n\xe9\n", encoding="latin-1")["a"].tolist() == ["é"]
    assert table(tmp_path, "a;b\n1;2\n", delimiter=";").columns.tolist() == ["a", "b"]
    assert table(tmp_path, 'a,b\n1,5" pipe\n', quoting=False)["b"].tolist() == ['5" pipe']


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    """A missing file with the nearest name; a folder, a pipe and an unknown kind by what they are."""
    (tmp_path / "penguins.csv").write_text("a\n1\n")
    with pytest.raises(TableError, match="did you mean 'penguins.csv'"):
        read_table(tmp_path / "pengins.csv")
    with pytest.raises(TableError, match="is a folder"):
        read_table(tmp_path)
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(TableError, match="is a pipe"):
        read_table(tmp_path / "pipe.csv")
    with pytest.raises(TableError, match=r"unknown kind of table .xlsx; expected .csv"):
        table(tmp_path, "x", "t.xlsx")


def test_compressed_files_are_bounded_and_whole(tmp_path: Path) -> None:
    """A gzip bomb stops at the limit and says how to raise it; a cut or false gzip is named."""
    packed = gzip.compress(b"a,b\n" + b"1,2\n" * 1000)
    assert len(table(tmp_path, packed, "t.csv.gz")) == 1000
    assert len(table(tmp_path, packed + gzip.compress(b"3,4\n"), "t.csv.gz")) == 1001
    with pytest.raises(TableError, match=r"unpacks to more than 100 bytes.*max_bytes="):
        table(tmp_path, packed, "t.csv.gz", max_bytes=100)
    with pytest.raises(TableError, match="cut off"):
        table(tmp_path, packed[:-9], "t.csv.gz")
    with pytest.raises(TableError, match="not valid gzip"):
        table(tmp_path, "a,b\n", "t.csv.gz")


def test_a_bomb_takes_no_more_memory_than_the_limit(tmp_path: Path) -> None:
    """Decompression itself is bounded, not only what is kept of it."""
    packed = gzip.compress(b"0" * 50_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(TableError, match="unpacks to more than 100,000 bytes"):
            table(tmp_path, packed, "t.csv.gz", max_bytes=100_000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5_000_000


def test_a_bomb_is_recognised_by_its_ratio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a limit of the user's, far more bytes than text ever packs into are refused."""
    monkeypatch.setattr("trainkit.tabular.read.SMALL_BYTES", 1000)
    with pytest.raises(TableError, match="unpacks to more than"):
        table(tmp_path, gzip.compress(b"a\n" + b"0" * 10**6), "t.csv.gz")


def test_a_long_row_and_many_columns_are_read(tmp_path: Path) -> None:
    """A row longer than Arrow's block, and ten thousand columns."""
    assert len(table(tmp_path, 'a,b\n1,"' + "x" * (5 << 20) + '"\n')["b"][0]) == 5 << 20
    wide = ",".join(f"c{i}" for i in range(10_000)) + "\n" + ",".join("1" for _ in range(10_000)) + "\n"
    assert table(tmp_path, wide).shape == (1, 10_000)


def test_parquet_of_odd_content_is_refused_by_column(tmp_path: Path) -> None:
    """Nested columns are named; a damaged file is told; an unnamed pandas index is no column."""
    pd.DataFrame({"a": [[1], [2]]}).to_parquet(tmp_path / "nested.parquet")
    with pytest.raises(TableError, match="column 'a': holds list"):
        read_table(tmp_path / "nested.parquet")
    with pytest.raises(TableError, match="not a sound Parquet file"):
        table(tmp_path, b"PAR1xxxx", "t.parquet")
    pd.DataFrame({"a": [1, 2]}, index=[5, 7]).to_parquet(tmp_path / "index.parquet")
    assert read_table(tmp_path / "index.parquet").columns.tolist() == ["a"]


def test_the_line_of_a_row_counts_newlines_in_fields(tmp_path: Path) -> None:
    """A message about a row names its physical line."""
    file = tmp_path / "t.csv"
    file.write_text('a,b\n"x\ny",1\nz,2\n')
    assert [line_of_row(file, row) for row in (0, 1)] == [2, 4]


@pytest.mark.parametrize(
    "parts",
    [
        [["2020-01-01"], ["2020-02-29"]],
        [["2020-01-01"], ["2020-02-30"]],
        [["2020-01-01"], [None, None]],
        [["2020-01-01"], []],
        [["2020-01-01"], ["soon"]],
        [["2020-01-01 10:00"], ["2020-01-01 10:00:00.5"]],
        [["1500-01-01 00:00:00.5"], ["2020-01-01 00:00:00.25"]],
        [["2020-01-01 10:00Z"], ["2020-01-01 10:00+01:00"]],
        [["2020-01-01 10:00Z"], ["2020-01-01 10:00"]],
    ],
)
def test_dates_in_parts_mean_what_they_mean_in_one_piece(parts: list[list[str | None]]) -> None:
    """A column is looked at in parts, at once: where these differ, all of it counts."""
    whole = dates(pa.chunked_array([[text for part in parts for text in part]], pa.string()))
    found = dates(pa.chunked_array(parts, pa.string()))
    if whole is None:
        assert found is None
    else:
        assert found is not None
        assert (found.type, found.to_pylist()) == (whole.type, whole.to_pylist())


def test_texts_with_missing_values_stay_in_arrows_memory(tmp_path: Path) -> None:
    """As Python's they would take ten times the time, and on the way twice the memory."""
    file = tmp_path / "t.csv"
    file.write_text("word,n\n" + "some words that are long enough to count,1\n" * 20_000 + ",2\n")
    read_table(file)
    tracemalloc.start()
    frame = read_table(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert frame["word"].isna().sum() == 1
    assert TEXT == "object" or peak < 500_000
