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
import re
import secrets
import shlex
import shutil
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from trainkit.errors import MissingExtraError, OptionError, RunnerError, TrustError, missing_extra
from trainkit.files.endings import failed
from trainkit.files.locks import FileLock, is_locked
from trainkit.files.owners import is_running, this_process
from trainkit.files.record import Record
from trainkit.files.recorder import Recorder
from trainkit.files.store import UNREACHABLE, Handle, Store
from trainkit.files.trust import JOB_KEY_VARIABLE, is_marked, job_key, mark
from trainkit.runners import raylocal
from trainkit.runners.lifetime import bury
from trainkit.runners.slots import Ticket
from trainkit.runners.task import Task, write_task

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
    address = record.resources.address or next(iter(_from_environment()), None)
    if address is None:
        raise OptionError(
            "runner='ray' needs address=, that of a cluster's dashboard ('http://head:8265'), or 'local' for a "
            f"small cluster on this machine; {ADDRESS_VARIABLES[0]} gives it too"
        )
    return "local" if address == "local" else _of_a_dashboard(address, or_local=True)


def _from_environment() -> list[str]:
    """Return the addresses that the environment names."""
    return [each.rstrip("/") for name in ADDRESS_VARIABLES if (each := os.environ.get(name))]


def _of_a_dashboard(address: str, *, or_local: bool = False) -> str:
    """Return an address without the slash at its end.

    Raises:
        OptionError: it is not an address of a dashboard.  Ray takes what is before ``://`` for a module to import.
    """
    if not _is_http(address):
        raise OptionError(
            f"address={address!r}: expected that of a dashboard, with http:// and its port ('http://head:8265')"
            + (", or 'local'" if or_local else "")
        )
    return address.rstrip("/")


def _is_http(address: object) -> bool:
    return isinstance(address, str) and address.startswith(("http://", "https://"))


def _check_that_it_answers(address: str) -> None:
    try:
        request = urllib.request.Request(f"{address}/api/version")
        for name, value in _token().items():
            request.add_unredirected_header(name, value)
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


def _token(local: str | None = None) -> dict[str, str]:
    """The headers that let this process in, where a cluster asks for a token.

    Args:
        local: the address of a cluster that :mod:`~trainkit.runners.raylocal` has started; it has its own token.
    """
    token = raylocal.token(local) if local else os.environ.get(TOKEN_VARIABLE, "").strip()
    return {"Authorization": f"Bearer {token}"} if token else {}


# --- where a job may be asked for ----------------------------------------------------------------

#: The addresses that were given for jobs in this process, by root and id.
_given: dict[tuple[str, str], str] = {}


class Place(NamedTuple):
    """Where a job is.

    Attributes:
        address: of the dashboard.
        submission_id: the cluster's name for the job; empty until it is sent.
        is_local: whether the cluster is the one that :mod:`~trainkit.runners.raylocal` has started.
    """

    address: str
    submission_id: str = ""
    is_local: bool = False

    def detail(self, job_id: str) -> dict[str, Any]:
        """Return what the handle says of it, with a mark that shows that this user has said so."""
        said = {"address": self.address, "submission_id": self.submission_id}
        return said | ({"local": True} if self.is_local else {}) | {"mark": mark(job_id, *self._said())}

    def _said(self) -> tuple[str, ...]:
        return ("ray", self.address, self.submission_id, "local" if self.is_local else "")

    @classmethod
    def named(cls, store: Store, job_id: str, detail: Mapping[str, Any]) -> Place | None:
        """Return where a job is, if this user named the address: here, in the environment, or when it was sent."""
        address, submission_id = detail.get("address"), detail.get("submission_id")
        if not isinstance(submission_id, str) or not _is_of(job_id, submission_id):
            submission_id = ""
        if (given := _given.get(_key(store, job_id))) is not None:
            return cls(given, submission_id)
        if not isinstance(address, str):
            return None
        place = cls(address, submission_id, detail.get("local") is True)
        if is_marked(detail.get("mark"), job_id, *place._said()):
            return place
        if _is_http(address) and address.rstrip("/") in _from_environment():
            return cls(address, submission_id)
        return None


def _is_of(job_id: str, submission_id: str) -> bool:
    """Whether a submission may be this job's: to kill a job should not end another one."""
    return submission_id.startswith(f"{job_id}-") and re.fullmatch(r"[A-Za-z0-9_-]+", submission_id) is not None


def name_address(store: Store, job_id: str, address: str) -> None:
    """Have a job be asked for at an address, as long as this process lives.

    Raises:
        OptionError: it is not that of a dashboard.
    """
    _given[_key(store, job_id)] = _of_a_dashboard(address)


def _key(store: Store, job_id: str) -> tuple[str, str]:
    return os.path.realpath(store.root), job_id


def address_again(store: Store, record: Record) -> str | None:
    """Return the address of the cluster that a job from the files had, if this user named it.

    Raises:
        TrustError: it did not, as far as is known here.
    """
    handle = store.handle(record.job_id)
    detail = handle.detail if handle is not None else {}
    place = Place.named(store, record.job_id, detail)
    address = record.resources.address or detail.get("address")
    if _key(store, record.job_id) in _given and place is not None:
        return place.address
    if address in (None, "local"):
        return address
    if (place is not None and place.address == address) or str(address).rstrip("/") in _from_environment():
        return str(address)
    raise TrustError(_not_named(record, address))


def why_not_asked(store: Store, record: Record) -> str:
    """Return why a job's cluster is not asked whether it runs; empty if it is."""
    handle = store.handle(record.job_id)
    if handle is None or not handle.detail or Place.named(store, record.job_id, handle.detail) is not None:
        return ""
    return UNREACHABLE + _not_named(record, handle.detail.get("address"))


def _not_named(record: Record, address: object) -> str:
    shown = repr(address) if _is_http(address) and len(str(address)) <= 200 else "'http://head:8265'"
    return (
        f"its files name the Ray cluster {str(address)[:200]!r}, which is not an address that you named, so it "
        f"was not contacted. To contact the right one, use tk.attach({record.job_id!r}, address={shown}) or "
        f"set {ADDRESS_VARIABLES[0]}"
    )


# --- the contract --------------------------------------------------------------------------------


def submit(
    store: Store, record: Record, task: Task | None, lock: FileLock, ticket: Ticket, handle: Handle
) -> None:
    """Send the job to its cluster, in a thread: that takes seconds.

    Raises:
        TaskError: the function cannot be pickled.
    """
    if task is not None:
        write_task(store.paths(record.job_id), task)
    address = address_of(record)
    record.resources = msgspec.structs.replace(record.resources, address=address)  # not only in this environment
    handle.processes, handle.detail = [this_process()], Place(address).detail(record.job_id)
    store.write_handle(record.job_id, handle)
    ticket.close()  # the cluster has a queue of its own
    thread = threading.Thread(
        target=_send, args=(store, record, lock, handle), name=f"trainkit-send-{record.job_id}"
    )
    thread.start()


def _send(store: Store, record: Record, lock: FileLock, handle: Handle) -> None:
    recorder = Recorder(store, record, requests_offset=handle.requests_offset)
    try:
        place = Place(address_of(record))
        if place.address == "local":
            recorder.note(message="starting Ray on this machine, or finding the one that runs")
            recorder.write_now()
            started = raylocal.address(lambda: recorder.requested("stop", "finish", "kill"))
            if started is None:
                recorder.detach()
                bury(store, record, 0, requests_offset=handle.requests_offset)
                return
            place = Place(started, is_local=True)
        recorder.note(message=f"sent to {place.address}")
        recorder.write_now()
        # A cluster may have jobs of several roots, and of the same name.
        place = place._replace(submission_id=f"{record.job_id}-{record.attempt}-{secrets.token_hex(4)}")
        handle.detail = place.detail(record.job_id)
        # From here on this process is no more the one to ask; the handle first, as the cluster may be quick.
        handle.processes = []
        store.write_handle(record.job_id, handle)
        python = ".".join(platform.python_version_tuple()[:2])
        arguments = ["python", "-m", "trainkit.runners.rayjob", str(store.root), record.job_id, python]
        # The key with which its machines check the task and seal the result; the user's own may not be there.
        own = {"env_vars": {JOB_KEY_VARIABLE: f"{record.job_id}:{job_key(record.job_id)}"}}
        with modules_beside(Path.cwd()) as modules:
            _client(place, SEND_S).submit_job(
                entrypoint=shlex.join(arguments),
                submission_id=place.submission_id,
                runtime_env=own | ({"working_dir": str(modules)} if modules else {}),
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
    if handle is None or not handle.detail.get("submission_id"):
        return store.is_held(record)  # not sent yet
    lock = store.paths(record.job_id).owner_lock
    if is_locked(lock):
        return True  # by who sends it, or by its parent on this machine
    parent = handle.processes[:1]
    if parent and (runs := is_running(parent[0])) is not None:
        return runs
    place = Place.named(store, record.job_id, handle.detail)
    return None if place is None or not place.submission_id else _answer(place)


def kill(store: Store, record: Record) -> None:
    """Have the cluster end the job; its parent writes how it ended, unless it never came to run.

    Raises:
        RunnerError: the cluster cannot be reached.
    """
    handle = store.handle(record.job_id)
    if handle is None or not handle.detail.get("submission_id"):
        return  # it is being sent; the request to kill is what its parent finds first
    if record.pid is not None and poll(store, record):
        return  # its parent has heard, and is quicker than the cluster
    place = Place.named(store, record.job_id, handle.detail)
    if place is None or not place.submission_id:
        raise RunnerError(
            f"job {record.job_id!r} cannot be killed: {_not_named(record, handle.detail.get('address'))}"
        )
    try:
        _client(place, ANSWER_S).stop_job(place.submission_id)
    except Exception as error:
        raise RunnerError(f"the cluster of job {record.job_id!r} cannot be asked to kill it: {error}") from error


# --- the cluster ---------------------------------------------------------------------------------

_answers: dict[Place, tuple[float, bool | None]] = {}
_asking: dict[Place, threading.Thread] = {}
_silent: set[str] = set()  # addresses that gave no answer when last asked
_guard = threading.Lock()


def _answer(place: Place) -> bool | None:
    """What the cluster said of a job a moment ago; it is asked in a thread, and at most every few seconds."""
    with _guard:
        said_at, said = _answers.get(place, (-FRESH_S, None))
        first = place not in _answers
        if time.monotonic() - said_at < FRESH_S:
            return said
        thread = _asking.get(place)
        if thread is None:
            name = f"trainkit-ask-{place.submission_id}"
            thread = threading.Thread(target=_ask, args=(place,), name=name, daemon=True)
            _asking[place] = thread
            thread.start()
        worth_waiting = first and place.address not in _silent  # a list of many jobs would wait for each
    if worth_waiting:
        thread.join(LOOK_S)
    with _guard:
        return _answers.get(place, (0.0, None))[1]


def _ask(place: Place) -> None:
    said: bool | None = None
    try:
        said = not _client(place, LOOK_S).get_job_status(place.submission_id).is_terminal()
    except MissingExtraError:
        said = None
    except Exception as error:  # noqa: BLE001 - an unreachable cluster may raise anything; only one answer means gone
        if isinstance(error, RuntimeError) and "status code 404" in str(error):
            said = False
    with _guard:
        _answers[place] = (time.monotonic(), said)
        _asking.pop(place, None)
        (_silent.add if said is None else _silent.discard)(place.address)


def _client(place: Place, patience_s: float) -> Any:
    """A client of a cluster's Jobs endpoint, which waits so long for each answer.

    Raises:
        OptionError: the address is none of a dashboard.
    """
    address = _of_a_dashboard(place.address)
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
            super(JobSubmissionClient, self).__init__(
                address=address, headers=_token(address if place.is_local else None)
            )

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
