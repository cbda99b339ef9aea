"""The model file: it holds everything, and nothing in it is trusted."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from trainkit.errors import ModelFileError
from trainkit.tabular.fit import fit
from trainkit.tabular.model import TableModel, load_model


@pytest.fixture
def model(run: Any) -> TableModel:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"x": rng.normal(size=60), "word": ["a", "b", None] * 20, "y": ["p", "q"] * 30})
    return fit(run, table, epochs=1, hidden=8)


ROWS = pd.DataFrame({"x": [0.0, None], "word": ["a", "new"]})


def test_a_saved_model_predicts_the_same_bits(model: TableModel, tmp_path: Path) -> None:
    """Loaded from its file, which torch reads with weights only, a model is the same."""
    model.save(tmp_path / "m.pt")
    content = torch.load(tmp_path / "m.pt", weights_only=True)
    assert (content["format"], content["version"], content["kind"]) == ("trainkit-model", 1, "table")
    loaded = load_model(tmp_path / "m.pt")
    assert loaded.predict_proba(ROWS).equals(model.predict_proba(ROWS))
    assert loaded.metrics == model.metrics
    assert repr(loaded) == "TableModel(classification of y (2 classes) from 2 columns)"


def test_the_file_holds_the_best_weights_also_before_the_end(model: TableModel) -> None:
    """What a stop saves are the best weights so far, not the present ones."""
    best = model.__trainkit_export__()["weights"]["last_weight"].clone()
    with torch.no_grad():
        model.network.last_weight.add_(1)
    assert torch.equal(model.__trainkit_export__()["weights"]["last_weight"], best)


def test_the_training_state_comes_back(model: TableModel, run: Any, tmp_path: Path) -> None:
    """Present weights, best weights and metrics survive a checkpoint."""
    with torch.no_grad():
        model.network.last_weight.add_(1)
    torch.save(model.state_dict(), tmp_path / "c.pt")
    other = TableModel(model.features, model.target, model.shape, {})
    other.load_state_dict(torch.load(tmp_path / "c.pt", weights_only=True))
    assert torch.equal(other.network.last_weight, model.network.last_weight)
    assert torch.equal(
        other.__trainkit_export__()["weights"]["last_weight"],
        model.__trainkit_export__()["weights"]["last_weight"],
    )


def _huge(content: dict[str, Any]) -> None:
    content["weights"]["last_weight"] = torch.zeros(1).expand(content["weights"]["last_weight"].shape)


def _absurd(content: dict[str, Any]) -> None:
    content["shape"]["hidden"] = [100_000, 100_000]
    content["weights"]["weights.0"] = torch.zeros(1).expand(100_000, 100_000)


def _set(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content.__setitem__(name, value)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_huge, "claims"),
        (_absurd, "damaged"),
        (lambda content: content["weights"].pop("signs"), "signs"),
        (lambda content: content["weights"].update(signs=3), "no plain tensor"),
        (lambda content: content["weights"].update(signs=content["weights"]["signs"].double()), "float64"),
        (lambda content: content["shape"].update(members=10**15), "claims a network"),
        (lambda content: content["shape"].update(outputs=5), "claims a network"),
        (lambda content: content["features"]["columns"][0].update(edges="x"), "damaged"),
        (_set("features", {}), "damaged"),
        (_set("version", 2), "version 2"),
        (_set("format", "other"), "not a model file"),
        (_set("kind", "state_dict"), r"load_state_dict\(torch.load"),
    ],
)
def test_a_file_that_lies_is_refused_before_anything_is_built(
    model: TableModel, tmp_path: Path, damage: Callable[[dict[str, Any]], None], words: str
) -> None:
    """Wrong shapes, types, names and versions are named; absurd sizes take no memory."""
    content = model.__trainkit_export__()
    damage(content)
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(ModelFileError, match=words):
        load_model(tmp_path / "m.pt")


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    """A pickle that would run something is refused."""

    class Malicious:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "run"),)

    torch.save({"format": "trainkit-model", "weights": Malicious()}, tmp_path / "m.pt")
    with pytest.raises(ModelFileError, match="damaged"):
        load_model(tmp_path / "m.pt")
    assert not (tmp_path / "run").exists()


def test_what_is_no_model_file_is_said_to_be_none(model: TableModel, tmp_path: Path) -> None:
    """Nothing there, an empty or truncated file, and a compressed archive."""
    file = tmp_path / "m.pt"
    with pytest.raises(ModelFileError, match="no model file"):
        load_model(file)
    file.write_bytes(b"")
    with pytest.raises(ModelFileError, match="not a model file"):
        load_model(file)
    model.save(file)
    whole = file.read_bytes()
    for end in range(0, len(whole), len(whole) // 20):
        file.write_bytes(whole[:end])
        with pytest.raises(ModelFileError):
            load_model(file)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/data.pkl", b"0" * 10**6)
    with pytest.raises(ModelFileError, match="compressed"):
        load_model(file)
