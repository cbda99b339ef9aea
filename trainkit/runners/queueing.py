"""How a job waits for its turn, whichever runner it is for."""

from __future__ import annotations

from trainkit.record import EndedBy, Status
from trainkit.recorder import Recorder
from trainkit.slots import Ticket, job_limit, wait_for_turn


def wait_in_queue(recorder: Recorder, ticket: Ticket) -> bool:
    """Wait until the job may run; on a request to end, close the record instead.  Returns whether to run."""

    def waiting_for(job_ids: list[str]) -> None:
        recorder.note(message=f"waiting for {', '.join(job_ids[:3])}{' …' if len(job_ids) > 3 else ''}")
        recorder.write_now()

    may_run = wait_for_turn(
        ticket,
        limit=job_limit,
        give_up=lambda: recorder.requested("stop", "finish", "kill"),
        waiting_for=waiting_for,
    )
    if not may_run:
        recorder.close(Status.STOPPED, ended_by=EndedBy.USER, message="stopped while it waited; nothing was run")
    return may_run
