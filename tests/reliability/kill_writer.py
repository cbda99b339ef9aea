"""Kill the writer of a record again and again while others read it, and count what they saw.

``python kill_writer.py VARIANT KILLS FOLDER`` prints one JSON object.  VARIANT is ``trainkit``, or ``naive``:
the known-bad writer that rewrites its file in place and has no owner's lock.  Runs in a process without torch,
since it forks.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from trainkit.errors import RecordError, UnknownJobError
from trainkit.files.locks import try_lock
from trainkit.files.owners import this_process
from trainkit.files.record import Record, Status, encode, to_dict
from trainkit.files.recorder import Recorder
from trainkit.files.store import Store

JOB = "victim"


def write_like_trainkit(store: Store, ready: int) -> None:
    """Own the job and write its record as fast as possible, as a running job does."""
    lock = try_lock(store.paths(JOB).owner_lock)
    assert lock is not None
    me = this_process()
    record = Record(
        job_id=JOB, name=JOB, status=Status.RUNNING, runner="process", pid=me.pid, process_started_at=me.started_at
    )
    record.boot_id, record.host = me.boot_id, me.host
    record.params = {"filler": "x" * 1500}
    recorder = Recorder(store, record)
    recorder.write_now()
    os.write(ready, b".")
    while True:
        record.step += 1
        recorder.metrics.pending.append((record.step, 1, time.time(), {"loss": 1.0 / record.step}))
        recorder.metrics.drain()
        recorder.write_now()


def write_naively(store: Store, ready: int) -> None:
    """Rewrite the file in place, and believe what it says."""
    record = Record(job_id=JOB, name=JOB, status=Status.RUNNING, params={"filler": "x" * 1500})
    path = store.paths(JOB).record
    path.write_bytes(encode(record))
    os.write(ready, b".")
    while True:
        record.step += 1
        with open(path, "w") as file:
            json.dump(to_dict(record), file)


def read_until_told(store: Store, variant: str, stop: Path, answer: int) -> None:
    """Read all the time; report how often the record was torn, empty or missing."""
    seen: Counter[str] = Counter()
    while not stop.exists():
        seen["reads"] += 1
        try:
            store.observe(JOB) if variant == "trainkit" else store.read(JOB)
        except RecordError:
            seen["torn"] += 1
        except UnknownJobError:
            seen["missing"] += 1
    os.write(answer, json.dumps(seen).encode())


def main(variant: str, kills: int, folder: str) -> None:
    """Kill, and count."""
    store = Store(folder)
    writer = write_like_trainkit if variant == "trainkit" else write_naively
    first = Record(job_id=JOB, name=JOB, status=Status.QUEUED, runner="process")
    store.create(first).close()
    stop = Path(folder) / "stop"
    readers = []
    for _ in range(2):
        receive, send = os.pipe()
        if (pid := os.fork()) == 0:
            read_until_told(store, variant, stop, send)
            os._exit(0)
        os.close(send)
        readers.append((pid, receive))

    seen: Counter[str] = Counter(kills=kills)
    luck = random.Random(0)
    for _ in range(kills):
        receive, send = os.pipe()
        if (pid := os.fork()) == 0:
            writer(store, send)
        os.close(send)
        os.read(receive, 1)
        os.close(receive)
        seen["called dead while alive"] += state_of(store, variant) not in ("RUNNING", "torn")
        time.sleep(luck.uniform(0, 0.01))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        after = state_of(store, variant)
        seen["torn after a kill"] += after == "torn"
        seen["called RUNNING while dead"] += after == "RUNNING"
    stop.touch()
    for pid, receive in readers:
        seen.update(json.loads(os.read(receive, 10_000)))
        os.waitpid(pid, 0)
    print(json.dumps(seen))


def state_of(store: Store, variant: str) -> str:
    """What a reader is told of the job now."""
    try:
        return str((store.observe(JOB) if variant == "trainkit" else store.read(JOB)).status)
    except RecordError:
        return "torn"


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
