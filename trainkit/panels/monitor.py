"""The monitor: one job, live, with its charts and its buttons."""

from __future__ import annotations

from typing import Any, TypeGuard

import traitlets

from trainkit.api.job import Job
from trainkit.api.view import actions
from trainkit.errors import OptionError, UnknownJobError
from trainkit.files.record import Status
from trainkit.files.scalars import MOST
from trainkit.panels.feed import JobFeed, Message
from trainkit.panels.panel import Panel
from trainkit.panels.picture import drawn
from trainkit.panels.plain import gone_text, live_text

#: What a button may ask for, and so what a page may.
ASKABLE = ("stop", "finish", "pause", "resume", "kill", "checkpoint")


class Monitor(Panel):
    """The panel of one job.

    Args:
        job: which.
        settles: whether the notebook's output becomes a picture when the job ends.
    """

    kind = traitlets.Unicode("monitor", read_only=True).tag(sync=True)

    def __init__(self, job: Job, *, settles: bool = False) -> None:
        self.job = job
        self.feed = JobFeed(job.store, job.id)
        self._settles = settles
        super().__init__(job.store)
        self._was_over = self.feed.ended
        if self._was_over:
            settle(self, self.feed, keep=True)

    def news(self) -> list[Message]:
        """Return what is new."""
        message = self.feed.next()
        return [] if message is None else [message]

    def after_news(self) -> None:
        """When the job has ended, keep all of it in the widget's state and a picture in the notebook."""
        if self.feed.ended and not self._was_over:
            self.publish()
            settle(self, self.feed, keep=not self._settles)
        self._was_over = self.feed.ended

    def everything(self) -> Message:
        """Return the whole job."""
        return self.feed.full()

    def over(self) -> bool:
        """Whether the job has ended."""
        return self.feed.ended

    def heard(self, message: dict[str, Any]) -> Message | None:
        """Do what the page asks for."""
        return answer(self, self.feed, self.job, message)

    def text(self) -> str:
        """Return the job as stable text."""
        try:
            return live_text(self.job.record)
        except UnknownJobError:
            return gone_text(self.feed.record)


def settle(panel: Panel, feed: JobFeed, *, keep: bool) -> None:
    """Let the notebook store a picture with text of a job that has ended.

    Args:
        panel: that shows it.
        feed: of the job.  What it has read is drawn, and nothing is read here: the job may be deleted at any time.
        keep: go on showing the panel as long as the kernel lives.
    """
    record = feed.record
    # What vanished and can go on keeps its panel: Resume must stay within reach.
    resumes = not feed.deleted and record.status is Status.INTERRUPTED and bool(actions(record))
    panel.settle(
        drawn(record, feed.history, feed.changes, deleted=feed.deleted),
        with_panel=keep or resumes,
    )


def answer(panel: Panel, feed: JobFeed, job: Job, message: dict[str, Any]) -> Message | None:
    """Answer what a page asks about one job; the same in every panel that shows one.

    Args:
        panel: where the answer goes.
        feed: of the job.
        job: the job.
        message: as the page sent it: nothing in it is trusted.
    """
    kind = message.get("type")
    if kind == "hello":
        feed.want_full()
    elif kind == "window":
        names, low, high = message.get("names"), message.get("low"), message.get("high")
        if not (isinstance(names, list) and _is_number(low) and _is_number(high)):
            raise OptionError("expected names, and a range of steps from low to high")
        return feed.window(list(dict.fromkeys(each for each in names if isinstance(each, str))), low, high)
    elif kind == "ask":
        ask(panel, job, message)
    return None


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and abs(value) <= MOST


def ask(panel: Panel, job: Job, message: dict[str, Any]) -> None:
    """Ask a job for what a button says, without waiting for it here."""
    action = message.get("action")
    params = message.get("params")

    def work() -> None:
        if action == "set" and isinstance(params, dict):
            job.set(**params)
        elif action in ASKABLE:
            getattr(job, str(action))()
        else:
            raise OptionError(f"{action!r:.80} cannot be requested of a job; allowed: {', '.join(ASKABLE)}")

    panel.in_background(work, about=f"{action!s:.80}")
