"""What a live panel costs its kernel: one update of a chart of two lines, beside a matplotlib picture of the same.

And how long it takes until a panel shows a stream of a million points, and one update of it after that.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from frame import Figure, Plan, apart, in_turn, median

_UPDATES = 60
_POINTS_PER_UPDATE = 25
_MILLION = 1_000_000


def measure(plan: Plan) -> Iterator[Figure]:
    """Yield the CPU time of an update, and the time to open a million points."""
    updates = 5 if plan.quick else _UPDATES
    points = 20_000 if plan.quick else _MILLION

    def one(function: Callable[..., Any], **told: Any) -> Callable[[], dict[str, float]]:
        return lambda: apart(function, **told)

    panels, pictures, opens = in_turn(
        plan.repeats,
        one(panel_updates, updates=updates),
        one(picture_updates, updates=updates),
        one(opening, points=points),
    )
    ours = median([each["cpu_ms"] for each in panels])
    theirs = median([each["cpu_ms"] for each in pictures])
    yield Figure(
        "a panel's update: CPU of the kernel",
        "ms",
        ours,
        plan.repeats,
        peers={"matplotlib PNG": theirs},
        ratio=ours / theirs,
        of="of a matplotlib PNG",
        goal="≤ 0.1",
        note=f"two lines, {_POINTS_PER_UPDATE} new points; with the reading of the files and the message's JSON; "
        f"{median([each['sent_bytes'] for each in panels]):,.0f} bytes sent, "
        f"{median([each['sent_bytes'] for each in pictures]):,.0f} for the PNG",
    )
    yield Figure(
        f"opening a panel of {points:,} points",
        "s",
        median([each["opening_s"] for each in opens]),
        plan.repeats,
        goal="≤ 1.5",
        note=f"all read after another {median([each['whole_s'] for each in opens]):.2f} s CPU by the way; "
        f"then {median([each['update_ms'] for each in opens]):.2f} ms CPU per update, "
        f"{median([each['sent_bytes'] for each in opens]) / 1024:,.0f} KB sent to draw it",
    )


def panel_updates(updates: int) -> dict[str, float]:
    """Return the mean CPU of one update of a live panel, from the files to the message."""
    from trainkit.panels.feed import JobFeed

    job = _Job(points=1200)
    feed = JobFeed(job.store, "cost")
    feed.full()
    feed._began -= 60  # past the first seconds, in which all is sent again
    feed.next()
    cpu_s, sent_bytes = 0.0, 0
    for _ in range(updates):
        job.log(_POINTS_PER_UPDATE)
        began = time.process_time()
        message = feed.next()
        assert message is not None
        content, buffers = message
        sent_bytes += len(json.dumps(content)) + sum(map(len, buffers))
        cpu_s += time.process_time() - began
    return {"cpu_ms": 1000 * cpu_s / updates, "sent_bytes": sent_bytes / updates}


def picture_updates(updates: int) -> dict[str, float]:
    """Return the mean CPU of drawing the same two lines with matplotlib, and writing the PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Drawing

    steps = list(range(1, 1201))
    figure = Drawing(figsize=(6, 2.5))
    axis = figure.subplots()
    (first,) = axis.plot(steps, steps)
    (second,) = axis.plot(steps, steps)
    canvas = FigureCanvasAgg(figure)
    cpu_s, sent_bytes = 0.0, 0
    for _ in range(updates):
        steps += range(steps[-1] + 1, steps[-1] + 1 + _POINTS_PER_UPDATE)
        began = time.process_time()
        for line in (first, second):
            line.set_data(steps, [1.0 / step for step in steps])
        axis.relim()
        axis.autoscale_view()
        file = io.BytesIO()
        canvas.print_png(file)
        cpu_s += time.process_time() - began
        sent_bytes += file.tell()
    return {"cpu_ms": 1000 * cpu_s / updates, "sent_bytes": sent_bytes / updates}


def opening(points: int) -> dict[str, float]:
    """Return the time until a new panel has drawn a long stream, the CPU until it has read all, and that of an
    update after it."""
    from trainkit.panels.feed import JobFeed

    job = _Job(points=points)
    began = time.perf_counter()
    feed = JobFeed(job.store, "cost")
    content, buffers = feed.full()
    sent_bytes = len(json.dumps(content)) + sum(map(len, buffers))
    opening_s = time.perf_counter() - began
    cpu_began = time.process_time()
    while not feed.history.complete:
        feed.next()
    whole_s = time.process_time() - cpu_began
    feed._began -= 60
    feed.next()
    updates_s = []
    for _ in range(_UPDATES):
        job.log(_POINTS_PER_UPDATE)
        cpu_began = time.process_time()
        feed.next()
        updates_s.append(time.process_time() - cpu_began)
    update_ms = 1000 * median(updates_s)
    return {"opening_s": opening_s, "whole_s": whole_s, "update_ms": update_ms, "sent_bytes": sent_bytes}


class _Job:
    """A job as its owner writes it, in the current folder's root."""

    def __init__(self, points: int) -> None:
        from trainkit.files.record import Record, Status
        from trainkit.files.store import Store

        self.store = Store.at(None)
        self.lock = self.store.create(
            Record(job_id="cost", name="cost", status=Status.RUNNING, runner="process", created_at=time.time())
        )
        self.step = 0
        self.log(points)

    def log(self, count: int) -> None:
        """Append lines of metrics, two values each."""
        first, self.step = self.step + 1, self.step + count
        lines = (
            f'{{"attempt":1,"epoch":1,"step":{step},"time":1.5,"loss":{1 / step},"val_loss":{1.1 / step}}}\n'
            for step in range(first, self.step + 1)
        )
        with open(self.store.paths("cost").metrics, "a", encoding="utf-8") as file:
            file.writelines(lines)
