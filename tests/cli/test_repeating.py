"""``checkpoints``, ``replay`` and ``branch``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from click.testing import Result

import trainkit as tk

Cli = Callable[..., Result]


def test_a_job_is_listed_repeated_and_branched(trainkit: Cli, root: Path) -> None:
    """The new jobs run to their end, and know where they come from."""
    assert trainkit("submit", "training:fit", "epochs=2", "--runner", "thread", "--job-id", "a").exit_code == 0
    listed = json.loads(trainkit("checkpoints", "a", "--json").stdout)
    assert listed["job_id"] == "a"
    assert [each["step"] for each in listed["checkpoints"]] == [8], "that of its end"
    assert "step 8  epoch 2" in trainkit("checkpoints", "a").stdout
    assert trainkit("replay", "a", "--runner", "thread", "--job-id", "b").exit_code == 0
    assert tk.attach("b").record.step == tk.attach("a").record.step == 8
    assert tk.attach("b").name == "fit again"
    refused = trainkit("branch", "a", "--step", "3", "lr=0.01")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "it can be branched from: 8" in refused.stderr
    assert trainkit("branch", "name=x", "a=1").exit_code == 2

    job = tk.submit(steps_and_checkpoints, job_id="c")
    job.wait(10)
    assert "step 2  epoch 1" in trainkit("checkpoints", "c").stdout
    assert trainkit("branch", "c", "--step", "2", "lr=0.5", "--runner", "thread", "--job-id", "d").exit_code == 0
    child = tk.attach("d")
    assert child.metrics()["lr"].to_dict() == {3: 0.5, 4: 0.5}


def test_a_job_without_a_checkpoint_is_told_how_to_have_one(trainkit: Cli, root: Path) -> None:
    """One that tracks nothing has none, and is branched from nowhere."""
    tk.submit(lambda run: None, job_id="bare").wait(10)
    listed = json.loads(trainkit("checkpoints", "bare", "--json").stdout)
    assert listed == {"job_id": "bare", "checkpoints": []}
    assert "run.track(model=" in trainkit("checkpoints", "bare").stdout
    refused = trainkit("branch", "bare", "--step", "3", "lr=0.01")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "no checkpoint to branch from" in refused.stderr


def steps_and_checkpoints(run: tk.Run, lr: float = 0.1) -> None:
    run.track(nothing=Nothing())
    run.checkpoint_every(steps=2)
    for _ in run.epochs(1):
        for _ in run.batches(range(4)):
            run.log(lr=run.params.lr)


class Nothing:
    def state_dict(self) -> dict[str, int]:
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        pass
