"""A server, a kernel and a command line at one root: nothing that one of them says contradicts another."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HARNESS = Path(__file__).with_name("three_at_once.py")


def counts(variant: str, seconds: float, folder: Path) -> dict[str, Any]:
    """Run the harness and return what it counted."""
    command = [sys.executable, "-W", "ignore", str(HARNESS), variant, str(seconds), str(folder)]
    out = subprocess.run(command, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    found: dict[str, Any] = json.loads(out.stdout)
    tried = f"{found['asked']} asked, {found['looks']} looks, {len(found['wrong'])} wrong"
    print(f"three at once, {variant}: {tried}; {found['answers']}")
    return found


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(8, marks=[pytest.mark.extended, pytest.mark.timeout(400)]),
        pytest.param(300, marks=[pytest.mark.long, pytest.mark.timeout(1200)]),
    ],
)
def test_three_who_drive_the_same_jobs_never_see_a_contradiction(tmp_path: Path, seconds: int) -> None:
    """Started, stopped, paused, resumed, killed, listed and deleted at random: no end changes, no job is lost."""
    found = counts("trainkit", seconds, tmp_path)
    assert found["wrong"] == []
    # Each of the three has come to its word.
    assert {each.split(":")[0] for each in found["answers"]} == {"kernel", "server", "shell"}


@pytest.mark.extended
@pytest.mark.timeout(400)
def test_the_harness_finds_a_stop_that_writes_and_a_delete_that_does_not_look(tmp_path: Path) -> None:
    """Ends that change, and jobs that go while they run."""
    assert len(counts("writes", 8, tmp_path)["wrong"]) > 0
