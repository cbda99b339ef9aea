"""The record: states, strict JSON, the schema, and the older shape."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

import trainkit
from trainkit.errors import RecordError, StateError
from trainkit.files.record import (
    TERMINAL,
    Record,
    Status,
    check_change,
    decode,
    encode,
    from_plain,
    json_schema,
    to_plain,
)

SHIPPED = json.loads((Path(trainkit.__file__).parent / "files" / "record.schema.json").read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SHIPPED)

#: Written out, not derived: this is the contract that the code must keep.
ALLOWED = {
    ("QUEUED", "RUNNING"),
    ("QUEUED", "STOPPING"),
    ("QUEUED", "STOPPED"),
    ("QUEUED", "FAILED"),
    ("QUEUED", "INTERRUPTED"),
    ("RUNNING", "PAUSED"),
    ("RUNNING", "STOPPING"),
    ("RUNNING", "COMPLETED"),
    ("RUNNING", "STOPPED"),
    ("RUNNING", "FAILED"),
    ("RUNNING", "INTERRUPTED"),
    ("PAUSED", "RUNNING"),
    ("PAUSED", "STOPPING"),
    ("PAUSED", "COMPLETED"),
    ("PAUSED", "STOPPED"),
    ("PAUSED", "FAILED"),
    ("PAUSED", "INTERRUPTED"),
    ("STOPPING", "COMPLETED"),
    ("STOPPING", "STOPPED"),
    ("STOPPING", "FAILED"),
    ("STOPPING", "INTERRUPTED"),
}


@pytest.mark.parametrize(("old", "new"), list(itertools.product(Status, Status)))
def test_every_pair_of_states(old: Status, new: Status) -> None:
    """Each of the 64 changes is allowed or refused as the table says."""
    if (old, new) in ALLOWED:
        check_change(old, new)
    else:
        with pytest.raises(StateError, match=f"from {old} to {new}"):
            check_change(old, new)


def test_terminal_states_are_final() -> None:
    """Nothing follows a terminal state."""
    assert {"COMPLETED", "STOPPED", "FAILED", "INTERRUPTED"} == TERMINAL
    assert not [pair for pair in ALLOWED if pair[0] in TERMINAL]


numbers = st.floats(allow_nan=True, allow_infinity=True)
names = st.text(max_size=12)


@given(
    loss=st.none() | numbers,
    metrics=st.dictionaries(names, numbers, max_size=4),
    params=st.dictionaries(names, st.integers(-(2**53), 2**53) | numbers | st.booleans() | st.none(), max_size=4),
    message=names,
    name=names | st.sampled_from(["NaN", "Infinity"]),
)
def test_records_survive_json_and_satisfy_the_schema(
    loss: float | None, metrics: dict[str, float], params: dict[str, Any], message: str, name: str
) -> None:
    """Any record reads back equal, is strict JSON (no NaN literal), and is valid under the shipped schema."""
    record = Record(
        job_id="a", name=name, status=Status.RUNNING, loss=loss, metrics=metrics, params=params, message=message
    )
    data = encode(record)
    plain = json.loads(data, parse_constant=pytest.fail)
    VALIDATOR.validate(plain)
    assert repr(decode(data)) == repr(record)


def meaning(schema: Any) -> Any:
    """Return a JSON Schema without what the library that generates it may word or order in another way."""
    if isinstance(schema, dict):
        return {
            key: meaning(item)
            for key, item in schema.items()
            if key != "title" and not (key == "description" and isinstance(item, str))
        }
    if isinstance(schema, list):
        return sorted((meaning(item) for item in schema), key=repr)
    return schema


def test_shipped_schema_matches_the_code() -> None:
    """record.schema.json in the package is generated from the code; neither changes without the other."""
    assert meaning(SHIPPED) == meaning(json_schema())


def test_schema_descriptions_are_not_indented() -> None:
    """They come from docstrings, whose indentation does not belong in a published file."""
    text = json.dumps(SHIPPED)
    assert "description" in text
    assert "\\n   " not in text


def test_the_schema_refuses_what_is_no_record() -> None:
    """The schema is not a formality: wrong states and wrong types are refused."""
    good = json.loads(encode(Record(job_id="a", name="a", status=Status.QUEUED)))
    for wrong in ({"status": "DONE"}, {"progress": "much"}, {"loss": "nan"}, {"epoch": 1.5}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**good, **wrong}, json_schema())


def test_non_finite_numbers_are_strings() -> None:
    """The protobuf mapping, which browsers and jq can read."""
    assert to_plain([math.nan, math.inf, -math.inf, 1.5]) == ["NaN", "Infinity", "-Infinity", 1.5]
    back = from_plain(["NaN", "Infinity", "-Infinity", 1.5])
    assert math.isnan(back[0])
    assert back[1:] == [math.inf, -math.inf, 1.5]


@pytest.mark.parametrize(
    ("status", "read_as", "phase"),
    [
        ("STARTING", Status.RUNNING, "starting"),
        ("LOADING", Status.RUNNING, "loading"),
        ("ERROR", Status.FAILED, None),
        ("COMPLETED", Status.COMPLETED, None),
    ],
)
def test_the_older_shape(status: str, read_as: Status, phase: str | None) -> None:
    """Records without schema_version read as they were meant, whether their times are numbers or ISO text."""
    older = {
        "job_id": "job_1",
        "status": status,
        "progress": 40,
        "epoch": 2,
        "step": 7,
        "total_steps": 20,
        "loss": 0.5,
        "message": "so far",
        "created_at": "2025-10-13T02:45:20+00:00",
        "checkpoint": "models/job_1.pt",
        "finished_at": None,
        "pid": 12,
        "params": {"lr": 0.1},
    }
    record = decode(json.dumps(older))
    assert (record.status, record.phase, record.name) == (read_as, phase, "job_1")
    assert record.created_at == 1760323520.0
    assert record.checkpoint is not None
    assert record.checkpoint.path == "models/job_1.pt"
    assert decode(json.dumps({**older, "created_at": 12.5})).created_at == 12.5


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not JSON"),
        (b'{"job_id": "a", "sta', "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[]", "one JSON object"),
        (b'{"job_id": "a", "status": "DONE"}', r"\$\.status"),
        (b'{"job_id": "a", "status": "RUNNING", "epoch": "two"}', r"\$\.epoch"),
        (b'{"job_id": "a", "status": "RUNNING", "created_at": "yesterday"}', "created_at"),
        (b'{"schema_version": 2, "job_id": "a", "status": "RUNNING"}', "upgrade trainkit"),
        (b'{"schema_version": 1, "job_id": "a"}', "name|status"),
    ],
)
def test_damaged_records_are_refused_with_the_place(data: bytes, says: str) -> None:
    """Whatever is wrong with a record, it is a RecordError that says what and where."""
    with pytest.raises(RecordError, match=says):
        decode(data)
