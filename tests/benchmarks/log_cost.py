"""What one ``run.log(loss=…, acc=…, lr=…)`` costs, beside a list append and the calls of other libraries.

Calls come in bursts with a rest after each, as a writer's thread meets them in a real loop: what is told of the
calling thread is the time that a call takes there, and a last line says what calls without any rest cost.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterator
from typing import Any

from frame import Figure, Plan, apart, in_turn, median, median_or_none

_REST_S = 0.06
_BURSTS = 40
#: How many calls a burst of each library has.
BURST = {
    "list append": 1000,
    "trainkit": 1000,
    "trackio": 100,
    "TensorBoard": 100,
    "W&B offline": 50,
    "MLflow file": 5,
    "MLflow SQLite": 2,
    "Lightning CSVLogger": 100,
    "Accelerate + TensorBoard": 50,
}
Loop = Callable[[int, int], None]
Finish = Callable[[], None]


def measure(plan: Plan) -> Iterator[Figure]:
    """Yield the cost of a call: for the thread that calls, and all in all."""
    names = list(BURST) if plan.peers else ["list append", "trainkit"]
    bursts = 3 if plan.quick else _BURSTS

    def one(name: str, **told: Any) -> Callable[[], dict[str, float]]:
        if plan.peers and name not in ("list append", "trainkit"):
            told["python"] = plan.peers
        return lambda: apart(cost, name=name, burst=BURST[name], bursts=bursts, **told)

    *found, tensors, items, flat_out = in_turn(
        plan.repeats,
        *map(one, names),
        one("trainkit", tensors=True),
        one("list append", tensors=True),
        one("trainkit", rest_s=0.0),
    )
    results = dict(zip(names, found, strict=True))

    def of(name: str, key: str) -> list[float]:
        return [result[key] for result in results[name]]

    append, ours = median(of("list append", "caller_us")), median(of("trainkit", "caller_us"))
    rivals = {name: median_or_none(of(name, "caller_us")) for name in names[2:]}
    what = "run.log of 3 floats"
    yield Figure(
        f"{what}: the calling thread", "µs", ours, plan.repeats, floor=("append of the same dict", append),
        peers=rivals, ratio=ours / append, of="× append", goal="≤ 3", detail=results,
    )  # fmt: skip
    yield Figure(f"{what}: the calling thread, in µs", "µs", ours, plan.repeats, goal="≤ 1.5")
    yield Figure(
        f"{what}: all CPU until it is in the file", "µs", median(of("trainkit", "cpu_us")), plan.repeats,
        peers={name: median_or_none(of(name, "cpu_us")) for name in names[2:]}, goal="≤ 4",
        note="with the writer's thread, the refreshing of the record and the looking for requests meanwhile",
    )  # fmt: skip
    for name, times in (("TensorBoard", 50), ("trackio", 10)):
        if (theirs := rivals.get(name)) is not None:
            yield Figure(
                f"{what}: beside {name}", "µs", ours, plan.repeats, peers={name: theirs},
                ratio=theirs / ours, of="× cheaper", goal=f"≥ {times}",
            )  # fmt: skip
    ours, item = (median([each["caller_us"] for each in runs]) for runs in (tensors, items))
    yield Figure(
        "run.log of a loss on the CPU and 2 floats: the calling thread", "µs", ours, plan.repeats,
        floor=("append with .item()", item), ratio=ours / item, of="× append",
    )  # fmt: skip
    yield Figure(
        f"{what}, without a rest: wall time", "µs", median([each["caller_us"] for each in flat_out]), plan.repeats,
        note="the writer's thread and the calling one share the interpreter's lock",
    )  # fmt: skip


def cost(name: str, burst: int, bursts: int, tensors: bool = False, rest_s: float = _REST_S) -> dict[str, float]:
    """Return what a call costs in µs: ``caller_us`` in the calling thread, ``cpu_us`` of the whole process.

    The process's time ends when everything is written, by whatever thread or child process.
    """
    loss: Any = 0.5
    if tensors:
        import torch

        loss = torch.tensor(0.5, requires_grad=True) * 1.0
    taken_s: list[float] = []
    cpu_s = [0.0]

    def bursting(loop: Loop) -> None:
        loop(0, 3)  # what is imported or opened at the first calls is not the cost of a call
        time.sleep(0.3)
        cpu_s[0] = _cpu_s()
        for number in range(bursts):
            began = time.perf_counter()
            loop(number * burst, burst)
            taken_s.append(time.perf_counter() - began)
            time.sleep(rest_s)

    LIBRARIES[name](bursting, loss)
    return {
        "caller_us": 1e6 * median(taken_s) / burst,
        "cpu_us": 1e6 * (_cpu_s() - cpu_s[0]) / (burst * bursts),
    }


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


# --- the libraries, each called as its documentation does ---------------------------------------------

Bursting = Callable[[Loop], None]


def _list_append(bursting: Bursting, loss: Any) -> None:
    kept: list[dict[str, Any]] = []
    plain = isinstance(loss, float)

    def loop(first: int, count: int) -> None:
        kept.clear()
        if plain:
            for _ in range(count):
                kept.append({"loss": loss, "acc": 0.25, "lr": 1e-3})
        else:
            for _ in range(count):
                kept.append({"loss": loss.item(), "acc": 0.25, "lr": 1e-3})

    bursting(loop)


def _trainkit(bursting: Bursting, loss: Any) -> None:
    import trainkit as tk

    def fit(run: tk.Run) -> None:
        def loop(first: int, count: int) -> None:
            for _ in range(count):
                run.log(loss=loss, acc=0.25, lr=1e-3)

        for _ in run.epochs(1):
            for _ in run.batches(["a batch"]):
                bursting(loop)

    job = tk.submit(fit)
    job.result()


def _trackio(bursting: Bursting, loss: Any) -> None:
    os.environ["TRACKIO_DIR"] = os.path.abspath("trackio")
    import trackio

    trackio.init(project="benchmark", embed=False)

    def loop(first: int, count: int) -> None:
        for step in range(first, first + count):
            trackio.log({"loss": loss, "acc": 0.25, "lr": 1e-3}, step=step)

    bursting(loop)
    trackio.finish()


def _tensorboard(bursting: Bursting, loss: Any) -> None:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter("tensorboard")

    def loop(first: int, count: int) -> None:
        for step in range(first, first + count):
            writer.add_scalar("loss", loss, step)
            writer.add_scalar("acc", 0.25, step)
            writer.add_scalar("lr", 1e-3, step)

    bursting(loop)
    writer.close()


def _wandb(bursting: Bursting, loss: Any) -> None:
    os.environ["WANDB_SILENT"] = "true"
    import wandb

    run = wandb.init(mode="offline", project="benchmark", dir=os.getcwd())

    def loop(first: int, count: int) -> None:
        for _ in range(count):
            run.log({"loss": loss, "acc": 0.25, "lr": 1e-3})

    bursting(loop)
    run.finish()


def _mlflow(uri: str) -> Callable[[Bursting, Any], None]:
    def with_this_store(bursting: Bursting, loss: Any) -> None:
        os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
        import mlflow

        mlflow.set_tracking_uri(uri)

        def loop(first: int, count: int) -> None:
            for step in range(first, first + count):
                mlflow.log_metrics({"loss": loss, "acc": 0.25, "lr": 1e-3}, step=step)

        with mlflow.start_run():
            bursting(loop)

    return with_this_store


def _lightning(bursting: Bursting, loss: Any) -> None:
    from lightning.pytorch.loggers import CSVLogger

    logger = CSVLogger("csv")

    def loop(first: int, count: int) -> None:
        for step in range(first, first + count):
            logger.log_metrics({"loss": loss, "acc": 0.25, "lr": 1e-3}, step=step)

    bursting(loop)
    logger.finalize("success")


def _accelerate(bursting: Bursting, loss: Any) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, log_with="tensorboard", project_dir="accelerate")
    accelerator.init_trackers("benchmark")

    def loop(first: int, count: int) -> None:
        for step in range(first, first + count):
            accelerator.log({"loss": loss, "acc": 0.25, "lr": 1e-3}, step=step)

    bursting(loop)
    accelerator.end_training()


LIBRARIES: dict[str, Callable[[Bursting, Any], None]] = {
    "list append": _list_append,
    "trainkit": _trainkit,
    "trackio": _trackio,
    "TensorBoard": _tensorboard,
    "W&B offline": _wandb,
    "MLflow file": _mlflow("file:mlruns"),
    "MLflow SQLite": _mlflow("sqlite:///mlflow.db"),
    "Lightning CSVLogger": _lightning,
    "Accelerate + TensorBoard": _accelerate,
}
