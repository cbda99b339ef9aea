"""Sections that Ctrl-C cannot cut: what makes or removes the files of a job runs to its end, or does not begin."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
SECTION_THREAD = "trainkit-section"


def uninterrupted(section: Callable[[], T]) -> T:
    """Run a section that an interrupt of the caller neither cuts nor leaves half done.

    Python raises ``KeyboardInterrupt`` in the main thread, between any two instructions, also within the
    ``finally`` that would undo what was begun.  So a section of the main thread runs in a thread of its own, with
    the context variables of the caller, who waits for it.

    An interrupt before the section has begun cancels it.  A later one is raised once the section has ended; a
    second one is raised at once, and the section ends on its own.  A section should take milliseconds: whatever
    waits for others belongs outside.

    Where no thread can be started, the section runs in the thread of the caller, and can be interrupted.

    >>> uninterrupted(lambda: 1 + 1)
    2
    """
    if threading.current_thread() is not threading.main_thread():
        return section()
    call = _Call(section)
    thread = threading.Thread(target=contextvars.copy_context().run, args=(call.run,), name=SECTION_THREAD)
    try:
        # Started within the `try`: an interrupt may come out of `start` although the thread runs.
        try:
            thread.start()
        except RuntimeError:  # the system has no room for another thread, or the interpreter ends
            call.run()
        call.wait()
    except BaseException:
        if not call.cancel():
            call.wait()
        raise
    return call.result()


class _Call(Generic[T]):
    """One section, which begins once or never; plain locks, which need no clean-up, decide."""

    def __init__(self, section: Callable[[], T]) -> None:
        self._section = section
        self._decided = threading.Lock()
        self._over = threading.Lock()
        self._over.acquire()
        self._has_ended = False
        self._values: list[T] = []
        self._error: BaseException | None = None

    def run(self) -> None:
        if not self._decided.acquire(blocking=False):
            return  # cancelled
        try:
            self._values.append(self._section())
        except BaseException as error:  # noqa: BLE001 - the caller raises it
            self._error = error
        finally:
            self._has_ended = True
            self._over.release()

    def cancel(self) -> bool:
        """Keep the section from running; return False if it has begun."""
        return self._decided.acquire(blocking=False)

    def wait(self) -> None:
        # The flag is set first: an interrupt may come after the lock was taken, and it is taken only once.
        if not self._has_ended:
            self._over.acquire()

    def result(self) -> T:
        error, self._error = self._error, None
        if error is None:
            return self._values.pop()
        try:
            raise error
        finally:
            del error  # else the frames of the section, with all that they hold, would keep themselves alive
