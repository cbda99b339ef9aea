"""What a watched job looks like, drawn from records that a test makes up."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from trainkit.api import view
from trainkit.cli.screens import PlainScreen, now_running
from trainkit.cli.watching import Epoch, EpochReader, Update
from trainkit.files.record import Best, Record, Status, Throughput
from trainkit.files.store import Store


def record(status: Status = Status.RUNNING, **fields: object) -> Record:
    usual: dict[str, object] = {
        "job_id": "job_1760323520751_ff9dd5bf",
        "name": "a rather long name of a job that somebody has thought of",
        "status": status,
        "message": "a message that is also longer than most of the terminals in which it will ever be shown",
        "progress": 15.0,
        "epoch": 3,
        "epochs": 20,
        "step": 1234567,
        "total_steps": 12345678,
        "metrics": {"loss": 1.234e-7, "accuracy": 0.5, "val_loss": 123456.0, "val_balanced_accuracy": 0.1},
        "best": Best(metric="val_balanced_accuracy", value=0.1234, step=3, epoch=1),
        "started_at": 1000.0,
        "throughput": Throughput(steps_per_s=12345.678),
    }
    return Record(**(usual | fields))  # type: ignore[arg-type]


def drawn(job: Record, width: int) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=True, color_system=None, legacy_windows=False)
    console.print(now_running(job, width=width, now=2000.0))
    return [line.rstrip() for line in out.getvalue().splitlines()]


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("status", [each for each in Status if not each.terminal])
def test_the_live_lines_fit_and_are_as_many_whatever_the_numbers_are(status: Status, width: int) -> None:
    lines = drawn(record(status), width)
    assert max(map(len, lines)) <= width
    other = record(status, metrics=dict.fromkeys(record().metrics, 1.0), step=1, progress=99.0)
    assert len(drawn(other, width)) == len(lines)


def test_a_running_job_shows_where_it_is_how_fast_and_how_long_yet() -> None:
    text = "\n".join(drawn(record(name="fit", step=100, total_steps=500, throughput=Throughput(4.0)), 100))
    for part in ("● fit  RUNNING  epoch 3/20 · step 100/500", "15 %", "4 steps/s", "1 min 40 s left"):
        assert part in text
    assert "best                   val_balanced_accuracy 0.1234 at epoch 1" in text


def test_without_a_known_end_there_is_no_bar_and_no_percentage() -> None:
    text = "\n".join(drawn(record(epochs=None, total_steps=None), 80))
    assert "━" not in text
    assert "%" not in text
    assert "16 min 40 s so far" in text


def test_a_paused_job_promises_no_time() -> None:
    text = "\n".join(drawn(record(Status.PAUSED), 80))
    assert "left" not in text
    assert "steps/s" not in text


def plain(*updates: Update) -> list[str]:
    out = io.StringIO()
    screen = PlainScreen(Console(file=out, width=1000, force_terminal=False, color_system=None), Store("/none"))
    for update in updates:
        screen.show(update)
    return out.getvalue().splitlines()


def test_epochs_become_a_table_whose_header_returns_when_there_are_more_metrics() -> None:
    running = record(name="fit", message="")
    first = Update(running, [Epoch(1, {"loss": 0.5})], [])
    second = Update(running, [Epoch(2, {"loss": 0.25, "val_loss": float("nan")}), Epoch(3, {"loss": 12.5})], [])
    assert plain(first, second) == [
        f"fit: {running.job_id}",
        "epoch     loss",
        "    1   0.5000",
        "epoch     loss  val_loss",
        "    2   0.2500       nan",
        "    3   12.500          ",
    ]


def test_of_very_many_epochs_a_list_shows_every_so_many_and_the_last() -> None:
    many = [Epoch(number, {"loss": 1.0}) for number in range(1, 1001)]
    shown = [line.split()[0] for line in plain(Update(record(epochs=1000, message=""), many, []))[2:]]
    assert shown == ["1", *map(str, range(20, 1001, 20))]


def test_a_job_that_waits_says_for_what_once() -> None:
    waiting = record(Status.QUEUED, name="fit", message="waiting for other", epoch=0, step=0, metrics={})
    assert plain(Update(waiting, [], []), Update(waiting, [], []))[1:] == ["waiting for other"]


def test_what_a_running_job_says_first_is_shown_once() -> None:
    saying = Update(record(message="3 classes"), [], [])
    assert plain(saying, saying, Update(record(message="4 classes"), [], []))[1:] == ["3 classes"]


def test_a_job_that_waits_for_the_user_says_so_once() -> None:
    paused = record(Status.PAUSED, name="fit", message="", metrics={}, step=7, total_steps=9, epochs=None)
    lines = plain(Update(paused, [], []), Update(paused, [], []))
    assert lines[1:] == ["paused · epoch 3 · step 7/9"]


def test_warnings_are_shown() -> None:
    assert plain(Update(record(message=""), [], ["an id column"]))[1:] == ["warning  an id column"]


def test_what_has_passed_is_shown() -> None:
    assert plain(Update(record(message=""), [], [], ["the disk has room"]))[1:] == ["passed   the disk has room"]


def test_lines_of_one_epoch_are_gathered_and_a_new_attempt_begins_anew() -> None:
    reader = EpochReader()
    line = {"attempt": 1, "epoch": 1, "step": 5, "time": 1.0, "loss": 0.5}
    assert reader.read([line, {**line, "loss": 0.4}], ended=False) == []
    assert reader.read([{**line, "val_loss": 0.3}, {**line, "epoch": 2}], ended=False) == [
        Epoch(1, {"loss": 0.5, "val_loss": 0.3})
    ]
    again = reader.read([{**line, "attempt": 2, "epoch": 2, "loss": 0.1}], ended=True)
    assert again == [Epoch(2, {"loss": 0.5}), Epoch(2, {"loss": 0.1})]


def test_metrics_without_epochs_make_no_rows() -> None:
    line = {"attempt": 1, "epoch": 0, "step": 5, "time": 1.0, "loss": 0.5}
    assert EpochReader().read([line], ended=True) == []


def test_a_job_whose_process_vanished_is_not_said_to_run_on() -> None:
    lost = record(Status.INTERRUPTED, heartbeat_at=1060.0, finished_at=None)
    facts = dict(view.view(lost, now=5000.0).facts)
    assert facts["took"] == "1 min 0 s"
    assert "running for" not in facts
