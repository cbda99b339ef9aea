"""Every system call of every operation on a job's files fails in turn; what is left is the old or the new."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HARNESS = Path(__file__).with_name("failing_disk.py")
BELOW = Path(__file__).with_name("failing_calls.py")
#: Dozens of processes each: what takes seconds here takes minutes on a busy machine.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder in memory where there is one: that a disk is slow to say so is not what is tried here."""
    import tempfile

    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else tmp_path_factory.getbasetemp()) as name:
        yield Path(name)


def counts(variant: str, how: str, folder: Path, *operations: str) -> dict[str, dict[str, Any]]:
    """Run the harness and return what it counted."""
    command = [sys.executable, str(HARNESS), variant, how, str(folder), *operations]
    out = subprocess.run(command, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    found: dict[str, dict[str, Any]] = json.loads(out.stdout)
    tried = sum(each["tried"] for each in found.values())
    print(f"{variant}: {tried} tried, {sum(len(each['wrong']) for each in found.values())} wrong")
    return found


@pytest.mark.parametrize(
    ("how", "tries"),
    [("some-ways", 12), pytest.param("every-way", 40, marks=[pytest.mark.long, pytest.mark.timeout(900)])],
)
def test_no_failing_call_leaves_a_lie(folder: Path, how: str, tries: int) -> None:
    """Every call of fourteen operations: the old or the new, no line lost or repeated, no false success."""
    found = counts("trainkit", how, folder)
    assert len(found) == 14
    assert all(each["tried"] >= tries for each in found.values()), "the calls were counted"
    assert [fault for each in found.values() for fault in each["wrong"]] == []


@pytest.mark.parametrize(
    ("variant", "operations"),
    [
        ("in-place", ["WriteRecord", "SaveModel"]),
        ("unhealed", ["AppendMetrics", "Life"]),
        ("quiet", ["Request", "Bury"]),
    ],
)
def test_the_harness_finds_known_bad_ways(folder: Path, variant: str, operations: list[str]) -> None:
    """It fails writers in place, appenders that do not look at what was taken, and those that pass over errors."""
    found = counts(variant, "some-ways", folder, *operations)
    assert {name: bool(each["wrong"]) for name, each in found.items()} == dict.fromkeys(operations, True)


# --- below Python ----------------------------------------------------------------------------------


def counts_below(variant: str, folder: Path, *operations: str) -> dict[str, Any]:
    """Have the system calls themselves fail, and return what was counted."""
    assert shutil.which("strace"), "this needs strace (apt-get install strace), and the right to trace processes"
    command = [sys.executable, str(BELOW), variant, str(folder), *operations]
    out = subprocess.run(command, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    found: dict[str, Any] = json.loads(out.stdout)
    wrong = sum(map(len, found["wrong"].values()))
    print(f"below Python, {variant}: {sum(found['tried'].values())} tried, {wrong} wrong; {found['tried']}")
    return found


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_no_failing_system_call_leaves_a_lie(folder: Path) -> None:
    """Every openat, write, fsync, rename, unlink, mkdir, flock of twelve operations; files cut at any size."""
    found = counts_below("trainkit", folder)
    assert len(found["wrong"]) == 12
    assert set(found["tried"]) >= {"openat", "write", "fsync", "rename", "unlink", "mkdir", "flock", "short write"}
    assert [fault for each in found["wrong"].values() for fault in each] == []


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("variant", "operation"),
    [("in-place", "WriteRecordDurably"), ("unhealed", "AppendMetrics"), ("quiet", "Request")],
)
def test_below_python_known_bad_ways_are_found(folder: Path, variant: str, operation: str) -> None:
    """The same three as above it."""
    assert counts_below(variant, folder, operation)["wrong"][operation] != []
