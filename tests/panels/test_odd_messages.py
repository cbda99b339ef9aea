"""Messages of a page that make no sense: a panel answers or ignores them, and stays fresh."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import trainkit as tk
from trainkit.files.store import Store
from trainkit.panels.dashboard import Dashboard
from trainkit.panels.launcher import Launcher
from trainkit.panels.monitor import Monitor
from trainkit.panels.panel import Panel
from trainkit.panels.refresher import Refresher, refresher


def fit(run: Any, lr: float = 0.1, hidden: int = 8) -> str:
    for _ in range(3):
        run.log(loss=lr, accuracy=0.5)
    return "done"


_odd = st.sampled_from(
    [
        None,
        True,
        0,
        -1,
        2**70,
        10**400,
        0.5,
        math.nan,
        math.inf,
        "",
        "loss",
        "a",
        "\x00",
        "x" * 10_000,
        "../../etc",
        [],
        {},
        [1],
        ["loss"] * 1000,
        [["loss"]],
        {"lr": "x"},
        {"lr": [1]},
        {"self": 1},
        {"type": "hello"},
        {"type": []},
        {"type": "window", "names": 3},
    ]
)
_type = st.sampled_from(
    ["hello", "here", "window", "ask", "curves", "open", "shut", "job", "preview", "check", "start"]
)
_fields = [
    "names",
    "low",
    "high",
    "action",
    "params",
    "jobs",
    "metric",
    "job_id",
    "message",
    "path",
    "values",
    "number",
    "runner",
    "name",
]
_known = {
    "action": st.sampled_from(["stop", "pause", "set", "checkpoint", "kill"]),
    "job_id": st.just("job"),
    "names": st.just(["loss"]),
    "jobs": st.just(["job"]),
    "message": st.fixed_dictionaries({"type": _type | _odd}, optional={"names": _odd, "low": _odd, "high": _odd}),
    "values": st.dictionaries(st.sampled_from(["lr", "hidden", "max_time", "target", "odd"]), _odd, max_size=3),
}
_messages = st.fixed_dictionaries(
    {"type": _type | _odd}, optional={name: _odd | _known.get(name, _odd) for name in _fields}
)


@pytest.fixture
def panels(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Panel]]:
    """A panel of each kind, which only the test refreshes."""
    monkeypatch.setattr(refresher, "add", lambda panel: None)
    logging.getLogger("trainkit").setLevel(logging.CRITICAL)
    job = tk.submit(fit, job_id="job")
    job.result()
    store = Store(root)
    made = {
        "monitor": Monitor(job),
        "dashboard": Dashboard(store),
        "table": Launcher(store),
        "function": Launcher(store, fit),
    }
    yield made
    logging.getLogger("trainkit").setLevel(logging.NOTSET)
    for panel in made.values():
        panel.close()


def heard(panel: Panel, message: Any) -> list[dict[str, Any]]:
    """Return what a page gets to hear after it has sent a message."""
    sent: list[dict[str, Any]] = []

    def send(content: dict[str, Any], buffers: list[bytes] | None = None) -> None:
        json.dumps(content, allow_nan=False)  # which is how it travels
        sent.append(content)

    panel.send = send
    panel._receive(panel, message, [])
    panel.refresh()
    return sent


def is_fresh(panel: Panel) -> bool:
    """Whether a page that comes now gets all there is."""
    panel._scan_at = 0.0
    return any(each["type"] in ("full", "jobs", "form") for each in heard(panel, {"type": "hello"}))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["monitor", "dashboard", "table", "function"]),
    messages=st.lists(_messages | _odd, max_size=4),
)
def test_no_message_ends_the_refreshing(panels: dict[str, Panel], kind: str, messages: list[Any]) -> None:
    panel = panels[kind]
    for message in messages:
        if kind != "function" or not isinstance(message, dict) or message.get("type") != "start":
            heard(panel, message)
    assert is_fresh(panel)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("monitor", {"type": "window", "names": 3, "low": 0, "high": 1}),
        ("monitor", {"type": "window", "names": ["loss"], "low": "x", "high": 1}),
        ("monitor", {"type": "window", "names": ["loss"], "low": math.nan, "high": math.inf}),
        ("monitor", {"type": "window", "names": ["loss"], "low": 0, "high": 10**400}),
        ("monitor", {"type": "window"}),
    ],
)
def test_a_message_that_cannot_be_answered_is_refused(panels: dict[str, Panel], kind: str, message: Any) -> None:
    assert [each["type"] for each in heard(panels[kind], message) if each["type"] == "trouble"] == ["trouble"]
    assert is_fresh(panels[kind])


@pytest.mark.parametrize("given", [{"job_id": "../x"}, {"job_id": "missing"}, {}])
def test_a_job_that_cannot_be_opened_is_reported_where_it_would_be_shown(
    panels: dict[str, Panel], given: dict[str, str]
) -> None:
    (reply,) = [each for each in heard(panels["dashboard"], {"type": "open", **given}) if each["type"] == "job"]
    assert reply["job_id"] == str(given.get("job_id"))
    assert reply["message"]["type"] == "trouble"
    assert is_fresh(panels["dashboard"])


def test_a_fault_in_answering_is_shown_and_the_next_message_answered(
    panels: dict[str, Panel], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(message: dict[str, Any]) -> None:
        raise RecursionError("deep")

    with monkeypatch.context() as patched:
        patched.setattr(panels["monitor"], "heard", fail)
        (trouble,) = [each for each in heard(panels["monitor"], {"type": "x"}) if each["type"] == "trouble"]
    assert trouble["message"] == "a message of this page was ignored, since it makes no sense (RecursionError)"
    assert is_fresh(panels["monitor"])


def test_a_panel_that_cannot_report_its_end_does_not_end_the_others(
    eventually: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def refresh(self) -> bool:
            raise KeyError("x")

        def broken(self, error: Exception) -> None:
            raise RuntimeError("no page")

    class Sound:
        rounds = 0

        def refresh(self) -> bool:
            self.rounds += 1
            return self.rounds < 5

        def broken(self, error: Exception) -> None:
            raise AssertionError("it is not broken")

    sound = Sound()
    own = Refresher(period_s=0.01)
    own.add(Broken())
    own.add(sound)
    eventually(lambda: sound.rounds == 5)
    eventually(lambda: own.panels() == [])
    own.end()
    assert "could not report what ended it" in caplog.text
