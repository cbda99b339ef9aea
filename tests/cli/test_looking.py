"""``jobs``, ``status``, ``watch`` and ``logs``: reading jobs that somebody else runs."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

import trainkit as tk
from trainkit.cli.screens import LiveRows
from trainkit.files.record import Status

Cli = Callable[..., Result]


def short(run: Any, epochs: int = 2) -> None:
    for epoch in run.epochs(epochs):
        run.log(loss=1.0 / (epoch + 1))
        print("epoch", epoch + 1)


@pytest.fixture
def job(root: Path) -> tk.Job:
    """A completed job."""
    job = tk.submit(short, root=root)
    assert job.wait(20) is Status.COMPLETED
    return job


def test_jobs_lists_the_newest_first(trainkit: Cli, job: tk.Job, root: Path) -> None:
    newer = tk.submit(short, name="newer", root=root)
    newer.wait(20)
    lines = trainkit("jobs").stdout.splitlines()
    assert lines[0].split() == ["id", "name", "state", "done", "at", "best", "runner"]
    assert [line.split()[:3] for line in lines[1:]] == [
        [newer.id, "newer", "COMPLETED"],
        [job.id, "short", "COMPLETED"],
    ]
    listed = json.loads(trainkit("jobs", "--json").stdout)["jobs"]
    assert [each["job_id"] for each in listed] == [newer.id, job.id]
    assert listed[1] == json.loads(job.paths.record.read_bytes())


def test_jobs_can_be_chosen_by_their_state(trainkit: Cli, job: tk.Job) -> None:
    assert json.loads(trainkit("jobs", "--state", "completed", "--json").stdout)["jobs"]
    assert json.loads(trainkit("jobs", "--state", "FAILED", "--json").stdout) == {"jobs": []}
    refused = trainkit("jobs", "--state", "fine")
    assert refused.exit_code == 2
    assert "'completed'" in refused.stderr


def test_no_jobs_is_said_and_is_no_error(trainkit: Cli, root: Path, folder: Path) -> None:
    result = trainkit("jobs")
    assert (result.exit_code, result.stdout) == (0, f"no jobs under {root}\n")
    other = trainkit("jobs", "--root", folder)
    assert other.stdout == f"no jobs under {folder}\n"


def test_a_record_that_cannot_be_read_is_listed_and_hides_no_other(trainkit: Cli, job: tk.Job) -> None:
    (job.paths.record.parent / "torn.json").write_text('{"job_id": "to')
    result = trainkit("jobs")
    assert result.exit_code == 0
    assert job.id in result.stdout
    assert "UNREADABLE" in result.stdout
    assert "torn.json" in result.stderr
    assert "not JSON" in result.stderr
    listed = json.loads(trainkit("jobs", "--json").stdout)["jobs"]
    assert [each["status"] for each in listed] == ["COMPLETED", "UNREADABLE"]
    assert listed[1]["job_id"] == "torn"
    assert set(listed[1]) == {"job_id", "status", "message"}
    alone = trainkit("status", "torn")
    assert alone.exit_code == 2
    assert "torn.json: not JSON" in alone.stderr


def test_status_takes_an_id_a_name_or_the_newest(trainkit: Cli, job: tk.Job) -> None:
    for words in ([job.id], ["short"], []):
        result = trainkit("status", *words)
        assert result.exit_code == 0
        assert result.stdout.startswith("✓ short  COMPLETED  epoch 2/2")
        assert job.id in result.stdout
        assert json.loads(trainkit("status", *words, "--json").stdout) == json.loads(job.paths.record.read_bytes())


def test_status_and_watch_tell_what_a_job_warns_of(trainkit: Cli, root: Path) -> None:
    """A real job whose loss is lost, and which had another trouble that has passed."""

    def fit(run: Any) -> None:
        run.log(val_loss=float("inf"))
        run.log(val_loss=1.0)
        run.log(loss=float("nan"))

    job = tk.submit(fit)
    job.result()
    assert [warning[:40] for warning in job.warnings()] == ["the loss is not finite since step 3: wha"]
    assert trainkit("status", job.id).stdout.count("warning  the loss is not finite since step 3") == 1
    watched = trainkit("watch", job.id).stdout
    assert watched.count("warning  ") == 2
    assert "passed   val_loss is finite again since step 2" in watched


@pytest.mark.parametrize(
    ("words", "kind", "message"),
    [
        (["shorts"], "UnknownJobError", "no job 'shorts' under {root}; did you mean 'short'?"),
        (["../up"], "JobIdError", "'../up' is not a job id"),
        (["--wrong"], "NoSuchOption", "No such option"),
        (["a", "b"], "UsageError", "unexpected extra argument"),
    ],
)
@pytest.mark.parametrize("command", ["status", "watch", "logs", "stop", "pause", "kill"])
def test_an_unknown_job_is_refused_in_one_line_or_one_object(
    trainkit: Cli, job: tk.Job, root: Path, command: str, words: list[str], kind: str, message: str
) -> None:
    told = trainkit(command, *words)
    assert told.exit_code == 2
    assert told.stdout == ""
    assert told.stderr.startswith("trainkit: ")
    assert told.stderr.count("\n") == 1
    assert message.format(root=root) in told.stderr
    answered = trainkit(command, *words, "--json")
    assert answered.exit_code == 2
    assert answered.stderr == ""
    answer = json.loads(answered.stdout)
    assert answer["ok"] is False
    assert answer["error"]["type"] == kind
    assert message.format(root=root) in answer["error"]["message"]


def test_without_any_job_the_newest_is_refused(trainkit: Cli, root: Path) -> None:
    result = trainkit("watch")
    assert (result.exit_code, result.stderr) == (2, f"trainkit: there is no job under {root}\n")


def test_watching_a_job_that_has_ended_shows_it_and_its_exit_code(trainkit: Cli, job: tk.Job) -> None:
    result = trainkit("watch", job.id)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[:4] == [
        f"short: {job.id}",
        "epoch     loss",
        "    1   1.0000",
        "    2   0.5000",
    ]
    lines = trainkit("watch", "--json").stdout.splitlines()
    assert [json.loads(line) for line in lines] == [json.loads(job.paths.record.read_bytes())]


def test_watch_exits_as_the_job_ended(trainkit: Cli, root: Path) -> None:
    def raises(run: Any) -> None:
        raise ValueError("no")

    tk.submit(raises, root=root).wait(20)
    assert trainkit("watch").exit_code == 1


def test_a_number_that_is_not_finite_is_legal_json(trainkit: Cli, root: Path) -> None:
    def diverges(run: Any) -> None:
        run.log(loss=float("nan"), grad=float("inf"))

    tk.submit(diverges, root=root).wait(20)
    for command in ("status", "jobs", "watch"):
        out = trainkit(command, "--json").stdout
        found = json.loads(out, parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))
        record = found["jobs"][0] if command == "jobs" else found
        assert record["metrics"] == {"loss": "NaN", "grad": "Infinity"}


def test_logs_shows_all_or_the_last_lines_of_what_was_printed(trainkit: Cli, job: tk.Job) -> None:
    assert trainkit("logs").stdout == "epoch 1\nepoch 2\n"
    assert trainkit("logs", "short", "--tail", 1).stdout == "epoch 2\n"
    assert trainkit("logs", "-n", 0).stdout == ""
    assert json.loads(trainkit("logs", "--json").stdout) == {"job_id": job.id, "logs": "epoch 1\nepoch 2\n"}
    assert trainkit("logs", "--tail", -1).exit_code == 2


@pytest.mark.parametrize("as_json", [False, True])
def test_logs_follow_goes_on_until_the_job_ends(
    trainkit: Cli, root: Path, eventually: Callable[..., None], as_json: bool
) -> None:
    go_on = root.parent / "go on"
    started = trainkit("submit", "training:prints", f"go_on={go_on}", "--detach")
    job = tk.attach(started.stdout.strip(), root=root)
    eventually(lambda: "second" in job.logs())
    threading.Timer(0.3, go_on.touch).start()
    result = trainkit("logs", "--follow", "--tail", 1, *(["--json"] if as_json else []))
    assert result.exit_code == 0
    assert job.done()
    if as_json:
        lines = [json.loads(line) for line in result.stdout.splitlines()]
        assert [line["line"] for line in lines] == ["second", "third, ünfinished"]
        assert {line["job_id"] for line in lines} == {job.id}
    else:
        assert result.stdout == "second\nthird, ünfinished"


def test_a_job_of_the_older_shape_is_shown_and_has_no_log(trainkit: Cli, root: Path) -> None:
    jobs = root / "artifacts" / "jobs"
    jobs.mkdir(parents=True)
    (jobs / "old.json").write_text('{"job_id": "old", "status": "LOADING", "progress": 3, "created_at": 1.0}')
    assert "! old  INTERRUPTED" in trainkit("status", "old").stdout
    assert trainkit("watch", "old").exit_code == 4
    result = trainkit("logs", "old")
    assert result.exit_code == 2
    assert "has no output.log" in result.stderr


def test_in_a_terminal_the_job_is_drawn_live_and_the_cursor_given_back(folder: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "trainkit", "submit", "training:fit", "pause_s=0.1"],
        stdout=theirs,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "80"},
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            new = os.read(ours, 65536)
        except OSError:  # Linux reports the end of a terminal as an I/O error
            break
        if not new:
            break
        shown += new
    os.close(ours)
    text = shown.decode()
    assert process.wait(20) == 0
    assert "━" in text
    assert "steps/s" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    assert "COMPLETED" in text[text.rindex("\x1b[?25h") :]


def test_what_may_still_change_is_drawn_again_in_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that were drawn are erased first; none is wider than the terminal, so that they can be counted."""
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("LINES", "4")
    rows = LiveRows()
    for text, rest, drawn in [
        ("one\n", "10 %", "one\n10 %"),
        ("", "outer\n" + "x" * 30, "\r\x1b[Jouter\n" + "x" * 19),
        ("two\n", "a\nb\nc\n\td\u202e", "\r\x1b[A\x1b[Jtwo\nb\nc\n        d "),
        ("end", "", "\r\x1b[A\x1b[A\x1b[Jend"),
    ]:
        rows.show(text, rest)
        assert capsys.readouterr().out == drawn
