"""The whole life of a job with curl alone: in Lab's server and in the extension alone, both under a base URL."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.server.conftest import TOKEN, RunningServer, end, jupyter_server
from tests.server.test_alone import serve

SCRIPT = Path(__file__).with_name("life_of_a_job.sh")
TABLE = "a,b,y\n" + "".join(f"{n},{n % 7},{n % 2}\n" for n in range(200))


def in_lab(folder: Path) -> RunningServer:
    """Start the server of JupyterLab, with everything that is installed beside it."""
    return jupyter_server(folder, base_url="/user/ann/", app="jupyterlab", alone=False)


def alone(folder: Path) -> RunningServer:
    """Start ``trainkit serve``."""
    return serve(folder, base_url="/team/blue/")


@pytest.mark.parametrize("start", [pytest.param(in_lab, marks=pytest.mark.extended), alone])
def test_the_life_of_a_job(tmp_path: Path, start: Callable[[Path], RunningServer]) -> None:
    """From health to delete; the script ends at the first answer that is not as expected."""
    assert shutil.which("curl"), "curl is needed"
    server = start(tmp_path)
    (server.root / "table.csv").write_text(TABLE)
    try:
        done = subprocess.run(
            ["sh", str(SCRIPT), server.url, TOKEN, "table.csv"],
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        left = json.loads(server.get("api/train/jobs").text)["jobs"]
        for job in left:
            server.post("api/train/kill", {"job_id": job["job_id"]})
        assert done.returncode == 0, done.stdout + done.stderr + server.log.read_text()
        assert "the whole life of" in done.stdout
        assert left == []
        assert list((server.root / "artifacts" / "jobs").iterdir()) == []
    finally:
        end(server)
