"""Jobs that wait for jobs of their own: the place of the one that waits is lent, and never too many run."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import trainkit as tk
from trainkit.errors import StateError
from trainkit.files.record import Status
from trainkit.files.store import Store
from trainkit.runners.loans import Place
from trainkit.runners.slots import LIMIT_VARIABLE, RUNNING, Ticket, read_state

Eventually = Callable[..., None]


def tickets(folder: Path, names: str) -> list[Ticket]:
    return [Ticket(name, folder=folder, now_ns=n) for n, name in enumerate(names)]


def place(ticket: Ticket, job_id: str) -> Place:
    return Place(Store("/nowhere"), job_id, ticket.path)


def test_a_lent_place_is_for_the_borrower_alone(tmp_path: Path) -> None:
    """It starts before those that came earlier; nobody else takes the place, before, meanwhile or afterwards."""
    lender, other, borrower = tickets(tmp_path, "abc")
    assert lender.try_start(1) == []
    assert borrower.try_start(1) == ["a"]
    place(lender, "a").lend("c")
    assert other.try_start(1) == ["a"]
    assert borrower.try_start(1) == []
    assert other.try_start(1) == ["c"]
    borrower.close()
    assert other.try_start(1) == ["a"], "the place is back, though the lender has not noticed"
    place(lender, "a").take_back("c")
    assert lender.state == RUNNING
    assert other.try_start(1) == ["a"]
    lender.close()
    assert other.try_start(1) == []
    other.close()


def test_a_borrower_lends_further(tmp_path: Path) -> None:
    """Three that wait for one another take one place."""
    first, second, third, other = tickets(tmp_path, "abcd")
    assert first.try_start(1) == []
    place(first, "a").lend("b")
    assert second.try_start(1) == []
    place(second, "b").lend("c")
    assert third.try_start(1) == []
    assert other.try_start(1) == ["c"]
    third.close()
    assert other.try_start(1) == ["b"]
    second.close()
    assert other.try_start(1) == ["a"]
    for ticket in (first, other):
        ticket.close()


def test_one_borrower_has_one_lender(tmp_path: Path) -> None:
    """Two that wait for the same job do not free two places."""
    one, two, borrower, other = tickets(tmp_path, "abcd")
    assert one.try_start(2) == two.try_start(2) == []
    for lender, name in ((one, "a"), (two, "b")):
        place(lender, name).lend("c")
    assert borrower.try_start(2) == []
    assert two.state == RUNNING
    assert other.try_start(2) == ["b", "c"]
    for ticket in (one, two, borrower, other):
        ticket.close()


def test_what_is_taken_back_is_not_borrowed_any_more(tmp_path: Path) -> None:
    """A lender that stops waiting before the borrower has started counts again."""
    lender, borrower = tickets(tmp_path, "ab")
    assert lender.try_start(1) == []
    place(lender, "a").lend("b")
    place(lender, "a").take_back("b")
    assert borrower.try_start(1) == ["a"]
    place(lender, "a").lend("b")
    assert borrower.try_start(1) == []
    for ticket in (lender, borrower):
        ticket.close()


@pytest.mark.parametrize("borrower_runs", [False, True])
def test_a_job_that_is_killed_while_it_lends_leaves_no_place_behind(tmp_path: Path, borrower_runs: bool) -> None:
    lender, borrower, other = tickets(tmp_path, "abc")
    assert lender.try_start(1) == []
    place(lender, "a").lend("b")
    if borrower_runs:
        assert borrower.try_start(1) == []
    lender.hand_over()  # as if its process were gone: the file stays, its lock is free
    assert other.try_start(1) == ["b"]
    assert borrower.try_start(1) == []
    assert other.try_start(1) == ["b"]
    for ticket in (borrower, other):
        ticket.close()


def test_a_job_that_runs_or_is_unknown_is_lent_nothing(tmp_path: Path) -> None:
    lender, running = tickets(tmp_path, "ab")
    assert lender.try_start(2) == running.try_start(2) == []
    for job_id in ("b", "unknown"):
        place(lender, "a").lend(job_id)
    assert lender.state == running.state == RUNNING
    for ticket in (lender, running):
        ticket.close()


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("limit", [1, 2, 3])
def test_no_sequence_of_loans_lets_more_run_than_may(tmp_path: Path, limit: int, seed: int) -> None:
    """Jobs start, wait for others, and end in any order; one that waits takes no step, and is lent for."""
    draw = random.Random(seed)
    waiting: dict[str, Ticket] = {}
    running: dict[str, Ticket] = {}
    waits_for: dict[str, str] = {}
    for number in range(60):
        action = draw.choice(("submit", "start", "start", "wait", "end"))
        idle = [name for name in running if name not in waits_for]
        if action == "submit":
            waiting[f"j{number}"] = Ticket(f"j{number}", folder=tmp_path, now_ns=number)
        elif action == "start" and waiting:
            name = draw.choice(sorted(waiting))
            if not waiting[name].try_start(limit):
                running[name] = waiting.pop(name)
        elif action == "wait" and idle and waiting:
            lender, awaited = draw.choice(idle), draw.choice(sorted(waiting))
            waits_for[lender] = awaited
            place(running[lender], lender).lend(awaited)
        elif action == "end" and idle:
            name = draw.choice(idle)
            running.pop(name).close()
            for lender in [lender for lender, awaited in waits_for.items() if awaited == name]:
                place(running[lender], lender).take_back(name)
                del waits_for[lender]
        assert len(running.keys() - waits_for.keys()) <= limit
        lent = [name for name in running if read_state(running[name].path).kind == "lent"]
        assert len(running) - len(lent) <= limit
    for ticket in (*waiting.values(), *running.values()):
        ticket.close()


def nested(depth: int, root: str, runners: list[str]) -> Callable[..., Any]:
    """Return a function whose job submits one like it, and so on, and adds up what they return."""

    def fit(run: Any) -> int:
        import trainkit as tk

        if not depth:
            run.log(loss=1.0)
            return 0
        job = tk.submit(nested(depth - 1, root, runners), runner=runners[depth % len(runners)], root=root)
        return 1 + job.result()

    return fit


@pytest.mark.parametrize(
    ("depth", "runners"),
    [
        (3, ["thread"]),
        (1, ["process"]),
        pytest.param(3, ["process", "thread"], marks=pytest.mark.extended),
        pytest.param(3, ["process"], marks=pytest.mark.extended),
    ],
)
def test_jobs_within_jobs_complete_with_one_place(
    root: Path, depth: int, runners: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In threads, in processes, and in both."""
    monkeypatch.setenv(LIMIT_VARIABLE, "1")
    assert tk.submit(nested(depth, str(root), runners), runner=runners[0]).result() == depth


def test_all_places_taken_by_jobs_that_wait(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many outer loops as places, each with three jobs of its own, and jobs of others in between."""
    monkeypatch.setenv(LIMIT_VARIABLE, "2")

    def outer(run: Any) -> list[int]:
        return [job.result() for job in [tk.submit(lambda run, n=n: n, n=n) for n in range(3)]]

    jobs = [tk.submit(outer) for _ in range(2)]
    others = [tk.submit(lambda run: None) for _ in range(3)]
    assert [job.result() for job in jobs] == [[0, 1, 2]] * 2
    assert [job.wait() for job in others] == [Status.COMPLETED] * 3


def test_awaiting_jobs_lends_the_place_too(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT_VARIABLE, "1")

    def outer(run: Any) -> list[int]:
        async def settle(job: tk.Job) -> int:
            return await job

        async def all_of_them() -> list[int]:
            return await asyncio.gather(*(settle(tk.submit(lambda run, n=n: n, n=n)) for n in range(2)))

        return asyncio.run(all_of_them())

    assert tk.submit(outer).result() == [0, 1]


def test_a_job_that_stops_waiting_has_its_place_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a timeout the job goes on; meanwhile no third one starts."""
    monkeypatch.setenv(LIMIT_VARIABLE, "1")
    gate = threading.Event()

    def inner(run: Any) -> None:
        gate.wait(60)

    def outer(run: Any) -> list[Status]:
        job = tk.submit(inner)
        while job.state is Status.QUEUED:
            with pytest.raises(TimeoutError):
                job.wait(0.2)
        other = tk.submit(lambda run: None)
        with pytest.raises(TimeoutError):
            job.wait(0.5)
        states = [job.state, other.state]
        gate.set()
        return [*states, job.wait(), other.wait()]

    expected = [Status.RUNNING, Status.QUEUED, Status.COMPLETED, Status.COMPLETED]
    assert tk.submit(outer).result() == expected


def test_a_job_that_waits_for_itself_is_an_error(root: Path) -> None:
    def fit(run: Any) -> None:
        tk.attach(run.job_id).wait()

    with pytest.raises(StateError, match="waits for itself"):
        tk.submit(fit).result()


def test_a_callback_of_a_job_that_trains_lends_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    """Its thread waits for the inner job while the outer one trains: they would take two places."""
    monkeypatch.setenv(LIMIT_VARIABLE, "1")
    gate, inner = threading.Event(), []

    def outer(run: Any) -> None:
        inner.append(tk.submit(lambda run: None, on_done=lambda job: None))
        gate.wait(60)

    job = tk.submit(outer)
    eventually(lambda: inner and inner[0].record.message.startswith("waiting for outer"))
    ticket = next((root.parent / "queue").glob(f"*.{job.id}.ticket"))
    assert read_state(ticket) == RUNNING
    assert inner[0].state is Status.QUEUED
    gate.set()
    assert inner[0].wait() is Status.COMPLETED
