"""A model file or checkpoint may hold what torch.save writes for plain values and tensors, and nothing else."""

from __future__ import annotations

import collections
import hashlib
import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trainkit.errors import CheckpointError, ModelFileError
from trainkit.files.paths import JobPaths
from trainkit.files.pickle_structure import StructureError, check_structure
from trainkit.files.safeload import load
from trainkit.resuming.checkpoints import load_resume


def with_metadata() -> Any:
    """A state dict as modules return it, with versions as an attribute."""
    return torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).state_dict()


def of_an_optimizer() -> Any:
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter], lr=0.1)
    parameter.sum().backward()
    optimizer.step()
    return optimizer.state_dict()


def with_an_attribute() -> torch.Tensor:
    tensor = torch.arange(3.0)
    tensor.note = "kept"  # type: ignore[attr-defined]
    return tensor


def quantized(per_channel: bool) -> torch.Tensor:
    values = torch.arange(6.0).reshape(2, 3)
    if per_channel:
        scales, zeros = torch.tensor([0.1, 0.2], dtype=torch.double), torch.tensor([0, 1])
        return torch.quantize_per_channel(values, scales, zeros, 0, torch.qint8)
    return torch.quantize_per_tensor(values, 0.1, 0, torch.quint8)


def sharing() -> Any:
    base = torch.arange(10.0)
    return {"base": base, "slice": base[2:5], "columns": base.view(2, 5).t(), "none of it": base[:0]}


SOUND: dict[str, Callable[[], Any]] = {
    "plain values": lambda: {
        "a": [1, -1, 2**70, 0.5, True, None, "ü\n", (), (1, 2)],
        3: {"b": b"\0\xff"},
        "c": 1j,
    },
    "bytes that can change": lambda: [bytearray(b"\0\xff"), bytearray()],
    "sets and counters": lambda: {"s": {1, 2, ("a", 3)}, "c": collections.Counter("abca"), (1, 2): 3},
    "torch's own values": lambda: [torch.Size([2, 3]), torch.device("cuda", 1), torch.float16, torch.sparse_coo],
    "a state dict": with_metadata,
    "an optimizer": of_an_optimizer,
    "a parameter": lambda: torch.nn.Parameter(torch.ones(2)),
    "a buffer": lambda: torch.nn.Buffer(torch.ones(2)),
    "an attribute": with_an_attribute,
    "views of one storage": sharing,
    "an expanded tensor": lambda: torch.ones(1).expand(4, 1000),
    "scalars and empty ones": lambda: [torch.tensor(3), torch.zeros(0), torch.zeros(0, 5), torch.zeros(2, 0)],
    "every usual dtype": lambda: [
        torch.ones(3, dtype=dtype)
        for dtype in (
            *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16),
            *(torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128),
        )
    ],
    "newer dtypes": lambda: [
        torch.ones(3).to(dtype) for dtype in (torch.uint16, torch.uint32, torch.float8_e4m3fn, torch.float8_e5m2)
    ],
    "a conjugate": lambda: torch.tensor([1j, 2.0]).conj(),
    "a sparse tensor": lambda: torch.eye(3).to_sparse(),
    "a tensor without data": lambda: torch.ones(3, device="meta"),
    "random states": lambda: [torch.get_rng_state(), torch.Generator().get_state()],
    "one value many times": lambda: [[0.9, 0.999]] * 10_000,
}


def saved(content: Any, **options: Any) -> bytes:
    out = io.BytesIO()
    torch.save(content, out, **options)
    return out.getvalue()


@pytest.mark.parametrize("content", SOUND.values(), ids=SOUND)
def test_what_torch_saves_is_loaded(tmp_path: Path, content: Callable[[], Any]) -> None:
    """It is the same as torch.load gives: every value, type and shape."""
    data = saved(content())
    (tmp_path / "m.pt").write_bytes(data)
    assert repr(load(tmp_path / "m.pt")) == repr(
        torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    )


@pytest.mark.filterwarnings("ignore::Warning")
def test_sparse_and_quantized_tensors_are_loaded(tmp_path: Path) -> None:
    """Where torch warns of a layout or type of its own, the values still come back."""
    several_per_byte = [
        torch.quantize_per_channel(torch.rand(3, 5), torch.rand(3), torch.rand(3), 0, dtype)
        for dtype in (torch.quint4x2, torch.quint2x4)
    ]
    all_ones = torch.sparse_coo_tensor(torch.tensor([[0, 1, 2]]), torch.ones(1).expand(3), (3,))
    for content in (torch.eye(3).to_sparse_csr(), quantized(False), quantized(True), *several_per_byte, all_ones):
        (tmp_path / "m.pt").write_bytes(saved(content))
        assert repr(load(tmp_path / "m.pt")) == repr(content)


class Allowed:
    """A class that its user allows."""


def test_classes_that_the_user_has_allowed_are_loaded(tmp_path: Path) -> None:
    """torch.serialization.add_safe_globals says whom to trust in this process; without it they are refused."""
    content = Allowed()
    content.history = [1, 2]  # type: ignore[attr-defined]
    torch.save({"state": content}, tmp_path / "m.pt")
    with pytest.raises(ModelFileError, match="it asks for .*Allowed"):
        load(tmp_path / "m.pt")
    with torch.serialization.safe_globals([Allowed]):
        assert load(tmp_path / "m.pt")["state"].history == [1, 2]


@pytest.mark.parametrize("value", [frozenset({1}), range(3), slice(1, 2), int], ids=repr)
def test_builtins_that_the_user_has_allowed_are_loaded(tmp_path: Path, value: Any) -> None:
    """torch.save writes names of Python 2, such as __builtin__ xrange; what is allowed has today's name."""
    torch.save(value, tmp_path / "m.pt")
    with pytest.raises(ModelFileError, match="it asks for __builtin__"):
        load(tmp_path / "m.pt")
    with torch.serialization.safe_globals([value if isinstance(value, type) else type(value)]):
        assert load(tmp_path / "m.pt") == value


# --- structures by hand -------------------------------------------------------------------------------


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def whole(value: int) -> bytes:
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data


def named(name: str) -> bytes:
    return b"c" + name.replace(" ", "\n").encode() + b"\n"


def some(*values: bytes) -> bytes:
    return b"(" + b"".join(values) + b"t"


def stored(kind: str = "torch FloatStorage", key: str = "0", elements: int = 4) -> bytes:
    return some(text("storage"), named(kind), text(key), text("cpu"), whole(elements)) + b"Q"


def tensor(
    storage: bytes, size: list[int], stride: list[int], offset: int = 0, name: str = "_rebuild_tensor_v2"
) -> bytes:
    shape = [whole(offset), some(*map(whole, size)), some(*map(whole, stride))]
    return (
        named(f"torch._utils {name}")
        + some(storage, *shape, b"\x89", named("collections OrderedDict") + b")R")
        + b"R"
    )


def list_of_lists(levels: int) -> bytes:
    out = b"](K\1K\1eq\0"
    for level in range(1, levels):
        out = b"](" + out + b"h" + bytes([level - 1]) + b"eq" + bytes([level])
    return out


def tuple_of_tuples(levels: int) -> bytes:
    out = b"(K\1K\1tq\0"
    for level in range(1, levels):
        out = b"(" + out + b"h" + bytes([level - 1]) + b"tq" + bytes([level])
    return out


ENTRIES = {"0": 16}
REFUSED: dict[str, tuple[bytes, str]] = {
    "torch.Tensor of a size": (named("torch Tensor") + some(whole(10**10)) + b"R", "calls torch Tensor"),
    "a tensor class": (named("torch FloatTensor") + some(whole(10**10)) + b"R", "asks for torch FloatTensor"),
    "a storage of a size": (
        named("torch.storage UntypedStorage") + some(whole(10**10)) + b"R",
        "calls torch.storage",
    ),
    "bytearray": (named("builtins bytearray") + some(whole(10**10)) + b"R", "asks for builtins bytearray"),
    "a parameter": (named("torch.nn.parameter Parameter") + some(whole(3)) + b"\x81", "calls torch.nn.parameter"),
    "a class of python": (named("posix system") + some(text("true")) + b"R", "asks for posix system"),
    "torch.load itself": (named("torch load") + some(text("x")) + b"R", "asks for torch load"),
    "a numpy array": (
        named("torch._utils _rebuild_device_tensor_from_numpy") + some(b"N", b"N", b"N", b"N") + b"R",
        "asks for torch._utils _rebuild_device_tensor_from_numpy",
    ),
    "a text in UTF-32": (named("_codecs encode") + some(text("a"), text("utf-32")) + b"R", "other arguments"),
    "a counter of a list": (named("collections Counter") + some(b"]") + b"R", "other arguments"),
    "a set of a number": (named("builtins set") + some(whole(3)) + b"R", "other arguments"),
    "a size of a million numbers": (named("torch Size") + some(whole(10**6)) + b"R", "other arguments"),
    "a call of a call": (stored() + b")R", "calls something that has no name"),
    "a storage of more elements": (tensor(stored(elements=5), [5], [1]), "claims 20 bytes .* has 16"),
    "a storage of fewer elements": (tensor(stored(elements=3), [3], [1]), "claims 12 bytes .* has 16"),
    "a storage of gigabytes": (tensor(stored(elements=10**10), [3], [1]), "claims 40,000,000,000 bytes"),
    "a storage that is not there": (tensor(stored(key="7"), [3], [1]), "'7', which has 0"),
    "a storage of negative size": (tensor(stored(elements=-4), [3], [1]), "claims -4 elements"),
    "a storage of two types": (some(stored(), stored("torch IntStorage")), "stores '0' as torch IntStorage"),
    "a storage of no type": (stored("torch Size"), "stores '0' as torch Size"),
    "something else by name": (some(text("module"), text("x")) + b"Q", "something else than a stored tensor"),
    "a shape beyond the storage": (tensor(stored(), [5], [1]), "claims a tensor of shape"),
    "a stride beyond the storage": (tensor(stored(), [2], [4]), "claims a tensor of shape"),
    "an offset beyond the storage": (tensor(stored(), [4], [1], offset=1), "claims a tensor of shape"),
    "a negative stride": (tensor(stored(), [2], [-1], offset=3), "claims -1 elements"),
    "more dimensions than strides": (tensor(stored(), [2, 2], [1]), "other arguments"),
    "more elements than 64 bits": (tensor(stored(), [2**62, 4], [0, 0]), "claims a tensor of shape"),
    "a quantized tensor of gigabytes": (
        named("torch._utils _rebuild_qtensor")
        + some(
            stored("torch QInt8Storage", elements=16),
            *(whole(0), some(whole(10**10)), some(whole(0))),
            some(named("torch per_tensor_affine"), b"G" + struct.pack(">d", 0.1), whole(0)),
            b"\x89",
            named("collections OrderedDict") + b")R",
        )
        + b"R",
        "other arguments",
    ),
    "a copy of gigabytes": (
        named("torch._utils _rebuild_device_tensor_from_cpu_tensor")
        + some(tensor(stored(), [10**10], [0]), named("torch float64"), text("cpu"), b"\x89")
        + b"R",
        "other arguments",
    ),
    "a tensor by a call of something else": (
        named("torch._tensor _rebuild_from_type_v2")
        + some(named("torch Size"), named("torch Tensor"), some(some(whole(3))), b"N")
        + b"R",
        "other arguments",
    ),
    "keys of a list": (b"]K\1K\2s", "puts keys and values into a list"),
    "keys of a tensor": (tensor(stored(), [4], [1]) + b"K\1K\2s", "puts keys and values into a tensor"),
    "items of a dict": (b"}K\1a", "puts items into a dict"),
    "attributes of a tensor": (tensor(stored(), [4], [1]) + b"}b", "sets attributes"),
    "a list as a key": (b"}]K\1s", "a list as a key"),
    "a key without end": (b"}" + tuple_of_tuples(60) + b"K\1s", "a key of more than"),
    "lists without end": (list_of_lists(60), "repeats itself"),
    "tuples without end": (tuple_of_tuples(60), "repeats itself"),
    "a text made bytes a thousand times": (
        b"]("
        + (named("_codecs encode") + some(text("x" * 5000), text("latin1")) + b"R")
        + b"q\0"
        + b"".join([named("__builtin__ bytearray") + some(b"h\0") + b"R"] * 1000)
        + b"e",
        "repeats itself",
    ),
    "a list of itself": (b"]q\0h\0a", "holds itself"),
    "a hundred thousand levels": (b"]" * 100_000 + b"a" * 99_999, "levels deep"),
    "an instruction of protocol 4": (b"\x8c\1a", "instruction SHORT_BINUNICODE"),
    "an instruction of protocol 0": (b"(lp0\n", "instruction LIST"),
    "more than one value": (b"K\1K\2", "does not end where it should"),
    "an open mark": (b"(K\1", "does not end where it should"),
}


@pytest.mark.parametrize(("structure", "words"), REFUSED.values(), ids=REFUSED)
def test_what_torch_does_not_save_is_refused(structure: bytes, words: str) -> None:
    """Calls, sizes, shapes and repetitions that no saved state has, each by a message that names it."""
    with pytest.raises(StructureError, match=words):
        check_structure(b"\x80\2" + structure + b".", ENTRIES)


@pytest.mark.parametrize(
    "structure",
    [
        tensor(stored(), [4], [1]),
        tensor(stored(), [2, 2], [1, 2]),
        tensor(stored(), [1000], [0], offset=3),
        tensor(stored(), [0], [1], offset=4),
        b"}" + tuple_of_tuples(5) + b"K\1s",
        list_of_lists(10),
    ],
)
def test_the_same_within_bounds_is_accepted(structure: bytes) -> None:
    """What the tests above vary is sound."""
    check_structure(b"\x80\2" + structure + b".", ENTRIES)


def test_another_protocol_and_bytes_after_the_end_are_refused() -> None:
    """torch.save writes protocol 2, once."""
    for structure in (
        pickle.dumps([1], protocol=4),
        b"",
        b"\x80",
        b"\x80\2",
        b"\x80\2K\1.K\2.",
        b"\x80\2\x80\2K\1.",
    ):
        with pytest.raises(ValueError):
            check_structure(structure, {})


# --- the archive --------------------------------------------------------------------------------------


def rewritten(change: Callable[[list[tuple[str, bytes]]], list[tuple[str, bytes]]]) -> bytes:
    """A sound file with other entries."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved({"a": torch.ones(2)}))) as old, zipfile.ZipFile(out, "w") as new:
        for name, data in change([(entry.filename, old.read(entry)) for entry in old.infolist()]):
            new.writestr(name, data)
    return out.getvalue()


def moved(data: bytes, front: int) -> bytes:
    """An archive behind some bytes, with offsets that count them."""
    out = io.BytesIO(b"\0" * front)
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "a") as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    return out.getvalue()


def with_a_gap(data: bytes, after: str) -> bytes:
    """A sound archive with other bytes after one of its entries, all offsets being right."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
            if entry.filename == after:
                out.seek(0, os.SEEK_END)
                out.write(b"hidden" * 10)
                new.start_dir = out.tell()
    return out.getvalue()


GOOD = saved({"a": torch.ones(2)})
OLD = saved({"a": torch.ones(2)}, _use_new_zipfile_serialization=False)
ARCHIVES: dict[str, bytes] = {
    "the format before zip": OLD,
    "the format before zip in front of an archive": OLD + GOOD,
    "the same with the right offsets": moved(GOOD, 100),
    "one byte in front": b"\0" + GOOD,
    "one byte after": GOOD + b"\0",
    "two archives": GOOD + GOOD,
    "an archive and its end": GOOD + GOOD[-22:],
    "bytes between the entries": with_a_gap(GOOD, "archive/data.pkl"),
    "bytes before the directory": with_a_gap(GOOD, zipfile.ZipFile(io.BytesIO(GOOD)).namelist()[-1]),
    "two folders": rewritten(lambda entries: [("other/x", b""), *entries]),
    "two structures": rewritten(lambda entries: [*entries, ("other/data.pkl", entries[0][1])]),
    "two entries that differ in case": rewritten(lambda entries: [*entries, ("archive/DATA.pkl", entries[0][1])]),
    "no folder": rewritten(lambda entries: [(name.partition("/")[2], data) for name, data in entries]),
    "no entries": rewritten(lambda entries: []),
}


@pytest.mark.parametrize("data", ARCHIVES.values(), ids=ARCHIVES)
def test_only_one_whole_archive_is_loaded(tmp_path: Path, data: bytes) -> None:
    """Nothing stands before, between or after its entries, so that torch reads what was checked."""
    (tmp_path / "m.pt").write_bytes(data)
    with pytest.raises(ModelFileError):
        load(tmp_path / "m.pt")


def test_a_rewritten_sound_archive_is_loaded(tmp_path: Path) -> None:
    """The changes above are what is refused, and not the rewriting."""
    (tmp_path / "m.pt").write_bytes(rewritten(lambda entries: entries))
    assert load(tmp_path / "m.pt")["a"].tolist() == [1, 1]


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    """Opening it would wait for a writer."""
    os.mkfifo(tmp_path / "m.pt")
    with pytest.raises(ModelFileError, match="not a regular file"):
        load(tmp_path / "m.pt")


def test_checkpoints_are_checked_in_the_same_way(tmp_path: Path) -> None:
    """A resume.pt of the format before zip is refused, also where its hash is the one in the list."""
    paths = JobPaths(tmp_path, "job")
    paths.folder.mkdir(parents=True)
    for data, sound in ((GOOD, True), (OLD, False), (OLD + GOOD, False)):
        paths.resume.write_bytes(data)
        info = {"path": "resume.pt", "sha256": hashlib.sha256(data).hexdigest()}
        (paths.folder / "resume.json").write_text(json.dumps([info]))
        if sound:
            assert load_resume(paths)[0]["a"].tolist() == [1, 1]
        else:
            with pytest.raises(CheckpointError, match="cannot be loaded safely"):
                load_resume(paths)
