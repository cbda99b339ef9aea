"""Lines that make no sense, in any stream of a job: every reader passes over them, and reads the others."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import trainkit as tk
from trainkit.api.history import metrics_frame
from trainkit.api.view import standing_warnings
from trainkit.cli.watching import EpochReader, updates
from trainkit.files.endings import Ending
from trainkit.files.record import EndedBy, Record, Status
from trainkit.files.recorder import Recorder
from trainkit.files.store import Store
from trainkit.files.streams import tail
from trainkit.panels.feed import JobFeed
from trainkit.panels.series import History as Series
from trainkit.resuming.steering import History, Plan, history_of

ODD_VALUES: list[Any] = [
    None, True, 0, -1, 3, 2**70, 10**400, 0.5, -0.0, "", "NaN", "Infinity", "text", [], [1], [[1, 2], [3]], {},
    {"a": 1}, [1, 1, 1, 1], [1, 2], "stop", "user", {"lr": "NaN"}, {"lr": [1]}, {"": {}},
]  # fmt: skip
_value = st.sampled_from(ODD_VALUES)
_metrics = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(["attempt", "step", "epoch", "time", "loss", "acc", ""], _value | st.integers(1, 3))
)
_kind = st.sampled_from(["state", "request", "change", "ending", "warning", "cleared", "checkpoint"])
_fields = [
    "attempt",
    "step",
    "time",
    "params",
    "before",
    "at",
    "planned",
    "changes",
    "action",
    "ending",
    "ended_by",
    "message",
    "cause",
    "status",
]
_events = st.fixed_dictionaries({"event": _kind | _value}, optional=dict.fromkeys(_fields, _value))
_raw = st.sampled_from([b"[" * 5000, b'{"a":' * 5000, b"\xff", b"{", b'{"loss":' + b"[" * 900 + b"]" * 900 + b"}"])


def _lines(items: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[list[bytes]]:
    return st.lists(items.map(lambda item: json.dumps(item).encode()) | _raw, max_size=6)


def a_finished_job(folder: Path) -> Store:
    """A job with three sound lines of metrics, and two warnings."""
    store = Store(folder)
    record = Record(job_id="a", name="a", status=Status.RUNNING, runner="thread")
    lock = store.create(record)
    recorder = Recorder(store, record)
    recorder.metrics.pending += [(step, 1, float(step), {"loss": 1.0 / step}) for step in (1, 2, 3)]
    recorder.warn("first")
    recorder.warn("second", cause="cause")
    recorder.close(Ending(Status.COMPLETED, EndedBy.EPOCHS))
    lock.close()
    return store


@settings(max_examples=150)
@given(_lines(_metrics), _lines(_events))
def test_every_reader_passes_over_lines_that_make_no_sense(metrics: list[bytes], events: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = a_finished_job(Path(folder))
        paths = store.paths("a")
        for path, lines in ((paths.metrics, metrics), (paths.events, events)):
            sound = path.read_bytes()
            path.write_bytes(b"".join(line + b"\n" for line in lines) + sound)
        job = tk.attach("a", root=folder)
        frame = metrics_frame(paths.metrics)
        assert all(dtype.kind in "if" for dtype in frame.dtypes)
        series = Series(paths.metrics)
        series.read()
        assert {points.x.ndim for points in series.metrics.values()} == {1}
        assert {each.dtype.kind for points in series.metrics.values() for each in (points.x, points.y)} == {"f"}
        feed = JobFeed(store, "a")
        content, _ = feed.full()
        assert json.dumps(content["card"])
        feed.want_full()
        feed.next()
        feed.window(["loss"], 0.0, 5.0)
        EpochReader().read(tail(paths.metrics)[0], ended=True)
        assert [update.record.status for update in updates(job)] == [Status.COMPLETED]
        standing_warnings(job.events())
        history_of(paths.events, Plan())
        assert "loss" in frame.columns


def test_sound_lines_are_read_between_odd_ones(tmp_path: Path) -> None:
    store = a_finished_job(tmp_path)
    paths = store.paths("a")
    with open(paths.metrics, "ab") as file:
        for value in ODD_VALUES:
            file.write(json.dumps({"attempt": 1, "step": 9, "odd": value}).encode() + b"\n" + b"[" * 5000 + b"\n")
            file.write(json.dumps({"attempt": "one", "step": value, "loss": value}).encode() + b"\n")
        file.write(b'{"attempt":1,"epoch":1,"step":100,"time":4.0,"loss":0.125}\n')
    frame = metrics_frame(paths.metrics)
    assert frame["loss"].loc[[1, 2, 3, 100]].tolist() == [1.0, 0.5, pytest.approx(1 / 3), 0.125]
    series = Series(paths.metrics)
    series.read()
    loss = dict(zip(series.metrics["loss"].x, series.metrics["loss"].y, strict=True))
    assert (loss[1.0], loss[2.0], loss[100.0]) == (1.0, 0.5, 0.125)


SOUND = [
    {"event": "state", "attempt": 1, "changes": 0, "params": {"lr": 0.1}},
    {"event": "change", "attempt": 1, "at": [1, 1, 1, 5], "params": {"lr": 0.2}},
    {"event": "ending", "attempt": 1, "at": [1, 2, 1, 9], "ending": "stop", "ended_by": "user"},
]


@pytest.mark.parametrize(
    "odd",
    [
        {"event": "state", "changes": "two", "params": {}},
        {"event": "state", "changes": -1, "params": {}},
        {"event": "state", "changes": 1},
        {"event": "state", "changes": 1, "params": [1]},
        {"event": "request", "action": "set"},
        {"event": "request", "action": "set", "params": 3},
        {"event": "change", "at": [1, 2], "params": {"lr": 1.0}},
        {"event": "change", "at": "here", "params": {"lr": 1.0}},
        {"event": "change", "at": [1, 1, 1, 2.5], "params": {"lr": 1.0}},
        {"event": "change", "at": [1, 1, 1, 2], "params": [0.1]},
        {"event": "change", "at": [1, 1, 1, 2]},
        {"event": "ending", "at": [1, 1, 1, 2]},
        {"event": "ending", "at": [1, 1, 1, 2], "ending": "kill -9", "ended_by": "user"},
        {"event": "ending", "at": [1, 1, 1, 2], "ending": "stop", "ended_by": "magic"},
    ],
)
def test_an_event_that_cannot_be_followed_is_passed_over_and_counted(odd: dict[str, Any]) -> None:
    followed = History(SOUND)
    history = History([SOUND[0], odd, SOUND[1], odd, SOUND[2]])
    assert (history.made, history.coming, history.ending) == (followed.made, followed.coming, followed.ending)
    assert (history.not_followed, followed.not_followed) == (2, 0)


def test_a_job_with_such_events_is_resumed_and_repeated_with_a_warning(root: Path) -> None:
    def fit(run: Any) -> None:
        run.track(model=torch.nn.Linear(1, 1))
        for _ in run.epochs(2):
            for _ in run.batches(range(3)):
                if run.step == 5 and run._recorder.record.attempt == 1 and run.name == "first":
                    run.save_now()
                    raise KeyError("cut")

    job = tk.submit(fit, name="first")
    assert job.wait() is Status.FAILED
    with open(job.paths.events, "ab") as file:
        file.write(b'{"event":"change","attempt":1,"at":"here","params":7}\n' + b"[" * 5000 + b"\n")
    job.resume()
    assert job.wait() is Status.COMPLETED
    again = job.replay()
    again.wait()
    for each in (job, again):
        assert sum("make no sense and were passed over" in text for text in each.warnings()) == 1
