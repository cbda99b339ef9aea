"""The launcher: a form that starts a job and then becomes its monitor."""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
import traitlets

from trainkit.api import view
from trainkit.api.job import Job
from trainkit.api.launching import submit, train
from trainkit.errors import OptionError, TrainkitError
from trainkit.files.store import Store
from trainkit.panels.feed import JobFeed, Message
from trainkit.panels.forms import FunctionForm, LimitsForm, TableForm
from trainkit.panels.monitor import answer, settle
from trainkit.panels.panel import Panel, opening, told
from trainkit.panels.tables import preview, tables
from trainkit.runners import RUNNERS
from trainkit.runners.task import describe
from trainkit.tabular.options import check_options
from trainkit.tabular.plan import check_table
from trainkit.tabular.read import read_table

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger("trainkit")

#: Options of the form that change how the file is read.
READ_OPTIONS = ("delimiter", "missing")


class Launcher(Panel):
    """A form; with a function, of its parameters; without one, of a table and the options to train on it.

    Args:
        store: where the job goes, and where tables are looked for.
        function: a training function.
    """

    kind = traitlets.Unicode("launcher", read_only=True).tag(sync=True)

    def __init__(self, store: Store, function: Callable[..., Any] | None = None) -> None:
        self.function = function
        self.form: FunctionForm | TableForm = FunctionForm(function) if function is not None else TableForm()
        # What the training takes itself under such a name is its own: a table has its own patience.
        self.limits = LimitsForm(without={field.name for field in self.form.fields})
        self.job: Job | None = None
        self._feed: JobFeed | None = None
        self._outbox: deque[Message] = deque()
        self._starting = False
        self._was_over = False
        self._table: tuple[str, pd.DataFrame] | None = None
        # The path that was chosen, and the options that it was read with.
        self._reading: tuple[str, dict[str, Any]] | None = None
        super().__init__(store)

    def everything(self) -> Message:
        """Return the form, or the whole job once there is one."""
        if self._feed is not None and self.job is not None:
            return self._feed.full()
        fields = msgspec.to_builtins([*self.form.fields, *self.limits.fields])
        return {
            "type": "form",
            "of": "function" if self.function is not None else "table",
            "title": describe(self.function) if self.function is not None else "Train on a table",
            "about": _first_line(self.function),
            "fields": fields,
            "runners": list(RUNNERS),
            "runner": "thread" if self.function is not None else "process",
            "root": str(self.store.root),
            "tables": [] if self.function is not None else tables(self.store.root),
        }, []

    def news(self) -> list[Message]:
        """Return answers that took a while, and what is new of the job."""
        found = [self._outbox.popleft() for _ in range(len(self._outbox))]
        if self._feed is not None and (message := self._feed.next()) is not None:
            found.append(message)
        return found

    def after_news(self) -> None:
        """When the job has ended, keep all of it in the widget's state and a picture in the notebook."""
        over = self.over()
        if over and not self._was_over and self.job is not None and self._feed is not None:
            self.publish()
            settle(self, self._feed, keep=False)
        self._was_over = over

    def over(self) -> bool:
        """Whether the job that was started has ended."""
        return self._feed is not None and self._feed.ended

    def heard(self, message: dict[str, Any]) -> Message | None:
        """Do what the page asks for."""
        kind = message.get("type")
        if self.job is not None and self._feed is not None:
            return answer(self, self._feed, self.job, message)
        values = message.get("values")
        given = values if isinstance(values, dict) else {}
        texts = {name: each for name, each in given.items() if isinstance(each, (str, bool, int, float))}
        if kind == "hello":
            return self.everything()
        if kind == "preview":
            self._beside(self._preview, str(message.get("path")))
        elif kind == "check":
            if self.function is None:
                number = message.get("number")
                self._beside(self._check_table, texts, number if isinstance(number, int) else 0)
                return None
            return {"type": "problems", "problems": self._problems(texts)}, []
        elif kind == "start" and not self._starting:
            self._starting = True
            self._beside(self._begin_job, message, texts)
        return None

    def text(self) -> str:
        """Return what can be started, as stable text."""
        if self.job is not None:
            return f"{self.job.name}: started from the form"
        if self.function is not None:
            given = ", ".join(f"{field.name}={field.default or '…'}" for field in self.form.fields)
            name = describe(self.function)
            return f"a form for {name}({given})\n  without a front end: tk.submit({name}, …)"
        names = [table["path"] for table in tables(self.store.root)]
        here = f"a form to train on a table; tables here: {', '.join(names[:20]) or 'none'}"
        return here + '\n  without a front end: tk.train("table.csv", target="column")'

    # --- details ---------------------------------------------------------------------------------

    def _beside(self, work: Callable[..., Message], *arguments: Any) -> None:
        """Do what takes long in a thread of its own; the answer goes out with the next refresh."""

        def do() -> None:
            try:
                self._outbox.append(work(*arguments))
            except Exception as error:  # noqa: BLE001 - a thread's boundary: whatever it is, the page tells it
                if not isinstance(error, (TrainkitError, OSError)):
                    _log.exception("the launcher could not do what the page asked for")
                self._starting = False
                about = "start" if work == self._begin_job else "table"
                message = told(error).replace(f"{self.store.root}{os.sep}", "")  # tables are offered below it
                self._outbox.append(({"type": "refused", "about": about, "message": message}, []))

        # In the panel's own context: on ipykernel 7 it says which cell the job's messages belong to.
        context = self._context.copy()
        threading.Thread(target=context.run, args=(do,), name="trainkit-launcher", daemon=True).start()

    def _preview(self, path: str) -> Message:
        if path not in [table["path"] for table in tables(self.store.root)]:
            raise OptionError(f"{path!r} is not one of the tables below {self.store.root}")
        return self._read(path, {})

    def _read(self, path: str, options: dict[str, Any]) -> Message:
        self._table = None  # a check after a failure is not about the table before
        self._reading = (path, options)
        frame = read_table(self.store.root / path, **options)
        self._table = (path, frame)
        return {"type": "preview", "path": path, **preview(frame)}, []

    def _check_table(self, texts: dict[str, Any], number: int) -> Message:
        """Say what training would do with the table and the options as they are, or what stands against it."""
        problems = self._problems(texts)
        if self._reading is not None and not problems:
            path, read_with = self._reading
            options = {name: value for name, value in self.form.values(texts).items() if name in READ_OPTIONS}
            if options != read_with:
                return self._read(path, options)  # the page asks for the next check when it has the new columns
        answer: dict[str, Any] = {"type": "problems", "problems": problems, "number": number}
        if self._table is not None and not problems:
            path, frame = self._table
            try:
                plan = check_table(frame, check_options(self.form.values(texts)), path=self.store.root / path)
            except TrainkitError as error:
                answer["refused"] = str(error)
            else:
                chosen = {name: view.brief(value) for name, value in plan.params.items() if value is not None}
                answer["plan"] = {"summary": plan.summary, "warnings": plan.warnings, "chosen": chosen}
        return answer, []

    def _problems(self, texts: dict[str, Any]) -> dict[str, str]:
        return self.form.problems(texts) | self.limits.problems(texts)

    def _begin_job(self, message: dict[str, Any], texts: dict[str, Any]) -> Message:
        values, limits = self.form.values(texts), self.limits.values(texts)
        runner = str(message.get("runner", "thread"))
        name = str(message.get("name") or "").strip() or None
        if self.function is not None:
            job = submit(self.function, values, runner=runner, name=name, root=self.store, **limits)
        else:
            job = self._train(str(message.get("path")), {**values, **limits}, runner, name)
        # For pages that come later, even while the kernel is busy: the job, no longer the form.
        self.opening = opening(JobFeed(self.store, job.id).full())
        self.job, self._feed = job, JobFeed(self.store, job.id)
        return {"type": "started", "job_id": job.id}, []

    def _train(self, path: str, values: dict[str, Any], runner: str, name: str | None) -> Job:
        if path not in [table["path"] for table in tables(self.store.root)]:
            raise OptionError("choose a table first")
        return train(self.store.root / path, root=self.store, runner=runner, name=name, **values)


def _first_line(function: Callable[..., Any] | None) -> str:
    if function is None:
        return "Choose a table and the column to predict."
    doc = (function.__doc__ or "").strip()
    return doc.splitlines()[0] if doc else ""
