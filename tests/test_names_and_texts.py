"""Names and texts that training code chooses: no character of them breaks a view or drives a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import string
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import pytest

import trainkit as tk
from trainkit.api import view
from trainkit.api.job import Job
from trainkit.clean_text import clean, clean_json, clean_lines
from trainkit.cli.group import complete_id
from trainkit.cli.watching import EpochReader
from trainkit.files.record import Best, ErrorInfo, Record, Status, encode, to_dict
from trainkit.files.store import Store
from trainkit.files.streams import encode_line, encode_lines, tail
from trainkit.panels import picture
from trainkit.panels.feed import JobFeed
from trainkit.panels.lines import Lines
from trainkit.panels.plain import gone_text, live_text
from trainkit.server.http import to_json
from trainkit.server.messages import MetricsRequest
from trainkit.server.roots import Roots
from trainkit.server.site import Site
from trainkit.server.streams import metrics

#: Every name is one of a metric, a parameter and a job.
NAMES = [
    *(f"a{character}b" for character in string.punctuation),
    *("a\tb", "a\nb", "a\rb", "a b", "a\x00b", "a\x07b", "a\x1b[2Jb"),
    *("a\x7fb", "a\x9b31mb", "a\u202eb", "a\u2028b", "\ufeff", "\ud800"),
    *("é", "損失", "😀", "e\u0301", "loss\\alpha", "$x_$", "a$b$c_", "a" * 5000, "val_", "val/"),
    *("__class__", "constructor", "__proto__", "0", "m0", "</script><img src=x>", 'acc "top-5"', "%s", "{}"),
]
#: Those that mean something to matplotlib, HTML or JSON; a picture takes a second.
DRAWN = [
    "$a_b^{c}\\\"<img src=x>'&amp;%s{}#~\t\n\x00\x1b]0;\x07\u202e",
    *("$x_$", "\\alpha$", "損失😀", "\ud800", "a" * 5000),
]
#: The clipboard, the title and the screen of a terminal, in 7 and 8 bits; a direction of reading.
EVIL = "\x1b]0;TITLE\x07\x1b]52;c;cm0gLXJm\x07\x1b[2J\x9b31mX\r\u202e"
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
#: What rich writes itself: colours, and the visibility of the cursor.
OWN_CODES = re.compile(r"\x1b\[[0-9;?]*[mhl]")


def as_stored(name: str) -> str:
    """Return a name as JSON can hold it: a lone surrogate is not in UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()


def written(root: Path, name: str) -> Job:
    """Return a job that has ended, and whose name, metric and parameter have a name."""
    store, shown = Store(root), as_stored(name)
    record = Record(
        job_id="a",
        name=shown,
        status=Status.COMPLETED,
        runner="thread",
        metrics={shown: 2.0, "loss": 1.0},
        params={shown: shown, "list": [shown]},
        best=Best(metric=shown, value=1.0, step=1),
        step=3,
        finished_at=1.0,
    )
    store.create(record).close()
    lines = [{"attempt": 1, "epoch": 1, "step": step, "time": 1.0, name: step, "loss": 1.0} for step in (1, 2, 3)]
    store.paths("a").metrics.write_bytes(encode_lines(lines))
    return Job("a", store)


@pytest.mark.filterwarnings("ignore:Glyph .* missing from font")
@pytest.mark.parametrize("name", DRAWN, ids=[ascii(name)[:30] for name in DRAWN])
def test_any_name_of_a_metric_is_drawn(root: Path, name: str) -> None:
    """In the plot and in the stored picture."""
    job = written(root, name)
    assert job.plot()._repr_png_().startswith(b"\x89PNG")
    html = picture.bundle(job)["text/html"]
    assert "<img src=x>" not in html
    assert "<img alt=" in html


@pytest.mark.parametrize("name", NAMES, ids=[ascii(name)[:30] for name in NAMES])
def test_any_name_of_a_metric_is_shown_everywhere(root: Path, name: str) -> None:
    """In the frame, the panel, the text, HTTP and the list of epochs."""
    job, shown = written(root, name), as_stored(name)
    assert job.metrics()[shown].tolist() == [1, 2, 3]
    content, buffers = JobFeed(job.store, job.id).full()
    assert json.loads(json.dumps(content)) == json.loads(json.dumps(content, ensure_ascii=False))
    series = {each["name"]: each for each in content["series"]}
    assert series[shown]["count"] == 3
    assert len(buffers) == 4
    assert shown in [each for _, names in content["card"]["groups"] for each in names]
    for text in (repr(job), job.summary(), live_text(job.record), gone_text(job.record), repr(tk.jobs(root=root))):
        assert not OBEYED.search(text)
        assert "loss" in text or "deleted" in text or "COMPLETED" in text
    answer = json.loads(to_json(metrics(Site(Roots(root, root)), MetricsRequest(job_id="a"))))
    assert [line[shown] for line in answer["metrics"]] == [1, 2, 3]
    epochs = EpochReader().read(tail(job.paths.metrics)[0], ended=True)
    assert epochs[0].metrics[shown] == 3


@pytest.mark.parametrize("name", NAMES, ids=[ascii(name)[:30] for name in NAMES])
def test_lines_with_any_names_are_read_in_bulk(name: str) -> None:
    """The second time as well, when the names are known, and together with names that come later."""
    lines, shown = Lines(), as_stored(name)
    for values in ({name: 1.0}, {name: 2.0, "loss": 1.0}, {"loss": float("nan")}):
        table = lines.table(encode_line({"attempt": 1, "epoch": 0, "step": 1, "time": 0.0, **values}))
        assert set(table.columns) == {as_stored(each) for each in values}
    assert table.columns["loss"].values.tolist() != [1.0]
    assert lines.table(encode_line({"step": 2, name: 5.0})).columns[shown].values.tolist() == [5.0]


@pytest.mark.parametrize(
    "line",
    [
        *(
            '{"step":"x","attempt":"y","epoch":[],"time":{}}',
            '{"attempt":null,"step":1}',
            '{"step":1e400}',
            "[]",
            "1",
        ),
        *(
            '{"attempt":1,"step":99999999999999999999999,"loss":1}',
            '{"attempt":1e300,"step":1e300}',
            '{"epoch":"x"}',
        ),
        *('{"step":null}', "[" * 100_000, '{"a":' * 900 + "1" + "}" * 900, '{"step":{}}', "\xff\xfe", ""),
    ],
)
def test_a_line_without_a_place_is_passed_over(root: Path, line: str) -> None:
    """By the frame, the panel and the list of epochs alike; the lines around it stay."""
    job = written(root, "loss")
    good = encode_line({"attempt": 1, "epoch": 1, "step": 1, "time": 1.0, "loss": 0.5})
    job.paths.metrics.write_bytes(good + line.encode("latin-1") + b"\n" + good.replace(b'"step":1', b'"step":2'))
    assert job.metrics()["loss"].tolist() == [0.5, 0.5]
    series = {each["name"]: each["total"] for each in JobFeed(job.store, job.id).full()[0]["series"]}
    assert series["loss"] == 2
    assert [epoch.metrics["loss"] for epoch in EpochReader().read(tail(job.paths.metrics)[0], ended=True)] == [0.5]
    job.paths.events.write_bytes(good + line.encode("latin-1") + b'\n{"event":"warning","message":"careful"}\n')
    assert job.warnings() == ["careful"]


@pytest.mark.parametrize("value", ["x", None, {"a": 1}, [1], "$x$"])
def test_a_value_that_is_not_a_number_is_not_drawn(root: Path, value: Any) -> None:
    job = written(root, "loss")
    lines = [{"attempt": 1, "step": step, "loss": 1.0, "odd": value} for step in (1, 2)]
    job.paths.metrics.write_bytes(encode_lines(lines))
    assert job.metrics()["loss"].tolist() == [1.0, 1.0]
    job.plot()._repr_png_()
    picture.bundle(job)
    line = {"step": 1, "epoch": 1, "odd": value, "loss": 1.0}
    assert EpochReader().read([line], ended=True)[0].metrics == {"loss": 1.0}


@pytest.mark.parametrize("field", ["started_at", "finished_at", "heartbeat_at", "created_at", "progress", "loss"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e308, 1e308, -1.0])
def test_any_number_in_a_record_is_shown(root: Path, field: str, value: float) -> None:
    job = written(root, "loss")
    fields = {**to_dict(job.record), field: value}
    job.paths.record.write_bytes(encode_line(fields))
    assert job.summary()
    assert JobFeed(job.store, job.id).full()
    assert tk.jobs(root=root).table(ids=True)


# --- terminals -----------------------------------------------------------------------------------


def test_what_is_not_printable_is_a_space() -> None:
    assert clean(EVIL) == " ]0;TITLE  ]52;c;cm0gLXJm  [2J 31mX  "
    assert clean_lines(f"a\tb\r\n{EVIL}\n") == f"a\tb\n{clean(EVIL)}\n"
    assert clean("é 損失 😀") == "é 損失 😀"


@pytest.mark.parametrize("text", [EVIL, "\x7f", "\ue000", "\U000e0001", "é\u2066😀", "plain"])
def test_json_for_a_terminal_has_the_same_values(text: str) -> None:
    data = encode_line({"text": text}).decode()
    assert json.loads(clean_json(data)) == json.loads(data)
    assert clean_json(data).rstrip("\n").isprintable()


def hostile(root: Path) -> None:
    """Make jobs, one of which failed, that say of themselves what a terminal would obey."""
    store = Store(root)
    fields: dict[str, Any] = {
        "name": f"n{EVIL}",
        "message": f"m{EVIL}",
        "runner": f"r{EVIL}",
        "device": f"d{EVIL}",
        "host": EVIL,
        "metrics": {f"m{EVIL}": 1.0, "loss": 0.5},
        "params": {f"k{EVIL}": f"v{EVIL}", "list": [EVIL]},
        "best": Best(metric=f"b{EVIL}", value=1.0, step=1),
        "epoch": 1,
        "started_at": 1.0,
        "finished_at": 2.0,
    }
    trace = f'Traceback\n  File "/x/{EVIL}.py", line 3, in f{EVIL}\n    {EVIL}\n'
    for job_id, status in (("failed", Status.FAILED), ("done", Status.COMPLETED)):
        error = ErrorInfo(f"E{EVIL}", EVIL, trace) if status is Status.FAILED else None
        store.create(Record(job_id=job_id, status=status, error=error, **fields)).close()
        paths = store.paths(job_id)
        line = {"attempt": 1, "epoch": 1, "step": 1, "time": 1.0, f"m{EVIL}": 1.0, "loss": 0.5}
        paths.metrics.write_bytes(encode_line(line))
        warning = {"event": "warning", "attempt": 1, "message": f"w{EVIL}"}
        paths.events.write_bytes(
            encode_line(warning) + encode_line({**warning, "event": "cleared", "cause": EVIL})
        )
        paths.output.write_text(f"a line that stays\nout{EVIL}\n")
    (paths.record.parent / f"una{EVIL[:9]}ble.json").write_text("{")
    (paths.record.parent / "unr.json").write_text(
        json.dumps({"schema_version": 1, "job_id": "unr", "status": EVIL})
    )


def in_a_terminal(*words: str) -> str:
    """Return what the command writes into a terminal of its own."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "200", "LINES": "50"}
    command = [sys.executable, "-m", "trainkit", *words]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment):
        os.close(theirs)
        found = b""
        while True:
            try:
                data = os.read(ours, 65536)
            except OSError:  # how Linux says that the other end is closed
                break
            if not data:
                break
            found += data
    os.close(ours)
    return found.decode("utf-8", "replace")


@pytest.mark.parametrize(
    "words",
    [
        *(["jobs"], ["jobs", "--json"], ["status", "failed"], ["status", "done", "--json"], ["watch", "failed"]),
        *(["stop", "done"], ["logs", "done"], ["logs", "done", "--follow"], ["resume", "failed"]),
        *(["checkpoints", "done"], ["delete", "done"], ["status", EVIL.replace("\r", "")]),
    ],
    ids=" ".join,
)
def test_no_command_drives_the_terminal(root: Path, words: list[str]) -> None:
    hostile(root)
    shown = OWN_CODES.sub("", in_a_terminal(*words, "--root", str(root))).replace("\r\n", "\n")
    if "--follow" in words:  # draws the unfinished line anew: its own codes
        shown = re.sub(r"\r(\x1b\[A)*\x1b\[J", "", shown)
    assert len(shown.strip()) > 10
    assert not OBEYED.search(shown), ascii(shown)


def test_no_text_of_python_drives_the_terminal(root: Path) -> None:
    hostile(root)
    for job_id in ("failed", "done"):
        job = tk.attach(job_id, root=root)
        seen = view.view(job.record, now=time.time())
        pieces = [
            seen.name,
            seen.message,
            *(word for pair in (*seen.facts, *seen.numbers, *seen.params) for word in pair),
        ]
        if seen.fault is not None:
            pieces += [seen.fault.title, seen.fault.place, seen.fault.code, seen.fault.traceback]
        for text in (repr(job), job.summary(), *job.warnings(), *pieces, live_text(job.record)):
            assert not OBEYED.search(text), ascii(text)
    assert not OBEYED.search(repr(tk.jobs(root=root)) + tk.jobs(root=root).table(ids=True))
    error = tk.attach("failed", root=root).exception()
    assert not OBEYED.search(str(error)), ascii(str(error))
    with pytest.raises(tk.errors.TrainkitError) as raised:
        tk.attach("unr", root=root)
    assert not OBEYED.search(str(raised.value))


def test_the_shell_completes_only_ids(root: Path) -> None:
    hostile(root)
    context = click.Context(click.Command("status"))
    context.params = {"root": str(root)}
    assert complete_id(context, click.Argument(["job_id"]), "") == ["done", "failed", "unr"]


def test_encoding_is_untouched(root: Path) -> None:
    """The files keep what the training code said; only views clean it."""
    hostile(root)
    assert EVIL in tk.attach("done", root=root).record.name
    assert json.loads(encode(tk.attach("done", root=root).record))["message"] == f"m{EVIL}"
