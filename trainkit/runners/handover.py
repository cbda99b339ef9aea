"""Handing a job with its open locks to another process, over a socket.

The descriptors travel with the message (``SCM_RIGHTS``): from the moment it is sent the locks are held, in the
socket until it is read, by the reader from then on, so a job that is handed over never looks like nobody's.
Standard library only: this is what a supervisor imports first.
"""

from __future__ import annotations

import json
import os
import socket
from typing import NamedTuple

_LENGTH_BYTES = 8


class Errand(NamedTuple):
    """A job to be run, and what its owner holds.

    Attributes:
        root: the root folder.
        job_id: the job.
        ticket_path: the file of its place in the queue.
        lock_fd: holds the owner's lock.
        ticket_fd: holds the place in the queue.
        output_fd: the job's log, open for appending.
    """

    root: str
    job_id: str
    ticket_path: str
    lock_fd: int
    ticket_fd: int
    output_fd: int

    def take_output(self) -> None:
        """Let what this process prints go into the job's log."""
        for standard in (1, 2):
            os.dup2(self.output_fd, standard)


def send(connection: socket.socket, errand: Errand) -> None:
    """Hand a job over; the descriptors stay open here too, until the caller closes them.

    Raises:
        OSError: nobody is at the other end.
    """
    *words, lock, ticket, output = errand
    data = json.dumps(words).encode()
    head = len(data).to_bytes(_LENGTH_BYTES, "big")
    socket.send_fds(connection, [head], [lock, ticket, output])
    connection.sendall(data)


def receive(connection: socket.socket) -> Errand | None:
    """Wait for a job; None if the other end was closed without one."""
    head, fds, _, _ = socket.recv_fds(connection, _LENGTH_BYTES, 3)
    for fd in fds:
        os.set_inheritable(fd, False)
    try:
        words = _rest(connection, int.from_bytes(head + _rest(connection, _LENGTH_BYTES - len(head)), "big"))
        root, job_id, ticket_path = json.loads(words)
    except EOFError:
        for fd in fds:
            os.close(fd)
        return None
    return Errand(root, job_id, ticket_path, *fds)


def _rest(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        if not more:
            raise EOFError
        data += more
    return data
