"""Tables: reading them, feeding them, a step of training, and a whole training beside other libraries.

What is compared does the same work: the same network, batches, shuffling, precision, logging and validation.  No
reader of CSV refuses, or keeps as text, all that ours does (007, +5, 1e400, a quote astray).  What comes nearest
is put together here: pyarrow reads texts, and a column is a number only if each of them says so exactly.  Of
JSON Lines pyarrow refuses most of what ours does; polars keeps one of two equal keys and drops a key that comes
late, without a word.
"""

from __future__ import annotations

import copy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from frame import Figure, Plan, apart, in_turn, median, median_or_none, peak_mb

#: The rows of a table, and what is told besides: else the network and the batches are the default for that many.
#: Where there is so little to compute as in the last, the time goes into what is done around it.
TABLES: dict[str, tuple[int, dict[str, Any]]] = {
    "small": (900, {}),
    "large": (20_000, {}),
    "narrow": (2_000, {"hidden": [16], "batch_size": 32}),
}
TRAINERS = ("trainkit", "plain loop", "Lightning", "skorch", "fastai")
READERS = ("trainkit", "pyarrow", "pandas", "polars", "duckdb")
STRICT = "pyarrow, each text checked"


def measure(plan: Plan) -> Iterator[Figure]:
    """Yield the figures of reading, feeding, stepping and training."""
    yield from _reading(plan)
    for size in ("small", "large"):
        yield from _stepping(plan, size)
    yield from _beside_others(plan)
    for size in TABLES:
        yield from _training(plan, size)


def _in_peers(plan: Plan, names: tuple[str, ...], own: int) -> tuple[list[str], dict[str, str]]:
    """Which of the names can be measured, and the interpreter of those that are not our own."""
    there = list(names if plan.peers else names[:own])
    return there, {name: plan.peers for name in there[own:] if plan.peers}


# --- reading ---------------------------------------------------------------------------------------


def _reading(plan: Plan) -> Iterator[Figure]:
    rows = 2_000 if plan.quick else 1_000_000
    names, peers = _in_peers(plan, READERS, 3)
    with tempfile.TemporaryDirectory(prefix="trainkit-tables-") as folder:
        apart(make_files, folder=folder, rows=rows)
        for kind, name in (("CSV", "t.csv"), ("CSV, texts in quotes", "quoted.csv"), ("JSONL", "t.jsonl"),
                           ("Parquet", "t.parquet")):  # fmt: skip
            path = str(Path(folder, name))

            def one(reader: str, path: str = path) -> Callable[[], dict[str, float]]:
                python = {"python": peers[reader]} if reader in peers else {}
                return lambda: apart(read, path=path, reader=reader, times=1 if plan.quick else 4, **python)

            is_csv = name.endswith("csv")
            readers = [*names, STRICT] if is_csv else names
            found = dict(zip(readers, in_turn(plan.repeats, *map(one, readers)), strict=True))
            seconds = {reader: [each["seconds"] for each in runs] for reader, runs in found.items()}
            ours = median(seconds["trainkit"])
            others = {reader: median_or_none(seconds[reader]) for reader in readers[1:]}
            quickest = min(value for reader, value in others.items() if value is not None and reader != STRICT)
            strict = {"csv": STRICT, "jsonl": "pyarrow"}.get(Path(path).suffix[1:])
            rival = median(seconds[strict]) if strict else quickest
            yield Figure(
                f"reading {kind}, {rows:,} × 25, to a DataFrame", "s", ours, plan.repeats, peers=others,
                ratio=ours / rival, of=f"× {strict}" if strict else "× the quickest", goal="≤ 1.3",
                detail=found, note=f"{ours / quickest:.2f} × the quickest that is not as strict" if strict else "",
            )  # fmt: skip
            peak = median([each["peak_mb"] / each["table_mb"] for each in found["trainkit"]])
            yield Figure(f"reading {kind}: peak memory", "× the DataFrame", peak, plan.repeats, goal="≤ 3")


def make_files(folder: str, rows: int) -> None:
    """Write a table of 14 decimal columns, 5 of integers, 4 of words, a date and a class, with some missing."""
    import numpy as np
    import pandas as pd
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {f"x{i}": rng.normal(0, 10 ** (i % 4), rows).round(4) for i in range(14)}
    columns |= {f"n{i}": rng.integers(0, 10 ** (i + 1), rows) for i in range(5)}
    columns |= {f"c{i}": np.char.add("word", rng.integers(0, 5 * i + 5, rows).astype(str)) for i in range(4)}
    columns["seen"] = np.datetime_as_string(np.datetime64("2015-01-01") + rng.integers(0, 3000, rows))
    columns["y"] = np.where(columns["x0"] > 0, "yes", "no")
    frame = pd.DataFrame(columns)
    for name in ("x3", "x4", "c1"):
        frame.loc[rng.random(rows) < 0.03, name] = None
    table = pa.Table.from_pandas(frame, preserve_index=False)
    quoted = Path(folder, "quoted.csv")
    pyarrow.csv.write_csv(table, quoted)
    Path(folder, "t.csv").write_bytes(quoted.read_bytes().replace(b'"', b""))
    pyarrow.parquet.write_table(table, Path(folder, "t.parquet"))
    frame.to_json(Path(folder, "t.jsonl"), orient="records", lines=True)


def read(path: str, reader: str, times: int) -> dict[str, float]:
    """Read a file some times; the median, and the peak of the first time above what the imports took."""
    kind = Path(path).suffix[1:]
    load = _reader(reader, kind)
    small = str(Path(path).with_name(f"few.{kind}"))
    if not Path(small).exists():
        make_few(path, small)
    load(small)  # imports and thread pools
    before = peak_mb()
    seconds = []
    table_mb = taken_mb = 0.0
    for turn in range(times):
        began = time.perf_counter()
        frame = load(path)
        seconds.append(time.perf_counter() - began)
        if not turn:
            taken_mb = peak_mb() - before
            table_mb = float(frame.memory_usage(deep=False).sum()) / 2**20
        del frame
    return {"seconds": statistics.median(seconds), "peak_mb": taken_mb, "table_mb": table_mb}


def make_few(path: str, small: str) -> None:
    """Write the first rows of a file into another."""
    if path.endswith("parquet"):
        import pyarrow.parquet as pq

        pq.write_table(pq.read_table(path).slice(0, 50), small)
        return
    with open(path, "rb") as file:
        Path(small).write_bytes(b"".join(file.readline() for _ in range(50)))


def _reader(name: str, kind: str) -> Callable[[str], Any]:
    if name == "trainkit":
        from trainkit.tabular.read import read_table

        return read_table
    if name == STRICT:
        return _read_strictly
    if name == "pandas":
        import pandas as pd

        return {
            "csv": pd.read_csv,
            "jsonl": lambda path: pd.read_json(path, lines=True, engine="pyarrow"),
            "parquet": pd.read_parquet,
        }[kind]
    if name == "pyarrow":
        import pyarrow.csv
        import pyarrow.json
        import pyarrow.parquet as pq

        read_arrow = {"csv": pyarrow.csv.read_csv, "jsonl": pyarrow.json.read_json, "parquet": pq.read_table}[kind]
        return lambda path: read_arrow(path).to_pandas()
    if name == "polars":
        import polars

        read_polars: Callable[[str], Any] = {
            "csv": lambda path: polars.read_csv(path, try_parse_dates=True),
            "jsonl": polars.read_ndjson,
            "parquet": polars.read_parquet,
        }[kind]
        return lambda path: read_polars(path).to_pandas()
    import duckdb

    function = {"csv": "read_csv", "jsonl": "read_json", "parquet": "read_parquet"}[kind]
    return lambda path: duckdb.sql(f"select * from {function}('{path}')").df()


def _read_strictly(path: str) -> Any:
    """Read CSV as texts, and infer each column from all of them; quotes astray and empty lines still pass."""
    import pyarrow as pa
    import pyarrow.csv

    from trainkit.tabular import cells
    from trainkit.tabular.grammar import in_parallel

    names = pyarrow.csv.open_csv(path).schema.names
    texts = pyarrow.csv.read_csv(
        path,
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), null_values=[""], strings_can_be_null=True
        ),
    )
    columns = in_parallel(cells.infer, texts.columns)
    return pa.table(dict(zip(names, columns, strict=True))).to_pandas()


# --- feeding and stepping ----------------------------------------------------------------------------


def _stepping(plan: Plan, size: str) -> Iterator[Figure]:
    turns = 1 if plan.quick else 7

    def one(*loops: str) -> Callable[[], dict[str, float]]:
        return lambda: apart(step_times, size=size, turns=turns, loops=loops)

    ours, eager, least = in_turn(plan.repeats, one("one batch", "fed"), one("usual"), one("products"))
    once, fed = (median([each[name] for each in ours]) for name in ("one batch", "fed"))
    usual, products = median([each["usual"] for each in eager]), median([each["products"] for each in least])
    rows, _ = TABLES[size]
    yield Figure(
        f"feeding, {rows:,} rows: steps on shuffled batches", "steps/s", fed, plan.repeats,
        floor=("one batch again and again", once),
        ratio=median([each["fed"] / each["one batch"] for each in ours]), of="of one batch", goal="≥ 0.95",
    )  # fmt: skip
    worst = max(each["difference"] for each in ours)
    yield Figure(
        f"the step, {rows:,} rows: the default network", "steps/s", once, plan.repeats,
        floor=("its products of matrices alone", products),
        peers={"eager loop with torch.optim.Adam": usual}, ratio=once / usual, of="× eager", goal="≥ 2",
        note=f"loss curves beside autograd and AdamW with the same masks: {worst:.0e} apart at most, relatively",
        detail={"ours": ours, "eager": eager, "products": least},
    )  # fmt: skip


def _network(size: str) -> Any:
    """The network, its training and validation rows, its parameters, and the table."""
    import torch

    from trainkit.tabular.fit import _prepare
    from trainkit.tabular.options import check_options
    from trainkit.tabular.plan import check_table
    from trainkit.tabular.read import read_table

    rows, told = TABLES[size]
    with tempfile.TemporaryDirectory() as folder:
        make_files(folder, rows)
        frame = read_table(Path(folder, "t.csv"))[["x0", "x1", "x2", "n2", "n3", "c0", "c1", "y"]]
    plan = check_table(frame, check_options({"target": "y", **told}))
    return *_prepare(frame, plan, torch.device("cpu")), plan.params, frame


def _loss(outputs: Any, targets: Any) -> Any:
    import torch

    return torch.nn.functional.cross_entropy(outputs.flatten(0, 1), targets.expand(len(outputs), -1).flatten())


def step_times(size: str, turns: int, loops: list[str], steps: int | None = None) -> dict[str, float]:
    """Steps a second on one batch, on batches that are fed, of the usual loop, or of the products; medians."""
    import torch

    from trainkit.tabular.adam import FlatAdamW
    from trainkit.tabular.feeding import Batches
    from trainkit.tabular.fit import HIDDEN_SHARE, threads_for
    from trainkit.tabular.step import Backpropagation

    model, rows, _, params, _ = _network(size)
    network = model.network.train()
    usual, twin = copy.deepcopy(network), copy.deepcopy(network)
    for each in (network, twin):
        each.dropout_rng = torch.Generator().manual_seed(0)
    batches = Batches(*rows, batch_size=params["batch_size"], seed=0, hidden_share=HIDDEN_SHARE)
    whole = [batch for batch in batches if len(batch[2]) == params["batch_size"]]
    ours = FlatAdamW(network.parameters(), weight_decay=1e-3)
    backpropagate = Backpropagation(network, ours, classes=True)

    def step(batch: Any) -> None:
        backpropagate(batch)
        ours.step(1e-3)

    optimizer = torch.optim.AdamW(twin.parameters(), lr=1e-3, weight_decay=1e-3)
    difference = 0.0
    for number in range(40):
        numbers, categories, targets = batch = whole[number % len(whole)]
        loss = _loss(twin(numbers, categories), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step(batch)
        difference = max(difference, abs(float(backpropagate.loss()) / float(loss.detach()) - 1))

    adam = torch.optim.Adam(usual.parameters(), lr=1e-3)
    usual.dropout_rng, share, usual.dropout = None, usual.dropout, 0.0

    def forward(numbers: Any, categories: Any) -> Any:
        x = usual.embed(numbers, categories) * usual.signs
        for weight, bias in zip(usual.weights, usual.biases, strict=True):
            x = torch.nn.functional.dropout(torch.relu(torch.matmul(x, weight) + bias), share)
        return torch.baddbmm(usual.last_bias, x, usual.last_weight)

    def usual_loop(count: int) -> None:
        for number in range(count):
            numbers, categories, targets = whole[number % len(whole)]
            adam.zero_grad()
            _loss(forward(numbers, categories), targets).backward()
            adam.step()

    def one_batch(count: int) -> None:
        with threads_for(network, params["batch_size"]):
            for _ in range(count):
                step(whole[0])

    def fed(count: int) -> None:
        with threads_for(network, params["batch_size"]):
            done = epoch = 0
            while done < count:
                batches.set_epoch(epoch := epoch + 1)
                for batch in batches:
                    step(batch)
                    done += 1
                    if done == count:
                        break

    flat = len(network.signs) * params["batch_size"]
    layers = [(torch.randn(flat, each.shape[0]), each.detach()) for each in network.weights]
    results = [torch.randn(flat, weight.shape[1]) for _, weight in layers]

    def products(count: int) -> None:
        with threads_for(network, params["batch_size"]):
            for _ in range(count):
                for (x, weight), result in zip(layers, results, strict=True):
                    torch.mm(x, weight, out=result)
                    torch.mm(x.t(), result)
                for (_, weight), result in zip(layers[1:], results[1:], strict=True):
                    torch.mm(result, weight.t())

    count = steps or len(batches) * (2 if len(batches) > 20 else 20)
    every = {"one batch": one_batch, "fed": fed, "usual": usual_loop, "products": products}
    seconds: dict[str, list[float]] = {}
    for turn in range(turns + 1):
        for name in loops:
            began = time.perf_counter()
            every[name](count)
            if turn:
                seconds.setdefault(name, []).append(time.perf_counter() - began)
    return {name: count / statistics.median(times) for name, times in seconds.items()} | {"difference": difference}


def _beside_others(plan: Plan) -> Iterator[Figure]:
    """A step that is computed in two threads, while something else computes too."""

    def one(*, briefly: bool, busy: int) -> Callable[[], float]:
        return lambda: apart(steps_beside, briefly=briefly, busy=busy, turns=1 if plan.quick else 3)

    for busy in (0, 1):
        ours, usual = in_turn(plan.repeats, one(briefly=True, busy=busy), one(briefly=False, busy=busy))
        yield Figure(
            f"the step, {TABLES['large'][0]:,} rows, in a job's process; {busy} others compute", "steps/s",
            median(ours), plan.repeats, floor=("threads wait as OpenMP's do by itself", median(usual)),
            ratio=median([mine / theirs for mine, theirs in zip(ours, usual, strict=False)]), of="× as many",
        )  # fmt: skip


def steps_beside(briefly: bool, busy: int, turns: int) -> float:
    """Steps a second, while so many other processes compute."""
    import os
    import subprocess

    from trainkit.runners.openmp import CHOICES, wait_briefly

    for name in CHOICES:
        os.environ.pop(name, None)
    if briefly:
        wait_briefly(os.environ)
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        return step_times(size="large", turns=turns, loops=["one batch"], steps=20)["one batch"]
    finally:
        for other in others:
            other.kill()
            other.wait()


# --- a whole training --------------------------------------------------------------------------------


def _training(plan: Plan, size: str) -> Iterator[Figure]:
    names, peers = _in_peers(plan, TRAINERS, 2)

    def one(trainer: str) -> Callable[[], float]:
        python = {"python": peers[trainer]} if trainer in peers else {}
        return lambda: apart(
            rows_per_second, size=size, trainer=trainer, epochs=2 if plan.quick else None, **python
        )

    found = dict(zip(names, in_turn(plan.repeats, *map(one, names)), strict=True))
    ours = median(found["trainkit"])
    others = {name: median_or_none(found[name]) for name in names[1:]}
    rivals = [value for name, value in others.items() if value is not None and name != "plain loop"]
    count, told = TABLES[size]
    options = "".join(f", {name} {value}" for name, value in told.items())
    yield Figure(
        f"training, {count:,} rows{options}: logged, shuffled and validated", "rows/s", ours, plan.repeats,
        peers=others, ratio=ours / max(rivals) if rivals else None, of="× the quickest library",
        goal="≥ 5" if rivals else "", detail=found,
        note="ours is the whole job, with planning and checkpoints; of the others the call that trains",
    )  # fmt: skip


def rows_per_second(size: str, trainer: str, epochs: int | None) -> float:
    """Train the default network, for as many epochs as is usual for the table; the second time counts."""
    import logging
    import warnings

    import torch
    from torch.utils.data import DataLoader, TensorDataset

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.manual_seed(0)
    model, rows, held_out, params, frame = _network(size)
    network = model.network.train()
    batch_size, epochs = params["batch_size"], epochs or params["epochs"]
    training = DataLoader(TensorDataset(*rows), batch_size=batch_size, shuffle=True)
    validation = DataLoader(TensorDataset(*held_out), batch_size=8192)
    if trainer == "trainkit":
        from trainkit import submit
        from trainkit.tabular.fit import fit

        def train() -> None:
            submit(fit, data=frame, target="y", epochs=epochs, patience=epochs, **TABLES[size][1]).result()
    else:
        makers = {"plain loop": _plain, "Lightning": _lightning, "skorch": _skorch, "fastai": _fastai}
        train = makers[trainer](network, training, validation, epochs)
    train()
    began = time.perf_counter()
    train()
    return epochs * len(rows[2]) / (time.perf_counter() - began)


def _accuracy(outputs: Any, targets: Any) -> Any:
    return (outputs.softmax(-1).mean(0).argmax(1) == targets).float().mean()


def _plain(network: Any, training: Any, validation: Any, epochs: int) -> Callable[[], None]:
    import torch

    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    history: list[float] = []

    def train() -> None:
        for _ in range(epochs):
            network.train()
            for number, (numbers, categories, targets) in enumerate(training):
                optimizer.zero_grad()
                loss = _loss(network(numbers, categories), targets)
                loss.backward()
                optimizer.step()
                if number % 5 == 0:
                    history.append(loss.item())
            network.eval()
            with torch.no_grad():
                for numbers, categories, targets in validation:
                    outputs = network(numbers, categories)
                    history.extend([_loss(outputs, targets).item(), _accuracy(outputs, targets).item()])

    return train


def _lightning(network: Any, training: Any, validation: Any, epochs: int) -> Callable[[], None]:
    import lightning
    import torch
    from lightning.pytorch.loggers import CSVLogger

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def training_step(self, batch: Any, _: int) -> Any:
            loss = _loss(self.network(*batch[:2]), batch[2])
            self.log("loss", loss)
            return loss

        def validation_step(self, batch: Any, _: int) -> None:
            outputs = self.network(*batch[:2])
            self.log_dict({"val_loss": _loss(outputs, batch[2]), "val_accuracy": _accuracy(outputs, batch[2])})

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=1e-3)

    def train() -> None:
        lightning.Trainer(
            max_epochs=epochs, accelerator="cpu", logger=CSVLogger("."), log_every_n_steps=5,
            enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        ).fit(Module(), training, validation)  # fmt: skip

    return train


def _skorch(network: Any, training: Any, validation: Any, epochs: int) -> Callable[[], None]:
    import skorch
    import torch
    from skorch.helper import predefined_split

    class Loss(torch.nn.Module):
        def forward(self, outputs: Any, targets: Any) -> Any:
            return _loss(outputs, targets)

    def as_pairs(rows: Any) -> Any:
        return skorch.dataset.Dataset({"numbers": rows[0], "categories": rows[1]}, rows[2])

    held_out = predefined_split(as_pairs(validation.dataset.tensors))
    net = skorch.NeuralNet(
        network, Loss, optimizer=torch.optim.Adam, lr=1e-3, max_epochs=epochs, batch_size=training.batch_size,
        iterator_train__shuffle=True, train_split=held_out, verbose=0,
    )  # fmt: skip
    rows = as_pairs(training.dataset.tensors)
    return lambda: net.fit(rows, None)


def _fastai(network: Any, training: Any, validation: Any, epochs: int) -> Callable[[], None]:
    import torch
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner, defaults
    from fastai.optimizer import Adam

    class Whole(torch.nn.Module):  # fastai would call the network's own reset()
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, numbers: Any, categories: Any) -> Any:
            return self.network(numbers, categories)

    defaults.callbacks = [each for each in defaults.callbacks if each.__name__ != "ProgressCallback"]
    learner = Learner(
        DataLoaders(training, validation), Whole(), loss_func=_loss, opt_func=Adam, metrics=_accuracy, lr=1e-3
    )
    learner.dls.n_inp = 2

    def train() -> None:
        with learner.no_logging():
            learner.fit(epochs)

    return train
