"""A function and its arguments, as they travel: pickled by value, with errors that name what cannot go."""

from __future__ import annotations

import functools
import inspect
import io
import linecache
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType
from typing import IO, Any

import cloudpickle
import msgspec

from trainkit.errors import TaskError, telling
from trainkit.files.paths import JobPaths
from trainkit.files.trust import job_key, seal, verify, without_seal
from trainkit.files.whole import read_whole, write_atomically
from trainkit.runners.logging_setup import logging_setup, set_up_logging
from trainkit.runners.main_module import become_main, definitions, globals_of_main, is_of_main

#: What is sealed.
_TASK, _OUTCOME = "task", "result"


class Task(msgspec.Struct, frozen=True):
    """What a job runs: ``function(run, **arguments)``.

    ``params`` is what is shown of the arguments and can be changed live; arguments may hold more, a table say.
    """

    function: Callable[..., Any]
    arguments: dict[str, Any]


def dump_task(task: Task, *, key: str | None = None) -> bytes:
    """Pickle a task by value, with what a fresh interpreter needs to load it.

    Args:
        task: the task.
        key: that of the job, to seal the pickle with.

    Raises:
        TaskError: something cannot be pickled; the message names it.
    """
    file = io.BytesIO()
    sources = _sources(task.function)
    envelope = {
        "sys_path": list(sys.path),
        "folder": os.getcwd(),
        "sources": sources,
        "logging": logging_setup(),
        "definitions": definitions(_pickled),
    }
    pickle.dump(envelope, file)
    try:
        # After it, and not within: what takes a gigabyte is not held once more.
        pickler = ValuePickler(file)
        # The names are collected while the rest is pickled, before their turn comes.
        pickler.dump((task.function, task.arguments, pickler.of_main))
    except Exception as error:  # pickling runs the code of any class, which may raise anything
        raise TaskError(_explain(task, error)) from error
    if key is not None:
        file.write(seal(file.getvalue(), key, _TASK))
    return file.getvalue()


def write_task(paths: JobPaths, task: Task) -> None:
    """Write a task into its job's folder, sealed and readable by this user only.

    Raises:
        TaskError: something cannot be pickled.
        StoreError: it cannot be written.
    """
    write_atomically(paths.task, dump_task(task, key=job_key(paths.job_id)), durable=False, private=True)


def read_task(paths: JobPaths, *, own_process: bool = True) -> Task:
    """Load the task of a job.

    Args:
        paths: of the job.
        own_process: as for :func:`load_task`.

    Raises:
        StoreError: it is damaged, or cannot be read.
        TrustError: somebody else has written it.
    """
    return load_task(checked_task(paths), own_process=own_process, file_path=paths.task)


def checked_task(paths: JobPaths, *, trust: bool = False, verb: str = "resume") -> bytes:
    """Return the pickle of a job's task if it may be loaded.

    Args:
        paths: of the job.
        trust: accept one that somebody else has written.
        verb: the method of a job that the caller wants it for.

    Raises:
        StoreError: it is damaged, or cannot be read.
        TrustError: somebody else has written it.
    """
    with telling(paths.task):
        data = read_whole(paths.task)
    advice = None if trust else f"job.{verb}(trust=True) runs it (`trainkit {verb} --trust`)"
    verify(data, paths.job_id, _TASK, name=paths.task.name, advice=advice)
    return data


def adopt_task(data: bytes, paths: JobPaths) -> None:
    """Write a task that :func:`checked_task` returned into a job's folder, under a seal of this user's.

    Raises:
        StoreError: it cannot be written.
    """
    data = without_seal(data)
    write_atomically(paths.task, data + seal(data, job_key(paths.job_id), _TASK), durable=False, private=True)


def load_task(data: bytes, *, own_process: bool = True, file_path: Path | None = None) -> Task:
    """Undo :func:`dump_task`.

    Args:
        data: what it returned.
        own_process: whether this process is the task's alone; then it works in the folder, finds modules in the
            order, and has the ``__main__``, of the process that made the task.
        file_path: where it is, for processes that this one spawns.
    """
    file = io.BytesIO(data)
    envelope = pickle.load(file)
    path_before = list(sys.path)
    if own_process:
        sys.path[:] = [*envelope["sys_path"], *(path for path in sys.path if path not in envelope["sys_path"])]
        if os.path.isdir(envelope["folder"]):
            os.chdir(envelope["folder"])
        set_up_logging(envelope.get("logging"))
    else:
        sys.path += [path for path in envelope["sys_path"] if path not in sys.path]
    for name, lines in envelope["sources"].items():
        # The cells of a notebook are no files; without this, tracebacks from them would show no code.
        linecache.cache[name] = (sum(map(len, lines)), None, lines, name)
    if own_process:
        with become_main(envelope.get("definitions", {}), str(file_path) if file_path else None) as main:
            function, arguments, *of_main = pickle.load(file)
            main.update(*of_main)
        return Task(function, arguments)
    try:
        function, arguments, *_ = pickle.load(file)
    finally:
        sys.path[:] = path_before  # what is imported by now stays; the notebook finds its modules as before
    return Task(function, arguments)


def definitions_in(data: bytes) -> dict[str, bytes]:
    """Return the definitions of ``__main__`` that travel with a task, each pickled."""
    found: dict[str, bytes] = pickle.load(io.BytesIO(data)).get("definitions", {})
    return found


def main_of(data: bytes) -> dict[str, Any]:
    """Return the classes and functions of ``__main__`` that a task mentions."""
    file = io.BytesIO(data)
    pickle.load(file)
    _, _, *of_main = pickle.load(file)
    return dict(*of_main)


def dump_outcome(
    value: Any,
    error: BaseException | None,
    *,
    returned: bool,
    limit_bytes: int | None = None,
    key: str | None = None,
) -> bytes:
    """Pickle what a function returned or raised.

    Args:
        value: what it returned.
        error: what it raised.
        returned: whether it returned.
        limit_bytes: how large the pickle may become.
        key: that of the job, to seal the pickle with.

    Raises:
        TaskError: it cannot be pickled, or takes more than the limit.
    """
    try:
        data = _pickled((value, error, returned), limit_bytes)
    except Exception as failure:  # as in dump_task
        what = "raised" if error is not None else "returned"
        thing = type(error if error is not None else value).__name__
        raise TaskError(f"what the function {what}, a {thing}, cannot be pickled: {failure}") from failure
    return data if key is None else data + seal(data, key, _OUTCOME)


def load_outcome(paths: JobPaths, *, trust: bool = False) -> tuple[Any, BaseException | None, bool]:
    """Read what :func:`dump_outcome` wrote.

    Args:
        paths: of the job.
        trust: load also what somebody else has written, which can run any code.

    Raises:
        StoreError: it is damaged, or cannot be read.
        TrustError: somebody else has written it.
    """
    with telling(paths.result):
        data = read_whole(paths.result)
    advice = None if trust else "job.result(trust=True) loads it"
    verify(data, paths.job_id, _OUTCOME, name=paths.result.name, advice=advice)
    try:
        value, error, returned = pickle.loads(data)
    except Exception:  # noqa: BLE001 - an exception class may take other arguments than it gives; the record has its text
        return None, None, False
    return value, error, returned


def describe(function: Callable[..., Any]) -> str:
    """Return a name for a function, whatever callable it is.

    >>> describe(print), describe(functools.partial(print, end=""))
    ('print', 'print')
    """
    if isinstance(function, functools.partial):
        return describe(function.func)
    return getattr(function, "__name__", None) or type(function).__name__


class BoundedBuffer(io.BytesIO):
    """A buffer that refuses what would exceed a limit, so that pickling something huge ends early.

    >>> BoundedBuffer(3).write(b"four")
    Traceback (most recent call last):
    ValueError: it takes more than 3 bytes
    """

    def __init__(self, limit_bytes: int) -> None:
        super().__init__()
        self._limit_bytes = limit_bytes

    def write(self, data: Any) -> int:
        """Write data if there is room."""
        if self.tell() + memoryview(data).nbytes > self._limit_bytes:
            raise ValueError(f"it takes more than {self._limit_bytes:,} bytes")
        return super().write(data)


def _pickled(value: Any, limit_bytes: int | None = None) -> bytes:
    file = io.BytesIO() if limit_bytes is None else BoundedBuffer(limit_bytes)
    ValuePickler(file, limit_bytes).dump(value)
    return file.getvalue()


def _reduce_code(code: CodeType) -> tuple[Any, ...]:
    # From 3.1.3 on, cloudpickle leaves out where code came from; a traceback could not show its lines.
    make, arguments = cloudpickle.Pickler.dispatch_table[CodeType](code)
    return make, tuple(
        code.co_filename if isinstance(argument, str) and argument == "<dynamic-code>" else argument
        for argument in arguments
    )


class ValuePickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles by value, and code with the name of its file."""

    dispatch_table = cloudpickle.Pickler.dispatch_table.new_child({CodeType: _reduce_code})

    def __init__(self, file: IO[bytes], limit_bytes: int | None = None) -> None:
        super().__init__(file)
        self._limit_bytes = limit_bytes
        main, stand_in = globals_of_main()
        self.globals_ref[main] = stand_in
        #: The classes and functions of ``__main__`` that were pickled so far, by name.
        self.of_main: dict[str, Any] = {}

    def reducer_override(self, value: Any) -> Any:
        """Note what is of ``__main__``, refuse what is too large, and reduce the rest."""
        if is_of_main(value):
            self.of_main[value.__name__] = value
        if self._limit_bytes is not None:
            # A tensor copies its memory, be it on a GPU, before the buffer could refuse it.
            size_bytes = getattr(value, "nbytes", 0)
            if isinstance(size_bytes, int) and size_bytes > self._limit_bytes:
                raise ValueError(f"it takes more than {self._limit_bytes:,} bytes")
        return super().reducer_override(value)


def _sources(function: Callable[..., Any]) -> dict[str, list[str]]:
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None or os.path.exists(code.co_filename):
        return {}
    lines = linecache.getlines(code.co_filename)
    return {code.co_filename: lines} if lines else {}


def _explain(task: Task, error: Exception) -> str:
    name = describe(task.function)
    for place, value in _parts(task):
        try:
            _pickled(value)
        except Exception as cause:  # noqa: BLE001 - as in dump_task
            return (
                f"{name!r} cannot run in another process: its {place} is a {type(value).__module__}."
                f"{type(value).__qualname__}, which cannot be pickled ({cause}). "
                "Make it inside the function, pass it as something simpler, or use runner='thread'."
            )
    return f"{name!r} cannot run in another process: {error}. Use runner='thread', which shares live objects."


def _parts(task: Task) -> Iterator[tuple[str, Any]]:
    """All that travels with a task, each with its name."""
    for name, value in task.arguments.items():
        yield f"argument {name!r}", value
    function = inspect.unwrap(task.function)
    if inspect.isfunction(function):
        found = inspect.getclosurevars(function)
        for name, value in found.nonlocals.items():
            yield f"enclosed variable {name!r}", value
        for name, value in found.globals.items():
            yield f"global variable {name!r}", value
