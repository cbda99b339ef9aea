"""The built wheel, not the checkout, is what users install."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built as a release would be."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(CHECKOUT)]
    out = subprocess.run(command, capture_output=True, text=True)
    assert out.returncode == 0, out.stdout + out.stderr
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_the_package_and_its_data(wheel: Path) -> None:
    """Types, schema and licence are in it; tests and notebooks are not."""
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in ("trainkit/py.typed", "trainkit/files/record.schema.json", "trainkit/runners/supervisor.py"):
        assert wanted in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    ours = {path.relative_to(CHECKOUT).as_posix() for path in (CHECKOUT / "trainkit").rglob("*.py")}
    assert ours <= set(names)
    assert not [name for name in names if name.startswith(("tests", "notebooks", "binder"))]


def test_the_installed_wheel_runs_a_job_and_the_command(wheel: Path, root: Path, tmp_path: Path) -> None:
    """In an environment that knows nothing of the checkout, a process job runs and the command answers."""
    folder = tmp_path / "venv"
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    site = next((folder / "lib").glob("python*")) / "site-packages"
    # The libraries are those of this environment; trainkit itself comes from the wheel, which is found first.
    libraries = [path for path in sys.path if path.endswith("site-packages")]
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", str(wheel)],
        check=True,
    )
    (site / "libraries.pth").write_text("\n".join(libraries))
    code = (
        "import trainkit as tk; print(tk.__file__); "
        "job = tk.submit(lambda run: 41 + 1, runner='process'); print(job.result(60))"
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    out = subprocess.run([str(python), "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment)
    where, result = out.stdout.splitlines() or [out.stderr, ""]
    assert Path(where).is_relative_to(folder)
    assert result == "42"
    command = subprocess.run(
        [str(folder / "bin" / "trainkit"), "--version"], capture_output=True, text=True, env=environment
    )
    assert command.returncode == 0, command.stderr
    assert "0.1.0" in command.stdout
