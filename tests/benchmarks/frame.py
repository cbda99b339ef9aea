"""What every benchmark module shares: a figure, and measurements in fresh interpreters, side by side.

A module offers ``measure(plan)``, which yields figures.  What it compares runs in an interpreter of its own each
time (:func:`apart`), ours and theirs in turn, so that neither warms the other up and both meet the same machine.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
_MARK = "benchmark result: "


@dataclass(frozen=True)
class Plan:
    """How to measure.

    Attributes:
        peers: the interpreter in which the other libraries are installed; None to leave them out.
        repeats: how often each thing is measured; figures are medians.
        quick: small sizes, to see that a module works; its figures say nothing.
    """

    peers: str | None = None
    repeats: int = 5
    quick: bool = False


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Attributes:
        what: is measured.
        unit: of ours, floor and peers.
        ours: the median.
        floor: the least that it can cost, or what a bare loop does: a name and its median.
        peers: others at the same work; None where one is not installed or fails.
        ratio: what the goal is about.
        of: what the ratio divides, in words.
        goal: ``"≤ 3"`` or ``"≥ 0.99"``; empty if nothing was promised.
        runs: how many measurements the medians are of.
        note: what a reader must know.
        detail: whatever else should be in the JSON: all runs, curves.
    """

    what: str
    unit: str
    ours: float
    runs: int
    floor: tuple[str, float] | None = None
    peers: Mapping[str, float | None] = field(default_factory=dict)
    ratio: float | None = None
    of: str = ""
    goal: str = ""
    note: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)

    @property
    def reached(self) -> bool | None:
        """Whether the goal is reached; None without one."""
        if not self.goal:
            return None
        sign, limit = self.goal.split()[:2]
        value = self.ours if self.ratio is None else self.ratio
        return value <= float(limit) if sign == "≤" else value >= float(limit)

    def plain(self) -> dict[str, Any]:
        """Return the figure as JSON can hold it."""
        return asdict(self) | {"reached": self.reached}


class NotMeasuredError(Exception):
    """A measurement that could not be made, with the reason."""


def apart(
    function: Callable[..., Any], *, python: str = sys.executable, timeout_s: float = 200, **told: Any
) -> Any:
    """Call a function of a benchmark module in a fresh interpreter, in a folder of its own.

    Args:
        function: of a module in this folder; takes and returns what JSON can hold.
        python: the interpreter.
        timeout_s: when to give up.
        **told: its arguments.

    Returns:
        What it returned.

    Raises:
        NotMeasuredError: it raised, or took too long; the message is its last line.
    """
    module = Path(sys.modules[function.__module__].__file__ or "").stem
    with tempfile.TemporaryDirectory(prefix="trainkit-benchmark-") as folder:
        environment = dict(
            os.environ, TRAINKIT_ROOT=folder, TRAINKIT_QUEUE=f"{folder}/queue", TRAINKIT_MAX_JOBS="8"
        )
        try:
            done = subprocess.run(
                [python, str(Path(__file__)), module, function.__name__, json.dumps(told)],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                timeout=timeout_s,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            raise NotMeasuredError(f"{module}.{function.__name__} took more than {timeout_s:g} s") from None
    for line in done.stdout.splitlines():
        if line.startswith(_MARK):
            return json.loads(line.removeprefix(_MARK))
    said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    raise NotMeasuredError(f"{module}.{function.__name__}({told}): {said[-1]}")


def in_turn(repeats: int, *measurements: Callable[[], Any]) -> list[list[Any]]:
    """Make measurements in turn, ``repeats`` times; return the results of each.

    A measurement that cannot be made (:class:`NotMeasuredError`) has an empty list, and is not tried again.
    """
    results: list[list[Any]] = [[] for _ in measurements]
    failed: set[int] = set()
    for _ in range(repeats):
        for index, measure in enumerate(measurements):
            if index in failed:
                continue
            try:
                results[index].append(measure())
            except NotMeasuredError as error:
                print(f"  not measured: {error}", file=sys.stderr, flush=True)
                failed.add(index)
                results[index] = []
    return results


def peak_mb() -> float:
    """Return the most memory that this process has had so far, in MiB."""
    # Linux tells getrusage of a process begun by a larger one that one's peak.
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) for line in status.open() if line.startswith("VmHWM")) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def median(values: list[float]) -> float:
    """Return the median of what was measured; NaN if nothing could be."""
    return statistics.median(values) if values else float("nan")


def median_or_none(values: list[float]) -> float | None:
    """Return the median of a peer, or None if it could not be measured."""
    return statistics.median(values) if values else None


def quantile(values: list[float], share: float) -> float:
    """Return the value below which that share of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _serve() -> None:
    """Be the fresh interpreter of :func:`apart`."""
    import importlib

    sys.path.insert(0, str(FOLDER))
    module, function, told = sys.argv[1:]
    result = getattr(importlib.import_module(module), function)(**json.loads(told))
    print(_MARK + json.dumps(result), flush=True)


if __name__ == "__main__":
    _serve()
