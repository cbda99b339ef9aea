"""Binder: what it would build, and that the notebooks run with exactly these versions."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .running import NOTEBOOKS, copied, run_and_compare

REPOSITORY = NOTEBOOKS.parent
BINDER = REPOSITORY / "binder"


def pins(path: Path) -> dict[str, str]:
    """Return the versions that a requirements file pins, by normalised name."""
    found = re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


def test_binder_builds_what_is_meant() -> None:
    """repo2docker finds binder/, takes Python 3.11, installs after the repository is there, and starts our way."""
    found = subprocess.run(
        [sys.executable, "-m", "repo2docker", "--no-build", "--debug", "."],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=100,
    )
    plan = found.stdout + found.stderr
    assert found.returncode == 0, plan
    assert "Building conda environment for python=3.11" in plan
    install = plan.index('pip install --no-cache-dir -r "binder/requirements.txt"')
    assert plan.rindex("COPY", 0, install) == plan.index("COPY --chown=0:0 src/ ${REPO_DIR}/")
    assert 'R2D_ENTRYPOINT="${REPO_DIR}/binder/start"' in plan


def test_start_limits_the_threads() -> None:
    """What Binder runs gets the limits, and its own arguments as they are."""
    start = BINDER / "start"
    assert os.access(start, os.X_OK)
    command = [str(start), "sh", "-c", 'echo "$OMP_NUM_THREADS $TRAINKIT_MAX_JOBS $1"', "sh", "two words"]
    assert subprocess.check_output(command, text=True) == "1 2 two words\n"


def test_the_pins_are_whole_and_known_to_work() -> None:
    """Every version is pinned; torch is that of the tests; the kernel is one on which a click always works."""
    constraints = pins(BINDER / "constraints.txt")
    direct = pins(BINDER / "requirements.txt")
    assert direct.keys() >= {"torch", "ipykernel", "jupyterlab"}
    assert direct.items() <= constraints.items()
    assert constraints["torch"] == pins(REPOSITORY / ".ci" / "locks" / "run.txt")["torch"]
    # 7.0 raises where a thread sets a trait; 7.4 sends clicks to a shell that may be busy.
    assert constraints["ipykernel"].rpartition(".")[0] in ("7.1", "7.2", "7.3")


@pytest.fixture(scope="session")
def binder_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the interpreter of a fresh environment with what Binder installs, and pytest and nbval besides."""
    folder = tmp_path_factory.mktemp("binder")
    environment = folder / "environment"
    python = str(environment / "bin" / "python")
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    for arguments in (
        ["-r", "binder/requirements.txt"],
        ["-c", str(BINDER / "constraints.txt"), "nbval", "pytest"],
    ):
        subprocess.run([python, "-m", "pip", "install", "--quiet", *arguments], cwd=REPOSITORY, check=True)
    return python


@pytest.mark.extended
@pytest.mark.xdist_group("binder")
@pytest.mark.timeout(900)
def test_what_is_installed_is_what_is_pinned(binder_python: str) -> None:
    """Nothing came along that constraints.txt does not name."""
    frozen = subprocess.check_output([binder_python, "-m", "pip", "list", "--format=freeze"], text=True)
    path = Path(binder_python).parents[1] / "frozen.txt"
    path.write_text(frozen)
    installed = {name: version.partition("+")[0] for name, version in pins(path).items()}
    ours = {"jupyter-trainkit", "pip", "pytest", "nbval", "iniconfig", "pluggy", "coverage"}
    assert {name: version for name, version in installed.items() if name not in ours}.items() <= pins(
        BINDER / "constraints.txt"
    ).items()


@pytest.mark.extended
@pytest.mark.xdist_group("binder")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", sorted(path.name for path in NOTEBOOKS.glob("*.ipynb")))
def test_the_notebooks_run_on_binder(name: str, binder_python: str, tmp_path: Path) -> None:
    """With Binder's versions every notebook gives what is stored, in less than Binder's memory."""
    report = run_and_compare(copied(name, tmp_path), tmp_path / "queue", python=binder_python)
    print(f"{name}: peak memory {report.peak_bytes / 2**20:.0f} MB")
    assert report.passed, report.text
    assert report.peak_bytes < 1e9
