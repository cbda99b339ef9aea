"""Streams that several append to, torn by kills and read meanwhile: each line comes once, and none is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
#: Dozens of processes each: what takes seconds here takes minutes on a busy machine.
pytestmark = pytest.mark.timeout(300)


def counts(variant: str, kills: int, folder: Path) -> dict[str, Any]:
    """Run the harness and return what it counted."""
    command = [sys.executable, str(HERE / "tailing.py"), variant, str(kills), str(folder)]
    out = subprocess.run(command, capture_output=True, text=True)
    assert (out.returncode, out.stderr) == (0, "")
    found: dict[str, Any] = json.loads(out.stdout)
    print(variant, found)
    return found


def none_lost(found: dict[str, Any]) -> bool:
    """Whether every line came once and in order."""
    return (found["lost"], found["twice"], found["out of order"]) == (0, 0, 0)


def test_every_line_comes_once(tmp_path: Path) -> None:
    """Two who ask and one who logs, 60 kills of them, torn lines; a reader that tails sees each line once."""
    found = counts("trainkit", 60, tmp_path)
    assert none_lost(found)
    assert found["torn lines left"] > 0
    assert found["written"] > 1000


@pytest.mark.long
@pytest.mark.timeout(600)
def test_every_line_comes_once_for_long(tmp_path: Path) -> None:
    """1,000 kills."""
    assert none_lost(counts("trainkit", 1000, tmp_path))


@pytest.mark.parametrize("variant", ["eager", "unhealed"])
def test_the_harness_finds_known_bad_ways(tmp_path: Path, variant: str) -> None:
    """It fails a reader that takes a torn line for the end, and writers that do not look for one."""
    assert not none_lost(counts(variant, 60, tmp_path))


CREATE = """
import sys
from pathlib import Path
from trainkit.errors import JobExistsError
from trainkit.files.record import Record, Status
from trainkit.files.store import Store
store, variant = Store(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
for n in range(300):
    record = Record(job_id=f"job-{n}", name="", status=Status.QUEUED, runner="thread")
    if variant == "trainkit":
        try:
            store.create(record).close()
        except JobExistsError:
            continue
    elif store.paths(record.job_id).record.exists():
        continue
    else:
        store.write_record(record, durable=False)
    print(n)
"""


@pytest.mark.parametrize("variant", ["trainkit", "look-first"])
def test_an_id_is_somebodys(tmp_path: Path, variant: str) -> None:
    """Three processes make jobs of the same ids in one store: each is made once; to look first is not enough."""
    (tmp_path / "artifacts" / "jobs").mkdir(parents=True)
    makers = [
        subprocess.Popen(
            [sys.executable, "-c", CREATE, str(tmp_path), variant],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for maker in makers:
        assert maker.stdout is not None
        assert maker.stdout.readline() == "ready\n"
    made: list[str] = []
    for maker in makers:
        assert maker.stdin is not None
        maker.stdin.write("go\n")
        maker.stdin.flush()
    for maker in makers:
        made += maker.communicate()[0].split()
        assert maker.returncode == 0
    print(f"{variant}: 300 ids, made {len(made)} times")
    assert sorted(set(made), key=int) == [str(n) for n in range(300)]
    assert (len(made) == 300) == (variant == "trainkit")
