"""Names, parameters, texts and places that are odd but possible: the job runs, and its record can be read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import trainkit as tk
from trainkit.files.record import Status
from trainkit.files.recorder import Recorder


class Unspeakable:
    """Its repr raises."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


def deep() -> dict[str, Any]:
    """A dict in a dict in a dict, five thousand times."""
    value: dict[str, Any] = {}
    for _ in range(5_000):
        value = {"a": value}
    return value


def within_itself() -> list[Any]:
    """A list that holds itself."""
    value: list[Any] = [1]
    value.append(value)
    return value


ODD: dict[str, Callable[[], Any]] = {
    "a file name that is no UTF-8": lambda: b"caf\xe9.csv".decode("utf-8", "surrogateescape"),
    "deep": deep,
    "within itself": within_itself,
    "its repr raises": Unspeakable,
    "a number of 400 digits": lambda: 10**400,
    "a text of megabytes": lambda: "x" * 3_000_000,
}


@pytest.mark.parametrize("name", list(ODD))
def test_a_job_runs_with_odd_parameters(root: Path, eventually: Callable[..., None], name: str) -> None:
    """The function gets the very object, and the record is strict JSON."""
    value = ODD[name]()

    def fit(run: Any, value: Any) -> Any:
        run.log(loss=1.0)
        return value

    job = tk.submit(fit, value=value)
    assert job.result(60) is value
    json.loads(job.paths.record.read_bytes())
    eventually(lambda: job.events()[-1].get("status") == "COMPLETED")


def test_a_text_that_is_no_utf_8_ends_no_job(root: Path) -> None:
    """As a name, a printed line, or what an exception says: it is written escaped."""
    odd = b"caf\xe9".decode("utf-8", "surrogateescape")

    def fit(run: Any) -> None:
        print(odd)
        raise FileNotFoundError(2, "No such file or directory", odd)

    job = tk.submit(fit, name=odd)
    with pytest.raises(FileNotFoundError):
        job.result(60)
    assert (job.state, job.record.name) == (Status.FAILED, "caf\\udce9")
    assert "caf\\udce9" in job.record.message
    assert "caf" in job.logs()


def test_the_harness_finds_a_recorder_that_cannot_write_such_a_text(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it once was: the record was written, but not compared with what had been written."""
    plainly = Recorder._write

    def write(self: Recorder, *, durable: bool) -> None:
        plainly(self, durable=durable)
        self.record.name.encode()

    monkeypatch.setattr(Recorder, "_write", write)
    job = tk.submit(lambda run: 7, name=b"caf\xe9".decode("utf-8", "surrogateescape"))
    with pytest.raises(UnicodeEncodeError):
        job.result(60)


def test_a_job_is_the_same_by_a_link_to_its_root(root: Path, tmp_path: Path) -> None:
    """Its state, its result and its end."""
    (tmp_path / "link").symlink_to(root)
    value = object()
    job = tk.submit(lambda run: value, root=tmp_path / "link", job_id="linked")
    assert job.result(60) is value
    assert tk.attach("linked", root=root).result(60) is value
