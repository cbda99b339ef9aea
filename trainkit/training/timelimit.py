"""Ends a run when it has run for long enough."""

from __future__ import annotations

from trainkit.files.record import EndedBy, Status
from trainkit.files.recorder import Recorder
from trainkit.files.units import duration
from trainkit.training.control import Control

#: How often the time is written down that a job has run for.
_NOTED_EVERY_S = 1.0


class TimeLimit:
    """Counts the time that a job has run for, over all its attempts, and ends it when that is enough.

    Waiting in the queue and pauses do not count.  Called in the recorder's thread.

    Args:
        recorder: knows the limit, and keeps the time.
        control: ends the run.
    """

    def __init__(self, recorder: Recorder, control: Control) -> None:
        self._recorder, self._control = recorder, control
        self._run_for_s = self._noted_s = recorder.record.run_for_s
        self._seen_at: float | None = None

    def look(self, now: float) -> None:
        """Count the time since the last look.

        Args:
            now: seconds, from any beginning.
        """
        record = self._recorder.record
        if record.status not in (Status.RUNNING, Status.STOPPING):
            self._seen_at = None
            return
        if self._seen_at is not None:
            self._run_for_s += now - self._seen_at
        self._seen_at = now
        if self._run_for_s - self._noted_s >= _NOTED_EVERY_S:
            self.note()
        limit_s = record.limits.max_time_s
        if limit_s is not None and self._run_for_s >= limit_s and self._control.ending is None:
            self._control.end_early(EndedBy.TIME_LIMIT)
            told = f"finishing after this step: its time limit of {duration(limit_s)} is reached"
            self._recorder.change_from(Status.RUNNING, Status.STOPPING, message=told)

    def note(self) -> None:
        """Bring the time into the record."""
        self._noted_s = self._run_for_s
        self._recorder.note(run_for_s=round(self._run_for_s, 3))
