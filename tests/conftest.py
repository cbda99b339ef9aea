"""Fixtures for all tests: a root of its own, a queue of its own, and nothing left running."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from trainkit.files.store import ROOT_VARIABLE
from trainkit.files.trust import STATE_VARIABLE
from trainkit.runners.slots import FOLDER_VARIABLE, LIMIT_VARIABLE

# No test is timed: what is quick here may be slow on a busy machine.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

#: The key of all tests, and of the servers and kernels that they start, is not that of the user.  The queue is for
#: doctests and tests without the fixture `root`, which then do not wait for other jobs of the user.
_state = tempfile.TemporaryDirectory(prefix="trainkit-tests-")
os.environ[STATE_VARIABLE] = _state.name
os.environ[FOLDER_VARIABLE] = os.path.join(_state.name, "queue")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root folder with a nasty name, where all jobs of a test go; also its own queue with eight places."""
    folder = tmp_path / "a root; with 'odd' näme"
    folder.mkdir()
    monkeypatch.setenv(ROOT_VARIABLE, str(folder))
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "queue"))
    monkeypatch.setenv(LIMIT_VARIABLE, "8")
    return folder


@pytest.fixture
def eventually() -> Callable[..., None]:
    """Wait until a condition of the real world holds, or fail after a deadline."""

    def wait_until(condition: Callable[[], object], *, within_s: float = 60.0) -> None:
        give_up_at = time.monotonic() + within_s
        while not condition():
            if time.monotonic() > give_up_at:
                pytest.fail(f"not within {within_s:g} s")
            time.sleep(0.01)

    return wait_until
