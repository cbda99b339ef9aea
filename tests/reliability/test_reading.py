"""The reader against what was written: read exactly, or refused by name and place.

The same files are given to plain pandas, which must fail: a harness that finds nothing there finds nothing.
"""

from __future__ import annotations

import contextlib
import json
import math
import resource
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from tests.reliability import nasty_tables
from tests.reliability.reading import (
    NEWLINE,
    Case,
    Row,
    Tally,
    Text,
    judge,
    meaning,
    plain,
    records,
    same,
    written,
)
from trainkit.tabular import delimited, grammar
from trainkit.tabular.read import read_table

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)
cell = st.one_of(st.none(), st.sampled_from(nasty_tables.WORDS), text)
number = st.one_of(
    st.integers(-(2**64), 2**64).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.tuples(st.integers(0, 10**20), st.integers(-420, 420)).map(lambda pair: f"{pair[0]}e{pair[1]}"),
    st.decimals(allow_nan=False, allow_infinity=False).map(str),
)
column = st.one_of(
    st.lists(cell, min_size=4, max_size=4),
    st.lists(st.one_of(st.none(), number), min_size=4, max_size=4),
    st.lists(st.sampled_from([None, "1", "2", "007", "0.5", "True", "2020-02-29"]), min_size=4, max_size=4),
)
#: How many bytes are looked at together: with a few, what lies on both sides of a border is met all the time.
sizes = st.sampled_from([5, 16, 64, 1 << 22])

Reader = Callable[..., pd.DataFrame]


def by_pandas(path: Path, **options: Any) -> pd.DataFrame:
    """The known-bad variant: what people write who have no other reader."""
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        return pd.read_parquet(path)
    if name.endswith(".jsonl"):
        return pd.read_json(path, lines=True)
    quoting = {} if options.get("quoting", True) else {"quoting": 3}
    missing = {"na_values": options["missing"]} if "missing" in options else {}
    delimiter = options.get("delimiter", "\t" if name.endswith(".tsv") else ",")
    encoding = options.get("encoding", "utf-8")
    return pd.read_csv(path, sep=delimiter, encoding=encoding, **quoting, **missing)  # type: ignore[call-overload]


def tried(tries: int) -> Callable[..., Any]:
    """Settings of a property."""
    return settings(max_examples=tries, suppress_health_check=list(HealthCheck), database=None)


@contextlib.contextmanager
def in_pieces(block: int, chunk: int) -> Iterator[None]:
    """Have a file looked at in pieces of that many bytes."""
    with (
        mock.patch.object(delimited, "BLOCK_BYTES", block),
        mock.patch.object(grammar, "BLOCK_BYTES", block),
        mock.patch.object(delimited, "CHUNK", chunk),
    ):
        yield


def random_tables(read: Reader, folder: Path, tries: int, *, strict: bool) -> Tally:
    """Write random CSV and TSV and compare; strictly, also the kinds of the columns."""
    tally = Tally()

    @tried(tries)
    @given(
        columns=st.lists(column, min_size=2, max_size=4),
        quote_all=st.booleans(),
        newline=st.sampled_from(["\n", "\r\n", "\r"]),
        tsv=st.booleans(),
        bom=st.booleans(),
        block=sizes,
        chunk=sizes,
    )
    @example([["\ufeff5", None], ["a", "b"]], False, "\n", False, False, 1 << 20, 1 << 20)
    def check(
        columns: list[Any], quote_all: bool, newline: str, tsv: bool, bom: bool, block: int, chunk: int
    ) -> None:
        content = written(columns, quote_all=quote_all, newline=newline, mark="\t" if tsv else ",")
        held = {f"c{position}": cells for position, cells in enumerate(columns)}
        file = "t.tsv" if tsv else "t.csv"
        case = Case(content, (b"\xef\xbb\xbf" if bom else b"") + content.encode(), held, file)
        with in_pieces(block, chunk):
            verdict = judge(read, case, folder)
        tally.add(verdict, repr(content))
        if strict:
            assert verdict == "exact"
            frame = read(folder / file)
            for name, cells in held.items():
                assert same(plain(frame[name]), meaning(cells)), (cells, plain(frame[name]))

    check()
    return tally


def damaged_tables(read: Reader, folder: Path, tries: int, *, strict: bool) -> Tally:
    """Edit CSV at random, and compare with a plain parser whether, and as what, it is read."""
    tally = Tally()
    edit = st.tuples(st.integers(0, 80), st.sampled_from(list('",\n\r0 a"\n,')), st.booleans())

    @tried(tries)
    @given(
        columns=st.lists(column, min_size=1, max_size=3),
        quote_all=st.booleans(),
        edits=st.lists(edit, min_size=1, max_size=4),
        block=sizes,
        chunk=sizes,
    )
    def check(columns: list[Any], quote_all: bool, edits: list[Any], block: int, chunk: int) -> None:
        content = edited(written(columns, quote_all=quote_all), edits)
        case = expected_of(content)
        with in_pieces(block, chunk):
            verdict = judge(read, case, folder)
        tally.add(verdict, repr(content))
        assert not strict or verdict in ("exact", "refused"), verdict

    check()
    return tally


def edited(content: str, edits: list[tuple[int, str, bool]]) -> str:
    """Put characters into a text, or in place of others."""
    for place, mark, replace in edits:
        place %= len(content) + 1
        content = content[:place] + mark + content[place + replace :]
    return content


def expected_of(content: str) -> Case:
    """What a CSV text holds, or the line where it is no table."""
    rows = records(content)
    if rows is None:
        return Case(content, content.encode(), None)
    header = [name for name, _ in rows[0].fields]
    names_fit = all(name.strip() for name in header) and len(set(header)) == len(header)
    body = rows[1:]
    blank_end = len(header) == 1 and len(NEWLINE.findall(content[len(content.rstrip("\r\n")) :])) > 1
    if not names_fit or not body or blank_end:
        return Case(content, content.encode(), None)
    if any(row.fields == [("", False)] for row in body):
        return Case(content, content.encode(), None)
    ragged: Row | None = next((row for row in body if len(row.fields) != len(header)), None)
    if ragged:
        return Case(content, content.encode(), None, line=ragged.line)
    columns = {
        name: [None if row.fields[at] == ("", False) else row.fields[at][0] for row in body]
        for at, name in enumerate(header)
    }
    return Case(content, content.encode(), columns)


value = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    text,
    st.sampled_from(nasty_tables.WORDS),
    st.datetimes().map(lambda moment: moment.isoformat(" ")),
)


def json_lines(read: Reader, folder: Path, tries: int, *, strict: bool) -> Tally:
    """Write JSON Lines, edit some, and compare with what the json module reads line by line."""
    tally = Tally()
    edit = st.tuples(st.integers(0, 60), st.sampled_from(list('{}[]":,0\n1.eN-')), st.booleans())

    @tried(tries)
    @given(
        rows=st.lists(
            st.dictionaries(st.sampled_from(["a", "b", "ü"]), value, min_size=1), min_size=1, max_size=5
        ),
        edits=st.lists(edit, max_size=2),
        block=sizes,
    )
    def check(rows: list[dict[str, Any]], edits: list[Any], block: int) -> None:
        content = edited("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), edits)
        assume(content.strip())
        columns, may_be_refused = json_meaning(content)
        case = Case(content, content.encode(), columns, "t.jsonl")
        with in_pieces(block, block):
            verdict = judge(read, case, folder)
        if verdict == "refused though sound" and may_be_refused:
            verdict = "refused"
        tally.add(verdict, repr(content))
        assert not strict or verdict in ("exact", "refused"), verdict

    check()
    return tally


class Number(str):
    """A JSON number as it was written."""

    __slots__ = ()


def json_meaning(content: str) -> tuple[dict[str, list[Any]] | None, bool]:
    """What JSON Lines hold, None if they are none; and whether they may be refused all the same."""
    lines = content.rstrip("\r\n \t").split("\n")
    try:
        rows = [
            json.loads(line, object_pairs_hook=_row, parse_constant=_no_word, parse_float=Number, parse_int=Number)
            for line in lines
        ]
    except ValueError:
        return None, True
    if not all(isinstance(row, dict) for row in rows) or not any(rows):
        return None, True
    columns: dict[str, list[Any]] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        columns[name] = [row.get(name) for row in rows]
    kinds = [{type(each) for each in cells if each is not None} for cells in columns.values()]
    numbers = [each for cells in columns.values() for each in cells if isinstance(each, Number)]
    odd = any(len(each) > 15 or "e" in each.lower() for each in numbers)  # digits may be lost, or all of it
    return columns, odd or any(len(kind) > 1 for kind in kinds)


def _row(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    nested = any(isinstance(each, (dict, list)) for each in row.values())
    if len(row) != len(pairs) or nested or not all(name.strip() for name in row):
        raise ValueError("no row of a table")
    return {name: Text(each) if type(each) is str else each for name, each in row.items()}


def _no_word(word: str) -> Any:
    raise ValueError(word)


typed = st.one_of(
    *(
        st.lists(st.one_of(st.none(), each), min_size=3, max_size=3).map(partial(pa.array, type=kind))
        for kind, each in [
            (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
            (pa.uint64(), st.integers(0, 2**64 - 1)),
            (pa.int8(), st.integers(-128, 127)),
            (pa.float64(), st.floats(allow_nan=False)),
            (pa.bool_(), st.booleans()),
            (pa.string(), cell),
            (pa.large_string(), text),
            (pa.timestamp("us"), st.datetimes()),
            (pa.decimal128(30, 5), st.decimals(-(10**20), 10**20, places=5)),
        ]
    )
)  # fmt: skip


def parquet_tables(read: Reader, folder: Path, tries: int, *, strict: bool) -> Tally:
    """Write random Parquet and compare."""
    tally = Tally()

    @tried(tries)
    @given(
        arrays=st.lists(typed, min_size=1, max_size=3),
        compression=st.sampled_from(["none", "snappy", "zstd", "gzip"]),
        rows_together=st.sampled_from([1, 2, 1000]),
        dictionary=st.booleans(),
    )
    @example([pa.array([None, -math.inf, math.inf], pa.float64())], "none", 1, False)
    def check(arrays: list[pa.Array], compression: str, rows_together: int, dictionary: bool) -> None:
        table = pa.table({f"c{position}": array for position, array in enumerate(arrays)})
        pq.write_table(
            table,
            folder / "t.parquet",
            compression=compression,
            row_group_size=rows_together,
            use_dictionary=dictionary,
        )
        columns = {
            name: [Text(each) if isinstance(each, str) else each for each in table.column(name).to_pylist()]
            for name in table.column_names
        }
        case = Case(str(table), (folder / "t.parquet").read_bytes(), columns, "t.parquet")
        verdict = judge(read, case, folder)
        tally.add(verdict, str(table))
        assert not strict or verdict == "exact", verdict

    check()
    return tally


def known_files(read: Reader, folder: Path, cases: Iterator[Case]) -> Tally:
    """Have every file of a collection read."""
    tally = Tally()
    for case in cases:
        tally.add(judge(read, case, folder), case.name)
    return tally


PROPERTIES = [random_tables, damaged_tables, json_lines, parquet_tables]


def test_known_files_are_read_exactly_or_refused_at_their_place(tmp_path: Path) -> None:
    """Some eight hundred files: a table is read as what was written, all else is refused with its place."""
    tally = known_files(read_table, tmp_path, nasty_tables.cases())
    print("known files:", tally)
    assert tally.wrong == []


@pytest.mark.long
def test_files_that_end_other_readers_are_read_or_refused(tmp_path: Path) -> None:
    """Bombs, lines a million brackets deep, ten thousand columns: nothing ends the process or fills its memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tally = known_files(read_table, tmp_path, nasty_tables.heavy_cases())
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"heavy files: {tally}; the process grew by {grown_mb:.0f} MB")
    assert tally.wrong == []
    assert grown_mb < 1500, "the limit of what a compressed file may unpack to is 256 MB"


@pytest.mark.parametrize("check", PROPERTIES)
def test_what_was_written_is_read_or_refused(check: Callable[..., Tally], tmp_path: Path) -> None:
    """Random files, sound and damaged, in pieces of any size."""
    print(check.__name__, check(read_table, tmp_path, 150, strict=True))


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("check", PROPERTIES)
def test_what_was_written_is_read_or_refused_at_length(check: Callable[..., Tally], tmp_path: Path) -> None:
    """The same, ten thousand times."""
    print(check.__name__, check(read_table, tmp_path, 10_000, strict=True))


@pytest.mark.filterwarnings("ignore::Warning")
@pytest.mark.parametrize("check", PROPERTIES[:3])
def test_the_harness_finds_a_reader_that_guesses(check: Callable[..., Tally], tmp_path: Path) -> None:
    """Plain pandas reads many of the same files silently wrong."""
    tally = check(by_pandas, tmp_path, 60, strict=False)
    print("pandas:", check.__name__, tally)
    assert tally.verdicts["silently wrong"] > 0


@pytest.mark.filterwarnings("ignore::Warning")
def test_the_collection_finds_a_reader_that_guesses(tmp_path: Path) -> None:
    """Plain pandas reads a fifth of the known files silently wrong."""
    tally = known_files(by_pandas, tmp_path, nasty_tables.cases())
    print("pandas: known files:", tally.verdicts)
    assert tally.verdicts["silently wrong"] > sum(tally.verdicts.values()) / 5
