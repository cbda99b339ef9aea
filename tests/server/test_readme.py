"""The README's lines for HTTP, as they are written there."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]


def test_the_lines_of_the_readme_run(root: Path) -> None:
    """From a folder with the table, in one shell: every answer is a good one. Only the port is another."""
    block = re.search(r"<!-- by http -->\n```sh\n(.*?)```", (CHECKOUT / "README.md").read_text(), re.DOTALL)
    assert block is not None
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    (root / "notebooks").mkdir()
    shutil.copy(CHECKOUT / "notebooks" / "penguins.csv", root / "notebooks")
    lines = block[1].replace("3001", port).replace("curl ", "curl --fail-with-body ")
    done = subprocess.run(
        ["bash", "-eu", "-c", f"trap 'kill %1; wait' EXIT; set -m\n{lines}"],
        cwd=root,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for answer in ('"service":"trainkit"', '"message":"started"', '"schema_version":1', "event: end"):
        assert answer in done.stdout, done.stdout + done.stderr
    assert '"ok":false' not in done.stdout
    assert list((root / "models").iterdir()) == [], "the last line deletes the job"
