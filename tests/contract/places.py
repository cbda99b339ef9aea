"""Where jobs run in the tests of the contract."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import trainkit as tk
from trainkit.files.record import Status


@dataclass(frozen=True)
class Where:
    """A place for jobs.

    Attributes:
        runner: the runner's name.
        ranks: how many processes train together.
        within_s: how long a test waits there for what should come, on a busy machine.
    """

    runner: str
    ranks: int = 1
    within_s: float = 60.0

    @property
    def options(self) -> dict[str, Any]:
        """What `submit` is told."""
        return {"runner": self.runner} | ({"ranks": self.ranks} if self.ranks > 1 else {})

    def submit(self, function: Callable[..., Any], **params: Any) -> tk.Job:
        """Start a job there."""
        return tk.submit(function, **self.options, **params)

    def started(self, job: tk.Job, eventually: Callable[..., None], *, step: int = 2) -> tk.Job:
        """Wait until a job has taken a few steps."""
        eventually(lambda: job.record.step > step or job.done(), within_s=self.within_s)
        assert job.state is Status.RUNNING, job.record.message
        return job

    def __str__(self) -> str:
        return self.runner if self.ranks == 1 else f"{self.runner}-{self.ranks}"


#: Every runner has a line here.
THREAD, PROCESS = Where("thread"), Where("process")
#: Two ranks, which torchrun starts.
PROCESSES = Where("process", 2, within_s=300)
RAY, RAY_RANKS = Where("ray", 1, within_s=300), Where("ray", 2, within_s=300)
PLACES = [THREAD, PROCESS, PROCESSES, RAY, RAY_RANKS]
