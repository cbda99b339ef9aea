"""Which names in a folder have changed: told by the system where it tells, else found; nothing is missed."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from trainkit.panels.folder import EVERY_S, Folder


class Clock:
    """Seconds that pass when the test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A folder with three files, in which nothing has happened for a while."""
    made = tmp_path / "jobs"
    made.mkdir()
    for name in "abc":
        (made / name).write_text(name)
    os.utime(made, (1.0, 1.0))
    return made


def replaced(file: Path, text: str) -> None:
    """Replace a file, as records are."""
    (file.parent / ".new").write_text(text)
    (file.parent / ".new").replace(file)


def test_what_is_done_is_seen(path: Path) -> None:
    """New, replaced, removed and moved: at the next look, and not again at the one after."""
    folder = Folder(path)
    assert folder.look() == {"a", "b", "c"}
    (path / "d").write_text("")
    replaced(path / "a", "other")
    (path / "b").unlink()
    (path / "c").rename(path / "e")
    assert folder.look() - {".new"} == {"a", "b", "c", "d", "e"}
    os.utime(path, (2.0, 2.0))
    folder.look()
    assert folder.look() == set()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_where_the_system_tells_names_are_not_listed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look costs the same however many files there are; all names are looked at after a while, and agree."""
    clock = Clock()
    folder = Folder(path, clock=clock)
    folder.look()
    listed = []
    scandir = os.scandir

    def listing(path: str) -> Any:
        listed.append(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", listing)
    for turn in range(5):
        replaced(path / "a", f"{turn}")
        assert "a" in folder.look()
    assert not listed
    clock.now += EVERY_S
    replaced(path / "b", "late")
    assert "b" in folder.look()
    assert listed
    assert folder.told


def test_what_another_machine_does_is_seen(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is told of a change, the folder's time tells it; and nothing is believed from then on."""
    folder = Folder(path)
    folder.look()
    monkeypatch.setattr(folder, "_new_notices", set)
    replaced(path / "a", "from afar")
    assert "a" in folder.look()
    assert not folder.told


def test_what_another_machine_does_among_changes_of_this_one_is_seen(path: Path, monkeypatch: Any) -> None:
    """Changes that are told hide one that is not, but only until all names are looked at."""
    clock = Clock()
    folder = Folder(path, clock=clock)
    folder.look()
    monkeypatch.setattr(folder, "told", True)  # also on systems that do not tell
    monkeypatch.setattr(folder, "_new_notices", lambda: {"a"})
    replaced(path / "a", "from here")
    replaced(path / "b", "from afar")
    assert folder.look() == {"a"}
    clock.now += EVERY_S
    replaced(path / "a", "from here")
    assert "b" in folder.look()
    assert not folder.told
    replaced(path / "c", "from afar")
    assert "c" in folder.look()


def test_a_folder_that_comes_and_goes(path: Path) -> None:
    """It may not be there yet, be removed, and be made again."""
    shutil.rmtree(path)
    folder = Folder(path)
    assert folder.look() == set()
    path.mkdir()
    (path / "a").write_text("")
    assert folder.look() == {"a"}
    (path / "b").write_text("")
    assert "b" in folder.look()
    shutil.rmtree(path)
    assert folder.look() == {"a", "b"}
    path.mkdir()
    (path / "c").write_text("")
    assert folder.look() == {"c"}
