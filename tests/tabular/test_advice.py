"""What messages about tables advise works when it is followed to the letter, in Python and on the command line."""

from __future__ import annotations

import ast
import datetime
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import trainkit as tk
from trainkit.cli.starting import train
from trainkit.errors import OptionError, TableError
from trainkit.tabular.options import TrainOptions, check_options
from trainkit.tabular.plan import check_table
from trainkit.tabular.sources import open_table

from .dtypes import TEXT

ADVICE = re.compile(r"""(\w+)=(\(.*?\)|'.*?'|".*?") \(command line: (--\w+[ =].+?)\)(?=[;,]|\. | *$)""")


def messages(data: Any, options: TrainOptions) -> list[str]:
    """Return what training on a table would warn about, or why it is refused."""
    try:
        frame, path = open_table(data, options)
        return check_table(frame, options, path=path).warnings
    except TableError as error:
        return [str(error)]


def followed(message: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the options that a message advises: as Python reads them, and as the command does."""
    found = []
    for name, value, command in ADVICE.findall(message):
        found.append((name, {name: ast.literal_eval(value)}))
        params = train.make_context("train", shlex.split(command)).params
        given = {key: text for key, text in params.items() if text is not None and key == name}
        checked = check_options(given, from_text=True)
        found.append((name, {key: getattr(checked, key) for key in given}))
    return found


def numbers_with(word: str, separator: str = ",", *, count: int = 40, place: int = 7) -> str:
    rows = [f"{i}.5{separator}{'pq'[i % 2]}" for i in range(count)]
    rows[place] = f"{word}{separator}p"
    return f"a{separator}y\n" + "\n".join(rows) + "\n"


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_the_advised_delimiter_reads_the_file(tmp_path: Path, separator: str) -> None:
    file = tmp_path / "t.csv"
    file.write_text(numbers_with("1.5", separator))
    for target in (None, "y", f"a{separator}y"):
        (refused,) = messages(file, TrainOptions(target=target))
        advised = followed(refused)
        assert [name for name, _ in advised] == ["delimiter"] * 2
        for _, options in advised:
            assert messages(file, check_options(options)) == []


WORDS = [
    "n/a",
    "nan",
    "inf",
    "-inf",
    "Infinity",
    "None",
    "-",
    "?",
    "it's",
    'say "no"',
    "not, known",
    " n/a",
    "[x]",
]


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("source", ["csv", "object", "str", "category"])
def test_the_advised_word_for_missing_makes_numbers_of_the_column(tmp_path: Path, word: str, source: str) -> None:
    """In a file and in a DataFrame: the same message, and the same effect of what it advises."""
    quoted = '"' + word.replace('"', '""') + '"'
    data: Any = tmp_path / "t.csv"
    data.write_text(numbers_with(quoted))
    if source != "csv":
        data = tk.read_table(data)
        data["a"] = data["a"].astype(source)
    (warning, *_) = messages(data, TrainOptions())
    assert "'a' is read as text because of" in warning
    advised = followed(warning)
    assert [name for name, _ in advised] == ["missing"] * 2, warning
    for _, options in advised:
        frame, path = open_table(data, check_options(options))
        assert frame["a"].isna().sum() == 1
        if source != "category":
            assert frame["a"].dtype == float
            assert check_table(frame, path=path).warnings == []


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_what_python_writes_into_json_is_read_as_advised(tmp_path: Path, word: str) -> None:
    file = tmp_path / "t.jsonl"
    lines = [f'{{"a": {i}.5, "y": "{"pq"[i % 2]}"}}' for i in range(40)]
    lines[7] = f'{{"a": {word}, "y": "p"}}'
    file.write_text("\n".join(lines))
    (refused,) = messages(file, TrainOptions())
    assert "line 8" in refused
    advised = followed(refused)
    assert len(advised) == 2
    for _, options in advised:
        frame, _ = open_table(file, check_options(options))
        assert frame["a"].dtype == float
        assert frame["a"].isna().sum() == 1


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ""])
def test_infinity_is_refused_or_read_as_missing_as_advised(tmp_path: Path, suffix: str) -> None:
    """In a DataFrame, and in what pandas writes of it."""
    table = pd.DataFrame({"a": np.arange(40) + 0.5, "y": ["p", "q"] * 20})
    table.loc[3, "a"], table.loc[4, "a"] = np.inf, -np.inf
    data: Any = tmp_path / f"t{suffix}" if suffix else table
    if suffix == ".csv":
        table.to_csv(data, index=False)
    elif suffix:
        table.to_parquet(data)
    (message, *_) = messages(data, TrainOptions())
    advised = followed(message)
    assert len(advised) == 2, message
    for _, options in advised:
        frame, path = open_table(data, check_options(options))
        assert frame["a"].isna().sum() == 2
        assert check_table(frame, path=path).warnings == []


def test_the_advised_target_and_task_are_taken(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("size,kind of\n" + "".join(f"{i}.5,{'pq'[i % 2]}\n" for i in range(40)))
    (refused,) = messages(file, TrainOptions())
    assert [options for _, options in followed(refused)] == [{"target": "kind of"}] * 2
    (refused,) = messages(file, TrainOptions(target="kind of", task="regression"))
    advised = [options for name, options in followed(refused) if name == "task"]
    assert len(advised) == 2
    for options in advised:
        assert messages(file, check_options({"target": "kind of", **options})) == []


@pytest.mark.parametrize(
    "codes",
    [
        ["00501", "10001", "60601"],
        ["007", "8"],
        ["10001", "10001-1234"],
        ["2020", "2020-01-15"],
        ["1.2", "1.2.3"],
        ["5551234", "555-1234"],
    ],
)
def test_codes_are_not_called_missing_words(codes: list[str]) -> None:
    """A leading zero or several groups of digits are a name, whose column is text rightly."""
    table = pd.DataFrame({"code": codes * 20})
    table["y"] = np.random.default_rng(0).normal(size=len(table))
    assert messages(table, TrainOptions()) == []


@pytest.mark.parametrize("word", ["12a", "<0.1", "5 kg", "3,5x"])
def test_a_number_with_something_else_is_not_called_missing(word: str) -> None:
    """A typing error, a bound, a unit: the value is to be corrected, not dropped."""
    table = pd.DataFrame({"size": [*(f"{i}.5" for i in range(39)), word], "y": np.linspace(0, 1, 40)})
    (warning, *_) = messages(table, TrainOptions())
    assert f"{word!r} in row 39" in warning
    assert f"write {word!r} as a number" in warning
    assert "missing=" not in warning


@pytest.mark.parametrize("footer", ["Total,,", "Total,9,", "Source: survey,,", "Total,9,0.5"])
def test_a_footer_is_named_with_its_line(tmp_path: Path, footer: str) -> None:
    """Also where its row has no target, and is therefore left out."""
    file = tmp_path / "t.csv"
    rows = [f"{i}.5,{i % 9},{i % 7}.25" for i in range(40)]
    file.write_text("\n".join(["a,b,y", *rows, footer]) + "\n")
    warning = next(text for text in messages(file, TrainOptions()) if "'a' is read as text" in text)
    assert f"{footer.split(',')[0]!r} in line 42; delete it if it is a footer" in warning
    for _, options in followed(warning):
        assert not any("is read as text" in text for text in messages(file, check_options(options)))


def test_a_footer_in_the_target_is_named(tmp_path: Path) -> None:
    """It makes classes of amounts, or one class more."""
    file = tmp_path / "t.csv"
    file.write_text("a,y\n" + "".join(f"{i}.5,{i % 2}\n" for i in range(40)) + "9.5,Total\n")
    assert any(
        "'y' is read as text because of 'Total' in line 42" in text for text in messages(file, TrainOptions())
    )


def test_advice_fits_the_source() -> None:
    """A DataFrame has no delimiter to pass; what is advised of it is pandas' own."""
    table = pd.DataFrame({"a;y": ["1;2"] * 20})
    (refused,) = messages(table, TrainOptions())
    assert "pandas.read_csv(..., sep=';')" in refused
    assert "delimiter=" not in refused
    with pytest.raises(OptionError, match="delimiter=';' is for CSV and TSV files, and a DataFrame has columns"):
        open_table(table, TrainOptions(delimiter=";"))
    with pytest.raises(OptionError, match="the synthetic table has columns already"):
        open_table(None, TrainOptions(delimiter=";"))


@pytest.mark.parametrize("name", ["t.jsonl", "t.parquet"])
def test_a_delimiter_is_refused_for_files_without_one(tmp_path: Path, name: str) -> None:
    table = pd.DataFrame({"a;b": [1.5] * 20, "y": [1, 2] * 10})
    file = tmp_path / name
    table.to_parquet(file) if name == "t.parquet" else table.to_json(file, orient="records", lines=True)
    with pytest.raises(OptionError, match="is for CSV and TSV"):
        open_table(file, TrainOptions(delimiter=";"))
    (refused,) = messages(file, TrainOptions(target="z"))
    assert "delimiter" not in refused


@pytest.mark.parametrize(
    ("column", "words", "missing", "dtype"),
    [
        (["1", "NA", "3"], ("NA",), 1, "Int64"),
        (["007", "NA", "3"], ("NA",), 1, "str"),
        ([1, -9, 3], (-9,), 1, "Int64"),
        (np.array([1, 255], np.uint8), ("255",), 1, "UInt8"),
        (np.array([1.5, -99.9], np.float32), ("-99.9",), 1, "float32"),
        ([1.5, -999.0, np.inf], ("-999", "inf"), 2, "float64"),
        ([1.5, "nan", None], ("nan",), 2, "float64"),
        (pd.Categorical(["a", "?"]), ("?",), 1, "category"),
        (pd.to_datetime(["1900-01-01", "2020-05-05"]), ("1900-01-01",), 1, "datetime64"),
        ([True, False], ("True", "1"), 0, "bool"),
        (pd.array([1, -9], "Int64"), ("-9",), 1, "Int64"),
        (["a", "b"], ("NA",), 0, "str"),
        (pd.array(["1.5", "NA"], pd.ArrowDtype(pa.string())), ("NA",), 1, "float64"),
        (pd.array([1, -9], pd.ArrowDtype(pa.int32())), ("-9",), 1, "int32"),
        (pd.Categorical([1, -9]), ("-9",), 1, "category"),
        (pd.date_range("2020-01-01", periods=2, tz="Europe/Berlin"), ("2020-01-02",), 1, "datetime64"),
        ([datetime.date(2020, 1, 1), datetime.date(2020, 1, 2)], ("2020-01-02",), 1, "object"),
    ],
)
def test_words_for_missing_apply_to_any_column(column: Any, words: Any, missing: int, dtype: str) -> None:
    """Texts, numbers as they are held, categories and dates; what is left has the kind that a file would have."""
    table = pd.DataFrame({"a": column})
    frame, _ = open_table(table, check_options({"missing": words}))
    assert frame["a"].isna().sum() == missing
    assert str(frame["a"].dtype).startswith(TEXT if dtype == "str" else dtype)
    assert list(table["a"].isna()) == list(pd.Series(column).isna()), "the user's own table is not changed"


def test_a_first_line_that_names_the_delimiter_is_understood(tmp_path: Path) -> None:
    """Excel writes it; lines are counted with it."""
    file = tmp_path / "t.csv"
    file.write_text("sep=;\n" + numbers_with("n/a", ";"))
    (warning, *_) = messages(file, TrainOptions())
    assert "'n/a' in line 10" in warning
    assert messages(file, TrainOptions(delimiter=";"))[0] == warning
    file.write_text("sep=;\na;b\n1;2\n1\n")
    with pytest.raises(TableError, match="line 4") as error:
        tk.read_table(file)
    assert error.value.line == 4


def test_a_line_is_counted_with_the_delimiter_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text('a;b;y\n1;"x\ny";1\n' + "2;z;3\n" * 20 + "n/a;z;4\n")
    warnings = messages(file, TrainOptions(delimiter=";"))
    assert any("'n/a' in line 24" in warning for warning in warnings), warnings
