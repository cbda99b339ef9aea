"""Train 2N equals train N + kill + resume N, bit for bit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HARNESS = Path(__file__).with_name("resume_chain.py")
#: What a checkpoint holds that decides about the bits.
OMISSIONS = [
    "model",
    "optimizer",
    "scheduler",
    "scaler",
    "average",
    "noise",
    "draws",
    "random",
    "random.python",
    "random.numpy",
    "random.torch",
    "epoch_random",
    "epoch_generators",
    "loaders_random",
    "parts",
    "offset",
]


def counts(chains: int, folder: Path, omit: str | None = None) -> dict[str, int]:
    """Run the harness and return what it counted."""
    command = [sys.executable, str(HARNESS), str(chains), str(folder), *([omit] if omit else [])]
    out = subprocess.run(command, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    found: dict[str, int] = json.loads(out.stdout)
    print(omit or "all", found)
    return found


def test_cut_runs_reach_the_same_weights(tmp_path: Path) -> None:
    """Four chains of kills, most of them mid-epoch, with 0 and 2 loader workers and on tables: none differs."""
    seen = counts(4, tmp_path)
    assert seen["kills"] >= 4
    assert seen["mid-epoch"] > 0
    assert seen["different"] == 0


@pytest.mark.parametrize("omit", ["optimizer", pytest.param("offset", marks=pytest.mark.long)])
def test_leaving_one_thing_out_is_noticed(tmp_path: Path, omit: str) -> None:
    """The harness fails a checkpoint that lacks something."""
    assert counts(2, tmp_path, omit)["different"] > 0


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_many_cut_runs_reach_the_same_weights(tmp_path: Path) -> None:
    """Two hundred chains: none differs."""
    assert counts(200, tmp_path)["different"] == 0


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("omit", OMISSIONS)
def test_leaving_anything_out_is_noticed(tmp_path: Path, omit: str) -> None:
    """Every item that is saved is needed."""
    assert counts(8, tmp_path, omit)["different"] > 0
