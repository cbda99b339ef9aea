"""The OpenAPI document: what it says is what the server does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.server.conftest import TOKEN, RunningServer, end, jupyter_server
from trainkit.api.launching import submit
from trainkit.server.openapi import document
from trainkit.server.routes import ROUTES
from trainkit.tabular.options import TrainOptions


def test_the_options_are_those_of_python() -> None:
    """One definition: an option that is new in Python is there, with its limits and its description."""
    schemas = document("/", ROUTES)["components"]["schemas"]
    options = schemas["TrainRequest"]["properties"]
    python = msgspec.json.schema_components([TrainOptions])[1]["TrainOptions"]["properties"]
    assert python.items() <= options.items()
    assert set(options) - set(python) == {"data", "dataset", "name", "idempotency_key", "max_time", "root"}
    assert schemas["TrainRequest"]["additionalProperties"] is False


def test_every_route_of_the_issue_is_described() -> None:
    """And nothing else."""
    paths = document("/user/ann/", ROUTES)["paths"]
    assert {(method.upper(), path) for path, methods in paths.items() for method in methods} == {
        ("GET", "/health"),
        ("POST", "/api/train"),
        *(
            ("GET", f"/api/train/{name}")
            for name in ("status", "jobs", "metrics", "logs", "events", "checkpoints")
        ),
        *(("POST", f"/api/train/{name}") for name in ("stop", "finish", "pause", "resume", "kill", "set")),
        *(("POST", f"/api/train/{name}") for name in ("replay", "branch")),
        ("DELETE", "/api/train/jobs/{job_id}"),
    }


def test_a_record_with_infinite_numbers_fits_its_schema(session_server: RunningServer) -> None:
    """What is sent on the day the loss diverges is what the document says."""
    jsonschema = pytest.importorskip("jsonschema")
    job = submit(diverge, root=session_server.root)
    job.wait(10)
    answer = session_server.get("api/train/status", job_id=job.id).json
    assert answer["status"]["metrics"] == {"loss": "NaN", "grad": "Infinity"}
    described = session_server.get("api/train/openapi.json").json
    schema = {"$ref": "#/components/schemas/StatusAnswer", "components": described["components"]}
    jsonschema.validate(answer, schema)


def diverge(run: Any) -> None:
    """Log what is no number."""
    run.log(loss=float("nan"), grad=float("inf"))


@pytest.fixture
def full_server(tmp_path: Path) -> Iterator[RunningServer]:
    """A server that has a job which is over, and room for two more."""
    server = jupyter_server(tmp_path, "--TrainkitApp.max_live_jobs=2", base_url="/x/")
    yield server
    for job in server.get("api/train/jobs", limit=1000).json["jobs"]:
        server.post("api/train/kill", {"job_id": job["job_id"]})
    end(server)


def run_schemathesis(server: RunningServer, examples: int) -> None:
    """Send what the document allows and what it does not; fail on any answer that it does not describe."""
    job = submit(diverge, root=server.root)
    job.wait(10)
    (server.root.parent / "queue").mkdir(exist_ok=True)
    outside = {path.name for path in server.root.parent.iterdir()}
    own = server.root.parent.parent / f"{server.root.parent.name} schemathesis"
    own.mkdir()
    done = subprocess.run(
        [
            *(str(Path(sys.executable).with_name("schemathesis")), "--no-color", "run"),
            *(f"{server.url}api/train/openapi.json", "-H", f"Authorization: token {TOKEN}"),
            *("--max-examples", str(examples), "--phases", "coverage,fuzzing", "--continue-on-failure"),
            *("--checks", "all", "--warnings", "off", "--seed", "1", "--generation-database", "none"),
            # The list of events has no end while a job runs; its parameters are those of status.
            *("--exclude-path", "/api/train/events"),
            # A table may be missing and a place taken: what the schema allows can be refused.
            *("--exclude-checks", "positive_data_acceptance"),
        ],
        cwd=own,
        env={**os.environ, "SCHEMATHESIS_HOOKS": "tests.server.schema_hooks", "TRAINKIT_TEST_JOB": job.id}
        | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    log = server.log.read_text()
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "Traceback" not in log, log[-4000:]
    assert {path.name for path in server.root.parent.iterdir()} == outside, "nothing was made outside"


@pytest.mark.extended
def test_schemathesis_finds_nothing(full_server: RunningServer) -> None:
    """No 5xx, no answer that is not described, whatever is sent."""
    run_schemathesis(full_server, examples=15)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_schemathesis_finds_nothing_in_many_requests(full_server: RunningServer) -> None:
    """The long form."""
    run_schemathesis(full_server, examples=400)
