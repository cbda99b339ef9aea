"""The options of table training: what is taken, what is refused, and in which words."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from trainkit.errors import OptionError
from trainkit.tabular.options import TrainOptions, check_options


def test_values_are_kept_and_the_rest_is_left_to_the_data() -> None:
    """What was told is there; what was not is None, or the fixed default."""
    options = check_options({"epochs": np.int64(3), "hidden": [64, 32], "missing": "NA", "lr": 1})
    assert options == TrainOptions(epochs=3, hidden=(64, 32), missing=("NA",), lr=1.0)
    assert (options.batch_size, options.log_every, options.seed) == (None, 5, 0)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("epochs", 0, "a whole number >= 1"),
        ("epochs", "3", "a whole number"),
        ("epochs", True, "a whole number"),
        ("epochs", 2.5, "a whole number"),
        ("lr", -1, "a number > 0"),
        ("lr", float("nan"), "a number > 0"),
        ("dropout", 1.0, "< 1"),
        ("val_fraction", 0, "> 0"),
        ("hidden", 0, ">= 1"),
        ("hidden", [], "a list"),
        ("task", "regress", "'regression'"),
        ("device", "tpu", "cuda"),
        ("seed", -1, ">= 0"),
        ("target", 3, "a text"),
        ("log_every", 0, ">= 1"),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_allowed(name: str, value: object, words: str) -> None:
    """The message names the option, what came and what is allowed."""
    with pytest.raises(OptionError) as error:
        check_options({name: value})
    assert f"{name}={value!r}" in str(error.value)
    assert words in str(error.value)


def test_an_unknown_option_is_refused_with_the_nearest_name() -> None:
    """A slip of the pen is answered with the name that was meant, and all there are."""
    with pytest.raises(
        OptionError, match=r"unknown option 'batchsize'; did you mean 'batch_size'\?.*val_fraction"
    ):
        check_options({"batchsize": 3})
    with pytest.raises(OptionError, match=r"unknown option 'learning_rate'; did you mean 'lr'\?"):
        check_options({"learning_rate": 3})


def test_text_from_a_command_line_is_read_only_where_asked() -> None:
    """Numbers come from text with from_text; a target named like a number or null stays a name."""
    options = check_options(
        {"hidden": "64, 32", "epochs": "3", "lr": "1e-3", "target": "null", "missing": "NA,?"}, from_text=True
    )
    assert options == TrainOptions(hidden=(64, 32), epochs=3, lr=0.001, target="null", missing=("NA", "?"))
    with pytest.raises(OptionError, match="epochs='x'"):
        check_options({"epochs": "x"}, from_text=True)


def test_the_options_need_no_heavy_import() -> None:
    """A command line that prints its help loads neither torch nor pandas nor pyarrow."""
    code = (
        "import sys, trainkit.tabular.options; "
        "sys.exit(str([name for name in ('torch', 'pandas', 'pyarrow', 'numpy') if name in sys.modules] or ''))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.stderr.strip() == ""
