"""The places where jobs run, as fixtures."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import trainkit as tk

from .nodes import Nodes
from .places import Where


@pytest.fixture
def where(request: pytest.FixtureRequest, root: Path, monkeypatch: pytest.MonkeyPatch) -> Where:
    """The place that a test is for, with a root for its jobs."""
    place: Where = request.param
    if place.runner == "ray":
        nodes: Nodes = request.getfixturevalue("nodes")
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", nodes.address)
    return place


@pytest.fixture(autouse=True)
def nobody_left(root: Path) -> Iterator[None]:
    """What a test that has failed leaves running would take the room, and the time, of those that follow."""
    yield
    for job in tk.jobs():
        if not job.done():
            job.stop() if job.record.runner == "thread" else job.kill()


@pytest.fixture(scope="session")
def nodes() -> Iterator[Nodes]:
    """Two nodes, for all tests that need a cluster."""
    with tempfile.TemporaryDirectory(prefix="tk-ray-") as folder:
        started = Nodes(Path(folder))
        try:
            yield started
        finally:
            left = started.end()
        assert left == []


@pytest.fixture
def cluster(nodes: Nodes, root: Path, monkeypatch: pytest.MonkeyPatch) -> Nodes:
    """The cluster, as the one that ``runner="ray"`` finds by itself."""
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", nodes.address)
    return nodes
