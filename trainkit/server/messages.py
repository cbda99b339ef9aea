"""What requests hold and what answers look like: one definition for validation and for the OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from trainkit.files.paths import JOB_ID_PATTERN
from trainkit.files.record import CheckpointInfo, Record, Status
from trainkit.tabular.options import TrainOptions

JobId = Annotated[str, Meta(pattern=f"^{JOB_ID_PATTERN}$", description="The id of a job.")]
Root = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=4096,
        description="The root folder of the jobs: absolute, or relative to the server's root folder, and not "
        "outside of it. Without it the server's default root.",
    ),
]
Offset = Annotated[int, Meta(ge=0, le=2**53, description="Bytes to pass over, as `next` of the answer before.")]
#: One line without control characters.
Line = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
Tail = Annotated[int, Meta(ge=0, le=100_000)]
Params = dict[Annotated[str, Meta(min_length=1, max_length=200)], float | int | str | bool]
TablePath = Annotated[str, Meta(min_length=1, max_length=4096)]


# --- requests ------------------------------------------------------------------------------------


class Request(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What every request may say."""

    root: Root | None = None


class NoRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request that says nothing."""


class JobRequest(Request, kw_only=True, frozen=True):
    """A request about one job."""

    job_id: JobId


class SetRequest(JobRequest, kw_only=True, frozen=True):
    """Parameters to change while the job runs."""

    params: Annotated[
        Params,
        Meta(min_length=1, max_length=100, description='New values, for example {"lr": 0.0003}.'),
    ]


class ReplayRequest(JobRequest, kw_only=True, frozen=True):
    """A job to be run once more."""

    name: Annotated[Line | None, Meta(description="What people call the new job.")] = None


class BranchRequest(ReplayRequest, kw_only=True, frozen=True):
    """A job to go on from, in a new job."""

    step: Annotated[
        Annotated[int, Meta(ge=0, le=2**53)] | None,
        Meta(description="Of which checkpoint; without it the newest."),
    ] = None
    params: Annotated[Params, Meta(max_length=100, description="Parameters with new values.")] = {}


class JobsRequest(Request, kw_only=True, frozen=True):
    """Which jobs to list."""

    state: Annotated[Status | None, Meta(description="Only jobs in this state.")] = None
    limit: Annotated[int, Meta(ge=1, le=1000, description="At most that many.")] = 100
    offset: Annotated[int, Meta(ge=0, le=2**53, description="Pass over that many, newest first.")] = 0


class MetricsRequest(JobRequest, kw_only=True, frozen=True):
    """Which metrics to send."""

    since: Offset = 0


class LogsRequest(JobRequest, kw_only=True, frozen=True):
    """Which part of the output to send: the last lines, or what came since."""

    tail: Annotated[Tail | None, Meta(description="Only that many last lines.")] = None
    since: Offset | None = None


# --- answers -------------------------------------------------------------------------------------


class Answer(msgspec.Struct, kw_only=True):
    """What every answer says."""

    ok: bool = True


class Reply(NamedTuple):
    """An answer with its status and headers, where they are not those of the route."""

    answer: Answer
    status: int
    headers: Mapping[str, str]


class StatusAnswer(Answer, kw_only=True):
    """A job's record, with the state that is true now."""

    status: Record


class UnreadableJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job whose record or other files cannot be read, and why; ``job_id`` is the name of its record."""

    job_id: str
    message: str


class JobsAnswer(Answer, kw_only=True):
    """The records of a page of jobs, newest first, and how many there are on all pages.

    ``unreadable`` are those that cannot be read; it is empty on later pages, and where a state was requested.
    """

    jobs: list[Record]
    count: int
    unreadable: list[UnreadableJob] = []


class CommandAnswer(Answer, kw_only=True):
    """The state of a job after it was asked something."""

    job_id: str
    status: Status
    message: str


class CheckpointsAnswer(Answer, kw_only=True):
    """The checkpoints that a job can be branched from, by step."""

    checkpoints: list[CheckpointInfo]


class DeletedAnswer(Answer, kw_only=True):
    """A job that is no more."""

    job_id: str
    message: str


class TrainAnswer(Answer, kw_only=True):
    """A job that was started, or was there already under the same idempotency key."""

    job_id: str
    pid: int | None
    status: Status
    message: str


class MetricsAnswer(Answer, kw_only=True):
    """Lines of the metrics stream; ``next`` is where to go on, ``more`` whether there is more now."""

    metrics: list[dict[str, Any]]
    next: int
    more: bool


class LogsAnswer(Answer, kw_only=True):
    """A piece of the output, as a terminal shows it: a progress bar is its last frame.

    ``logs`` holds the lines that will not change any more, ``line`` the beginning of what follows them now and may
    still change; ``next`` is where to go on, ``more`` whether there is more now.
    """

    logs: str
    line: str = ""
    next: int
    more: bool


class EventsAnswer(Answer, kw_only=True):
    """Lines of the events stream."""

    events: list[dict[str, Any]]


class EndEvent(Answer, kw_only=True):
    """The job is over; without a status, its record is gone."""

    status: Status | None


class HealthAnswer(Answer, kw_only=True):
    """Whether the server is there."""

    timestamp: float
    service: str
    version: str


class Problem(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What went wrong, and where: the file's line and column for a table."""

    type: str
    message: str
    line: int | None = None
    column: str | int | None = None


class ProblemAnswer(msgspec.Struct, kw_only=True):
    """The answer to what could not be done."""

    ok: bool = False
    error: Problem


class TrainRequest(TrainOptions, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A table to train on, with its options; without a table, made-up rows."""

    data: Annotated[TablePath | None, Meta(description="A CSV, JSONL or Parquet file below the root.")] = None
    dataset: Annotated[TablePath | None, Meta(description="Another word for data.")] = None
    name: Annotated[Line | None, Meta(description="What people call the job.")] = None
    idempotency_key: Annotated[
        Line | None, Meta(description="A request that is sent again with the same key starts no second job.")
    ] = None
    root: Root | None = None
    max_time: Annotated[
        float | Line | None,
        Meta(description="For how long it may run: seconds, or a text such as 30min or 2h. Then it finishes."),
    ] = None
