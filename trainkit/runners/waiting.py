"""The worker process of a job: gets everything ready, waits for the job, and runs it.

``python -m trainkit.runners.waiting SOCKET_FD [warm]`` is started by a supervisor.
"""

from __future__ import annotations

import os
import socket
import sys

from trainkit.runners import worker
from trainkit.runners.handover import receive


def main(arguments: list[str]) -> None:
    """Be the process of one job."""
    fd, *how = arguments
    with socket.socket(fileno=int(fd)) as connection:
        connection.set_inheritable(False)
        if "warm" in how:
            warm_up()
        errand = receive(connection)
    if errand is None:
        return  # there will be no job
    errand.take_output()
    os.close(errand.output_fd)
    worker.main([errand.root, errand.job_id, str(errand.lock_fd), str(errand.ticket_fd)])


def warm_up() -> None:
    """Load torch, and what it loads only when a first step is made; draws no random number."""
    import torch

    weight = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.Adam([weight])
    torch.autograd.backward(weight.sum())
    optimizer.step()


if __name__ == "__main__":
    main(sys.argv[1:])
