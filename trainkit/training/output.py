"""What a thread prints goes into its job's log, what everybody else prints goes where it always went.

While a thread job runs, ``sys.stdout`` and ``sys.stderr`` are proxies that ask a context variable where the
text belongs; with the last such job they are put back.  A file at the bottom, never a widget.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import sys
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO, cast

_target: contextvars.ContextVar[TextIO | None] = contextvars.ContextVar("trainkit_output", default=None)
_guard = threading.Lock()
_captures = 0

#: How many streams may have had a proxy before the first of them is let go.
KEPT = 64


class _ByThread:
    """A stream that sends the text of a job's thread to its log."""

    def __init__(self, usual: TextIO) -> None:
        self.usual = usual

    def write(self, text: str) -> int:
        return (_target.get() or self.usual).write(text)

    def flush(self) -> None:
        (_target.get() or self.usual).flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(_target.get() or self.usual, name)


#: Up to Python 3.13 ``print`` holds no reference to the stream that it writes to: one that is freed when the last
#: job ends, in the middle of a notebook's ``print``, ends the kernel (https://github.com/python/cpython/issues/130163).
_proxies: deque[_ByThread] = deque(maxlen=KEPT)


@contextlib.contextmanager
def captured(path: Path) -> Iterator[None]:
    """Append what the current thread prints meanwhile to a file."""
    with open(path, "a", buffering=1, encoding="utf-8", errors="backslashreplace") as file:
        token = _target.set(file)
        _install()
        try:
            yield
        finally:
            _target.reset(token)
            _remove()


def send_output_to(path: Path) -> None:
    """Append all that this process prints from here on to a file, what is printed past Python too."""
    sys.stdout.flush()
    sys.stderr.flush()
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)


def _install() -> None:
    global _captures
    with _guard:
        _captures += 1
        if not isinstance(sys.stdout, _ByThread):
            sys.stdout = _proxy(sys.stdout)
        if not isinstance(sys.stderr, _ByThread):
            sys.stderr = _proxy(sys.stderr)


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
