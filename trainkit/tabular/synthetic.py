"""A table made by rule, for trying things out when there is no data at hand."""

from __future__ import annotations

import numpy as np
import pandas as pd


def synthetic_table(rows: int = 2_000, seed: int = 0) -> pd.DataFrame:
    """Make a table with numbers, categories and missing values, and a numeric target ``y``.

    Args:
        rows: how many.
        seed: the same seed gives the same table.

    >>> synthetic_table(3).columns.tolist()
    ['size', 'weight', 'age', 'colour', 'grade', 'fresh', 'y']
    """
    rng = np.random.default_rng(seed)
    size, weight, age = rng.normal(10, 3, rows), rng.lognormal(1, 0.5, rows), rng.uniform(0, 80, rows)
    colour = rng.choice(["red", "green", "blue"], rows)
    grade = rng.choice(["a", "b", "c", "d"], rows, p=[0.4, 0.3, 0.2, 0.1])
    fresh = rng.random(rows) < 0.3
    y = (
        2 * size
        + 5 * np.sin(age / 12)
        + 3 * weight * (colour == "red")
        - 4 * (grade == "d")
        + 2 * fresh
        + rng.normal(0, 1, rows)
    )
    table = pd.DataFrame(
        {"size": size, "weight": weight, "age": age, "colour": colour, "grade": grade, "fresh": fresh, "y": y}
    )
    for name in ("weight", "colour"):
        table.loc[rng.random(rows) < 0.05, name] = None
    return table.round(3)
