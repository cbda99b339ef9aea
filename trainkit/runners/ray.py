"""Runs a job on a Ray cluster: its ranks on many machines, over one set of files on a folder that all see.

This process starts no Ray: it talks to the cluster's Jobs endpoint, by HTTP.  The cluster then runs
:mod:`~trainkit.runners.rayjob`, the job's parent, which holds the owner's lock and writes how the job ended.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import platform
import secrets
import shlex
import shutil
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainkit.errors import MissingExtraError, OptionError, RunnerError, missing_extra
from trainkit.files.endings import failed
from trainkit.files.locks import FileLock, is_locked
from trainkit.files.owners import is_running, this_process
from trainkit.files.record import Record
from trainkit.files.recorder import Recorder
from trainkit.files.store import Handle, Store
from trainkit.files.whole import write_atomically
from trainkit.runners.lifetime import bury
from trainkit.runners.slots import Ticket
from trainkit.runners.task import Task, dump_task

#: How long an answer of the cluster is waited for, in seconds: by who only looks, by who acts, and by who sends.
LOOK_S, ANSWER_S, SEND_S = 5.0, 15.0, 120.0
#: How long an answer counts before the cluster is asked again, in seconds.
FRESH_S = 2.0
#: The most that the modules beside a notebook may take, in bytes, to be sent along.
MODULES_BYTES = 20_000_000
TOKEN_VARIABLE = "RAY_AUTH_TOKEN"
ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")


def check(record: Record) -> None:
    """Refuse what cannot reach a cluster."""
    if importlib.util.find_spec("ray") is None or importlib.util.find_spec("aiohttp") is None:
        raise missing_extra("runner='ray' needs Ray", "ray")
    address = address_of(record)
    if address != "local":
        _check_that_it_answers(address)


def address_of(record: Record) -> str:
    """Return the address of the cluster's dashboard that a job is for.

    Raises:
        OptionError: none is given, or not one of a dashboard.
    """
    named = (os.environ.get(name) for name in ADDRESS_VARIABLES)
    address = record.resources.address or next((each for each in named if each), None)
    if address is None:
        raise OptionError(
            "runner='ray' needs address=, that of a cluster's dashboard ('http://head:8265'), or 'local' for a "
            f"small cluster on this machine; {ADDRESS_VARIABLES[0]} gives it too"
        )
    if address != "local" and not address.startswith(("http://", "https://")):
        raise OptionError(
            f"address={address!r}: expected that of a dashboard, with http:// and its port ('http://head:8265'), "
            "or 'local'"
        )
    return address.rstrip("/")


def _check_that_it_answers(address: str) -> None:
    try:
        request = urllib.request.Request(f"{address}/api/version", headers=_token())
        with urllib.request.urlopen(request, timeout=ANSWER_S):
            return
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            told = "does not accept the token in" if _token() else "wants a token; set"
            raise RunnerError(f"the Ray cluster at {address} {told} {TOKEN_VARIABLE}") from error
        raise RunnerError(f"{address} is no dashboard of a Ray cluster: it answers {error.code}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise RunnerError(
            f"no Ray cluster answers at {address} ({reason}); is this the address of its dashboard?"
        ) from error


def _token() -> dict[str, str]:
    """The headers that let this process in, where a cluster asks for a token."""
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    return {"Authorization": f"Bearer {token}"} if token else {}


# --- the contract --------------------------------------------------------------------------------


def submit(
    store: Store, record: Record, task: Task | None, lock: FileLock, ticket: Ticket, handle: Handle
) -> None:
    """Send the job to its cluster, in a thread: that takes seconds.

    Raises:
        TaskError: the function cannot be pickled.
    """
    if task is not None:
        write_atomically(store.paths(record.job_id).task, dump_task(task), durable=False)
    handle.processes = [this_process()]
    store.write_handle(record.job_id, handle)
    ticket.close()  # the cluster has a queue of its own
    thread = threading.Thread(
        target=_send, args=(store, record, lock, handle), name=f"trainkit-send-{record.job_id}"
    )
    thread.start()


def _send(store: Store, record: Record, lock: FileLock, handle: Handle) -> None:
    recorder = Recorder(store, record, requests_offset=handle.requests_offset)
    try:
        address = address_of(record)
        if address == "local":
            from trainkit.runners import raylocal

            recorder.note(message="starting Ray on this machine, or finding the one that runs")
            recorder.write_now()
            started = raylocal.address(lambda: recorder.requested("stop", "finish", "kill"))
            if started is None:
                recorder.detach()
                bury(store, record, 0, requests_offset=handle.requests_offset)
                return
            address = started
        recorder.note(message=f"sent to {address}")
        recorder.write_now()
        # A cluster may have jobs of several roots, and of the same name.
        submission_id = f"{record.job_id}-{record.attempt}-{secrets.token_hex(4)}"
        handle.detail = {"address": address, "submission_id": submission_id}
        # From here on this process is no more the one to ask; the handle first, as the cluster may be quick.
        handle.processes = []
        store.write_handle(record.job_id, handle)
        python = ".".join(platform.python_version_tuple()[:2])
        arguments = ["python", "-m", "trainkit.runners.rayjob", str(store.root), record.job_id, python]
        with modules_beside(Path.cwd()) as modules:
            _client(address, SEND_S).submit_job(
                entrypoint=shlex.join(arguments),
                submission_id=submission_id,
                runtime_env={"working_dir": str(modules)} if modules else {},
                metadata={"trainkit": record.job_id},
            )
    except Exception as error:  # noqa: BLE001 - whatever a client of HTTP may raise: the job's record tells it
        recorder.close(failed(error, doing="it could not be sent to the cluster"))
    else:
        recorder.detach()
    finally:
        lock.close()


def poll(store: Store, record: Record) -> bool | None:
    """Whether the job's parent runs, or waits to; None if the cluster cannot be asked."""
    handle = store.handle(record.job_id)
    if handle is None or not handle.detail:
        return store.is_held(record)  # not sent yet
    lock = store.paths(record.job_id).owner_lock
    if is_locked(lock):
        return True  # by who sends it, or by its parent on this machine
    parent = handle.processes[:1]
    if parent and (runs := is_running(parent[0])) is not None:
        return runs
    return _answer(handle.detail)


def kill(store: Store, record: Record) -> None:
    """Have the cluster end the job; its parent writes how it ended, unless it never came to run.

    Raises:
        RunnerError: the cluster cannot be reached.
    """
    handle = store.handle(record.job_id)
    if handle is None or not handle.detail:
        return  # it is being sent; the request to kill is what its parent finds first
    if record.pid is not None and poll(store, record):
        return  # its parent has heard, and is quicker than the cluster
    try:
        _client(handle.detail["address"], ANSWER_S).stop_job(handle.detail["submission_id"])
    except Exception as error:
        raise RunnerError(f"the cluster of job {record.job_id!r} cannot be asked to kill it: {error}") from error


# --- the cluster ---------------------------------------------------------------------------------

_answers: dict[str, tuple[float, bool | None]] = {}
_asking: dict[str, threading.Thread] = {}
_silent: set[str] = set()  # addresses that gave no answer when last asked
_guard = threading.Lock()


def _answer(detail: dict[str, Any]) -> bool | None:
    """What the cluster said of a job a moment ago; it is asked in a thread, and at most every few seconds."""
    key = detail["submission_id"]
    with _guard:
        said_at, said = _answers.get(key, (-FRESH_S, None))
        first = key not in _answers
        if time.monotonic() - said_at < FRESH_S:
            return said
        thread = _asking.get(key)
        if thread is None:
            thread = threading.Thread(target=_ask, args=(detail,), name=f"trainkit-ask-{key}", daemon=True)
            _asking[key] = thread
            thread.start()
        worth_waiting = first and detail["address"] not in _silent  # a list of many jobs would wait for each
    if worth_waiting:
        thread.join(LOOK_S)
    with _guard:
        return _answers.get(key, (0.0, None))[1]


def _ask(detail: dict[str, Any]) -> None:
    key = detail["submission_id"]
    said: bool | None = None
    try:
        said = not _client(detail["address"], LOOK_S).get_job_status(key).is_terminal()
    except MissingExtraError:
        said = None
    except Exception as error:  # noqa: BLE001 - an unreachable cluster may raise anything; only one answer means gone
        if isinstance(error, RuntimeError) and "status code 404" in str(error):
            said = False
    with _guard:
        _answers[key] = (time.monotonic(), said)
        _asking.pop(key, None)
        (_silent.add if said is None else _silent.discard)(detail["address"])


def _client(address: str, patience_s: float) -> Any:
    """A client of a cluster's Jobs endpoint, which waits so long for each answer."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        from ray.job_submission import JobSubmissionClient
    except ImportError as error:
        raise missing_extra("this job is on Ray", "ray") from error
    for chatty in ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging"):
        logging.getLogger(chatty).setLevel(logging.WARNING)

    class Client(JobSubmissionClient):  # type: ignore[misc]
        def __init__(self) -> None:
            # Not by its own __init__, which lets RAY_ADDRESS take the place of the address that it is given.
            self._client_ray_version = ray.__version__
            # Ray's own reading of the token also wants RAY_AUTH_MODE, set before Ray is imported.
            super(JobSubmissionClient, self).__init__(address=address, headers=_token())

        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
            return super()._do_request(method, endpoint, timeout=patience_s, **options)  # Ray's own waits for ever

    return Client()


@contextlib.contextmanager
def modules_beside(folder: Path) -> Iterator[Path | None]:
    """Copy the modules and packages that lie beside a notebook, for a cluster that does not see its folder.

    Yields:
        A folder with the copies, or None if there are none.

    Raises:
        RunnerError: they are too large to be sent with every job.
    """
    found = [path for path in sorted(folder.glob("*.py")) if path.is_file()]
    packages = [path.parent for path in sorted(folder.glob("*/__init__.py")) if path.parent.name != "trainkit"]
    found += [path for package in packages for path in package.rglob("*.py")]
    size_bytes = sum(path.stat().st_size for path in found)
    if size_bytes > MODULES_BYTES:
        raise RunnerError(
            f"the modules in {folder} take {size_bytes / 1e6:.0f} MB, more than is sent with a job "
            f"({MODULES_BYTES / 1e6:.0f} MB); start the notebook in a folder of its own"
        )
    if not found:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="trainkit-modules-") as copies:
        for path in found:
            copy = Path(copies, path.relative_to(folder))
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        yield Path(copies)
