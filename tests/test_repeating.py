"""Replay and branch: a steered job is repeated to the bit, and children go on from kept checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import trainkit as tk
from trainkit.errors import CheckpointError, OptionError, StateError
from trainkit.files.record import Parent, Status
from trainkit.resuming.steering import Change, History
from trainkit.tabular import train_function

Eventually = Callable[..., None]


def ask(run: Any, steer: dict[int, dict[str, Any]]) -> None:
    """Have a request arrive after this step, in the first attempt of the job that is named first."""
    if (run.name, run._recorder.record.attempt) == ("first", 1) and run.step in steer:
        request = steer.pop(run.step)
        if request["action"] == "end_early":
            run.end_early(request["reason"])
        run.control.receive(request)


def fit(run: Any, steer: dict[int, dict[str, Any]], lr: float = 0.1, epochs: int = 4) -> torch.nn.Module:
    """A loop with its own random numbers, to which requests arrive after the given steps, if named first."""
    generator = torch.Generator().manual_seed(1)
    model = torch.nn.Linear(3, 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    data = torch.utils.data.DataLoader(
        torch.randn(40, 3, generator=generator), batch_size=4, shuffle=True, generator=generator
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    run.track(model=model, optimizer=optimizer, scheduler=scheduler, generator=generator)
    for _ in run.epochs(epochs):
        for x in run.batches(data):
            loss = (model(x) - 1).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
            ask(run, steer)
        for x in run.batches(data):  # a second loop in the epoch: the same steps in another place
            run.log(loss=model(x).mean())
            ask(run, steer)
        scheduler.step()
    return model


def change(**params: Any) -> dict[str, Any]:
    """A request to change parameters."""
    return {"action": "set", "params": params}


def weights(job: tk.Job) -> bytes:
    """All bits of a job's model file."""

    def bits(value: Any) -> bytes:
        if isinstance(value, dict):
            return b"".join(bits(each) for each in value.values())
        return value.numpy().tobytes() if isinstance(value, torch.Tensor) else b""

    return bits(torch.load(job.paths.model, weights_only=True))


def places(job: tk.Job) -> list[tuple[Any, Any]]:
    """Each change of a job with its place."""
    return [(tuple(event["at"]), event["params"]) for event in job.events() if event["event"] == "change"]


def test_a_steered_job_is_repeated_with_every_change_at_its_step(root: Path) -> None:
    """Within an epoch, at its end, and between two loops of one: the same places, the same weights."""
    steer = {3: change(lr=0.03), 10: change(lr=0.3, weight_decay=0.1), 20: change(lr=0.02), 55: change(lr=0.5)}
    job = tk.submit(fit, steer=steer, name="first")
    job.result()
    again = job.replay()
    again.result()
    assert places(again) == places(job)
    assert [at[3] for at, _ in places(job)] == [3, 10, 20, 55]
    assert weights(again) == weights(job)
    assert again.record.parent == Parent(job.id, 0)
    assert again.record.params["lr"] == 0.5
    plain = tk.submit(fit, steer={})
    plain.result()
    assert weights(plain) != weights(job)


@pytest.mark.parametrize(("action", "state"), [("finish", Status.COMPLETED), ("stop", Status.STOPPED)])
def test_an_early_end_is_repeated(root: Path, action: str, state: Status) -> None:
    """A job that was finished or stopped ends at the same step again, with the same weights and the same word."""
    job = tk.submit(fit, steer={5: change(lr=0.01), 33: {"action": action}}, name="first")
    assert job.wait(20) is state
    again = job.replay()
    assert again.wait(20) is state
    assert (again.record.step, again.record.ended_by) == (job.record.step, job.record.ended_by)
    assert weights(again) == weights(job)
    assert again.record.message == "ended where the job that it repeats was ended on request"


def test_a_job_that_completed_goes_on_with_more_epochs(root: Path) -> None:
    """However short it was: a branch from its end makes the epochs that a longer job makes, to the bit."""
    job = tk.submit(fit, steer={}, epochs=2)
    job.result()
    assert [each.step for each in job.checkpoints()] == [job.record.step]
    more = job.branch(epochs=4)
    more.result()
    longer = tk.submit(fit, steer={}, epochs=4)
    longer.result()
    assert (more.record.step, more.metrics().index.min()) == (longer.record.step, job.record.step + 1)
    assert weights(more) == weights(longer)


def test_a_branch_tells_its_parameters_before_the_loops(root: Path) -> None:
    """Code that reads run.params where it begins has those of the branch; the change is made once, and told."""

    def fit_by_params(run: Any, epochs: int = 2, lr: float = 0.1) -> None:
        model = torch.nn.Linear(2, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=run.params["lr"])
        run.track(model=model, optimizer=optimizer)
        run.warn("{epochs} epochs at {lr}".format(**run.params))
        for _ in run.epochs(run.params["epochs"]):
            for _ in run.batches(range(3)):
                run.log(loss=optimizer.param_groups[0]["lr"])

    job = tk.submit(fit_by_params)
    job.result()
    more = job.branch(epochs=4, lr=0.01)
    more.result()
    told = [each["message"] for one in (job, more) for each in one.events() if "epochs at" in str(each)]
    assert told == ["2 epochs at 0.1", "4 epochs at 0.01"]
    assert (more.record.step, more.metrics()["loss"].tolist()) == (12, [0.01] * 6)
    (change,) = [each for each in more.events() if each["event"] == "change"]
    assert (change["before"], change["params"]) == ({"epochs": 2, "lr": 0.1}, {"epochs": 4, "lr": 0.01})


def test_an_end_that_nobody_wished_for_is_not_repeated(root: Path) -> None:
    """By patience or a time limit, it ends there again and says so; that an interpreter ended is passed over."""
    told = {"time_limit": "by its time limit", "early_stopping": "by early stopping"}
    for ended_by, words in told.items():
        job = tk.submit(fit, steer={33: {"action": "end_early", "reason": ended_by}}, name="first")
        assert (job.wait(20), job.record.step) == (Status.COMPLETED, 33)
        again = job.replay()
        assert (again.wait(20), again.record.step, again.record.ended_by) == (Status.COMPLETED, 33, ended_by)
        assert again.record.message == f"ended where the job that it repeats was ended {words}"
    job = tk.submit(fit, steer={33: {"action": "shutdown"}}, name="first")
    assert job.wait(20) is Status.INTERRUPTED
    assert job.replay().wait(20) is Status.COMPLETED


def test_pauses_stops_and_resumes_make_no_difference(root: Path, eventually: Eventually) -> None:
    """A change during a pause, a stop, a resume and a change after it: the replay goes through in one go."""
    steer = {12: {"action": "pause"}, 14: {"action": "stop"}}
    job = tk.submit(fit, steer=steer, name="first")
    eventually(lambda: job.state is Status.PAUSED)
    job.set(lr=0.02)
    eventually(lambda: any(event.get("action") == "set" for event in job.events()))
    job.resume()
    assert job.wait(20) is Status.STOPPED
    job.resume()
    job.result(20)
    assert job.record.attempt == 2
    again = job.replay()
    again.result(20)
    assert places(again) == places(job) != []
    assert weights(again) == weights(job)


def test_a_table_job_is_repeated(root: Path) -> None:
    """The same, for the built-in training; a resumed attempt keeps the live learning rate too."""

    def steered(run: Any, **options: Any) -> Any:
        log = run.log

        def log_and_ask(**values: Any) -> None:
            log(**values)
            if run.name == "first" and run.step in (7, 20) and run._recorder.record.attempt == 1:
                run.control.receive(change(lr=0.001) if run.step == 7 else {"action": "stop"})

        run.log = log_and_ask
        return train_function(run, None, epochs=4, batch_size=64, hidden=16, log_every=1, **options)

    job = tk.submit(steered, name="first")
    assert job.wait(60) is Status.STOPPED
    job.resume()
    job.wait(60)
    assert job.record.params["lr"] == 0.001
    again = job.replay()
    again.wait(60)
    assert places(again) == places(job) != []
    assert len(weights(job)) > 1000
    assert weights(again) == weights(job)


def test_a_change_after_the_last_checkpoint_survives_a_crash(root: Path) -> None:
    """What was set after the checkpoint is set again at its step, and so is what was only asked for."""

    def crashing(run: Any, steer: dict[int, dict[str, Any]]) -> torch.nn.Module:
        run.checkpoint_every(steps=7, keep=0)
        if run.name == "first" and run._recorder.record.attempt == 1:
            batches = run.batches

            def batches_and_crash(loader: Any) -> Any:
                for batch in batches(loader):
                    yield batch
                    if run.step == 12:
                        run.control.receive(change(weight_decay=0.3))  # acknowledged, and never come to
                        raise RuntimeError("the machine is gone")

            run.batches = batches_and_crash
        return fit(run, steer)

    job = tk.submit(crashing, steer={9: change(lr=0.5)}, name="first")
    assert job.wait(20) is Status.FAILED
    content = torch.load(job.paths.resume, weights_only=True)
    # A checkpoint is taken before a change where that is cheap; the one of step 7 is the case in question.
    job.paths.resume.write_bytes(b"damaged") if content["step"] > 7 else None
    job.resume()
    job.result(20)
    assert [(at[3], params) for at, params in places(job)] == [
        (9, {"lr": 0.5}),
        (9, {"lr": 0.5}),
        (9, {"weight_decay": 0.3}),
    ]
    again = job.replay()
    again.result(20)
    assert weights(again) == weights(job)


def test_a_new_change_takes_the_place_of_what_was_coming() -> None:
    """Whoever sets a parameter after a resume means it, though an older change is still to be made again."""
    at = [(1, 1, 1, step) for step in range(4)]
    history = History([], [Change(at[1], {"lr": 1, "a": 2}), Change(at[2], {"lr": 3})])
    history.make(Change(at[0], {"lr": 4}), planned=False)
    assert history.coming == [Change(at[1], {"a": 2})]
    assert history.made == [Change(at[0], {"lr": 4})]


def test_a_branch_goes_on_from_a_kept_checkpoint(root: Path) -> None:
    """With the same parameters it reaches the parent's weights; with others not; it outlives its parent."""

    def kept(run: Any, lr: float = 0.1) -> torch.nn.Module:
        run.checkpoint_every(steps=8, keep=5)
        return fit(run, {}, lr)

    job = tk.submit(kept, name="parent")
    job.result()
    steps = [info.step for info in job.checkpoints()]
    assert steps[-1] == 80
    assert 5 <= len(steps) <= 7
    same = job.branch(step=steps[1])
    same.result()
    assert weights(same) == weights(job)
    assert same.record.parent == Parent(job.id, steps[1])
    assert same.metrics().index[0] == steps[1] + 1
    other = job.branch(step=steps[1], lr=0.9, name="hot")
    other.result()
    assert weights(other) != weights(job)
    assert (other.name, other.record.params["lr"]) == ("hot", 0.9)
    job.delete()
    again = other.replay()
    again.result()
    assert weights(again) == weights(other)
    with pytest.raises(CheckpointError, match=f"no checkpoint of step 3; it can be branched from: {steps[1]}, "):
        other.branch(step=3)
    with pytest.raises(OptionError, match="no parameter 'lrr'; did you mean 'lr'"):
        other.branch(lrr=1)


def test_damage_of_a_kept_checkpoint_is_seen(root: Path) -> None:
    """A branch begins from nothing that does not match its hash."""
    job = tk.submit(fit, steer={9: {"action": "checkpoint"}}, name="first")
    job.result()
    path = job.paths.root / job.checkpoints()[0].path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    before = len(tk.jobs())
    with pytest.raises(CheckpointError, match="does not match its sha256"):
        job.branch(step=job.checkpoints()[0].step)
    assert len(tk.jobs()) == before


def test_what_is_kept_is_bounded_and_spread(root: Path) -> None:
    """However long a run is, few checkpoints stay, over its whole length; those before changes stay longest."""

    def long(run: Any) -> torch.nn.Module:
        run.checkpoint_every(steps=2, keep=4)
        return fit(run, {15: change(lr=0.2)}, epochs=5)

    job = tk.submit(long, name="first")
    job.result()
    steps = [info.step or 0 for info in job.checkpoints()]
    assert len(list(job.paths.checkpoints.glob("*.pt"))) == 4
    assert len(steps) <= 6
    assert any(step < 40 for step in steps)
    assert next(info.step for info in job.checkpoints() if info.reason == "change") in (14, 15)


def test_what_cannot_be_repeated_says_why(root: Path, eventually: Eventually) -> None:
    """A job that runs, one without checkpoints, and one whose function is only here."""
    job = tk.submit(fit, steer={}, epochs=100_000)
    with pytest.raises(StateError, match=r"it can be repeated when it is over: job.stop\(\)"):
        job.replay()
    job.stop()
    job.wait(10)
    bare = tk.submit(lambda run: None)
    bare.wait()
    with pytest.raises(CheckpointError, match="has no checkpoint to branch from"):
        bare.branch()
    lock = __import__("threading").Lock()
    local = tk.submit(lambda run: lock.locked())
    local.wait()
    with pytest.raises(CheckpointError, match="Run the cell that started it again"):
        local.replay()
