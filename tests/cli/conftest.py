"""Fixtures for the command line: a folder with training code, and the two ways to run a command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import trainkit as tk
from trainkit.cli.commands import cli

#: Training code without torch, so that its process starts quickly.
TRAINING = """
import time

def fit(run, epochs=3, steps=4, pause_s=0.0, lr=0.1, tell=""):
    run.track(settings=Settings())
    for epoch in run.epochs(epochs):
        for _ in run.batches(range(steps)):
            time.sleep(pause_s)
            run.log(loss=1.0 / run.step)
        run.log(val_loss=2.0 / (epoch + 1))
        print("epoch", epoch + 1, tell)

def forever(run):
    run.log(loss=1.0)
    print("begun", flush=True)
    while True:
        time.sleep(0.01)
        run.log(loss=float("nan"))

def prints(run, go_on):
    import pathlib
    print("first\\nsecond")
    while not pathlib.Path(go_on).exists():
        time.sleep(0.01)
    print("third, ünfinished", end="")

def deaf(run):
    run.log(loss=1.0)
    while True:
        time.sleep(0.01)

def broken(run):
    run.log(loss=1.0)
    raise ValueError("no such thing")

def vanishes(run):
    import os, signal
    run.log(loss=1.0)
    os.kill(os.getpid(), signal.SIGKILL)

class Settings:
    def state_dict(self): return {}
    def load_state_dict(self, state): pass

number = 3
"""


@pytest.fixture
def folder(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with ``training.py`` in it; jobs go to ``root``."""
    here = tmp_path / "work"
    here.mkdir()
    (here / "training.py").write_text(TRAINING)
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield here
    for name in ("training", "faulty"):
        sys.modules.pop(name, None)
    for job in tk.jobs(root=root):
        if job.record.runner == "process":
            job.kill()


@pytest.fixture
def trainkit(folder: Path) -> Callable[..., Result]:
    """Run a command in this process and return its result."""

    def run(*words: object) -> Result:
        result = CliRunner().invoke(cli, [str(word) for word in words])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture
def started(folder: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a command as a process of its own; what still runs at the end of the test is killed."""
    processes: list[subprocess.Popen[str]] = []

    def start(*words: object, **options: Any) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "trainkit", *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONWARNINGS": "error"},
            start_new_session=True,
            **options,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()
