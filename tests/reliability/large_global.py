"""A function that mentions a gigabyte, run by both runners.  Run as a script, or as a cell of a kernel.

Prints one line of JSON: what it returned, and how far memory grew meanwhile, here and where it ran; also for the
known-bad way, a pickle within a pickle.
"""

import json
import pickle
from pathlib import Path

import cloudpickle
import numpy as np

import trainkit as tk

table = np.arange(1 << 27, dtype=np.float64)


def peak_gb() -> float:
    """The most memory that this process has had since it was last forgotten."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / (1 << 20)


def forget() -> None:
    """Let the peak begin anew."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def fit(run):
    return float(table.sum()), peak_gb()


def measured(send):
    forget()
    before = peak_gb()
    sent = send()
    return sent, peak_gb() - before


if __name__ == "__main__":
    found = {"sum": float(table.sum())}
    bare_gb = tk.submit(lambda run: peak_gb(), runner="process").result(timeout=400)
    for runner, there_gb in (("thread", peak_gb()), ("process", bare_gb)):
        job, grown_gb = measured(lambda runner=runner: tk.submit(fit, runner=runner))
        result, peak_there_gb = job.result(timeout=400)
        found[runner] = {"result": result, "grown_gb": grown_gb, "grown_there_gb": peak_there_gb - there_gb}
    _, grown_gb = measured(lambda: pickle.dumps({"body": cloudpickle.dumps(fit)}))
    found["twice"] = {"grown_gb": grown_gb}
    print(json.dumps(found))
