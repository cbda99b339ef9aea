"""Which metrics share a chart, what its lines are called, and figures of very many metrics."""

from __future__ import annotations

import fnmatch
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

import trainkit as tk
from trainkit.api import history, view
from trainkit.api.charts import charts, quantity_of
from trainkit.panels.picture import _draw, bundle
from trainkit.panels.series import History


@pytest.mark.parametrize(
    ("name", "quantity", "split"),
    [
        ("loss", "loss", ""),
        ("val_loss", "loss", "validation"),
        ("val/loss", "loss", "validation"),
        ("val.loss", "loss", "validation"),
        ("val-loss", "loss", "validation"),
        ("Val Loss", "Loss", "validation"),
        ("valid_loss", "loss", "validation"),
        ("validation/loss", "loss", "validation"),
        ("eval_loss", "loss", "validation"),
        ("evaluation/loss", "loss", "validation"),
        ("dev_loss", "loss", "validation"),
        ("test_acc", "acc", "test"),
        ("testing/acc", "acc", "test"),
        ("train_loss", "loss", "training"),
        ("training/loss", "loss", "training"),
        ("Loss/train", "Loss", "training"),
        ("loss_val", "loss", "validation"),
        ("gan/val/loss", "gan/loss", "validation"),
        ("gan/val_loss", "gan/loss", "validation"),
        ("val_loss/dataloader_idx_0", "loss/dataloader_idx_0", "validation"),
        # Words that only begin or end alike.
        ("value_loss", "value_loss", ""),
        ("valuation", "valuation", ""),
        ("validity", "validity", ""),
        ("trainable_share", "trainable_share", ""),
        ("interval_s", "interval_s", ""),
        ("retrieval", "retrieval", ""),
        ("latest", "latest", ""),
        ("device_memory", "device_memory", ""),
        ("val", "val", ""),
        ("test", "test", ""),
        ("val_", "val_", ""),
        ("/val", "/val", ""),
        ("", "", ""),
    ],
)
def test_a_name_tells_the_quantity_and_the_rows(name: str, quantity: str, split: str) -> None:
    assert quantity_of(name) == (quantity, split)


def labels(names: list[str]) -> dict[str, list[tuple[str, str]]]:
    return {chart.title: [(line.name, line.label) for line in chart.lines] for chart in charts(names)}


def test_the_same_quantity_shares_a_chart_training_first() -> None:
    assert labels(["test/loss", "val/loss", "train/loss", "lr"]) == {
        "loss": [("train/loss", "training"), ("val/loss", "validation"), ("test/loss", "test")],
        "lr": [("lr", "")],
    }
    assert labels(["eval_acc"]) == {"acc": [("eval_acc", "validation")]}


def test_lines_of_the_same_rows_are_called_by_their_names() -> None:
    assert labels(["loss", "train/loss", "val/loss", "eval_loss"]) == {
        "loss": [(name, name) for name in ("loss", "train/loss", "val/loss", "eval_loss")]
    }


def test_what_there_is_one_of_for_each_layer_comes_last() -> None:
    """So that the losses are among the charts that are seen first, and the numbers that are printed."""
    layers = [f"layer{n}/norm" for n in range(20)]
    assert list(labels([*layers, "loss", "lr", "val_loss"])) == ["loss", "lr", *layers]
    assert list(labels([*layers[:3], "loss"])) == [*layers[:3], "loss"], "few are shown as they were logged"


def logged(metrics: dict[str, float], *, steps: int = 3) -> tk.Job:
    def fit(run: Any) -> None:
        for _ in range(steps):
            run.log(metrics)

    job = tk.submit(fit)
    job.wait(20)
    return job


def titles(figure: Any) -> list[str]:
    return [axis.get_title(loc="left") for axis in figure.axes if axis.get_title(loc="left")]


def test_a_plot_calls_lines_by_their_rows(root: Path) -> None:
    job = logged({"train/loss": 1.0, "val/loss": 2.0, "test/loss": 3.0, "eval_acc": 0.5, "plain": 1.0})
    figure = job.plot()
    legends = {
        axis.get_title(loc="left"): [text.get_text() for text in axis.get_legend().get_texts()]
        for axis in figure.axes
        if axis.get_legend()
    }
    assert legends == {"loss": ["training", "validation", "test"], "acc": ["validation"]}
    assert titles(figure) == ["loss", "acc", "plain"]
    assert len({line.get_color() for line in figure.axes[0].get_lines()}) == 3


def test_a_plot_of_chosen_metrics(root: Path) -> None:
    """By name, by the title of a chart, and by pattern; characters that fnmatch knows are only characters."""
    job = logged({"loss": 1.0, "val_loss": 1.0, "mAP[50]": 0.5, "layer0/norm": 1.0, "layer1/norm": 1.0})
    assert titles(job.plot("loss")) == titles(job.plot("val_loss")) == ["loss"]
    assert [line.get_label() for line in job.plot("loss").axes[0].get_lines()] == [
        "training",
        "validation",
        "best",
    ]
    assert [line.get_label() for line in job.plot("val_loss").axes[0].get_lines()] == ["validation", "best"]
    assert titles(job.plot("layer*", "mAP[50]")) == ["mAP[50]", "layer0/norm", "layer1/norm"]
    assert not fnmatch.fnmatch("mAP[50]", "mAP[50]")
    with pytest.raises(
        tk.errors.OptionError, match=r"no metric is called 'accuracy'; the job logged 'loss', 'val_loss'"
    ):
        job.plot("loss", "accuracy")
    with pytest.raises(tk.errors.OptionError, match="names of metrics, not int: 5"):
        job.plot(5)  # type: ignore[arg-type]
    with pytest.raises(tk.errors.OptionError, match="the job logged nothing yet"):
        logged({}).plot("loss")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([f"layer{n}/grad_norm" for n in range(300)], ["layer*/grad_norm"]),
        ([f"class{n}/{what}" for n in range(100) for what in ("ap", "ar")], ["class*/ap", "class*/ar"]),
        ([f"{chr(97 + n // 26)}{chr(97 + n % 26)}/ap" for n in range(300)], ["*/ap"]),
        ([f"ap/{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(300)], ["ap/*"]),
        ([*(f"layer{n}" for n in range(40)), "loss", "val_loss"], ["layer*", "loss"]),
        ([f"layer{n}" for n in range(10)], [f"layer{n}" for n in range(10)]),
    ],
)
def test_very_many_metrics_share_charts(root: Path, names: list[str], expected: list[str]) -> None:
    figure = logged(dict.fromkeys(names, 1.0)).plot()
    assert sorted(titles(figure)) == sorted(expected)
    assert sum(len(line.get_xdata()) > 1 for axis in figure.axes for line in axis.get_lines()) == len(names)


def test_charts_beyond_a_limit_are_counted_and_can_be_chosen(root: Path) -> None:
    names = [f"{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(50)]
    job = logged(dict.fromkeys(names, 1.0))
    figure = job.plot()
    assert titles(figure) == names[: history.MOST_CHARTS]
    assert figure.get_size_inches()[1] < 30
    assert f'20 more charts: job.plot("{names[30]}", …)' in figure.get_suptitle()
    assert titles(job.plot(names[30])) == [names[30]]


def test_a_plot_in_a_thread_does_not_touch_pyplot(root: Path) -> None:
    """Names that mathematical text would refuse are drawn as they are."""
    job = logged({"$loss": 1.0, "val/$loss": 2.0, "a\\frac": 1.0})
    pictures: list[bytes] = []
    pyplot = sys.modules.pop("matplotlib.pyplot", None)
    try:
        thread = threading.Thread(target=lambda: pictures.append(job.plot()._repr_png_()))  # type: ignore[attr-defined]
        thread.start()
        thread.join()
        assert "matplotlib.pyplot" not in sys.modules
    finally:
        if pyplot is not None:
            sys.modules["matplotlib.pyplot"] = pyplot
    assert pictures[0].startswith(b"\x89PNG")


def test_the_stored_picture_and_the_text_of_very_many_metrics_stay_small(root: Path) -> None:
    job = logged({f"layer{n}/grad_norm": float(n) for n in range(300)})
    stored = bundle(job)
    assert len(stored["text/html"]) < 60_000
    assert "more metrics" in stored["text/html"]
    assert len(stored["text/plain"]) < 2_000
    assert stored["text/plain"].count("grad_norm") == view.MOST_NUMBERS
    assert "more metrics 276" in stored["text/plain"]


@pytest.mark.parametrize("names", [["loss", "val/loss", "eval_loss"], ["val_loss", "dev/loss", "eval/loss"]])
def test_lines_of_the_same_rows_differ_in_the_stored_picture(root: Path, names: list[str]) -> None:
    """Their colour is the same, so their dashes are not."""
    job = logged(dict.fromkeys(names, 1.0))
    history = History(job.paths.metrics)
    history.read()
    axis = Figure().subplots()
    (chart,) = charts(names)
    _draw(axis, chart, history, job.record)
    lines = [line for line in axis.get_lines() if line.get_marker() != "*"]  # which is the best value
    looks = {(str(line.get_color()), str(line._dash_pattern)) for line in lines}  # type: ignore[attr-defined]
    assert len(looks) == len(names)


def test_no_formula_is_set_in_the_stored_picture(root: Path) -> None:
    """JupyterLab and nbconvert set what is between two $ in HTML, unless a class says otherwise."""
    html = bundle(logged({"cost $x$": 1.0, "$y$": 2.0}))["text/html"]
    assert html.startswith('<div class="tex2jax_ignore mathjax_ignore"')
