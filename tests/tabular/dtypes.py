"""The type that texts have in a DataFrame, which depends on the version of pandas."""

from __future__ import annotations

import pandas as pd

#: ``str`` from pandas 3.0, ``object`` before.
TEXT = str(pd.Series(["a"]).dtype)
