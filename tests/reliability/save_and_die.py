"""Kill a process while it saves checkpoints, again and again, and look at what it leaves.

``python save_and_die.py KILLS FOLDER [naive]`` prints one JSON object.  A forked process does nothing but save
checkpoints of one job, and tells after each one which step is safe; it is killed at a random instant.  After
every kill the newest checkpoint has to load, with its hash right, and be no older than what was safe; so have
those that are kept to branch from.  ``naive`` saves by ``torch.save`` onto the old file instead, which must fail.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import signal
import sys
import time
from pathlib import Path

import torch

from trainkit.errors import CheckpointError
from trainkit.files.paths import JobPaths
from trainkit.files.store import Store
from trainkit.resuming.checkpoints import load_resume, save_resume
from trainkit.resuming.kept import Kept, available, find


def content(step: int) -> dict[str, object]:
    """A checkpoint in which every number is the step."""
    return {"step": step, "weights": torch.full((150_000,), float(step))}


def save_for_ever(paths: JobPaths, step: int, told: int, *, naive: bool) -> None:
    """Save one checkpoint after another."""
    kept = Kept(paths)
    while True:
        step += 1
        if naive:
            torch.save(content(step), paths.resume)
        else:
            info = save_resume(paths, content(step), step=step, epoch=1, now=0.0)
            kept.add(info)
        os.write(told, b"%d\n" % step)


def safe_step(told: int) -> int:
    """The last step that was told to be safe, 0 if there was none."""
    data = b""
    while block := os.read(told, 1 << 16):
        data += block
    lines = data.split(b"\n")[:-1]
    return int(lines[-1]) if lines else 0


def main(kills: int, folder: str, naive: bool) -> None:
    """Kill, look, go on."""
    luck = random.Random(5)
    store = Store(folder)
    paths = store.paths("a")
    paths.folder.mkdir(parents=True)
    seen = {
        "kills": 0,
        "within a save": 0,
        "unreadable": 0,
        "older than safe": 0,
        "wrong": 0,
        "kept unreadable": 0,
    }
    step = 0
    while seen["kills"] < kills:
        reading, writing = os.pipe()
        if (pid := os.fork()) == 0:
            os.close(reading)
            torch.set_num_threads(1)
            save_for_ever(paths, step, writing, naive=naive)
        os.close(writing)
        time.sleep(luck.uniform(0.005, 0.06))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        safe = max(step, safe_step(reading))
        os.close(reading)
        seen["kills"] += 1
        seen["within a save"] += bool(list(paths.folder.glob(".*.tmp")) or list(paths.checkpoints.glob(".*.tmp")))
        step = look(paths, safe, seen, naive=naive)
        store.sweep("a")
    print(json.dumps(seen))


def look(paths: JobPaths, safe: int, seen: dict[str, int], *, naive: bool) -> int:
    """Look at what a kill left; return the step to go on from."""
    if not safe and not paths.resume.exists():
        return 0  # killed before the first one was saved
    try:
        found = torch.load(paths.resume, weights_only=True) if naive else load_resume(paths)[0]
    except (CheckpointError, RuntimeError, EOFError, OSError, pickle.UnpicklingError):
        seen["unreadable"] += 1
        return safe
    step = int(found["step"])
    seen["older than safe"] += step < safe
    seen["wrong"] += not bool((found["weights"] == step).all())
    if not naive:
        for info in available(paths):
            try:
                find(paths, info.step)
            except CheckpointError:
                seen["kept unreadable"] += 1
    return max(step, safe)


if __name__ == "__main__":
    Path(sys.argv[2]).mkdir(parents=True, exist_ok=True)
    main(int(sys.argv[1]), sys.argv[2], naive="naive" in sys.argv[3:])
