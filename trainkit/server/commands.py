"""What can be asked of a job.  All of it may be asked twice; of a job that has ended it changes nothing."""

from __future__ import annotations

import math

from trainkit.errors import OptionError
from trainkit.job import Job
from trainkit.server.messages import CommandAnswer, JobRequest, SetRequest
from trainkit.server.roots import Roots


def stop(roots: Roots, request: JobRequest) -> CommandAnswer:
    """Ask a job to save and end after its current step."""
    job = _job(roots, request)
    job.stop()
    return _answer(job)


def finish(roots: Roots, request: JobRequest) -> CommandAnswer:
    """Ask a job to end early: validate, export, complete."""
    job = _job(roots, request)
    job.finish()
    return _answer(job)


def pause(roots: Roots, request: JobRequest) -> CommandAnswer:
    """Ask a job to wait after its current step."""
    job = _job(roots, request)
    job.pause()
    return _answer(job)


def resume(roots: Roots, request: JobRequest) -> CommandAnswer:
    """Let a job go on."""
    job = _job(roots, request)
    job.resume()
    return _answer(job)


def kill(roots: Roots, request: JobRequest) -> CommandAnswer:
    """End a job's processes now; what it had not saved is lost."""
    job = _job(roots, request)
    job.kill()
    return _answer(job)


def set_params(roots: Roots, request: SetRequest) -> CommandAnswer:
    """Change parameters of a running job from its next step on."""
    job = _job(roots, request)
    for name in ("lr", "weight_decay"):  # these reach the optimizers; anything odd would end the training
        value = request.params.get(name, 0.0)
        if isinstance(value, (bool, str)) or not math.isfinite(value) or value < 0:
            raise OptionError(f"{name}={value!r} is not allowed: expected a finite number >= 0")
    job.set(**request.params)
    return _answer(job)


def _job(roots: Roots, request: JobRequest) -> Job:
    return roots.job(roots.store(request.root), request.job_id)


def _answer(job: Job) -> CommandAnswer:
    record = job.record
    return CommandAnswer(job_id=job.id, status=record.status, message=record.message)
