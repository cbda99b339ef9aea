"""Kill the processes of real jobs at random instants, from their launch on, and watch what readers say.

``python kill_job.py VARIANT WHOM ROUNDS FOLDER`` prints one JSON object.  WHOM is ``supervisor`` or ``worker``.
VARIANT is ``trainkit``, or ``supervisor-only``: the known-bad reader for whom a job lives as its supervisor does.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
from ends import steps

from trainkit.api.job import Job
from trainkit.api.launching import submit
from trainkit.files.owners import is_running
from trainkit.files.store import Store
from trainkit.runners.slots import FOLDER_VARIABLE, LIMIT_VARIABLE

MARK = "TRAINKIT_TEST_MARK"
#: How long the dead may be called RUNNING, and their processes stay: see ``deaths.py``.
SOON_S = {"trainkit": 30.0, "supervisor-only": 1.0}


def marked(mark: str) -> list[psutil.Process]:
    """The processes of a job: they carry its mark in their environment."""
    found = []
    for process in psutil.Process().children(recursive=True) + orphans(mark):
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def orphans(mark: str) -> list[psutil.Process]:
    """What a killed supervisor has left behind is init's."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if (
                process.pid != os.getpid()
                and process.ppid() != os.getpid()
                and process.environ().get(MARK) == mark
            ):
                found.append(process)
    return found


def runs(store: Store, job: Job, variant: str) -> bool:
    """Whether the job runs, as a reader tells it."""
    if variant == "trainkit":
        return not store.observe(job.id).status.terminal
    record, handle = store.read(job.id), store.handle(job.id)
    known = handle.processes[:1] if handle else []
    return not record.status.terminal and (not known or bool(is_running(known[0])))


def main(variant: str, whom: str, rounds: int, folder: str) -> None:
    """Kill, and watch."""
    os.environ[FOLDER_VARIABLE], os.environ[LIMIT_VARIABLE] = str(Path(folder) / "queue"), "100"
    luck, soon_s = random.Random(5), SOON_S[variant]
    slowest_s = 0.0
    seen: Counter[str] = Counter(rounds=rounds)
    ends: Counter[str] = Counter()
    for number in range(rounds):
        mark = f"{os.getpid()}-{number}"
        os.environ[MARK] = mark
        store = Store(Path(folder) / str(number))
        begun_at = time.monotonic()
        job = submit(steps, count=150, pause_s=0.005, runner="process", root=store)
        kill_at = begun_at + luck.uniform(0.0, luck.choice([0.3, 1.2]))
        killed, dead_since, said_dead = False, None, False
        while True:
            now = time.monotonic()
            if not killed and now >= kill_at:
                handle = store.handle(job.id)
                processes = handle.processes if handle else []
                victim = processes[0 if whom == "supervisor" else 1 :][:1]
                if whom == "supervisor" and not victim:
                    children = psutil.Process().children()
                    victims = [child.pid for child in children if child.is_running()]
                else:
                    victims = [each.pid for each in victim]
                if victims:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(victims[-1], signal.SIGKILL)
                        seen["kills"] += 1
                    killed = True
            alive = runs(store, job, variant)
            seen["looks"] += 1
            if alive and said_dead:
                seen["dead, and alive again"] += 1
                break
            said_dead = said_dead or not alive
            if said_dead:
                break
            if not marked(mark):
                dead_since = dead_since or now
                if now - dead_since > soon_s and runs(store, job, variant):
                    seen["RUNNING when dead"] += 1
                    break
            time.sleep(0.005)
        # Whoever was called dead must not be seen at work afterwards.
        at = store.read(job.id).step
        told_at = time.monotonic()
        while marked(mark) and time.monotonic() < told_at + soon_s:
            time.sleep(0.02)
        slowest_s = max(slowest_s, time.monotonic() - told_at)
        seen["left behind"] += bool(marked(mark))
        seen["dead when alive"] += store.read(job.id).step > at or (said_dead and runs(store, job, "trainkit"))
        ends[str(store.observe(job.id).status)] += 1
        for process in marked(mark):
            with contextlib.suppress(psutil.Error):
                process.kill()
    print(json.dumps({**seen, "ends": ends, "slowest_s": round(slowest_s, 3)}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
