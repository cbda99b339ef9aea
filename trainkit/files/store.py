"""The files of all jobs below one root.  Nobody but this module and ``recorder`` writes a record."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from trainkit.errors import (
    NO_ROOM,
    JobExistsError,
    RecordError,
    StateError,
    StoreError,
    TrainkitError,
    UnknownJobError,
    did_you_mean,
    telling,
)
from trainkit.files import claims
from trainkit.files.endings import LOST, failed, put
from trainkit.files.interrupts import uninterrupted
from trainkit.files.locks import FileLock, locked
from trainkit.files.opening import open_fd, opened
from trainkit.files.owners import Process, Pulse, boot_id, is_owned
from trainkit.files.paths import JobPaths, check_job_id, jobs_folder, models_folder
from trainkit.files.record import MOST_RECORD_BYTES, Record, Status, decode, encode
from trainkit.files.streams import encode_line, missing_newline, tail, write_all
from trainkit.files.whole import make_folders, read_whole, write_atomically

#: The runners whose jobs are run elsewhere, so that not the owner's lock but they tell who lives.
ENGINES = {"ray": "trainkit.runners.ray"}
ROOT_VARIABLE = "TRAINKIT_ROOT"
#: What the message of a job begins with that is on a cluster which may not be contacted.
UNREACHABLE = "unreachable: "
#: A job that cannot be checked is silent if its heartbeat has not moved for so long, on the reader's own clock.
SILENCE_S = 30.0
#: How long the owner of a job that is over may take to let go of it.
_LET_GO_S = 10.0
#: Requests for which some of the room is given up that a running job keeps for its end.
_LAST_REQUESTS = frozenset({"stop", "finish", "kill", "shutdown"})
#: How much of that room one such request takes: two blocks of most file systems.
_GIVEN_UP_BYTES = 8192


class Handle(msgspec.Struct, kw_only=True):
    """Where a runner put an attempt: enough for any process to poll or kill it.

    ``requests_offset`` is where the requests of this attempt begin; those before it are of an earlier one.
    ``ticket`` is the name of its place in the queue.
    """

    runner: str
    processes: list[Process] = []
    requests_offset: int = 0
    ticket: str = ""
    detail: dict[str, Any] = {}


class Store:
    """The jobs below one root folder.

    Args:
        root: the folder; without it ``TRAINKIT_ROOT``, or the current folder.
        pulse: the reader's clock for heartbeats of other hosts.

    >>> Store("/data").paths("first").model.as_posix()
    '/data/models/first.pt'
    """

    def __init__(self, root: str | os.PathLike[str] | None = None, *, pulse: Pulse | None = None) -> None:
        self.root = Path(root or os.environ.get(ROOT_VARIABLE) or ".").expanduser().absolute()
        self._pulse = pulse or Pulse()

    @classmethod
    def at(cls, root: Store | str | os.PathLike[str] | None) -> Store:
        """Return the store that an argument ``root=`` means."""
        return root if isinstance(root, Store) else cls(root)

    @functools.cached_property
    def real_root(self) -> str:
        """The root without links: the same text for all ways to the same folder."""
        return os.path.realpath(self.root)

    def __repr__(self) -> str:
        return f"Store({str(self.root)!r})"

    def paths(self, job_id: str) -> JobPaths:
        """Return the paths of a job; the id is checked before it touches a path."""
        return JobPaths(self.root, job_id)

    # --- reading ---------------------------------------------------------------------------------

    def job_ids(self) -> list[str]:
        """Return the ids of all records, readable or not, in no promised order."""
        try:
            with os.scandir(jobs_folder(self.root)) as entries:
                names = [entry.name for entry in entries if entry.name.endswith(".json")]
        except FileNotFoundError:
            return []
        return [name[: -len(".json")] for name in names if not name.startswith(".")]

    def read(self, job_id: str) -> Record:
        """Return the record as its owner last wrote it.  Most callers want :meth:`observe`.

        Raises:
            JobIdError: not a job id.
            UnknownJobError: no such job.
            RecordError: the record is damaged.
        """
        try:
            return self._read(job_id, str(self.paths(job_id).record))
        except FileNotFoundError:
            raise UnknownJobError(
                f"no job {job_id!r} under {self.root}{did_you_mean(job_id, self.job_ids())}"
            ) from None

    def _read(self, job_id: str, path: str) -> Record:
        try:
            data = read_whole(path, most_bytes=MOST_RECORD_BYTES)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise RecordError(str(StoreError.about(error, Path(path)))) from error
        try:
            record = decode(data)
        except RecordError as error:
            raise RecordError(f"{path}: {error}") from error
        if record.job_id != job_id:
            raise RecordError(f"{path}: the record inside is of job {record.job_id!r}")
        return record

    def observe(self, job_id: str) -> Record:
        """Return the record with the state that is true now: INTERRUPTED if nobody runs it any more.

        Raises:
            JobIdError: not a job id.
            UnknownJobError: no such job.
            RecordError: the record is damaged.
        """
        return self._as_it_is(self.read(job_id))

    def observe_all(self, unreadable: dict[str, str]) -> Iterator[Record]:
        """Yield all records as :meth:`observe` does, in no promised order, each forgotten unless it is kept.

        Args:
            unreadable: gets the ids of those that cannot be read, with the reason.
        """
        folder = os.path.join(jobs_folder(self.root), "")
        for job_id in self.job_ids():
            try:
                record = self._read(check_job_id(job_id), f"{folder}{job_id}.json")
                yield record if record.status.terminal else self._as_it_is(record)
            except (FileNotFoundError, UnknownJobError):
                continue  # deleted while we were looking
            except (TrainkitError, ValueError) as error:
                unreadable[job_id] = str(error)

    def _as_it_is(self, record: Record) -> Record:
        """Return a record that was read a moment ago with the state that is true now."""
        if record.status.terminal:
            return record
        try:
            return self._with_the_truth(record)
        except (UnknownJobError, RecordError):
            raise
        except TrainkitError as error:
            raise RecordError(f"whether somebody runs it cannot be checked: {error}") from error

    def _with_the_truth(self, record: Record) -> Record:
        job_id = record.job_id
        owned = self.is_owned(record)
        if owned is None:
            self._tell_silence(record)
        if owned is not False:
            return record
        # The owner writes its last record before it frees the lock: what is read now is final.
        record = self.read(job_id)
        if not record.status.terminal and self.is_owned(record) is False:
            put(record, LOST)
        return record

    def _tell_silence(self, record: Record) -> None:
        if (engine := ENGINES.get(record.runner or "")) is not None and (
            reason := importlib.import_module(engine).why_not_asked(self, record)
        ):
            record.message = reason
            return
        silent_s = self._pulse.silent_s(record.job_id, record.heartbeat_at)
        if silent_s >= SILENCE_S:
            record.message = (
                f"no sign of life for {silent_s:.0f} s; its host, {record.host}, cannot be asked from here. "
                "If that is gone, job.resume(lost=True) goes on from the last checkpoint"
            )

    def observe_as_owner(self, job_id: str) -> Record:
        """Return the record for somebody who holds the owner's lock: whoever ran the job is gone."""
        record = self.read(job_id)
        if not record.status.terminal:
            put(record, LOST)
        return record

    def is_owned(self, record: Record) -> bool | None:
        """Whether somebody runs this job; None if that cannot be known from here."""
        if (engine := ENGINES.get(record.runner or "")) is not None:
            # By name: the runners stand above this module, and only jobs on a cluster need to ask it.
            owned: bool | None = importlib.import_module(engine).poll(self, record)
            return owned
        return self.is_held(record)

    def is_held(self, record: Record) -> bool | None:
        """Whether somebody holds the owner's lock of this job; None if that cannot be known from this host."""
        paths = self.paths(record.job_id)
        try:
            handle = self.handle(record.job_id)
        except RecordError:
            # What a loss of power has damaged names processes of before, all of which are gone.
            if record.host != socket.gethostname() or record.boot_id in (None, boot_id()):
                raise
            handle = None
        processes = list(handle.processes) if handle else []
        if record.pid and record.process_started_at and record.boot_id and record.host:
            # The handle, if it has that process, says more of it.
            if not any((each.pid, each.host) == (record.pid, record.host) for each in processes):
                processes.append(Process(record.pid, record.process_started_at, record.boot_id, record.host))
        elif record.runner is None:
            return False  # the older shape knows no owner
        return is_owned(paths.owner_lock, processes)

    def handle(self, job_id: str) -> Handle | None:
        """Return where the runner put the newest attempt, or None if it was not put anywhere yet."""
        try:
            data = read_whole(self.paths(job_id).handle, most_bytes=MOST_RECORD_BYTES)
            return msgspec.json.decode(data, type=Handle)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise RecordError(str(StoreError.about(error, self.paths(job_id).handle))) from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise RecordError(f"{self.paths(job_id).handle}: {error}") from error

    def requests(
        self, job_id: str, offset: int, *, on_unreadable: Callable[[bytes], object] = lambda line: None
    ) -> tuple[list[dict[str, Any]], int]:
        """Return the requests from a byte offset on, and the next offset; see :func:`trainkit.files.streams.tail`.

        Raises:
            StoreError: they cannot be read.
        """
        path = self.paths(job_id).requests
        with telling(path):
            return tail(path, offset, on_unreadable=on_unreadable)

    # --- writing ---------------------------------------------------------------------------------

    def create(self, record: Record) -> FileLock:
        """Make the files of a new job and return the lock of its owner; on any failure nothing is left behind.

        Raises:
            JobExistsError: a job of that id is there.
            StoreError: the files cannot be made.
        """
        paths = self.paths(record.job_id)
        made: list[Path] = []
        try:
            for folder in (models_folder(self.root), jobs_folder(self.root)):
                with telling(folder):
                    made[:0] = make_folders(folder)
            with telling(paths.folder):
                lock = None if paths.record.exists() else claims.claim(paths)
        except OSError:
            for folder in made:
                with contextlib.suppress(OSError):  # somebody else has put something into it meanwhile
                    folder.rmdir()
            raise
        if lock is None:
            raise JobExistsError(
                f"there is a job {record.job_id!r} under {self.root} already; "
                "take another id, or none to have one made"
            )
        try:
            with telling(paths.folder):
                for stream in (paths.requests, paths.metrics, paths.events, paths.output):
                    os.close(open_fd(stream, os.O_WRONLY | os.O_CREAT))
            self.write_record(record, durable=False)
        except BaseException:
            self.discard(record.job_id)
            lock.close()
            raise
        return lock

    def discard(self, job_id: str) -> None:
        """Remove what :meth:`create` made, when the job could not be submitted.  Only the owner may call this."""
        # What cannot be removed is a job that nobody runs, which can be deleted like any other; the error that
        # brought us here is the one to tell.
        with contextlib.suppress(OSError):
            claims.remove(self.paths(job_id))

    def sweep(self, job_id: str) -> None:
        """Remove the temporary files that kills have left.  Only the owner may call this."""
        claims.sweep(self.paths(job_id))

    def delete(self, job_id: str) -> None:
        """Remove all files of a job that is over, its model and a damaged record too.  Links are not followed.

        The record goes last: what a kill or a failing disk has left of the job is listed, and can be deleted.

        Raises:
            JobIdError: not a job id.
            UnknownJobError: no such job.
            StateError: somebody runs it, or that cannot be known from this host.
            StoreError: not all could be removed.
        """
        paths = self.paths(job_id)
        give_up_at = time.monotonic() + _LET_GO_S
        while True:
            # Anew each time: meanwhile somebody else may have resumed it, or deleted it and made another one.
            try:
                status = self.observe(job_id).status
            except RecordError:
                status = Status.INTERRUPTED  # nobody can go on from a damaged record
            if not status.terminal:
                raise StateError(f"job {job_id!r} is {status}; stop it first, then delete it")
            with telling(paths.folder):
                if uninterrupted(lambda: claims.remove_if_free(paths)):
                    return
            if time.monotonic() > give_up_at:
                raise StateError(f"job {job_id!r} is {status}, but its process still holds its files; try later")
            time.sleep(0.02)

    def write_record(self, record: Record, *, durable: bool) -> bytes:
        """Replace the record; return what was written.  Only the owner may call this."""
        data = encode(record)
        write_atomically(self.paths(record.job_id).record, data, durable=durable)
        return data

    def tell_failure(self, record: Record, error: Exception) -> None:
        """Write the end of a job for which that could not be done in the ordinary way: the disk is full, say.

        Where even this cannot be written, nobody runs the job, which is what readers find and tell.  Only its
        owner may call this.
        """
        if not record.status.terminal:
            put(record, failed(error), now=time.time())
        with contextlib.suppress(StoreError, MemoryError):
            self.write_record(record, durable=True)

    def write_handle(self, job_id: str, handle: Handle) -> None:
        """Replace the handle.  Only the owner may call this."""
        write_atomically(self.paths(job_id).handle, msgspec.json.encode(handle) + b"\n", durable=False)

    def request(self, job_id: str, action: str, **fields: Any) -> None:
        """Append a request for the owner, whole or not at all.  Anyone may call this.

        Args:
            job_id: an existing job.
            action: ``stop``, ``finish``, ``pause``, ``resume``, ``set``, ``checkpoint`` or ``kill``.
            **fields: what the action needs, for example ``params={"lr": 1e-4}``.

        Raises:
            UnknownJobError: no such job, or one of the older shape, which cannot be asked anything.
            StoreError: the request could not be written.
        """
        paths = self.paths(job_id)
        line = encode_line({"action": action, **fields})
        with telling(paths.requests):
            if not paths.requests.exists():
                raise UnknownJobError(
                    f"job {job_id!r} under {self.root} takes no requests: {paths.requests.name} is missing"
                )
            with locked(paths.requests):
                try:
                    _append_whole(paths.requests, line)
                except OSError as error:
                    if error.errno not in NO_ROOM or action not in _LAST_REQUESTS or not paths.reserve.exists():
                        raise
                    # A part of it: the running job itself takes what it can get, and needs the rest for its end.
                    with opened(paths.reserve, "rb+") as reserve:
                        reserve.truncate(max(0, reserve.seek(0, os.SEEK_END) - _GIVEN_UP_BYTES))
                    _append_whole(paths.requests, line)


def _append_whole(path: Path, line: bytes) -> None:
    fd = open_fd(path, os.O_RDWR | os.O_APPEND)
    try:
        before = os.fstat(fd).st_size
        try:
            write_all(fd, missing_newline(fd) + line)
        except OSError:
            os.ftruncate(fd, before)  # what is told to have failed must not be read when the next one closes it
            raise
    finally:
        os.close(fd)
