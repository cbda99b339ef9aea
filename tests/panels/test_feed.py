"""The messages of a job's panel, without any widget."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trainkit as tk
from trainkit.files.endings import Ending
from trainkit.files.record import Best, CheckpointInfo, EndedBy, Parent, RankInfo, Record, Resources, Status
from trainkit.files.recorder import Recorder
from trainkit.files.store import Store
from trainkit.panels.feed import MOST_POINTS, POINTS, JobFeed, Message

Eventually = Callable[..., None]


class Clock:
    """A clock that only moves when told."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Scene:
    """A job whose owner is this test, and its feed."""

    def __init__(self, root: Path) -> None:
        self.clock = Clock()
        self.store = Store(root)
        record = Record(job_id="scene", name="scene", status=Status.QUEUED, runner="process", created_at=1.0)
        self.lock = self.store.create(record)
        self.recorder = Recorder(self.store, record, clock=self.clock)
        self.feed = JobFeed(self.store, "scene", clock=self.clock, ticks=self.clock)

    def log(self, first: int, last: int, **values: float) -> None:
        for step in range(first, last):
            self.recorder.metrics.pending.append((step, 1, self.clock.now, values or {"loss": 1.0 / step}))
        while self.recorder.metrics.pending:
            self.recorder.tick()

    def settled(self) -> JobFeed:
        """The feed, past the time in which all is sent again and again."""
        self.feed.next()
        self.clock.now += 5
        self.feed.next()
        return self.feed


@pytest.fixture
def scene(root: Path) -> Scene:
    scene = Scene(root)
    scene.recorder.change(Status.RUNNING)
    return scene


def points_of(message: Message, name: str) -> tuple[list[float], list[float]]:
    content, buffers = message
    (series,) = [each for each in content["series"] if each["name"] == name]
    return (
        np.frombuffer(buffers[series["at"]], "<f8").tolist(),
        np.frombuffer(buffers[series["at"] + 1], "<f4").tolist(),
    )


def the(message: Message | None) -> Message:
    assert message is not None
    return message


def test_everything_first_then_only_what_is_new(scene: Scene) -> None:
    """The first message draws a job from nothing, the next ones hold the points that were added."""
    scene.log(1, 11)
    first = the(scene.feed.next())
    assert first[0]["type"] == "full"
    assert first[0]["card"]["status"] == "RUNNING"
    assert points_of(first, "loss")[0] == list(range(1, 11))
    scene.clock.now += 5
    scene.log(11, 13)
    assert the(scene.feed.next())[0]["type"] == "delta"
    scene.log(13, 15, loss=0.5, val_loss=0.75)
    delta = the(scene.feed.next())
    assert delta[0]["type"] == "delta"
    assert points_of(delta, "loss") == ([13, 14], [0.5, 0.5])
    assert points_of(delta, "val_loss") == ([13, 14], [0.75, 0.75])
    assert ["loss", ["loss", "val_loss"]] in [list(group) for group in delta[0]["card"]["groups"]]


def test_says_nothing_when_there_is_nothing_to_say(scene: Scene) -> None:
    """No message where no file has changed."""
    feed = scene.settled()
    assert feed.next() is None


def test_a_delta_is_small(scene: Scene) -> None:
    """A delta holds only the fields of the card that changed, and a bounded number of points."""
    scene.log(1, 100)
    scene.settled()
    scene.log(100, 3100, loss=0.5)
    content, buffers = the(scene.feed.next())
    assert content["type"] == "delta"
    assert "name" not in content["card"]
    assert "params" not in content["card"]
    assert sum(map(len, buffers)) <= 200 * 12


def test_the_sequence_has_no_gap(scene: Scene) -> None:
    """Each message has the next number, so that a page notices one that it missed."""
    numbers = []
    for step in range(1, 40):
        scene.log(step, step + 1)
        scene.clock.now += 0.5
        numbers.append(the(scene.feed.next())[0]["seq"])
    assert numbers == list(range(1, 40))


def test_a_page_that_comes_gets_everything(scene: Scene) -> None:
    """After a reload the whole job comes at once."""
    scene.log(1, 11)
    scene.settled()
    scene.feed.want_full()
    message = the(scene.feed.next())
    assert message[0]["type"] == "full"
    assert len(points_of(message, "loss")[0]) == 10


def test_a_page_never_holds_too_many_points(scene: Scene) -> None:
    """However long a job runs, a browser holds a bounded number of points; peaks stay."""
    scene.log(1, 2)
    scene.settled()
    held = 0
    most = 0
    for round_ in range(60):
        scene.log(100 * round_ + 2, 100 * round_ + 102, loss=99.0 if round_ == 30 else 1.0)
        scene.clock.now += 0.25
        content, buffers = the(scene.feed.next())
        sent = len(buffers[1]) // 4
        held = sent if content["type"] == "full" else held + sent
        most = max(most, held)
    assert most <= MOST_POINTS + 200
    last = the(scene.feed.full())
    assert len(points_of(last, "loss")[0]) <= POINTS
    assert max(points_of(last, "loss")[1]) == 99.0


def test_all_of_it_at_the_end(scene: Scene) -> None:
    """When the job ends, the last message is a full one with the terminal state."""
    scene.log(1, 11)
    scene.settled()
    assert not scene.feed.ended
    scene.recorder.close(Ending(Status.COMPLETED, EndedBy.EPOCHS))
    scene.lock.close()
    message = the(scene.feed.next())
    assert scene.feed.ended
    assert message[0]["type"] == "full"
    assert message[0]["card"]["status"] == "COMPLETED"
    assert message[0]["card"]["live"] is False


def test_a_job_whose_process_vanished_is_interrupted(scene: Scene) -> None:
    """No file changes when an owner dies; the panel says so nevertheless, and offers to go on."""
    scene.recorder.note(resumable=True, checkpoint=CheckpointInfo("artifacts/jobs/scene/resume.pt"))
    scene.recorder.write_now()
    scene.settled()
    scene.lock.close()
    card = the(scene.feed.next())[0]["card"]
    assert card["status"] == "INTERRUPTED"
    assert [action["name"] for action in card["actions"]] == ["resume"]
    assert card["checkpoint"] == "artifacts/jobs/scene/resume.pt"


def test_a_resumed_attempt_replaces_its_points(scene: Scene) -> None:
    """Points that an older attempt drew too far are taken back from the page."""
    scene.log(1, 11)
    scene.settled()
    scene.recorder.record.attempt = 2
    scene.log(6, 8, loss=5.0)
    message = the(scene.feed.next())
    assert message[0]["type"] == "full"
    assert points_of(message, "loss")[0] == [1, 2, 3, 4, 5, 6, 7]


def test_a_window_is_finer(scene: Scene) -> None:
    """Zooming in shows points that the whole had no room for."""
    scene.log(1, 20_001)
    scene.feed.next()
    whole = points_of(scene.feed.full(), "loss")[0]
    window = scene.feed.window(["loss", "unheard of"], 5000, 5200)
    assert len(whole) <= POINTS
    assert points_of(window, "loss")[0] == list(range(4999, 5202))


def test_the_card_holds_what_people_ask_for(scene: Scene) -> None:
    """State, place, speed, best, parameters and the buttons of the state."""
    scene.recorder.note(
        params={"lr": 0.001, "note": "<b>"},
        best=Best("val_loss", 0.25, 7, 2),
        epoch=2,
        epochs=4,
        step=7,
        total_steps=20,
    )
    scene.recorder.warn("beware")
    scene.recorder.write_now()
    card = scene.feed.full()[0]["card"]
    assert card["headline"] == "epoch 2/4 · step 7/20"
    assert card["params"] == [("lr", "0.001"), ("note", "<b>")]
    assert card["best"] == {"metric": "val_loss", "step": 7, "value": 0.25}
    assert [action["name"] for action in card["actions"]] == ["pause", "finish", "stop", "kill"]
    assert card["warnings"] == [{"step": 7, "message": "beware", "cause": None, "passed": False}]
    assert scene.feed.full()[0]["card"]["warnings"] == card["warnings"]


def test_a_control_for_every_number(scene: Scene) -> None:
    """While a job runs each number has a control, the followed ones first; flags and texts have none."""
    params = {"hidden": 64, "lr": 0.001, "amp": True, "act": "relu", "clip": float("inf"), "weight_decay": 0.0}
    scene.recorder.note(params=params)
    scene.recorder.write_now()
    controls = scene.feed.full()[0]["card"]["controls"]
    assert [each["name"] for each in controls] == ["lr", "weight_decay", "hidden"]
    assert [(each["log"], each["zero"], each["whole"]) for each in controls] == [
        (True, False, False),
        (True, True, False),
        (False, False, True),
    ]
    for status, steerable in ((Status.PAUSED, True), (Status.STOPPING, False)):
        scene.recorder.change(status)
        assert bool(scene.feed.full()[0]["card"]["controls"]) is steerable


def test_a_slider_keeps_its_range(scene: Scene) -> None:
    """The ends stay where they are while the value moves between them, and follow a value that leaves them."""

    def lr(value: float) -> dict[str, Any]:
        scene.recorder.note(params={"lr": value})
        scene.recorder.write_now()
        found: dict[str, Any] = scene.feed.full()[0]["card"]["controls"][0]
        return found

    first = lr(1e-3)
    assert (first["low"], first["high"]) == (1e-5, 0.1)
    assert {**lr(0.05), "value": 1e-3} == first
    assert lr(3.0)["high"] > 3.0


def test_changes_stand_at_their_steps(scene: Scene) -> None:
    """A live change comes with its step and in words; what a resumed attempt went back behind is gone."""
    for step, before, after in ((3, 0.1, 0.01), (8, 0.01, 0.001)):
        scene.recorder.note(step=step)
        scene.recorder.event("change", params={"lr": after}, before={"lr": before})
    scene.log(1, 11)
    card = the(scene.feed.next())[0]["card"]
    assert card["changes"] == [{"step": 3, "text": "lr 0.1 → 0.01"}, {"step": 8, "text": "lr 0.01 → 0.001"}]
    scene.recorder.record.attempt = 2
    scene.log(6, 8)
    assert [each["step"] for each in the(scene.feed.next())[0]["card"]["changes"]] == [3]


def test_a_warning_that_has_passed_says_so(scene: Scene) -> None:
    """Of one cause the newest word is shown, and what has passed is no warning any more."""
    scene.recorder.warn("the disk is nearly full", cause="disk")
    scene.recorder.warn("other")
    scene.recorder.clear("disk", "there is room again")
    warnings = scene.feed.full()[0]["card"]["warnings"]
    assert [(each["message"], each["passed"]) for each in warnings] == [
        ("other", False),
        ("there is room again", True),
    ]
    scene.recorder.warn("the disk is nearly full again", cause="disk")
    assert [each["passed"] for each in scene.feed.full()[0]["card"]["warnings"]] == [False, False]


@pytest.mark.parametrize(("step", "fact"), [(40, ("branch of", "old at step 40")), (0, ("repeats", "old"))])
def test_a_child_says_of_which_job(scene: Scene, step: int, fact: tuple[str, str]) -> None:
    """A branch names its parent and the step, a repetition the job that it repeats; also when that is deleted."""
    scene.store.create(Record(job_id="parent", name="old", status=Status.COMPLETED)).close()
    scene.recorder.note(parent=Parent("parent", step))
    scene.recorder.write_now()
    assert scene.feed.full()[0]["card"]["facts"][0] == fact
    scene.store.delete("parent")
    assert "gone" in JobFeed(scene.store, "scene").full()[0]["card"]["facts"][0][1]


def test_ranks_stand_in_a_table(scene: Scene) -> None:
    """Processes that train together are shown each; one alone needs no table."""
    scene.recorder.note(ranks=[RankInfo(0, "a", 1, "cuda:0", 12.5, 0.25)])
    scene.recorder.write_now()
    assert scene.feed.full()[0]["card"]["ranks"] == []
    ranks = [RankInfo(0, "a", 1, "cuda:0", 12.5, 0.25), RankInfo(1, "b", 2)]
    scene.recorder.note(ranks=ranks, restarts=2, resources=Resources(ranks=2, retries=3))
    scene.recorder.write_now()
    card = scene.feed.full()[0]["card"]
    assert card["ranks"] == [
        {"rank": 0, "node": "a", "device": "cuda:0", "steps_per_s": 12.5, "loading_share": 0.25},
        {"rank": 1, "node": "b", "device": None, "steps_per_s": None, "loading_share": None},
    ]
    assert dict(card["facts"])["restarts"] == "2 of 3"


def test_memory_of_the_process(scene: Scene) -> None:
    """The memory shown is that of the process that runs the job."""
    from trainkit.files.owners import this_process

    me = this_process()
    scene.recorder.note(pid=me.pid, process_started_at=me.started_at, boot_id=me.boot_id, host=me.host)
    scene.recorder.write_now()
    facts = dict(scene.feed.full()[0]["card"]["facts"])
    assert facts["memory"].endswith("MB")


def test_a_job_of_another_host_falls_silent(scene: Scene) -> None:
    """Nobody here can ask another host: the panel says since when nothing was heard, and never that it died."""
    scene.recorder.note(pid=1, process_started_at=1.0, boot_id="another", host="another")
    scene.recorder.write_now()
    assert the(scene.feed.next())[0]["card"]["silent_s"] is None
    scene.clock.now += 42
    card = the(scene.feed.next())[0]["card"]
    assert card["silent_s"] == 42
    assert card["status"] == "RUNNING"


def test_an_older_job_of_the_same_name_is_noticed(root: Path, eventually: Eventually) -> None:
    """Who runs the launch cell again is told of the job that still runs."""

    def fit(run: Any) -> None:
        for _ in run.batches(iter(int, 1)):
            time.sleep(0.005)
            run.log(loss=1.0)

    first = tk.submit(fit)
    eventually(lambda: first.record.step > 0)
    second = tk.submit(fit)
    try:
        eventually(lambda: second.record.step > 0)
        feed = JobFeed(second.store, second.id)
        assert [rival["job_id"] for rival in feed.full()[0]["card"]["rivals"]] == [first.id]
        assert JobFeed(first.store, first.id).full()[0]["card"]["rivals"] == []
        first.stop()
        first.wait(10)
        assert feed.full()[0]["card"]["rivals"] == []
    finally:
        for job in (first, second):
            job.stop()
            job.wait(10)


def test_a_card_says_how_lines_are_called(root: Path) -> None:
    """The page does not decide which metrics share a chart, and which lines are of validation or test rows."""

    def fit(run: Any) -> None:
        run.log({"loss": 1.0, "eval/loss": 1.0, "test_acc": 0.5, "lr": 0.1})

    job = tk.submit(fit)
    job.wait(10)
    card = JobFeed(job.store, job.id).full()[0]["card"]
    assert card["groups"] == [("loss", ["loss", "eval/loss"]), ("acc", ["test_acc"]), ("lr", ["lr"])]
    assert card["lines"] == {
        "loss": ("training", "training"),
        "eval/loss": ("validation", "validation"),
        "test_acc": ("test", "test"),
    }
