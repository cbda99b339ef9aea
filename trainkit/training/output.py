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
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO, cast

_target: contextvars.ContextVar[TextIO | None] = contextvars.ContextVar("trainkit_output", default=None)
_guard = threading.Lock()
_captures = 0


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
            sys.stdout = cast("TextIO", _ByThread(sys.stdout))
        if not isinstance(sys.stderr, _ByThread):
            sys.stderr = cast("TextIO", _ByThread(sys.stderr))


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
