"""``verify_resume``: equal where a loop is exact; else the first thing that differs, and why."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import trainkit as tk
from tests.reliability import loops
from trainkit.api.probe import Probe, Seen
from trainkit.api.verifying import _cause, _differences, _how_far, _is_plain
from trainkit.errors import OptionError
from trainkit.files.record import Record, Status
from trainkit.files.recorder import Recorder
from trainkit.files.store import Store
from trainkit.tabular import train_function
from trainkit.training.run import Run


@pytest.mark.usefixtures("root")
@pytest.mark.extended
def test_an_exact_loop_is_equal() -> None:
    """Model, optimizer, average and every random stream; a running sum that is lost is a note."""
    found = tk.verify_resume(loops.exact, steps=17, kills=1)
    assert found.equal, found
    assert (found.steps, len(found.kills)) == (17, 1)
    assert "running_loss" in found.notes
    assert repr(found).startswith("equal after 17 steps (killed after step ")


def test_what_differs_is_named_with_its_usual_cause() -> None:
    """By what is not tracked; else by whether the function repeats itself at all; plain numbers are notes."""
    whole = Seen(9, {"model.weight": torch.zeros(2), "variable sum": 1.0}, {"ema": "AveragedModel"})
    cut = Seen(9, {"model.weight": torch.ones(2), "variable sum": 2.0}, {"ema": "AveragedModel"})
    assert _differences(whole, whole) == []
    assert _differences(whole, cut) == ["model.weight", "variable sum"]
    assert not _is_plain("model.weight", whole, cut)
    assert _is_plain("variable sum", whole, cut)
    assert _how_far("model.weight", whole, cut) == ", by up to 1"
    assert "Add: run.track(ema=ema)" in _cause("model.weight", whole, set())
    assert "differs between two runs without any kill" in _cause("model.weight", whole, {"model.weight"})


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize(
    ("function", "names", "cause"),
    [
        pytest.param(
            loops.without_optimizer,
            "model.",
            "Add: run.track(optimizer=optimizer)",
            marks=pytest.mark.long,
        ),
        pytest.param(
            loops.without_average,
            "variable ema.",
            "Add: run.track(ema=ema)",
            marks=pytest.mark.long,
        ),
        pytest.param(
            loops.with_own_draws,
            "model.",
            "differs between two runs without any kill",
            marks=pytest.mark.long,
        ),
    ],
)
def test_mistakes_are_found_and_named(function: object, names: str, cause: str) -> None:
    """An optimizer, an average that are not tracked; a generator without a seed."""
    found = tk.verify_resume(function, steps=12, kills=1)  # type: ignore[arg-type]
    assert not found.equal
    assert found.first is not None
    assert found.first.startswith(names)
    assert cause in found.cause


@pytest.mark.long
@pytest.mark.usefixtures("root")
def test_tables_are_equal() -> None:
    """The built-in training, too."""
    found = tk.verify_resume(train_function, steps=30, kills=3, epochs=5, batch_size=64, hidden=16)
    assert found.equal, found


@pytest.mark.usefixtures("root")
def test_what_cannot_be_resumed_is_refused_with_what_to_do() -> None:
    """And numbers that make no sense."""
    with pytest.raises(OptionError, match=r"tracks_nothing\(\) cannot be resumed: it needs run.track"):
        tk.verify_resume(loops.tracks_nothing, steps=8, kills=1)
    with pytest.raises(OptionError, match="four steps for each"):
        tk.verify_resume(loops.exact, steps=8, kills=3)


@pytest.mark.long
def test_the_command_answers_by_its_exit_code(root: Path) -> None:
    """0 and equal, 1 and what differs; parameters as in ``trainkit submit``."""
    here = Path(__file__).parents[2]
    place = "tests.reliability.loops:exact"
    for parameters, code in (([], 0), (["own_draws=true"], 1)):
        words = [
            sys.executable,
            "-m",
            "trainkit",
            "verify-resume",
            place,
            *parameters,
            "--steps",
            "12",
            "--kills",
            "1",
            "--json",
        ]
        done = subprocess.run(words, capture_output=True, text=True, cwd=here)
        assert done.returncode == code, done.stderr
        assert json.loads(done.stdout)["equal"] is (code == 0)


def test_the_loop_that_is_verified_may_log_and_iterate_as_any_other(root: Path) -> None:
    """The probe's stand-ins take what the methods of the run take, a mapping of metrics among them."""
    store = Store(root)
    record = Record(job_id="a", name="a", status=Status.RUNNING, runner="thread")
    lock = store.create(record)
    recorder = Recorder(store, record)
    logged: list[dict[str, float]] = []

    def fit(run: Any) -> None:
        for name in ("epochs", "batches", "log"):
            own = inspect.signature(getattr(Run, name)).parameters.values()
            assert [(each.name, each.kind) for each in own if each.name != "self"] == [
                (each.name, each.kind) for each in inspect.signature(getattr(run, name)).parameters.values()
            ]
        run.track(model=torch.nn.Linear(1, 1))
        for _ in run.epochs(2):
            for _ in run.batches([1, 2]):
                run.log({"train/loss": 1.0}, more=2.0)
        logged.extend(dict(line[3]) for line in recorder.metrics.pending)

    Probe(fit, 100, [], str(root / "seen.pkl"))(Run(recorder, {}))
    recorder.detach()
    lock.close()
    assert logged == [{"train/loss": 1.0, "more": 2.0}] * 4
