"""Where a job in a thread of a notebook's kernel displays: below the cell that started it, in places of its own.

``display``, ``plt.show`` and ``clear_output`` of IPython know only the output of a cell, so a job that clears
it would remove its own panel, and a thread that the job starts would write into whichever cell runs.  Here each
display has a place with an id; ``clear_output`` lets the next displays take the places of those before, and
touches nothing else.
"""

from __future__ import annotations

import contextlib
import contextvars
import sys
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

_NOTHING = {"text/plain": ""}


class Displays:
    """The places where one job displays.

    Args:
        publisher: IPython's, of this kernel.
        parent: the header of the request that ran the cell; the front end puts what names it below the cell.
    """

    def __init__(self, publisher: Any, parent: dict[str, Any]) -> None:
        self.publisher = publisher
        self.parent = parent
        self._places: list[str] = []  # ids, in the order of the page
        self._cleared: list[str] = []  # those that the next displays take
        self._empties: set[str] = set()
        self._is_begun_anew = False
        self._guard = threading.Lock()

    def publish(
        self,
        data: dict[str, Any],
        metadata: dict[str, Any] | None = None,
        *args: Any,
        transient: dict[str, Any] | None = None,
        update: bool = False,
        **kwargs: Any,
    ) -> None:
        """Display something, as ``DisplayPublisher.publish`` does."""
        with self._guard:
            transient = dict(transient or {})
            if not update and "display_id" in transient:
                self._places.append(transient["display_id"])
            elif not update:
                update = bool(self._cleared)
                place = self._cleared.pop(0) if update else uuid.uuid4().hex
                transient["display_id"] = place
                if not update:
                    self._places.append(place)
            self._is_begun_anew = True
            self._empties.discard(transient.get("display_id", ""))
            self._send(data, metadata, *args, transient=transient, update=update, **kwargs)

    def clear_output(self, wait: bool = False) -> None:
        """Let the next displays take the places of those before.

        Args:
            wait: leave those as they are until then; else they are emptied at once.
        """
        with self._guard:
            self._empty()
            self._cleared = list(self._places)
            self._is_begun_anew = False
            if not wait:
                self._empty()

    def end(self) -> None:
        """Empty what was cleared and has not been replaced, unless nothing has: the last picture stays."""
        with self._guard:
            if self._is_begun_anew:
                self._empty()

    def _empty(self) -> None:
        for place in self._cleared:
            if place in self._empties:
                continue
            self._empties.add(place)
            self._send(_NOTHING, None, transient={"display_id": place}, update=True)

    def _send(self, *args: Any, **kwargs: Any) -> None:
        with self._below_its_cell():
            self.publisher.publish(*args, **kwargs)

    @contextlib.contextmanager
    def _below_its_cell(self) -> Iterator[None]:
        """Let what the current thread sends name the cell; in other threads, ipykernel names the newest one."""
        if not hasattr(self.publisher, "register_hook"):
            yield
            return

        def name_cell(message: dict[str, Any]) -> dict[str, Any]:
            message["parent_header"] = self.parent
            return message

        self.publisher.register_hook(name_cell)
        try:
            yield
        finally:
            self.publisher.unregister_hook(name_cell)


_here: contextvars.ContextVar[Displays | None] = contextvars.ContextVar("trainkit_displays", default=None)


def note_cell() -> None:
    """Let a job that is started in this context display below the cell that runs now, if this is a kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    kernel = getattr(shell, "kernel", None)
    before = _here.get()
    if before is not None:  # a job starts a job
        _here.set(Displays(before.publisher, before.parent))
    elif shell is not None and kernel is not None:
        _here.set(Displays(shell.display_pub, dict((kernel.get_parent("shell") or {}).get("header") or {})))


def displays_here() -> Displays | None:
    """Return where the job of this context displays; None outside a kernel."""
    return _here.get()


def publisher_classes() -> list[type]:
    """Return the classes through which IPython displays, if this is a kernel."""
    displays = _here.get()
    if displays is None:
        return []
    capturing = sys.modules["IPython.core.displaypub"].CapturingDisplayPublisher  # of %%capture
    return list(dict.fromkeys([type(displays.publisher), capturing]))


def pyplot_registry() -> type | None:
    """Return where pyplot keeps its open figures if they are shown when a cell ends; else None."""
    matplotlib, helpers = sys.modules.get("matplotlib"), sys.modules.get("matplotlib._pylab_helpers")
    if _here.get() is None or matplotlib is None or helpers is None:
        return None
    # Elsewhere figures stay open between cells, and a job may well draw into one of the notebook's.
    return helpers.Gcf if "inline" in str(matplotlib.get_backend()) else None


class FiguresApart(OrderedDict[int, Any]):
    """The open figures of pyplot: each job has its own, and a cell that ends does not show, and close, them.

    Args:
        mine: returns the figures of the current thread's job, or of the notebook.
    """

    def __init__(self, mine: Callable[[], OrderedDict[int, Any]]) -> None:
        super().__init__()
        self._mine = mine


def _delegated(name: str) -> Callable[..., Any]:
    def method(self: FiguresApart, *args: Any, **kwargs: Any) -> Any:
        return getattr(self._mine(), name)(*args, **kwargs)

    return method


for _name in (
    *(
        "__contains__",
        "__delitem__",
        "__eq__",
        "__getitem__",
        "__iter__",
        "__len__",
        "__reversed__",
        "__setitem__",
    ),
    *("clear", "copy", "get", "items", "keys", "move_to_end", "pop", "popitem", "setdefault", "update", "values"),
):
    setattr(FiguresApart, _name, _delegated(_name))
