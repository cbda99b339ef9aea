"""When a checkpoint is due by itself, and how much of the time it takes."""

from __future__ import annotations

import contextlib
import errno
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

import trainkit as tk
from trainkit.errors import StoreError
from trainkit.resuming.cadence import SHARE, Cadence
from trainkit.training import boundary


def test_it_never_takes_more_than_its_share() -> None:
    """However often it is chosen to be: the next is due when the share is kept, also after one that failed."""
    cadence, now, spent, begun = Cadence(), [0.0], 0.0, 0
    cadence.choose(0, steps=None, seconds=0.01)
    while now[0] < 1000.0:
        now[0] += 0.001
        if not cadence.is_due(now[0]):
            continue
        begun += 1
        with contextlib.suppress(StoreError), cadence.taking(begun, lambda: now[0]):
            now[0], spent = now[0] + 0.3, spent + 0.3
            assert not cadence.is_due(now[0]), "it is being taken"
            if begun % 3 == 0:
                raise StoreError("no room")
        assert not cadence.is_due(now[0])
    assert 0.9 * SHARE < spent / now[0] <= SHARE
    assert begun > 90


def due_checkpoints(root: Path, count: int) -> list[int]:
    """Train until so many checkpoints were taken because they were due; return their steps."""

    def fit(run: Any) -> None:
        run.track(model=torch.nn.Linear(1, 1))
        run.checkpoint_every(seconds=0.01)
        for _ in run.epochs(1):
            for _ in run.batches(itertools.count()):
                if run.step % 1000 == 0 and len(steps()) >= count:
                    return

    def steps() -> list[int]:
        return [event["step"] for event in tk.attach(root=root).events() if event["event"] == "checkpoint"]

    tk.submit(fit, root=root).result(60)
    return steps()


def test_a_checkpoint_that_is_due_is_taken_once(root: Path) -> None:
    """Not again at the next step, because it was due while it was taken: that would double what it costs."""
    steps = due_checkpoints(root, 2)
    assert min(after - before for before, after in itertools.pairwise(steps)) > 1, steps


def test_after_one_that_could_not_be_saved_the_next_one_is_taken(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk takes no checkpoint; when there is room again, they go on by themselves."""
    save_resume, faults = boundary.save_resume, [OSError(errno.ENOSPC, "full"), StoreError("full")]

    def save_or_fail(*words: Any, **rest: Any) -> Any:
        if faults:
            raise faults.pop()
        return save_resume(*words, **rest)

    monkeypatch.setattr(boundary, "save_resume", save_or_fail)
    assert len(due_checkpoints(root, 1)) >= 1
    assert any("no checkpoint could be saved (" in each for each in tk.attach(root=root).warnings())
