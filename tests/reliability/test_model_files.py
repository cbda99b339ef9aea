"""Model files and checkpoints that lie, attack or are damaged: refused, with nothing run and no memory taken."""

from __future__ import annotations

import io
import os
import pickle
import random
import resource
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from trainkit.errors import ModelFileError, TrainkitError
from trainkit.files.modelfile import load_model_content
from trainkit.tabular.model import load_model

Content = dict[str, Any]
STATE = {"weight": torch.arange(64.0).reshape(8, 8), "bias": torch.zeros(8)}
PLAIN: Content = {
    "format": "trainkit-model",
    "version": 1,
    "kind": "state_dict",
    "class": "Net",
    "state_dict": STATE,
}


class Call:
    """Calls a function when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


def saved(content: Any, **options: Any) -> bytes:
    """What ``torch.save`` writes."""
    out = io.BytesIO()
    torch.save(content, out, **options)
    return out.getvalue()


def repacked(change: Callable[[str, bytes], bytes] = lambda name, data: data, **options: Any) -> bytes:
    """A sound file, packed anew with changes."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved(PLAIN))) as old, zipfile.ZipFile(out, "w", **options) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, change(entry.filename, old.read(entry)))
    return out.getvalue()


def attacks(marker: Path) -> Iterator[tuple[str, bytes]]:
    """Files that run something when they are unpickled as they stand; the marker is made by it."""
    command, code = f"mkdir {marker}", f"__import__('os').mkdir({str(marker)!r})"
    calls = {
        "os.system": Call(os.system, command),
        "os.mkdir": Call(os.mkdir, str(marker)),
        "eval": Call(eval, code),
        "exec": Call(exec, code),
        "a call within a call": Call(list, Call(map, eval, [code])),
    }
    for name, call in calls.items():
        yield f"{name} in a model file", saved({**PLAIN, "class": call})
        yield f"{name} as the whole file", saved(call)
        yield f"{name} in a state dict", saved({**PLAIN, "state_dict": {"weight": call}})
        yield (
            f"{name} in the format before zip",
            saved({**PLAIN, "class": call}, _use_new_zipfile_serialization=False),
        )
        yield f"{name} in a bare pickle", pickle.dumps({**PLAIN, "state_dict": {}, "class": call}, protocol=4)
        structure = pickle.dumps({"format": "trainkit-model", "class": call}, protocol=4)
        yield (
            f"{name} by names made on the stack",
            repacked(lambda path, data, new=structure: new if path.endswith("data.pkl") else data),  # type: ignore[misc]
        )


def lies() -> Iterator[tuple[str, bytes]]:
    """Files that claim what they do not hold, or unpack to more than they are."""
    sound = saved(PLAIN)
    for share in range(0, 100, 4):
        yield f"cut at {share} %", sound[: len(sound) * share // 100]
    yield "a memory bomb by bytearray", saved({**PLAIN, "class": Call(bytearray, 400_000_000)})
    yield (
        "compressed zeros",
        repacked(
            lambda path, data: bytes(10**8) if path.endswith("/data/0") else data, compression=zipfile.ZIP_DEFLATED
        ),
    )
    yield "an entry that claims more", claimed(sound, 3 * 10**9)
    many = io.BytesIO()
    with zipfile.ZipFile(many, "w") as archive:
        for position in range(60_000):
            archive.writestr(f"archive/data/{position}", b"")
    yield "sixty thousand entries", many.getvalue()
    yield "two structures", doubled()
    yield "an archive in the archive", repacked(lambda path, data: sound if path.endswith("data.pkl") else data)
    yield "no structure", repacked(lambda path, data: b"" if path.endswith("data.pkl") else data)
    yield "a structure of nonsense", repacked(lambda path, data: b"\x80\x02}q" if path.endswith(".pkl") else data)
    yield (
        "a storage that is too short",
        repacked(lambda path, data: data[:4] if path.endswith("/data/0") else data),
    )
    yield "no archive", b"PK\3\4" + bytes(500)
    yield "an archive's end alone", b"PK\5\6" + bytes(18)
    yield "a comment at the end", sound[:-2] + struct.pack("<H", 5) + b"hello"
    yield "words", b"not a model"
    yield "nothing", b""


def claimed(sound: bytes, size: int) -> bytes:
    """A file whose directory says that its largest entry is larger."""
    data = bytearray(sound)
    at = data.index(b"PK\1\2")
    while data[at + 46 : at + 46 + 100].find(b"/data/0") < 0:
        at = data.index(b"PK\1\2", at + 4)
    data[at + 20 : at + 28] = struct.pack("<2L", size, size)
    return bytes(data)


def doubled() -> bytes:
    """A file with two structures."""
    out = io.BytesIO(repacked())
    with zipfile.ZipFile(out, "a") as archive:
        archive.writestr("other/data.pkl", pickle.dumps(PLAIN["class"], protocol=2))
    return out.getvalue()


def outcome(load: Callable[[Path], Any], path: Path, data: bytes, marker: Path) -> str:
    """Have a file loaded and say what came of it."""
    path.write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        load(path)
        found = "loaded"
    except TrainkitError:
        found = "refused"
    except Exception as error:  # noqa: BLE001 - what is judged may raise anything
        found = f"raised {type(error).__name__}"
    if marker.exists():
        marker.rmdir()
        return "ran code"
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return f"took {grown_mb:.0f} MB" if grown_mb > 150 else found


def test_hostile_files_are_refused(tmp_path: Path) -> None:
    """Sixty files: each refused by name, nothing run, no memory taken."""
    marker = tmp_path / "ran"
    files = [*attacks(marker), *lies()]
    found = {name: outcome(load_model_content, tmp_path / "m.pt", data, marker) for name, data in files}
    wrong = {name: what for name, what in found.items() if what != "refused"}
    print(f"hostile model files: {len(files)} tried, {len(wrong)} wrong")
    assert not wrong


@pytest.mark.filterwarnings("ignore::Warning")
def test_the_harness_finds_a_loader_that_trusts(tmp_path: Path) -> None:
    """``torch.load(weights_only=False)`` runs the code in nearly every one of the attacks."""
    marker = tmp_path / "ran"

    def trusting(path: Path) -> Any:
        return torch.load(path, weights_only=False)

    found = [outcome(trusting, tmp_path / "m.pt", data, marker) for _, data in attacks(marker)]
    print(f"torch.load(weights_only=False): {found.count('ran code')} of {len(found)} attacks ran code")
    assert found.count("ran code") >= len(found) / 2


def flipped(load: Callable[[Path], Content], folder: Path, flips: int) -> dict[str, int]:
    """Flip single bits of a sound file and count what a loader makes of it."""
    sound, luck = saved(PLAIN), random.Random(3)
    counts = {"refused": 0, "the same": 0, "silently other": 0, "crashed": 0}
    for _ in range(flips):
        data = bytearray(sound)
        data[luck.randrange(len(data))] ^= 1 << luck.randrange(8)
        (folder / "m.pt").write_bytes(data)
        try:
            content = load(folder / "m.pt")
            same = repr(content) == repr(PLAIN)
            counts["the same" if same else "silently other"] += 1
        except ModelFileError:
            counts["refused"] += 1
        except Exception:  # noqa: BLE001 - as above
            counts["crashed"] += 1
    return counts


def test_no_flipped_bit_becomes_a_weight(tmp_path: Path) -> None:
    """A damaged file is refused, unless the bit is one that nobody reads."""
    counts = flipped(load_model_content, tmp_path, 400)
    print(f"flipped bits: 400 tried, {counts['silently other'] + counts['crashed']} wrong ({counts})")
    assert counts["silently other"] == counts["crashed"] == 0


@pytest.mark.filterwarnings("ignore::Warning")
def test_the_harness_finds_a_loader_that_checks_no_sums(tmp_path: Path) -> None:
    """``torch.load`` takes many of them for weights."""
    counts = flipped(lambda path: torch.load(path, weights_only=True), tmp_path, 100)  # type: ignore[arg-type]
    print(f"torch.load: 100 tried, {counts['silently other']} silently other")
    assert counts["silently other"] > 5


@pytest.mark.parametrize("what", ["deep", "wide", "overflow"])
def test_structures_that_explode_are_refused(what: str, tmp_path: Path) -> None:
    """Lists a hundred thousand deep, lists that hold one another twice sixty times over, sizes beyond 64 bits."""
    hidden = [2**20] * 3 if what == "overflow" else [8]
    content: Content = {
        "format": "trainkit-model",
        "version": 1,
        "kind": "table",
        "features": {"columns": []},
        "weights": {},
        "target": {"name": "y", "task": "regression", "labels": []},
        "shape": {"hidden": hidden, "outputs": 1, "members": 2**20 if what == "overflow" else 1, "dropout": 0.0},
    }
    nested = b"]" * 100_000 + b"a" * 99_999 if what == "deep" else pickle.dumps(_wide(), protocol=2)[2:-1]
    structure = pickle.dumps(content, protocol=2)[:-1]  # what follows is put into the dict that it makes
    if what != "overflow":
        structure += b"X\x07\0\0\0options}X\x06\0\0\0nested" + nested + b"ss"
    data = repacked(lambda path, data: structure + b"." if path.endswith("data.pkl") else data)
    (tmp_path / "m.pt").write_bytes(data)
    with pytest.raises(ModelFileError, match="damaged"):
        load_model(tmp_path / "m.pt")


def _wide() -> list[Any]:
    nested: list[Any] = []
    for _ in range(60):
        nested = [nested, nested]
    return nested
