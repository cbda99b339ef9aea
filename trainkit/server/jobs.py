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
from trainkit.server.site import Site


def status(site: Site, request: JobRequest) -> StatusAnswer:
    """Return a job's record, with the state that is true now."""
    return StatusAnswer(status=site.roots.job(site.roots.store(request.root), request.job_id).record)


def list_jobs(site: Site, request: JobsRequest) -> JobsAnswer:
    """Return a page of the jobs, newest first.  Damaged records and links are left out."""
    store = site.roots.store(request.root)
    found = [job for job in jobs(request.state, root=store) if site.roots.readable(store, job.id)]
    page = found[request.offset : request.offset + request.limit]
    return JobsAnswer(jobs=[job.record for job in page], count=len(found))


def delete(site: Site, request: JobRequest) -> DeletedAnswer:
    """Delete all files of a job that is over."""
    store = site.roots.store(request.root)
    site.roots.check_files(store, request.job_id)
    store.delete(request.job_id)
    return DeletedAnswer(job_id=request.job_id, message="deleted")
