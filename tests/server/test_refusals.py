"""Every route with every bad input: the exact status, a kind body, and nothing touched outside of the root."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.server.conftest import TOKEN, RunningServer
from trainkit.api.launching import submit

POSTS = ["train", "train/stop", "train/finish", "train/pause", "train/resume", "train/kill", "train/set"]
GETS = ["train/status", "train/jobs", "train/metrics", "train/logs", "train/events"]
OF_ONE_JOB = [*POSTS[1:], "train/status", "train/metrics", "train/logs", "train/events", "train/jobs/"]

#: An id that could not be, and one that could but is not.
BAD_IDS = {
    "dots": "../../secret",
    "absolute": "/etc/passwd",
    "encoded dots": "..%2F..%2Fsecret",
    "nul": "a\0b",
    "newline": "a\n",
    "3 kB": "a" * 3000,
    "empty": "",
    "not ascii": "jöb",
}


def noted(job: Any) -> None:
    """Do nothing of note."""


@pytest.fixture(scope="module")
def secret(session_server: RunningServer) -> Iterator[Path]:
    """A file beside the root, with links to it where the files of a job would be."""
    outside = session_server.root.parent / "secret"
    outside.mkdir()
    record = {"job_id": "linked", "status": "RUNNING", "message": "secret", "created_at": 1.0}
    (outside / "record.json").write_text(json.dumps(record))
    (outside / "table.csv").write_text("secret,y\n1,2\n")
    (outside / "requests.jsonl").write_text("")
    jobs = session_server.root / "artifacts" / "jobs"
    jobs.mkdir(parents=True, exist_ok=True)
    # A record that is a link; a folder that is one; a file in the folder that is one.
    (jobs / "linked.json").symlink_to(outside / "record.json")
    (jobs / "folder.json").write_text(json.dumps({**record, "job_id": "folder"}))
    (jobs / "folder").symlink_to(outside)
    (jobs / "file.json").write_text(json.dumps({**record, "job_id": "file"}))
    (jobs / "file").mkdir()
    (jobs / "file" / "requests.jsonl").symlink_to(outside / "requests.jsonl")
    (session_server.root / "table.csv").symlink_to(outside / "table.csv")
    before = listing(outside)
    yield outside
    assert listing(outside) == before


def listing(folder: Path) -> dict[str, str]:
    """Return the files of a folder and what is in them."""
    return {path.name: path.read_text() for path in folder.iterdir()}


def call(server: RunningServer, route: str, fields: dict[str, Any], **options: Any) -> Any:
    """Send fields to a route, in its way: as JSON, in the path, or in the query."""
    if route in POSTS:
        if route == "train/set":
            fields = {"params": {"lr": 0.1}, **fields}
        return server.request("POST", f"api/{route}", fields, **options)
    rest = dict(fields)
    method, path = (
        ("DELETE", f"api/{route}{quote(str(rest.pop('job_id', '')), safe='')}")
        if route.endswith("/")
        else ("GET", f"api/{route}")
    )
    query = "&".join(f"{name}={quote(str(value), safe='')}" for name, value in rest.items())
    return server.request(method, f"{path}?{query}", **options)


def check_refusal(answer: Any, status: int) -> None:
    """The status is that, the body tells the type and a message, and nothing of our code."""
    assert answer.status == status, answer.text
    assert answer.headers["Content-Type"].startswith("application/json")
    assert answer.json["ok"] is False
    assert answer.json["error"]["type"]
    assert 10 < len(answer.json["error"]["message"]) < 1000
    assert "Traceback" not in answer.text
    assert ".py" not in answer.text


@pytest.mark.parametrize("route", [*POSTS, *GETS, "train/jobs/", "train/openapi.json", "train/nothing"])
@pytest.mark.parametrize("token", [None, "wrong", "", TOKEN + "x"])
def test_nobody_gets_in_without_the_token(session_server: RunningServer, route: str, token: str | None) -> None:
    """Neither to read nor to write, whether there is such a job or not."""
    check_refusal(call(session_server, route, {"job_id": "a"}, token=token), 403)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"])
@pytest.mark.parametrize("route", [*POSTS, *GETS, "train/jobs/a", "train/openapi.json"])
def test_no_method_is_open(session_server: RunningServer, route: str, method: str) -> None:
    """Authentication is asked for before anything else; what a route does not do is 405 with the token."""
    assert session_server.request(method, f"api/{route}", token=None).status == 403
    answer = session_server.request(method, f"api/{route}")
    allowed = {"POST"} if route in POSTS else {"DELETE"} if route == "train/jobs/a" else {"GET"}
    if method not in allowed:
        assert answer.status == 405
        assert set(answer.headers["Allow"].split(", ")) == allowed


@pytest.mark.parametrize("route", POSTS)
def test_a_cookie_alone_does_not_write(session_server: RunningServer, route: str) -> None:
    """A page of another site has the browser's cookie, but not the XSRF token."""
    login = session_server.request("GET", "api/train/jobs")
    cookies = [value.split(";")[0] for name, value in login.cookies if value.startswith("username")]
    assert cookies
    headers = {"Cookie": "; ".join(cookies)}
    assert session_server.request("GET", "api/train/jobs", token=None, headers=headers).status == 200, (
        "it can read"
    )
    answer = session_server.request("POST", f"api/{route}", {"job_id": "a"}, token=None, headers=headers)
    check_refusal(answer, 403)
    with_xsrf = {"Cookie": f"{headers['Cookie']}; _xsrf=2|abc", "X-XSRFToken": "2|abd"}
    assert session_server.request("POST", f"api/{route}", {}, token=None, headers=with_xsrf).status == 403


def test_a_page_of_the_server_itself_may_write(session_server: RunningServer) -> None:
    """The login cookie with its XSRF token is what a panel in JupyterLab has."""
    login = session_server.request("GET", "login", token=None)
    page = session_server.request("GET", "api/train/jobs")
    cookies = dict(value.split(";")[0].split("=", 1) for answer in (login, page) for _, value in answer.cookies)
    headers = {
        "Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items()),
        "X-XSRFToken": cookies["_xsrf"],
    }
    answer = session_server.request("POST", "api/train/stop", {"job_id": "a"}, token=None, headers=headers)
    assert answer.status == 404, "allowed, but there is no such job"


def test_another_host_name_is_refused(session_server: RunningServer) -> None:
    """A page that has rebound its own name to this machine gets nothing, not even health."""
    for path in ("health", "api/train/jobs"):
        assert session_server.request("GET", path, headers={"Host": "evil.example"}).status == 403


@pytest.mark.parametrize("body", [b"", b"{", b"nonsense", b"[1]", b'"a"', b"null", b'{"job_id": NaN}', b"\xff{}"])
@pytest.mark.parametrize("route", POSTS)
def test_what_is_no_json_object_is_400(session_server: RunningServer, route: str, body: bytes) -> None:
    """So is NaN, which is not JSON."""
    check_refusal(session_server.request("POST", f"api/{route}", body), 400)


def test_deep_nesting_and_odd_numbers_are_400(session_server: RunningServer) -> None:
    """What would exhaust a parser is refused like other nonsense."""
    for body in (b"[" * 60_000, b'{"a":' * 12_000, b'{"job_id": 1e999}', b'{"job_id": "\\ud800"}'):
        check_refusal(session_server.request("POST", "api/train/stop", body), 400)


@pytest.mark.parametrize("job_id", [None, 7, 1.5, True, ["a"], {"a": 1}])
@pytest.mark.parametrize("route", POSTS[1:])
def test_an_id_of_a_wrong_type_is_422(session_server: RunningServer, route: str, job_id: Any) -> None:
    """The JSON could be read, what it says could not be."""
    check_refusal(call(session_server, route, {"job_id": job_id}), 422)


@pytest.mark.parametrize("kind", BAD_IDS)
@pytest.mark.parametrize("route", OF_ONE_JOB)
def test_what_could_not_be_an_id_is_refused(
    session_server: RunningServer, secret: Path, route: str, kind: str
) -> None:
    """In the address 400, in a body 422; the id is looked at after it was decoded."""
    check_refusal(call(session_server, route, {"job_id": BAD_IDS[kind]}), 422 if route in POSTS else 400)


@pytest.mark.parametrize("route", OF_ONE_JOB)
def test_an_unknown_job_is_404(session_server: RunningServer, route: str) -> None:
    """And so it is said."""
    answer = call(session_server, route, {"job_id": "unknown"})
    check_refusal(answer, 404)
    assert answer.json["error"]["type"] == "UnknownJobError"


@pytest.mark.parametrize("job_id", ["linked", "folder", "file"])
@pytest.mark.parametrize("route", OF_ONE_JOB)
def test_links_among_a_jobs_files_are_not_followed(
    session_server: RunningServer, secret: Path, route: str, job_id: str
) -> None:
    """Neither to read nor to write: what they lead to stays as it was, which the fixture checks."""
    answer = call(session_server, route, {"job_id": job_id})
    check_refusal(answer, 403)
    assert "secret" not in answer.text


def test_a_linked_record_is_not_listed(session_server: RunningServer, secret: Path) -> None:
    """The list tells nothing of what lies outside."""
    answer = session_server.get("api/train/jobs", limit=1000)
    assert "secret" not in {job["message"] for job in answer.json["jobs"] if job["job_id"] == "linked"}
    assert "linked" not in {job["job_id"] for job in answer.json["jobs"]}


@pytest.mark.parametrize(
    "data", ["../secret/table.csv", "table.csv", "/etc/passwd", "~/x", "a\0b", "x" * 3000, ".", ""]
)
def test_a_table_outside_of_the_root_is_refused(session_server: RunningServer, secret: Path, data: str) -> None:
    """By its path or by a link; what is no file below the root is no table either."""
    outside = data in ("../secret/table.csv", "table.csv", "/etc/passwd", "a\0b")
    for word in ("data", "dataset"):
        answer = session_server.post("api/train", {word: data, "target": "y"})
        check_refusal(answer, 403 if outside else 422)
        assert "1,2" not in answer.text


@pytest.mark.parametrize(
    "fields",
    [
        {"epochs": 0},
        {"epochs": "3"},
        {"epochs": 1.5},
        {"epochs": 10**400},
        {"lr": "NaN"},
        {"lr": -1},
        {"batch_size": None, "hidden": [0]},
        {"device": "tpu; rm -rf /"},
        {"epoch": 3},
        {"name": "a\nb"},
        {"name": ""},
        {"name": "x" * 201},
        {"name": 5},
        {"idempotency_key": ""},
        {"idempotency_key": 5},
        {"job_id": "mine"},
        {"data": "a.csv", "dataset": "b.csv"},
        {"task": "guess"},
        {"root": 5},
    ],
)
def test_wrong_options_start_nothing(session_server: RunningServer, fields: dict[str, Any]) -> None:
    """Each is named in the answer, and no job comes into being."""
    before = session_server.get("api/train/jobs").json["count"]
    check_refusal(session_server.post("api/train", fields), 422)
    assert session_server.get("api/train/jobs").json["count"] == before


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=1001",
        "limit=x",
        "offset=-1",
        "state=DONE",
        "stat=RUNNING",
        "limit=1&limit=2",
        "state=%ff",
        "state=null",
    ],
)
def test_a_query_that_cannot_be_is_400(session_server: RunningServer, query: str) -> None:
    """A misspelt filter is told, not passed over."""
    check_refusal(session_server.request("GET", f"api/train/jobs?{query}"), 400)


def test_what_servers_and_pages_put_into_a_query_is_let_pass(session_server: RunningServer) -> None:
    """The token, and JupyterLab's number against old answers."""
    assert session_server.request("GET", f"api/train/jobs?token={TOKEN}&1700000000000", token=None).status == 200


@pytest.mark.parametrize("route", POSTS)
@pytest.mark.parametrize("size", [65 * 1024, 1 << 20])
def test_a_body_too_large_is_413(session_server: RunningServer, route: str, size: int) -> None:
    """The client gets to read why, although it has sent everything first."""
    check_refusal(session_server.request("POST", f"api/{route}", b"x" * size), 413)


def test_a_huge_body_takes_no_memory(session_server: RunningServer) -> None:
    """Three hundred megabytes, with and without a length told beforehand, are not kept."""
    before = session_server.peak_memory_mb()
    for chunked in (False, True):
        assert session_server.post_huge("api/train", size=300 << 20, chunked=chunked) in (413, None)
        assert session_server.post_huge("api/train", size=300 << 20, chunked=chunked, token=None) in (403, None)
    assert session_server.peak_memory_mb() - before < 20
    assert session_server.get("api/train/jobs").status == 200


def test_a_damaged_record_is_told_and_can_be_deleted(session_server: RunningServer) -> None:
    """409: it is the state of that job, not the request; the others are listed as ever."""
    job = submit(noted, root=session_server.root)
    job.wait(10)
    job.paths.record.write_text("{")
    check_refusal(session_server.get("api/train/status", job_id=job.id), 409)
    assert session_server.get("api/train/jobs").status == 200
    assert session_server.request("DELETE", f"api/train/jobs/{job.id}").status == 200
    check_refusal(session_server.get("api/train/status", job_id=job.id), 404)


def test_health_tells_everybody_that_and_no_more(session_server: RunningServer) -> None:
    """Four fields, without a token."""
    answer = session_server.request("GET", "health", token=None)
    assert answer.status == 200
    assert set(answer.json) == {"ok", "timestamp", "service", "version"}
    assert (answer.json["ok"], answer.json["service"]) == (True, "trainkit")
