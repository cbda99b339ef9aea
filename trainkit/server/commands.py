"""What can be asked of a job.  All of it may be asked twice; of a job that has ended it changes nothing."""

from __future__ import annotations

from trainkit.api import repeating
from trainkit.api.job import Job
from trainkit.runners import outliving
from trainkit.server.messages import (
    BranchRequest,
    CommandAnswer,
    JobRequest,
    ReplayRequest,
    Reply,
    SetRequest,
)
from trainkit.server.site import Site


def stop(site: Site, request: JobRequest) -> CommandAnswer:
    """Ask a job to save and end after its current step."""
    job = _job(site, request)
    job.stop()
    return _answer(job)


def finish(site: Site, request: JobRequest) -> CommandAnswer:
    """Ask a job to end early: validate, export, complete."""
    job = _job(site, request)
    job.finish()
    return _answer(job)


def pause(site: Site, request: JobRequest) -> CommandAnswer:
    """Ask a job to wait after its current step."""
    job = _job(site, request)
    job.pause()
    return _answer(job)


def resume(site: Site, request: JobRequest) -> CommandAnswer:
    """Let a job go on: at once if it is paused, else as a new attempt, on its cluster or in a process.

    A function that no job of this user wrote is not run: that takes Python or the command line.
    """
    job = _job(site, request)
    if not job.done():
        job.resume()
        return _answer(job)
    with site.launching:
        site.refuse_one_more()
        job.resume(runner=_runner(job))
    return _answer(job)


def kill(site: Site, request: JobRequest) -> CommandAnswer:
    """End a job's processes now; what it had not saved is lost."""
    job = _job(site, request)
    job.kill()
    return _answer(job)


def set_params(site: Site, request: SetRequest) -> CommandAnswer:
    """Change parameters of a running job from its next step on."""
    job = _job(site, request)
    job.set(**request.params)
    return _answer(job)


def replay(site: Site, request: ReplayRequest) -> Reply:
    """Run a job that is over once more, with every live change at its step, on its cluster or in a process."""
    job = _job(site, request)
    with site.launching:
        site.refuse_one_more()
        return _started(site, job.replay(runner=_runner(job), name=request.name))


def branch(site: Site, request: BranchRequest) -> Reply:
    """Go on from a checkpoint of a job in a new job, with other parameters, on its cluster or in a process."""
    job = _job(site, request)
    with site.launching:
        site.refuse_one_more()
        new_id = repeating.branch(
            job.store, job.id, request.params, step=request.step, runner=_runner(job), name=request.name
        )
        return _started(site, Job(new_id, job.store))


def _runner(job: Job) -> str:
    """Return where a job is run again: it should not end with the server."""
    return outliving(job.store.read(job.id).runner)


def _started(site: Site, job: Job) -> Reply:
    where = f"{site.base_url}api/train/status?job_id={job.id}"
    return Reply(_answer(job), 201, {"Location": where})


def _job(site: Site, request: JobRequest) -> Job:
    return site.roots.job(site.roots.store(request.root), request.job_id)


def _answer(job: Job) -> CommandAnswer:
    record = job.record
    return CommandAnswer(job_id=job.id, status=record.status, message=record.message)
