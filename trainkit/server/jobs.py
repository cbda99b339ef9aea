"""Jobs to look at, and to delete."""

from __future__ import annotations

from trainkit.api import results
from trainkit.errors import TrainkitError, UnknownJobError
from trainkit.server.messages import (
    CheckpointsAnswer,
    DeletedAnswer,
    JobRequest,
    JobsAnswer,
    JobsRequest,
    StatusAnswer,
    UnreadableJob,
)
from trainkit.server.site import Site

#: A list of jobs names no more of those that cannot be read.
MOST_UNREADABLE = 100


def status(site: Site, request: JobRequest) -> StatusAnswer:
    """Return a job's record, with the state that is true now."""
    return StatusAnswer(status=site.roots.job(site.roots.store(request.root), request.job_id).record)


def list_jobs(site: Site, request: JobsRequest) -> JobsAnswer:
    """Return a page of the jobs, newest first, and on the first page those that cannot be read."""
    store = site.roots.store(request.root)
    unreadable: dict[str, str] = {}
    entries = site.index.of(site.roots, store, unreadable)
    found = [entry for entry in entries if request.state in (None, entry.status)]
    page = []
    for entry in found[request.offset : request.offset + request.limit]:
        try:
            page.append(store.observe(entry.job_id))
        except UnknownJobError:
            continue  # deleted since we looked
        except TrainkitError as error:
            unreadable[entry.job_id] = str(error)
    damaged = [UnreadableJob(job_id=job_id, message=reason) for job_id, reason in unreadable.items()]
    first = request.state is None and request.offset == 0
    return JobsAnswer(jobs=page, count=len(found), unreadable=damaged[:MOST_UNREADABLE] if first else [])


def checkpoints(site: Site, request: JobRequest) -> CheckpointsAnswer:
    """Return the checkpoints that a job can be branched from."""
    job = site.roots.job(site.roots.store(request.root), request.job_id)
    return CheckpointsAnswer(checkpoints=job.checkpoints())


def delete(site: Site, request: JobRequest) -> DeletedAnswer:
    """Delete all files of a job that is over."""
    store = site.roots.store(request.root)
    site.roots.check_files(store, request.job_id)
    results.delete(store, request.job_id)
    return DeletedAnswer(job_id=request.job_id, message="deleted")
