"""Keeps a culler of idle kernels away while jobs run in the threads of this one.

To Jupyter a kernel is idle when no cell runs.  Jupyter Server (``MappingKernelManager.cull_idle_timeout``) and the
cullers of hubs go by the time of a kernel's last message of a kind that is not housekeeping; a job in a thread
sends none, so its kernel would be taken in the midst of it.  This sends one, of a kind that front ends pass over.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

#: Much less than any sensible timeout: those of hubs are minutes to hours.
EVERY_S = 20.0
#: What the server does not know as housekeeping (``MappingKernelManager.untracked_message_types``).
MESSAGE = "trainkit_jobs"

_guard = threading.Lock()
_thread: threading.Thread | None = None


def keep_alive(job_ids: Callable[[], list[str]]) -> None:
    """Have this kernel, if this is one, count as active as long as jobs run in it.

    Args:
        job_ids: tells which jobs run.
    """
    global _thread
    kernel = _kernel()
    if kernel is None:
        return
    with _guard:
        if _thread is None or not _thread.is_alive():
            _thread = threading.Thread(
                target=_tell_until_over, args=(kernel, job_ids), name="trainkit-alive", daemon=True
            )
            _thread.start()


def _kernel() -> Any:
    """The kernel of this process, or None."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None)


def _tell_until_over(kernel: Any, job_ids: Callable[[], list[str]]) -> None:
    global _thread
    pause = threading.Event()
    while True:
        with _guard:
            running = job_ids()
            if not running:
                _thread = None
                return
        # Through the kernel's own thread for output, as any widget's message from a thread.
        kernel.session.send(kernel.iopub_socket, MESSAGE, content={"running": running})
        pause.wait(EVERY_S)
