"""Functions of notebooks and scripts: each runs, or the error names the object and says what to do."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from jupyter_client.manager import KernelManager

CODE = Path(__file__).with_name("notebook_functions.py")
#: What cannot travel to another process, and the words that name it.
NAMED = {
    "a lock": "global variable 'lock' is a _thread.lock",
    "an open file": "global variable 'file' is a _io.TextIOWrapper",
    "a generator": "global variable 'numbers' is a builtins.generator",
    "a lock in a list": "argument 'box' is a builtins.list",
}
LARGE = Path(__file__).with_name("large_global.py")
#: How often a gigabyte that a function mentions is held beside itself: where it is sent from, and where it runs.
COPIES = {"thread": (1.3, 1.3), "process": (1.3, 2.6)}

COMPUTES_FIRST = """
import torch
import trainkit as tk
torch.set_num_threads(2)
(torch.randn(2000, 2000) @ torch.randn(2000, 2000)).sum()
def fit(run):
    import torch
    from torch.utils.data import DataLoader, TensorDataset
    rows = TensorDataset(torch.randn(64, 300, 300))
    for (x,) in run.batches(DataLoader(rows, 8, num_workers=2)):
        run.log(loss=(x @ x).abs().mean())
    return run.step
for runner in ("thread", "process"):
    print(runner, tk.submit(fit, runner=runner).result(timeout=300))
"""


def environment(folder: Path, functions: str) -> dict[str, str]:
    (folder / "root").mkdir()
    own = {
        "TRAINKIT_ROOT": str(folder / "root"),
        "TRAINKIT_QUEUE": str(folder / "queue"),
        "TRAINKIT_MAX_JOBS": "3",
        "FUNCTIONS": functions,
    }
    return {**os.environ, **own}


def in_a_kernel(folder: Path, functions: str, code: Path = CODE) -> str:
    """Run the code as a cell, and return what it printed."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(env=environment(folder, functions), cwd=str(folder))
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=120)
        printed: list[str] = []

        def take(message: dict[str, object]) -> None:
            content = message["content"]
            assert isinstance(content, dict)
            assert message["msg_type"] != "error", content["traceback"]
            if message["msg_type"] == "stream" and content["name"] == "stdout":
                printed.append(content["text"])

        client.execute_interactive(code.read_text(), timeout=500, output_hook=take)
        return "".join(printed)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()


def in_a_script(folder: Path, functions: str = "all", code: Path = CODE) -> str:
    """Run the code as a script, and return what it printed."""
    out = subprocess.run(
        [sys.executable, str(code)],
        env=environment(folder, functions),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert out.returncode == 0, out.stderr
    return out.stdout


def judge(found: dict[str, dict[str, str]], place: str) -> None:
    """Compare what came of each function with what must come of it."""
    wrong = {name: what for name, what in found["thread"].items() if what != "42"}
    for name, what in found["process"].items():
        if name in NAMED:
            fine = what.startswith("refused") and NAMED[name] in what and "runner='thread'" in what
        else:
            fine = what == "42"
        if not fine:
            wrong[f"{name} in a process"] = what
    tried = len(found["thread"]) + len(found["process"])
    print(f"functions of {place}: {tried} tried, {len(wrong)} wrong")
    assert wrong == {}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """What came of each function in a kernel."""
    outcomes: dict[str, dict[str, str]] = json.loads(in_a_kernel(tmp_path_factory.mktemp("kernel"), "few"))
    return outcomes


pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning:zmq", "ignore::ResourceWarning"),
    pytest.mark.xdist_group("notebook functions"),
]


def test_functions_of_a_notebook_run_or_name_what_cannot(found: dict[str, dict[str, str]]) -> None:
    """Fifteen kinds, both runners, in a kernel that has used torch's threads: nothing hangs or is obscure."""
    judge(found, "a notebook")


@pytest.mark.long
@pytest.mark.timeout(600)
def test_all_functions_of_a_notebook_run_or_name_what_cannot(tmp_path: Path) -> None:
    """All of them in both runners."""
    judge(json.loads(in_a_kernel(tmp_path, "all")), "a notebook, all")


def test_the_harness_finds_functions_that_travel_by_name(found: dict[str, dict[str, str]]) -> None:
    """Of what plain pickle makes of them, another process can load next to nothing."""
    loaded = 0
    for data in found["by name"].values():
        try:
            pickle.loads(bytes.fromhex(data))
            loaded += 1
        except (AttributeError, ModuleNotFoundError, EOFError):
            pass
    print(f"plain pickle: {len(found['by name'])} tried, {len(found['by name']) - loaded} wrong")
    assert loaded <= 2


@pytest.mark.long
@pytest.mark.timeout(600)
def test_functions_of_a_script_run_or_name_what_cannot(tmp_path: Path) -> None:
    """The same in a script's ``__main__``."""
    judge(json.loads(in_a_script(tmp_path)), "a script")


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("place", [in_a_kernel, in_a_script])
def test_a_global_of_a_gigabyte_travels(tmp_path: Path, place: Callable[..., str]) -> None:
    """It arrives whole; the notebook holds it once more while it is sent, or kept for a resume of a thread."""
    found = json.loads(place(tmp_path, "all", LARGE))
    print(f"a gigabyte, {place.__name__}: {found}")
    for runner, (here, there) in COPIES.items():
        assert found[runner]["result"] == found["sum"]
        assert found[runner]["grown_gb"] < here
        assert found[runner]["grown_there_gb"] < there
    assert found["twice"]["grown_gb"] > COPIES["process"][0], "a pickle within a pickle is seen"


@pytest.mark.extended
def test_launching_after_the_notebook_has_computed_in_many_threads_never_hangs(tmp_path: Path) -> None:
    """OpenMP's threads do not survive a fork: neither a job nor its DataLoader's workers may wait for them."""
    code = tmp_path / "computes_first.py"
    code.write_text(COMPUTES_FIRST)
    assert in_a_script(tmp_path, "all", code).split() == ["thread", "8", "process", "8"]
