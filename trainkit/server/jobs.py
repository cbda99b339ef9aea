"""Jobs to look at, and to delete."""

from __future__ import annotations

import contextlib

from trainkit.api import results
from trainkit.errors import RecordError, UnknownJobError
from trainkit.server.messages import (
    CheckpointsAnswer,
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
    found = [entry for entry in site.index.of(site.roots, store) if request.state in (None, entry.status)]
    page = []
    for entry in found[request.offset : request.offset + request.limit]:
        with contextlib.suppress(UnknownJobError, RecordError):  # deleted since we looked
            page.append(store.observe(entry.job_id))
    return JobsAnswer(jobs=page, count=len(found))


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
