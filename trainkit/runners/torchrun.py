"""The ranks of one machine: started by torchrun's agent, which ends them all when one of them is lost.

``python -m trainkit.runners.torchrun ROOT JOB_ID RANKS LOCK_FD TICKET_FD`` is started by a supervisor.  The
agent restarts nothing: in place, with gloo, that fails more often than it works, and only who knows the
checkpoints knows where to go on.  Nothing listens beyond loopback: the ranks meet in a file.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import tempfile
from pathlib import Path

import psutil

from trainkit.files.record import ErrorInfo
from trainkit.files.store import Store
from trainkit.ranks.ends import tell_rank_end
from trainkit.runners.slots import usable_cores


def main(arguments: list[str]) -> None:
    """Start the ranks of one job and wait for them; exit with 1 if one did not come to its end."""
    root, job_id, ranks, *_ = arguments  # the descriptors are held, not used: they say that the job has an owner
    logging.disable(logging.CRITICAL)  # torchrun's report of a failed rank would go into the job's log
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    os.environ["GLOO_SOCKET_IFNAME"] = loopback()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // int(ranks))))
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    paths = Store(root).paths(job_id)
    with tempfile.TemporaryDirectory(prefix="trainkit-") as folder:
        os.environ["TRAINKIT_RENDEZVOUS"] = str(Path(folder, "ranks"))
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=int(ranks),
            run_id=job_id,
            rdzv_backend="c10d",
            rdzv_endpoint=str(Path(folder, "agent")),
            rdzv_configs={"store_type": "file"},
            max_restarts=0,
            local_addr="127.0.0.1",
            shutdown_timeout=5,
        )
        try:
            elastic_launch(config, sys.executable)("-u", "-m", "trainkit.runners.worker", root, job_id)
        except ChildFailedError as failed:
            for rank, failure in failed.failures.items():
                code = failure.exitcode
                # The agent itself ends the others by SIGTERM, when one has failed.
                if code not in (0, -signal.SIGTERM):
                    tell_rank_end(paths, rank, _end_of(rank, code), lost=True)
            sys.exit(1)


def _end_of(rank: int, code: int) -> ErrorInfo:
    if code >= 0:
        return ErrorInfo("ProcessExit", f"rank {rank} ended with exit code {code} and without a word")
    with contextlib.suppress(ValueError):
        name = signal.Signals(-code).name
        return ErrorInfo(name, f"rank {rank} was ended by {name}")
    return ErrorInfo("Signal", f"rank {rank} was ended by signal {-code}")


def loopback() -> str:
    """Return the name of the network interface that stays on this machine."""
    return next(
        name for name, found in psutil.net_if_addrs().items() if any(each.address == "127.0.0.1" for each in found)
    )


if __name__ == "__main__":
    main(sys.argv[1:])
