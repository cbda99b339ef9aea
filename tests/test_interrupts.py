"""Ctrl-C at any instant of submit, resume and delete: the job is started and reachable, or nothing happens."""

from __future__ import annotations

import contextlib
import contextvars
import gc
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import trainkit as tk
from trainkit.errors import UnknownJobError
from trainkit.files import locks
from trainkit.files.interrupts import uninterrupted
from trainkit.files.store import Store
from trainkit.runners import slots

Eventually = Callable[..., None]

# --- the section ---------------------------------------------------------------------------------


def interrupted_at(entry: int, call: Callable[[], object]) -> bool:
    """Raise KeyboardInterrupt in this thread when a call enters its n-th function; return whether it did."""
    count = 0

    def trace(frame: FrameType, event: str, arg: object) -> None:
        nonlocal count
        if frame.f_code.co_name in ("_remove", "__del__"):
            return  # there Python only prints what is raised
        count += 1
        if count == entry:
            sys.settrace(None)
            raise KeyboardInterrupt

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        pass
    except RuntimeError as error:  # a lock of the standard library that the interrupt has hit
        if not isinstance(error.__context__, KeyboardInterrupt):
            raise
    finally:
        sys.settrace(before)
    return count >= entry


def test_section_runs_once_or_never_at_each_interrupt() -> None:
    counts = []
    for entry in range(1, 1000):
        ran: list[int] = []
        hit = interrupted_at(entry, lambda: uninterrupted(lambda: ran.append(1)))  # noqa: B023
        counts.append(len(ran))
        if not hit:
            break
    assert set(counts) == {0, 1}
    assert counts[0] == 0
    assert counts[-1] == 1


def test_interrupt_while_the_section_runs_is_raised_when_it_has_ended() -> None:
    ended = []

    def section() -> None:
        import _thread

        _thread.interrupt_main()
        threading.Event().wait(0.05)
        ended.append(True)

    with pytest.raises(KeyboardInterrupt):
        uninterrupted(section)
    assert ended == [True]


def test_section_has_the_context_of_the_caller_and_its_error_is_raised() -> None:
    variable = contextvars.ContextVar("variable", default="")
    variable.set("here")
    assert uninterrupted(variable.get) == "here"
    with pytest.raises(ZeroDivisionError):
        uninterrupted(lambda: 1 / 0)


def test_section_runs_where_no_thread_can_be_started(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python ≥ 3.12 starts none from an ``atexit`` function, where scripts delete their jobs."""
    job = tk.submit(lambda run: None)
    job.wait(60)

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", start)
    assert uninterrupted(threading.get_ident) == threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        uninterrupted(lambda: 1 / 0)
    job.delete()
    assert not job.paths.folder.exists()


def test_section_of_another_thread_runs_in_that_thread() -> None:
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(uninterrupted(threading.get_ident)))
    thread.start()
    thread.join()
    assert seen == [thread.ident]


def test_error_of_a_section_keeps_nothing_alive() -> None:
    class Large:
        pass

    kept: list[weakref.ref[Large]] = []

    def section() -> None:
        large = Large()
        kept.append(weakref.ref(large))
        raise ValueError

    gc.disable()
    try:
        with contextlib.suppress(ValueError):
            uninterrupted(section)
        assert kept[0]() is None
    finally:
        gc.enable()


def test_lock_that_nobody_holds_any_more_is_free(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = locks.try_lock(path)
    assert lock is not None
    assert locks.is_locked(path)
    del lock
    gc.collect()
    assert not locks.is_locked(path)


# --- submit, resume, delete ----------------------------------------------------------------------


def at_once(run: Any) -> int:
    return 1


def learns(run: Any, raises: bool) -> None:
    from torch import nn

    run.track(model=nn.Linear(1, 1))
    for _ in run.epochs(2):
        run.save_now()
        if raises and run.epoch == 1 and run._recorder.record.attempt == 1:
            raise ValueError("as planned")


def is_over(store: Store, job_id: str) -> bool:
    try:
        return store.observe(job_id).status.terminal
    except UnknownJobError:
        return True


def assert_nothing_stays(store: Store, job_id: str, eventually: Eventually) -> None:
    """Nothing runs, nothing is held, and there is a whole job or none."""
    eventually(lambda: is_over(store, job_id))
    eventually(lambda: not [thread for thread in threading.enumerate() if thread.name == f"trainkit-{job_id}"])
    # The end is written first; what the job holds is given up a moment later.
    eventually(lambda: job_id not in slots.live_job_ids())
    eventually(lambda: not [lock for lock in list(locks._held) if lock.fd >= 0 and job_id in str(lock.path)])
    took = locks._changing.acquire(timeout=1)
    locks._changing.release()
    assert took
    paths = store.paths(job_id)
    if paths.record.exists():
        assert paths.folder.is_dir()
        store.delete(job_id)
    assert not paths.record.parent.exists() or not [
        path.name for path in paths.record.parent.iterdir() if job_id in path.name
    ]


#: Each entry takes some ten milliseconds; the complete sweeps are among the extended tests.
STEPS = [11, pytest.param(1, marks=pytest.mark.extended)]


@pytest.mark.parametrize("step", STEPS)
def test_submit_that_is_interrupted_starts_a_job_or_leaves_nothing(
    root: Path, eventually: Eventually, step: int
) -> None:
    tk.submit(at_once).wait()
    hit, entry = True, 1
    started = set()
    while hit:
        hit = interrupted_at(entry, lambda: tk.submit(at_once, job_id=f"j{entry}"))  # noqa: B023
        started.add(Store(root).paths(f"j{entry}").record.exists())
        assert_nothing_stays(Store(root), f"j{entry}", eventually)
        entry += step
    assert started == {True, False}


@pytest.mark.parametrize("step", STEPS)
def test_resume_that_is_interrupted_starts_an_attempt_or_changes_nothing(
    root: Path, eventually: Eventually, step: int
) -> None:
    job = tk.submit(learns, raises=True, job_id="j")
    assert job.wait() == "FAILED"
    hit, entry = True, 1
    attempts = set()
    while hit:
        if job.record.status == "COMPLETED":
            job.delete()
            job = tk.submit(learns, raises=True, job_id="j")
            job.wait()
        hit = interrupted_at(entry, job.resume)
        eventually(lambda: is_over(Store(root), "j"))
        record = job.record
        assert (record.attempt, record.status) in ((1, "FAILED"), (2, "COMPLETED"))
        attempts.add(record.attempt)
        entry += step
    assert attempts == {1, 2}
    assert_nothing_stays(Store(root), "j", eventually)


@pytest.mark.parametrize("step", STEPS)
def test_delete_that_is_interrupted_removes_all_or_nothing(root: Path, eventually: Eventually, step: int) -> None:
    hit, entry = True, 1
    left = set()
    while hit:
        job = tk.submit(at_once, job_id=f"j{entry}")
        job.wait()
        hit = interrupted_at(entry, job.delete)
        left.add(job.paths.record.exists())
        assert_nothing_stays(job.store, job.id, eventually)
        entry += step
    assert left == {True, False}


@pytest.mark.parametrize("interrupted", ["trainkit-dispatcher", "trainkit-ghost"])
def test_thread_that_has_started_although_start_was_interrupted_runs_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch, eventually: Eventually, interrupted: str
) -> None:
    start = threading.Thread.start

    def interrupts(thread: threading.Thread) -> None:
        start(thread)
        if thread.name == interrupted:
            raise KeyboardInterrupt

    ran: list[bool] = []
    monkeypatch.setattr(threading.Thread, "start", interrupts)
    with contextlib.suppress(KeyboardInterrupt):
        tk.submit(lambda run: ran.append(True), job_id="ghost")
    assert_nothing_stays(Store(root), "ghost", eventually)
    assert ran == []
    monkeypatch.undo()
    assert tk.submit(lambda run: 1).result() == 1
