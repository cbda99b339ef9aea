"""What a rank of a job on a Ray cluster does, in a process that Ray Train has started."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import ray
import torch
import torch.distributed as dist
from ray.train import get_context
from ray.train.backend import Backend
from ray.train.torch import TorchConfig

from trainkit.files.record import ErrorInfo
from trainkit.files.store import Store
from trainkit.ranks.ends import RankEndError, tell_rank_end
from trainkit.ranks.group import Board, Group
from trainkit.runners.torchrun import loopback
from trainkit.runners.worker import run_job
from trainkit.training.output import send_output_to

#: How long the ranks may take to find each other, and to wait for each other, in seconds.
MEETING_S = 1800


def train_as_rank(config: Mapping[str, str]) -> None:
    """Be one rank, in a process that Ray Train has started."""
    context = get_context()
    store = Store(config["root"])
    rank = context.get_world_rank()
    paths = store.paths(config["job_id"])
    if (gpus := ray.get_gpu_ids()) and not torch.cuda.is_available():
        told = (
            f"the cluster gave GPU {', '.join(map(str, gpus))} of {socket.gethostname()} to rank {rank}, but "
            f"PyTorch {torch.__version__} finds no CUDA there; install one with CUDA, or leave gpus_per_rank out"
        )
        tell_rank_end(paths, rank, ErrorInfo("RunnerError", told), lost=False)
        raise RankEndError(told)
    send_output_to(paths.rank_output(rank) if rank else paths.output)
    # Ray Train's report of a rank that raised would go into the job's log.
    logging.getLogger("ray.train").setLevel(logging.CRITICAL)
    node = f"{socket.gethostname()}/{ray.get_runtime_context().get_node_id()[:6]}"
    run_job(store, config["job_id"], Group(_boards.pop(), node=node, local_rank=context.get_local_rank()))


class Meeting(TorchConfig):  # type: ignore[misc]
    """How the ranks find each other: like Ray Train's own way, but rank 0 listens on its own address only.

    PyTorch would listen on all interfaces of the machine, for whoever comes.
    """

    @property
    def backend_cls(self) -> type[Backend]:
        """What Ray Train calls when the ranks have started."""
        return _Meeting


class _Meeting(Backend):  # type: ignore[misc]
    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: Meeting) -> None:
        """Make the process group."""
        cuda = bool(worker_group.get_resources_per_worker().get("GPU")) and worker_group.execute_single(
            0, torch.cuda.is_available
        )
        address = worker_group.execute_single(0, open_door)
        size = len(worker_group)
        ray.get(
            [
                worker_group.execute_single_async(rank, join, rank, size, address, "nccl" if cuda else "gloo")
                for rank in range(size)
            ]
        )

    def on_shutdown(self, worker_group: Any, backend_config: Meeting) -> None:
        """Do nothing: the ranks' processes end."""


_doors: list[socket.socket] = []
_boards: list[Board] = []


def open_door() -> tuple[str, int]:
    """Listen, on rank 0, on the address by which its cluster knows its machine."""
    ip = ray.util.get_node_ip_address()
    door = socket.create_server((ip, 0))
    _doors.append(door)
    return ip, door.getsockname()[1]


def join(rank: int, size: int, address: tuple[str, int], backend: str) -> None:
    """Join the process group, on every rank."""
    ip, port = address
    if ip.startswith("127."):
        os.environ["GLOO_SOCKET_IFNAME"] = loopback()
    timeout = timedelta(seconds=MEETING_S)
    door = _doors.pop().detach() if rank == 0 else None
    store = dist.TCPStore(  # type: ignore[attr-defined]
        ip, port, size, rank == 0, timeout, wait_for_workers=False, master_listen_fd=door
    )
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
    # Over a connection of its own: who waits by way of the other one holds it meanwhile.
    _boards.append(dist.TCPStore(ip, port, size, False, timeout, wait_for_workers=False))  # type: ignore[attr-defined]
