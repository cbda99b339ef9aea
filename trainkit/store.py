"""The files of all jobs below one root.  Nobody but this module and ``recorder`` writes a record."""

from __future__ import annotations

import itertools
import os
import shutil
import time
import uuid
from pathlib import Path
from typing import Any

import msgspec

from trainkit.errors import JobExistsError, RecordError, StateError, UnknownJobError, did_you_mean
from trainkit.locks import FileLock, locked, try_lock
from trainkit.owners import Process, Pulse, is_owned
from trainkit.paths import JobPaths, jobs_folder, models_folder
from trainkit.record import EndedBy, Record, Status, decode, encode
from trainkit.streams import encode_line, heal, tail, write_all

ROOT_VARIABLE = "TRAINKIT_ROOT"
#: How long a heartbeat on another host may stand still before that is said.
SILENCE_S = 30.0
#: How long the owner of a job that is over may take to let go of it.
_LET_GO_S = 5.0


class Handle(msgspec.Struct, kw_only=True):
    """Where a runner put an attempt: enough for any process to poll or kill it.

    ``requests_offset`` is where the requests of this attempt begin; those before it are of an earlier one.
    """

    runner: str
    processes: list[Process] = []
    requests_offset: int = 0
    detail: dict[str, Any] = {}


def write_atomically(path: Path, data: bytes, *, durable: bool) -> None:
    """Replace a file so that readers see the old content or the new, never anything else.

    Args:
        path: the file.
        data: its new content.
        durable: also survive a loss of power from here on; costs about 10 ms.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        try:
            write_all(fd, data)
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Return when the names in a folder are on the disk, where the system can say so."""
    if os.name != "posix":  # pragma: no cover - Windows cannot open a folder
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _interrupt(record: Record) -> None:
    record.status = Status.INTERRUPTED
    record.ended_by = EndedBy.LOST
    record.message = "its process vanished"
    record.phase = None


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
        path = self.paths(job_id).record
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise UnknownJobError(
                f"no job {job_id!r} under {self.root}{did_you_mean(job_id, self.job_ids())}"
            ) from None
        except OSError as error:
            raise RecordError(f"{path}: {error.strerror or error}") from error
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
        record = self.read(job_id)
        if record.status.terminal:
            return record
        owned = self.is_owned(record)
        if owned is None:
            self._tell_silence(record)
        if owned is not False:
            return record
        # The owner writes its last record before it frees the lock: what is read now is final.
        record = self.read(job_id)
        if not record.status.terminal and self.is_owned(record) is False:
            _interrupt(record)
        return record

    def _tell_silence(self, record: Record) -> None:
        silent_s = self._pulse.silent_s(record.job_id, record.heartbeat_at)
        if silent_s > SILENCE_S:
            record.message = (
                f"no sign of life for {silent_s:.0f} s; its host, {record.host}, cannot be asked from here"
            )

    def observe_as_owner(self, job_id: str) -> Record:
        """Return the record for somebody who holds the owner's lock: whoever ran the job is gone."""
        record = self.read(job_id)
        if not record.status.terminal:
            _interrupt(record)
        return record

    def is_owned(self, record: Record) -> bool | None:
        """Whether somebody runs this job; None if that cannot be known from this host."""
        paths = self.paths(record.job_id)
        handle = self.handle(record.job_id)
        processes = list(handle.processes) if handle else []
        if record.pid and record.process_started_at and record.boot_id and record.host:
            processes.append(Process(record.pid, record.process_started_at, record.boot_id, record.host))
        elif record.runner is None:
            return False  # the older shape knows no owner
        return is_owned(paths.owner_lock, processes)

    def handle(self, job_id: str) -> Handle | None:
        """Return where the runner put the newest attempt, or None if it was not put anywhere yet."""
        try:
            return msgspec.json.decode(self.paths(job_id).handle.read_bytes(), type=Handle)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise RecordError(f"{self.paths(job_id).handle}: {error.strerror or error}") from error
        except msgspec.DecodeError as error:
            raise RecordError(f"{self.paths(job_id).handle}: {error}") from error

    def requests(self, job_id: str, offset: int) -> tuple[list[dict[str, Any]], int]:
        """Return the requests from a byte offset on, and the next offset."""
        return tail(self.paths(job_id).requests, offset)

    # --- writing ---------------------------------------------------------------------------------

    def create(self, record: Record) -> FileLock:
        """Make the files of a new job and return the lock of its owner.

        Raises:
            JobExistsError: a job of that id is there.
        """
        paths = self.paths(record.job_id)
        try:
            models_folder(self.root).mkdir(parents=True, exist_ok=True)
            jobs_folder(self.root).mkdir(parents=True, exist_ok=True)
            if paths.record.exists():
                raise FileExistsError
            paths.folder.mkdir()  # the one step that two who want the same id cannot both do
        except FileExistsError:
            raise JobExistsError(
                f"there is a job {record.job_id!r} under {self.root} already; "
                "take another id, or none to have one made"
            ) from None
        lock = try_lock(paths.owner_lock)
        assert lock is not None, "the folder was made by us a moment ago"
        try:
            for stream in (paths.requests, paths.metrics, paths.events, paths.output):
                stream.touch()
            self.write_record(record, durable=False)
        except BaseException:
            lock.close()
            self.discard(record.job_id)
            raise
        return lock

    def discard(self, job_id: str) -> None:
        """Remove what :meth:`create` made, when the job could not be submitted."""
        paths = self.paths(job_id)
        paths.record.unlink(missing_ok=True)
        for path in paths.folder.iterdir():
            path.unlink()
        paths.folder.rmdir()

    def sweep(self, job_id: str) -> None:
        """Remove the temporary files that kills have left.  Only the owner may call this."""
        paths = self.paths(job_id)
        beside = (folder.glob(f".{job_id}.*.tmp") for folder in (paths.record.parent, paths.model.parent))
        for path in (*itertools.chain(*beside), *paths.folder.glob(".*.tmp")):
            path.unlink(missing_ok=True)

    def delete(self, job_id: str) -> None:
        """Remove all files of a job that is over, its model and a damaged record too.  Links are not followed.

        Raises:
            JobIdError: not a job id.
            UnknownJobError: no such job.
            StateError: somebody runs it, or that cannot be known from this host.
        """
        paths = self.paths(job_id)
        try:
            status = self.observe(job_id).status
        except RecordError:
            status = Status.INTERRUPTED  # nobody can go on from a damaged record
        if not status.terminal:
            raise StateError(f"job {job_id!r} is {status}; stop it first, then delete it")
        lock = None
        if paths.owner_lock.exists():
            give_up_at = time.monotonic() + _LET_GO_S
            while (lock := try_lock(paths.owner_lock)) is None:
                if time.monotonic() > give_up_at:
                    raise StateError(
                        f"job {job_id!r} is {status}, but its process still holds its files; try later"
                    )
                time.sleep(0.02)
        try:
            paths.record.unlink(missing_ok=True)  # first: from here on there is no such job
            paths.model.unlink(missing_ok=True)
            if paths.folder.is_symlink():
                paths.folder.unlink()
            elif paths.folder.exists():
                shutil.rmtree(paths.folder)
        finally:
            if lock is not None:
                lock.close()

    def write_record(self, record: Record, *, durable: bool) -> None:
        """Replace the record.  Only the owner may call this."""
        write_atomically(self.paths(record.job_id).record, encode(record), durable=durable)

    def write_handle(self, job_id: str, handle: Handle) -> None:
        """Replace the handle.  Only the owner may call this."""
        write_atomically(self.paths(job_id).handle, msgspec.json.encode(handle) + b"\n", durable=False)

    def request(self, job_id: str, action: str, **fields: Any) -> None:
        """Append a request for the owner.  Anyone may call this.

        Args:
            job_id: an existing job.
            action: ``stop``, ``finish``, ``pause``, ``resume``, ``set``, ``checkpoint`` or ``kill``.
            **fields: what the action needs, for example ``params={"lr": 1e-4}``.

        Raises:
            UnknownJobError: no such job, or one of the older shape, which cannot be asked anything.
        """
        path = self.paths(job_id).requests
        if not path.exists():
            raise UnknownJobError(f"job {job_id!r} under {self.root} takes no requests: {path.name} is missing")
        with locked(path):
            fd = os.open(path, os.O_RDWR | os.O_APPEND)
            try:
                heal(fd)
                write_all(fd, encode_line({"action": action, **fields}))
            finally:
                os.close(fd)
