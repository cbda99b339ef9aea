"""What the package shows, and what importing it costs."""

from __future__ import annotations

import json
import subprocess
import sys

import trainkit as tk

#: Written out: a name that leaks, or goes missing, is a decision to be made here.
PUBLIC = [
    "Job",
    "Run",
    "Store",
    "TrainkitError",
    "attach",
    "dashboard",
    "jobs",
    "launcher",
    "load_model",
    "read_table",
    "submit",
    "train",
    "verify_resume",
]
HEAVY = [
    "torch",
    "pandas",
    "matplotlib",
    "ipywidgets",
    "tornado",
    "pyarrow",
    "numpy",
    "anywidget",
    "rich",
    "sklearn",
]


def run_python(code: str) -> str:
    """Run code in a fresh interpreter and return what it printed."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_the_public_names() -> None:
    """__all__ is sorted and complete, every name resolves, and nothing else is listed."""
    assert sorted(PUBLIC) == tk.__all__
    assert dir(tk) == sorted([*PUBLIC, "__version__"])
    for name in PUBLIC:
        assert getattr(tk, name).__module__.startswith("trainkit")
        assert getattr(tk, name).__doc__


def test_no_submodule_hides_a_public_name() -> None:
    """A module of the same name would take the place of the function once it is imported."""
    code = f"""
import pkgutil, importlib, trainkit
names = [m.name for m in pkgutil.iter_modules(trainkit.__path__)]
print([name for name in {PUBLIC!r} if name in names])
"""
    assert run_python(code) == "[]\n"


def test_importing_loads_nothing_heavy() -> None:
    """import trainkit is quick because it loads no torch, pandas or widgets, nor does making a Store."""
    code = f"import sys, trainkit; trainkit.Store; print([name for name in {HEAVY!r} if name in sys.modules])"
    assert run_python(code) == "[]\n"


def test_importing_takes_under_a_tenth_of_importing_torch() -> None:
    """Measured in one interpreter each, so that both pay for the start alike."""
    code = "import time; a = time.perf_counter(); import {0}; print(time.perf_counter() - a)"
    ours = min(float(run_python(code.format("trainkit"))) for _ in range(3))
    torchs = min(float(run_python(code.format("torch"))) for _ in range(2))
    print(json.dumps({"trainkit_s": ours, "torch_s": torchs}))
    assert ours < torchs / 10
