"""A server, a kernel and a command line that start, stop, list, resume and delete the same jobs at random.

``python three_at_once.py VARIANT SECONDS FOLDER`` prints one JSON object: what was asked how often, and each
contradiction.  A judge reads all records the whole time: within an attempt a terminal state never changes and no
attempt goes back; a job that was made is listed until somebody's delete has succeeded; whatever is asked comes to
its end or to an error of ours; at the end all is over, and no process, no place in the queue and no file of a
deleted job is left.  VARIANT is ``trainkit``; or ``writes``: the kernel's stop writes the state itself, and its
delete does not look whether somebody runs the job.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from jupyter_client.manager import KernelManager

import trainkit as tk
from trainkit.files.locks import is_locked
from trainkit.files.record import Status
from trainkit.files.store import ROOT_VARIABLE, Store
from trainkit.runners.raylocal import free_ports
from trainkit.runners.slots import FOLDER_VARIABLE, LIMIT_VARIABLE

MARK = "TRAINKIT_TEST_MARK"
TOKEN = "t"
#: Most of what is asked is about a few jobs, so that the three meet.
JOBS = [f"job-{number}" for number in range(5)]
ASKED = ("stop", "stop", "resume", "resume", "pause", "finish", "kill", "delete", "list", "list")
FIT = """
class Count:
    def __init__(self): self.n = 0
    def state_dict(self): return {"n": self.n}
    def load_state_dict(self, state): self.n = state["n"]

def fit(run, pause_s=0.005):
    import time
    run.track(count=Count())
    for _ in run.epochs(2):
        for _ in run.batches(range(300)):
            time.sleep(pause_s)
            run.log(loss=1.0)
    return 3
"""
_SETUP = """
import json, sys
sys.path.insert(0, {folder!r})
import trainkit as tk
from fits import fit
def act(what, job_id, runner):
    try:
        if what == "start":
            tk.submit(fit, job_id=job_id, runner=runner)
        elif what == "list":
            [job.state for job in tk.jobs()]
        else:
            getattr(tk.attach(job_id), what)()
        answer = "done"
    except tk.TrainkitError as error:
        answer = type(error).__name__
    except Exception as error:
        answer = f"not ours: {{type(error).__name__}}: {{error}}"
    print("answer", json.dumps(answer))
"""
_WRITES = """
from trainkit.files import claims
from trainkit.files.record import Status
from trainkit.files.store import Store
def stop(job):
    record = job.store.read(job.id)
    record.status = Status.STOPPED
    job.store.write_record(record, durable=False)
def delete(store, job_id):
    store.read(job_id)
    claims.remove(store.paths(job_id))
from trainkit.api.job import Job
Job.stop, Store.delete = stop, delete
"""
_ERRORS = {name for name, each in vars(tk.errors).items() if isinstance(each, type)}


class Judge:
    """What was seen of each job, and what of it cannot be."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.looks = 0
        self._guard = threading.Lock()
        self._seen: dict[tuple[str, float], tuple[int, str]] = {}
        self._deleting: Counter[str] = Counter()
        self._deleted: Counter[str] = Counter()
        self._deleted_at_look: Counter[str] = Counter()
        self._listed: set[str] = set()

    def ask(self, who: str, what: str, job_id: str, do: Callable[[], str]) -> None:
        """Have somebody do something, and note what came of it."""
        if what == "delete":
            with self._guard:
                self._deleting[job_id] += 1
        answer = do()
        with self._guard:
            self.asked[f"{who}: {what}: {answer}"] += 1
            if answer not in ("done", "TooManyJobs", *_ERRORS):  # the second is the server's own 429
                self.wrong.append(f"{who}: {what} {job_id}: {answer}")
            if what == "delete":
                self._deleting[job_id] -= 1
                self._deleted[job_id] += answer == "done"

    def look(self, store: Store) -> None:
        """Read all records, and compare them with what was there the last time."""
        with self._guard:
            deleted_before, self._deleted_at_look = self._deleted_at_look, self._deleted.copy()
        unreadable: dict[str, str] = {}
        listed = set()
        for record in store.observe_all(unreadable):
            self.looks += 1
            listed.add(record.job_id)
            key, now = (record.job_id, record.created_at), (record.attempt, str(record.status))
            before = self._seen.get(key, (0, ""))
            over = before[1] and Status(before[1]).terminal
            if now[0] < before[0] or (now[0] == before[0] and over and now != before):
                self.wrong.append(f"{record.job_id} was {before}, and is {now}")
            self._seen[key] = now
        self.wrong += [f"{job_id} cannot be read: {why}" for job_id, why in unreadable.items()]
        with self._guard:
            self.wrong += [
                f"{job_id} is gone, and nobody has deleted it"
                for job_id in self._listed - listed
                if not self._deleting[job_id] and self._deleted[job_id] == deleted_before[job_id]
            ]
        self._listed = listed


class Kernel:
    """A notebook's kernel."""

    def __init__(self, folder: Path, variant: str) -> None:
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel()
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=120)
        self.run(_SETUP.format(folder=str(folder)))
        if variant == "writes":
            self.run(_WRITES)

    def run(self, code: str) -> str:
        """Run a cell, and return what it printed."""
        printed: list[str] = []

        def take(message: Any) -> None:
            content = message["content"]
            if message["msg_type"] == "stream":
                printed.append(content["text"])
            elif message["msg_type"] == "error":
                printed.append("answer " + json.dumps("not ours: " + "\n".join(content["traceback"])))

        self.client.execute_interactive(code, timeout=120, output_hook=take)
        return "".join(printed)

    def act(self, what: str, job_id: str, luck: random.Random) -> str:
        """Do something by a cell."""
        runner = luck.choice(["thread", "process"])
        out = self.run(f"act({what!r}, {job_id!r}, {runner!r})")
        return str(json.loads(out.split("answer ", 1)[1].splitlines()[0]))

    def end(self) -> None:
        """Close the notebook."""
        self.client.stop_channels()
        self.manager.shutdown_kernel()
        self.manager.cleanup_resources()


class Server:
    """``trainkit serve``."""

    def __init__(self, folder: Path) -> None:
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        arguments = ["serve", "--port", str(port), "--token", TOKEN, "--root", str(folder)]
        self.log = open(folder.parent / "server.log", "wb")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-m", "trainkit", *arguments], stdout=self.log, stderr=self.log
        )
        until = time.monotonic() + 120
        while self.ask("GET", "/health") != "done":
            assert self.process.poll() is None, "the server has ended"
            assert time.monotonic() < until, "the server did not come up"
            time.sleep(0.1)

    def ask(self, method: str, path: str, body: Any = None) -> str:
        """One request; what came of it."""
        request = urllib.request.Request(
            self.url + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"token {TOKEN}", "Content-Type": "application/json"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=120):
                return "done"
        except urllib.error.HTTPError as error:
            told = json.loads(error.read())
            return str(told["error"]["type"]) if error.code < 500 else f"not ours: {error.code}: {told}"
        except OSError as error:
            return f"not ours: {error}"

    def act(self, what: str, job_id: str, luck: random.Random) -> str:
        """Do something by HTTP."""
        if what == "start":
            # A table's job, which is named by the server.
            return self.ask("POST", "/api/train", {"data": "table.csv", "target": "y", "epochs": 3})
        if what == "list":
            return self.ask("GET", "/api/train/jobs?limit=1000")
        if what == "delete":
            return self.ask("DELETE", f"/api/train/jobs/{job_id}")
        return self.ask("POST", f"/api/train/{what}", {"job_id": job_id})

    def end(self) -> None:
        """Ctrl-C."""
        self.process.terminate()
        self.process.wait()
        self.log.close()


class Shell:
    """``trainkit``, a process for each command."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def act(self, what: str, job_id: str, luck: random.Random) -> str:
        """Do something by a command."""
        words = {
            "start": ["submit", "fits:fit", "--detach", "--job-id", job_id, "--json"],
            "list": ["jobs", "--json"],
        }.get(what, [what, job_id, "--json"])
        out = subprocess.run(
            [sys.executable, "-m", "trainkit", *words], cwd=self.folder, capture_output=True, text=True
        )
        if out.returncode == 0:
            return "done"
        with contextlib.suppress(ValueError, KeyError, IndexError):
            return str(json.loads((out.stdout + out.stderr).strip().splitlines()[-1])["error"]["type"])
        return f"not ours: {out.returncode}: {out.stdout} {out.stderr}"


def others(mark: str) -> list[int]:
    """The processes that were started here and are there still."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if (
                process.pid != os.getpid()
                and process.environ().get(MARK) == mark
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(process.pid)
    return found


def all_is_over(store: Store, judge: Judge, queue: Path, mark: str) -> None:
    """Stop what still runs, and look at what is left."""
    until = time.monotonic() + 180
    for job in tk.jobs(root=store):
        with contextlib.suppress(tk.TrainkitError):
            job.resume() if str(job.state) == "PAUSED" else None
            job.stop()
    for job in tk.jobs(root=store):
        try:
            job.wait(max(1.0, until - time.monotonic()))
        except TimeoutError as error:
            judge.wrong.append(f"{job.id} does not end: {error}")
    judge.look(store)
    while others(mark) and time.monotonic() < until:
        time.sleep(0.05)
    judge.wrong += [f"process {pid} is left" for pid in others(mark)]
    judge.wrong += [f"{path.name} is held" for path in queue.glob("*.ticket") if is_locked(path)]
    ids = set(store.job_ids())
    judge.wrong += [
        f"{path} is of no job"
        for path in (store.root / "artifacts" / "jobs").iterdir()
        if path.name.removesuffix(".json") not in ids
    ]


def main(variant: str, seconds: float, folder: str) -> None:
    """Ask, judge and count."""
    mark = f"three-{os.getpid()}"
    root, queue = Path(folder) / "root", Path(folder) / "queue"
    root.mkdir(parents=True)
    (root / "fits.py").write_text(FIT)
    (root / "table.csv").write_text("x,y\n" + "".join(f"{n % 7},{'ab'[n % 2]}\n" for n in range(200)))
    os.environ.update(
        {ROOT_VARIABLE: str(root), FOLDER_VARIABLE: str(queue), LIMIT_VARIABLE: "4", "OMP_NUM_THREADS": "1"}
    )
    os.environ |= {"TRAINKIT_SPARE": "0", MARK: mark}
    kernel, server, shell = Kernel(root, variant), Server(root), Shell(root)
    judge, store = Judge(root), Store(root)
    until = time.monotonic() + seconds

    def drive(name: str, act: Callable[[str, str, random.Random], str], number: int) -> None:
        luck = random.Random(number)
        while time.monotonic() < until:
            job_id = luck.choice(JOBS)
            what = "start" if luck.random() < 0.3 else luck.choice(ASKED)
            if name == "shell" and what == "delete":
                what = "list"  # which is no word of the command line
            judge.ask(name, what, job_id, lambda what=what, job_id=job_id: act(what, job_id, luck))  # type: ignore[misc]
            time.sleep(luck.uniform(0, 0.05))

    actors = {"kernel": kernel.act, "server": server.act, "shell": shell.act}
    threads = [
        threading.Thread(target=drive, args=(name, act, number))
        for number, (name, act) in enumerate(actors.items())
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        judge.look(store)
        time.sleep(0.01)
    for thread in threads:
        thread.join()
    kernel.end()
    server.end()
    all_is_over(store, judge, queue, mark)
    print(
        json.dumps(
            {
                "asked": sum(judge.asked.values()),
                "looks": judge.looks,
                "answers": dict(sorted(judge.asked.items())),
                "wrong": judge.wrong,
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), sys.argv[3])
