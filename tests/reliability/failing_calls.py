"""The operations of ``failing_disk.py``, with the system calls themselves failing: below Python, by ``strace``.

``python failing_calls.py VARIANT FOLDER [OPERATION …]`` prints one JSON object: how many calls were made to fail,
by kind, and every fault that was found.  Each trial is a forked process whose main thread ``strace`` joins for as
long as the operation takes: the k-th ``openat``, ``write``, ``fsync``, … of it does not happen, and fails.  A
write that takes a part only is made by a limit on the size of files (``RLIMIT_FSIZE``), which is the kernel's own.
VARIANT is one of those of ``failing_disk.py``.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import failing_disk
from failing_disk import FOLDER_VARIABLE, OPERATIONS, Operation, Resume, Submit, attempt

CALLS = ("openat", "write", "fsync", "rename", "link", "unlink", "ftruncate", "truncate", "mkdir", "flock")
ERRORS = ("ENOSPC", "EIO", "EACCES")
#: Sizes beyond which no file may grow: within, and at the borders of, records and lines.
LIMITS_BYTES = (*range(0, 400, 23), *range(400, 4000, 211))
#: What is run in threads of its own is none of the main thread's calls.
TRIED = [each for each in OPERATIONS if each not in (Submit, Resume)]


@contextmanager
def traced(end: socket.socket) -> Iterator[None]:
    """Within, somebody else makes calls fail; it is asked by what is not among them."""
    end.send(b"ready")
    assert end.recv(10) == b"go"
    try:
        yield
    finally:
        end.send(b"done")
        assert end.recv(10) == b"gone"


@contextmanager
def no_file_larger_than(size_bytes: int) -> Iterator[None]:
    """A write beyond that takes a part, and the next one nothing: the kernel says EFBIG."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def prepared(kind_of: type[Operation], root: Path) -> Operation:
    """An operation whose files are there."""
    (root / "queue").mkdir(parents=True)
    os.environ[FOLDER_VARIABLE] = str(root / "queue")
    operation = kind_of(root)
    operation.prepare()
    return operation


def child(kind_of: type[Operation], root: Path, where: str, end: socket.socket) -> None:
    """Do it once, so that all is imported; once more while calls fail; and say what is wrong."""
    prepared(kind_of, root / "before").do()
    operation = prepared(kind_of, root / "now")
    end.send(json.dumps(attempt(operation, traced(end), where)).encode())


def try_call(kind_of: type[Operation], call: str, error: str, at: int, root: Path) -> tuple[str, list[str]]:
    """Let one call fail; return the line of the trace that tells which, and what was wrong."""
    where = f"{kind_of.__name__}, {error} at {call} {at}"
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if (pid := os.fork()) == 0:
        ours.close()
        child(kind_of, root, where, theirs)
        os._exit(0)
    theirs.close()
    try:
        assert ours.recv(10) == b"ready", f"{where}: the trial did not come up"
        trace = root / "trace"
        inject = f"inject={call}:error={error}:when={at}"
        command = ["strace", "-y", "-e", f"trace={call}", "-e", inject, "-o", str(trace), "-p", str(pid)]
        tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert tracer.stderr is not None
        said = tracer.stderr.readline()
        assert "attached" in said, said
        ours.send(b"go")
        assert ours.recv(10) == b"done", f"{where}: the trial has ended"
        tracer.terminate()
        tracer.communicate()
        ours.send(b"gone")
        wrong: list[str] = json.loads(ours.recv(1 << 20))
        failed = [line for line in trace.read_text().splitlines() if "(INJECTED)" in line]
        return (failed[0] if failed else ""), wrong
    finally:
        ours.close()
        os.waitpid(pid, 0)


def try_calls(kind_of: type[Operation], folder: Path, counts: Counter[str]) -> list[str]:
    """Fail every call of each kind in turn, in all of these ways."""
    wrong: list[str] = []
    for call, error in itertools.product(CALLS, ERRORS):
        for at in itertools.count(1):
            root = folder / f"{kind_of.__name__}-{call}-{error}-{at}"
            root.mkdir()
            failed, found = try_call(kind_of, call, error, at, root)
            shutil.rmtree(root, ignore_errors=True)
            if not failed:
                break  # it came to its end
            if str(root) in failed:  # what lies elsewhere, /proc say, is not the disk's
                counts[call] += 1
                wrong += found
    for size_bytes in LIMITS_BYTES:
        root = folder / f"{kind_of.__name__}-{size_bytes}"
        operation = prepared(kind_of, root)
        counts["short write"] += 1
        wrong += attempt(
            operation, no_file_larger_than(size_bytes), f"{kind_of.__name__}, no file beyond {size_bytes} bytes"
        )
        shutil.rmtree(root, ignore_errors=True)
    return wrong


def main(variant: str, folder: str, names: list[str]) -> None:
    """Try, and count."""
    failing_disk.use(variant)
    counts: Counter[str] = Counter()
    wrong = {}
    for kind_of in TRIED:
        if not names or kind_of.__name__ in names:
            wrong[kind_of.__name__] = try_calls(kind_of, Path(folder), counts)
    print(json.dumps({"tried": counts, "wrong": wrong}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
