"""What a job prints in a thread goes into its log; what the notebook prints goes where it always went.

While a thread job runs, ``sys.stdout`` and ``sys.stderr`` are proxies that ask a context variable where the text
belongs, and code that holds the original streams (a logging handler, say) is redirected as well.  Threads and
tasks of pools that the job starts belong to it.  With the last such job everything is put back.  A file at the
bottom, never a widget.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import contextvars
import functools
import os
import sys
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO, cast

from trainkit.files.opening import open_fd, opened_as_text
from trainkit.training.displays import Displays, FiguresApart, displays_here, publisher_classes, pyplot_registry


class _JobOutput:
    """Where the threads of a job write.

    Attributes:
        file: the log; None once the job has ended: what is printed later goes where it would without the job.
        displays: where they display; None outside a kernel.
        figures: of pyplot, that they have open.
    """

    __slots__ = ("displays", "figures", "file")

    def __init__(self, file: TextIO, displays: Displays | None) -> None:
        self.file: TextIO | None = file
        self.displays = displays
        self.figures: OrderedDict[int, Any] = OrderedDict()


_output: contextvars.ContextVar[_JobOutput | None] = contextvars.ContextVar("trainkit_output", default=None)
_guard = threading.Lock()
_captures = 0

#: How many streams may have had a proxy before the first of them is let go.
KEPT = 64


def _log() -> TextIO | None:
    """Return the log of the job that the current thread works for, or None."""
    output = _output.get()
    return None if output is None else output.file


def _flush(usual: Callable[[], None]) -> None:
    file = _log()
    if file is not None:
        try:
            return file.flush()
        except ValueError:
            if not file.closed:
                raise
    return usual()


class _ByThread:
    """A stream that sends the text of a job's thread to its log."""

    def __init__(self, usual: TextIO) -> None:
        self.usual = usual

    def write(self, text: str) -> int:
        output = _output.get()
        if output is None or (file := output.file) is None:
            return self.usual.write(text)
        try:
            return file.write(text)
        except ValueError:
            if not file.closed:
                raise
        return self.usual.write(text)  # the job has ended at this moment

    def flush(self) -> None:
        _flush(self.usual.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(_log() or self.usual, name)


#: Up to Python 3.13 ``print`` holds no reference to the stream that it writes to: one that is freed when the last
#: job ends, in the middle of a notebook's ``print``, ends the kernel (https://github.com/python/cpython/issues/130163).
_proxies: deque[_ByThread] = deque(maxlen=KEPT)


@contextlib.contextmanager
def captured(path: Path) -> Iterator[None]:
    """Append what the current thread, and threads that it starts, print meanwhile to a file."""
    displays = displays_here()
    with opened_as_text(path, "a", buffering=1, errors="backslashreplace") as file:
        output = _JobOutput(file, displays)
        token = _output.set(output)
        _install()
        try:
            yield
        finally:
            _output.reset(token)
            if displays is not None:
                with contextlib.suppress(Exception), _apart():  # the kernel may be about to end; the job has
                    displays.end()
            _remove()
            output.file = None


def send_output_to(path: Path) -> None:
    """Append all that this process prints from here on to a file, what is printed past Python too."""
    sys.stdout.flush()
    sys.stderr.flush()
    fd = open_fd(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)


def _install() -> None:
    global _captures
    with _guard:
        _captures += 1
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is not None and not isinstance(stream, _ByThread):
                setattr(sys, name, _proxy(stream))
                _replace(stream, "write", _routed_write)
                _replace(stream, "flush", _routed_flush)
        _replace(threading.Thread, "start", _start_within)
        _replace(concurrent.futures.ThreadPoolExecutor, "submit", _submit_within)
        for publisher in publisher_classes():
            _replace(publisher, "publish", functools.partial(_displayed_within, "publish"))
            _replace(publisher, "clear_output", functools.partial(_displayed_within, "clear_output"))
        if (registry := pyplot_registry()) is not None:
            _replace(registry, "figs", _figures_apart)


def _proxy(usual: TextIO) -> TextIO:
    proxy = next((each for each in _proxies if each.usual is usual), None)
    if proxy is None:
        proxy = _ByThread(usual)
        _proxies.append(proxy)
    return cast("TextIO", proxy)


def _remove() -> None:
    global _captures
    with _guard:
        _captures -= 1
        if _captures == 0:
            # Only what is still ours: somebody may have redirected the streams over our heads.
            if isinstance(sys.stdout, _ByThread):
                sys.stdout = sys.stdout.usual
            if isinstance(sys.stderr, _ByThread):
                sys.stderr = sys.stderr.usual
            while _replaced:
                _put_back(*_replaced.pop())


# --- what holds the streams, and threads ------------------------------------------------------------------------

#: What was replaced: the owner, the name, the replacement, and what the owner itself had under that name.
_replaced: list[tuple[Any, str, Any, Any]] = []
_NOTHING = object()


def _replace(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Let an object or a class have something else under a name, until the last job has ended."""
    if any(each is owner and of == name for each, of, _, _ in _replaced):
        return
    own = vars(owner).get(name, _NOTHING) if hasattr(owner, "__dict__") else _NOTHING
    replacement = make(getattr(owner, name))
    with contextlib.suppress(AttributeError, TypeError):  # a stream that takes no attributes stays as it is
        setattr(owner, name, replacement)
        _replaced.append((owner, name, replacement, own))


def _put_back(owner: Any, name: str, replacement: Any, own: Any) -> None:
    if vars(owner).get(name) is not replacement:
        return  # somebody else has replaced it, too
    if own is _NOTHING:
        delattr(owner, name)
    else:
        setattr(owner, name, own)


def _routed_write(usual: Callable[[str], int]) -> Callable[[str], int]:
    @functools.wraps(usual)
    def write(text: str) -> int:
        file = _log()
        if file is not None:
            try:
                return file.write(text)
            except ValueError:
                if not file.closed:
                    raise
        return usual(text)

    return write


def _routed_flush(usual: Callable[[], None]) -> Callable[[], None]:
    @functools.wraps(usual)
    def flush() -> None:
        _flush(usual)

    return flush


def _start_within(usual: Callable[..., None]) -> Callable[..., None]:
    """Let a thread that a job starts work for the job; a new thread has an empty context in Python before 3.14."""

    @functools.wraps(usual)
    def start(thread: threading.Thread) -> None:
        output = _output.get()
        if output is None or output.file is None:
            usual(thread)
            return
        run, own = thread.run, vars(thread).get("run")

        def put_back() -> None:
            if own is None:
                vars(thread).pop("run", None)
            else:
                vars(thread)["run"] = own

        def run_within() -> None:
            put_back()
            _output.set(output)
            run()

        vars(thread)["run"] = run_within
        try:
            usual(thread)
        except BaseException:  # it has been started before, or the system has no room for one more
            put_back()
            raise

    return start


def _submit_within(usual: Callable[..., Any]) -> Callable[..., Any]:
    """Let a task of a pool belong to the job that submits it, even if another one started its threads."""

    @functools.wraps(usual)
    def submit(pool: Any, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return usual(pool, _call_within, _output.get(), function, *args, **kwargs)

    return submit


def _call_within(output: _JobOutput | None, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    token = _output.set(output)
    try:
        return function(*args, **kwargs)
    finally:
        _output.reset(token)


def _displayed_within(name: str, usual: Callable[..., Any]) -> Callable[..., Any]:
    """Let what a job displays, or clears, be so in the places of the job."""

    @functools.wraps(usual)
    def within(publisher: Any, *args: Any, **kwargs: Any) -> Any:
        output = _output.get()
        if output is None or output.displays is None:
            return usual(publisher, *args, **kwargs)
        with _apart():
            return getattr(output.displays, name)(*args, **kwargs)

    return within


def _figures_apart(usual: OrderedDict[int, Any]) -> FiguresApart:
    def mine() -> OrderedDict[int, Any]:
        output = _output.get()
        return usual if output is None else output.figures

    return FiguresApart(mine)


@contextlib.contextmanager
def _apart() -> Iterator[None]:
    """Work for no job."""
    token = _output.set(None)
    try:
        yield
    finally:
        _output.reset(token)
