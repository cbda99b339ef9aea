"""Owners that die in every way, and owners that only seem dead; what readers say of them, and how soon.

``python deaths.py READER ROUNDS SECONDS FOLDER`` prints one JSON object.  READER is ``trainkit``, or one of the
known-bad readers: ``pids`` (alive is whose pid is there) and ``heartbeats`` (dead is whose record is a second
old).  SECONDS is how long those that only seem dead do so.  Runs without torch, since it forks.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil

from trainkit.files.locks import try_lock
from trainkit.files.owners import this_process
from trainkit.files.record import Record, Status
from trainkit.files.recorder import Recorder
from trainkit.files.store import Handle, Store

JOB = "job"
#: A reader that guesses takes who has been silent for so long for dead.
SILENT_S = 1.0
#: For how long a dead owner may be called RUNNING: a second where nobody else computes, which is told as a figure;
#: a machine that others use too may take the reader's processor away for longer.  Known-bad readers get no more.
SOON_S = {"trainkit": 30.0, "pids": 1.0, "heartbeats": 1.0}
_libc = ctypes.CDLL(None)
#: Calls through this keep the interpreter's lock.
_libc_holding_the_gil = ctypes.PyDLL(None)


def running(store: Store, *, lock: bool = True) -> Recorder:
    """Own the job as a running one does, with a recorder's thread."""
    if lock:
        held = try_lock(store.paths(JOB).owner_lock)
        assert held is not None
        held_for_ever.append(held)
    me = this_process()
    record = Record(job_id=JOB, name=JOB, status=Status.RUNNING, runner="process", pid=me.pid)
    record.process_started_at, record.boot_id, record.host = me.started_at, me.boot_id, me.host
    store.write_handle(JOB, Handle(runner="process", processes=[me]))
    recorder = Recorder(store, record)
    recorder.write_now()
    recorder.start()
    return recorder


held_for_ever: list[object] = []


def start(store: Store, then: Callable[[], None], *, own: Callable[[Store], object] = running) -> int:
    """Start an owner in a process of its own, which does something once it owns the job; return its pid."""
    receive, send = os.pipe()
    if (pid := os.fork()) == 0:
        own(store)
        os.write(send, b".")
        then()
        time.sleep(600)
        os._exit(0)
    os.close(send)
    assert os.read(receive, 1) == b".", "the owner did not come up"
    os.close(receive)
    return pid


# --- readers ---------------------------------------------------------------------------------------


def ask_trainkit(store: Store) -> bool:
    """Whether the job runs, as trainkit tells it."""
    return not store.observe(JOB).status.terminal


def ask_pids(store: Store) -> bool:
    """Believe that a process is there when its number is."""
    record = store.read(JOB)
    return not record.status.terminal and record.pid is not None and psutil.pid_exists(record.pid)


def ask_heartbeats(store: Store) -> bool:
    """Believe that who has been silent for a second is dead."""
    record = store.read(JOB)
    return not record.status.terminal and time.time() - (record.heartbeat_at or 0) < SILENT_S


READERS = {"trainkit": ask_trainkit, "pids": ask_pids, "heartbeats": ask_heartbeats}


# --- ways to die -----------------------------------------------------------------------------------


def by_sigkill(store: Store) -> list[int]:
    """Killed, and waited for by its parent."""
    pid = start(store, lambda: None)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return []


def as_a_zombie(store: Store) -> list[int]:
    """Killed, and its parent does not look."""
    pid = start(store, lambda: None)
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return [pid]


def while_stopped(store: Store) -> list[int]:
    """Stopped first, killed then."""
    pid = start(store, lambda: None)
    os.kill(pid, signal.SIGSTOP)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return []


def by_exit(store: Store) -> list[int]:
    """``os._exit`` in the middle."""
    os.waitpid(start(store, lambda: os._exit(0)), 0)
    return []


def by_segfault(store: Store) -> list[int]:
    """A fault of memory."""
    os.waitpid(start(store, lambda: ctypes.string_at(0) and None), 0)  # type: ignore[func-returns-value]
    return []


def leaving_a_forked_child(store: Store) -> list[int]:
    """Killed, and a child that it forked (a DataLoader's worker) lives on."""
    return _leaving_a_child(store, os.fork)


def leaving_an_escaped_child(store: Store) -> list[int]:
    """Killed, and a child that was forked behind Python's back keeps all of its files open."""
    return _leaving_a_child(store, _libc.fork)


def _leaving_a_child(store: Store, fork: Callable[[], int]) -> list[int]:
    receive, send = os.pipe()

    def have_a_child() -> None:
        if (child := fork()) == 0:
            while True:
                time.sleep(600)
        os.write(send, child.to_bytes(4, "little"))

    pid = start(store, have_a_child)
    child = int.from_bytes(os.read(receive, 4), "little")
    os.close(receive)
    os.close(send)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    children.append(child)
    return []


children: list[int] = []
DEATHS: dict[str, Callable[[Store], list[int]]] = {
    "SIGKILL": by_sigkill,
    "zombie": as_a_zombie,
    "killed while stopped": while_stopped,
    "os._exit": by_exit,
    "segmentation fault": by_segfault,
    "forked child outlives it": leaving_a_forked_child,
    "escaped child outlives it": leaving_an_escaped_child,
}


# --- ways to seem dead -----------------------------------------------------------------------------


def stopped(store: Store, seconds: float) -> tuple[int, Callable[[], None]]:
    """SIGSTOP for a while."""
    pid = start(store, lambda: None)
    os.kill(pid, signal.SIGSTOP)
    return pid, lambda: os.kill(pid, signal.SIGCONT)


def holding_the_gil(store: Store, seconds: float) -> tuple[int, Callable[[], None]]:
    """A call into C that lets no other thread run, so that no heartbeat is written."""
    pid = start(store, lambda: _libc_holding_the_gil.usleep(int(seconds * 1e6)))
    return pid, lambda: None


def after_the_clock_was_set(store: Store, seconds: float) -> tuple[int, Callable[[], None]]:
    """The start time of a process is computed from the clock, and has moved."""

    def own(store: Store) -> None:
        recorder = running(store)
        with recorder._guard:
            recorder.record.process_started_at = (recorder.record.process_started_at or 0) - 100
            recorder.write_now()
        me = this_process()
        moved = type(me)(me.pid, me.started_at - 100, me.boot_id, me.host)
        store.write_handle(JOB, Handle(runner="process", processes=[moved]))

    return start(store, lambda: None, own=own), lambda: None


def in_a_pid_namespace(store: Store, seconds: float) -> tuple[int, Callable[[], None]]:
    """A container with the host's name: its pids mean other processes, or none, here."""
    code = (
        "import deaths, os, sys, time\n"
        "open('/proc/sys/kernel/ns_last_pid', 'w').write(sys.argv[2])\n"  # a number that no process has out here
        "if os.fork() == 0: deaths.running(deaths.Store(sys.argv[1])); print('.', flush=True)\n"
        "time.sleep(600)"
    )
    free = int(Path("/proc/sys/kernel/pid_max").read_text()) - 100
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, "-c", code]
    owner = subprocess.Popen(
        [*command, str(store.root), str(free)], stdout=subprocess.PIPE, cwd=Path(__file__).parent
    )
    assert owner.stdout is not None
    assert owner.stdout.read(1) == b"."
    namespaces.append(owner)
    return owner.pid, lambda: None


namespaces: list[subprocess.Popen[bytes]] = []


SEEMINGS: dict[str, Callable[[Store, float], tuple[int, Callable[[], None]]]] = {
    "SIGSTOP": stopped,
    "GIL held": holding_the_gil,
    "clock set": after_the_clock_was_set,
}


# --- records without an owner ----------------------------------------------------------------------


def left_behind(store: Store, *, lock_file: bool, started_at: float, boot_id: str) -> None:
    """A record whose pid is that of a living process, which is another one."""
    me = this_process()
    record = Record(job_id=JOB, name=JOB, status=Status.RUNNING, runner="process", pid=os.getpid())
    record.process_started_at, record.boot_id, record.host = started_at, boot_id or me.boot_id, me.host
    record.heartbeat_at = time.time()
    store.write_record(record, durable=False)
    if not lock_file:
        store.paths(JOB).owner_lock.unlink()


def main(reader: str, rounds: int, seconds: float, folder: str) -> None:
    """Die, seem dead, and count."""
    ask, soon_s = READERS[reader], SOON_S[reader]
    seen: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    slowest_s = 0.0
    number = 0

    def fresh() -> Store:
        nonlocal number
        number += 1
        store = Store(Path(folder) / str(number))
        store.create(Record(job_id=JOB, name=JOB, status=Status.QUEUED, runner="process")).close()
        return store

    def done(store: Store) -> None:
        shutil.rmtree(store.root, ignore_errors=True)

    for _ in range(rounds):
        for name, die in DEATHS.items():
            store = fresh()
            zombies = die(store)
            died_at = time.monotonic()
            while (alive := ask(store)) and time.monotonic() - died_at < soon_s:
                time.sleep(0.005)
            took_s = time.monotonic() - died_at
            slowest_s = max(slowest_s, took_s)
            seen["deaths"] += 1
            if alive:
                wrong[f"RUNNING when dead: {name}"] += 1
            for pid in zombies:
                os.waitpid(pid, 0)
            while children:
                os.kill(children.pop(), signal.SIGKILL)
            done(store)
        for lock_file in (True, False):
            for what, started_at, boot_id in (
                ("pid used again", this_process().started_at - 60.0, ""),
                ("other boot", this_process().started_at, "00000000-other-boot"),
            ):
                store = fresh()
                left_behind(store, lock_file=lock_file, started_at=started_at, boot_id=boot_id)
                seen["records left behind"] += 1
                wrong[f"RUNNING when dead: {what}"] += ask(store)
                done(store)

    seemings = dict(SEEMINGS)
    if os.geteuid() == 0 and sys.platform == "linux":
        seemings["other pid namespace"] = in_a_pid_namespace
    stores = {name: fresh() for name in seemings}
    owners = {name: seem(stores[name], seconds) for name, seem in seemings.items()}
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for name, store in stores.items():
            seen["looks at the living"] += 1
            wrong[f"dead when alive: {name}"] += not ask(store)
        time.sleep(0.01)
    for name, (pid, wake) in owners.items():
        wake()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        died_at = time.monotonic()
        while (alive := ask(stores[name])) and time.monotonic() - died_at < soon_s:
            time.sleep(0.005)
        seen["deaths"] += 1
        wrong[f"RUNNING when dead: {name}"] += alive
        done(stores[name])

    elsewhere = fresh()
    record = Record(job_id=JOB, name=JOB, status=Status.RUNNING, runner="process", pid=1, process_started_at=1.0)
    record.boot_id, record.host, record.heartbeat_at = "other", "elsewhere", 1.0
    elsewhere.write_record(record, durable=False)
    seen["looks at another host"] += 1
    wrong["dead when it cannot be known"] += not ask(elsewhere)
    told = {name: count for name, count in wrong.items() if count}
    print(json.dumps({"seen": seen, "wrong": told, "slowest_s": round(slowest_s, 3)}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4])
