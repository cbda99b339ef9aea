"""New rows in another form than the training rows: converted exactly, or refused; never read as something else."""

from __future__ import annotations

import datetime
import decimal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from trainkit.errors import TableError, TrainkitError
from trainkit.tabular.conversion import convert
from trainkit.tabular.features import Category, Features, Number, learn
from trainkit.tabular.fit import fit
from trainkit.tabular.model import TableModel, load_model

BITS = [False, True, True, False]
DAYS = pd.Series(pd.to_datetime(["2024-03-01", "2024-03-02", "2024-04-02", "2024-12-31"]))
SPANS = pd.Series(pd.to_timedelta([0, 1, 1, 0], unit="s"))


def arrow(values: Any, kind: pa.DataType) -> pd.Series:
    return pd.Series(pd.array(values, dtype=pd.ArrowDtype(kind)))


def texts(function: Callable[[Any], str], values: Any = BITS) -> pd.Series:
    return pd.Series([function(value) for value in values], dtype="str")


#: The same four rows in many forms.
FORMS: dict[str, pd.Series] = {
    "bool": pd.Series(BITS),
    "bool as objects": pd.Series(BITS, dtype=object),
    "boolean": pd.Series(BITS, dtype="boolean"),
    "bool of Arrow": arrow(BITS, pa.bool_()),
    "categorical bool": pd.Series(BITS, dtype="category"),
    "int": pd.Series([int(bit) for bit in BITS]),
    "int8": pd.Series([int(bit) for bit in BITS], dtype="int8"),
    "Int64": pd.Series([int(bit) for bit in BITS], dtype="Int64"),
    "int of Arrow": arrow([int(bit) for bit in BITS], pa.int64()),
    "int as objects": pd.Series([int(bit) for bit in BITS], dtype=object),
    "float": pd.Series([float(bit) for bit in BITS]),
    "float32": pd.Series([float(bit) for bit in BITS], dtype="float32"),
    "decimals": pd.Series([decimal.Decimal(int(bit)) for bit in BITS]),
    "categorical int": pd.Series([int(bit) for bit in BITS], dtype="category"),
    "categorical float": pd.Series([float(bit) for bit in BITS], dtype="category"),
    "0 and 1 as texts": texts(lambda bit: str(int(bit))),
    "0.0 and 1.0 as texts": texts(lambda bit: f"{int(bit)}.0"),
    "True and False as texts": texts(str),
    "true and false": texts(lambda bit: str(bit).lower()),
    "TRUE and FALSE": texts(lambda bit: str(bit).upper()),
    "yes and no": texts(lambda bit: "yes" if bit else "no"),
    "Yes and No": texts(lambda bit: "Yes" if bit else "No"),
    "codes": texts(lambda bit: f"{int(bit):03}"),
    "codes as objects": pd.Series(["000", "001", "001", "000"], dtype=object),
    "codes of Arrow": arrow(["000", "001", "001", "000"], pa.string()),
    "categorical codes": pd.Series(["000", "001", "001", "000"], dtype="category"),
    "decimal commas": texts(lambda bit: f"{int(bit)},0"),
    "dates": DAYS,
    "dates in s": DAYS.astype("datetime64[s]"),
    "dates in ns": DAYS.astype("datetime64[ns]"),
    "dates of Arrow": arrow(DAYS.tolist(), pa.timestamp("us")),
    "days of Arrow": arrow([day.date() for day in DAYS], pa.date32()),
    "date objects": pd.Series([day.date() for day in DAYS], dtype=object),
    "datetime objects": pd.Series([day.to_pydatetime() for day in DAYS], dtype=object),
    "datetime64 objects": pd.Series([np.datetime64(day, "D") for day in DAYS.dt.date], dtype=object),
    "periods": DAYS.dt.to_period("D"),
    "categorical dates": DAYS.astype("category"),
    "ISO dates": texts(lambda day: f"{day:%Y-%m-%d}", DAYS),
    "ISO times": texts(lambda day: f"{day:%Y-%m-%dT%H:%M:%S}", DAYS),
    "day first": texts(lambda day: f"{day:%d/%m/%Y}", DAYS),
    "month first": texts(lambda day: f"{day:%m/%d/%Y}", DAYS),
    "German dates": texts(lambda day: f"{day:%d.%m.%Y}", DAYS),
    "dates without dashes": texts(lambda day: f"{day:%Y%m%d}", DAYS),
    "Unix seconds": DAYS.astype("datetime64[s]").astype("int64"),
    "Unix milliseconds": DAYS.astype("datetime64[ms]").astype("int64"),
    "Unix seconds as floats": DAYS.astype("datetime64[s]").astype("int64").astype(float),
    "years": DAYS.dt.year,
    "dates in UTC": DAYS.dt.tz_localize("UTC"),
    "dates in Tokyo": DAYS.dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo"),
    "datetime objects in UTC": pd.Series(
        [day.to_pydatetime().replace(tzinfo=datetime.timezone.utc) for day in DAYS], dtype=object
    ),
    "ISO times in UTC": texts(lambda day: f"{day:%Y-%m-%dT%H:%M:%SZ}", DAYS),
    "spans": SPANS,
    "spans in s": SPANS.astype("timedelta64[s]"),
    "span objects": pd.Series(SPANS.tolist(), dtype=object),
    "spans as texts": texts(str, SPANS),
}
NUMBERS = {"int", "int8", "Int64", "int of Arrow", "int as objects", "float", "float32", "decimals"} | {
    "categorical int",
    "categorical float",
}
BOOLEANS = {"bool", "bool as objects", "boolean", "bool of Arrow", "categorical bool"}
NUMBER_TEXTS = {"0 and 1 as texts", "0.0 and 1.0 as texts"}
BOOLEAN_TEXTS = {"True and False as texts", "true and false", "TRUE and FALSE"}
CODES = {"codes", "codes as objects", "codes of Arrow", "categorical codes"}
DATES = {"dates", "dates in s", "dates in ns", "dates of Arrow", "days of Arrow", "date objects"} | {
    *("datetime objects", "datetime64 objects", "periods", "categorical dates", "ISO dates", "ISO times"),
}
ZONED = {"dates in UTC", "dates in Tokyo", "datetime objects in UTC", "ISO times in UTC"}
SPANS_ = {"spans", "spans in s", "span objects"}
NUMERIC = NUMBERS | BOOLEANS | NUMBER_TEXTS
#: Numbers all the same, but other ones.
OTHER_NUMBERS = {"Unix seconds", "Unix milliseconds", "Unix seconds as floats", "years", "dates without dashes"}

#: For each form in training: the forms of new rows that mean the same.  All others are refused.
EXACT: dict[str, set[str]] = {
    "bool": BOOLEANS | NUMBERS | BOOLEAN_TEXTS | {"0 and 1 as texts"},
    "boolean": BOOLEANS | NUMBERS | BOOLEAN_TEXTS | {"0 and 1 as texts"},
    "categorical bool": BOOLEANS | NUMBERS | BOOLEAN_TEXTS | {"0 and 1 as texts"},
    "int": NUMERIC,
    "float": NUMERIC,
    "decimals": NUMERIC,
    "categorical int": NUMBERS | {"0 and 1 as texts"},
    "categorical float": NUMBERS | {"0 and 1 as texts"},
    "0 and 1 as texts": NUMBERS | {"0 and 1 as texts"},
    "True and False as texts": BOOLEANS | {"True and False as texts"},
    "yes and no": {"yes and no"},
    "codes": CODES,
    "categorical codes": CODES,
    "dates": DATES,
    "date objects": DATES,
    "dates in UTC": ZONED,
    "dates in Tokyo": ZONED,
    "spans": SPANS_,
}


def encoded(features: Features, frame: pd.DataFrame) -> list[Any]:
    return [part.tolist() for part in features.encode(frame)]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("trained", EXACT)
def test_every_form_is_converted_exactly_or_refused(trained: str) -> None:
    """For all pairs of forms: equal values are read the same, and all else is an error that names the column."""
    frame = pd.DataFrame({"x": FORMS[trained]})
    features = learn(frame, ["x"])
    expected, wrong = encoded(features, frame), {}
    for given, column in FORMS.items():
        try:
            found = encoded(features, convert(pd.DataFrame({"x": column}), features))
            result = "read the same" if found == expected else "read otherwise"
        except TableError as error:
            result = "refused" if error.column == "x" else f"refused without its column: {error}"
        right = "read the same" if given in EXACT[trained] else "refused"
        if EXACT[trained] is NUMERIC and given in OTHER_NUMBERS:
            right = "read otherwise"
        if result != right:
            wrong[given] = result
    assert not wrong


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("trained", EXACT)
def test_missing_values_are_missing_in_every_form(trained: str) -> None:
    """With a value missing, or all of them, a form is read as before and the missing one as missing."""
    frame = pd.DataFrame({"x": FORMS[trained].reindex([0, 1, 2, 9]).reset_index(drop=True)})
    features = learn(frame, ["x"])
    assert repr(encoded(features, convert(frame, features))) == repr(encoded(features, frame))
    for nothing in (None, np.nan, pd.NA, pd.NaT):
        numbers, categories = features.encode(convert(pd.DataFrame({"x": [nothing, nothing]}), features))
        assert np.isnan(numbers).all()
        assert (categories == 1).all(), "training had missing ones"


def test_a_unit_that_training_has_not_seen_is_refused() -> None:
    """Where slips far from all other values are read as missing, a column of nothing else is in another unit."""
    values = np.random.default_rng(0).normal(100, 10, 5000)
    values[7] = 1e9
    features = learn(pd.DataFrame({"x": values}), ["x"])
    with pytest.raises(TableError, match="far outside the range of training; are they in another unit"):
        convert(pd.DataFrame({"x": values[:6] * 1e6}), features)
    assert len(convert(pd.DataFrame({"x": [1e9]}), features)) == 1


@pytest.mark.parametrize(
    ("trained", "given", "words"),
    [
        ("codes", [0, 1], r"holds numbers \(0\); the model needs texts, such as '000', '001'; .*dtype=str"),
        ("bool", ["yes", "no"], r"holds texts \('yes'\); the model needs True and False; map the values"),
        ("bool", [2, 1], r"holds numbers \(2\); the model needs True and False"),
        ("dates", [1_700_000_000], r"holds numbers \(1700000000\); .*pandas.to_datetime\(column, unit='s'\)"),
        ("dates", ["2024-01-31", "31/12/2024"], r"holds texts \('31/12/2024'\); .*write them as 2024-12-31"),
        ("int", ["1", "1,5"], r"holds texts \('1,5'\); the model needs numbers; write a point, not a comma"),
        ("dates", FORMS["dates in UTC"], r"with a time zone .*convert them .*tz_convert\(None\)"),
        ("dates in UTC", FORMS["dates"], r"needs dates with a time zone; .*tz_localize\('UTC'\)"),
        ("spans", [1.5], r"holds numbers \(1.5\); the model needs time spans; .*pandas.to_timedelta"),
        ("int", FORMS["spans"], r"holds time spans .*total_seconds"),
        (
            "yes and no",
            ["Yes", "No"],
            r"training has seen none of its values, such as 'Yes'; it has seen 'no', 'yes'",
        ),
    ],
)
def test_a_refusal_says_what_to_do(trained: str, given: Any, words: str) -> None:
    """What was found, what is needed, and how to get there."""
    features = learn(pd.DataFrame({"x": FORMS[trained]}), ["x"])
    with pytest.raises(TableError, match=words):
        convert(pd.DataFrame({"x": given}), features)


def test_unseen_texts_are_unknown_and_told_of_where_they_are_many() -> None:
    """A few are fine, most of a column or a single row are a warning, all of several rows are an error."""
    features = learn(pd.DataFrame({"x": ["a", "b", "c"] * 4}), ["x"])

    def indices(*texts: str | None) -> Any:
        return features.encode(convert(pd.DataFrame({"x": texts}), features))[1][:, 0].tolist()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert indices("a", "b", "new") == [2, 3, 0]
        assert indices("a", None) == [2, 0]
        assert indices(None, None) == [0, 0]
    for some in (["new"], ["a", "new", "newer"], [None, "new"]):
        with pytest.warns(UserWarning, match="training has not seen .* values, such as 'new'"):
            indices(*some)
    with pytest.raises(TableError, match="leave them missing"):
        indices("new", "new")


def test_intervals_are_categories_in_every_form() -> None:
    """What pandas.cut made stays a category as a row, as objects, and without the categorical type."""
    column = pd.Series(pd.cut(np.arange(120) / 40, [-1, 1, 2, 3]))
    features = learn(pd.DataFrame({"x": column}), ["x"])
    expected = convert(pd.DataFrame({"x": column}), features)["x"].tolist()
    for form in (column.astype(object), pd.Series(pd.arrays.IntervalArray(column))):
        assert convert(pd.DataFrame({"x": form}), features)["x"].tolist() == expected


def test_models_from_before_kinds_were_kept_still_predict() -> None:
    """A file of an older version has no kinds; they follow from what it has."""
    frame = pd.DataFrame({"b": BITS, "t": ["x", "y"] * 2, "n": [1.0, 2.0, 3.0, 4.0], "d": DAYS})
    plain = msgspec.to_builtins(learn(frame, ["b", "t", "n", "d"]))
    for column in plain["columns"]:
        del column["kind"]
    features = msgspec.convert(plain, Features)
    expected = encoded(features, frame)
    assert encoded(features, convert(frame, features)) == expected
    assert encoded(features, convert(frame.assign(b=[0, 1, 1, 0], d=FORMS["dates in UTC"]), features)) == expected
    with pytest.raises(TableError, match="True and False"):
        convert(frame.assign(b=["yes", "no"] * 2), features)


# --- a whole model ------------------------------------------------------------------------------------


@pytest.fixture
def model(run: Any) -> TableModel:
    return fit(run, table(), target="y", epochs=2, hidden=8, missing=["n/a"])


def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    bits = rng.random(60) < 0.5
    return pd.DataFrame(
        {
            "size": rng.normal(size=60),
            "count": rng.integers(0, 9, 60),
            "smoker": bits,
            "code": np.where(bits, "007", "010"),
            "day": pd.date_range("2020-01-01", periods=60),
            "wait": pd.to_timedelta(rng.integers(0, 999, 60), unit="s"),
            "group": pd.Categorical(rng.integers(1, 4, 60)),
            "y": np.where(bits, "in", "out"),
        }
    )


def test_one_row_is_predicted_in_every_form(model: TableModel) -> None:
    """A dict, a Series, a list of dicts, a table of one row, also of objects: all the same probabilities."""
    rows = table()
    one = rows.iloc[[3]]
    expected = model.predict_proba(one).to_numpy().tolist()
    series = rows.iloc[3]
    forms: dict[str, Any] = {
        "a Series": series,
        "a dict": series.to_dict(),
        "a list of dicts": [series.to_dict()],
        "a dict of lists": {name: [value] for name, value in series.items()},
        "a table of objects": one.astype(object),
        "a row made by hand": pd.DataFrame(series).T,
        "texts": {
            **series.to_dict(),
            "size": repr(float(series["size"])),
            "count": str(series["count"]),
            "smoker": "true",
        },
        "an Arrow table": pa.Table.from_pandas(one),
    }
    found = {name: model.predict_proba(form).to_numpy().tolist() for name, form in forms.items()}
    assert {name: value for name, value in found.items() if value != expected} == {}
    assert model.predict(series).index.tolist() == [3]
    assert model.predict(series.to_dict()).tolist() == model.predict(one).tolist()
    assert len(model.predict(rows.head(0))) == 0


@pytest.mark.parametrize(
    ("rows", "received"),
    [
        (3, "int 3"),
        ("rows.csv", "str"),
        (None, "NoneType"),
        ([[1, 2]], "a list of list"),
        (np.zeros((2, 3)), "ndarray"),
        ({1, 2}, "set"),
        ([], "an empty list"),
        ({"a": [1, 2], "b": [1]}, "a dict whose values are not all of one length"),
    ],
)
def test_what_is_not_a_row_is_refused(model: TableModel, rows: Any, received: str) -> None:
    """The message names what predict takes, and what it got."""
    words = f"predict takes a DataFrame or another table, one row as a dict .*; got {received}$"
    with pytest.raises(TrainkitError, match=words):
        model.predict(rows)


def test_incomplete_rows_are_refused(model: TableModel) -> None:
    """A column that is missing or a duplicate is named; more columns, and another order, are fine."""
    rows = table()
    with pytest.raises(TableError, match="column 'size' is not in the table.*the model needs size, count"):
        model.predict({"count": 1})
    with pytest.raises(TableError, match="'size'"):
        model.predict(pd.concat([rows, rows[["size"]]], axis=1))
    with pytest.raises(TableError, match="'size' is not in the table"):
        model.predict(rows["count"])  # a column is not a row
    assert model.predict(rows[rows.columns[::-1]].assign(more=1)).equals(model.predict(rows))


def test_words_for_missing_are_missing_in_new_rows_too(model: TableModel) -> None:
    """Texts that training read as missing are missing in new rows, too."""
    rows = table().head(2)
    expected = model.predict_proba(rows.assign(size=[None, 1.5], code=[None, "007"]))
    assert model.predict_proba(rows.assign(size=["n/a", "1.5"], code=["n/a", "007"])).equals(expected)


def test_kinds_survive_the_model_file(model: TableModel, tmp_path: Path) -> None:
    """A model that was loaded refuses and converts as the one that was trained."""
    model.save(tmp_path / "m.pt")
    loaded = load_model(tmp_path / "m.pt")
    assert [column.kind for column in loaded.features.columns] == [
        column.kind for column in model.features.columns
    ]
    kinds = dict.fromkeys((column.name, column.kind) for column in loaded.features.columns)
    expected = [("size", "number"), ("count", "number"), ("smoker", "boolean"), ("code", "text"), ("day", "date")]
    assert list(kinds) == [*expected, ("wait", "duration"), ("group", "number")]
    assert isinstance(loaded.features.columns[0], Number)
    assert isinstance(loaded.features.columns[2], Category)
    with pytest.raises(TableError, match="dtype=str"):
        loaded.predict(table().assign(code=7))
