"""The first moments of a process job: its worker is started at once, its supervisor gets ready meanwhile.

``python -m trainkit.runners.starter SOCKET_FD HOW`` is started by the process runner, and becomes the supervisor
of the job that comes over the socket.  HOW is ``now`` (a worker at once), ``later`` (a worker when it is the
job's turn), or ``spare`` (a worker at once that gets all of torch ready, for a job that may come or not).  If
the other end of the socket is closed before there was a job, both processes end: whoever might have sent one is
gone.

Before the worker runs, nothing is imported here that takes time.
"""

from __future__ import annotations

import os
import socket
import sys
from typing import NamedTuple


class Worker(NamedTuple):
    """A process that waits for its job; the leader of a session of its own."""

    pid: int
    connection: socket.socket

    def wait(self) -> int:
        """Wait until it has ended; return its exit code, or the negative number of a signal."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def start_worker(*, warm: bool = False) -> Worker:
    """Start a process that waits for a job.  Only for this small process, which has no threads: it forks.

    Args:
        warm: have it load torch, and all that a first step loads, before it waits.
    """
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            theirs.set_inheritable(True)
            words = ["-m", "trainkit.runners.waiting", str(theirs.fileno()), *(["warm"] if warm else [])]
            os.execv(sys.executable, [sys.executable, *words])
        finally:
            os._exit(127)
    theirs.close()
    return Worker(pid, ours)


def main(arguments: list[str]) -> None:
    """Be the supervisor of one job."""
    fd, how = arguments
    connection = socket.socket(fileno=int(fd))
    connection.set_inheritable(False)
    worker = None if how == "later" else start_worker(warm=how == "spare")
    from trainkit.runners.supervisor import serve

    serve(connection, worker, spare=how == "spare")


if __name__ == "__main__":
    main(sys.argv[1:])
