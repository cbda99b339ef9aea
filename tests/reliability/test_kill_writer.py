"""kill -9 of the writer at random instants, with readers at work."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from trainkit.files.store import Store
from trainkit.files.streams import tail

HARNESS = Path(__file__).with_name("kill_writer.py")


def counts(variant: str, kills: int, folder: Path) -> dict[str, int]:
    """Run the harness and return what it counted."""
    out = subprocess.run(
        [sys.executable, str(HARNESS), variant, str(kills), str(folder)],
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert out.returncode == 0, out.stderr
    found: dict[str, int] = json.loads(out.stdout)
    print(variant, found)
    return found


def test_kills_leave_no_torn_record_and_no_lie(tmp_path: Path) -> None:
    """150 kills: no read is torn or misses the record; nobody is called RUNNING when dead, or dead when alive."""
    seen = counts("trainkit", 150, tmp_path)
    assert seen["reads"] > 150
    lost = ("torn", "missing", "torn after a kill", "called RUNNING while dead", "called dead while alive")
    assert {name: seen.get(name, 0) for name in lost} == dict.fromkeys(lost, 0)
    store = Store(tmp_path)
    stale = [path for path in store.paths("victim").record.parent.iterdir() if path.suffix == ".tmp"]
    assert stale, "the kills hit between the two halves of a write"
    store.sweep("victim")
    assert [path for path in stale if path.exists()] == []
    lines, _ = tail(tmp_path / "artifacts" / "jobs" / "victim" / "metrics.jsonl")
    assert len(lines) > 150
    assert all(line["loss"] == 1.0 / line["step"] for line in lines)


def test_the_harness_finds_a_writer_that_rewrites_in_place(tmp_path: Path) -> None:
    """The same harness fails the known-bad writer: it tears reads, and after no kill is the truth told."""
    seen = counts("naive", 40, tmp_path)
    assert seen["torn"] > 0
    assert seen["torn after a kill"] + seen["called RUNNING while dead"] == 40


@pytest.mark.long
@pytest.mark.timeout(600)
def test_many_kills_leave_no_torn_record_and_no_lie(tmp_path: Path) -> None:
    """2,000 kills."""
    seen = counts("trainkit", 2000, tmp_path)
    lost = ("torn", "missing", "torn after a kill", "called RUNNING while dead", "called dead while alive")
    assert {name: seen.get(name, 0) for name in lost} == dict.fromkeys(lost, 0)
