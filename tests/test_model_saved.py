"""A finished job keeps its model where models/ was removed or cannot be written, and its record says where."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import trainkit as tk
from trainkit.errors import StoreError
from trainkit.files.modelfile import load_model_content, model_file
from trainkit.files.record import Status
from trainkit.resuming import checkpoints
from trainkit.resuming.kept import kept


def learns(run: Any, models: str, harm: str, returns: bool = True) -> Any:
    """Save a checkpoint and a model file, meet with an accident, and return a model of threes."""
    import os
    import shutil

    import torch

    model = torch.nn.Linear(2, 1)
    run.track(model=model)
    run.checkpoint_every(steps=1)
    for _ in run.batches(range(2)):
        run.log(loss=1.0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(3)
    if harm:
        assert os.listdir(models), "a checkpoint has saved the model already"
        shutil.rmtree(models)
    if harm == "a file":
        with open(models, "w") as file:
            file.write("in the way")
    return model if returns else None


@pytest.mark.parametrize("runner", ["thread", "process"])
@pytest.mark.parametrize("harm", ["removed", "a file"])
@pytest.mark.parametrize("returns", [True, False], ids=["returned", "tracked"])
def test_a_model_survives_the_loss_of_its_folder(root: Path, runner: str, harm: str, returns: bool) -> None:
    """The folder is made again; where a file is in its place, the model is in the folder of the job."""
    models = root / "models"
    job = tk.submit(learns, models=str(models), harm=harm, returns=returns, runner=runner)
    assert job.wait(60) is Status.COMPLETED, job.record.message
    path = model_file(job.paths)
    assert path == (job.paths.model if harm == "removed" else job.paths.own_model)
    where = path.relative_to(root).as_posix()
    message = f"{models} cannot be written; the model is in {where}"
    assert job.record.message == ("" if harm == "removed" else message)
    assert load_model_content(path)["state_dict"]["weight"].tolist() == [[3, 3]]
    job.delete()
    assert not job.paths.folder.exists()
    assert not job.paths.record.exists()


Failing = Callable[..., None]


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Failing:
    """Let saving into some folders fail once harm has come, as on a full or read-only disk."""

    def fail(*names: str, code: int, until: Callable[[], bool] = lambda: False) -> None:
        save = checkpoints.save

        def saving(path: Path, content: Any) -> tuple[int, str]:
            weights = content.get("state_dict", content.get("weights"))
            last = "weight" not in weights or bool((weights["weight"] == 3).all())
            if path.parent.name in names and last and not until():
                raise StoreError.about(OSError(code, "it is full"), path)
            return save(path, content)

        monkeypatch.setattr(checkpoints, "save", saving)

    return fail


def test_an_older_model_is_not_taken_for_the_last(root: Path, failing: Failing) -> None:
    """What models/ holds from a checkpoint gives way to the model in the job's folder."""
    failing("models", code=errno.EROFS)
    job = tk.submit(learns, models="", harm="")
    assert job.wait(60) is Status.COMPLETED
    assert model_file(job.paths) == job.paths.own_model
    assert not job.paths.model.exists()
    assert tk.attach(job.id).model().weight.tolist() == [[3, 3]]


def test_kept_checkpoints_give_way_to_the_model(root: Path, failing: Failing) -> None:
    """On a full disk those that may be dropped are, and the model takes their room."""
    failing("models", "full", code=errno.ENOSPC, until=lambda: not kept(tk.attach("full").paths))
    job = tk.submit(learns, models="", harm="", job_id="full")
    assert job.wait(60) is Status.COMPLETED
    assert job.record.message == ""
    assert load_model_content(job.paths.model)["state_dict"]["weight"].tolist() == [[3, 3]]


def test_a_model_that_is_in_the_last_checkpoint_completes_the_job(root: Path, failing: Failing) -> None:
    """Where no model file can be written, the record names the checkpoint, and model() reads it."""
    failing("models", "job", code=errno.EIO)

    def fit(run: Any) -> None:
        model = torch.nn.Linear(2, 1)
        torch.nn.init.constant_(model.weight, 3)
        run.track(model=model)
        for _ in run.epochs(1):
            for _ in run.batches(range(2)):
                run.log(loss=1.0)
        run.save_now()

    job = tk.submit(fit, job_id="job")
    assert job.wait(60) is Status.COMPLETED, job.record.message
    assert job.record.message.endswith("its weights are in artifacts/jobs/job/resume.pt")
    assert model_file(job.paths) is None
    snapshot = job.snapshot()
    assert (snapshot.source, snapshot.step) == ("checkpoint", 2)
    assert snapshot.model.weight.tolist() == [[3, 3]]


def test_a_model_that_is_nowhere_fails_the_job(root: Path, failing: Failing) -> None:
    """Nothing is COMPLETED whose model could not be kept."""
    failing("models", "job", code=errno.EIO)

    def fit(run: Any) -> Any:
        model = torch.nn.Linear(2, 1)
        torch.nn.init.constant_(model.weight, 3)
        return model

    job = tk.submit(fit, job_id="job")
    assert job.wait(60) is Status.FAILED
    assert "it is full" in job.record.message
