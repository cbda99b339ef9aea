"""What training code sees: steps, logs, tracking, checkpoints, endings."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import trainkit as tk
from trainkit.errors import CheckpointError, ModelFileError, OptionError, TrainkitError
from trainkit.files.record import Status
from trainkit.resuming.checkpoints import load_resume
from trainkit.resuming.determinism import doubts_of_loader

Eventually = Callable[..., None]


def warnings_of(job: tk.Job) -> list[str]:
    """The warnings of a job."""
    return [event["message"] for event in job.events() if event["event"] == "warning"]


def test_tensors_are_logged_as_they_were(root: Path) -> None:
    """What a tensor held when it was logged is what is in the file, though training goes on changing it."""

    def fit(run: Any) -> None:
        weight = torch.zeros((), requires_grad=True)
        for _ in range(3):
            run.log(loss=weight)
            with torch.no_grad():
                weight += 1

    job = tk.submit(fit)
    job.result()
    assert job.metrics()["loss"].tolist() == [0.0, 1.0, 2.0]


def test_non_finite_losses_are_kept_and_never_best(root: Path) -> None:
    """NaN is logged as NaN, and the best value is one that can be compared."""

    def fit(run: Any) -> None:
        for value in (2.0, 1.0, math.nan, math.inf):
            run.log(val_loss=value)

    job = tk.submit(fit)
    job.result()
    assert job.metrics()["val_loss"].tolist()[:2] == [2.0, 1.0]
    assert job.metrics()["val_loss"].isna().sum() == 1
    assert job.record.best is not None
    assert (job.record.best.value, job.record.best.step) == (1.0, 2)
    assert job.status()["metrics"]["val_loss"] == math.inf


def test_a_loss_that_is_not_finite_is_told_once_with_what_to_do(root: Path) -> None:
    """Divergence is a warning with its step, not one per step."""

    def fit(run: Any) -> None:
        for value in (1.0, math.nan, math.inf):
            run.log(loss=value)

    job = tk.submit(fit)
    job.result()
    assert [text.split(":")[0] for text in warnings_of(job)] == ["the loss is not finite since step 2"]


def test_the_watched_metric_can_be_chosen(root: Path) -> None:
    """run.best names the metric and its direction; anything but min or max is refused."""

    def fit(run: Any) -> None:
        with pytest.raises(OptionError, match="'min' or 'max'"):
            run.best("accuracy", "highest")
        run.best("accuracy", "max")
        for value in (0.5, 0.9, 0.7):
            run.log(accuracy=value)

    job = tk.submit(fit)
    job.result()
    assert job.record.best is not None
    assert (job.record.best.metric, job.record.best.value) == ("accuracy", 0.9)


def test_what_is_no_number_is_left_out_with_one_warning(root: Path) -> None:
    """Logging never raises; a value that is no number is named once."""

    def fit(run: Any) -> None:
        for _ in range(3):
            run.log(loss=1.0, note="text", pair=torch.zeros(2))

    job = tk.submit(fit)
    job.result()
    assert list(job.metrics().columns) == ["epoch", "loss"]
    assert [text.split(")")[0] for text in warnings_of(job)] == ["run.log(note=...", "run.log(pair=..."]


def test_names_that_the_file_needs_are_renamed_with_a_warning(root: Path) -> None:
    """A metric named like a field of the file does not overwrite it."""

    def fit(run: Any) -> None:
        run.log(time=3.0, loss=1.0)

    job = tk.submit(fit)
    job.result()
    assert job.metrics()["time_"].tolist() == [3.0]
    assert "'time_'" in warnings_of(job)[0]


def test_metrics_can_have_any_name(root: Path) -> None:
    """A mapping takes names that Python's keywords cannot have; what is none is refused with what to write."""

    def fit(run: Any, logged: Any) -> None:
        run.log(logged, acc=0.5)

    logged = {"val/loss": torch.tensor(0.25), "step size": 2}
    job = tk.submit(fit, logged=logged)
    job.result()
    assert job.metrics()[["val/loss", "step size", "acc"]].to_numpy().tolist() == [[0.25, 2.0, 0.5]]
    assert list(logged) == ["val/loss", "step size"]
    with pytest.raises(OptionError, match=r"run.log got float 0.5; expected names, such as run.log\(loss=loss\)"):
        tk.submit(fit, logged=0.5).result()


def test_steps_can_be_given(root: Path) -> None:
    """Loops with a count of their own log under it."""

    def fit(run: Any) -> None:
        for step in (10, 20):
            run.log(step=step, loss=float(step))

    job = tk.submit(fit)
    job.result()
    assert job.metrics().index.tolist() == [10, 20]


def test_validation_batches_are_no_steps(root: Path) -> None:
    """run.batches(..., phase='validating') shows the phase and counts nothing."""
    phases = []

    def fit(run: Any) -> None:
        for _ in run.epochs(2):
            for _ in run.batches([1, 2, 3]):
                pass
            for _ in run.batches([1, 2], phase="validating"):
                phases.append(run._recorder.record.phase)

    job = tk.submit(fit)
    job.result()
    assert (job.record.step, job.record.total_steps) == (6, 6)
    assert phases == ["validating"] * 4


def test_progress_counts_every_loop_over_batches(root: Path) -> None:
    """Two in an epoch, one of them not in each epoch, a second loop over epochs, batches behind; resumed."""

    def fit(run: Any) -> None:
        def go_through(count: int) -> None:
            for _ in run.batches([0] * count):
                run.log(total=run.total_steps)
                if run.step == 20 and run._recorder.record.attempt == 1:
                    run.control.receive({"action": "stop"})

        run.track(model=torch.nn.Linear(1, 1))
        for _ in run.epochs(3):
            go_through(6)
            go_through(2)
        for epoch in run.epochs(4):
            go_through(5)
            if epoch % 2:
                go_through(1)
        go_through(3)

    job = tk.submit(fit)
    assert job.wait(20) is Status.STOPPED
    job.resume()
    job.result(20)
    totals = job.metrics()["total"]
    assert list(totals.index) == list(range(1, 50))
    # Of its first epoch an attempt does not know what comes after the first loop.
    first = [18] * 6 + [24] * 14 + [22] * 2 + [24] * 2
    second = [44] * 5 + [44] * 5 + [45] + [46] * 5 + [45] * 5 + [46]  # what an epoch has on average
    assert list(totals) == first + second + [49] * 3
    assert (job.record.step, job.record.total_steps, job.record.progress) == (49, 49, 100.0)


def test_loaders_are_told_their_epoch(root: Path) -> None:
    """set_epoch is called on the loader and on its sampler, from 0."""
    told = []

    class Loader(list[int]):
        sampler: Any = None

        def set_epoch(self, epoch: int) -> None:
            told.append(epoch)

    loader = Loader([1, 2])
    loader.sampler = Loader()

    def fit(run: Any) -> None:
        for _ in run.epochs(2):
            list(run.batches(loader))

    tk.submit(fit).result()
    assert told == [0, 0, 1, 1]


def test_ending_early_by_itself(root: Path) -> None:
    """run.end_early ends the loops after the step; the record says why."""

    def fit(run: Any) -> int:
        for epoch in run.epochs(100):
            for batch in run.batches(range(10)):
                run.log(loss=1.0)
                if (epoch, batch) == (2, 4):
                    run.end_early("early_stopping", "no better for 3 epochs")
        return 1

    job = tk.submit(fit)
    assert job.result() == 1
    record = job.record
    assert (record.status, record.ended_by, record.message) == (
        "COMPLETED",
        "early_stopping",
        "no better for 3 epochs",
    )
    assert record.step == 25


def test_an_unknown_phase_is_refused_with_the_phases(root: Path) -> None:
    """The error lists what is allowed."""

    def fit(run: Any) -> None:
        with run.phase("thinking"):
            pass

    with pytest.raises(OptionError, match="'thinking' is not a phase; phases: starting, loading"):
        tk.submit(fit).result()

    def looks(run: Any) -> None:
        for _ in run.batches(range(3), phase="eval"):
            pass

    with pytest.raises(OptionError, match="'eval' is not a phase; phases: starting, loading"):
        tk.submit(looks).result(20)


def test_params_are_live_and_shown(root: Path) -> None:
    """Parameters read like a mapping or an attribute; unknown ones are named."""

    def fit(run: Any, lr: float, act: Any = torch.relu) -> None:
        assert run.params.lr == run.params["lr"] == lr
        run.update_params(batch_size=32)
        with pytest.raises(AttributeError, match="no parameter 'lrr'; parameters: lr, act, batch_size"):
            _ = run.params.lrr

    job = tk.submit(fit, lr=0.1)
    job.result()
    assert job.record.params["lr"] == 0.1
    assert job.record.params["batch_size"] == 32
    assert "relu" in job.record.params["act"]


def trainer() -> Callable[..., Any]:
    """A small real training loop."""

    def fit(run: Any, lr: float = 0.1, epochs: int = 1000) -> torch.nn.Module:
        model = torch.nn.Linear(2, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        run.track(model=model, optimizer=optimizer, noise=torch.Generator())
        batches = [(torch.ones(4, 2), torch.ones(4, 1))] * 10
        for _ in run.epochs(epochs):
            for x, y in run.batches(batches):
                loss = ((model(x) - y) ** 2).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                run.log(loss=loss, lr=optimizer.param_groups[0]["lr"])
        return model

    return fit


def test_a_stopped_job_leaves_its_model_and_a_checkpoint(root: Path, eventually: Eventually) -> None:
    """What is tracked is saved on stop: the model file, and a verified checkpoint with the place in the loops."""
    job = tk.submit(trainer())
    eventually(lambda: job.record.step > 5)
    job.stop()
    assert job.wait(10) is Status.STOPPED
    record = job.record
    content, info = load_resume(job.paths)
    assert (content["step"], content["epoch"]) == (record.step, record.epoch)
    assert sorted(content["tracked"]) == ["model", "noise", "optimizer"]
    assert record.checkpoint == info
    assert record.resumable
    state = torch.load(job.paths.model, weights_only=True)["state_dict"]
    assert torch.equal(state["weight"], content["tracked"]["model"]["weight"])
    assert torch.equal(job.model().weight, state["weight"])  # its class is known here
    assert job.predict(torch.ones(3, 2)).shape == (3, 1)


def test_a_paused_model_answers_and_odd_changes_are_refused(root: Path, eventually: Eventually) -> None:
    """In the process that runs it, with the step; what would end the training at the next step is told at once."""
    job = tk.submit(trainer())
    eventually(lambda: job.record.step > 5)
    assert job.pause() is Status.PAUSED
    asked = [job.snapshot() for _ in range(2)]
    assert [(each.source, each.step) for each in asked] == [("live", job.record.step)] * 2
    assert job.predict(torch.ones(3, 2)).shape == (3, 1)
    for odd in ("fast", None, True, -1.0, math.nan, math.inf, [0.1]):
        with pytest.raises(OptionError, match="lr=.* is not allowed: expected a finite number >= 0"):
            job.set(lr=odd)
        with pytest.raises(OptionError, match="lr=.* is not allowed: expected a finite number >= 0"):
            job.branch(lr=odd)
    assert job.set() is Status.PAUSED
    assert [event for event in job.events() if event.get("action") == "set"] == []
    assert job.resume() is Status.RUNNING
    job.stop()
    assert job.wait(10) is Status.STOPPED


def test_a_live_learning_rate_reaches_the_optimizer(root: Path, eventually: Eventually) -> None:
    """job.set(lr=…) changes the tracked optimizer's groups by itself, at a step boundary."""
    job = tk.submit(trainer())
    eventually(lambda: job.record.step > 5)
    job.set(lr=0.01)
    eventually(lambda: job.record.metrics.get("lr") == 0.01)
    job.stop()
    job.wait(10)
    change = next(event for event in job.events() if event["event"] == "change")
    rates = job.metrics()["lr"]
    assert rates[rates == 0.01].index[0] == change["step"] + 1


def test_a_returned_model_is_the_result_and_the_model_file(root: Path) -> None:
    """The live module is result() and model(); the file is loadable without running code."""
    job = tk.submit(trainer(), epochs=2)
    model = job.result()
    assert job.model() is model
    content = torch.load(job.paths.model, weights_only=True)
    assert (content["kind"], content["class"]) == ("state_dict", "Linear")
    assert torch.equal(content["state_dict"]["weight"], model.weight)


def test_a_checkpoint_keeps_the_one_before_and_detects_damage(root: Path) -> None:
    """A flipped bit in the newest is detected and the previous one used; with both damaged it is an error."""

    def fit(run: Any) -> None:
        model = torch.nn.Linear(50, 50)
        run.track(model=model)
        for _ in run.epochs(2):
            for _ in run.batches(range(3)):
                pass
            run.checkpoint()

    job = tk.submit(fit)
    job.result()
    assert load_resume(job.paths)[0]["step"] == 6
    for path, step in ((job.paths.resume, 3), (job.paths.resume_previous, None)):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        if step is not None:
            assert load_resume(job.paths)[0]["step"] == step
    with pytest.raises(CheckpointError, match=r"resume.pt does not match.*resume.previous.pt does not match"):
        load_resume(job.paths)


def test_a_checkpoint_is_told_when_its_model_can_be_asked(root: Path) -> None:
    """Who reads of a checkpoint finds the model's file."""
    found = []

    def fit(run: Any) -> None:
        event = run._recorder.event
        run._recorder.event = lambda name, **told: (
            found.append((name, run._boundary._paths.model.exists())) or event(name, **told)
        )
        run.track(model=torch.nn.Linear(2, 1))
        run.save_now()

    job = tk.submit(fit, runner="thread")
    job.result()
    assert ("checkpoint", True) in found


def test_only_what_has_state_can_be_tracked(root: Path) -> None:
    """The error names the object and what it lacks."""

    def fit(run: Any) -> None:
        run.track(table=[1, 2, 3])

    with pytest.raises(OptionError, match=r"run.track\(table=...\) got list"):
        tk.submit(fit).result()

    def unnamed(run: Any) -> None:
        run.track(torch.nn.Linear(2, 1))

    with pytest.raises(OptionError, match=r"got Linear without a name.*run.track\(model=model"):
        tk.submit(unnamed).result()


def test_a_job_without_a_model_says_so(root: Path) -> None:
    """model() tells what would have made one."""
    job = tk.submit(lambda run: 3)
    job.result()
    with pytest.raises(TrainkitError, match="has left no model"):
        job.model()


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 not a zip", b"\x80\x04cos\nsystem\n(S'true'\ntR."])
def test_damaged_and_malicious_model_files_are_refused(root: Path, data: bytes) -> None:
    """A model file that is no model file is named, and nothing in it runs."""
    job = tk.submit(trainer(), epochs=1, job_id="a")
    job.result()
    fresh = tk.submit(lambda run: None)
    fresh.wait()
    fresh.paths.model.write_bytes(data)
    with pytest.raises(ModelFileError, match="damaged"):
        fresh.model()


def test_interrupts_and_exits_of_training_code_end_truthfully(root: Path) -> None:
    """sys.exit in training code is a failure that names itself; KeyboardInterrupt an interruption."""

    def leaves(run: Any) -> None:
        raise SystemExit(3)

    def interrupted(run: Any) -> None:
        raise KeyboardInterrupt

    job = tk.submit(leaves)
    assert job.wait(10) is Status.FAILED
    assert job.record.error is not None
    assert job.record.error.type == "SystemExit"
    job = tk.submit(interrupted)
    assert job.wait(10) is Status.INTERRUPTED
    assert job.record.ended_by == "signal"


def test_an_except_exception_in_training_code_does_not_swallow_a_stop(root: Path, eventually: Eventually) -> None:
    """The interrupt that stops a job is no Exception."""

    def stubborn(run: Any) -> None:
        while True:
            try:
                run.log(loss=1.0)
            except Exception:  # noqa: BLE001 - what people write
                run.warn("swallowed")

    job = tk.submit(stubborn)
    eventually(lambda: job.record.step > 0)
    job.stop()
    assert job.wait(10) is Status.STOPPED
    assert warnings_of(job) == []


def test_streams_without_a_length_are_trained_on(root: Path) -> None:
    """A loader that cannot tell its length is no obstacle; progress then goes by epochs."""

    class Stream(torch.utils.data.IterableDataset[int]):
        def __iter__(self) -> Any:
            yield from range(6)

    def fit(run: Any) -> None:
        for _ in run.epochs(2):
            for _ in run.batches(torch.utils.data.DataLoader(Stream(), batch_size=2)):
                run.log(loss=1.0)

    job = tk.submit(fit)
    job.result()
    assert (job.record.step, job.record.total_steps) == (6, None)

    def also_with_one(run: Any) -> None:
        for _ in run.epochs(2):
            for _ in run.batches([1, 2]):
                assert run.total_steps == (4 if run.step < 3 else None)
            for _ in run.batches(iter([1])):
                assert run.total_steps is None

    tk.submit(also_with_one).result()


def test_two_loops_in_one_function(root: Path) -> None:
    """A second loop over epochs begins at its own first epoch."""
    seen: list[tuple[str, int]] = []

    def fit(run: Any) -> None:
        for epoch in run.epochs(2):
            seen.append(("first", epoch))
        for epoch in run.epochs(3):
            seen.append(("second", epoch))

    tk.submit(fit).result()
    assert seen == [("first", 0), ("first", 1), ("second", 0), ("second", 1), ("second", 2)]


def test_asking_the_model_while_it_learns_disturbs_nothing(root: Path, eventually: Eventually) -> None:
    """predict() and snapshot() copy the model between two steps: the same final weights with and without them."""

    def fit(run: Any, seed: int = 3) -> torch.nn.Module:
        generator = torch.Generator().manual_seed(seed)
        model = torch.nn.Linear(3, 1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        run.track(model=model, optimizer=optimizer)
        for _ in run.epochs(60):
            for x in run.batches(torch.randn(10, 8, 3, generator=generator)):
                loss = model(x).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                run.log(loss=loss)
        return model

    quiet = tk.submit(fit).result()
    job = tk.submit(fit)
    asked = []
    eventually(lambda: job.record.step > 0)
    first = job.snapshot()
    as_it_was = first.model.weight.clone()
    while not job.done():
        snapshot = job.snapshot()
        asked.append((snapshot.step, snapshot.source))
        assert job.predict(torch.ones(2, 3)).shape == (2, 1)
    assert torch.equal(job.result().weight, quiet.weight)
    assert first.source == "live"
    assert torch.equal(first.model.weight, as_it_was), "a copy does not learn on"
    live = [step for step, source in asked if source == "live"]
    assert live, asked
    assert live == sorted(live)
    assert job.snapshot().source == "result"


def test_another_process_is_answered_from_the_newest_checkpoint(root: Path, eventually: Eventually) -> None:
    """Where the job does not live, the model file of its last checkpoint answers, with its step."""
    job = tk.submit(trainer(), runner="process", epochs=10**6)
    eventually(lambda: job.record.step > 5, within_s=60)
    job.checkpoint()
    # The model file follows the checkpoint, which may be told a moment before.
    eventually(lambda: job.record.checkpoint is not None and job.paths.model.exists())
    snapshot = job.snapshot()
    assert (snapshot.source, snapshot.step) == ("file", job.record.checkpoint.step)
    assert sorted(snapshot.model) == ["bias", "weight"]
    with pytest.raises(TrainkitError, match="not its class"):
        job.predict(torch.ones(1, 2))
    assert job.pause() is Status.PAUSED
    paused_at = job.record.step
    job.kill()
    assert job.record.resumable
    assert load_resume(job.paths)[0]["step"] >= paused_at - 1


def test_what_a_loader_cannot_repeat_is_said_on_resume(root: Path) -> None:
    """Generators of a dataset's own, however deep, which nothing brings back; nothing while nothing was cut."""

    class Noisy(torch.utils.data.Dataset[torch.Tensor]):
        def __init__(self, generator: Any) -> None:
            self.transforms = [abs, {"noise": generator}]

        def __len__(self) -> int:
            return 8

        def __getitem__(self, index: int) -> torch.Tensor:
            return torch.rand(1)

    def fit(run: Any) -> None:
        tracked = random.Random(3)
        run.track(model=torch.nn.Linear(1, 1), tracked=tracked)
        part = torch.utils.data.Subset(Noisy(torch.Generator()), range(4))
        loaders = [torch.utils.data.DataLoader(each, batch_size=2) for each in (part, Noisy(tracked))]
        for _ in run.epochs(2):
            for loader in loaders:
                for _ in run.batches(loader):
                    if run.step == 1 and run._recorder.record.attempt == 1:
                        run.control.receive({"action": "stop"})

    job = tk.submit(fit, seed=1)
    assert job.wait(20) is Status.STOPPED
    assert warnings_of(job) == []
    job.resume()
    job.result(20)
    (warning,) = warnings_of(job)
    assert "draws from a generator of its own (dataset.transforms[1]['noise']), which begins anew" in warning


def test_what_workers_cannot_repeat_is_told() -> None:
    """Workers that are kept, and copies of a tracked generator in each."""
    dataset: Any = torch.utils.data.TensorDataset(torch.zeros(4))
    loader = torch.utils.data.DataLoader(dataset, num_workers=2, persistent_workers=True)
    (doubt,) = doubts_of_loader(loader)
    assert "persistent_workers=False begins them with each epoch" in doubt
    dataset.draws = draws = np.random.default_rng(1)
    (doubt,) = doubts_of_loader(torch.utils.data.DataLoader(dataset, num_workers=2), [draws])
    assert "(draws), a copy of which each worker draws from" in doubt
    assert doubts_of_loader(torch.utils.data.DataLoader(dataset), [draws]) == []


def test_a_gpu_that_is_not_here_is_said_in_a_sentence(root: Path) -> None:
    """For a table and for a loop of one's own; other kinds of devices are torch's to judge."""

    def fit(run: Any, device: str) -> str:
        return str(run.device)

    assert isinstance(error := tk.submit(fit, device="cuda:99").exception(60), OptionError)
    assert "device='cuda:99': torch" in str(error)
    assert re.search(r"found (no|only \d+) CUDA devices? on this machine; use device='cpu'", str(error))
    with pytest.raises(OptionError, match="device='cuda:99': torch"):
        tk.train(device="cuda:99")  # before there is a job
    assert len(tk.jobs()) == 1
    assert tk.submit(fit, device="meta").result(60) == "meta"
