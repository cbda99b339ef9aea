"""Kill those who append to a stream again and again while others read it, and look for every line.

``python tailing.py VARIANT KILLS FOLDER`` prints one JSON object.  Two writers append requests to one job, a third
its metrics; each is killed at random instants, started again, and says of every line when it was written.  Every
write is cut in two at a random byte, so that kills leave torn lines.  A reader tails both all the time.  VARIANT
is ``trainkit``; ``eager``, a reader that takes a torn last line for the end of the file; or ``unhealed``, writers
that append without a look at what is there.  Runs without torch, since it forks.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainkit.files import store as store_module
from trainkit.files import streams
from trainkit.files.record import Record, Status
from trainkit.files.store import Store
from trainkit.files.streams import Appender, tail

JOB = "job"
_write = os.write


def write_in_two(fd: int, data: Any) -> int:
    """A real write of a part, as on a full disk; whoever writes goes on with the rest."""
    whole = bytes(data)
    return _write(fd, whole[: random.randint(1, len(whole))] if len(whole) > 1 else whole)


def eager_tail(path: Path, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
    """The known-bad reader: what is there is there."""
    data = path.read_bytes()[offset:]
    items = []
    for line in data.splitlines():
        try:
            item = json.loads(line)
        except ValueError:
            continue
        if isinstance(item, dict):  # the second half of a line may be a number
            items.append(item)
    return items, offset + len(data)


def append_metrics(store: Store, said: int, first: int) -> None:
    """Append until killed."""
    appender = Appender(store.paths(JOB).metrics)
    for n in range(first, sys.maxsize):
        appender.append([{"n": n, "filler": "m" * 30}])
        _write(said, b"%d\n" % n)


def append_requests(who: int) -> Callable[[Store, int, int], None]:
    """Ask until killed."""

    def ask(store: Store, said: int, first: int) -> None:
        for n in range(first, sys.maxsize):
            store.request(JOB, "set", who=who, n=n)
            _write(said, b"%d\n" % n)

    return ask


def read(store: Store, variant: str, over: Path, answer: Path) -> None:
    """Tail both streams until told, then once more, and write down all that came."""
    follow = eager_tail if variant == "eager" else tail
    seen: dict[str, list[Any]] = {"metrics": [], "requests": []}
    offsets = {"metrics": 0, "requests": 0}
    paths = {"metrics": store.paths(JOB).metrics, "requests": store.paths(JOB).requests}
    while True:
        last = over.exists()
        for name, path in paths.items():
            lines, offsets[name] = follow(path, offsets[name])
            seen[name] += [[line.get("who", 0), line["n"]] for line in lines]
        if last:
            break
    answer.write_text(json.dumps(seen))


def main(variant: str, kills: int, folder: str) -> None:
    """Kill, and compare."""
    store = Store(folder)
    store.create(Record(job_id=JOB, name=JOB, status=Status.RUNNING, runner="process")).close()
    over, answer = Path(folder) / "over", Path(folder) / "answer.json"
    if (reader := os.fork()) == 0:
        read(store, variant, over, answer)
        os._exit(0)
    os.write = write_in_two  # type: ignore[assignment]
    if variant == "unhealed":
        streams.missing_newline = store_module.missing_newline = lambda fd: b""  # type: ignore[assignment]
    jobs = {"metrics": append_metrics, "requests 1": append_requests(1), "requests 2": append_requests(2)}
    luck = random.Random(0)
    said: dict[str, list[int]] = {name: [] for name in jobs}
    starts: Counter[str] = Counter()

    def start(name: str) -> tuple[int, int]:
        receive, send = os.pipe()
        starts[name] += 1
        if (pid := os.fork()) == 0:
            random.seed(starts[name])
            # A range of its own: who was killed may have written a line of which it could not say so any more.
            jobs[name](store, send, starts[name] * 1_000_000)
            os._exit(1)
        os.close(send)
        return pid, receive

    running = {name: start(name) for name in jobs}
    for _ in range(kills):
        time.sleep(luck.uniform(0, 0.01))
        name = luck.choice(list(jobs))
        pid, receive = running[name]
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        said[name] += _numbers(receive)
        running[name] = start(name)
    for name, (pid, receive) in running.items():
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        said[name] += _numbers(receive)
    os.write = _write
    over.touch()
    os.waitpid(reader, 0)
    seen = json.loads(answer.read_text())
    result: Counter[str] = Counter(kills=kills)
    for name, who, stream in (
        ("metrics", 0, "metrics"),
        ("requests 1", 1, "requests"),
        ("requests 2", 2, "requests"),
    ):
        came = [n for w, n in seen[stream] if w == who]
        result["written"] += len(said[name])
        result["seen"] += len(came)
        result["lost"] += len(set(said[name]) - set(came))
        result["twice"] += len(came) - len(set(came))
        result["out of order"] += came != sorted(came)
    torn = sum(
        not line.endswith(b"}")
        for path in (store.paths(JOB).metrics, store.paths(JOB).requests)
        for line in path.read_bytes().splitlines()
    )
    print(json.dumps({**result, "torn lines left": torn}))


def _numbers(receive: int) -> list[int]:
    data = b""
    while more := os.read(receive, 65536):
        data += more
    os.close(receive)
    return [int(line) for line in data.split()]


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
