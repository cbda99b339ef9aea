"""Every file name of a job, in one class.  Nothing here touches the disk."""

from __future__ import annotations

import functools
import random
import re
from dataclasses import dataclass
from pathlib import Path

from trainkit.errors import JobIdError

JOB_ID_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}"
_JOB_ID = re.compile(JOB_ID_PATTERN)
#: Not the notebook's random numbers: those are its own, and may be seeded alike in two of them.
_random = random.SystemRandom()


def check_job_id(job_id: object) -> str:
    """Return the job id if it may become part of a path.

    Raises:
        JobIdError: anything but a letter or digit followed by at most 127 letters, digits, ``_`` or ``-``.

    >>> check_job_id("job_1760323520751_ff9dd5bf")
    'job_1760323520751_ff9dd5bf'
    """
    if isinstance(job_id, str) and _JOB_ID.fullmatch(job_id):
        return job_id
    shown = repr(job_id)
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    raise JobIdError(
        f"{shown} is not a job id; a job id is 1 to 128 letters, digits, '_' or '-', "
        "and begins with a letter or digit"
    )


def make_job_id(created_at: float, random_bits: int) -> str:
    """Return the id of a new job.

    Args:
        created_at: Unix seconds.
        random_bits: an integer of which the low 32 bits are used.

    >>> make_job_id(1760323520.751, 0xFF9DD5BF)
    'job_1760323520751_ff9dd5bf'
    """
    return f"job_{round(created_at * 1000)}_{random_bits & 0xFFFFFFFF:08x}"


def new_job_id(created_at: float) -> str:
    """Return an id for a new job, which no other has.

    Args:
        created_at: Unix seconds.
    """
    return make_job_id(created_at, _random.getrandbits(32))


@dataclass(frozen=True)
class JobPaths:
    """The paths of one job below a root folder.

    >>> JobPaths(Path("/data"), "first").record.as_posix()
    '/data/artifacts/jobs/first.json'
    """

    root: Path
    job_id: str

    def __post_init__(self) -> None:
        check_job_id(self.job_id)

    @property
    def record(self) -> Path:
        """The job record."""
        return jobs_folder(self.root) / f"{self.job_id}.json"

    @functools.cached_property
    def folder(self) -> Path:
        """The folder of everything else."""
        return jobs_folder(self.root) / self.job_id

    @property
    def metrics(self) -> Path:
        """One JSON line per logged step."""
        return self.folder / "metrics.jsonl"

    @property
    def events(self) -> Path:
        """One JSON line per thing that happened."""
        return self.folder / "events.jsonl"

    @property
    def output(self) -> Path:
        """What the training code printed."""
        return self.folder / "output.log"

    @property
    def requests(self) -> Path:
        """One JSON line per request to the owner; anyone may append."""
        return self.folder / "requests.jsonl"

    @property
    def handle(self) -> Path:
        """Where the runner put the job."""
        return self.folder / "handle.json"

    @property
    def task(self) -> Path:
        """The function and its arguments, pickled."""
        return self.folder / "task.pkl"

    @property
    def result(self) -> Path:
        """What the function returned or raised in another process, pickled."""
        return self.folder / "result.pkl"

    @property
    def owner_lock(self) -> Path:
        """The file whose lock the owner holds for as long as it lives.  It goes with the folder."""
        return self.folder / "owner.lock"

    @property
    def reserve(self) -> Path:
        """Some room on the disk while the job runs, given back when its end could not be written otherwise."""
        return self.folder / "reserve"

    @property
    def resume(self) -> Path:
        """The newest checkpoint."""
        return self.folder / "resume.pt"

    @property
    def resume_previous(self) -> Path:
        """The checkpoint before it."""
        return self.folder / "resume.previous.pt"

    def rank_output(self, rank: int) -> Path:
        """What a rank other than the first printed."""
        return self.folder / f"rank-{rank}.log"

    def rank_result(self, rank: int) -> Path:
        """What a rank other than the first raised, pickled."""
        return self.folder / f"rank-{rank}.result.pkl"

    def rank_end(self, rank: int) -> Path:
        """How a rank ended that did not come to its end; written by the rank, or by who saw it die."""
        return self.folder / f"rank-{rank}.end.json"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints that are kept beside those two."""
        return self.folder / "checkpoints"

    def checkpoint(self, step: int, sha256: str) -> Path:
        """A kept checkpoint.  A step that is done again may have another one."""
        return self.checkpoints / f"{step}-{sha256[:8]}.pt"

    @property
    def plan(self) -> Path:
        """The changes that a repeated or branched job makes by itself."""
        return self.folder / "plan.json"

    @property
    def model(self) -> Path:
        """The model, loadable with ``torch.load(weights_only=True)``."""
        return models_folder(self.root) / f"{self.job_id}.pt"

    @property
    def own_model(self) -> Path:
        """The model, where the folder of all models could not take it."""
        return self.folder / "model.pt"


def jobs_folder(root: Path) -> Path:
    """The folder of all job records below a root."""
    return root / "artifacts" / "jobs"


def models_folder(root: Path) -> Path:
    """The folder of all models below a root."""
    return root / "models"
