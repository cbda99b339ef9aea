"""Train to the end in one go, and again with kills on the way, and compare every bit.

``python resume_chain.py CHAINS FOLDER [OMIT]`` prints one JSON object.  Each chain is table training, or a
network with BatchNorm, dropout, augmentation, schedulers, a gradient scaler, generators of its own, an average
of its weights and, without loader workers, a second loop in each epoch, cut by one to three SIGKILLs at random
steps.  OMIT leaves one thing out of the checkpoints, which must make the harness fail.  Attempts are forked from a
parent that has imported torch, and what the first optimizer step would import, but has computed nothing with it.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch._dynamo

from trainkit.files.locks import try_lock
from trainkit.files.record import Record, Status, begin_attempt
from trainkit.files.recorder import Recorder
from trainkit.files.store import Store
from trainkit.resuming.determinism import plain_random_state, random_state, restore_random_state
from trainkit.runners.task import Task
from trainkit.runners.worker import Outcome, work
from trainkit.tabular import train_function
from trainkit.tabular.synthetic import synthetic_table
from trainkit.training import boundary


class Images(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Small images, augmented with torch's and numpy's random numbers."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(index)
        image = torch.randn(1, 6, 6, generator=generator) + 0.1 * torch.randn(1, 6, 6)
        if np.random.rand() < 0.5:
            image = image.flip(-1)
        return image, torch.tensor(index % 3)


def train(run: Any, workers: int, own_generator: bool, save_every: int, kill_at: int) -> torch.nn.Module:
    """A training loop as people write it, which kills its own process after a step."""
    torch.manual_seed(1)
    np.random.seed(2)
    random.seed(3)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten()
    ).append(torch.nn.Dropout(0.3))
    model.append(torch.nn.Linear(64, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)
    average = torch.optim.swa_utils.AveragedModel(model)
    loader = torch.utils.data.DataLoader(
        Images(),
        batch_size=4,
        shuffle=True,
        num_workers=workers,
        generator=torch.Generator().manual_seed(5) if own_generator else None,
    )
    # A factor that is no power of two, so that what the scale is shows in the last bits.
    scaler = torch.amp.GradScaler("cpu", init_scale=3.0, growth_factor=1.7, growth_interval=2)
    noise, draws = torch.Generator().manual_seed(7), np.random.default_rng(8)
    warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.5, total_iters=3)
    run.track(model=model, optimizer=optimizer, scheduler=scheduler, average=average)
    run.track(scaler=scaler, noise=noise, draws=draws, warm_up=warm_up)
    run.checkpoint_every(steps=save_every)
    few = torch.utils.data.DataLoader(torch.arange(8.0), batch_size=4, shuffle=True)
    for _ in run.epochs(4):
        model.train()
        # What is done between the top of the epoch and its batches is done again after a cut.
        scale = (1 + 0.1 * random.random()) * (1 + 0.1 * draws.random())
        if run.step:
            warm_up.step()
        if run.epoch % 2 == 0:
            run.checkpoint()
        for x, y in run.batches(loader):
            x = x * scale + 0.1 * torch.randn(x.shape, generator=noise) + 0.1 * np.random.rand() * random.random()
            loss = torch.nn.functional.cross_entropy(model(x), y) * (1 + 0.1 * draws.random())
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            average.update_parameters(model)
            run.log(loss=loss)
            if run.step == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
        shift = random.random() + draws.random()  # and between two loops
        for numbers in run.batches(few) if not workers else ():
            with torch.no_grad():
                model[-1].bias += 0.01 * shift * numbers[:3] * torch.rand(3, generator=noise)
            if run.step == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
        scheduler.step()
        if run.epoch % 2:
            run.checkpoint()
    return average


def train_table(run: Any, save_every: int, kill_at: int) -> Any:
    """Table training, which kills its own process after a step."""
    log = run.log

    def log_and_die(**values: Any) -> None:
        log(**values)
        if run.step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    run.log = log_and_die
    run.checkpoint_every(steps=save_every)
    return train_function(run, synthetic_table(rows=120), epochs=4, batch_size=17, hidden=16, log_every=1)


def attempt(store: Store, job_id: str, arguments: dict[str, Any], resume: bool) -> bool:
    """Run one attempt in a forked process; return whether it came to its end."""
    if (pid := os.fork()) == 0:
        torch.set_num_threads(1)
        if resume:
            lock = try_lock(store.paths(job_id).owner_lock)
            record = store.observe_as_owner(job_id)
            begin_attempt(record, now=0.0)
        else:
            record = Record(job_id=job_id, name=job_id, status=Status.QUEUED, runner="process")
            lock = store.create(record)
        assert lock is not None
        outcome = Outcome()
        function = train_table if "workers" not in arguments else train
        work(Recorder(store, record), Task(function, arguments), outcome)
        os._exit(0 if outcome.error is None else 1)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return False
    if os.WEXITSTATUS(status):
        raise RuntimeError(store.read(job_id).error)
    return True


def weights(store: Store, job_id: str) -> str:
    """A hash of all tensors of the model file."""
    digest = hashlib.sha256()

    def add(name: str, value: Any) -> None:
        if isinstance(value, dict):
            for key in sorted(value):
                add(f"{name}.{key}", value[key])
        elif isinstance(value, torch.Tensor):
            digest.update(name.encode() + value.numpy().tobytes())

    add("", torch.load(store.paths(job_id).model, weights_only=True))
    return digest.hexdigest()


def random_state_at_start() -> dict[str, Any]:
    """Random state as a process has it that has drawn nothing."""
    now = random_state()
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    fresh = random_state()
    restore_random_state(now)
    return fresh


def leave_out(what: str) -> Callable[..., Any]:
    """Make checkpoints lack one thing, from here on."""
    save = boundary.save_resume

    def save_less(paths: Any, content: dict[str, Any], **rest: Any) -> Any:
        if what in content["tracked"]:
            content["tracked"] = {key: value for key, value in content["tracked"].items() if key != what}
        elif what.startswith("random."):
            fresh = plain_random_state(random_state_at_start())
            content["random"] = {**content["random"], what.partition(".")[2]: fresh[what.partition(".")[2]]}
        elif what == "offset":
            content["part_offset"] = max(0, content["part_offset"] - 1)
        else:
            content[what] = {}
        return save(paths, content, **rest)

    return save_less


def main(chains: int, folder: str, omit: str | None) -> None:
    """Compare chains of attempts with runs that were never cut."""
    luck = random.Random(7)
    if omit:
        boundary.save_resume = leave_out(omit)
    seen = {"chains": chains, "kills": 0, "mid-epoch": 0, "different": 0}
    whole: dict[tuple[Any, ...], str] = {}
    for number in range(chains):
        kind = {"workers": 2 if number % 4 == 3 else 0, "own_generator": bool(number % 2)}
        if number % 4 == 2:
            kind = {}  # the table
        store = Store(os.path.join(folder, str(number)))
        key = tuple(kind.values())
        if key not in whole:
            attempt(store, "whole", {**kind, "save_every": 1000, "kill_at": -1}, resume=False)
            whole[key] = weights(store, "whole")
        save_every, at, resume = luck.randint(1, 4), 0, False
        kills = luck.randint(1, 3)
        while True:
            at = luck.randint(at + save_every, 24) if kills and at + save_every <= 24 else -1
            if attempt(store, "cut", {**kind, "save_every": save_every, "kill_at": at}, resume=resume):
                break
            kills -= 1
            resume = resume or store.paths("cut").resume.exists()
            seen["kills"] += 1
            seen["mid-epoch"] += at % 6 != 0
            if not resume:
                store = Store(os.path.join(folder, f"{number}-again-{seen['kills']}"))
        seen["different"] += weights(store, "cut") != whole[key]
    print(json.dumps(seen))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else None)
