"""What a run has left: room on the disk, memory, and the time of its threads.  This module only reads."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import psutil

CGROUPS = Path("/sys/fs/cgroup")
_OF_THIS_PROCESS = Path("/proc/self/cgroup")


class Memory(NamedTuple):
    """Memory, in bytes.

    Attributes:
        available: what can still be had without swapping.
        total: what there is, or what the container may take.
        held: what this process holds.
        swap_free: which part of the swap is free; 0 where there is none.
        limited: whether ``total`` is the limit of a container (a cgroup), not that of the machine.
    """

    available: int
    total: int
    held: int
    swap_free: float
    limited: bool


def free_bytes(folder: Path) -> int:
    """Return what this user may still write on the disk of a folder."""
    return shutil.disk_usage(folder).free


def memory(*, cgroups: Path = CGROUPS, of_this_process: Path = _OF_THIS_PROCESS) -> Memory:
    """Return the memory of the machine, or of the container if that is less.

    Args:
        cgroups: where control groups are mounted.
        of_this_process: the file that names those of this process.
    """
    machine, swap = psutil.virtual_memory(), psutil.swap_memory()
    available, total, limited = machine.available, machine.total, False
    for limit, used in _limits(cgroups, of_this_process):
        if limit < machine.total and limit - used < available:
            available, total, limited = max(0, limit - used), limit, True
    return Memory(
        available=available,
        total=total,
        held=psutil.Process().memory_info().rss,
        swap_free=swap.free / swap.total if swap.total else 0.0,
        limited=limited,
    )


def _limits(cgroups: Path, of_this_process: Path) -> Iterable[tuple[int, int]]:
    """Yield the limit and the use of each control group above this process, both versions, in bytes.

    What can be thrown away at once, files read long ago, does not count as used: as Kubernetes counts
    (https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/).
    """
    try:
        lines = of_this_process.read_text().splitlines()
    except OSError:
        return  # no Linux
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            base, limit_file, use_file, cache = cgroups, "memory.max", "memory.current", "inactive_file"
        elif controllers == "memory":
            base, limit_file, use_file = cgroups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cache = "total_inactive_file"
        else:
            continue
        # A container may see its own group as the top, under the name that it has outside.
        group = base / name.lstrip("/")
        for folder in dict.fromkeys([group, *group.parents]):
            if folder != base and base not in folder.parents:
                break
            try:
                limit = (folder / limit_file).read_text().strip()
                if limit.isdigit():
                    used = int((folder / use_file).read_text()) - _cached(folder / "memory.stat", cache)
                    yield int(limit), used
            except OSError:
                continue  # the top has no such files, and a group may be gone


def _cached(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0


class ThreadTime(NamedTuple):
    """How a thread has spent its life, in seconds.

    Attributes:
        computed_s: on a core.
        ready_s: ready to compute, without a free core; 0 where the system does not count that.
    """

    computed_s: float
    ready_s: float


def thread_times(native_ids: Iterable[int]) -> list[ThreadTime]:
    """Return the times of threads of this process; NaN if not known.

    Source: /proc/<pid>/schedstat, https://docs.kernel.org/scheduler/sched-stats.html
    """
    ids = list(native_ids)
    try:
        return [_schedstat(each) for each in ids]
    except OSError:
        pass  # not Linux, or one that does not count
    try:
        known = {each.id: each.user_time + each.system_time for each in psutil.Process().threads()}
    except psutil.AccessDenied:  # macOS lets only some processes ask
        known = {}
    return [ThreadTime(known.get(each, float("nan")), 0.0) for each in ids]


def _schedstat(native_id: int) -> ThreadTime:
    computed_ns, ready_ns, _ = Path(f"/proc/self/task/{native_id}/schedstat").read_text().split()
    return ThreadTime(int(computed_ns) / 1e9, int(ready_ns) / 1e9)
