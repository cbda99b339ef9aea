"""Four processes that resume the same job at the same moment; one of them may.

``python resume_race.py VARIANT ROUNDS FOLDER`` prints one JSON object.  VARIANT is ``trainkit``, or ``unlocked``:
the known-bad way that looks whether the job is over and then begins, without the owner's lock.  The racers are
forked from a parent that has imported torch, but has computed nothing with it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from trainkit.api import attempts
from trainkit.api.job import Job
from trainkit.api.launching import submit
from trainkit.errors import StateError, TrainkitError
from trainkit.files.locks import try_lock
from trainkit.files.record import Status
from trainkit.files.store import Store
from trainkit.files.streams import tail
from trainkit.runners.slots import FOLDER_VARIABLE, LIMIT_VARIABLE

JOB = "job"
RACERS = 4


def two_steps(run: Any) -> None:
    """A job that is stopped after its first step, and goes on to its end when it is resumed."""
    run.track(model=torch.nn.Linear(1, 1))
    for _ in run.batches(range(2)):
        run.log(loss=float(run.step))
        if run.step == 1:
            run.control.receive({"action": "stop"})


def make(folder: Path) -> None:
    """Leave a stopped job there."""
    torch.set_num_threads(1)
    assert submit(two_steps, job_id=JOB, root=folder).wait(60) is Status.STOPPED


def race(folder: Path, rounds: int, number: int, variant: str, barrier: Any, results: Any) -> None:
    """Resume the job of each round, at the same moment as the others."""
    torch.set_num_threads(1)
    if variant == "unlocked":

        def own_lock(path: Path) -> Any:
            return try_lock(path.with_name(f"lock of racer {number}"))

        attempts.try_lock = own_lock
    for each in range(rounds):
        store = Store(folder / str(each))
        barrier.wait()
        try:
            attempts.resume(store, JOB)
            results.put((each, "won"))
            Job(JOB, store).wait(60)
        except StateError:
            results.put((each, "refused"))
        except (TrainkitError, OSError) as error:
            results.put((each, f"{type(error).__name__}: {error}"))
        barrier.wait()


def main(variant: str, rounds: int, folder: Path) -> None:
    """Race, and count."""
    os.environ[FOLDER_VARIABLE], os.environ[LIMIT_VARIABLE] = str(folder / "queue"), "100"
    context = multiprocessing.get_context("fork")
    maker = context.Process(target=make, args=(folder / "template",))
    maker.start()
    maker.join()
    for each in range(rounds):
        shutil.copytree(folder / "template", folder / str(each))
    barrier, results = context.Barrier(RACERS), context.SimpleQueue()
    racers = [
        context.Process(target=race, args=(folder, rounds, number, variant, barrier, results))
        for number in range(RACERS)
    ]
    for racer in racers:
        racer.start()
    told = [results.get() for _ in range(rounds * RACERS)]
    for racer in racers:
        racer.join()
    wins = Counter(each for each, what in told if what == "won")
    seen: Counter[str] = Counter(rounds=rounds, refused=sum(what == "refused" for _, what in told))
    seen["errors"] = sum(what not in ("won", "refused") for _, what in told)
    for each in range(rounds):
        store = Store(folder / str(each))
        seen["not one winner"] += wins[each] != 1
        record = store.read(JOB)
        events = [line for line in tail(store.paths(JOB).events)[0] if line.get("attempt") == 2]
        begun = [line for line in events if line["event"] == "state" and line["status"] == "RUNNING"]
        steps = [line["step"] for line in tail(store.paths(JOB).metrics)[0]]
        whole = record.status is Status.COMPLETED and record.attempt == 2 and len(begun) == 1 and steps == [1, 2]
        seen["not one attempt"] += not whole
    print(json.dumps(seen))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
