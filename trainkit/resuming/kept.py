"""The checkpoints that are kept beside the newest two, to branch from: few, spread over the whole run.

They lie in ``checkpoints/`` as links to what was ``resume.pt`` at the time, so keeping one writes nothing anew;
``index.json`` there tells their steps, sizes and hashes.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from trainkit.errors import CheckpointError
from trainkit.files.opening import check_no_link
from trainkit.files.paths import JobPaths
from trainkit.files.record import CheckpointInfo
from trainkit.files.whole import matching, read_whole, write_atomically
from trainkit.resuming.checkpoints import generation_of, is_whole, link

#: How many are kept unless the run says otherwise.
KEEP = 3
#: The checkpoint that a branch began from; it is never dropped, so that the branch can be repeated.
BASE = "base"


class Kept:
    """The kept checkpoints of a running job; for its owner.

    Args:
        paths: the job's files.

    Attributes:
        keep: how many to keep.
    """

    def __init__(self, paths: JobPaths) -> None:
        self._paths = paths
        self.keep = KEEP
        self._infos: list[CheckpointInfo] | None = None

    def add(self, info: CheckpointInfo) -> None:
        """Keep the checkpoint that is ``resume.pt`` at this moment, and drop what is too many.

        A ``reason`` holds it longer than those without: those taken before a live change, or first after the best
        value.
        """
        infos = self._known()
        if not self.keep and not infos:
            return
        self._paths.checkpoints.mkdir(exist_ok=True)
        check_no_link(self._paths.checkpoints)
        path = _file(self._paths, info)
        if not any(each.step == info.step and each.reason == BASE for each in infos):
            link(self._paths.resume, path)
            here = msgspec.structs.replace(info, path=path.relative_to(self._paths.root).as_posix())
            if info.reason == "best":  # there is one best
                infos = [_without_reason(each) if each.reason == "best" else each for each in infos]
            infos = [each for each in infos if each.step != info.step] + [here]
        self._replace(_fewest(sorted(infos, key=lambda each: each.step or 0), self.keep))

    def hold_newest(self, reason: str) -> None:
        """Give the newest kept checkpoint a reason to be kept longer."""
        infos = self._known()
        if infos and infos[-1].reason is None:
            self._replace([*infos[:-1], msgspec.structs.replace(infos[-1], reason=reason)])

    def give_way(self) -> bool:
        """Drop all that may be dropped, since the disk is full; return whether there was any."""
        before = self._known()
        bases = [each for each in before if each.reason == BASE]
        if len(bases) == len(before):
            return False
        self._replace(bases)
        return True

    def _known(self) -> list[CheckpointInfo]:
        if self._infos is None:
            try:
                self._infos = kept(self._paths)
            except CheckpointError:
                self._infos = []  # a damaged list is begun anew; training goes on
        return self._infos

    def _replace(self, infos: list[CheckpointInfo]) -> None:
        # The index first: what it names is there, whenever it is read.
        write_atomically(index(self._paths), msgspec.json.encode(infos), durable=False)
        self._infos = infos
        named = {_file(self._paths, info).name for info in infos}
        for path in matching(self._paths.checkpoints, "*.pt"):
            if path.name not in named:
                path.unlink()


def _fewest(infos: list[CheckpointInfo], keep: int) -> list[CheckpointInfo]:
    """Drop checkpoints until no more than ``keep`` are left, beside a branch's base.

    Those with no reason go first, and of them the one whose neighbours are nearest to each other: what is left
    is spread evenly.  The newest stays.
    """
    infos = list(infos)
    while sum(info.reason != BASE for info in infos) > keep:
        free = [at for at, info in enumerate(infos[:-1]) if not info.reason]
        bound = [at for at, info in enumerate(infos[:-1]) if info.reason not in (None, BASE, "best")]
        best = [at for at, info in enumerate(infos[:-1]) if info.reason == "best"]

        def gap(at: int) -> int:
            before = infos[at - 1].step if at else 0
            return (infos[at + 1].step or 0) - (before or 0)

        if free:
            infos.pop(min(free, key=gap))
        else:
            infos.pop((bound or best or [len(infos) - 1])[0])
    return infos


def _without_reason(info: CheckpointInfo) -> CheckpointInfo:
    return msgspec.structs.replace(info, reason=None)


def index(paths: JobPaths) -> Path:
    """Where the list of the kept checkpoints is."""
    return paths.checkpoints / "index.json"


def kept(paths: JobPaths) -> list[CheckpointInfo]:
    """Return the kept checkpoints, by step.

    Raises:
        CheckpointError: their list is damaged.
    """
    try:
        return msgspec.json.decode(read_whole(index(paths)), type=list[CheckpointInfo])
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CheckpointError(f"{index(paths)}: {error.strerror or error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(f"{index(paths)}: {error}") from error


def available(paths: JobPaths) -> list[CheckpointInfo]:
    """Return every checkpoint that can be branched from, by step: the kept ones and the newest two.

    Raises:
        CheckpointError: their list is damaged.
    """
    found = {info.step: info for info in kept(paths) if _file(paths, info).exists()}
    for path in (paths.resume, paths.resume_previous):
        if (info := generation_of(paths, path)) is not None:
            found.setdefault(info.step, info)
    return sorted(found.values(), key=lambda info: info.step or 0)


def file_of(paths: JobPaths, info: CheckpointInfo) -> Path:
    """Where a checkpoint of a job is; its own word for it is not taken, for a list may have been tampered with."""
    for path in (paths.resume, paths.resume_previous):
        if info.path.endswith(f"/{path.name}"):
            return path
    return _file(paths, info)


def _file(paths: JobPaths, info: CheckpointInfo) -> Path:
    return paths.checkpoint(info.step or 0, info.sha256 or "")


def find(paths: JobPaths, step: int | None) -> CheckpointInfo:
    """Return the checkpoint of a step, verified; without a step the newest.

    Raises:
        CheckpointError: there is none of that step, or it is damaged; the message names the steps there are.
    """
    infos = available(paths)
    steps = ", ".join(str(info.step) for info in infos)
    if not infos:
        raise CheckpointError(
            f"job {paths.job_id!r} has no checkpoint to branch from. One is saved automatically every few "
            "seconds, and after the last epoch of run.epochs, once run.track(model=..., optimizer=...) names what "
            "to keep"
        )
    info = infos[-1] if step is None else next((each for each in infos if each.step == step), None)
    if info is None:
        raise CheckpointError(
            f"job {paths.job_id!r} has no checkpoint of step {step}; it can be branched from: {steps}. "
            "run.checkpoint_every(steps=..., keep=...) keeps more of them"
        )
    if not is_whole(file_of(paths, info), info):
        raise CheckpointError(
            f"the checkpoint of step {info.step} of job {paths.job_id!r} does not match its sha256; steps: {steps}"
        )
    return info
