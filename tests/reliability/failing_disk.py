"""Every operation on a job's files, with every system call of it failing in turn, and what is left afterwards.

``python failing_disk.py VARIANT HOW FOLDER [OPERATION …]`` prints one JSON object: for each operation how many
trials there were, and every fault that was found.  VARIANT is ``trainkit``, or one of the known-bad ways to write:
``in-place`` (a record and a checkpoint rewritten where they are), ``unhealed`` (lines appended without a look at
what is there, or at how much was taken), ``quiet`` (errors of the disk passed over).  HOW is ``every-way``, or
``some-ways``: three of the ten ways in which a call can fail.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from faults import KINDS, Disk

from trainkit.api import attempts
from trainkit.api.job import Job
from trainkit.api.launching import submit
from trainkit.errors import CheckpointError, JobExistsError, StoreError, TrainkitError, telling
from trainkit.files import recorder, store, streams
from trainkit.files.endings import Ending
from trainkit.files.locks import is_locked
from trainkit.files.record import EndedBy, Record, Status, encode
from trainkit.files.recorder import Recorder
from trainkit.files.store import Handle, Store
from trainkit.files.streams import Appender, tail
from trainkit.resuming import checkpoints
from trainkit.resuming.checkpoints import save_resume, whole_resume
from trainkit.runners.lifetime import bury
from trainkit.runners.slots import FOLDER_VARIABLE, Ticket

JOB = "job"


class Operation:
    """One thing that is done to the files.

    ``prepare`` makes them, without faults; ``do`` is what fails; ``faults`` tells what is wrong with what is left,
    given whether ``do`` claimed success.
    """

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder)
        self.paths = self.store.paths(JOB)

    def prepare(self) -> None:
        self.store.create(queued()).close()

    def do(self) -> None:
        raise NotImplementedError

    def faults(self, succeeded: bool) -> list[str]:
        raise NotImplementedError

    def old_or_new(self, path: Path, old: bytes, new: bytes, succeeded: bool) -> list[str]:
        """What a replaced file must be."""
        found = path.read_bytes() if path.exists() else b"(missing)"
        if found not in (old, new):
            return [f"{path.name} is neither the old nor the new: {found[:40]!r}"]
        return ["success was claimed, and the old is there"] if succeeded and found != new else []


def queued() -> Record:
    """A record as submission makes it."""
    return Record(job_id=JOB, name=JOB, status=Status.QUEUED, runner="thread", params={"filler": "x" * 500})


class Create(Operation):
    def prepare(self) -> None:
        pass

    def do(self) -> None:
        self.store.create(queued()).close()

    def faults(self, succeeded: bool) -> list[str]:
        if succeeded:
            return [] if self.store.read(JOB).status is Status.QUEUED else ["success was claimed without a job"]
        try:
            self.store.create(queued()).close()
            return []
        except JobExistsError:
            if JOB not in self.store.job_ids():
                return ["the id is taken by no job"]
            self.store.delete(JOB)
            return []


class WriteRecord(Operation):
    durable = False

    def prepare(self) -> None:
        super().prepare()
        self.old = self.paths.record.read_bytes()
        self.new = queued()
        self.new.step = 7

    def do(self) -> None:
        self.store.write_record(self.new, durable=self.durable)

    def faults(self, succeeded: bool) -> list[str]:
        return self.old_or_new(self.paths.record, self.old, encode(self.new), succeeded)


class WriteRecordDurably(WriteRecord):
    durable = True


class WriteHandle(Operation):
    def do(self) -> None:
        self.store.write_handle(JOB, Handle(runner="thread", requests_offset=5))

    def faults(self, succeeded: bool) -> list[str]:
        handle = self.store.handle(JOB)
        if handle is not None and handle.requests_offset != 5:
            return ["half a handle"]
        return ["success was claimed without a handle"] if succeeded and handle is None else []


class AppendMetrics(Operation):
    """Ten lines behind a torn one, five more while the disk fails, and five when it works again."""

    def prepare(self) -> None:
        super().prepare()
        self.appender: Appender | None = None
        with open(self.paths.metrics, "wb") as file:
            file.write(b"".join(b'{"n":%d}\n' % n for n in range(10)) + b'{"n":')

    def append(self, n: int) -> None:
        assert self.appender is not None
        self.appender.append([{"n": n, "filler": "y" * 40}])

    def do(self) -> None:
        self.appender = Appender(self.paths.metrics)
        failure: OSError | None = None
        for n in range(10, 15):
            try:
                self.append(n)
            except StoreError as error:
                failure = error
        self.appender.sync()
        if failure is not None:
            raise failure

    def faults(self, succeeded: bool) -> list[str]:
        now = [line["n"] for line in tail(self.paths.metrics)[0]]
        found = [] if now == list(range(len(now))) else [f"before the disk works again: {now}"]
        if self.appender is not None:
            for n in range(15, 20):
                self.append(n)
            now = [line["n"] for line in tail(self.paths.metrics)[0]]
            found += [] if now == list(range(20)) else [f"when the disk works again: {now}"]
            self.appender.close()
        return found


class Request(Operation):
    def prepare(self) -> None:
        super().prepare()
        self.paths.requests.write_bytes(b'{"action":"pause"}\n{"acti')
        self.paths.reserve.write_bytes(bytes(1000))

    def do(self) -> None:
        self.store.request(JOB, "stop", note="z" * 60)

    def faults(self, succeeded: bool) -> list[str]:
        self.store.request(JOB, "checkpoint")
        found = [line["action"] for line in self.store.requests(JOB, 0)[0]]
        wanted = ["pause", "stop", "checkpoint"] if succeeded else ["pause", "checkpoint"]
        return [] if found == wanted else [f"success={succeeded}, requests: {found}"]


class Checkpoint(Operation):
    def content(self, step: int) -> dict[str, Any]:
        return {"step": step, "weights": torch.full((100,), float(step))}

    def save(self, step: int) -> None:
        checkpoints.save_resume(self.paths, self.content(step), step=step, epoch=1, now=float(step))

    def prepare(self) -> None:
        super().prepare()
        self.save(1)
        self.save(2)

    def do(self) -> None:
        self.save(3)

    def faults(self, succeeded: bool) -> list[str]:
        found = []
        try:
            path, info = whole_resume(self.paths)
            step = torch.load(path, weights_only=True)["step"]
            if step != info.step or step not in (2, 3) or (succeeded and step != 3):
                found.append(f"success={succeeded}, and the checkpoint is of step {step}")
            save_resume(self.paths, self.content(4), step=4, epoch=1, now=4.0)
            found += [] if whole_resume(self.paths)[1].step == 4 else ["no more checkpoints after a failure"]
        except CheckpointError as error:
            found.append(str(error))
        return found


class SaveModel(Operation):
    def prepare(self) -> None:
        super().prepare()
        checkpoints.save(self.paths.model, {"n": 1})
        self.old = self.paths.model.read_bytes()

    def do(self) -> None:
        checkpoints.save(self.paths.model, {"n": 2})

    def faults(self, succeeded: bool) -> list[str]:
        try:
            n = torch.load(self.paths.model, weights_only=True)["n"]
        except Exception as error:  # noqa: BLE001 - whatever torch says of a damaged file
            return [f"the model file is damaged: {type(error).__name__}"]
        return ["success was claimed, and the old model is there"] if succeeded and n != 2 else []


class Delete(Operation):
    def prepare(self) -> None:
        super().prepare()
        self.paths.model.write_bytes(b"model")
        self.paths.resume.write_bytes(b"resume")
        self.paths.record.with_name(f".{JOB}.json.abc.tmp").write_bytes(b"left by a kill")

    def do(self) -> None:
        self.store.delete(JOB)

    def left(self) -> list[str]:
        return [path.name for path in self.store.root.rglob("*") if path.is_file()]

    def faults(self, succeeded: bool) -> list[str]:
        if succeeded:
            return [f"success was claimed, and there are {left}"] if (left := self.left()) else []
        if self.left() and JOB not in self.store.job_ids():
            return [f"not listed any more, and there are {self.left()}"]
        if JOB in self.store.job_ids():
            self.store.delete(JOB)
        return [f"deleted again, and there are {left}"] if (left := self.left()) else []


class Life(Operation):
    """A job's whole recorder: it runs, logs, is stopped and ends."""

    def prepare(self) -> None:
        super().prepare()
        self.recorder: Recorder | None = None
        self.raised_within = ""

    def do(self) -> None:
        self.recorder = pen = Recorder(self.store, self.store.read(JOB))
        self.raised_within = "the training"
        pen.keep_room()
        pen.change(Status.RUNNING, phase=None)
        for step in range(1, 8):
            pen.metrics.pending.append((step, 1, 1.0, {"loss": 1.0 / step}))
            if step % 3 == 0:
                pen.tick()
        pen.event("checkpoint", path="here")
        pen.warn("careful")
        pen.change(Status.STOPPING)
        self.raised_within = ""
        pen.close(Ending(Status.STOPPED, EndedBy.USER, "stopped on request"))

    def faults(self, succeeded: bool) -> list[str]:
        record = self.store.read(JOB)
        found = [f"{self.raised_within} was ended by the disk"] if self.raised_within else []
        steps = [line["step"] for line in tail(self.paths.metrics)[0]]
        found += [] if steps == list(range(1, len(steps) + 1)) else [f"metrics: {steps}"]
        if succeeded and record.status is not Status.STOPPED:
            found.append(f"success was claimed, and the record says {record.status}")
        if succeeded and len(steps) < 7 and "could not be written" not in record.message:
            found.append(f"metrics are missing without a word: {steps}")
        return found


class Bury(Operation):
    def do(self) -> None:
        bury(self.store, self.store.read(JOB), -9)

    def faults(self, succeeded: bool) -> list[str]:
        status = self.store.read(JOB).status
        if status not in (Status.QUEUED, Status.INTERRUPTED):
            return [f"the record says {status}"]
        return ["success was claimed, and nothing was told"] if succeeded and not status.terminal else []


class Submit(Operation):
    def prepare(self) -> None:
        pass

    def do(self) -> None:
        submit(nothing, job_id=JOB, root=self.store)

    def faults(self, succeeded: bool) -> list[str]:
        ids = self.store.job_ids()
        if succeeded:
            return (
                []
                if Job(JOB, self.store).wait(30) is Status.COMPLETED
                else ["success was claimed, and it did not run"]
            )
        if ids:  # the removing failed too
            self.store.delete(JOB)
        submit(nothing, job_id=JOB, root=self.store).result(30)
        return []


class Resume(Operation):
    """A new attempt of a stopped job: either it begins, or the job is as it was."""

    template: Path

    def prepare(self) -> None:
        shutil.copytree(self.template, self.store.root, dirs_exist_ok=True)
        self.before = self.store.read(JOB)

    def do(self) -> None:
        attempts.resume(self.store, JOB)

    def faults(self, succeeded: bool) -> list[str]:
        if not succeeded:
            record = self.store.observe(JOB)
            if not record.status.terminal:
                return [f"it did not begin, and says {record.status}"]
            if record.attempt == 1 and record != self.before:
                return [f"it did not begin, and the record changed: {record}"]
            attempts.resume(self.store, JOB)
        job = Job(JOB, self.store)
        status = job.wait(30)
        return [] if status is Status.COMPLETED else [f"resumed, it ended {status}: {job.record.message}"]


class Queue(Operation):
    """A place in the queue: drawn, started, given back."""

    def prepare(self) -> None:
        self.folder = Path(os.environ[FOLDER_VARIABLE])

    def do(self) -> None:
        ticket = Ticket(JOB)
        try:
            ticket.try_start(1)
        finally:
            ticket.close()

    def faults(self, succeeded: bool) -> list[str]:
        return [f"{path.name} is held" for path in self.folder.glob("*") if is_locked(path)]


def nothing(run: Any) -> None:
    """A job that ends at once."""


def two_steps(run: Any) -> None:
    """A job that is stopped after its first step, and completes when it is resumed."""
    run.track(model=torch.nn.Linear(1, 1))
    for _ in run.batches(range(2)):
        if run.step == 1:
            run.control.receive({"action": "stop"})


OPERATIONS: list[type[Operation]] = [
    *(Create, WriteRecord, WriteRecordDurably, WriteHandle, AppendMetrics, Request, Checkpoint, SaveModel),
    *(Delete, Life, Bury, Submit, Resume, Queue),
]


def handles() -> int:
    """How many files this process has open."""
    return len(os.listdir("/proc/self/fd"))


#: How a call fails, and whether all calls after it fail as well.
WAYS = {
    "every-way": list(itertools.product(KINDS, (False, True))),
    "some-ways": [("EIO", False), ("ENOSPC", True), ("torn", False)],
}


def attempt(operation: Operation, failing: AbstractContextManager[object], where: str) -> list[str]:
    """Do it while the disk fails; return what is wrong with what came of it."""
    before, succeeded, wrong = handles(), True, []
    try:
        with failing:
            operation.do()
    except TrainkitError:
        succeeded = False
    except Exception as error:  # noqa: BLE001 - what is not one of ours names no file
        succeeded = False
        wrong.append(f"{where}: {type(error).__name__}: {error}")
    try:
        wrong += [f"{where}: {fault}" for fault in operation.faults(succeeded)]
    except Exception as error:  # noqa: BLE001 - so too what cannot be asked any more
        wrong.append(f"{where}, afterwards: {type(error).__name__}: {error}")
    if handles() > before and not isinstance(operation, (Submit, Resume)):
        wrong.append(f"{where}: {handles() - before} files stay open")
    return wrong


def try_all(kind_of: type[Operation], ways: list[tuple[str, bool]], folder: Path) -> tuple[int, list[str]]:
    """Fail every call of an operation in turn, in all of these ways."""
    tried, wrong = 0, []
    for kind, lasting in ways:
        for at in itertools.count(1):
            root = folder / f"{kind_of.__name__}-{kind}-{lasting}-{at}"
            root.mkdir()
            os.environ[FOLDER_VARIABLE] = str(root / "queue")
            (root / "queue").mkdir()
            operation = kind_of(root)
            operation.prepare()
            disk = Disk(root, kind, at=at, lasting=lasting)
            where = f"{kind_of.__name__}, {kind} at call {at}{' and all after it' if lasting else ''}"
            wrong += attempt(operation, disk.failing(), where)
            tried += 1
            shutil.rmtree(root, ignore_errors=True)  # a job may still be closing its files
            if len(disk.calls) < at:
                break  # it came to its end: no call is left to fail
    return tried, wrong


# --- known-bad ways --------------------------------------------------------------------------------


def write_in_place(path: Path, data: bytes, *, durable: bool) -> None:
    """Rewrite a file where it is."""
    with telling(path), open(path, "wb") as file:
        file.write(data)


def save_in_place(path: Path, content: Any) -> None:
    """Save a model where it is."""
    with telling(path), open(path, "wb") as file:
        torch.save(content, file)


def append_unhealed(self: Appender, items: Any) -> None:
    """Append without a look at what is there, or at how much was taken."""
    for item in items:
        with telling(self.path):
            os.write(self._fd, streams.encode_line(item))


def append_quietly(path: Path, line: bytes) -> None:
    """Append a request, or do not."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.write(fd, line)
        os.close(fd)
    except OSError:
        return


def use(variant: str) -> None:
    """Put a known-bad way in the place of ours."""
    if variant == "in-place":
        store.write_atomically = checkpoints.write_atomically = write_in_place
        checkpoints.save = save_in_place
    elif variant == "unhealed":
        Appender.append = append_unhealed  # type: ignore[method-assign]
    elif variant == "quiet":
        store._append_whole = append_quietly
        recorder.put = lambda record, ending, now: None  # type: ignore[assignment]
    else:
        assert variant == "trainkit"


def main(variant: str, how: str, folder: str, names: list[str]) -> None:
    """Try, and count."""
    Resume.template = Path(folder) / "template"
    os.environ[FOLDER_VARIABLE] = str(Path(folder) / "queue")
    job = submit(two_steps, job_id=JOB, root=Resume.template)
    assert job.wait(60) is Status.STOPPED
    use(variant)
    result = {}
    for operation in OPERATIONS:
        if not names or operation.__name__ in names:
            tried, wrong = try_all(operation, WAYS[how], Path(folder))
            result[operation.__name__] = {"tried": tried, "wrong": wrong}
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])
