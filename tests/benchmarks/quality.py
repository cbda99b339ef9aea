"""How good are the defaults?  Three tables, three learners, the same splits: one table of figures.

    python tests/benchmarks/quality.py --data FOLDER [--seeds 5] [--only titanic] [--json FILE]

FOLDER holds penguins.csv, titanic.csv and diamonds.csv.  Each seed holds out 20 % of the rows (stratified for
classes), which none of the learners sees; trainkit trains as a job, from a file, with defaults.  The rivals
are scikit-learn's HistGradientBoosting and a perceptron (128, 64) with the usual preparation.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.impute import SimpleImputer
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

from trainkit.api.launching import submit
from trainkit.tabular.fit import fit
from trainkit.tabular.read import read_table

# table: target, columns that give it away, task
TABLES = {
    "penguins": ("species", [], "classification"),
    "titanic": ("survived", ["alive"], "classification"),
    "diamonds": ("price", [], "regression"),
}
Learner = Callable[[pd.DataFrame, pd.DataFrame, str, str, int], Any]


def trainkit(train: pd.DataFrame, test: pd.DataFrame, target: str, task: str, seed: int) -> Any:
    """Train as a user would: a file, a job, defaults."""
    with tempfile.TemporaryDirectory() as root:
        path = Path(root) / "train.csv"
        train.to_csv(path, index=False)
        job = submit(fit, data=str(path), target=target, seed=seed, root=root)
        return job.result().predict(test.drop(columns=target))


def boosting(train: pd.DataFrame, test: pd.DataFrame, target: str, task: str, seed: int) -> Any:
    """Boosted trees, told which columns are categories."""
    features, words, _ = _rival_columns(train, target)
    prepare = make_column_transformer(
        (OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=float("nan")), words),
        remainder="passthrough",
    )
    kind = HistGradientBoostingClassifier if task == "classification" else HistGradientBoostingRegressor
    model = make_pipeline(prepare, kind(random_state=seed, categorical_features=list(range(len(words)))))
    return model.fit(features, train[target]).predict(_rival_columns(test, target)[0])


def perceptron(train: pd.DataFrame, test: pd.DataFrame, target: str, task: str, seed: int) -> Any:
    """A perceptron on one-hot words and standardised numbers, medians for what is missing."""
    features, words, numbers = _rival_columns(train, target)
    scaled = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    prepare = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), words), (scaled, numbers))
    kind = MLPClassifier if task == "classification" else MLPRegressor
    model = make_pipeline(prepare, kind(hidden_layer_sizes=(128, 64), random_state=seed))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # its default of 200 passes is what people use
        return model.fit(features, train[target]).predict(_rival_columns(test, target)[0])


def _rival_columns(frame: pd.DataFrame, target: str) -> tuple[pd.DataFrame, list[str], list[str]]:
    frame = frame.drop(columns=target).copy()
    numbers = [
        name
        for name in frame
        if pd.api.types.is_numeric_dtype(frame[name]) and not pd.api.types.is_bool_dtype(frame[name])
    ]
    words = [name for name in frame if name not in numbers]
    for name in words:
        frame[name] = frame[name].astype("object").where(frame[name].notna(), "missing").astype(str)
    return frame.astype(dict.fromkeys(numbers, float)), words, numbers


LEARNERS: dict[str, Learner] = {"trainkit": trainkit, "boosting": boosting, "perceptron": perceptron}


def measure(folder: Path, name: str, seeds: int) -> dict[str, Any]:
    """Run all learners on one table; scores and seconds per seed."""
    target, giveaways, task = TABLES[name]
    frame = read_table(folder / f"{name}.csv").drop(columns=giveaways)
    score = accuracy_score if task == "classification" else r2_score
    result: dict[str, Any] = {"metric": "accuracy" if task == "classification" else "R²"}
    for learner in LEARNERS:
        result[learner] = {"scores": [], "seconds": []}
    for seed in range(seeds):
        labels = frame[target] if task == "classification" else None
        train, test = train_test_split(frame, test_size=0.2, random_state=seed, stratify=labels)
        for learner, run in LEARNERS.items():
            began = time.perf_counter()
            predicted = run(train, test, target, task, seed)
            result[learner]["seconds"].append(time.perf_counter() - began)
            result[learner]["scores"].append(float(score(test[target], predicted)))
    return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the three tables")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", choices=list(TABLES), help="one table")
    parser.add_argument("--json", type=Path, help="also write all figures here")
    told = parser.parse_args()
    print(
        f"{'table':<10}{'metric':<10}{'trainkit':>10}{'boosting':>10}{'perceptron':>12}   seconds (median of each)"
    )
    results = {}
    for name in [told.only] if told.only else TABLES:
        results[name] = result = measure(told.data, name, told.seeds)
        means = [statistics.mean(result[learner]["scores"]) for learner in LEARNERS]
        seconds = " / ".join(f"{statistics.median(result[learner]['seconds']):.1f}" for learner in LEARNERS)
        print(f"{name:<10}{result['metric']:<10}{means[0]:>10.4f}{means[1]:>10.4f}{means[2]:>12.4f}   {seconds}")
    if told.json:
        told.json.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
