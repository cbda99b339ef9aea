"""The owner's pen: the one writer of a running job's record, metrics and events.

Training code appends to a deque and goes on; a thread of the recorder writes metrics, refreshes the record
at most five times a second, and looks for requests twenty times a second.  Changes of state are written at
once and durably, by whoever makes them.

A disk that takes nothing does not end the training: what could not be written is tried again at every tick, and
only the terminal state must be written, for which some room is kept.
"""

from __future__ import annotations

import contextlib
import copy
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from trainkit.errors import StoreError, text_of
from trainkit.files.endings import Ending, put
from trainkit.files.metrics import LINES_AT_ONCE, MetricsWriter
from trainkit.files.opening import opened
from trainkit.files.plain import to_jsonable
from trainkit.files.record import Phase, Record, Status, Throughput, check_change, decode, encode, repair
from trainkit.files.store import Store
from trainkit.files.streams import Appender

TICK_S = 0.05
#: Enough for the last lines and the terminal record on a disk that is full otherwise.
RESERVE_BYTES = 65536
REFRESH_S = 0.2
HEARTBEAT_S = 1.0
_SPEED_WINDOW_S = 10.0
#: So many bytes before the next request are compared, to see whether the file was replaced meanwhile.
_COMPARED_BYTES = 64


#: Those of this process.
_recorders: weakref.WeakSet[Recorder] = weakref.WeakSet()


class Recorder:
    """Writes what happens to one attempt of a job.

    Args:
        store: where the files are.
        record: the record to go on from; the recorder keeps and changes it.
        requests_offset: where the requests of this attempt begin, in bytes.
        clock: Unix seconds, which may be set back or forward at any time.
        ticks: seconds that never go back.
    """

    _appender: type[Appender] = Appender

    def __init__(
        self,
        store: Store,
        record: Record,
        *,
        requests_offset: int = 0,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store = store
        self.record = record
        self.clock, self.ticks = clock, ticks
        self.on_request: Callable[[dict[str, Any]], None] = lambda request: None
        self.before_refresh: Callable[[], None] = lambda: None
        #: Told the time, on the clock of ``time.monotonic``, and how late the round was, both in seconds.
        self.on_round: Callable[[float, float], None] = lambda now, late_s: None
        paths = store.paths(record.job_id)
        self.metrics = MetricsWriter(self._appender(paths.metrics), record, warn=self.warn)
        try:
            self._events = self._appender(paths.events)
        except BaseException:
            self.metrics.close()
            raise
        self._requests, self._requests_offset = str(paths.requests), requests_offset
        self._before_requests: bytes | None = None  # what stands before the offset, once it was looked at
        self._reserve = paths.reserve
        self._guard = threading.RLock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._refreshed_at = -REFRESH_S
        self._written = b""
        self._sound = copy.copy(record)
        self._speed: deque[tuple[float, int]] = deque()
        self._complained: set[str] = set()
        self._troubled = False
        #: Whether this is a forked child of the process that owns the job, and may write nothing.
        self.forked = False
        _recorders.add(self)

    # --- what the owner says ---------------------------------------------------------------------

    def change(self, status: Status, *, told: Mapping[str, Any] | None = None, **fields: Any) -> None:
        """Bring the job into a new state, durably if the disk takes it, with an event.

        Args:
            status: the new state.
            told: what the event tells besides.
            **fields: fields of the record.

        Raises:
            StateError: the table of states does not allow it.
        """
        with self._guard:
            check_change(self.record.status, status)
            was = self.record.status
            self.record.status = status
            self._set(fields)
            self.event("state", status=status, was=was, message=self.record.message, **(told or {}))
            with self._surviving():
                self._write(durable=True)

    def change_from(self, old: Status, status: Status, **fields: Any) -> bool:
        """Bring the job into a new state if it still is in the old one; return whether it was."""
        with self._guard:
            if self.record.status is not old:
                return False
            self.change(status, **fields)
            return True

    def note(self, **fields: Any) -> None:
        """Change fields of the record; written at the next refresh."""
        with self._guard:
            self._set(fields)

    @contextlib.contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        """Have the record say what the job is doing meanwhile."""
        before = self.record.phase
        self.note(phase=phase)
        try:
            yield
        finally:
            self.note(phase=before)

    def event(self, kind: str, **fields: Any) -> None:
        """Append an event.

        Args:
            kind: ``state``, ``request``, ``change``, ``checkpoint``, ``ending``, ``warning``, or ``cleared`` when
                what was warned of has passed.
            **fields: what happened, as JSON can hold it.
        """
        self._prepare()
        line = {"time": self.clock(), "attempt": self.record.attempt, "step": self.record.step, "event": kind}
        with self._guard, self._surviving():
            self._events.append([to_jsonable({**line, **fields})])

    def warn(self, message: str, *, cause: str | None = None) -> None:
        """Record a warning, once per message.

        Args:
            message: plain words, with what to do.
            cause: a name of the matter, if it may pass: then once until :meth:`clear`, whatever the message.
        """
        with self._guard:
            if not self.warns_of(cause or message):
                self._complained.add(cause or message)  # first: what the event causes must not come back here
                self.event("warning", message=message, **({"cause": cause} if cause else {}))

    def warns_of(self, cause: str) -> bool:
        """Whether there is a warning of this cause, and it has not passed."""
        return cause in self._complained

    def clear(self, cause: str, message: str) -> bool:
        """Record that what was warned of has passed; return whether there was such a warning."""
        with self._guard:
            if not self.warns_of(cause):
                return False
            self.event("cleared", message=message, cause=cause)
            self._complained.discard(cause)
            return True

    def requested(self, *actions: str) -> bool:
        """Whether one of these has been requested in this attempt.  For use before :meth:`start`."""
        requests, _ = self.store.requests(self.record.job_id, self._requests_offset)
        return any(request.get("action") in actions for request in requests)

    # --- the thread ------------------------------------------------------------------------------

    def start(self) -> None:
        """Start writing in the background."""
        self.keep_room()
        self._thread = threading.Thread(
            target=self._write_until_closed, name=f"trainkit-recorder-{self.record.job_id}", daemon=True
        )
        self._thread.start()

    def keep_room(self) -> None:
        """Take some room on the disk for the end."""
        with self._surviving(), opened(self._reserve, "wb") as reserve:
            # Random, since some file systems make no room for zeros.
            reserve.write(os.urandom(RESERVE_BYTES))

    def _write_until_closed(self) -> None:
        while True:
            wait_s = 0 if len(self.metrics.pending) >= LINES_AT_ONCE else TICK_S
            due_at = time.monotonic() + wait_s
            if self._closing.wait(wait_s):
                return
            woke_at = time.monotonic()
            self.tick()
            with self.surviving("looking after the run"):
                self.on_round(woke_at, woke_at - due_at)

    def tick(self) -> None:
        """Do one round of the thread's work: requests, metrics, record.  The parts fail independently."""
        requests: list[dict[str, Any]] = []
        with self.surviving("reading requests"):
            requests = self._new_requests()
        for request in requests:
            with self.surviving("acting on a request"):
                # Anyone may write a request: what makes no sense is ignored.
                if isinstance(action := request.get("action"), str):
                    self.on_request(request)
                else:
                    self.warn(f"ignored a request whose action is {action!r:.80}; expected a text such as 'stop'")
        with self.surviving("writing metrics"):
            self.metrics.drain()
        if self.ticks() - self._refreshed_at >= REFRESH_S:
            with self._guard, self.surviving("refreshing the record"):
                self._refresh()

    @contextlib.contextmanager
    def surviving(self, part: str) -> Iterator[None]:
        """Let the training, and the other parts of the recorder's work, go on when one part fails.

        Args:
            part: what is being done; a fault in it is reported once.
        """
        try:
            with self._surviving():
                yield
        except Exception as error:  # noqa: BLE001 - no fault in one part may make the job deaf
            message = f"a fault in trainkit while {part}: {type(error).__name__}: {text_of(error)}"
            self.warn(f"{message}. The training goes on; please report this", cause=f"fault: {part}")

    @contextlib.contextmanager
    def _surviving(self) -> Iterator[None]:
        """Let the training go on when the disk does not take something; it is reported, and tried again later."""
        try:
            yield
        except OSError as error:
            # The first fault of an attempt is enough; the warning waits with the events until there is room.
            if not self._troubled:
                self._troubled = True
                message = StoreError.about(error, self.store.paths(self.record.job_id).folder)
                self.warn(
                    f"{message}. The training goes on; what could not be written is tried again until its end"
                )

    def _prepare(self) -> None:
        with self.surviving("bringing the run into the record"):
            self.before_refresh()

    def write_now(self) -> None:
        """Write the record, for when no thread does it yet."""
        with self._guard:
            self._write(durable=False)

    def close(self, ending: Ending) -> None:
        """Write all that is pending and the terminal state, and close the files.

        Raises:
            StoreError: the terminal state could not be written, even with the room that was kept for it.
        """
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
        with self._guard:
            try:
                self._settle(ending)
            finally:
                self.detach()

    def abandon(self) -> None:
        """Write all that is pending and close the files; how it ended is told by somebody else."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
        with self._guard:
            self._write_the_rest()
            self._give_up_reserve()
            self.detach()

    def _settle(self, ending: Ending) -> None:
        trouble = self._write_the_rest()
        was = self.record.status
        put(self.record, ending, now=self.clock())
        message = self.record.message
        self.record.message = self._with_what_is_lost(message, trouble)
        try:
            self._write(durable=True)
        except OSError:
            if not self._give_up_reserve():
                raise
            self._write(durable=True)
        # The end is told; what is left of the room is for the rest.
        self._give_up_reserve()
        self.event("state", status=ending.status, was=was, message=message)
        if trouble is not None and self._write_the_rest() is None:
            self.record.message = self._with_what_is_lost(message, None)
            with self._surviving():
                self._write(durable=True)

    def _with_what_is_lost(self, message: str, trouble: Exception | None) -> str:
        left = f"the last of its metrics could not be written ({trouble})" if trouble is not None else ""
        dropped = f"{self.metrics.dropped:,} lines of metrics could not be kept" if self.metrics.dropped else ""
        return "; ".join(part for part in (message, left, dropped) if part)

    def _write_the_rest(self) -> Exception | None:
        """Write what was logged, whatever the disk takes of it; return what is in the way of the rest."""
        self._prepare()
        self.before_refresh = lambda: None  # the terminal record says where it ended, whoever asks
        with self.surviving("measuring the speed"):
            self._measure_speed()
        try:
            while self.metrics.waiting:
                self.metrics.drain()
            self.metrics.sync()
        except Exception as error:  # noqa: BLE001 - the end has to be written, whatever happens to the rest
            return error
        return None

    def _give_up_reserve(self) -> bool:
        """Free the room that was kept for the end; return whether there was any."""
        try:
            self._reserve.unlink()
        except OSError:
            return False
        return True

    def detach(self) -> None:
        """Close the files without a word, for somebody else to go on writing."""
        self.metrics.close()
        self._events.close()

    def fall_silent(self) -> None:
        """Write nothing from here on, in a forked child: the files of the job are its parent's."""
        self.forked = True
        self._guard = threading.RLock()  # the other one may be held by a thread that this process does not have
        self.detach()
        self._events = _Nowhere(self._events.path)
        self.__class__ = SilentRecorder

    # --- details ---------------------------------------------------------------------------------

    def _set(self, fields: Mapping[str, Any]) -> None:
        for name, value in fields.items():
            setattr(self.record, name, value)

    def _new_requests(self) -> list[dict[str, Any]]:
        try:
            size = os.stat(self._requests).st_size
        except FileNotFoundError:
            self.warn(f"{self._requests} was removed; the job can no longer be asked to stop through it")
            self._requests_offset, self._before_requests = 0, b""  # if it is made again, all of it is new
            return []
        if size == self._requests_offset and self._before_requests is not None:
            return []
        if size < self._requests_offset or self._before_requests not in (None, self._read_before_requests()):
            self.warn(f"{self._requests} was emptied or replaced; it is read again from its beginning")
            self._requests_offset = 0
        requests, self._requests_offset = self.store.requests(
            self.record.job_id, self._requests_offset, on_unreadable=self._warn_of_line
        )
        self._before_requests = self._read_before_requests()
        return requests

    def _read_before_requests(self) -> bytes:
        begin = max(0, self._requests_offset - _COMPARED_BYTES)
        with opened(self._requests) as file:
            file.seek(begin)
            return file.read(self._requests_offset - begin)

    def _warn_of_line(self, line: bytes) -> None:
        self.warn(
            f"ignored a line of {self._requests} that is not a JSON object, or is nested too deeply: {line[:40]!r}"
        )

    def _measure_speed(self) -> None:
        now, step = self.ticks(), self.record.step
        if self._speed and self._speed[0][1] == step:
            self._speed.clear()  # what passed before the first step, or in a pause, says nothing of the speed
        self._speed.append((now, step))
        while len(self._speed) > 2 and now - self._speed[0][0] > _SPEED_WINDOW_S:
            self._speed.popleft()
        since, first = self._speed[0]
        if now - since > 0.1 and step > first:
            old = self.record.throughput
            rows = old.rows_per_s if old else None
            self.record.throughput = Throughput(steps_per_s=(step - first) / (now - since), rows_per_s=rows)

    def _refresh(self) -> None:
        self._prepare()
        with self.surviving("measuring the speed"):
            self._measure_speed()
        self._refreshed_at = self.ticks()
        # A clock that was set back must not stop the heartbeat.
        stale = self.clock() - (self.record.heartbeat_at or 0.0)
        if self._encoded() != self._written or not 0 <= stale < HEARTBEAT_S:
            self._write(durable=False)

    def _write(self, *, durable: bool) -> None:
        self._written = b""  # if this fails, the next refresh tries again
        now = self.clock()
        self.record.updated_at = self.record.heartbeat_at = now
        self._encoded()
        self._written = self.store.write_record(self.record, durable=durable)
        self._sound = copy.copy(self.record)

    def _encoded(self) -> bytes:
        """Return the record as JSON; a field that no reader could read gets its last good value back."""
        try:
            data = encode(self.record)
            if data != self._written:
                decode(data)
        except Exception:  # noqa: BLE001 - a field may hold an object of any class
            fields = ", ".join(repair(self.record, self._sound))
            self.warn(f"the record cannot hold this value of {fields}; it keeps the one before")
            data = encode(self.record)
        return data


class _Nowhere(Appender):
    """A stream that keeps nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._unwritten = bytearray()

    def flush(self) -> None:
        """Have nothing to write."""

    def append(self, items: Iterable[Mapping[str, Any]]) -> None:
        """Keep nothing."""

    def sync(self) -> None:
        """Have nothing to wait for."""

    def close(self) -> None:
        """Have nothing to close."""


class SilentRecorder(Recorder):
    """That of a rank that does not report: it keeps the record in memory, hears nothing and writes nothing."""

    _appender = _Nowhere

    def __init__(self, store: Store, record: Record) -> None:
        super().__init__(store, record)
        self.metrics.pending = deque(maxlen=0)

    def start(self) -> None:
        """Have nothing to write in the background."""

    def close(self, ending: Ending) -> None:
        """Have no end to tell."""

    def abandon(self) -> None:
        """Have nothing to leave to anybody."""

    def _write(self, *, durable: bool) -> None:
        pass


def _silence_in_forked_child() -> None:
    for recorder in list(_recorders):
        recorder.fall_silent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_silence_in_forked_child)
