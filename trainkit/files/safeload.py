"""Reading what ``torch.save`` wrote without running anything in it, or giving it more memory than its own size.

``torch.load(weights_only=True)`` is not known to run code.  It does believe a file:

- it reads the format from before zip where the first bytes are not those of an archive;
- entries that are compressed or overlap unpack to any size, and a directory may list millions of them;
- several calls that it allows take memory by a number in the file.

All of these are refused before.  What is checked is what is loaded: the same open file, with one archive that
begins with its first byte and ends with its last.  What the structure may call is listed in
:mod:`trainkit.files.pickle_structure`.
"""

from __future__ import annotations

import os
import pickle
import stat
import struct
import zipfile
from pathlib import Path
from typing import IO, Any

from trainkit.errors import ModelFileError
from trainkit.files.pickle_structure import check_structure

#: Of the list of a file's entries; forty thousand tensors fit.
MOST_DIRECTORY_BYTES = 4 * 2**20
#: Of the structure around the tensors, which are in entries of their own.
MOST_STRUCTURE_BYTES = 64 * 2**20

# APPNOTE.TXT of PKWARE, 4.3.14 to 4.3.16: the end of the directory, its 64-bit form, and where that is.
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
# 4.3.7: the header before each entry; the lengths of its name and of its extra field are last.
_HEADER = struct.Struct("<4s5H3L2H")
#: What may follow the bytes of an entry: a descriptor of 64-bit sizes (4.3.9).
_MOST_BYTES_AFTER_AN_ENTRY = 24


def load(path: Path, *, verified: bool = False) -> Any:
    """Read tensors and plain values from a file of ``torch.save``, onto the CPU.

    Args:
        path: the file.
        verified: whether its bytes are known to be those that were written.  Else the checksum of each entry is
            compared, which ``torch.load`` does not do: it takes a flipped bit for a weight.

    Raises:
        ModelFileError: it is no such file, is damaged, or would run something or take more memory than it holds.
    """
    import torch

    try:
        with _open_regular(path) as file:
            _check(file, path, verified=verified)
            file.seek(0)
            return torch.load(file, weights_only=True, map_location="cpu")
    except FileNotFoundError:
        raise ModelFileError(f"no model file {path}") from None
    except (
        *(zipfile.BadZipFile, pickle.UnpicklingError, struct.error, RuntimeError, EOFError),
        *(ValueError, KeyError, TypeError, AttributeError, IndexError, OSError, OverflowError, MemoryError),
    ) as error:  # what is raised on damaged bytes depends on the byte
        if isinstance(error, ModelFileError):
            raise
        raise ModelFileError(f"{path} is not a model file, or is damaged: {error}") from error


def _open_regular(path: Path) -> IO[bytes]:
    """Open a file for reading; a pipe, which would wait for a writer, is an ``OSError``."""
    fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError("it is not a regular file")
    return os.fdopen(fd, "rb")


def _check(file: IO[bytes], path: Path, *, verified: bool) -> None:
    import torch

    size = os.fstat(file.fileno()).st_size
    directory_start, directory_bytes = _directory(file, size)
    if directory_bytes > MOST_DIRECTORY_BYTES:
        raise ModelFileError(f"{path} is damaged: it lists more entries than a model has tensors")
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        _check_entries(file, path, entries, directory_start)
        # As torch finds it: in the folder of the first entry.
        folder = entries[0].filename.partition("/")[0] + "/"
        structures = [entry for entry in entries if entry.filename.split("/")[-1] == "data.pkl"]
        if len(structures) != 1 or structures[0].filename != folder + "data.pkl":
            raise ModelFileError(
                f"{path} is not a file that torch.save wrote: it has {len(structures)} data.pkl; expected one in "
                f"{folder!r}"
            )
        if structures[0].file_size > MOST_STRUCTURE_BYTES:
            raise ModelFileError(f"{path} is damaged: its structure has {structures[0].file_size:,} bytes")
        stored = {
            entry.filename.removeprefix(folder + "data/"): entry.file_size
            for entry in entries
            if entry.filename.startswith(folder + "data/")
        }
        allowed = [_full_name(each) for each in torch.serialization.get_safe_globals()]
        try:
            check_structure(archive.read(structures[0]), stored, allowed=allowed)
        except (ValueError, KeyError, IndexError) as error:
            raise ModelFileError(f"{path} is damaged, or not safe to load: {error}") from error
        if not verified and _has_checksums():
            for entry in entries:
                with archive.open(entry) as opened:
                    while opened.read(1 << 20):  # raises where the sum is another
                        pass


def _check_entries(file: IO[bytes], path: Path, entries: list[zipfile.ZipInfo], directory_start: int) -> None:
    """Refuse entries that are compressed, share bytes or a name, or leave room for something else between them."""
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ModelFileError(f"{path} is compressed; torch.save does not compress")
    if len({entry.filename.lower() for entry in entries}) < len(entries):
        raise ModelFileError(f"{path} is damaged: it has two entries of one name")
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        start = entry.header_offset
        if not (start == 0 if end == 0 else end <= start <= end + _MOST_BYTES_AFTER_AN_ENTRY):
            raise ModelFileError(f"{path} is damaged: there is something else before its entry {entry.filename!r}")
        file.seek(start)
        signature, *_, name_bytes, extra_bytes = _HEADER.unpack(file.read(_HEADER.size))
        if signature != b"PK\3\4":
            raise ModelFileError(f"{path} is damaged: its entry {entry.filename!r} is not where it should be")
        if entry.file_size != entry.compress_size:
            raise ModelFileError(f"{path} is damaged: its entry {entry.filename!r} claims more bytes than it has")
        end = start + _HEADER.size + name_bytes + extra_bytes + entry.file_size
    if not entries or not end <= directory_start <= end + _MOST_BYTES_AFTER_AN_ENTRY:
        raise ModelFileError(f"{path} is damaged: its entries claim other bytes than it has")


def _full_name(allowed: Any) -> str:
    """The name by which ``torch.serialization.add_safe_globals`` allows something."""
    return allowed[1] if isinstance(allowed, tuple) else f"{allowed.__module__}.{allowed.__qualname__}"


def _has_checksums() -> bool:
    import torch

    return bool(torch.serialization.get_crc32_options())


def _directory(file: IO[bytes], size: int) -> tuple[int, int]:
    """Where a zip archive's directory begins, and its size; ValueError where it is not as torch writes it."""
    if size < _END.size:
        raise ValueError("too short")
    file.seek(size - _END.size)
    signature, _, _, _, _, directory_bytes, start, comment = _END.unpack(file.read(_END.size))
    if signature != b"PK\5\6" or comment:
        raise ValueError("not a zip archive that is whole")
    end = size - _END.size
    if size >= _END.size + _LOCATOR.size + _END64.size:
        end64 = size - _END.size - _LOCATOR.size - _END64.size
        file.seek(end64)
        wide = _END64.unpack(file.read(_END64.size))
        signature, _, where, _ = _LOCATOR.unpack(file.read(_LOCATOR.size))
        if signature == b"PK\6\7":
            if wide[0] != b"PK\6\6" or where != end64:
                raise ValueError("its directory is not where it says")
            if directory_bytes not in (wide[-2], 2**32 - 1) or start not in (wide[-1], 2**32 - 1):
                raise ValueError("it says of two places where its directory is")
            directory_bytes, start, end = wide[-2], wide[-1], end64
    if start + directory_bytes != end:
        raise ValueError("there is something else before it, or its directory is not where it says")
    return int(start), int(directory_bytes)
