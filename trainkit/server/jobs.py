"""Jobs to look at, and to delete."""

from __future__ import annotations

from trainkit.listing import jobs
from trainkit.server.messages import (
    DeletedAnswer,
    JobRequest,
    JobsAnswer,
    JobsRequest,
    StatusAnswer,
)
from trainkit.server.roots import Roots


def status(roots: Roots, request: JobRequest) -> StatusAnswer:
    """Return a job's record, with the state that is true now."""
    return StatusAnswer(status=roots.job(roots.store(request.root), request.job_id).record)


def list_jobs(roots: Roots, request: JobsRequest) -> JobsAnswer:
    """Return a page of the jobs, newest first.  Damaged records and links are left out."""
    store = roots.store(request.root)
    found = [job for job in jobs(request.state, root=store) if roots.readable(store, job.id)]
    page = found[request.offset : request.offset + request.limit]
    return JobsAnswer(jobs=[job.record for job in page], count=len(found))


def delete(roots: Roots, request: JobRequest) -> DeletedAnswer:
    """Delete all files of a job that is over."""
    store = roots.store(request.root)
    roots.check_files(store, request.job_id)
    store.delete(request.job_id)
    return DeletedAnswer(job_id=request.job_id, message="deleted")
