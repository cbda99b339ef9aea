"""What is decided before a job exists: target, task, features, and what is said about them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import trainkit as tk
from trainkit.errors import TableError
from trainkit.files.record import Status
from trainkit.panels.tables import preview
from trainkit.tabular.options import TrainOptions
from trainkit.tabular.plan import TARGETS, check_table
from trainkit.tabular.read import read_table
from trainkit.tabular.sources import open_table


def frame(**columns: object) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame({"x": rng.normal(size=60), "kind": ["a", "b", "c"] * 20, **columns})


@pytest.mark.parametrize(
    ("target", "task"),
    [
        (["p", "q"] * 30, "classification"),
        ([True, False] * 30, "classification"),
        ([0, 1] * 30, "classification"),
        ([0.0, 1.0, None] * 20, "classification"),
        (list(range(60)), "regression"),
        (np.linspace(0, 1, 60), "regression"),
    ],
)
def test_the_task_follows_from_the_target(target: object, task: str) -> None:
    """Words, booleans and few whole numbers are classes; the rest are amounts."""
    assert check_table(frame(y=target)).task == task


def test_the_target_is_named_y_target_or_label_or_must_be_told() -> None:
    """Without a usual name the columns are listed; a wrong name is answered with the nearest."""
    assert check_table(frame(Label=["p", "q"] * 30)).target == "Label"
    with pytest.raises(TableError, match="Pass target=.*Columns: x, kind"):
        check_table(frame())
    with pytest.raises(
        TableError, match=r"column 'knd' is not in the table; did you mean 'kind'\? Columns: x, kind"
    ):
        check_table(frame(), TrainOptions(target="knd"))


def test_the_summary_says_what_will_happen() -> None:
    """One line: task, target, classes, features, rows; and every option has a value in the record."""
    plan = check_table(frame(), TrainOptions(target="kind", hidden=32))
    assert plan.summary == "classification of kind (3 classes), 1 feature, 60 rows"
    assert plan.params["hidden"] == [32, 32]
    assert [name for name, value in plan.params.items() if value is None] == ["device", "delimiter"]


def test_useless_columns_are_left_out_by_name() -> None:
    """Ids, constants, empty columns, free texts and row numbers are named in warnings."""
    table = frame(
        y=np.linspace(0, 1, 60),
        customer_id=np.random.default_rng(1).permutation(10_000)[:60],
        same=1,
        empty=None,
        note=[f"note {i}" for i in range(60)],
        nr=range(60),
        paid=np.random.default_rng(2).permutation(10_000)[:60],
    )
    plan = check_table(table)
    assert plan.features == ["x", "kind", "paid"]
    told = " | ".join(plan.warnings)
    for words in ("'customer_id': looks like an id", "'same': the same value", "'empty': no values"):
        assert words in told
    assert "'note': looks like an id: every text is different" in told
    assert "'nr': counts the rows" in told


def test_numbers_spoilt_by_a_word_are_told_with_their_place(tmp_path: Path) -> None:
    """A column that is text for one word's sake says which, where, and what to do."""
    file = tmp_path / "t.csv"
    rows = [f'"two\nlines",{i % 7}.5,{i}' for i in range(30)]
    rows[4] = "x,n/a,4"
    file.write_text("note,size,y\n" + "\n".join(rows) + "\n")
    plan = check_table(read_table(file), path=file)
    # 1 header + 4 rows of two lines each
    assert any("'size' is read as text because of 'n/a' in line 10" in text for text in plan.warnings), (
        plan.warnings
    )
    assert check_table(read_table(file, missing=["n/a"]), path=file).warnings == []


def test_slips_far_from_all_other_values_are_told() -> None:
    """A sentinel among thousands of values is read as missing, and said so."""
    size = np.random.default_rng(0).normal(50, 2, 3000)
    size[17] = -999
    plan = check_table(pd.DataFrame({"size": size, "y": size * 2 + np.random.default_rng(1).normal(size=3000)}))
    assert plan.warnings == ["column 'size': 1 value far from all others (such as -999) read as missing"]


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (
            ["$1,234.50", "$999"] * 30,
            "'price' is read as text; are '$1,234.50' and the others numbers? Write them",
        ),
        ([f"{i % 7 * 5}%" for i in range(60)], "are '0%' and the others numbers? Write them as 1234.5"),
        ([f"{i},5" for i in range(60)], "are '0,5' and the others numbers? Write a point, not a comma"),
        ([f"{i + 1},{i + 100}" for i in range(60)], "are '1,100' and the others numbers? Write them as 1234.5"),
    ],
)
def test_numbers_that_are_written_otherwise_are_told(column: list[str], words: str) -> None:
    """Commas, percent and money make texts of numbers: one warning says so, with an example."""
    plan = check_table(frame(y=np.linspace(0, 1, 60), price=column))
    assert [text for text in plan.warnings if "left out" not in text and words in text], plan.warnings
    assert sum("'price' is read as text" in text for text in plan.warnings) == 1


def test_codes_and_addresses_are_no_numbers_written_otherwise() -> None:
    """A leading zero, a word among digits, a house: texts that nobody took for amounts."""
    for column in (["007", "010"] * 30, ["a1", "1,5"] * 30, ["10-12", "3-4"] * 30, ["1.2.3", "1.2.4"] * 30):
        assert check_table(frame(y=np.linspace(0, 1, 60), code=column)).warnings == []


def test_a_column_that_gives_the_target_away_is_told() -> None:
    """The same under another name, in words, or in another unit; not what only goes with it most of the time."""
    rng = np.random.default_rng(0)
    survived = rng.integers(0, 2, 60)
    noisy = np.where(rng.random(60) < 0.95, survived, 1 - survived)
    plan = check_table(frame(y=survived, alive=np.where(survived, "yes", "no"), noisy=noisy))
    unless = "alone tells 'y' in every row: drop it, unless it is known before 'y' is"
    assert plan.warnings == [f"column 'alive' {unless}"]
    euros = rng.normal(100, 20, 60).round(2)
    plan = check_table(frame(y=euros, dollars=(euros * 1.1).round(3), near=euros + rng.normal(0, 0.5, 60)))
    assert plan.warnings == [f"column 'dollars' {unless}"]


def test_what_tells_the_target_by_chance_or_by_row_is_no_leak() -> None:
    """Almost as many words as rows tell rows apart; a long table is looked at whole before it is told."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 30_000)
    late = np.where(y, "yes", "no").astype(object)
    late[-1] = "no" if y[-1] else "yes"
    table = pd.DataFrame({"late": late, "x": rng.random(30_000), "y": y})
    assert check_table(table).warnings == []
    table["late"] = np.where(y, "yes", "no")
    assert "'late' alone tells 'y'" in check_table(table).warnings[0]
    words = [f"w{i // 2}" for i in range(60)]
    assert check_table(frame(y=[i // 2 % 2 for i in range(60)], word=words)).warnings == []


def test_text_where_numbers_were_promised_is_refused_at_its_place(tmp_path: Path) -> None:
    """task='regression' with a word in the target names the line."""
    file = tmp_path / "t.csv"
    file.write_text("x,y\n" + "\n".join(f"{i},{i}.5" for i in range(20)) + "\n3,oops\n")
    with pytest.raises(TableError, match=r"t\.csv, line 22, column 'y': 'oops' is not a number") as error:
        check_table(read_table(file), TrainOptions(task="regression"), path=file)
    assert (error.value.line, error.value.column) == (22, "y")


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"y": ["p"] * 60}, "one class only, 'p'"),
        ({"y": [3.5] * 60}, "3.5 in every row"),
        ({"y": [None] * 60}, "0 rows"),
        ({"y": [f"w{i}" for i in range(60)]}, "60 classes in 60 rows"),
        ({"y": pd.date_range("2020-01-01", periods=60)}, "holds dates"),
        ({"y": [1.0, np.inf] * 30}, "row 1: inf is infinite"),
        ({"y": range(60), "odd": [1, "a"] * 30}, "column 'odd', row 1: 'a' is a text after numbers"),
        ({"y": range(60), "odd": [[1], [2]] * 30}, "column 'odd', row 0: list"),
    ],
)
def test_what_cannot_be_learnt_is_refused_with_the_reason(columns: dict[str, object], words: str) -> None:
    """The message names the column and what is wrong with it."""
    with pytest.raises(TableError) as error:
        check_table(frame(**columns))
    assert words in str(error.value)


def test_too_few_rows_and_no_rows_are_refused() -> None:
    """A header without rows and a handful of rows are told apart from other errors."""
    with pytest.raises(TableError, match="no rows"):
        check_table(pd.DataFrame({"x": [], "y": []}))
    with pytest.raises(TableError, match="3 rows .* at least 10"):
        check_table(pd.DataFrame({"x": [1, 2, 3], "y": [1, 2, 3]}))
    with pytest.raises(TableError, match="no column to learn from"):
        check_table(pd.DataFrame({"c": [1] * 20, "y": range(20)}))


def test_other_separators_are_hinted_at_and_can_be_named(tmp_path: Path) -> None:
    """A file with semicolons is read as the one column that it is, and the error says what to pass."""
    path = tmp_path / "t.csv"
    path.write_text("size;kind\n" + "".join(f"{n};{'ab'[n % 2]}\n" for n in range(20)))
    with pytest.raises(TableError, match="'kind' is not in .*delimiter=';'"):
        check_table(read_table(path), TrainOptions(target="kind"), path=path)
    options = TrainOptions(target="kind", delimiter=";")
    frame, _ = open_table(path, options)
    assert check_table(frame, options).features == ["size"]


def test_warnings_name_the_line_also_of_a_table_that_was_read_before(tmp_path: Path, root: Path) -> None:
    """A thread is handed the table itself; its warnings still name a line of the file."""
    path = tmp_path / "t.csv"
    rows = [f"{n + 0.5},{n % 7},{'ab'[n % 2]}" for n in range(30)]
    path.write_text("\n".join(["size,weight,kind", *rows, "unknown,1,a"]) + "\n")
    for runner in ("thread", "process"):
        job = tk.train(path, target="kind", epochs=1, hidden=4, runner=runner)
        job.result(timeout=60)
        warned = " ".join(event["message"] for event in job.events() if event["event"] == "warning")
        assert "line 32" in warned, warned


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("n/a", r"because of 'n/a' in line 42; .*pass missing=\('n/a',\)"),
        ("1,5", r"are '0,000' and the others numbers\? Write a point, not a comma"),
    ],
)
def test_a_target_that_was_to_be_numbers_says_what_spoils_it(tmp_path: Path, cell: str, words: str) -> None:
    """One stray word, or decimal commas: not an id or free text, which nobody could act upon."""
    file = tmp_path / "t.csv"
    rows = [f"{i};{i / 7:.3f}" for i in range(40)] + [f"40;{cell}"]
    text = "\n".join(["x;t", *rows]) + "\n"
    file.write_text(text.replace(".", ",") if cell == "1,5" else text)
    frame = read_table(file, delimiter=";")
    with pytest.raises(TableError, match=words):
        check_table(frame, TrainOptions(target="t"), path=file)


def test_tables_are_taken_as_they_are_named(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path below the home folder, a column with a number for a name; what is no table learns how to be one."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "t.csv").write_text("0,1\n" + "".join(f"{i},{i % 3}\n" for i in range(30)))
    assert tk.train("~/t.csv", target=1, epochs=1).wait(60) is Status.COMPLETED
    with pytest.raises(TableError, match=r"got ndarray: make a table with pandas\.DataFrame\(\.\.\.\)"):
        tk.train(np.zeros((30, 2)))  # type: ignore[arg-type]
    with pytest.raises(TableError, match="addresses on the web are not read; download"):
        tk.train("https://example.org/t.csv", target="y")


@pytest.mark.parametrize(
    ("names", "target"),
    [
        (["label", "y", "a"], "y"),
        (["target", "label", "a"], "target"),
        (["a", "Y"], "Y"),
        (["species", "a"], "species"),
        (["a", "class", "price"], "class"),
    ],
)
def test_launcher_and_train_propose_the_same_target(names: list[str], target: str) -> None:
    """One called y, target or label is taken; another usual one is what the error proposes."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({name: rng.integers(0, 2, 40) for name in names})
    assert preview(table)["target"] == target
    if target.lower() in TARGETS:
        assert check_table(table).target == target
    else:
        with pytest.raises(TableError, match=f"for example target='{target}'"):
            check_table(table)
