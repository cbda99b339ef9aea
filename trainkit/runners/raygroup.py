"""The ranks of a job on a Ray cluster: Ray Train starts them, and ends them all when one of them is lost.

``python -m trainkit.runners.raygroup ROOT JOB_ID`` is started by the job's parent.  Ray Train restarts nothing
itself: it would also try again what the training code raised.
"""

from __future__ import annotations

import contextlib
import os
import sys

import psutil
import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer

from trainkit.files.paths import JobPaths
from trainkit.files.record import ErrorInfo
from trainkit.files.store import Store
from trainkit.ranks.ends import RankEndError, rank_ends, tell_rank_end
from trainkit.runners.orphans import die_with_parent
from trainkit.runners.rayjob import notes_of
from trainkit.runners.rayrank import MEETING_S, Meeting, train_as_rank


def main(arguments: list[str]) -> None:
    """Have one attempt of a job run; exit with 1 if a rank did not come to its end."""
    die_with_parent()
    root, job_id = arguments
    store = Store(root)
    paths = store.paths(job_id)
    resources = store.read(job_id).resources
    # What the ranks print goes into their own files; Ray Train would print it once more.
    os.environ["RAY_TRAIN_ENABLE_PRINT_PATCH"] = "0"
    # A busy machine may need longer to import torch than the minute after which Ray Train would start again.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(MEETING_S))
    # Left to itself it asks every two seconds how its ranks are, and has a process that foretells lost nodes.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    ray.init(address=own_cluster(), log_to_driver=False)
    notes = notes_of(paths)
    trainer = TorchTrainer(
        train_as_rank,
        train_loop_config={"root": root, "job_id": job_id},
        torch_config=Meeting(timeout_s=MEETING_S),
        scaling_config=ScalingConfig(
            num_workers=resources.ranks,
            use_gpu=resources.gpus_per_rank > 0,
            resources_per_worker={"CPU": 1}
            | ({"GPU": resources.gpus_per_rank} if resources.gpus_per_rank else {}),
        ),
        run_config=RunConfig(name=job_id, storage_path=str(notes), failure_config=FailureConfig(max_failures=0)),
    )
    try:
        trainer.fit()
    except TrainingFailedError as failed:
        # A node that is lost before the ranks began is an error of Ray Train's own, of no rank.
        for rank, error in getattr(failed, "worker_failures", {0: failed}).items():
            if not _is_told(error):
                name, text = type(error).__name__, (str(error).splitlines() or [""])[0]
                tell_rank_end(paths, rank, ErrorInfo(name, f"rank {rank} was lost: {text}"), lost=True)
        _tell_of_the_silent(paths, resources.ranks)
        sys.exit(1)


def _tell_of_the_silent(paths: JobPaths, count: int) -> None:
    """Where the others know only that they lost one, write down who it was: Ray Train ends all at the first."""
    told = rank_ends(paths)
    silent = sorted(set(range(count)) - {end.rank for end in told})
    if told and silent and all(end.by_another for end in told):
        names = ", ".join(map(str, silent))
        message = f"rank {names} was lost" if len(silent) == 1 else f"one of the ranks {names} was lost"
        tell_rank_end(paths, silent[0], ErrorInfo("ProcessExit", message), lost=True)


def own_cluster() -> str | None:
    """Return the address of the cluster that this process belongs to, or None if that is not to be found.

    It is that of the raylet that it descends from.  Where a machine has several clusters, what Ray itself puts
    into ``RAY_ADDRESS`` for a job may be that of another one.
    """
    for ancestor in psutil.Process().parents():
        with contextlib.suppress(psutil.Error):  # not ours to look at, so none of Ray's
            for word in ancestor.cmdline():
                if word.startswith("--gcs-address="):
                    return word.partition("=")[2]
    return None


def _is_told(error: BaseException | None) -> bool:
    """Whether the rank itself has written down how it ended."""
    while error is not None:
        if isinstance(error, RankEndError) or RankEndError.__name__ in type(error).__name__:
            return True
        error = getattr(error, "cause", None) or error.__cause__
    return False


if __name__ == "__main__":
    main(sys.argv[1:])
