"""``trainkit submit`` and ``trainkit train``: starting a job and watching it to its end."""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

import trainkit as tk
from trainkit.files.record import json_schema

Cli = Callable[..., Result]
Started = Callable[..., "subprocess.Popen[str]"]


def test_a_job_that_completes_is_shown_epoch_by_epoch_and_exits_with_0(trainkit: Cli, root: Path) -> None:
    result = trainkit("submit", "training:fit", "epochs=2", "pause_s=0.1")
    assert result.exit_code == 0
    # A machine that takes long to start the process gets lines that say so.
    lines = [line for line in result.stdout.splitlines() if not line.startswith("running · ")]
    job = tk.attach(root=root)
    assert lines[:4] == [
        f"fit: {job.id}",
        "epoch     loss  val_loss",
        "    1   0.2500    2.0000",
        "    2   0.1250    1.0000",
    ]
    assert lines[4] == "✓ fit  COMPLETED  epoch 2/2 · step 8/8"
    assert lines[-1].split(maxsplit=1) == ["record", str(job.paths.record)]
    assert "\x1b" not in result.stdout
    assert job.record.runner == "process"


def test_json_prints_the_record_at_every_change_and_at_last_as_it_stays(trainkit: Cli, root: Path) -> None:
    result = trainkit("submit", "training:fit", "pause_s=0.1", "--json", "--name", "mine", "--job-id", "my-id")
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 0
    assert result.stderr == ""
    assert len(records) > 2
    telling = [{**record, "heartbeat_at": 0, "updated_at": 0} for record in records]
    assert all(one != next_one for one, next_one in itertools.pairwise(telling))
    assert all(set(record) == set(json_schema()["$defs"]["Record"]["properties"]) for record in records)
    assert (records[-1]["job_id"], records[-1]["name"]) == ("my-id", "mine")
    assert records[-1] == json.loads(tk.attach("my-id", root=root).paths.record.read_bytes())
    assert [record["step"] for record in records] == sorted(record["step"] for record in records)


@pytest.mark.parametrize("runner", ["process", "thread"])
def test_a_job_whose_code_raises_shows_where_and_exits_with_1(trainkit: Cli, runner: str) -> None:
    result = trainkit("submit", "training:broken", "--runner", runner)
    assert result.exit_code == 1
    assert "✗ broken  FAILED  step 1" in result.stdout
    assert 'raise ValueError("no such thing")' in result.stdout


def test_a_job_whose_process_vanishes_exits_with_4(trainkit: Cli) -> None:
    result = trainkit("submit", "training:vanishes", "--json")
    assert result.exit_code == 4
    last = json.loads(result.stdout.splitlines()[-1])
    assert (last["status"], last["ended_by"]) == ("INTERRUPTED", "signal")


def test_a_job_that_somebody_else_stops_exits_with_3(
    started: Started, root: Path, eventually: Callable[..., None]
) -> None:
    process = started("submit", "training:forever")
    eventually(lambda: tk.jobs("RUNNING", root=root))
    tk.attach(root=root).stop()
    assert process.wait(20) == 3


def test_detach_prints_the_id_and_returns_while_the_job_runs(trainkit: Cli, root: Path) -> None:
    result = trainkit("submit", "training:forever", "--detach")
    job = tk.attach(result.stdout.strip(), root=root)
    assert result.exit_code == 0
    assert not job.done()
    job.kill()


def test_detach_with_json_prints_the_record(trainkit: Cli, root: Path) -> None:
    result = trainkit("submit", "training:forever", "--detach", "--json")
    record = json.loads(result.stdout)
    assert record["status"] in ("QUEUED", "RUNNING")
    tk.attach(record["job_id"], root=root).kill()


def test_a_thread_cannot_be_detached(trainkit: Cli, root: Path) -> None:
    result = trainkit("submit", "training:fit", "--detach", "--runner", "thread")
    assert result.exit_code == 2
    assert "--detach needs --runner process" in result.stderr
    assert not tk.jobs(root=root)


def test_values_are_json_where_they_are_json_and_text_elsewhere(trainkit: Cli, root: Path) -> None:
    trainkit("submit", "training:fit", "epochs=1", "lr=1e-3", "tell=one=two", "--runner", "thread")
    params = tk.attach(root=root).record.params
    assert (params["epochs"], params["lr"], params["tell"]) == (1, 0.001, "one=two")


def test_parameters_and_options_of_one_name_are_both_passed(trainkit: Cli, folder: Path, root: Path) -> None:
    (folder / "training.py").write_text("def fit(run, name, patience=1, max_time=2): pass\n")
    words = ("name=resnet18", "patience=8", "--name", "mine", "--patience", "4", "--max-time", "2h")
    assert trainkit("submit", "training:fit", *words, "--runner", "thread").exit_code == 0
    record = tk.attach(root=root).record
    assert record.params == {"name": "resnet18", "patience": 8, "max_time": 2}
    assert (record.name, record.limits.patience, record.limits.max_time_s) == ("mine", 4, 7200)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["training"], "expected module:function"),
        (["trainin:fit"], "no module 'trainin' in {folder} or among the installed ones; did you mean 'training'?"),
        (["training.deep:fit"], "no module 'training.deep'"),
        (["training:fitt"], "module 'training' has no function 'fitt'; did you mean 'fit'?; it has: fit, forever"),
        (["training:number"], "training:number is a int, not a function"),
        (["training.py:fit"], "'training.py' is a file; name the module: training:fit"),
        (["training:fit", "epoch=3"], "fit() takes no parameter 'epoch'; did you mean 'epochs'?"),
        (["training:fit", "3"], "expected key=value, such as lr=0.001, got '3'"),
        (["training:fit", "lr=1", "lr=2"], "lr is given twice"),
        (["training:fit", "name=mine"], "name= is an option of this command; use --name"),
        (["training:fit", "patience=3"], "patience= is an option of this command; use --patience"),
        (["training:fit", "as_json=1"], "as_json= is an option of this command; use --json"),
        (["training:fit", "--job-id", "../up"], "'../up' is not a job id"),
        (
            ["faulty:fit"],
            "importing 'faulty' raised ZeroDivisionError: division by zero ({folder}/faulty.py, line 2)",
        ),
    ],
)
def test_a_function_that_cannot_be_used_is_refused_in_one_line_that_says_why(
    trainkit: Cli, folder: Path, root: Path, words: list[str], message: str
) -> None:
    (folder / "faulty.py").write_text("import training\n1 / 0\n")
    result = trainkit("submit", *words)
    assert result.exit_code == 2
    assert result.stderr.startswith("trainkit: ")
    assert message.format(folder=folder) in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert not tk.jobs(root=root)


def test_a_table_job_leaves_a_model_and_says_how_to_load_it(trainkit: Cli, folder: Path) -> None:
    rows = "".join(f"{i / 40},{(i * 7) % 13},{'yes' if i > 20 else 'no'}\n" for i in range(40))
    (folder / "rows.csv").write_text("a,b,answer\n" + rows)
    result = trainkit("train", "rows.csv", "--target", "answer", "--epochs", 2, "--root", ".", "--batch_size", 8)
    assert result.exit_code == 0, result.output
    job = tk.attach(root=".")
    assert job.record.epochs == 2
    assert job.record.params["batch_size"] == 8
    assert result.stdout.splitlines()[-1] == f'Next:  tk.load_model("models/{job.id}.pt").predict(table)'
    assert tk.load_model(f"models/{job.id}.pt") is not None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["row.csv", "--target", "answer"], "rows.csv"),
        (["rows.csv", "--target", "anwser"], "did you mean 'answer'?"),
        (["rows.csv", "--target", "answer", "--epochs", "0"], "expected a whole number >= 1"),
        (["rows.csv", "--target", "answer", "--lr", "fast"], "lr='fast' is not allowed: expected a number > 0"),
        (["rows.csv", "--epoch", "3"], "--epochs"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_in_one_line_and_leaves_nothing(
    trainkit: Cli, folder: Path, root: Path, words: list[str], message: str
) -> None:
    (folder / "rows.csv").write_text("a,answer\n" + "1,yes\n2,no\n" * 20)
    result = trainkit("train", *words)
    assert result.exit_code == 2
    assert result.stderr.startswith("trainkit: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(root.iterdir())
