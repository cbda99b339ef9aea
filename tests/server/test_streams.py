"""Metrics, output and events by HTTP, compared with the files."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.server.conftest import TOKEN, RunningServer
from trainkit.api.launching import submit
from trainkit.files.record import Record, Status
from trainkit.files.store import Store
from trainkit.files.streams import Appender, tail

pytestmark = pytest.mark.usefixtures("server")


def speak(run: Any) -> None:
    """Leave something in each stream."""
    for step in range(30):
        run.log(loss=1.0 / (step + 1), odd=float("nan"))
    print("grün ✓\nlast line")
    run.warn("look")


def server_sent_events(
    server: RunningServer, job_id: str, last_event_id: str | None = None
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the id, the name and the data of each event."""
    request = urllib.request.Request(f"{server.url}api/train/events?job_id={job_id}")
    request.add_header("Authorization", f"token {TOKEN}")
    if last_event_id is not None:
        request.add_header("Last-Event-ID", last_event_id)
    with urllib.request.urlopen(request, timeout=20) as response:
        if response.status == 204:
            return
        assert response.headers["Content-Type"] == "text/event-stream"
        fields: dict[str, str] = {}
        for line in response:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name:
                fields[name] = value
            elif "event" in fields:
                yield fields["id"], fields["event"], json.loads(fields["data"])
                fields = {}


def test_metrics_are_those_of_the_file(server: RunningServer) -> None:
    """All lines come once, strict JSON; `since` goes on where the answer before ended."""
    job = submit(speak)
    job.wait(10)
    first = server.get("api/train/metrics", job_id=job.id).json
    assert [line["loss"] for line in first["metrics"]] == [1.0 / (step + 1) for step in range(30)]
    assert {line["odd"] for line in first["metrics"]} == {"NaN"}
    assert first["next"] == job.paths.metrics.stat().st_size
    assert first["more"] is False
    again = server.get("api/train/metrics", job_id=job.id, since=first["next"]).json
    assert (again["metrics"], again["next"]) == ([], first["next"])
    middle = job.paths.metrics.read_bytes().index(b"\n", 500) + 1
    later = server.get("api/train/metrics", job_id=job.id, since=middle).json
    assert later["metrics"] == first["metrics"][-len(later["metrics"]) :]
    assert 0 < len(later["metrics"]) < 30


def test_a_large_stream_comes_in_bounded_pieces(server: RunningServer) -> None:
    """No answer is much larger than a megabyte, and together they hold every line once."""
    job = submit(speak)
    job.wait(10)
    stream = Appender(job.paths.metrics)
    stream.append({"step": step, "loss": 0.5, "text": "x" * 100} for step in range(40_000))
    stream.close()
    steps, since, answers = [], 0, 0
    while True:
        answer = server.get("api/train/metrics", job_id=job.id, since=since)
        assert len(answer.text) < 1.2e6
        steps += [line["step"] for line in answer.json["metrics"]]
        since, answers = answer.json["next"], answers + 1
        if not answer.json["more"]:
            break
    assert steps == [line["step"] for line in tail(job.paths.metrics)[0]]
    assert answers > 4


def test_the_output_comes_whole_or_by_its_last_lines(server: RunningServer) -> None:
    """Characters of several bytes stay whole; `tail` counts lines."""
    job = submit(speak)
    job.wait(10)
    assert server.get("api/train/logs", job_id=job.id).json["logs"] == job.logs()
    assert server.get("api/train/logs", job_id=job.id, tail=1).json["logs"] == "last line\n"
    assert server.get("api/train/logs", job_id=job.id, tail=0).json["logs"] == ""


def test_a_line_that_may_still_change_is_apart(
    server: RunningServer, start_job: Callable[..., Any], eventually: Callable[..., None]
) -> None:
    """Of a running job a progress bar is its newest frame, and is sent again; characters stay whole."""
    job = start_job()
    eventually(lambda: job.logs() == "begun\n")
    with open(job.paths.output, "ab") as file:
        file.write(b"\n10 %\r20 % gr" + "ü".encode()[:1])
    first = server.get("api/train/logs", job_id=job.id, since=len("begun\n")).json
    assert (first["logs"], first["line"], first["more"]) == ("\n", "20 % gr", False)
    with open(job.paths.output, "ab") as file:
        file.write("ü".encode()[1:] + b"n\r30 %\nnext")
    rest = server.get("api/train/logs", job_id=job.id, since=first["next"]).json
    assert (rest["logs"], rest["line"]) == ("30 %\n", "next")
    last = server.get("api/train/logs", job_id=job.id, tail=2).json
    assert (last["logs"], last["line"], last["next"]) == ("30 %\n", "next", rest["next"])
    job.stop()
    job.wait(10)
    ended = server.get("api/train/logs", job_id=job.id, since=rest["next"]).json
    assert (ended["logs"], ended["line"], ended["next"]) == ("next", "", job.paths.output.stat().st_size)


@pytest.mark.parametrize("since", [10_000_000, 2**44, 2**53])
def test_an_offset_behind_the_end_reads_nothing(server: RunningServer, since: int) -> None:
    """Even where the file system cannot seek that far; it is the offset to go on from."""
    job = submit(speak)
    job.wait(10)
    for stream, empty in (("metrics", []), ("logs", "")):
        answer = server.get(f"api/train/{stream}", job_id=job.id, since=since).json
        assert (answer[stream], answer["next"], answer["more"]) == (empty, since, False)
    far = "-".join(["999999999999999"] * 3)
    assert list(server_sent_events(server, job.id, far)) == []


def test_a_page_follows_a_job_to_its_end(server: RunningServer, start_job: Callable[..., Any]) -> None:
    """Events come while the job runs, `end` is the last, and together they are the files."""
    job = start_job()
    lines: list[dict[str, Any]] = []
    happened: list[dict[str, Any]] = []
    printed = ""
    states: list[str] = []
    last_id = ""
    for last_id, name, data in server_sent_events(server, job.id):  # noqa: B007 - used below
        assert data["ok"] is True
        if name == "metrics":
            if not lines:
                job.stop()
            lines += data["metrics"]
        elif name == "events":
            happened += data["events"]
        elif name == "logs":
            printed += data["logs"]
        elif name == "status":
            states.append(data["status"]["status"])
        else:
            states.append(name)
    assert states[0] in ("QUEUED", "RUNNING")
    assert states[-2:] == ["STOPPED", "end"]
    assert lines == tail(job.paths.metrics)[0]
    assert happened == job.events()
    assert printed == job.logs() == "begun\n"
    assert list(server_sent_events(server, job.id, last_id)) == [], "a page that comes back is sent away"


def test_a_page_that_comes_back_goes_on_where_it_was(server: RunningServer, start_job: Callable[..., Any]) -> None:
    """No line comes twice over two connections, and none is lost."""
    job = start_job()
    lines: list[dict[str, Any]] = []
    last_id = ""
    for last_id, name, data in server_sent_events(server, job.id):  # noqa: B007 - used below
        if name == "metrics":
            lines += data["metrics"]
            if len(lines) > 20:
                break
    job.stop()
    job.wait(10)
    for _, name, data in server_sent_events(server, job.id, last_id):
        if name == "metrics":
            lines += data["metrics"]
    assert lines == tail(job.paths.metrics)[0]


def test_following_a_job_whose_files_vanish_ends(server: RunningServer) -> None:
    """The last event says so, and the next attempt to follow is told that there is no such job."""
    store = Store(server.root)
    lock = store.create(Record(job_id="vanishing", name="vanishing", status=Status.QUEUED, runner="thread"))
    events = server_sent_events(server, "vanishing")
    assert next(events)[2]["status"]["status"] == "QUEUED"
    store.paths("vanishing").record.unlink()  # at once: while other files go, it would be a job that nobody runs
    store.discard("vanishing")
    lock.close()
    assert [(name, data["status"]) for _, name, data in events] == [("end", None)]
    assert server.get("api/train/events", job_id="vanishing").status == 404


def test_a_page_that_leaves_is_forgotten(server: RunningServer, start_job: Callable[..., Any]) -> None:
    """More pages than may follow at once can follow one after another."""
    job = start_job()
    for _ in range(110):
        events = server_sent_events(server, job.id)
        next(events)
        events.close()
    assert job.state is Status.RUNNING
    assert server.get("api/train/status", job_id=job.id).status == 200
