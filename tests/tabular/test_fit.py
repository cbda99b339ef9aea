"""Training on a table, from the data to a model that predicts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from trainkit.api.launching import submit
from trainkit.errors import TableError, TrainkitError
from trainkit.tabular.feeding import Batches, split
from trainkit.tabular.fit import fit
from trainkit.tabular.metrics import classification_metrics, regression_metrics
from trainkit.tabular.synthetic import synthetic_table

SMALL: dict[str, Any] = {"epochs": 6, "hidden": 16}


def flowers(rows: int = 240) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    kind = rng.choice(["iris", "rose", "tulip"], rows)
    place = np.where(kind == "iris", "pond", rng.choice(["bed", "wood"], rows))
    table = pd.DataFrame(
        {
            "length": rng.normal(0, 1, rows) + 4 * (kind == "rose"),
            "place": place,
            "wet": place == "pond",
            "seen": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 900, rows), "D"),
            "kind": kind,
        }
    )
    table.loc[rng.random(rows) < 0.05, "length"] = None
    return table


def test_classes_are_learnt_and_predicted_as_they_were_named(run: Any) -> None:
    """Labels come back in their own type; probabilities sum to one; metrics and loss are logged on the way."""
    table = flowers()
    model = fit(run, table, target="kind", epochs=25, hidden=32)
    predicted = model.predict(table)
    assert (predicted == table["kind"]).mean() > 0.9
    assert predicted.name == "kind"
    probabilities = model.predict_proba(table)
    assert probabilities.columns.tolist() == ["iris", "rose", "tulip"]
    assert np.allclose(probabilities.sum(axis=1), 1)
    assert run.messages[0] == "classification of kind (3 classes), 4 features, 240 rows"
    assert {"val_loss", "val_accuracy", "val_f1_macro", "val_auroc"} <= run.logged[-1].keys()
    assert sum("loss" in each for each in run.logged) >= 25
    assert model.metrics["val_loss"] == min(each["val_loss"] for each in run.logged if "val_loss" in each)


def test_numbers_are_learnt_in_their_own_units(run: Any) -> None:
    """A regression on the synthetic table explains most of the variance, in the target's units."""
    model = fit(run, None, epochs=10, hidden=64)
    table = synthetic_table(500, seed=9)
    score = regression_metrics(torch.tensor(model.predict(table).to_numpy()), torch.tensor(table["y"].to_numpy()))
    assert score["r2"] > 0.85
    assert model.metrics["val_rmse"] == pytest.approx(score["rmse"], rel=0.5)


@pytest.mark.parametrize("labels", [[0, 1], [True, False], ["no", "yes"], [0.5, 1.5], [3, 7]])
def test_labels_keep_their_type(run: Any, labels: list[Any]) -> None:
    """Whole numbers, booleans, texts and halves come back as such."""
    table = pd.DataFrame({"x": np.r_[np.zeros(30), np.ones(30)], "y": [labels[0]] * 30 + [labels[1]] * 30})
    predicted = fit(run, table, target="y", task="classification", **SMALL).predict(table)
    assert set(predicted) <= set(labels)
    assert {type(value) for value in predicted.tolist()} == {type(labels[0])}


def test_new_rows_may_be_untidy_but_not_incomplete(run: Any) -> None:
    """Other order, more columns, missing values and unseen words are fine; a missing column is named."""
    table = flowers()
    model = fit(run, table, target="kind", **SMALL)
    tidy = table.drop(columns="kind")
    untidy = tidy[tidy.columns[::-1]].assign(more=1)
    assert model.predict(untidy).equals(model.predict(tidy))
    odd = tidy.head(3).assign(place=["moon", None, "pond"], length=None, wet=[True, None, False], seen=pd.NaT)
    assert model.predict(odd).notna().all()
    with pytest.raises(TableError, match="column 'place' is not in the table"):
        model.predict(tidy.drop(columns="place"))
    with pytest.raises(TableError, match=r"column 'length' holds texts \('long'\); the model needs numbers"):
        model.predict(tidy.assign(length="long"))
    with pytest.raises(TrainkitError, match="takes a DataFrame"):
        model.predict(tidy.to_numpy())  # type: ignore[arg-type]


def test_a_seed_fixes_everything_and_touches_nothing(run: Any) -> None:
    """Same seed, same bits, whatever the process draws meanwhile; and the process' own state is left alone."""
    table = flowers(80)
    torch.manual_seed(1)
    before = torch.random.get_rng_state(), torch.get_num_threads(), torch.get_default_dtype()
    first = fit(run, table, target="kind", **SMALL)
    after = torch.random.get_rng_state(), torch.get_num_threads(), torch.get_default_dtype()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    torch.rand(7)
    second = fit(type(run)(), table, target="kind", **SMALL)
    third = fit(type(run)(), table, target="kind", seed=1, **SMALL)
    weights = [model.network.state_dict()["last_weight"] for model in (first, second, third)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_training_ends_early_when_it_gets_no_better(run: Any) -> None:
    """On noise the validation loss turns; the run is ended and the best epoch's weights are kept."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"a": rng.normal(size=150), "b": rng.normal(size=150), "y": rng.normal(size=150)})
    model = fit(run, table, epochs=400, patience=3, hidden=64, lr=0.02)
    losses = [each["val_loss"] for each in run.logged if "val_loss" in each]
    assert run.ended == "early_stopping"
    assert len(losses) < 100
    assert losses.index(min(losses)) == len(losses) - 4
    assert model.metrics["val_loss"] == min(losses)
    best = model.__trainkit_export__()["weights"]
    assert all(torch.equal(value, best[name]) for name, value in model.network.state_dict().items())


def test_the_learning_rate_can_be_changed_while_it_runs(run: Any) -> None:
    """The live parameter is the top of the schedule from the next step on."""
    fit(run, flowers(80), target="kind", lr=0.01, log_every=1, **SMALL)
    assert max(each["lr"] for each in run.logged if "lr" in each) == pytest.approx(0.01, rel=0.05)
    assert run.logged[-2]["lr"] < 0.001


def test_a_job_trains_from_a_file_and_leaves_its_model(root: Path) -> None:
    """Through a real job: the record tells what was chosen and warned, and the model file predicts."""
    from trainkit.tabular.model import load_model

    file = root / "flowers.csv"
    flowers().assign(flower_id=range(100, 340)).to_csv(file, index=False)
    job = submit(fit, data=str(file), target="kind", **SMALL)
    model = job.result(timeout=60)
    record = job.record
    assert record.status == "COMPLETED"
    assert record.params["batch_size"] == 32
    assert record.metrics["val_accuracy"] == pytest.approx(record.metrics["val_accuracy"])
    table = flowers()
    loaded = load_model(root / "models" / f"{job.id}.pt")
    assert loaded.predict(table).equals(model.predict(table))


def test_every_row_is_fed_once_an_epoch_and_in_another_order() -> None:
    """Batches are a permutation of the rows, the same for the same seed and epoch, else another."""
    rows = torch.arange(10.0).unsqueeze(1)
    batches = Batches(rows, torch.zeros(10, 0, dtype=torch.int64), rows[:, 0], batch_size=4, seed=3)

    def order(epoch: int) -> list[float]:
        batches.set_epoch(epoch)
        return torch.cat([targets for _, _, targets in batches]).tolist()

    first, second = order(0), order(1)
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert order(0) == first
    assert [len(targets) for _, _, targets in batches] == [4, 4, 2]


def test_some_values_are_hidden_and_the_targets_never() -> None:
    """About the given share of numbers is NaN and of categories unseen; other values are as they were."""
    numbers, words = torch.ones(2000, 2), torch.full((2000, 2), 5)
    batches = Batches(numbers, words, torch.ones(2000), batch_size=500, seed=0, hidden_share=0.1)
    fed = [torch.cat(parts) for parts in zip(*batches, strict=True)]
    assert float(fed[0].isnan().float().mean()) == pytest.approx(0.1, abs=0.02)
    assert float((fed[1] == 0).float().mean()) == pytest.approx(0.1, abs=0.02)
    assert set(fed[1].unique().tolist()) == {0, 5}
    assert float(fed[2].sum()) == 2000


def test_the_split_keeps_the_classes_in_proportion() -> None:
    """Each class gives its share to validation, at least one row, and never its only one."""
    labels = torch.tensor([0] * 80 + [1] * 20 + [2] * 2 + [3])
    train, validation = split(labels, 4, 0.2, torch.Generator().manual_seed(0))
    assert torch.bincount(labels[validation], minlength=4).tolist() == [16, 4, 1, 0]
    assert sorted([*train.tolist(), *validation.tolist()]) == list(range(103))


def test_metrics_agree_with_scikit_learn() -> None:
    """Accuracy, macro F1, AUROC with ties, RMSE, MAE and R², for two and for four classes."""
    from sklearn import metrics

    generator = torch.Generator().manual_seed(0)
    for count in (2, 4):
        labels = torch.randint(count, (200,), generator=generator)
        scores = torch.rand(200, count, generator=generator).mul(8).round().add(0.5)
        probabilities = scores / scores.sum(1, keepdim=True)
        found = classification_metrics(probabilities, labels)
        given = probabilities[:, 1] if count == 2 else probabilities
        assert found["accuracy"] == metrics.accuracy_score(labels, probabilities.argmax(1))
        assert found["f1_macro"] == pytest.approx(
            metrics.f1_score(labels, probabilities.argmax(1), average="macro")
        )
        expected = metrics.roc_auc_score(
            labels, given.double().softmax(1) if count > 2 else given, multi_class="ovr"
        )
        if count == 2:
            assert found["auroc"] == pytest.approx(expected)
        else:
            each = [metrics.roc_auc_score(labels == label, probabilities[:, label]) for label in range(count)]
            assert found["auroc"] == pytest.approx(sum(each) / count)
    actual, predicted = torch.rand(50, generator=generator), torch.rand(50, generator=generator)
    found = regression_metrics(predicted, actual)
    assert found["rmse"] == pytest.approx(metrics.root_mean_squared_error(actual, predicted), rel=1e-5)
    assert found["mae"] == pytest.approx(metrics.mean_absolute_error(actual, predicted), rel=1e-5)
    assert found["r2"] == pytest.approx(metrics.r2_score(actual, predicted), rel=1e-5)
    assert math.isnan(classification_metrics(probabilities, torch.zeros(200, dtype=torch.int64))["auroc"])
