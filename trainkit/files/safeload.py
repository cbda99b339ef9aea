"""Reading what ``torch.save`` wrote without running anything in it, or giving it more memory than its own size.

``torch.load(weights_only=True)`` runs no code.  It does believe a file: entries that are compressed or overlap
unpack to any size, a directory may list millions of them, and ``bytearray(10**10)`` is a call that it allows.
All of these are looked for before.
"""

from __future__ import annotations

import os
import pickle
import pickletools
import struct
import zipfile
from pathlib import Path
from typing import IO, Any

from trainkit.errors import ModelFileError

#: Of the list of a file's entries; forty thousand tensors fit.
MOST_DIRECTORY_BYTES = 4 * 2**20
#: Of the structure around the tensors, which are in entries of their own.
MOST_STRUCTURE_BYTES = 64 * 2**20
#: What ``weights_only`` allows to be called although it takes memory by the number that it is given.
REFUSED = frozenset({"builtins bytearray", "__builtin__ bytearray"})

# APPNOTE.TXT of PKWARE, 4.3.14 to 4.3.16: the end of the directory, its 64-bit form, and where that is.
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")


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
        with open(path, "rb") as file:
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
        raise ModelFileError(f"{path} is no model file, or is damaged: {error}") from error


def _check(file: IO[bytes], path: Path, *, verified: bool) -> None:
    size = os.fstat(file.fileno()).st_size
    if _directory_bytes(file, size) > MOST_DIRECTORY_BYTES:
        raise ModelFileError(f"{path} is damaged: it lists more entries than a model has tensors")
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ModelFileError(f"{path} is compressed, which nothing is that torch.save writes")
        if sum(entry.file_size for entry in entries) > size:
            raise ModelFileError(f"{path} is damaged: its entries claim more bytes than it has")
        structures = [entry for entry in entries if entry.filename.split("/")[-1] == "data.pkl"]
        if len(structures) != 1:
            raise ModelFileError(f"{path} is no file that torch.save wrote: it has {len(structures)} data.pkl")
        if structures[0].file_size > MOST_STRUCTURE_BYTES:
            raise ModelFileError(f"{path} is damaged: its structure has {structures[0].file_size:,} bytes")
        for opcode, argument, _ in pickletools.genops(archive.read(structures[0])):
            if (opcode.name in ("GLOBAL", "INST") and argument in REFUSED) or opcode.name == "STACK_GLOBAL":
                raise ModelFileError(
                    f"{path} is not safe to load: it asks for {argument or 'a name of its making'}"
                )

        if not verified and _has_checksums():
            for entry in entries:
                with archive.open(entry) as opened:
                    while opened.read(1 << 20):  # raises where the sum is another
                        pass


def _has_checksums() -> bool:
    import torch

    return bool(torch.serialization.get_crc32_options())


def _directory_bytes(file: IO[bytes], size: int) -> int:
    """The size of a zip archive's directory, or ValueError where it is not as torch writes it."""
    if size < _END.size:
        raise ValueError("too short")
    file.seek(size - _END.size)
    signature, _, _, _, _, directory_bytes, _, comment = _END.unpack(file.read(_END.size))
    if signature != b"PK\5\6" or comment:
        raise ValueError("not a zip archive that is whole")
    if size >= _END.size + _LOCATOR.size + _END64.size:
        file.seek(size - _END.size - _LOCATOR.size - _END64.size)
        wide = _END64.unpack(file.read(_END64.size))
        signature, _, where, _ = _LOCATOR.unpack(file.read(_LOCATOR.size))
        if signature == b"PK\6\7":
            if wide[0] != b"PK\6\6" or where != size - _END.size - _LOCATOR.size - _END64.size:
                raise ValueError("its directory is not where it says")
            return max(int(wide[-2]), 0 if directory_bytes == 2**32 - 1 else int(directory_bytes))
    return int(directory_bytes)
