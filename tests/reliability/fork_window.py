"""Fork while another thread takes and asks locks, and count the children that keep one of them.

``python fork_window.py VARIANT FORKS FOLDER`` prints one JSON object.  VARIANT is ``trainkit``, or ``unguarded``:
locks that a fork may come between when they are opened and when they are noted, as they once were.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

from trainkit.files import locks


class NoGuard:
    """What is held by nobody."""

    def __enter__(self) -> None: ...

    def __exit__(self, *told: object) -> None: ...

    def release(self) -> None: ...


def main(variant: str, forks: int, folder: str) -> None:
    """Fork, and count."""
    if variant == "unguarded":
        locks._changing = NoGuard()  # type: ignore[assignment]
    path = Path(folder) / "owner.lock"
    path.touch()
    over = threading.Event()

    def take_and_ask() -> None:
        while not over.is_set():
            lock = locks.try_lock(path)
            if lock is not None:
                lock.close()
            locks.is_locked(path)

    threads = [threading.Thread(target=take_and_ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    kept = 0
    for _ in range(forks):
        if (pid := os.fork()) == 0:
            mine = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
            os._exit(any(os.path.exists(fd) and os.path.samefile(fd, path) for fd in mine))
        kept += os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    over.set()
    for thread in threads:
        thread.join()
    print(json.dumps({"forks": forks, "kept": kept}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
