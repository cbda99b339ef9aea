"""What may be passed as a table, and what an error says about anything else."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

import trainkit as tk
from trainkit.errors import OptionError, TableError
from trainkit.files.record import Status
from trainkit.tabular.options import TrainOptions, check_options
from trainkit.tabular.sources import COPIED_BYTES, as_frame, open_table

CSV = "a,y\n" + "".join(f"{i}.5,{'pq'[i % 2]}\n" for i in range(40))
TABLE = pd.DataFrame({"a": [i + 0.5 for i in range(40)], "y": ["p", "q"] * 20})


class Stream:
    """A table of another library, which offers Arrow's interface."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return pa.table({"a": pa.array(TABLE["a"]), "y": pa.array(TABLE["y"])}).__arrow_c_stream__(
            requested_schema
        )


class ToPandas:
    """A table of another library, which only makes DataFrames."""

    def to_pandas(self) -> pd.DataFrame:
        return TABLE.copy()


class Lazy:
    """A query that has not run."""

    def collect(self) -> pd.DataFrame:
        return TABLE


class Rows(torch.utils.data.IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter([1])


@pytest.mark.parametrize(
    "data",
    [
        io.StringIO(CSV),
        io.BytesIO(CSV.encode()),
        io.BytesIO(gzip.compress(CSV.encode(), mtime=0)),
        TABLE.to_dict("list"),
        TABLE.to_dict("records"),
        {"a": TABLE["a"].to_numpy(), "y": TABLE["y"]},
        pa.table({"a": pa.array(TABLE["a"]), "y": pa.array(TABLE["y"])}),
        pa.RecordBatch.from_pydict(TABLE.to_dict("list")),
        Stream(),
        ToPandas(),
    ],
    ids=lambda data: type(data).__name__,
)
def test_tables_of_many_kinds_are_the_same_table(data: Any) -> None:
    frame, path = open_table(data, TrainOptions())
    assert path is None
    assert frame["a"].tolist() == TABLE["a"].tolist()
    assert frame["y"].tolist() == TABLE["y"].tolist()


def test_an_open_file_is_of_the_kind_of_its_name(tmp_path: Path) -> None:
    """CSV, JSON Lines, Parquet and TSV; in memory the content decides."""
    TABLE.to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    TABLE.to_csv(tmp_path / "t.tsv", index=False, sep="\t")
    TABLE.to_parquet(tmp_path / "t.parquet")
    for name in ("t.jsonl", "t.tsv", "t.parquet"):
        with (tmp_path / name).open("rb") as opened:
            assert open_table(opened, TrainOptions())[0]["a"].tolist() == TABLE["a"].tolist()
    for name in ("t.jsonl", "t.parquet"):
        content = io.BytesIO((tmp_path / name).read_bytes())
        assert open_table(content, TrainOptions())[0]["a"].tolist() == TABLE["a"].tolist()
    options = TrainOptions(delimiter=";", missing=("1.5",))
    assert open_table(io.StringIO(CSV.replace(",", ";")), options)[0]["a"].isna().sum() == 1


def test_a_table_in_memory_trains_in_a_thread_and_in_a_process(root: Path) -> None:
    for runner in ("thread", "process"):
        job = tk.train(io.StringIO(CSV), target="y", epochs=1, hidden=4, runner=runner)
        assert job.wait(60) is Status.COMPLETED
        assert job.record.params["data"] == "StringIO of 40 rows"


def closed() -> io.StringIO:
    stream = io.StringIO(CSV)
    stream.close()
    return stream


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (lambda: (row for row in [1]), r"got generator: make a table with pandas\.DataFrame\(list\(rows\)"),
        (lambda: iter([1]), r"got list_iterator: make a table with pandas\.DataFrame\(list\(rows\)"),
        (Rows, r"got Rows: .*tk\.submit\(fit"),
        (Lazy, r"got Lazy: pass what its collect\(\) returns"),
        (lambda: np.zeros((3, 2)), r"got ndarray: make a table with pandas\.DataFrame\(\.\.\.\)"),
        (lambda: torch.zeros(3, 2), r"got Tensor: make a table with pandas\.DataFrame\(tensor\.numpy\(\)"),
        (lambda: TABLE["a"], "got Series: a table of one column"),
        (lambda: b"a,y\n1,2\n", r"got bytes b'a,y.*io\.BytesIO"),
        (lambda: "a,y\n1,2\n", r"characters of text .*io\.StringIO\(text\)"),
        (lambda: 3, "got int 3"),
        (list, "got an empty list"),
        (lambda: [[1, 2], [3, 4]], r"got a list of list: make a table with pandas\.DataFrame\(rows"),
        (lambda: {"a": [1, 2], "y": [1]}, "columns of one length"),
        (lambda: {"a": 1, "y": 2}, r"got single values: \[row\] makes a table of one row"),
        (lambda: pd.DataFrame, "got type: pass what it returns"),
        (lambda: TABLE.to_csv, r"got method: pass what it returns"),
        (closed, "cannot read <StringIO>: I/O operation on closed file"),
        (lambda: pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"]), "'a' is a duplicate"),
        (lambda: Path("/"), "is a folder"),
    ],
)
def test_what_is_not_a_table_is_refused_with_what_makes_one(
    root: Path, data: Callable[[], Any], words: str
) -> None:
    """Always a TableError, and nothing is left behind."""
    with pytest.raises(TableError, match=words):
        tk.train(data(), target="y")
    assert not list(root.iterdir())


def change_cell(frame: pd.DataFrame) -> None:
    frame.loc[:, "a"] = 0.0


def delete_column(frame: pd.DataFrame) -> None:
    del frame["a"]


def change_array(frame: pd.DataFrame) -> None:
    frame.attrs["array"][:] = 0.0


def rename(frame: pd.DataFrame) -> None:
    frame.columns = pd.Index(["b", "y"])


def append(frame: pd.DataFrame) -> None:
    frame.loc[len(frame)] = [0.0, "p"]


@pytest.mark.parametrize("change", [change_cell, delete_column, change_array, rename, append])
@pytest.mark.parametrize("wrap", [lambda frame: frame, dict, lambda frame: frame.to_dict("records")])
def test_later_changes_do_not_reach_the_table(
    change: Callable[[pd.DataFrame], None], wrap: Callable[[pd.DataFrame], Any]
) -> None:
    values = np.arange(40) + 0.5
    table = pd.DataFrame({"a": values}, copy=False)
    table["y"] = TABLE["y"]
    table.attrs["array"] = values
    frame, _ = open_table(wrap(table), TrainOptions())
    change(table)
    assert frame["a"].tolist() == TABLE["a"].tolist()
    assert list(frame.columns) == ["a", "y"]


def test_a_large_table_is_shared_until_it_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With copy-on-write; a copy of gigabytes would be more than many machines have."""
    assert COPIED_BYTES >= 2**20
    monkeypatch.setattr("trainkit.tabular.sources.COPIED_BYTES", 10)
    table = TABLE.copy()
    frame = as_frame(table)
    shares = np.shares_memory(frame["a"].to_numpy(), table["a"].to_numpy())
    assert shares is (int(pd.__version__.split(".")[0]) >= 3)
    table["a"] = 0.0
    del table["y"]
    assert frame.equals(TABLE)


def zipped(content: bytes, name: str = "t.csv") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, content)
    return file.getvalue()


def parquet() -> bytes:
    file = io.BytesIO()
    TABLE.to_parquet(file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.csv", bz2.compress(CSV.encode()), "bzip2; .*compression='bz2'"),
        ("t.csv", lzma.compress(CSV.encode()), "xz; .*compression='xz'"),
        ("t.csv", b"\x28\xb5\x2f\xfd" + b"x" * 40, "Zstandard; unpack it"),
        ("t.csv", zipped(CSV.encode()), "ZIP archive; unpack it"),
        ("t.csv", zipped(b"<xml/>", "xl/workbook.xml"), r"Excel workbook \(\.xlsx\); save it as CSV"),
        ("t.csv", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600, "old Excel workbook"),
        ("t.csv", parquet(), r"Parquet file; rename it to 't\.parquet'"),
        ("t.jsonl", parquet(), r"Parquet file; rename it to 't\.parquet'"),
        ("t.csv", b"<!DOCTYPE html>\n<html>", "web page"),
        ("t.csv", b'{"a": 1}\n{"a": 2}\n', r"holds JSON; rename it to 't\.jsonl'"),
        ("t.csv", CSV.encode("utf-16"), r"UTF-16; .*tk\.read_table\(\.\.\., encoding='utf-16'\)"),
        ("t.csv", CSV.encode("utf-16-le"), "zero byte"),
        ("t.parquet", CSV.encode(), r"text, not Parquet; rename it to 't\.csv'"),
        ("t.csv.gz", CSV.encode(), r"not valid gzip; it is not compressed: rename it to 't\.csv'"),
        ("t.csv.gz", bz2.compress(CSV.encode()), "not valid gzip; .*bzip2"),
        ("t.csv.gz", zipped(CSV.encode()), "not valid gzip; .*ZIP archive"),
        ("t.parquet.gz", parquet(), r"not valid gzip; .*rename it to 't\.parquet'"),
        ("t.csv.gz", gzip.compress(bz2.compress(CSV.encode()), mtime=0), "bzip2"),
        ("t.csv.gz", b"", "not valid gzip"),
    ],
    ids=lambda value: "content" if isinstance(value, bytes) else value,  # archives hold the time
)
def test_a_file_of_another_kind_is_named_as_what_it_is(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(TableError, match=words) as error:
        tk.read_table(file)
    assert str(file) in str(error.value)


def test_gzip_is_read_under_any_name(tmp_path: Path) -> None:
    """A download that was unpacked by name only."""
    file = tmp_path / "t.csv"
    file.write_bytes(gzip.compress(CSV.replace("3.5", "n/a").encode()))
    frame, path = open_table(file, TrainOptions())
    assert len(frame) == 40
    assert path == file


@pytest.mark.parametrize("width", [100, 1000])
def test_files_of_too_many_columns_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    names = [f"c{i}" for i in range(width)]
    table = pd.DataFrame([range(width)] * 3, columns=names)
    table.to_csv(tmp_path / "t.csv", index=False)
    table.to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    table.to_parquet(tmp_path / "t.parquet")
    for file in tmp_path.iterdir():
        with pytest.raises(TableError, match=rf"{width:,} columns, at most 99 .*max_columns={width}\)"):
            tk.read_table(file, max_columns=99)
        assert tk.read_table(file, max_columns=width).shape == (3, width)


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "mps"])
@pytest.mark.parametrize("runner", ["thread", "process"])
def test_a_device_that_is_not_there_is_refused_before_a_job_exists(
    root: Path, monkeypatch: pytest.MonkeyPatch, device: str, runner: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(OptionError, match=rf"device='{device}': .*cpu"):
        tk.train(TABLE, target="y", device=device, runner=runner)
    assert not list(root.iterdir())


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (np.int64(3), 3),
        (np.uint8(3), 3),
        (np.array(3), 3),
        (np.array([3]), 3),
        (torch.tensor(3), 3),
    ],
)
def test_numbers_of_other_libraries_are_plain_in_options(root: Path, value: Any, plain: int) -> None:
    options = check_options({"epochs": value, "hidden": [32, value] if value.ndim == 0 else [32, plain]})
    assert options == TrainOptions(epochs=plain, hidden=(32, plain))
    assert type(options.epochs) is int
    job = tk.train(
        TABLE, target=np.str_("y"), epochs=value, hidden=4, max_time=np.float32(600), retries=np.int64(0)
    )
    assert job.wait(60) is Status.COMPLETED
    assert job.record.params["epochs"] == 3
    assert job.record.limits.max_time_s == 600


@pytest.mark.parametrize(
    "value",
    [
        np.array([3, 4]),
        np.zeros((2, 2)),
        torch.empty((), device="meta"),
        np.bool_(True),
        3.5,
        object(),
        np.datetime64("2020"),
    ],
)
def test_arrays_and_others_are_refused_as_numbers(value: Any) -> None:
    with pytest.raises(OptionError, match=r"epochs=.*expected a whole number >= 1"):
        check_options({"epochs": value})


@pytest.mark.parametrize("value", [np.array([64, 32]), torch.tensor([64, 32]), pd.Series([64, 32]), [64, 32]])
def test_arrays_are_lists_where_a_list_is_expected(value: Any) -> None:
    assert check_options({"hidden": value}).hidden == (64, 32)


@pytest.mark.parametrize(
    ("typed", "meant"), [("\\t", "\t"), ("tab", "\t"), ("\t", "\t"), (";", ";"), ("space", " ")]
)
def test_a_delimiter_can_be_typed(typed: str, meant: str) -> None:
    assert check_options({"delimiter": typed}, from_text=True).delimiter == meant
    with pytest.raises(OptionError, match="expected one character"):
        check_options({"delimiter": ";;"})
