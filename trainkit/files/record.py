"""The job record: its fields, its states, its JSON.  No disk, no clock, no torch.

The table of states is here and nowhere else; :func:`check_change` is the one function that applies it.
"""

from __future__ import annotations

import copy
import datetime
import functools
from collections.abc import Mapping
from enum import Enum
from typing import Any, cast

import msgspec

from trainkit.errors import RecordError, StateError
from trainkit.files.plain import allow_non_finite, clean_descriptions, from_plain, to_plain

SCHEMA_VERSION = 1
#: No record or handle is larger; what is, was not written by trainkit, and is not read into memory.
MOST_RECORD_BYTES = 16 << 20


class Status(str, Enum):
    """The state of a job."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    STOPPING = "STOPPING"
    COMPLETED = "COMPLETED"
    STOPPED = "STOPPED"
    FAILED = "FAILED"
    INTERRUPTED = "INTERRUPTED"

    __str__ = str.__str__

    def __repr__(self) -> str:
        """Return the bare name: what a notebook shows of ``job.wait()``."""
        return self.value

    @property
    def terminal(self) -> bool:
        """Whether the attempt is over."""
        return self in TERMINAL


class Phase(str, Enum):
    """What a running job is doing."""

    STARTING = "starting"
    LOADING = "loading"
    TRAINING = "training"
    VALIDATING = "validating"
    CHECKPOINTING = "checkpointing"
    FINALIZING = "finalizing"

    __str__ = str.__str__


class EndedBy(str, Enum):
    """Why a job ended."""

    EPOCHS = "epochs"
    EARLY_STOPPING = "early_stopping"
    TIME_LIMIT = "time_limit"
    USER = "user"
    EXCEPTION = "exception"
    SIGNAL = "signal"
    LOST = "lost"

    __str__ = str.__str__


TERMINAL = frozenset({Status.COMPLETED, Status.STOPPED, Status.FAILED, Status.INTERRUPTED})
_ENDS = frozenset(TERMINAL)

#: From each state, the states that may follow it within one attempt.
CHANGES: Mapping[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset({Status.RUNNING, Status.STOPPING}) | (_ENDS - {Status.COMPLETED}),
    Status.RUNNING: frozenset({Status.PAUSED, Status.STOPPING}) | _ENDS,
    Status.PAUSED: frozenset({Status.RUNNING, Status.STOPPING}) | _ENDS,
    Status.STOPPING: _ENDS,
    Status.COMPLETED: frozenset(),
    Status.STOPPED: frozenset(),
    Status.FAILED: frozenset(),
    Status.INTERRUPTED: frozenset(),
}


def check_change(old: Status, new: Status) -> None:
    """Let an allowed change of state pass.

    Raises:
        StateError: the change is not in the table.

    >>> check_change(Status.QUEUED, Status.RUNNING)
    """
    if new not in CHANGES[old]:
        allowed = ", ".join(sorted(CHANGES[old])) or "none: it is terminal, resuming starts a new attempt"
        raise StateError(f"a job cannot go from {old} to {new}; allowed from {old}: {allowed}")


def begin_attempt(record: Record, *, now: float) -> None:
    """Turn the record of an attempt that is over into that of the next one, QUEUED.

    Args:
        record: changed in place; what the earlier attempts reached stays.
        now: Unix seconds.

    Raises:
        StateError: the attempt is not over, or it completed.
    """
    if not record.status.terminal or record.status is Status.COMPLETED:
        instead = "; branch goes on from a checkpoint of it in a new job" if record.status.terminal else ""
        raise StateError(
            f"job {record.name!r} is {record.status}; only one that is STOPPED, FAILED or INTERRUPTED can go "
            f"on{instead}"
        )
    record.attempt += 1
    record.status, record.message = Status.QUEUED, "going on from its checkpoint"
    record.phase = record.started_at = record.finished_at = record.ended_by = record.error = None
    record.restarts = 0
    _forget_processes(record, now=now)


def begin_restart(record: Record, *, now: float) -> None:
    """Turn the record of an attempt whose processes were lost into that of the next one, QUEUED.

    Unlike :func:`begin_attempt` this is done by who runs the job, before anybody could call it over.

    Args:
        record: changed in place; what the earlier attempts reached stays.
        now: Unix seconds.
    """
    record.attempt += 1
    record.restarts += 1
    record.status, record.phase = Status.QUEUED, None
    _forget_processes(record, now=now)


def _forget_processes(record: Record, *, now: float) -> None:
    record.pid = record.process_started_at = record.boot_id = record.host = None
    record.ranks = []
    record.updated_at = record.heartbeat_at = now


class ErrorInfo(msgspec.Struct, frozen=True):
    """What ended a job that did not end well."""

    type: str
    message: str
    traceback: str = ""


class Best(msgspec.Struct, frozen=True):
    """The best value so far of the metric that is watched."""

    metric: str
    value: float
    step: int
    epoch: int = 0
    mode: str = "min"


class CheckpointInfo(msgspec.Struct, frozen=True):
    """The newest checkpoint: a path relative to the root, and what is needed to verify it.

    ``reason`` is why it is kept longer than others: ``change`` (taken before a live change), ``best`` (the first
    after the best value), or ``base`` (what a branch began from).
    """

    path: str
    step: int | None = None
    epoch: int | None = None
    size_bytes: int | None = None
    sha256: str | None = None
    saved_at: float | None = None
    reason: str | None = None


class Parent(msgspec.Struct, frozen=True):
    """The job that this one repeats or branches off from, and the step after which it goes its own way."""

    job_id: str
    step: int = 0


class Environment(msgspec.Struct, frozen=True):
    """The versions a job ran with."""

    python: str | None = None
    torch: str | None = None
    trainkit: str | None = None
    git_commit: str | None = None


class Throughput(msgspec.Struct, frozen=True):
    """How fast a job goes."""

    steps_per_s: float
    rows_per_s: float | None = None


class Resources(msgspec.Struct, frozen=True):
    """What a job was asked to run on.

    ``ranks`` is how many processes train together, ``retries`` how often they are started again from their
    last checkpoint when one of them, or its machine, is lost, and ``address`` is that of a cluster.
    """

    ranks: int = 1
    gpus_per_rank: int = 0
    retries: int = 0
    address: str | None = None


class RankInfo(msgspec.Struct, frozen=True):
    """One of the processes that train a job together.

    ``node`` names its machine (on a cluster, what the cluster calls it); ``loading_share``, from 0 to 1, is the
    part of its time that it waits for its own batches: the rank that the others wait for has the highest.
    """

    rank: int
    node: str
    pid: int
    device: str | None = None
    steps_per_s: float | None = None
    loading_share: float | None = None


class Limits(msgspec.Struct, frozen=True):
    """When a job should end by itself.

    ``max_time_s`` is for how long it may run, over all attempts, without pauses and the queue; ``patience`` is how
    many epochs may pass without a better value of the watched metric.
    """

    max_time_s: float | None = None
    patience: int | None = None


class Randomness(msgspec.Struct, frozen=True):
    """Where a job's random numbers come from, and whether running it again gives the same result.

    ``why`` says in words why it can, or cannot, be repeated.
    """

    seed: int | None = None
    reproducible: bool | None = None
    why: str = ""


class Record(msgspec.Struct, kw_only=True):
    """One job as its record file tells it.  Times are Unix seconds; ``progress`` goes from 0 to 100."""

    schema_version: int = SCHEMA_VERSION
    job_id: str
    name: str
    status: Status
    phase: Phase | None = None
    message: str = ""
    progress: float = 0.0
    epoch: int = 0
    epochs: int | None = None
    step: int = 0
    total_steps: int | None = None
    loss: float | None = None
    metrics: dict[str, float] = {}
    best: Best | None = None
    params: dict[str, Any] = {}
    runner: str | None = None
    device: str | None = None
    attempt: int = 1
    created_at: float = 0.0
    started_at: float | None = None
    updated_at: float | None = None
    finished_at: float | None = None
    ended_by: EndedBy | None = None
    error: ErrorInfo | None = None
    checkpoint: CheckpointInfo | None = None
    pid: int | None = None
    process_started_at: float | None = None
    boot_id: str | None = None
    host: str | None = None
    heartbeat_at: float | None = None
    resumable: bool = False
    environment: Environment = Environment()
    throughput: Throughput | None = None
    resources: Resources = Resources()
    ranks: list[RankInfo] = []
    restarts: int = 0
    parent: Parent | None = None
    limits: Limits = Limits()
    randomness: Randomness = Randomness()
    run_for_s: float = 0.0


# --- JSON ----------------------------------------------------------------------------------------


def encode(record: Record) -> bytes:
    """Return the record as one strict JSON object, UTF-8, with a final newline."""
    return msgspec.json.encode(to_plain(msgspec.to_builtins(record))) + b"\n"


def to_dict(record: Record) -> dict[str, Any]:
    """Return the record as plain Python values, non-finite floats kept as floats."""
    return cast("dict[str, Any]", msgspec.to_builtins(record))


def repair(record: Record, sound: Record) -> list[str]:
    """Give a record that :func:`decode` could not read back the values of one that it could, where it must.

    Args:
        record: changed in place.
        sound: the last one that could be read back.

    Returns:
        The fields that were changed, each with what it held.
    """
    odd = []
    for field in record.__struct_fields__:
        value = getattr(record, field)
        probe = copy.copy(sound)
        setattr(probe, field, value)
        try:
            decode(encode(probe))
        except Exception:  # noqa: BLE001 - the value may be an object of any class
            odd.append(f"{field} ({type(value).__name__})")
            setattr(record, field, getattr(sound, field))
    return odd


_decoder = msgspec.json.Decoder(Record)
_THIS_SHAPE = f'{{"schema_version":{SCHEMA_VERSION},'.encode()
_MANY_BRACKETS = 500


def _is_ordinary(data: bytes) -> bool:
    """Whether a record is as nearly all are: of this shape, not deep, without numbers that JSON does not have."""
    return (
        data.startswith(_THIS_SHAPE)
        and b'NaN"' not in data
        and b'nity"' not in data
        and data.count(b"[") + data.count(b"{") < _MANY_BRACKETS
    )


def decode(data: bytes | str) -> Record:
    """Read a record of this or of the older shape.

    Args:
        data: the bytes of the file.

    Raises:
        RecordError: not JSON, not an object, or a field of a wrong type; the message says which.

    >>> decode('{"job_id": "a", "status": "ERROR", "progress": 3, "created_at": "2025-10-13T02:45:20"}').status
    FAILED
    """
    if isinstance(data, bytes) and _is_ordinary(data):
        try:
            return _decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass  # told below
    try:
        raw = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RecordError(f"not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise RecordError(f"expected one JSON object, got {type(raw).__name__}")
    if "schema_version" not in raw:
        raw = _from_older_shape(raw)
    elif raw["schema_version"] != SCHEMA_VERSION:
        raise RecordError(
            f"schema_version {raw['schema_version']!r} is not known to this trainkit (it reads {SCHEMA_VERSION}); "
            "upgrade trainkit to read it"
        )
    try:
        return msgspec.convert(_with_numbers(raw, _type_of_a_record()), Record)
    except (msgspec.ValidationError, ValueError, RecursionError) as error:
        raise RecordError(str(error)) from error


@functools.cache
def _type_of_a_record() -> msgspec.inspect.Type:
    return msgspec.inspect.type_info(Record)


def _with_numbers(value: Any, kind: msgspec.inspect.Type) -> Any:
    """Return a value with its non-finite numbers, wherever its type has room for one: a text stays a text."""
    kinds = kind.types if isinstance(kind, msgspec.inspect.UnionType) else (kind,)
    for each in kinds:
        if isinstance(each, (msgspec.inspect.FloatType, msgspec.inspect.AnyType)):
            return from_plain(value)
        if isinstance(each, msgspec.inspect.StructType) and isinstance(value, dict):
            types = {field.encode_name: field.type for field in each.fields}
            return {key: _with_numbers(item, types[key]) if key in types else item for key, item in value.items()}
        if isinstance(each, msgspec.inspect.DictType) and isinstance(value, dict):
            return {key: _with_numbers(item, each.value_type) for key, item in value.items()}
        if isinstance(each, msgspec.inspect.ListType) and isinstance(value, list):
            return [_with_numbers(item, each.item_type) for item in value]
    return value


# --- the older shape -----------------------------------------------------------------------------

_OLDER_STATUS = {"STARTING": "RUNNING", "LOADING": "RUNNING", "ERROR": "FAILED"}
_OLDER_PHASE = {"STARTING": "starting", "LOADING": "loading"}


def _from_older_shape(raw: dict[str, Any]) -> dict[str, Any]:
    """Bring a record without schema_version into today's fields."""
    status = raw.get("status")
    new = {key: value for key, value in raw.items() if value is not None}
    new["schema_version"] = SCHEMA_VERSION
    new["name"] = raw.get("name") or raw.get("job_id") or ""
    if not isinstance(status, str):
        raise RecordError(f"status: expected a text, got {status!r:.80}")
    new["status"] = _OLDER_STATUS.get(status, status)
    if status in _OLDER_PHASE:
        new["phase"] = _OLDER_PHASE[status]
    for key in ("created_at", "finished_at"):
        if key in new:
            new[key] = _unix_seconds(new[key], key)
    if isinstance(new.get("checkpoint"), str):
        new["checkpoint"] = {"path": new["checkpoint"]}
    if isinstance(new.get("error"), str):
        new["error"] = {"type": "Error", "message": new["error"]}
    return new


def _unix_seconds(value: Any, field: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return datetime.datetime.fromisoformat(value.replace("Z", "+00:00")).timestamp()
    except ValueError as error:
        raise RecordError(f"{field}: expected Unix seconds or an ISO time, got {value!r}") from error


# --- JSON Schema ---------------------------------------------------------------------------------


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a record; the file ``record.schema.json`` in the package is this, written down."""
    schema = msgspec.json.schema(Record)
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "trainkit job record"
    return cast("dict[str, Any]", clean_descriptions(allow_non_finite(schema)))
