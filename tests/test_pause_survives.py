"""A paused job survives its kernel: it is interrupted then, and goes on from where it was paused."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import trainkit as tk
from trainkit.files.record import Status

Eventually = Callable[..., None]

KERNEL = """
import sys, time
import trainkit as tk

def fit(run, lr=0.1):
    import torch
    generator = torch.Generator().manual_seed(1)
    model = torch.nn.Linear(3, 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    run.track(model=model, optimizer=optimizer, generator=generator)
    for _ in run.epochs(2):
        for _ in run.batches(range(5)):
            loss = model(torch.randn(4, 3, generator=generator)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log(loss=loss, lr=optimizer.param_groups[0]["lr"])
            if run.step == 3 and run.name == "paused" and run._recorder.record.attempt == 1:
                run.control.receive({"action": "pause"})
    return model

tk.submit(fit, name=sys.argv[1], job_id=sys.argv[1], runner="thread").wait()
"""


def test_a_paused_job_whose_kernel_dies_goes_on(root: Path, eventually: Eventually) -> None:
    """What was set in the pause holds, too, and the weights are those of a run that was set the same, uncut."""
    kernel = subprocess.Popen([sys.executable, "-c", KERNEL, "paused"])
    job_is_there = lambda: "paused" in tk.Store().job_ids()  # noqa: E731
    eventually(job_is_there, within_s=60)
    job = tk.attach("paused")
    eventually(lambda: job.state is Status.PAUSED, within_s=60)
    job.set(lr=0.5)
    eventually(lambda: any(event.get("action") == "set" for event in job.events()))
    kernel.send_signal(signal.SIGKILL)
    kernel.wait()
    assert job.state is Status.INTERRUPTED
    assert (job.record.resumable, job.record.step) == (True, 3)
    job.resume()
    assert job.wait(30) is Status.COMPLETED
    assert job.metrics()["lr"].tolist() == [0.1] * 3 + [0.5] * 7
    again = job.replay()
    assert again.wait(30) is Status.COMPLETED
    assert again.metrics()["loss"].tolist() == job.metrics()["loss"].tolist()
