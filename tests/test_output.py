"""What a notebook prints while its jobs begin and end."""

from __future__ import annotations

import subprocess
import sys

#: The last job ends in the middle of a ``print`` of the main thread, between two of its writes.
ENDS_WITHIN_A_PRINT = """
import io, os, sys, threading
from trainkit.training.output import captured

begun, end = threading.Event(), threading.Event()

def job():
    with captured(os.devnull):
        begun.set()
        end.wait()

thread = threading.Thread(target=job)

class Notebook(io.StringIO):
    def write(self, text):
        end.set()
        thread.join()
        return super().write(text)

sys.stdout = usual = Notebook()
thread.start()
begun.wait()
assert sys.stdout is not usual
print("a", "b", "c")
assert sys.stdout is usual
sys.stderr.write(usual.getvalue())
"""


def test_a_job_may_end_while_the_notebook_prints() -> None:
    """``print`` of CPython before 3.14 holds no reference to its stream; the kernel must not end by that."""
    done = subprocess.run([sys.executable, "-c", ENDS_WITHIN_A_PRINT], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "a b c\n")
