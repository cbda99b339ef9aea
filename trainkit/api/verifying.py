"""Proves on any training loop that a resumed run reaches what an uncut one reaches, or says what differs."""

from __future__ import annotations

import pickle
import random
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainkit.api.arguments import bound, telling_params_apart
from trainkit.api.job import Job
from trainkit.api.launching import launch
from trainkit.api.probe import Probe, Seen
from trainkit.errors import JobFailedError, OptionError
from trainkit.files.record import Randomness, Status
from trainkit.runners.task import Task, describe

#: The seed that every run begins with, so that what the function draws before its loop is the same.
SEED = 20_240
_VARIABLE, _STREAM = "variable ", "the random numbers of "


@dataclass(frozen=True)
class Verification:
    """What :func:`verify_resume` found.

    Attributes:
        equal: whether all that is tracked, every random stream, and every variable with a state is the same, bit
            for bit.
        steps: after how many steps.
        kills: after which steps the run was killed, and from which it went on.
        first: the first thing that differs.
        cause: what usually causes that, and what to do.
        differing: all that differs.
        notes: plain numbers among the function's variables that differ; none of them is part of a checkpoint.
    """

    equal: bool
    steps: int
    kills: list[tuple[int, int]]
    first: str | None = None
    cause: str = ""
    differing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        cuts = ", ".join(f"killed after step {died}, went on from {saved}" for died, saved in self.kills)
        head = f"equal after {self.steps} steps" if self.equal else f"DIFFERENT after {self.steps} steps"
        lines = [f"{head} ({cuts})"]
        if not self.equal:
            others = f" (and {len(self.differing) - 1} more)" if len(self.differing) > 1 else ""
            lines += [f"  first: {self.first}{others}", f"  {self.cause}"]
        if self.notes:
            lines.append(f"  variables that differ and are in no checkpoint: {', '.join(self.notes)}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        return asdict(self)


@telling_params_apart()
def verify_resume(
    function: Callable[..., Any],
    params: Mapping[str, Any] | None = None,
    /,
    *,
    steps: int = 50,
    kills: int = 2,
    kill_seed: int = 0,
    tell: Callable[[str], None] = lambda text: None,
    **more: Any,
) -> Verification:
    """Run a training function once in one go and once with kills, in processes, and compare every bit.

    Args:
        function: as for ``submit``.
        params: arguments of the function in a dict, as for ``submit``.
        steps: after how many steps to compare; fewer if the function ends before.
        kills: how often the second run is killed with SIGKILL, at random steps after random checkpoints.
        kill_seed: of these steps.
        tell: called with what is going on.
        **more: the function's other arguments.

    Raises:
        OptionError: numbers that make no sense, or a function that cannot be resumed: it tracks nothing, or has
            neither ``run.batches`` nor ``run.epochs``.
        Exception: what the function raised.
    """
    if not 1 <= kills <= steps // 4:
        raise OptionError(f"kills={kills}, steps={steps}: expected at least one kill, and four steps for each")
    arguments = bound(function, params or {})
    root = Path(tempfile.mkdtemp(prefix="trainkit-verify-"))
    try:
        tell(f"{steps} steps in one go")
        whole = _run(root, "whole", function, arguments, steps, [])
        at = sorted(random.Random(kill_seed).sample(range(1, max(2, min(steps, whole.step))), 2 * kills))
        cuts = list(zip(at[::2], at[1::2], strict=True))
        tell(f"{steps} steps, killed {kills} times")
        cut = _run(root, "cut", function, arguments, steps, cuts)
        differing = _differences(whole, cut)
        found = [name for name in differing if not _is_plain(name, whole, cut)]
        cause = ""
        if found:
            tell("they differ; once more in one go, to see whether the function repeats itself at all")
            again = _run(root, "again", function, arguments, steps, [])
            cause = _cause(found[0], whole, set(_differences(whole, again)))
        return Verification(
            equal=not found,
            steps=whole.step,
            kills=[(died, saved) for saved, died in cuts],
            first=f"{found[0]}{_how_far(found[0], whole, cut)}" if found else None,
            cause=cause,
            differing=tuple(found),
            notes=tuple(name.removeprefix(_VARIABLE) for name in differing if _is_plain(name, whole, cut)),
        )
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _run(
    root: Path,
    name: str,
    function: Callable[..., Any],
    arguments: Mapping[str, Any],
    steps: int,
    kills: list[tuple[int, int]],
) -> Seen:
    out = root / f"{name}.pkl"
    job = launch(
        Task(Probe(function, steps, kills, str(out)), dict(arguments)),
        params=arguments,
        runner="process",
        name=describe(function),
        job_id=name,
        root=root,
        randomness=Randomness(SEED),
    )
    try:
        for _ in kills:
            if job.wait() is not Status.INTERRUPTED:
                break
            if not job.paths.resume.exists():
                raise OptionError(_nothing_to_resume(function))
            job.resume()
        return _outcome(job, out, function)
    finally:
        if not job.done():
            job.kill()


def _outcome(job: Job, out: Path, function: Callable[..., Any]) -> Seen:
    job.wait()
    if job.state is Status.FAILED:
        error = job.exception()
        raise error if error is not None else JobFailedError(job.record.message)
    if not out.exists():
        raise JobFailedError(f"job {job.name!r} ended {job.record.status}: {job.record.message}\n{job.logs(20)}")
    seen: Seen = pickle.loads(out.read_bytes())
    if not any(not name.startswith((_VARIABLE, _STREAM)) for name in seen.values) or seen.step < 2:
        raise OptionError(_nothing_to_resume(function))
    return seen


def _nothing_to_resume(function: Callable[..., Any]) -> str:
    return (
        f"{describe(function)}() cannot be resumed: it needs run.track(model=..., optimizer=...) for what is to "
        "be kept, and run.epochs(...) with run.batches(...) for a place to come back to"
    )


def _differences(one: Seen, other: Seen) -> list[str]:
    """Return the names of all that differs, in the order of the first."""
    names = list(dict.fromkeys([*one.values, *other.values]))
    missing = object()
    return [name for name in names if not _same(one.values.get(name, missing), other.values.get(name, missing))]


def _same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if hasattr(one, "dtype"):
        if one.dtype != other.dtype or one.shape != other.shape:
            return False
        return bool(((one == other) | ((one != one) & (other != other))).all())
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(_same(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other or (one != one and other != other))


def _is_plain(name: str, one: Seen, other: Seen) -> bool:
    """Whether it is a number or text in a variable: nobody expects a checkpoint to hold those."""
    owner = name.removeprefix(_VARIABLE).split(".")[0]
    values = (one.values.get(name), other.values.get(name))
    return (
        name.startswith(_VARIABLE)
        and owner not in one.untracked
        and not any(hasattr(value, "dtype") for value in values)
    )


def _how_far(name: str, one: Seen, other: Seen) -> str:
    a, b = one.values.get(name), other.values.get(name)
    if a is None or b is None or not hasattr(a, "dtype") or not hasattr(b, "dtype") or a.shape != b.shape:
        return ""
    try:
        return f", by up to {abs(a - b).max():.3g}"
    except (TypeError, RuntimeError, ValueError):  # no numbers, or none at all
        return ""


def _cause(first: str, whole: Seen, unstable: set[str]) -> str:
    """Say what usually causes such a difference, and what to do."""
    stateful = whole.untracked
    if first in unstable:
        return (
            "It differs between two runs without any kill, too: something draws random numbers that are not "
            "seeded. Usually a generator without a seed, numpy.random.default_rng() say: give it one, and "
            "track it" + (f" ({_names(stateful)})" if stateful else "")
        )
    if stateful:
        words = ", ".join(f"{name.split('.')[-1]}={name}" for name in stateful)
        return f"Not tracked, and with a state of its own: {_names(stateful)}. Add: run.track({words})"
    if first.startswith(_STREAM):
        return (
            "After a resume it is drawn from another number of times: by code before or between the loops, or a "
            "loader that keeps its workers (persistent_workers=True)"
        )
    if first.startswith(_VARIABLE):
        name = first.removeprefix(_VARIABLE)
        return f"A variable that is lost with the process: keep {name!r} in something that is tracked"
    return (
        "Usually: augmentation in loader workers that is not keyed by (seed, epoch, index), a loader with "
        "persistent_workers=True, state in plain variables, or operations that are not deterministic "
        "(torch.use_deterministic_algorithms(True))"
    )


def _names(stateful: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in stateful.items())
