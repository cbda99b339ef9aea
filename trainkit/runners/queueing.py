"""How a job waits for its turn, whichever runner it is for."""

from __future__ import annotations

import threading

from trainkit.errors import RecordError, UnknownJobError
from trainkit.files.endings import Ending
from trainkit.files.record import EndedBy, Status
from trainkit.files.recorder import Recorder
from trainkit.files.store import Store
from trainkit.runners.slots import Ticket, job_limit, wait_for_turn


def wait_in_queue(recorder: Recorder, ticket: Ticket, *, ending: threading.Event | None = None) -> bool:
    """Wait until the job may run; on a request to end, close the record instead.  Returns whether to run.

    Args:
        recorder: of the queued job.
        ticket: its place in the queue.
        ending: set when the process that would run the job ends.
    """

    def waiting_for(job_ids: list[str]) -> None:
        names = [called(recorder.store, job_id) for job_id in job_ids[:3]]
        tell(f"waiting for {', '.join(names)}{' …' if len(job_ids) > 3 else ''}")

    def tell(message: str) -> None:
        recorder.note(message=message)
        recorder.write_now()

    may_run = wait_for_turn(
        ticket,
        limit=job_limit,
        give_up=lambda: (ending is not None and ending.is_set()) or recorder.requested("stop", "finish", "kill"),
        waiting_for=waiting_for,
        held_up=lambda holder: tell(f"waiting for the queue, which is kept by {holder}"),
    )
    if not may_run and ending is not None and ending.is_set():
        message = "the interpreter that would have run it was shut down; nothing was run"
        recorder.close(Ending(Status.INTERRUPTED, EndedBy.LOST, message))
    elif not may_run:
        recorder.close(Ending(Status.STOPPED, EndedBy.USER, "stopped while it waited; nothing was run"))
    return may_run


def called(store: Store, job_id: str) -> str:
    """Return what people call a job: its name, and the end of its id, as names come again.

    A job of another root, which shares the queue, has only its id here.
    """
    try:
        return f"{store.read(job_id).name} ({job_id[-4:]})"
    except (UnknownJobError, RecordError):
        return job_id
