"""The command line starts quickly, explains itself, and takes its options from their one definition."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import msgspec
import pytest
from click.testing import Result

import trainkit as tk
from trainkit.cli.exits import Exit
from trainkit.tabular.options import TrainOptions

Cli = Callable[..., Result]

COMMANDS = "train submit jobs status watch logs stop finish pause resume kill set serve"
_HEAVY = "{'torch', 'pandas', 'matplotlib', 'pyarrow', 'ipywidgets', 'tornado', 'numpy'}"


@pytest.mark.parametrize("words", ["--help", "train --help", "--version", "jobs", "jobs --json", "status x"])
def test_looking_loads_nothing_heavy(root: object, words: str) -> None:
    code = f"""
import sys
from trainkit.cli import main
sys.argv = ["trainkit", *{words!r}.split()]
try:
    main()
except SystemExit:
    pass
loaded = {_HEAVY} & set(sys.modules)
sys.exit(f"loaded {{loaded}}" if loaded else 0)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stderr


def test_every_training_option_is_an_option_with_its_description(trainkit: Cli) -> None:
    text = " ".join(trainkit("train", "--help").stdout.split())
    for field in msgspec.structs.fields(TrainOptions):
        assert f"--{field.name.replace('_', '-')} VALUE" in text
    assert "Share of the rows held out for validation. [a number > 0, < 1]" in text


def test_help_lists_the_commands_and_every_exit_code(trainkit: Cli) -> None:
    result = trainkit("--help")
    assert result.exit_code == 0
    for command in COMMANDS.split():
        assert f"\n  {command} " in result.stdout
        help_of_it = trainkit(command, "--help")
        assert help_of_it.exit_code == 0
        assert "--json" in help_of_it.stdout
        assert "--root" in help_of_it.stdout
    for code in Exit:
        assert f"\n    {code.value:>3}  " in result.stdout


def test_help_fits_into_80_columns(trainkit: Cli) -> None:
    for words in ([], ["train"], ["submit"], ["logs"], ["set"]):
        assert max(map(len, trainkit(*words, "--help").stdout.splitlines())) <= 80


def test_without_a_command_the_help_is_shown_as_bad_usage(trainkit: Cli) -> None:
    result = trainkit()
    assert result.exit_code == 2
    assert "Commands:" in result.stderr


def test_the_version_is_told(trainkit: Cli) -> None:
    assert trainkit("--version").stdout == f"trainkit {tk.__version__}\n"


def test_a_shell_can_complete_job_ids(root: object, monkeypatch: pytest.MonkeyPatch) -> None:
    tk.submit(lambda run: None, job_id="my-job").wait(20)  # type: ignore[misc]
    found = subprocess.run(
        [sys.executable, "-m", "trainkit"],
        capture_output=True,
        text=True,
        timeout=60,
        env={
            **os.environ,
            "_TRAINKIT_COMPLETE": "bash_complete",
            "COMP_WORDS": "trainkit stop my",
            "COMP_CWORD": "2",
        },
    )
    assert found.stdout.split() == ["plain,my-job"]
