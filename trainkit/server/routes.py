"""All routes, in one table: the handlers, the validation and the OpenAPI document are made from it."""

from __future__ import annotations

from trainkit.server import commands, jobs, launch, streams
from trainkit.server.http import Route
from trainkit.server.messages import (
    BranchRequest,
    CheckpointsAnswer,
    CommandAnswer,
    DeletedAnswer,
    JobRequest,
    JobsAnswer,
    JobsRequest,
    LogsAnswer,
    LogsRequest,
    MetricsAnswer,
    MetricsRequest,
    ReplayRequest,
    SetRequest,
    StatusAnswer,
    TrainAnswer,
    TrainRequest,
)

ROUTES = [
    Route(
        "POST",
        "/api/train",
        launch.start,
        TrainRequest,
        TrainAnswer,
        statuses=(201, 200),
        lane="launch",
        explain=launch.explain,
    ),
    Route("GET", "/api/train/status", jobs.status, JobRequest, StatusAnswer),
    Route("GET", "/api/train/jobs", jobs.list_jobs, JobsRequest, JobsAnswer, lane="list"),
    Route("DELETE", "/api/train/jobs/{job_id}", jobs.delete, JobRequest, DeletedAnswer, lane="ask"),
    Route("POST", "/api/train/stop", commands.stop, JobRequest, CommandAnswer, lane="ask"),
    Route("POST", "/api/train/finish", commands.finish, JobRequest, CommandAnswer, lane="ask"),
    Route("POST", "/api/train/pause", commands.pause, JobRequest, CommandAnswer, lane="ask"),
    Route("POST", "/api/train/resume", commands.resume, JobRequest, CommandAnswer, lane="ask"),
    Route("POST", "/api/train/kill", commands.kill, JobRequest, CommandAnswer, lane="ask"),
    Route("POST", "/api/train/set", commands.set_params, SetRequest, CommandAnswer, lane="ask"),
    Route("GET", "/api/train/checkpoints", jobs.checkpoints, JobRequest, CheckpointsAnswer),
    Route(
        "POST",
        "/api/train/replay",
        commands.replay,
        ReplayRequest,
        CommandAnswer,
        statuses=(201,),
        lane="launch",
    ),
    Route(
        "POST",
        "/api/train/branch",
        commands.branch,
        BranchRequest,
        CommandAnswer,
        statuses=(201,),
        lane="launch",
    ),
    Route("GET", "/api/train/metrics", streams.metrics, MetricsRequest, MetricsAnswer),
    Route("GET", "/api/train/logs", streams.logs, LogsRequest, LogsAnswer),
]
