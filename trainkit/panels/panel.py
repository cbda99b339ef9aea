"""What all panels have in common: one widget, refreshed from files by one thread, closed without a trace."""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import anywidget
import traitlets

from trainkit.errors import TrainkitError
from trainkit.files.store import Store
from trainkit.panels import assets
from trainkit.panels.feed import Message
from trainkit.panels.frontend import attached, ipython_shell
from trainkit.panels.refresher import refresher

_log = logging.getLogger("trainkit")

#: A page says "here" every 20 s, a hidden one every minute.  If the kernel is free to listen and hears nothing
#: for so long, nobody looks; what is sent on would pile up in the server.
UNSEEN_S = 150.0
#: A page that hears nothing for 15 s tells its reader that the kernel may be gone.
ALIVE_EVERY_S = 4.0
#: After a click there may be news of a job that had ended: it may have been resumed.
LIVELY_S = 10.0


class Panel(anywidget.AnyWidget):
    """A widget that the refresher keeps fresh.

    A subclass gives ``news()``, ``everything()`` and ``heard(message)``.

    Args:
        store: whose jobs it shows.
    """

    kind = traitlets.Unicode(read_only=True).tag(sync=True)
    #: The style sheet lays out; a layout would be a second widget for every panel.
    layout = traitlets.Any(None, allow_none=True)
    #: A full message: what a page draws before it has heard anything else.
    opening = traitlets.Dict().tag(sync=True)

    def __init__(self, store: Store) -> None:
        self._esm, self._css = assets.script(), assets.style()
        self.store = store
        # On ipykernel 7 the cell that messages belong to is a context variable: ours, not the refresher's.
        self._context = contextvars.copy_context()
        self._heard_at = self._said_at = time.monotonic()
        self._asked_at: float | None = None
        self._inbox: list[dict[str, Any]] = []
        self._lively_until = 0.0
        self._closed = self._drawn = self._leaving = False
        self._guard = threading.RLock()
        self._handles: list[Any] = []
        self._stored: dict[str, Any] | None = None
        self._replaced = False
        super().__init__(opening=opening(self.everything()))
        self.on_msg(self._receive)

    # --- for subclasses --------------------------------------------------------------------------

    def news(self) -> list[Message]:
        """Return what is new.  Called by the refresher's thread."""
        raise NotImplementedError

    def everything(self) -> Message:
        """Return a full message."""
        raise NotImplementedError

    def after_news(self) -> None:
        """Do what is due once the news are sent."""

    def over(self) -> bool:
        """Whether there can be no more news."""
        return False

    def heard(self, message: dict[str, Any]) -> Message | None:
        """Answer a message of the page, in the refresher's thread."""
        return None

    def text(self) -> str:
        """Return what is shown where there is no front end: nothing that differs between two equal runs."""
        raise NotImplementedError

    # --- the life of a panel ---------------------------------------------------------------------

    def open(self) -> None:
        """Make the widget known to the front end, if there is one; nbclient would store it in the notebook."""
        if self.comm is None and not self._closed and attached():
            super().open()
            self._drawn = True
            comm: Any = self.comm
            if hasattr(comm, "_reply_subshell_for"):
                # ipykernel 7.4 sends what the page says to the shell that published last, which may be busy.
                comm._reply_subshell_for = lambda data, default: default

    def begin(self) -> None:
        """Stay fresh from now on; called when the panel is displayed."""
        refresher.add(self)

    def publish(self) -> None:
        """Put all there is into the widget's state, for pages that come later."""
        self.opening = opening(self.everything())

    def close(self) -> None:
        """Remove the panel from the page and from the kernel."""
        if not self._closed:
            self._closed = True
            refresher.remove(self)
            super().close()

    def refresh(self) -> bool:
        """Send what is new; called by the refresher."""
        return bool(self._context.run(self._refresh))

    def _refresh(self) -> bool:
        if self._leaving:
            self.close()
        if self._closed:
            return False
        if self._inbox and self._replaced:
            self._deliver(self._replacement())
        while self._inbox:
            self._answer(self._inbox.pop(0))
        for message in self.news():
            self._deliver(message)
        self.after_news()
        if self._closed:
            return False
        if time.monotonic() - self._said_at > ALIVE_EVERY_S:
            self._deliver(({"type": "alive"}, []))
        lively = time.monotonic() < self._lively_until
        return (lively or not self.over()) and not self._unseen()

    def _answer(self, message: dict[str, Any]) -> None:
        """Act on a message of the page; nothing that it holds ends the refreshing."""
        try:
            if (answer := self.heard(message)) is not None:
                self._deliver(answer)
        except (TrainkitError, OSError) as error:
            self._deliver(({"type": "trouble", "message": told(error)}, []))
        except Exception as error:  # noqa: BLE001 - a page may send anything
            _log.warning("a panel ignored a message of its page: %.200r", message, exc_info=True)
            trouble = f"a message of this page was ignored, since it makes no sense ({type(error).__name__})"
            self._deliver(({"type": "trouble", "message": trouble}, []))

    def broken(self, error: Exception) -> None:
        """Tell the page what ended the refreshing."""
        if not self._closed:
            self._context.copy().run(self._deliver, ({"type": "trouble", "message": told(error)}, []))

    def _deliver(self, message: Message) -> None:
        content, buffers = message
        self._said_at = time.monotonic()
        self.send(content, buffers or None)

    def _receive(self, _widget: Any, content: Any, buffers: Any) -> None:
        """Take a message of the page.  This may run beside a cell: it notes the message and does nothing else."""
        self._heard_at, self._asked_at = time.monotonic(), None
        kind = content.get("type") if isinstance(content, dict) else None
        if kind == "settled":
            # No page shows this widget any more: the picture has taken its place in the notebook.
            self._leaving = True
        elif kind is not None and kind != "here":
            self._inbox.append(content)
            self._lively_until = self._heard_at + LIVELY_S
        if not self._closed and (self._leaving or not self.over() or self._inbox):
            refresher.add(self)

    def _unseen(self) -> bool:
        """Whether no page shows this panel any more; a page that comes says so and wakes it."""
        if time.monotonic() - self._heard_at < UNSEEN_S:
            return False
        kernel = getattr(ipython_shell(), "kernel", None)
        loop = getattr(kernel, "io_loop", None)
        if loop is None:
            return False
        if self._asked_at is None:
            # A kernel that is busy with a cell hears nobody: ask it to say when it is free.
            self._asked_at = float("inf")
            loop.add_callback(self._free)
        return time.monotonic() - self._asked_at > 2.0

    def _free(self) -> None:
        if self._asked_at is not None:
            self._asked_at = time.monotonic()

    # --- in the notebook -------------------------------------------------------------------------

    def _ipython_display_(self) -> None:
        from IPython.display import DisplayHandle

        self.open()
        with self._guard:
            handle: Any = DisplayHandle()  # type: ignore[no-untyped-call]
            handle.display(self._bundle(), raw=True)
            self._handles.append(handle)
        if self.comm is not None and not self._closed:
            self.begin()

    def _bundle(self) -> dict[str, Any]:
        """Return what the notebook stores now, by MIME type."""
        if not self._drawn:
            return {"text/plain": self.text()}
        if self._stored is not None:
            return self._stored
        bundle: Any = super()._repr_mimebundle_()
        return {**(bundle[0] if isinstance(bundle, tuple) else bundle), "text/plain": self.text()}

    def settle(self, data: dict[str, str], *, with_panel: bool = False) -> None:
        """Let the notebook store this in the place of the panel.

        Args:
            data: by MIME type.
            with_panel: keep the panel beside it, and show that as long as the kernel lives.
        """
        with self._guard:
            self._stored = {**self._bundle(), **data} if with_panel else dict(data)
            self._replaced = not with_panel
            if self._replaced:
                self._deliver(self._replacement())  # first: the update takes the page's view of us away
            for handle in self._handles:
                handle.update(self._stored, raw=True)
        if self._replaced and self.comm is None:
            self.close()

    def _replacement(self) -> Message:
        """What a page puts into the notebook itself if it was loaded again: it no longer knows of our displays.

        The widget stays until a page says that this is done, and so for a page that is opened again later.
        """
        model_id = "" if self.comm is None else str(self.comm.comm_id)
        return {"type": "settle", "model_id": model_id, "data": self._stored}, []

    def __repr__(self) -> str:
        return self.text()

    def in_background(self, work: Callable[[], Any], *, about: str) -> None:
        """Do something that may wait, in a thread of its own, and tell the page how it went.

        Args:
            work: what to do; what it raises is shown.
            about: what it is called in messages, for example ``stop``.
        """

        def do() -> None:
            answer = {"type": "asked", "action": about, "ok": True, "message": ""}
            try:
                work()
            except Exception as error:  # noqa: BLE001 - a thread's boundary: whatever it is, the page tells it
                if not isinstance(error, (TrainkitError, OSError)):
                    _log.exception("%s could not be done", about)
                answer |= {"ok": False, "message": told(error)}
            refresher.add(self)
            if not self._closed:
                self._deliver((answer, []))

        context = self._context.copy()
        threading.Thread(target=context.run, args=(do,), name=f"trainkit-panel-{about}", daemon=True).start()


def opening(message: Message) -> dict[str, Any]:
    """Return a message as a widget's state holds it."""
    content, buffers = message
    return {"content": content, "buffers": buffers}


def told(error: Exception) -> str:
    """Return an error as a page shows it."""
    return str(error) if isinstance(error, TrainkitError) else f"{type(error).__name__}: {error}"
