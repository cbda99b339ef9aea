"""Monitor, dashboard and launcher: their messages, without a browser."""

from __future__ import annotations

import enum
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest

import trainkit as tk
from trainkit.errors import OptionError
from trainkit.files import claims
from trainkit.files.record import ErrorInfo, Record, Status
from trainkit.files.store import Store
from trainkit.panels.catalogue import Catalogue
from trainkit.panels.monitor import Monitor
from trainkit.panels.refresher import refresher

Eventually = Callable[..., None]


def slow(run: Any, lr: float = 0.1, epochs: int = 1000) -> str:
    """Train slowly."""
    for _ in run.epochs(epochs):
        for _ in run.batches(range(10)):
            time.sleep(0.005)
            run.log(loss=1.0 / run.step)
    return "done"


def quick(run: Any) -> str:
    run.log(loss=0.5, accuracy=0.75)
    return "done"


@pytest.fixture
def slow_job(root: Path, eventually: Eventually) -> Iterator[tk.Job]:
    job = tk.submit(slow)
    eventually(lambda: job.record.step > 2)
    yield job
    job.stop()
    job.wait(10)


def ended(store: Store, job_id: str, status: Status = Status.COMPLETED, **fields: Any) -> None:
    """Write a job that is over, as its owner would have left it."""
    record = Record(job_id=job_id, name=fields.pop("name", job_id), status=status, runner="thread", **fields)
    store.create(record).close()


# --- monitor -----------------------------------------------------------------------------------------


def test_a_monitor_follows_its_job(slow_job: tk.Job, page: Any) -> None:
    """An open panel hears of new points, several times a second but no more than four."""
    seen = page(slow_job.panel())
    time.sleep(1.1)
    assert 2 <= len(seen.sent) <= 6
    assert any(content["series"] for content in seen.sent)


def test_a_click_asks_the_job(slow_job: tk.Job, page: Any, eventually: Eventually) -> None:
    """Pause, resume and stop take effect; the page hears that each was asked."""
    seen = page(slow_job.panel())
    seen.say(type="ask", action="pause")
    assert seen.hears("asked", action="pause")["ok"] is True
    eventually(lambda: slow_job.state is Status.PAUSED)
    seen.say(type="ask", action="resume")
    eventually(lambda: slow_job.state is Status.RUNNING)
    seen.say(type="ask", action="stop")
    eventually(lambda: slow_job.state is Status.STOPPED)
    eventually(lambda: any(each["card"].get("status") == "STOPPED" for each in seen.of("full")))


def test_live_changes_reach_the_job(slow_job: tk.Job, page: Any, eventually: Eventually) -> None:
    """A parameter that is set through the panel is the job's from its next step on, and marked on its charts."""
    from trainkit.panels.picture import bundle

    seen = page(slow_job.panel())
    seen.say(type="ask", action="set", params={"lr": 0.01})
    assert seen.hears("asked", action="set")["ok"] is True
    eventually(lambda: slow_job.record.params["lr"] == 0.01)
    eventually(lambda: any(each.get("card", {}).get("changes") for each in seen.sent))
    slow_job.stop()
    slow_job.wait(10)
    assert "lr 0.1 → 0.01" in bundle(slow_job)["text/html"]


def test_a_change_that_cannot_be_is_told(slow_job: tk.Job, page: Any) -> None:
    """A page that asks for a parameter that the job does not have is told which there are."""
    seen = page(slow_job.panel())
    seen.say(type="ask", action="set", params={"rate": 0.01})
    assert "parameters: epochs, lr" in seen.hears("asked", action="set", ok=False)["message"]


@pytest.mark.parametrize("action", ["delete", "__class__", "wait", None, 7])
def test_a_page_cannot_ask_for_anything_else(slow_job: tk.Job, page: Any, action: Any) -> None:
    """Only what buttons ask for is done; the page is told what is allowed."""
    seen = page(slow_job.panel())
    seen.say(type="ask", action=action)
    answer = seen.hears("asked")
    assert answer["ok"] is False
    assert "allowed: stop" in answer["message"]


def test_what_a_job_refuses_is_told(slow_job: tk.Job, page: Any) -> None:
    """A thread cannot be killed: the panel says so and what to use."""
    seen = page(slow_job.panel())
    seen.say(type="ask", action="kill")
    assert "stop" in seen.hears("asked", ok=False)["message"]


def test_a_page_that_comes_later_gets_everything(slow_job: tk.Job, page: Any) -> None:
    """After a reload the page says hello, and is sent the whole job."""
    seen = page(slow_job.panel())
    seen.panel.feed._began -= 60  # past the first seconds, in which everything is sent anyway
    seen.panel.feed._full_at += 60
    seen.hears("delta")
    seen.sent.clear()
    seen.hears("delta")
    assert not seen.of("full")
    seen.say(type="hello")
    assert seen.hears("full")["card"]["job_id"] == slow_job.id


def test_a_zoom_gets_its_points(slow_job: tk.Job, page: Any) -> None:
    """The page asks for a range, and gets the points of it."""
    seen = page(slow_job.panel())
    seen.say(type="window", names=["loss"], low=1, high=3)
    answer = seen.hears("window")
    at = answer["series"][0]["at"]
    x = np.frombuffer(seen.buffers[seen.sent.index(answer)][at], "<f8")
    assert x.tolist() == [1, 2, 3, 4]


def test_nothing_is_left_when_a_job_has_ended(root: Path, page: Any, eventually: Eventually) -> None:
    """At the end all is sent, the widget's state holds all of it, and no thread stays."""
    job = tk.submit(slow, epochs=3)
    panel = job.panel()
    page(panel)
    job.wait(20)
    eventually(lambda: panel not in refresher.panels())
    card = panel.opening["content"]["card"]
    assert card["status"] == "COMPLETED"
    x = np.frombuffer(panel.opening["buffers"][0], "<f8")
    assert x.tolist() == list(range(1, 31))
    eventually(lambda: not [each for each in threading.enumerate() if each.name == "trainkit-panels"])


def test_closing_a_panel_ends_its_refreshing(slow_job: tk.Job) -> None:
    """Closed, a panel is out of the refresher; the job goes on."""
    panel = slow_job.panel()
    panel.begin()
    assert panel in refresher.panels()
    panel.close()
    panel.close()
    assert panel not in refresher.panels()
    assert slow_job.state is Status.RUNNING


@pytest.mark.parametrize("settles", [True, False])
def test_a_job_deleted_right_after_its_end(root: Path, page: Any, eventually: Eventually, settles: bool) -> None:
    """A panel that never saw how its job ended is not stuck: it says that it is gone, and stores what it saw."""
    store = Store(root)
    lock = store.create(Record(job_id="a", name="a", status=Status.RUNNING, runner="process"))
    store.paths("a").metrics.write_text('{"step":1,"attempt":1,"loss":1.0}\n')
    panel = Monitor(tk.attach("a"), settles=settles)
    seen = page(panel)
    store.paths("a").record.unlink()
    eventually(lambda: seen.of("full") and seen.of("full")[-1]["card"]["status"] == "DELETED")
    card = seen.of("full")[-1]["card"]
    assert (card["live"], card["actions"], card["controls"]) == (False, [], [])
    eventually(lambda: panel._stored is not None)
    assert panel._stored["text/plain"] == "a: deleted"
    assert "Deleted" in panel._stored["text/html"]
    assert "data:image/png" in panel._stored["text/html"]
    assert panel.opening["content"]["card"]["status"] == "DELETED"
    assert repr(panel) == "a: deleted"
    assert panel not in refresher.panels()
    assert not seen.of("trouble")
    lock.close()


@pytest.mark.parametrize("settles", [True, False])
@pytest.mark.parametrize("looks", range(5))
def test_a_job_deleted_between_any_two_looks(
    root: Path, page: Any, eventually: Eventually, monkeypatch: pytest.MonkeyPatch, looks: int, settles: bool
) -> None:
    """However often a panel looks before it stores what it saw: at whichever look the job is gone, the picture
    is stored."""
    store = Store(root)
    record = Record(job_id="a", name="a", status=Status.RUNNING, runner="thread")
    lock = store.create(record)
    store.paths("a").metrics.write_text('{"step":1,"attempt":1,"loss":1.0}\n')
    panel = Monitor(tk.attach("a"), settles=settles)
    record.status = Status.STOPPED
    store.write_record(record, durable=False)
    lock.close()
    read, left = Store.read, looks

    def read_or_delete(self: Store, job_id: str) -> Record:
        nonlocal left
        if left == 0:
            claims.remove(store.paths("a"))
        left -= 1
        return read(self, job_id)

    monkeypatch.setattr(Store, "read", read_or_delete)
    seen = page(panel)
    eventually(lambda: panel not in refresher.panels())
    assert not seen.of("trouble")
    assert panel._stored is not None
    assert "data:image/png" in panel._stored["text/html"]
    assert "Deleted" in panel._stored["text/html"] or "Stopped" in panel._stored["text/html"]
    assert repr(panel) in ("a: deleted", panel._stored["text/plain"])


# --- the stored output -------------------------------------------------------------------------------


def test_the_stored_output_becomes_a_picture(root: Path, page: Any, eventually: Eventually) -> None:
    """When the job ends, what the notebook stores is HTML and text, small, and the widget is gone."""
    job = tk.submit(quick)
    panel = Monitor(job, settles=True)
    page(panel)
    eventually(lambda: panel._stored is not None)
    stored = panel._stored
    assert stored is not None
    assert sorted(stored) == ["text/html", "text/plain"]
    assert "data:image/png;base64," in stored["text/html"]
    assert sum(map(len, stored.values())) < 28_000
    assert stored["text/plain"] == "quick: COMPLETED · step 1\n  loss 0.5  accuracy 0.75\n  runner: thread"
    assert panel._closed
    for private in (job.id, str(root)):
        assert private not in "".join(stored.values())


def test_what_users_wrote_is_escaped(root: Path) -> None:
    """Names, messages, metrics and errors of the user are text in the stored HTML, never markup."""
    from trainkit.panels.picture import bundle

    nasty = "<script>alert('1')</script>\"&"
    store = Store(root)
    error = ErrorInfo(
        "ValueError", nasty, f'Traceback\n  File "a.py", line 1, in f\n    {nasty}\nValueError: {nasty}'
    )
    ended(
        store,
        "a",
        Status.FAILED,
        name=nasty,
        message=nasty,
        metrics={nasty: 1.0},
        params={nasty: nasty},
        error=error,
    )
    store.paths("a").metrics.write_text('{"step":1,"attempt":1,"<script>":1.0}\n')
    html = bundle(tk.attach("a"))["text/html"]
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 5


def test_two_equal_runs_leave_equal_outputs(root: Path) -> None:
    """Neither ids nor times nor paths are in the stored output, so it does not differ between two runs."""
    from trainkit.panels.picture import bundle

    first, second = tk.submit(quick), tk.submit(quick)
    first.wait(10)
    second.wait(10)
    assert bundle(first) == bundle(second)


def test_a_failed_job_shows_the_line_of_the_user(root: Path) -> None:
    """The stored output of a failed job names the error and the line that raised it."""
    from trainkit.panels.picture import bundle

    def fit(run: Any) -> None:
        columns: dict[str, int] = {}
        columns["species"] += 1

    job = tk.submit(fit)
    job.wait(10)
    html = bundle(job)["text/html"]
    assert "KeyError" in html
    assert "test_panels.py, line " in html
    assert "columns[&quot;species&quot;] += 1" in html


# --- dashboard ---------------------------------------------------------------------------------------


def test_a_dashboard_lists_all_jobs(root: Path, page: Any, slow_job: tk.Job, eventually: Eventually) -> None:
    """Jobs that are there, jobs that come, jobs that change, jobs that go."""
    store = Store(root)
    ended(store, "old", metrics={"loss": 0.25}, progress=100.0)
    (root / "artifacts/jobs/damaged.json").write_text("{")
    seen = page(tk.dashboard())
    seen.say(type="hello")
    first = seen.hears("jobs", all=True, known=True)
    by_id = {row[0]: row for row in first["rows"]}
    assert by_id["old"][2:6] == ["COMPLETED", 100.0, "", "loss 0.25"]
    assert by_id["damaged"][2] == "UNREADABLE"
    assert by_id["damaged"][4].startswith("not JSON")  # not with the path: there is no room for it
    assert by_id[slow_job.id][2] == "RUNNING"
    ended(store, "new")
    store.delete("old")
    for wanted in (lambda each: "old" in each["gone"], lambda each: "new" in [row[0] for row in each["rows"]]):
        seen._eventually(
            lambda wanted=wanted: [each for each in seen.of("jobs") if not each["all"] and wanted(each)]
        )


def test_a_dashboard_overlays_curves(root: Path, page: Any) -> None:
    """The curves of the chosen jobs come together; the metric can be chosen; strangers are left out."""
    jobs = [tk.submit(quick) for _ in range(2)]
    for job in jobs:
        job.wait(10)
    seen = page(tk.dashboard())
    seen.hears("jobs", known=True)
    seen.say(type="curves", jobs=[*(job.id for job in jobs), "stranger", "../../etc"], metric="accuracy")
    curves = seen.hears("curves")
    assert curves["metric"] == "accuracy"
    assert curves["metrics"] == ["loss", "accuracy"]
    assert [series["name"] for series in curves["series"]] == [job.id for job in jobs]


def test_a_dashboard_opens_a_job(root: Path, page: Any, slow_job: tk.Job, eventually: Eventually) -> None:
    """One job whole, within the dashboard, with its buttons; then the list again."""
    seen = page(tk.dashboard())
    seen.hears("jobs", known=True)
    seen.say(type="open", job_id=slow_job.id)
    inner = seen.hears("job", job_id=slow_job.id)["message"]
    assert inner["type"] == "full"
    seen.say(type="job", message={"type": "ask", "action": "stop"})
    eventually(lambda: slow_job.state is Status.STOPPED)
    seen.say(type="shut")
    eventually(lambda: seen.panel._open is None)


def test_a_dashboard_opens_an_unreadable_job_with_the_reason(root: Path, page: Any) -> None:
    (root / "artifacts/jobs").mkdir(parents=True, exist_ok=True)
    (root / "artifacts/jobs/damaged.json").write_text("{")
    seen = page(tk.dashboard())
    seen.hears("jobs", known=True)
    seen.say(type="open", job_id="damaged")
    inner = seen.hears("job", job_id="damaged")["message"]
    assert inner["type"] == "trouble"
    assert "damaged.json: not JSON" in inner["message"]


def test_a_dashboard_deletes(root: Path, page: Any, slow_job: tk.Job) -> None:
    """What is over can be deleted; what runs cannot, and the page is told."""
    store = Store(root)
    ended(store, "old")
    seen = page(tk.dashboard())
    seen.say(type="ask", action="delete", job_id="old")
    seen.hears("asked", ok=True)
    assert "old" not in store.job_ids()
    seen.say(type="ask", action="delete", job_id=slow_job.id)
    assert "stop it first" in seen.hears("asked", ok=False)["message"]
    seen.say(type="open", job_id="../../../etc/passwd")
    assert "not a job id" in seen.hears("job", job_id="../../../etc/passwd")["message"]["message"]


def test_a_catalogue_reads_only_what_changed(root: Path) -> None:
    """A thousand jobs that are over are read once; later looks cost a listing."""
    store = Store(root)
    for number in range(1000):
        record = Record(job_id=f"job{number}", name="x", status=Status.COMPLETED)
        if number == 0:
            store.create(record).close()
        else:
            store.write_record(record, durable=False)
    catalogue = Catalogue(store)
    assert len(catalogue.scan()[0]) == 1000
    # A change that leaves no trace in the listing is not seen: so nothing but the listing is read.
    path = store.paths("job7").record
    stat = path.stat()
    path.write_bytes(path.read_bytes().replace(b'"name":"x"', b'"name":"z"'))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert catalogue.scan() == ([], [])
    store.write_record(Record(job_id="job5", name="other", status=Status.COMPLETED), durable=False)
    assert [row[1] for row in catalogue.scan()[0]] == ["other"]


def test_a_catalogue_sees_a_job_vanish(root: Path) -> None:
    """When an owner dies no file changes; the row says INTERRUPTED nevertheless."""
    store = Store(root)
    lock = store.create(Record(job_id="a", name="a", status=Status.RUNNING, runner="process"))
    catalogue = Catalogue(store)
    assert catalogue.scan()[0][0][2] == "RUNNING"
    lock.close()
    assert catalogue.scan()[0][0][2] == "INTERRUPTED"
    assert catalogue.scan() == ([], [])


# --- launcher ----------------------------------------------------------------------------------------


class Optimizer(enum.Enum):
    ADAM = 1
    SGD = 2


def fit(
    run: Any,
    hidden: Annotated[int, range(1, 513)],
    lr: float = 1e-3,
    act: Literal["relu", "gelu"] = "relu",
    optimizer: Optimizer = Optimizer.ADAM,
    amp: bool = False,
    sizes: list[int] | None = None,
    epochs: int = 2,
) -> str:
    """Fit a small network.

    Args:
        hidden: width of the hidden layer
    """
    run.log(loss=lr)
    return f"{hidden} {lr} {act} {optimizer.name} {amp} {sizes}"


def test_a_launcher_of_a_path_names_the_launcher_for_tables(root: Path) -> None:
    with pytest.raises(OptionError, match=r"got 'penguins.csv'; tk.launcher\(\) without a function is for tables"):
        tk.launcher("penguins.csv")  # type: ignore[arg-type]


def test_a_form_from_a_signature(root: Path, page: Any) -> None:
    """Types, defaults, choices, ranges and what the docstring says become fields."""
    panel = tk.launcher(fit)
    page(panel)
    content = panel.opening["content"]
    fields = {field["name"]: field for field in content["fields"]}
    own = ["hidden", "lr", "act", "optimizer", "amp", "sizes", "epochs"]
    assert list(fields) == [*own, "max_time", "patience"]
    hidden = fields["hidden"]
    assert (hidden["kind"], hidden["required"], hidden["minimum"], hidden["maximum"]) == ("int", True, 1, 512)
    assert hidden["about"] == "width of the hidden layer"
    assert fields["act"]["choices"] == ("relu", "gelu") or fields["act"]["choices"] == ["relu", "gelu"]
    assert list(fields["optimizer"]["choices"]) == ["ADAM", "SGD"]
    assert (fields["lr"]["default"], fields["amp"]["kind"], fields["sizes"]["kind"]) == ("0.001", "bool", "python")
    assert content["about"] == "Fit a small network."


def test_a_launcher_becomes_the_monitor(root: Path, page: Any, eventually: Eventually) -> None:
    """What was filled in reaches the function with its types; the panel then shows the job."""
    seen = page(tk.launcher(fit))
    values = {"hidden": "64", "lr": "1e-2", "act": "gelu", "optimizer": "SGD", "amp": "true", "sizes": "[1, 2]"}
    values |= {"max_time": "2h", "patience": "5"}
    seen.say(type="start", values=values, runner="thread", name="mine")
    job = tk.attach(seen.hears("started")["job_id"])
    assert job.result(10) == "64 0.01 gelu SGD True [1, 2]"
    assert job.name == "mine"
    assert (job.record.limits.max_time_s, job.record.limits.patience) == (7200, 5)
    assert seen.hears("full")["card"]["job_id"] == job.id
    eventually(lambda: seen.panel._closed)
    assert "text/html" in seen.panel._stored


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("hidden", "", "hidden is needed"),
        ("hidden", "many", "expected a whole number"),
        ("hidden", "513", "at most 512"),
        ("lr", "fast", "expected a number"),
        ("act", "tanh", "one of relu, gelu"),
        ("amp", "perhaps", "true or false"),
        ("sizes", "__import__('os')", "Python literal"),
        ("max_time", "soon", "such as '90s'"),
        ("patience", "0", "a whole number at least 1"),
    ],
)
def test_wrong_input_is_refused_kindly(root: Path, page: Any, name: str, text: str, told: str) -> None:
    """Each field says what is wrong with it, and nothing starts."""
    seen = page(tk.launcher(fit))
    values = {"hidden": "64", name: text}
    seen.say(type="check", values=values)
    assert told in seen.hears("problems")["problems"][name]
    seen.say(type="start", values=values, runner="thread")
    assert told in seen.hears("refused", about="start")["message"]
    assert tk.jobs() == []
    seen.say(type="start", values={"hidden": "64"}, runner="no such runner")
    seen._eventually(lambda: [each for each in seen.of("refused") if "no such runner" in each["message"]])
    assert tk.jobs() == []


def test_what_a_function_takes_itself_is_asked_once(root: Path, page: Any) -> None:
    """As in submit, a parameter that is named like an option of the job is the function's."""

    def fit(run: Any, patience: int = 3) -> int:
        return patience

    seen = page(tk.launcher(fit))
    names = [field["name"] for field in seen.panel.opening["content"]["fields"]]
    assert names == ["patience", "max_time"]
    seen.say(type="start", values={"patience": "8"}, runner="thread")
    job = tk.attach(seen.hears("started")["job_id"])
    assert job.result(10) == 8
    assert job.record.limits.patience is None


PENGUINS = "species,mass,flipper\n" + "".join(f"{'ab'[n % 2]},{3000 + n},{180 + n % 7}\n" for n in range(40))


def test_a_table_is_previewed_checked_and_trained_on(root: Path, page: Any, eventually: Eventually) -> None:
    """The whole way: which tables there are, what is in one, what would happen, and the job."""
    (root / "data").mkdir()
    (root / "data" / "penguins.csv").write_text(PENGUINS)
    (root / "artifacts").mkdir()
    (root / "artifacts" / "no.csv").write_text("a\n1\n")
    panel = tk.launcher()
    seen = page(panel)
    assert [table["path"] for table in panel.opening["content"]["tables"]] == ["data/penguins.csv"]
    seen.say(type="preview", path="data/penguins.csv")
    preview = seen.hears("preview")
    assert preview["target"] == "species"
    assert preview["row_count"] == 40
    assert [(column["name"], column["type"]) for column in preview["columns"]] == [
        ("species", "text"),
        ("mass", "whole number"),
        ("flipper", "whole number"),
    ]
    assert preview["rows"][0] == ["a", "3000", "180"]
    seen.say(type="check", values={"target": "species", "epochs": "3"}, number=1)
    plan = seen.hears("problems", number=1)["plan"]
    assert "classification of species" in plan["summary"]
    assert plan["chosen"]["epochs"] == "3"
    seen.say(type="check", values={"target": "species", "epochs": "0"}, number=2)
    assert "epochs" in seen.hears("problems", number=2)["problems"]
    seen.say(type="check", values={"target": "mass", "task": "classification"}, number=3)
    assert seen.hears("problems", number=3)["refused"]
    seen.say(
        type="start",
        values={"target": "species", "epochs": "2", "patience": "7", "max_time": "30min", "device": ""},
        path="data/penguins.csv",
        runner="thread",
        name="",
    )
    job = tk.attach(seen.hears("started")["job_id"])
    assert job.name == "penguins"
    assert (job.record.limits.max_time_s, job.record.limits.patience) == (1800, None), "a table has its own"
    assert job.record.params["patience"] == 7
    assert job.wait(60) is Status.COMPLETED


@pytest.mark.parametrize("path", ["../secret.csv", "/etc/passwd", "artifacts/no.csv", ""])
def test_only_tables_below_the_root(root: Path, page: Any, path: str) -> None:
    """A page cannot have a file read that the launcher did not offer."""
    shutil.copyfile(__file__, root.parent / "secret.csv")
    seen = page(tk.launcher())
    seen.say(type="preview", path=path)
    assert "not one of the tables" in seen.hears("refused")["message"]


def test_a_damaged_table_is_explained(root: Path, page: Any) -> None:
    """The reader's words, with the line, reach the page."""
    (root / "bad.csv").write_text("a,b\n1,2\n3\n")
    seen = page(tk.launcher())
    seen.say(type="preview", path="bad.csv")
    assert "line 3" in seen.hears("refused", about="table")["message"]


def test_a_damaged_table_leaves_nothing_of_the_one_before(root: Path, page: Any) -> None:
    """After a table that cannot be read, a check says nothing of the table that was chosen before it."""
    (root / "good.csv").write_text(PENGUINS)
    (root / "bad.csv").write_text("a,b\n1,2\n3\n")
    seen = page(tk.launcher())
    seen.say(type="preview", path="good.csv")
    seen.hears("preview")
    seen.say(type="preview", path="bad.csv")
    seen.hears("refused", about="table")
    seen.say(type="check", values={"target": "species"}, number=7)
    assert "plan" not in seen.hears("problems", number=7)


def test_a_table_is_read_again_as_the_form_says(root: Path, page: Any) -> None:
    """What a message advises for the delimiter and for missing values works in the form, and can be undone."""
    rows = "".join(f"{n}.5;{'pq'[n % 2]}\n" for n in range(40))
    (root / "t.csv").write_text("size;kind\nn/a;p\n" + rows)
    seen = page(tk.launcher())
    seen.say(type="preview", path="t.csv")
    assert [column["name"] for column in seen.hears("preview")["columns"]] == ["size;kind"]
    seen.say(type="check", values={"target": "size;kind"}, number=1)
    assert "delimiter=';'" in seen.hears("problems", number=1)["refused"]
    for values, kind in (({"delimiter": ";"}, "text"), ({"delimiter": ";", "missing": "n/a"}, "number")):
        seen.say(type="check", values=values, number=2)
        read = seen.hears("preview", path="t.csv", target="kind", row_count=41)
        seen.sent.clear()
        assert [(column["name"], column["type"]) for column in read["columns"]] == [
            ("size", kind),
            ("kind", "text"),
        ]
        seen.say(type="check", values={"target": "kind", **values}, number=3)
        answer = seen.hears("problems", number=3)
        assert ("missing=('n/a',)" in answer.get("refused", "")) is (kind == "text")
        assert ("plan" in answer) is (kind == "number")
    seen.say(type="check", values={"delimiter": "p"}, number=4)
    seen.hears("refused", about="table")
    seen.say(type="check", values={"target": "kind", "delimiter": ";"}, number=5)
    assert seen.hears("preview")["target"] == "kind"


# --- text --------------------------------------------------------------------------------------------


def test_text_where_nobody_looks(root: Path, slow_job: tk.Job) -> None:
    """Without a front end every panel is stable text, that does not move while a job does."""
    (root / "t.csv").write_text("a\n1\n")
    panels = [slow_job.panel(), tk.dashboard(), tk.launcher(), tk.launcher(fit)]
    try:
        texts = [repr(panel) for panel in panels]
        time.sleep(0.4)
        assert [repr(panel) for panel in panels] == texts
        for panel, text in zip(panels, texts, strict=True):
            assert panel._bundle() == {"text/plain": text}
            assert slow_job.id not in text
            assert str(root) not in text
    finally:
        for panel in panels:
            panel.close()
    assert texts[0].splitlines()[0] == "slow: in the background, in a thread"
    assert texts[1] == "1 job in the background"
    assert "t.csv" in texts[2]
    assert "fit(hidden=…, lr=0.001" in texts[3]


def test_the_module_is_whole() -> None:
    """The page's module is one file without imports, and carries the licence of what is vendored."""
    from importlib.resources import files

    from trainkit.panels import assets

    script = assets.script()
    assert script.rstrip().endswith("export default { render };")
    assert "import " not in [line[:7] for line in script.splitlines()]
    assert "innerHTML" not in "".join(
        (files("trainkit.panels") / "assets" / name).read_text()
        for name in assets._SCRIPTS
        if name != "uplot.min.js"
    )
    assert "MIT" in (files("trainkit.panels") / "assets" / "uplot.LICENSE").read_text()
    assert len(script) + len(assets.style()) < 180_000
