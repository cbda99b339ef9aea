"""A kill during a save, a flipped bit, a cut file: what is loaded is whole, or it is said that nothing is."""

from __future__ import annotations

import json
import pickle
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from trainkit.errors import CheckpointError
from trainkit.files.paths import JobPaths
from trainkit.files.store import Store
from trainkit.resuming.checkpoints import load_resume, save_resume

HARNESS = Path(__file__).with_name("save_and_die.py")


def counts(kills: int, folder: Path, *words: str) -> dict[str, int]:
    """Run the harness and return what it counted."""
    command = [sys.executable, str(HARNESS), str(kills), str(folder), *words]
    out = subprocess.run(command, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    found: dict[str, int] = json.loads(out.stdout)
    print(*words, found)
    return found


def test_kills_while_saving_leave_a_whole_checkpoint(tmp_path: Path) -> None:
    """No older than the last one that was told to be safe, with every number right; the kept ones too."""
    seen = counts(25, tmp_path)
    assert seen.pop("kills") == 25
    assert seen.pop("within a save") > 5
    assert set(seen.values()) == {0}, seen


def test_the_harness_fails_a_file_that_is_written_in_place(tmp_path: Path) -> None:
    """torch.save onto the old file loses it."""
    assert counts(8, tmp_path, "naive")["unreadable"] > 0


@pytest.mark.long
@pytest.mark.timeout(900)
def test_many_kills_while_saving_leave_a_whole_checkpoint(tmp_path: Path) -> None:
    """Three hundred and fifty kills."""
    seen = counts(350, tmp_path)
    assert seen.pop("kills") == 350
    assert seen.pop("within a save") > 50
    assert set(seen.values()) == {0}, seen


def checkpoint_pair(folder: Path) -> JobPaths:
    """A job with two checkpoints, of steps 1 and 2."""
    paths = Store(folder).paths("a")
    paths.folder.mkdir(parents=True)
    for step in (1, 2):
        content = {"step": step, "weights": torch.full((2000,), float(step))}
        save_resume(paths, content, step=step, epoch=1, now=0.0)
    return paths


def damaged(data: bytes, luck: random.Random) -> bytes:
    """The data with one bit flipped, or cut, or with a block of zeros."""
    kind, at = luck.choice(("flip", "cut", "zeros")), luck.randrange(len(data))
    if kind == "flip":
        return data[:at] + bytes([data[at] ^ (1 << luck.randrange(8))]) + data[at + 1 :]
    if kind == "cut":
        return data[:at]
    zeroed = data[:at] + bytes(min(64, len(data) - at)) + data[at + 64 :]
    return zeroed if zeroed != data else data[:at]


def test_damage_is_detected_and_the_one_before_is_used(tmp_path: Path) -> None:
    """Four hundred damaged files: always the previous one; damaged both, always an error.

    ``torch.load`` alone would accept some of them, with wrong numbers in it.
    """
    luck, paths = random.Random(3), checkpoint_pair(tmp_path)
    whole = {path: path.read_bytes() for path in (paths.resume, paths.resume_previous)}
    accepted_by_torch = 0
    for _ in range(400):
        paths.resume.write_bytes(damaged(whole[paths.resume], luck))
        assert load_resume(paths)[0]["step"] == 1
        try:
            loaded = torch.load(paths.resume, weights_only=True)
            accepted_by_torch += not bool((loaded["weights"] == 2).all())
        except (RuntimeError, EOFError, ValueError, KeyError, OSError, pickle.UnpicklingError, UnicodeDecodeError):
            pass  # torch noticed by itself
        paths.resume_previous.write_bytes(damaged(whole[paths.resume_previous], luck))
        with pytest.raises(CheckpointError, match="does not match its sha256"):
            load_resume(paths)
        paths.resume_previous.write_bytes(whole[paths.resume_previous])
    print({"damaged": 800, "accepted": 0, "accepted by torch.load alone, of 400": accepted_by_torch})
    assert accepted_by_torch > 0


def test_a_damaged_list_of_hashes_verifies_nothing_wrong(tmp_path: Path) -> None:
    """Whatever happens to resume.json: what is loaded is right, or it is an error of ours."""
    luck, paths = random.Random(4), checkpoint_pair(tmp_path)
    manifest = paths.folder / "resume.json"
    whole, refused = manifest.read_bytes(), 0
    for _ in range(300):
        manifest.write_bytes(damaged(whole, luck))
        try:
            content, _ = load_resume(paths)
        except CheckpointError:
            refused += 1
        else:
            assert bool((content["weights"] == content["step"]).all())
    print({"damaged lists": 300, "refused": refused})
    assert refused > 100
