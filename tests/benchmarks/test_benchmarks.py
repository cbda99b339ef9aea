"""That the benchmarks run, and that their table says what was measured; no figure is tested."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
_PRINTS = """
import json, sys
sys.path.insert(0, {folder!r})
from frame import Figure
from run import drawn
slow = Figure("a call", "µs", 3.0, 5, floor=("an append", 1.0), peers={{"theirs": 60.0, "absent": None}},
    ratio=3.0, of="× append", goal="≤ 2")
quick = Figure("a loop", "steps/s", 995.0, 5, ratio=0.995, of="of the bare loop", goal="≥ 0.99")
print(drawn([slow, quick]))
print(json.dumps([slow.plain()["reached"], quick.plain()["reached"]]))
"""


def test_the_table_tells_goals_that_are_missed_and_peers_that_are_absent() -> None:
    """A missed goal is named as such, a reached one has its mark, an absent peer a dash."""
    code = _PRINTS.format(folder=str(FOLDER))
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    _, slow, peers, quick, reached = out.splitlines()
    assert slow.split("  ")[0] == "a call"
    assert "≤ 2" in slow
    assert "short" in slow
    assert peers.split() == ["theirs", "60.0", "absent", "–"]
    assert "≥ 0.99" in quick
    assert "✓" in quick
    assert json.loads(reached) == [False, True]


@pytest.mark.extended
def test_one_command_measures_and_writes_json(tmp_path: Path) -> None:
    """The command runs a module, in interpreters of their own, and writes what it printed as JSON."""
    target = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, str(FOLDER / "run.py"), "log_cost", "--quick", "--repeats", "1", "--json", str(target)],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert "run.log of 3 floats: the calling thread" in done.stdout
    figures = json.loads(target.read_text())["figures"]
    assert all(figure["ours"] > 0 for figure in figures)
