"""What trainkit costs, beside a bare loop and other libraries, in one table.

    python tests/benchmarks/run.py [NAME …] [--peers PYTHON] [--repeats 5] [--json FILE] [--quick]

Without names all are run.  ``--peers`` is an interpreter that has the other libraries, which are left out without
it; ``python -m venv peers && peers/bin/pip install -c .ci/locks/run.txt -e . tensorboard trackio wandb mlflow
lightning accelerate skorch fastai polars duckdb`` makes one.  What it does not have is shown as "–".  Ratios
travel to other machines, absolute figures do not.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import platform
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from frame import Figure, Plan

#: One module each, in the order of the table.
MODULES = ("log_cost", "watched_loop", "panel_cost", "launch", "stop", "scale", "tables", "gpu")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MODULES)}")
    parser.add_argument("--peers", metavar="PYTHON", help="an interpreter that has the other libraries")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write all figures here")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works")
    told = parser.parse_args()
    if unknown := set(told.names) - set(MODULES):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(MODULES)}")
    plan = Plan(peers=told.peers, repeats=told.repeats, quick=told.quick)
    found: list[Figure] = []
    broken = []
    for name in told.names or MODULES:
        began = time.perf_counter()
        figures: list[Figure] = []
        try:
            for figure in importlib.import_module(name).measure(plan):
                figures.append(figure)
                print(
                    f"  {time.perf_counter() - began:4.0f} s  {name}: {figure.what}", file=sys.stderr, flush=True
                )
        except Exception:  # noqa: BLE001 - the others are measured all the same; the exit code tells
            traceback.print_exc()
            broken.append(name)
        print(f"\n{name} ({time.perf_counter() - began:.0f} s)\n{drawn(figures)}", flush=True)
        found += figures
        if told.json:  # after each, so that a run that is cut leaves what it has
            content = {"machine": machine(), "figures": [figure.plain() for figure in found]}
            told.json.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    missed = [figure.what for figure in found if figure.reached is False]
    if missed:
        print("\nshort of the goal: " + "; ".join(missed))
    if broken:
        print("\nnot measured to the end: " + ", ".join(broken))
    return 1 if broken else 0


def machine() -> dict[str, Any]:
    """Return where the figures were taken."""
    import torch

    card = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cores": os.cpu_count(),
        "gpu": card,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def drawn(figures: list[Figure]) -> str:
    """Return figures as an aligned table, with the peers and notes below each line."""
    header = ["what", "ours", "floor", "ratio", "goal", "", "runs"]
    rows = [header]
    below: list[list[str]] = [[]]
    for each in figures:
        floor = f"{number(each.floor[1])} ({each.floor[0]})" if each.floor else ""
        ratio = "" if each.ratio is None else f"{number(each.ratio)} {each.of}"
        mark = {True: "✓", False: "short", None: ""}[each.reached]
        rows.append([each.what, f"{number(each.ours)} {each.unit}", floor, ratio, each.goal, mark, str(each.runs)])
        peers = "  ".join(
            f"{name} {'–' if value is None else number(value)}" for name, value in each.peers.items()
        )
        below.append([text for text in (peers, each.note) if text])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row, texts in zip(rows, below, strict=True):
        lines.append("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        lines += [f"    {text}" for text in texts]
    return "\n".join(lines)


def number(value: float) -> str:
    """Return a number with three digits that count."""
    if not math.isfinite(value):
        return "–"
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:,.{digits}f}"


if __name__ == "__main__":
    sys.exit(main())
