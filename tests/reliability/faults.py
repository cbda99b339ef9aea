"""A disk that fails at the k-th call: what one thread asks of the system below one folder, counted and refused.

What is put in place of the real thing is the call itself (``os.open``, ``os.write``, …), so that all code above it
is what users run.  Files opened by ``open`` write through ``os.write`` here, so that their writes count too.
"""

from __future__ import annotations

import builtins
import errno
import fcntl
import io
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainkit.files.interrupts import SECTION_THREAD

#: How a call fails.  ``short``: a write takes half of the data; ``torn``: and the next one none.
KINDS = ("ENOSPC", "EIO", "EACCES", "short", "torn")
_BY_PATH = ("mkdir", "rmdir", "unlink", "remove", "replace", "rename", "link", "scandir", "listdir")
_BY_HANDLE = ("write", "read", "fsync", "ftruncate")
#: What works on a full disk too.
_FREES = frozenset(
    {"unlink", "remove", "rmdir", "rename", "replace", "open for reading", "read", "scandir", "listdir", "flock"}
)


class Disk:
    """Calls below a folder, counted.

    Args:
        folder: only what lies below it counts.
        kind: one of :data:`KINDS`.
        at: which call fails, from 1 on; 0 for none.
        lasting: whether all calls after it fail as well.
    """

    def __init__(self, folder: Path, kind: str = "EIO", *, at: int = 0, lasting: bool = False) -> None:
        self.folder = str(folder)
        self.kind, self.at, self.lasting = kind, at, lasting
        self.calls: list[str] = []
        self.failed = 0
        self._handles: set[int] = set()
        self._thread = threading.get_ident()
        self._real: dict[str, Callable[..., Any]] = {}
        self._next_write_fails = False

    @contextmanager
    def failing(self) -> Iterator[Disk]:
        """Put the counted calls in the place of the real ones."""
        patches: list[tuple[Any, str, Any]] = [(os, "open", self._open), (os, "close", self._close)]
        patches += [(os, name, self._counted(name)) for name in (*_BY_PATH, *_BY_HANDLE)]
        patches += [(fcntl, "flock", self._counted("flock"))]
        patches += [(builtins, "open", self._open_file), (io, "open", self._open_file)]
        self._real = {name: getattr(os, name) for module, name, _ in patches if module is os}
        self._real |= {"file": builtins.open, "flock": fcntl.flock}
        saved = [(module, name, getattr(module, name)) for module, name, _ in patches]
        for module, name, function in patches:
            setattr(module, name, function)
        try:
            yield self
        finally:
            for module, name, function in saved:
                setattr(module, name, function)

    # --- the calls -------------------------------------------------------------------------------

    def _open(self, path: Any, flags: int, *rest: Any, **more: Any) -> int:
        counts = self._counts(path)
        if counts:
            writes = flags & (os.O_WRONLY | os.O_RDWR)
            self._tick("open" if writes else "open for reading")
        fd: int = self._real["open"](path, flags, *rest, **more)
        if counts:
            self._handles.add(fd)
        return fd

    def _close(self, fd: int) -> None:
        self._handles.discard(fd)
        self._real["close"](fd)

    def _counted(self, name: str) -> Callable[..., Any]:
        def call(target: Any, *rest: Any, **more: Any) -> Any:
            counts = self._counts(target)
            if counts:
                if name == "write" and self._cuts():
                    return self._real["write"](target, bytes(rest[0])[: max(1, len(rest[0]) // 2)])
                self._tick(name)
            return self._real[name](target, *rest, **more)

        return call

    def _open_file(self, path: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
        if isinstance(path, int) or not self._counts(path):
            return self._real["file"](path, mode, *rest, **more)
        if not set(mode) & set("wax"):
            self._tick("open for reading")
            return self._real["file"](path, mode, *rest, **more)
        flags = (
            os.O_WRONLY | os.O_CREAT | (os.O_EXCL if "x" in mode else os.O_APPEND if "a" in mode else os.O_TRUNC)
        )
        raw = _Raw(os.open(path, flags, 0o666))
        buffered = io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, more.get("encoding"), more.get("errors"))

    # --- which of them fails ---------------------------------------------------------------------

    def _counts(self, path: Any) -> bool:
        # A section that Ctrl-C cannot cut runs in a thread of its own, for the caller who waits for it.
        if threading.get_ident() != self._thread and threading.current_thread().name != SECTION_THREAD:
            return False
        return path in self._handles if isinstance(path, int) else os.fspath(path).startswith(self.folder)

    def _cuts(self) -> bool:
        """Whether this write is to take a part only."""
        if self.kind not in ("short", "torn") or len(self.calls) + 1 != self.at:
            return False
        self.calls.append("write")
        self.failed += 1
        self._next_write_fails = self.kind == "torn"
        return True

    def _tick(self, name: str) -> None:
        self.calls.append(name)
        now = len(self.calls)
        if self.kind in ("short", "torn"):
            if self._next_write_fails and name == "write":
                self._next_write_fails = self.lasting
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return
        frees = self.kind == "ENOSPC" and name in _FREES
        if not frees and (now == self.at or (self.lasting and 0 < self.at < now)):
            self.failed += 1
            number = getattr(errno, self.kind)
            raise OSError(number, os.strerror(number))


class _Raw(io.RawIOBase):
    """A file whose writes are ``os.write``."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        return self._fd

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def write(self, data: Any) -> int:
        return os.write(self._fd, data)

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self._fd)
