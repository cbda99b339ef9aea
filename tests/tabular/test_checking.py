"""A table is checked before a job exists, in little memory and time, or else by the job itself."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import trainkit as tk
from trainkit.errors import OptionError, TableError
from trainkit.files.record import Status
from trainkit.tabular import checking
from trainkit.tabular.checking import Checked, check_file, check_file_apart
from trainkit.tabular.read import unpacked_bytes

CSV = "a,y\n" + "".join(f"{i}.5,{'pq'[i % 2]}\n" for i in range(40))


@pytest.fixture
def only_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where this process reads a table."""

    def refuse(*_: Any) -> Checked:
        raise AssertionError("read in this process")

    monkeypatch.setattr(checking, "check_file", refuse)


def test_a_small_file_is_checked_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting a process would take a hundred times as long."""
    monkeypatch.setattr(subprocess, "run", None)
    file = tmp_path / "t.csv"
    file.write_text(CSV)
    checked = check_file_apart(file, {"epochs": 3})
    assert checked == check_file(file, {"epochs": 3})
    assert checked.summary == "classification of y (2 classes), 1 feature, 40 rows"
    assert checked.params["epochs"] == 3
    with pytest.raises(TableError, match="no file"):
        check_file_apart(tmp_path / "u.csv", {})


@pytest.mark.usefixtures("only_apart")
@pytest.mark.parametrize("kind", ["gzip", "wide", "jsonl", "parquet", "gzip by another name"])
def test_what_may_unpack_is_checked_in_another_process(tmp_path: Path, kind: str) -> None:
    table = pd.DataFrame({"a": np.arange(40) + 0.5, "y": ["p", "q"] * 20})
    if kind == "wide":
        table = table.join(pd.DataFrame(np.random.default_rng(0).random((40, 3000))).add_prefix("column_"))
    file = tmp_path / {"jsonl": "t.jsonl", "parquet": "t.parquet", "gzip": "t.csv.gz"}.get(kind, "t.csv")
    if kind == "jsonl":
        table.to_json(file, orient="records", lines=True)
    elif kind == "parquet":
        table.to_parquet(file)
    else:
        text = table.to_csv(index=False).encode()
        file.write_bytes(text if kind == "wide" else gzip.compress(text))
    checked = check_file_apart(file, {"epochs": 3, "target": "y"})
    assert checked.summary.startswith("classification of y (2 classes)")
    assert checked.params["epochs"] == 3


@pytest.mark.usefixtures("only_apart")
def test_an_error_of_the_other_process_is_the_same_error(tmp_path: Path) -> None:
    """With its place; also of an option, of a device, and of a process that was killed."""
    file = tmp_path / "t.csv.gz"
    file.write_bytes(gzip.compress((CSV + "1\n").encode()))
    with pytest.raises(TableError, match="line 42, column 'y': 1 fields") as error:
        check_file_apart(file, {})
    assert (error.value.path, error.value.line, error.value.column) == (file, 42, "y")
    file.write_bytes(gzip.compress(CSV.encode()))
    with pytest.raises(OptionError, match="epochs=0"):
        check_file_apart(file, {"epochs": 0})
    with pytest.raises(OptionError, match="device='cuda:99'"):
        check_file_apart(file, {"device": "cuda:99"})


def test_a_process_that_dies_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text('{"a": 1}\n')

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        return subprocess.CompletedProcess(command, -9, b"", b"")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(TableError, match="could not be checked; .*exit code -9"):
        check_file_apart(file, {})


def test_memory_is_limited(tmp_path: Path) -> None:
    """A table that takes more than allowed is refused, and names the limit."""
    file = tmp_path / "t.csv"
    file.write_text("a,y\n" + "1,2\n" * 2_000_000)
    code = (
        "import sys; from trainkit.tabular import checking, plan, read, sources; import pandas; "
        "used = int(open('/proc/self/statm').read().split()[0]) * 4096; "
        "checking.CHILD_MEMORY_BYTES = used + 10**7; checking.main(sys.argv[1:])"
    )
    if sys.platform != "linux":
        pytest.skip("measures memory by /proc")
    child = subprocess.run([sys.executable, "-c", code, str(file)], input=b"{}", capture_output=True, check=False)
    assert b"GiB of memory to check" in child.stdout, child.stderr[-500:]


def test_a_large_table_is_left_to_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what it unpacks to, not by what it takes on the disk."""
    monkeypatch.setattr(checking, "CHECKED_BEFORE_BYTES", 10_000)
    zeros = tmp_path / "t.csv.gz"
    zeros.write_bytes(gzip.compress(b"a,y\n" + b"0,0\n" * 10_000))
    parquet = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": pa.nulls(20_000, pa.int8()).fill_null(0)}), parquet)
    for file in (zeros, parquet):
        assert file.stat().st_size < 2_000
        assert 10_000 <= unpacked_bytes(file, 10_000) < 80_000
        assert check_file(file, {"target": "no such column"}) == Checked()


def test_counting_what_a_bomb_unpacks_to_ends_at_the_limit(tmp_path: Path) -> None:
    file = tmp_path / "t.csv.gz"
    file.write_bytes(gzip.compress(b"0" * 50_000_000))
    assert 1_000_000 < unpacked_bytes(file, 1_000_000) < 1_200_000
    file.write_bytes(file.read_bytes()[:-9])
    assert unpacked_bytes(file, 10**9) <= 50_000_000, "a damaged file is the reader's to report"
    assert unpacked_bytes(tmp_path, 10) == 0
    assert unpacked_bytes("a,y\n" + "1,2\n" * 1000, 10) == 0


def test_a_table_above_the_limit_is_refused_by_its_job(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "CHECKED_BEFORE_BYTES", 10)
    file = root / "t.csv.gz"
    file.write_bytes(gzip.compress(CSV.encode()))
    job = tk.train(file, target="z", epochs=1)
    assert job.wait(60) is Status.FAILED
    assert "column 'z' is not in t.csv.gz" in job.record.message
    job = tk.train(file, target="y", epochs=1)
    assert job.wait(60) is Status.COMPLETED
    assert job.record.params["target"] == "y"


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_deep_nesting_is_refused(tmp_path: Path, opening: str) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text('{"a": 1}\n{"a": ' + opening * 100_000 + "\n")
    with pytest.raises(TableError, match="line 2"):
        check_file(file, {})


def test_lines_of_keys_of_their_own_are_refused(tmp_path: Path) -> None:
    """130 kB that would become a table of 144 million values, a gigabyte."""
    file = tmp_path / "t.jsonl"
    file.write_text("".join(f'{{"k{i}":1}}\n' for i in range(12_000)))
    with pytest.raises(TableError, match="nearly all missing; expected the same keys in each line"):
        check_file(file, {})
