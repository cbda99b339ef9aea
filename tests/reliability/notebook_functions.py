"""Functions as people write them in notebooks, run by both runners.  Run as a script, or as a cell of a kernel.

Prints one line of JSON: what came of each function with each runner.  With ``FUNCTIONS=few`` only some of those
that can travel go to a process.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import os
import pickle
import sys
import threading
from pathlib import Path
from typing import Any

import torch

import trainkit as tk

folder = Path(os.environ["TRAINKIT_ROOT"])
if str(folder) not in sys.path:
    sys.path.insert(0, str(folder))
(folder / "beside.py").write_text("VALUE = 1\n\ndef double(x):\n    return 2 * x\n")
beside = importlib.import_module("beside")
(folder / "beside.py").write_text("VALUE = 1\n\ndef double(x):\n    return 2 * x + 0\n")

# The kernel has used torch's threads before anything is launched.
torch.rand(400, 400) @ torch.rand(400, 400)
torch.nn.functional.conv2d(torch.rand(8, 3, 64, 64), torch.rand(8, 3, 3, 3)).sum().item()

offset = 40
lock, numbers = threading.Lock(), (each for each in range(3))
file = open(folder / "notes.txt", "w")  # noqa: SIM115


@dataclasses.dataclass
class Settings:
    width: int = 2


class Base:
    def step(self, run: Any) -> int:
        return offset + 2


class Trainer(Base):
    def fit(self, run: Any) -> int:
        return super().step(run)

    def __call__(self, run: Any) -> int:
        return self.fit(run)

    @staticmethod
    def static(run: Any) -> int:
        return offset + 2


class Rows(torch.utils.data.Dataset):  # type: ignore[type-arg]
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((2,), float(index)) + offset - 40


def logged(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(run: Any, **rest: Any) -> Any:
        return function(run, **rest)

    return wrapper


def closure() -> Any:
    inner = 2

    def fit(run: Any) -> int:
        return offset + inner

    return fit


@logged
def decorated(run: Any, width: int = 2) -> int:
    return offset + width


def with_settings(run: Any, settings: Settings) -> int:
    return offset + settings.width


def with_module(run: Any) -> int:
    return int(beside.double(21))


def with_loader(run: Any) -> int:
    total = 0.0
    for batch in run.batches(torch.utils.data.DataLoader(Rows(), batch_size=4, num_workers=2)):
        total += float(batch.sum())
    return round(total) - 14


def recursive(run: Any, n: int = 42) -> int:
    return 0 if n == 0 else 1 + recursive(run, n=n - 1)


def holds_lock(run: Any) -> int:
    with lock:
        return offset + 2


def holds_file(run: Any) -> int:
    return offset + 2 + file.closed


def holds_generator(run: Any) -> int:
    return offset + 2 + (next(numbers) * 0)


def holds_lock_within(run: Any, box: Any) -> int:
    return offset + len(box)


FUNCTIONS: dict[str, tuple[Any, dict[str, Any]]] = {
    "a lambda": (lambda run: offset + 2, {}),
    "a closure": (closure(), {}),
    "a bound method": (Trainer().fit, {}),
    "a static method": (Trainer.static, {}),
    "an object that can be called": (Trainer(), {}),
    "a decorated function": (decorated, {"width": 2}),
    "functools.partial": (functools.partial(decorated, width=2), {}),
    "a dataclass as argument": (with_settings, {"settings": Settings()}),
    "a module beside the notebook, edited since": (with_module, {}),
    "a loader with two workers": (with_loader, {}),
    "a function that calls itself": (recursive, {}),
    "a lock": (holds_lock, {}),
    "an open file": (holds_file, {}),
    "a generator": (holds_generator, {}),
    "a lock in a list": (holds_lock_within, {"box": [1, lock]}),
}


#: What brings another thing along each: a class of the notebook, a module beside it, loaders of its own.
FEW = ("an object that can be called", "a module beside the notebook, edited since", "a loader with two workers")
CANNOT_TRAVEL = ("a lock", "an open file", "a generator", "a lock in a list")


def outcomes(runner: str) -> dict[str, str]:
    """What came of each function: its result, or what was said where it was submitted."""
    started: dict[str, Any] = {}
    few = runner == "process" and os.environ.get("FUNCTIONS") == "few"
    for name, (function, params) in FUNCTIONS.items():
        if few and name not in (*FEW, *CANNOT_TRAVEL):
            continue
        try:
            started[name] = tk.submit(function, runner=runner, **params)
        except tk.TrainkitError as error:
            started[name] = f"refused: {error}"
    found = {}
    for name, job in started.items():
        if isinstance(job, str):
            found[name] = job
            continue
        try:
            found[name] = str(job.result(timeout=400))
        except Exception as error:  # noqa: BLE001 - whatever comes is told
            found[name] = f"{type(error).__name__}: {error}"
    return found


def by_name(function: Any, params: dict[str, Any]) -> str:
    """What plain pickle makes of it, as multiprocessing would send it: names of things, and not the things."""
    try:
        return pickle.dumps((function, params)).hex()
    except Exception:  # noqa: BLE001 - as above
        return ""


if __name__ == "__main__":
    found = {runner: outcomes(runner) for runner in ("thread", "process")}
    print(json.dumps({**found, "by name": {name: by_name(*pair) for name, pair in FUNCTIONS.items()}}))
    file.close()
