"""Early words: what goes wrong is told once, with what to do, and when it is over; what is well stays silent."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import trainkit as tk
from trainkit.files.record import Record, Status
from trainkit.files.recorder import Recorder
from trainkit.files.store import Store
from trainkit.training.run import Run
from trainkit.watching import gradients, loading, watcher
from trainkit.watching.gradients import GradientNorm, gradient_norm
from trainkit.watching.loading import Stopwatch
from trainkit.watching.resources import Memory, memory
from trainkit.watching.symptoms import INFINITE_NORMS_IN_A_ROW, Divergence, Word
from trainkit.watching.watcher import Watcher

Eventually = Callable[..., None]


def warned(job: tk.Job, kind: str = "warning") -> dict[str, str]:
    """What a job warned of: the message of each cause."""
    return {event.get("cause", ""): event["message"] for event in job.events() if event["event"] == kind}


# --- what is logged ------------------------------------------------------------------------------


def words_about(values: list[float], name: str = "loss") -> list[Word]:
    """What is said of a metric that takes these values."""
    divergence = Divergence()
    found = []
    for step, value in enumerate(values, 1):
        non_finite = {} if math.isfinite(value) else {name: step}
        found += divergence.hear(step, {name: value}, non_finite)
    return found


GROWING = [0.1 * 1.2**step for step in range(60)]


@pytest.mark.parametrize(
    "name",
    [
        "kl_loss",
        "loss_kl",
        "loss/kl",
        "train/kl_loss",
        "klLoss",
        "reg_loss",
        "l2_loss",
        "aux_loss",
        "commitment_loss",
        "loss_scale",
        "loss_weight",
        "kl_weight",
        "beta",
        "lr",
        "learning_rate",
        "tokens",
        "reward",
        "perplexity",
        "penalty",
        "weight_norm",
        "val_loss",
        "val/loss",
        "loss_val",
        "valid_loss",
        "eval_loss",
        "test_loss",
        "dev/loss",
        "elbo",
    ],
)
@pytest.mark.parametrize("alone", [True, False])
def test_what_grows_while_the_loss_falls_is_not_called_divergence(name: str, alone: bool) -> None:
    """A term with a warm-up, a schedule, a counter, or a loss on rows that are not trained on."""
    divergence = Divergence()
    for step, value in enumerate(GROWING, 1):
        loss = {} if alone else {"loss": 100.0 / step}
        assert divergence.hear(step, {**loss, name: value}, {}) == []


@pytest.mark.parametrize(
    "name",
    [
        "loss",
        "Loss",
        "train_loss",
        "train/loss",
        "loss/train",
        "training_loss",
        "trainloss",
        "total_loss",
        "loss_total",
        "train/total_loss",
        "totalLoss",
        "train_loss_step",
        "train_loss_epoch",
        "batch_loss",
        "running_loss",
        "avg_loss",
        "loss_0",
    ],
)
def test_the_whole_loss_is_watched_under_any_of_its_names(name: str) -> None:
    divergence = Divergence()
    words = [
        word
        for step, value in enumerate(GROWING, 1)
        for word in divergence.hear(step, {"kl_loss": 1.0, name: value}, {})
    ]
    assert {word.cause for word in words} == {f"growing: {name}"}


def test_the_only_loss_of_a_run_may_be_named_after_its_criterion() -> None:
    """Next to another loss it is a part, and it is not known whether the sum grows."""
    assert {word.cause for word in words_about(GROWING, "mse_loss")} == {"growing: mse_loss"}
    divergence = Divergence()
    for step, value in enumerate(GROWING, 1):
        assert divergence.hear(step, {"mse_loss": value, "ce_loss": 100.0 / step}, {}) == []


@pytest.mark.parametrize(
    ("name", "mode", "warns"), [("kl_loss", "min", True), ("reward", "max", False), ("val/ppl", "min", False)]
)
def test_the_metric_that_was_named_as_the_one_to_minimise_is_watched(name: str, mode: str, warns: bool) -> None:
    divergence = Divergence()
    divergence.watched = (name, mode)
    words = [word for step, value in enumerate(GROWING, 1) for word in divergence.hear(step, {name: value}, {})]
    assert bool(words) is warns


def test_the_choice_of_a_run_reaches_the_rules(root: Path) -> None:
    """run.best names the metric that is minimised, under whatever name."""
    store = Store(root)
    record = Record(job_id="a", name="a", status=Status.RUNNING, runner="thread")
    lock = store.create(record)
    recorder = Recorder(store, record)
    run = Run(recorder, {})
    recorder.metrics.on_metrics = Watcher(recorder, run.stopwatch, run.gradients).hear
    run.best("objective")
    for value in GROWING:
        run.log(objective=value, kl_loss=value)
        recorder.metrics.drain()
    recorder.detach()
    lock.close()
    assert recorder.warns_of("growing: objective")
    assert not recorder.warns_of("growing: kl_loss")


def test_a_loss_that_explodes_is_told_before_it_is_infinite() -> None:
    """SGD with a step that is too long, on a real quadratic: the loss grows by a factor at every step."""
    weight = torch.tensor([1.0], requires_grad=True)
    losses = []
    for _ in range(60):
        loss = (weight**2).sum()
        losses.append(loss.item())
        (gradient,) = torch.autograd.grad(loss, weight)
        with torch.no_grad():
            weight -= 1.1 * gradient
    assert math.isfinite(losses[-1])
    words = words_about(losses)
    assert {word.cause for word in words} == {"growing: loss"}
    assert "lower lr" in words[0].message


def test_a_loss_that_comes_back_is_over() -> None:
    words = words_about([1.0] * 10 + [50.0] * 6 + [1.0] * 10)
    assert [word.over for word in words if not word.over] == [False] * (len(words) - 1)
    assert words[-1].over


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("loss", [2.3 * 0.9**step for step in range(200)] + [2.0] * 20),  # up again, but not out of its range
        ("loss", [1.0] * 20 + [1e6] + [1.0] * 20),  # one bad batch
        ("loss", [0.01, -0.02] * 10 + [5.0] * 20),  # passes through zero, so it has no scale
        ("val_loss", [0.1] * 20 + [5.0] * 20),  # learns by heart: another matter
        ("grad_norm", [0.05] * 10 + [3.0] * 50),  # a layer that wakes up
        ("grad_norm", [1.0] * 10 + [math.inf] * (INFINITE_NORMS_IN_A_ROW - 1) + [1.0] * 10),  # a scaler at work
        ("val_auc", [0.5, math.nan, 0.6, math.nan, math.nan, 0.7]),  # undefined now and then
    ],
)
def test_what_healthy_runs_do_is_passed_over(name: str, values: list[float]) -> None:
    assert words_about(values, name) == []


@pytest.mark.parametrize(
    ("name", "values", "cause"),
    [
        ("val_loss", [0.5, math.nan], "not finite: val_loss"),
        ("grad_norm", [1.0] * 10 + [500.0] * 10, "growing: grad_norm"),
        ("grad_norm", [1.0] * 10 + [math.nan] * INFINITE_NORMS_IN_A_ROW, "not finite: grad_norm"),
        ("val_auc", [0.5] + [math.nan] * 3, "not finite: val_auc"),
    ],
)
def test_what_sick_runs_do_is_told(name: str, values: list[float], cause: str) -> None:
    assert {word.cause for word in words_about(values, name)} == {cause}


def test_a_metric_that_is_not_finite_is_told_once_and_when_it_is_over(root: Path) -> None:
    """Through a real job: one event for the matter, one for its end, none for its length."""

    def fit(run: Any) -> None:
        for loss in (0.5, math.nan, math.inf, math.nan, 0.4):
            run.log(val_loss=loss)

    job = tk.submit(fit)
    job.result()
    kinds = [event["event"] for event in job.events() if event.get("cause") == "not finite: val_loss"]
    assert kinds == ["warning", "cleared"]
    assert "val_loss is not finite since step 2" in warned(job)["not finite: val_loss"]
    assert "since step 5" in warned(job, "cleared")["not finite: val_loss"]


# --- the disk and the memory ---------------------------------------------------------------------


@pytest.fixture
def small_disk(root: Path) -> Iterator[Path]:
    """A real file system of 64 MB."""
    folder = root.parent / "small disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        if os.environ.get("CI"):
            pytest.fail(f"a file system cannot be mounted here: {mounted.stderr}")
        pytest.skip(f"a file system cannot be mounted here: {mounted.stderr}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def until_released(run: Any, released: str) -> None:
    """A job that goes on until a file is there."""
    while not os.path.exists(released):
        run.log(loss=1.0)
        time.sleep(0.01)


def test_a_disk_that_fills_up_is_told_before_it_is_full(
    small_disk: Path, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real small disk: silent while there is room, a word while there still is some, and one when it is over."""
    monkeypatch.setattr(watcher, "RESOURCES_EVERY_S", 0.05)
    ballast, released = small_disk / "ballast", small_disk.parent / "released"
    job = tk.submit(until_released, released=str(released), root=small_disk)
    try:
        eventually(job.running)
        time.sleep(0.3)
        assert warned(job) == {}
        ballast.write_bytes(bytes(40 * 1024**2))
        eventually(lambda: "disk" in warned(job))
        ballast.unlink()
        eventually(lambda: "disk" in warned(job, "cleared"))
    finally:
        released.touch()
        job.wait()
    assert "Make room" in warned(job)["disk"]
    kinds = [event["event"] for event in job.events() if event.get("cause") == "disk"]
    assert kinds == ["warning", "cleared"]


def test_memory_that_runs_out_is_told_with_the_share_of_the_process(root: Path) -> None:
    with watched(memory=lambda: Memory(150 * 10**6, 2 * 10**9, 1_500 * 10**6, 0.0, True)) as (looker, said):
        looker.look(0.0, 0.0)
        looker.look(10.0, 0.0)
    ((cause, message),) = said
    assert cause == "memory"
    assert "this container may use" in message
    assert "1.4 GB" in message


def test_what_passed_and_comes_again_is_told_again_only_after_a_while(root: Path) -> None:
    now, free = 1000.0, 10**7
    with watched(free_bytes=lambda folder: free, clock=lambda: now) as (looker, said):
        for later_s in (10, 20, 30, 40, 50, 700):
            free = 10**9 if free == 10**7 else 10**7
            now = 1000.0 + later_s
            looker.look(now, 0.0)
    assert [cause for cause, _ in said] == ["disk", "disk"]


@pytest.mark.parametrize(
    ("line", "folder", "names"),
    [
        ("0::/box", "box", ("memory.max", "memory.current", "inactive_file")),
        ("0::/not/seen/from/here", "", ("memory.max", "memory.current", "inactive_file")),
        ("4:memory:/box", "memory/box", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")),
    ],
)
def test_the_limit_of_a_container_counts(
    tmp_path: Path, line: str, folder: str, names: tuple[str, str, str]
) -> None:
    """Both versions of control groups; what only caches files is not counted as used."""
    group = tmp_path / "cgroup" / folder
    group.mkdir(parents=True)
    limit, use, cache = names
    (group / limit).write_text("2000000000\n")
    (group / use).write_text("1900000000\n")
    (group / "memory.stat").write_text(f"anon 1\n{cache} 400000000\n")
    (tmp_path / "mine").write_text(f"7:cpu:/\n{line}\n")
    found = memory(cgroups=tmp_path / "cgroup", of_this_process=tmp_path / "mine")
    assert (found.total, found.available, found.limited) == (2_000_000_000, 500_000_000, True)


@contextlib.contextmanager
def watched(
    *, clock: Callable[[], float] = time.time, **readings: Any
) -> Iterator[tuple[Watcher, list[tuple[str, str]]]]:
    """A watcher of a running job with the readings that it is given, and what it warned of."""
    store = Store()
    record = Record(job_id="a", name="a", status=Status.RUNNING, runner="thread")
    lock = store.create(record)
    recorder = Recorder(store, record, clock=clock)
    plenty = Memory(10**10, 10**11, 10**8, 0.0, False)
    said: list[tuple[str, str]] = []
    try:
        readings = {"free_bytes": lambda folder: 10**12, "memory": lambda: plenty, **readings}
        yield Watcher(recorder, Stopwatch(lambda: None), GradientNorm(lambda: None), **readings), said
        events = tk.Job("a").events()
        said += [(event["cause"], event["message"]) for event in events if event["event"] == "warning"]
    finally:
        recorder.detach()
        lock.close()


# --- the notebook beside the job -----------------------------------------------------------------


def small_steps(run: Any) -> None:
    """Steps as small networks have them, until the job is stopped."""
    weight, rows = torch.randn(64, 64), torch.randn(64, 64)
    for _ in run.batches(iter(int, 1)):
        for _ in range(20):
            rows = torch.tanh(rows @ weight)
        run.log(loss=rows.sum())


def busy_in_python(until: float) -> None:
    """What a cell does that computes in Python."""
    while time.monotonic() < until:
        sum(number * number for number in range(1000))


def busy_outside_of_python(until: float) -> None:
    """What a cell does that computes in numpy, which lets go of the interpreter."""
    matrix = np.random.default_rng(0).normal(size=(700, 700))
    while time.monotonic() < until:
        matrix @ matrix


def idle(until: float) -> None:
    """What a cell does that waits."""
    time.sleep(until - time.monotonic())


@pytest.mark.parametrize(
    ("cell", "told"), [(busy_in_python, True), (busy_outside_of_python, False), (idle, False)]
)
def test_a_thread_job_that_a_busy_notebook_starves_is_told(
    root: Path, monkeypatch: pytest.MonkeyPatch, cell: Callable[[float], None], told: bool
) -> None:
    """This thread is the notebook's; the job runs beside it.  Only Python code keeps it from its work."""
    assert threading.current_thread() is threading.main_thread()
    monkeypatch.setattr(watcher, "WINDOW_S", 0.4)
    job = tk.submit(small_steps)
    give_up_at = time.monotonic() + 20.0
    while time.monotonic() < give_up_at:
        cell(time.monotonic() + (0.5 if told else 1.0))
        if not told or "starved" in warned(job):
            break
    job.stop()
    job.wait()
    assert ("starved" in warned(job)) is told
    if told:
        assert "runner='process'" in warned(job)["starved"]


# --- the data ------------------------------------------------------------------------------------


class Slow(torch.utils.data.Dataset[float]):
    """Rows that take their time."""

    def __init__(self, row_s: float) -> None:
        self.row_s = row_s

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, index: int) -> float:
        time.sleep(self.row_s)
        return float(index)


@pytest.mark.parametrize(("row_s", "step_s", "told"), [(0.004, 0.0, True), (0.0, 0.004, False)])
def test_a_loop_that_waits_mostly_for_its_data_is_told(
    root: Path, monkeypatch: pytest.MonkeyPatch, eventually: Eventually, row_s: float, step_s: float, told: bool
) -> None:
    """A real loader that reads for longer than a step takes, and one that does not; each measured often."""
    monkeypatch.setattr(watcher, "FEED_EVERY_S", 0.1)
    monkeypatch.setattr(loading, "LONG_ENOUGH_S", 0.1)
    measured = []
    began = Stopwatch.begin
    monkeypatch.setattr(Stopwatch, "begin", lambda watch: measured.append(watch.share) or began(watch))

    def fit(run: Any) -> None:
        for _ in run.epochs(1_000_000):
            for _ in run.batches(torch.utils.data.DataLoader(Slow(row_s), batch_size=2)):
                time.sleep(step_s)

    job = tk.submit(fit)
    eventually(lambda: len(measured) > 4)
    job.stop()
    job.wait()
    assert ("data" in warned(job)) is told
    if told:
        assert "num_workers" in warned(job)["data"]


def test_a_training_without_torch_is_not_made_to_import_it() -> None:
    """Where nothing has gradients none are looked for: the import alone would hold a step up for a second."""
    code = (
        "import sys; from trainkit.watching.gradients import gradient_norm; "
        "assert gradient_norm([object()]) is None; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_gradients_that_explode_are_told_though_nothing_logs_them(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model whose gradients grow without a word in what is logged; looked at often."""
    monkeypatch.setattr(gradients, "EVERY_S", 0.001)
    monkeypatch.setattr(gradients, "SHARE", 1.0)
    looks = []
    take = GradientNorm.take
    monkeypatch.setattr(GradientNorm, "take", lambda *words: looks.append(words[2]) or take(*words))

    def fit(run: Any) -> None:
        model = torch.nn.Linear(1, 1, bias=False)
        run.track(network=model, average=torch.optim.swa_utils.AveragedModel(model))
        for _ in run.batches(itertools.count()):
            factor = 1.0 if len(looks) < 12 else 1e4
            model.zero_grad()
            (factor * model(torch.ones(1, 1))).sum().backward()
            if len(looks) > 40 or "gradients" in str(warned(job_itself())):
                return

    def job_itself() -> tk.Job:
        return tk.attach(root=root)

    job = tk.submit(fit)
    job.result(60)
    assert set(warned(job)) == {"growing: gradient norm"}


def test_a_run_that_logs_its_gradients_has_them_not_looked_at() -> None:
    divergence = Divergence()
    divergence.hear(1, {"loss": 1.0, "gradient norm": 1.0}, {})
    assert not divergence.hears_gradients
    divergence.hear(2, {"grad_norm": 1.0}, {})
    assert divergence.hears_gradients


def test_the_norm_is_that_of_all_gradients() -> None:
    """As torch's own clipping computes it, of everything that has parameters, once."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    assert gradient_norm([model]) is None
    model(torch.ones(5, 3)).sum().backward()
    told = torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9)
    torch.testing.assert_close(gradient_norm([model, model[0], torch.Generator()]), told)
    half = torch.nn.Parameter(torch.ones(4, dtype=torch.float16))
    half.grad = torch.full((4,), 60_000.0, dtype=torch.float16)  # of which the norm has no place in 16 bits
    assert float(gradient_norm([torch.nn.ParameterList([half])])) == pytest.approx(120_000.0, rel=1e-3)
