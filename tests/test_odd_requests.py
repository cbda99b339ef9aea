"""Lines that anyone may append to a job's files, files that are emptied, and parts of a round that fail."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainkit.errors import StoreError
from trainkit.files.record import Record, Status
from trainkit.files.recorder import Recorder
from trainkit.files.store import Store
from trainkit.files.streams import Appender, decode_line, tail
from trainkit.training.run import Run

IGNORED = [
    b"\xff\xfe",
    b"null",
    b"[]",
    b"[" * 5000,
    b'{"a":' * 3000,
    b'{"action":"set","params":' + b'{"a":' * 300 + b"1" + b"}" * 301,
    b'{"action":"set","params":{"lr":' + b"9" * 5000 + b"}}",
    b'{"action":"set","params":{"lr":"abc"}}',
    b'{"action":"set","params":{"lr":1e999}}',
    b'{"action":"set","params":{"lr":"NaN"}}',
    b'{"action":"set","params":{"lr":null}}',
    b'{"action":"set","params":{"lr":{"a":[1]}}}',
    b'{"action":"set","params":{"lr":-1}}',
    b'{"action":"set","params":{"lr":true}}',
    b'{"action":"set","params":{"lr":' + b"9" * 400 + b"}}",
    b'{"action":"set","params":{"weight_decay":"Infinity"}}',
    b'{"action":"set","params":[]}',
    b'{"action":"set"}',
    b'{"action":["stop"]}',
    b'{"action":{"a":1}}',
    b'{"action":null}',
    b'{"action":7}',
    b"{}",
    b'{"action":"nonsense"}',
    b'{"action":"end_early"}',
    b'{"action":"st',
    b'{"action":"set","params":{"\\ud800":1}}',
    b"x" * 1_000_000,
]


@contextlib.contextmanager
def a_job(root: Path) -> Iterator[tuple[Recorder, Run]]:
    """A running job whose rounds are made by hand."""
    store = Store(root)
    record = Record(job_id="a", name="a", status=Status.RUNNING, runner="thread", params={"lr": 0.1})
    lock = store.create(record)
    seconds = iter(range(10**9))
    recorder = Recorder(store, record, ticks=lambda: float(next(seconds)))
    run = Run(recorder, record.params)
    recorder.before_refresh, recorder.on_request = run.report, run.control.receive
    try:
        yield recorder, run
    finally:
        recorder.detach()
        lock.close()


def warnings_of(recorder: Recorder) -> list[str]:
    """All warnings of the job, as a reader finds them."""
    events, _ = tail(recorder.store.paths("a").events)
    return [event["message"] for event in events if event["event"] == "warning"]


@pytest.mark.parametrize("line", IGNORED, ids=lambda line: repr(line[:50]))
def test_a_request_that_makes_no_sense_is_ignored_with_a_warning(root: Path, line: bytes) -> None:
    with a_job(root) as (recorder, run):
        with open(recorder.store.paths("a").requests, "ab") as file:
            file.write(line + b"\n" + line + b'\n{"action":"set","params":{"lr":0.5}}\n')
        recorder.tick()
        run.log(loss=1.0)
        recorder.store.request("a", "stop")
        recorder.tick()
        found = recorder.store.read("a")
        assert (found.status, found.params, found.metrics) == (Status.STOPPING, {"lr": 0.5}, {"loss": 1.0})
        (warning,) = warnings_of(recorder)
        assert warning.startswith("ignored a ")
        assert len(warning) < 500


@pytest.mark.parametrize(
    "line",
    [
        b'{"action":"checkpoint","x":1}',
        b'{"action":"resume"}',
        b"\n\n",
        b'{"action":"pause","release_gpu":"x"}\n{"action":"resume"}',
        b'{"action":"set","params":{"":1}}',
        b'{"action":"set","params":{"lr":99999999999999999999999999}}',
    ],
)
def test_a_request_that_is_only_unusual_is_taken(root: Path, line: bytes) -> None:
    with a_job(root) as (recorder, run):
        with open(recorder.store.paths("a").requests, "ab") as file:
            file.write(line + b"\n")
        recorder.tick()
        run.log(loss=1.0)
        recorder.tick()
        assert recorder.store.read("a").metrics == {"loss": 1.0}
        assert warnings_of(recorder) == []


def _emptied(path: Path) -> None:
    open(path, "w").close()


def _made_anew(path: Path) -> None:
    path.unlink()
    path.touch()


def _replaced_by_a_longer_one(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b'{"action":"set","params":{"momentum":0.9}}\n' * 20)
    os.replace(other, path)


def _rewritten_in_place(path: Path) -> None:
    path.write_bytes(b'{"action":"set","params":{"momentum":0.9}}\n' * 20)


@pytest.mark.parametrize("change", [_emptied, _made_anew, _replaced_by_a_longer_one, _rewritten_in_place])
def test_a_file_of_requests_that_was_replaced_is_read_anew(root: Path, change: Callable[[Path], None]) -> None:
    with a_job(root) as (recorder, run):
        recorder.tick()
        for lr in (0.2, 0.3, 0.4):
            recorder.store.request("a", "set", params={"lr": lr})
        recorder.tick()
        change(recorder.store.paths("a").requests)
        recorder.tick()
        recorder.store.request("a", "stop")
        recorder.tick()
        assert recorder.store.read("a").status is Status.STOPPING
        assert ["read again" in text for text in warnings_of(recorder)] == [True]
        momentum = [each for each in run.control.changes if "momentum" in each]
        assert len(momentum) == (0 if change in (_emptied, _made_anew) else 20)


def test_a_file_of_requests_that_was_removed_is_read_again_when_it_is_back(root: Path) -> None:
    with a_job(root) as (recorder, _):
        recorder.store.request("a", "set", params={"lr": 0.2})
        recorder.tick()
        path = recorder.store.paths("a").requests
        path.unlink()
        recorder.tick()
        path.touch()
        recorder.store.request("a", "stop")
        recorder.tick()
        assert recorder.store.read("a").status is Status.STOPPING
        assert ["was removed" in text for text in warnings_of(recorder)] == [True]


def test_a_file_that_only_grows_is_read_once(root: Path) -> None:
    """No request is acted on twice, and nothing is warned of."""
    with a_job(root) as (recorder, run):
        for at in range(30):
            recorder.store.request("a", "set", params={"lr": float(at)})
            if at % 3 == 0:
                recorder.tick()
        recorder.tick()
        assert run.control.changes == [{"lr": float(at)} for at in range(30)]
        assert warnings_of(recorder) == []


@pytest.mark.parametrize(
    "error", [KeyError("x"), RecursionError(), TypeError(), MemoryError(), StoreError("no"), OSError(5)]
)
@pytest.mark.parametrize("part", ["requests", "request", "metrics", "watching", "report", "speed"])
def test_a_part_of_a_round_that_fails_does_not_keep_the_others(
    root: Path, monkeypatch: pytest.MonkeyPatch, part: str, error: Exception
) -> None:
    """Each part of the recorder's work survives what another one raises, and it is warned of once."""

    def fail(*_: Any, **__: Any) -> Any:
        raise error

    with a_job(root) as (recorder, run):
        run.log(loss=1.0)
        hears, receive = part != "requests", recorder.on_request
        if part == "requests":
            monkeypatch.setattr(recorder, "_new_requests", fail)
        elif part == "request":
            recorder.on_request = lambda request: fail() if request["action"] == "pause" else receive(request)
        elif part == "metrics":
            monkeypatch.setattr(recorder.metrics, "drain", fail)
        elif part == "watching":
            recorder.metrics.on_metrics = fail
        elif part == "report":
            recorder.before_refresh = fail
        else:
            monkeypatch.setattr(recorder, "_measure_speed", fail)
        for _ in range(3):
            recorder.store.request("a", "pause")
            recorder.store.request("a", "set", params={"lr": 0.5})
            recorder.tick()
        found = recorder.store.read("a")
        assert found.heartbeat_at == recorder.record.heartbeat_at is not None
        assert (run.control.changes == [{"lr": 0.5}] * 3) is hears
        assert found.metrics == ({} if part == "metrics" else {"loss": 1.0})
        assert len(warnings_of(recorder)) == 1


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("NaN"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.lists(
        st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"").replace(b"\r", b""))
        | st.integers(1, 3000).map(lambda depth: b'{"a":' * depth + b"1" + b"}" * depth)
        | st.integers(1, 6000).map(lambda digits: b'{"a":' + b"9" * digits + b"}"),
        max_size=5,
    )
)
def test_a_reader_passes_over_every_line_that_it_cannot_read(lines: list[bytes]) -> None:
    for line in lines:
        item = decode_line(line)
        assert item is None or isinstance(item, dict)


@given(st.lists(st.dictionaries(st.text(max_size=5), _JSON, max_size=3), max_size=4))
def test_lines_come_back_between_lines_that_cannot_be_read(items: list[dict[str, Any]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stream.jsonl"
        stream = Appender(path)
        for item in items:
            stream.append([item])
            os.write(stream._fd, b"[" * 5000 + b"\n\xff\n")
        stream.close()
        unreadable: list[bytes] = []
        found, offset = tail(path, on_unreadable=unreadable.append)
        assert len(found) == len(items)
        assert [list(each) for each in found] == [[*map(str, item)] for item in items]
        assert len(unreadable) == 2 * len(items)
        assert offset == path.stat().st_size


def test_a_stream_that_is_shorter_than_what_was_read_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "stream.jsonl"
    path.write_bytes(b'{"step":1}\n{"step":2}\n')
    _, offset = tail(path)
    path.write_bytes(b'{"step":3}\n')
    assert tail(path, offset) == ([{"step": 3}], 11)
