"""A job in a thread changes nothing in the notebook: not afterwards, and not while it runs."""

from __future__ import annotations

import contextlib
import decimal
import faulthandler
import gc
import hashlib
import logging
import os
import random
import signal
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
import torch._dynamo  # torch's optimizers import it at their first step, and it sets a filter and a variable, once
from threadpoolctl import threadpool_info

import trainkit as tk
from trainkit.files.record import Status
from trainkit.tabular.synthetic import synthetic_table


def _hash(data: Any) -> str:
    return hashlib.sha256(repr(data).encode()).hexdigest()


#: What a notebook owns, each with how to look at it.  What is not here is not promised.
OWNED: dict[str, Callable[[], Any]] = {
    "random numbers of python": lambda: _hash(random.getstate()),
    "random numbers of numpy": lambda: _hash(list(np.random.get_state(legacy=True)[1:])),
    "random numbers of torch": lambda: hashlib.sha256(torch.get_rng_state().numpy().tobytes()).hexdigest(),
    "default dtype": torch.get_default_dtype,
    "default device": torch.get_default_device,
    "grad mode": torch.is_grad_enabled,
    "inference mode": torch.is_inference_mode_enabled,
    "anomaly mode": torch.is_anomaly_enabled,
    "autocast": lambda: (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
    "deterministic algorithms": torch.are_deterministic_algorithms_enabled,
    "precision of products": torch.get_float32_matmul_precision,
    "cudnn": lambda: (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
    "threads of torch": lambda: (torch.get_num_threads(), torch.get_num_interop_threads()),
    "threads of other libraries": lambda: [(each["prefix"], each["num_threads"]) for each in threadpool_info()],
    "warning filters": lambda: list(warnings.filters),
    "the showing of warnings": lambda: (warnings.showwarning, warnings._showwarnmsg_impl),  # type: ignore[attr-defined]
    "warnings that were shown": lambda: sorted(map(repr, getattr(_main(), "__warningregistry__", {}))),
    "working folder": os.getcwd,
    "environment": lambda: dict(os.environ),
    "sys.path": lambda: list(sys.path),
    "sys.argv": lambda: list(sys.argv),
    "signal handlers": lambda: [signal.getsignal(each) for each in signal.valid_signals()],
    "hooks": lambda: (sys.excepthook, threading.excepthook, sys.displayhook, sys.unraisablehook),
    "tracing": lambda: (sys.gettrace(), sys.getprofile(), threading.gettrace(), faulthandler.is_enabled()),
    "switching of threads": sys.getswitchinterval,
    "recursion": sys.getrecursionlimit,
    "collection of garbage": lambda: (gc.isenabled(), gc.get_threshold(), len(gc.callbacks)),
    "logging": lambda: (logging.root.level, list(logging.root.handlers), logging.root.manager.disable),
    "matplotlib": lambda: (dict.__getitem__(mpl.rcParams, "backend"), _hash(sorted(map(repr, mpl.rcParams)))),
    "errors of numpy": np.geterr,
    "printing of numpy": lambda: repr(np.get_printoptions()),
    "printing of torch": lambda: repr(vars(torch._tensor_str.PRINT_OPTS)),
    "decimals": lambda: repr(decimal.getcontext()),
    "options of pandas": lambda: (pd.get_option("display.max_rows"), pd.get_option("display.precision")),
    "where print goes": lambda: (_behind(sys.stdout), _behind(sys.stderr), sys.stdin),
}  # fmt: skip


def _main() -> Any:
    return sys.modules["__main__"]


def _behind(stream: Any) -> Any:
    """The stream that takes what this thread writes: while a job runs, a proxy stands before it."""
    return getattr(stream, "usual", stream)


def owned() -> dict[str, Any]:
    """Everything that a notebook owns, as it is now."""
    return {name: look() for name, look in OWNED.items()}


def changes(start: Callable[[], tk.Job], *, leaves_within_s: float = 60.0) -> tuple[Counter[str], int]:
    """Run a job, looking all the while; return what was ever seen changed, and how many times it was looked.

    Args:
        start: starts it.
        leaves_within_s: how long its thread may take to leave when it is over.
    """
    before, seen, looks = owned(), Counter[str](), 0
    job = start()
    while True:
        over = job.done()
        now = owned()
        looks += 1
        seen.update(name for name in before if now[name] != before[name])
        if over:
            break
        time.sleep(0.002)
    assert job.wait(60) is Status.COMPLETED, job.record.error
    after = owned()
    seen.update(name for name in before if after[name] != before[name])
    # The record tells the end before the job's thread has left.
    give_up_at = time.monotonic() + leaves_within_s
    while sys.stdout is not before["where print goes"][0]:
        if time.monotonic() > give_up_at:
            seen.update(["the proxy stays"])
            break
        time.sleep(0.002)
    return seen, looks


def loop(run: Any) -> None:
    """A loop as people write it; what it draws it draws from a generator of its own."""
    generator = torch.Generator().manual_seed(0)
    model = torch.nn.utils.skip_init(torch.nn.Linear, 8, 1)
    torch.nn.init.uniform_(model.weight, generator=generator)
    torch.nn.init.zeros_(model.bias)
    optimizer = torch.optim.AdamW(model.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10)
    run.track(model=model, optimizer=optimizer, scheduler=scheduler)
    run.checkpoint_every(steps=25)
    x = torch.randn(64, 8, generator=generator)
    for _ in run.epochs(4):
        for rows in run.batches(torch.split(x, 4)):
            with torch.no_grad(), torch.autocast("cpu"):
                print("looking", model(rows).mean().item())
            loss = model(rows).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
            time.sleep(0.001)
        scheduler.step()


def test_training_on_a_table_changes_nothing(root: Path, tmp_path: Path) -> None:
    """Reading a file, training on it, saving the model."""
    synthetic_table(rows=800).to_csv(tmp_path / "t.csv", index=False)
    seen, looks = changes(lambda: tk.train(tmp_path / "t.csv", target="y", epochs=3))
    print(f"isolation, a table: {looks} looks at {len(OWNED)} things tried, {len(seen)} wrong")
    assert not seen


def test_a_loop_changes_nothing(root: Path) -> None:
    """A user's loop, with checkpoints, a scheduler, printing and grad mode."""
    seen, looks = changes(lambda: tk.submit(loop))
    print(f"isolation, a loop: {looks} looks at {len(OWNED)} things tried, {len(seen)} wrong")
    assert not seen


def test_a_loop_that_fails_or_is_stopped_changes_nothing(root: Path) -> None:
    """However it ends."""
    before = owned()

    def failing(run: Any) -> None:
        loop(run)
        raise KeyError("x")

    assert tk.submit(failing).wait(60) is Status.FAILED
    job = tk.submit(loop)
    job.stop()
    assert job.wait(60).terminal
    after = owned()
    assert [name for name in before if after[name] != before[name]] == []


@contextlib.contextmanager
def restored() -> Iterator[None]:
    """Undo what the known-bad variant does."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state(), os.getcwd(), dict(os.environ)
    path, argv, level, switch, errors = (
        [*sys.path],
        [*sys.argv],
        logging.root.level,
        sys.getswitchinterval(),
        np.geterr(),
    )
    limit, thresholds, precision = (
        sys.getrecursionlimit(),
        gc.get_threshold(),
        torch.get_float32_matmul_precision(),
    )
    filters, backend, stdout = [*warnings.filters], mpl.get_backend(), sys.stdout
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        os.chdir(states[3])
        os.environ.clear()
        os.environ.update(states[4])
        sys.path[:], sys.argv[:], warnings.filters[:] = path, argv, filters  # type: ignore[index]
        logging.root.setLevel(level)
        sys.setswitchinterval(switch)
        np.seterr(**errors)
        sys.setrecursionlimit(limit)
        gc.set_threshold(*thresholds)
        torch.set_float32_matmul_precision(precision)
        torch.set_default_dtype(torch.float32)
        torch.use_deterministic_algorithms(False)
        mpl.use(backend)
        sys.stdout = stdout


def test_the_harness_finds_a_job_that_changes_what_it_should_not(root: Path, tmp_path: Path) -> None:
    """A loop with the habits of many scripts: each one is seen."""

    def careless(run: Any) -> None:
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        torch.set_default_dtype(torch.float64)
        torch.use_deterministic_algorithms(True)
        torch.set_float32_matmul_precision("medium")
        warnings.simplefilter("ignore")
        os.chdir(tmp_path)
        os.environ["OMP_NUM_THREADS"] = "3"
        sys.path.insert(0, str(tmp_path))
        sys.argv.append("--lr")
        sys.setswitchinterval(0.006)
        sys.setrecursionlimit(5000)
        gc.set_threshold(5)
        logging.root.setLevel(logging.DEBUG)
        mpl.use("svg")
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115

    with restored():
        seen, _ = changes(lambda: tk.submit(careless), leaves_within_s=0.5)
        sys.stdout.close()
    print(f"isolation, known-bad: {len(seen)} of {17 + 1} changes seen")
    assert len(seen) == 17 + 1, "seventeen habits, of which one leaves a proxy behind"
