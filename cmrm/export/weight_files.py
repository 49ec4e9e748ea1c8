"""The safetensors files of a checkpoint, copied with tensors added: their bytes pass through, no weight is loaded.

Format: eight bytes with the length of a JSON header, the header (dtype, shape and offsets of each tensor), the data.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from cmrm.errors import UserError
from cmrm.untrusted.printable import show

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
# The format's own limit.
MOST_HEADER = 100_000_000
PIECE = 16 * 2**20
# The float dtypes of unquantized checkpoints.
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
# What copy_file_range says between file systems, and where there is no such call.
_NOT_HERE = frozenset((errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP))


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """One safetensors file: its tensors' entries by name, and where its data begins, in bytes."""

    path: Path
    tensors: Mapping[str, Mapping[str, Any]] = field(repr=False)
    begin: int

    @property
    def size(self) -> int:
        """The number of bytes of data."""
        return max((one["data_offsets"][1] for one in self.tensors.values()), default=0)

    def read(self, name: str) -> Tensor:
        """Read one tensor of a float dtype."""
        entry = self.tensors[name]
        start, end = entry["data_offsets"]
        with self.path.open("rb") as file:
            file.seek(self.begin + start)
            data = bytearray(file.read(end - start))
        return torch.frombuffer(data, dtype=DTYPES[entry["dtype"]]).reshape(entry["shape"])


def list_weight_files(folder: Path, *, where: str) -> dict[str, WeightFile]:
    """List the safetensors files that transformers reads of a folder, by name; raises `UserError` for damaged ones."""
    if (folder / SINGLE).exists():
        names = [SINGLE]
    elif (folder / INDEX).exists():
        names = sorted(set(_read_index(folder, where=where)["weight_map"].values()))
    else:
        raise UserError(
            f"{where} has neither {SINGLE} nor {INDEX}: its weights are in another form. Convert it once: load it with "
            "transformers and save_pretrained() it to a new folder."
        )
    return {name: read_header(folder / name, where=where) for name in names}


def read_header(path: Path, *, where: str) -> WeightFile:
    """Read the header of a safetensors file; raises `UserError` if it is damaged or cut; `where` names the model."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= MOST_HEADER:
                raise ValueError(f"its header says {length} bytes")
            header = json.loads(file.read(length))
            size = os.fstat(file.fileno()).st_size
        header.pop("__metadata__", None)
        found = WeightFile(path=path, tensors=header, begin=8 + length)
        if found.begin + found.size != size:
            raise ValueError("its length is not that of its header")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{where}: {show(path.name)} is damaged ({show(error)}); download the model again."
        ) from None
    return found


def copy_file(source: Path, target: Path) -> None:
    """Copy a file, its bytes shared with the original where the file system can (reflink)."""
    with source.open("rb") as read, target.open("xb") as write:
        _copy_range(read, write, count=os.fstat(read.fileno()).st_size)


def copy_weights(
    source: WeightFile, target: Path, *, changed: Mapping[str, Tensor], dtype: torch.dtype | None = None
) -> None:
    """Copy a weights file with some tensors added, or replaced by others of their shape.

    With a `dtype`, every tensor of a float dtype of at most 32 bits is converted to it on the way, one at a time. The
    data of all others passes through as bytes. Raises `UserError` if an added tensor cannot lie behind the others.
    """
    if dtype is None and not changed:
        copy_file(source.path, target)
        return
    entries = {name: _convert_entry(entry, dtype) for name, entry in source.tensors.items()}
    laid = _lay_out(entries, changed, source)
    header = json.dumps({"__metadata__": {"format": "pt"}, **laid}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    with source.path.open("rb") as read, target.open("xb") as write:
        write.write(len(header).to_bytes(8, "little") + header)
        write.flush()
        begin = write.tell()
        if all(entries[name]["dtype"] == entry["dtype"] for name, entry in source.tensors.items()):
            read.seek(source.begin)
            _copy_range(read, write, count=source.size)
        else:
            for name in sorted(source.tensors, key=lambda one: source.tensors[one]["data_offsets"][0]):
                write.write(_read_converted(source, name, entries[name]["dtype"]))
        for name, value in changed.items():
            write.seek(begin + laid[name]["data_offsets"][0])
            write.write(_to_bytes(value))


def write_index(source: Path, target: Path, files: Mapping[str, WeightFile], *, where: str) -> None:
    """Write the index of a sharded checkpoint anew, over the files that are there now."""
    known = _read_index(source, where=where)
    metadata = {**(known.get("metadata") or {}), "total_size": sum(one.size for one in files.values())}
    if "total_parameters" in metadata:
        metadata["total_parameters"] = sum(
            _count(entry["shape"]) for one in files.values() for entry in one.tensors.values()
        )
    weights = {name: file for file, one in files.items() for name in one.tensors}
    content = {"metadata": metadata, "weight_map": dict(sorted(weights.items()))}
    (target / INDEX).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _read_index(folder: Path, *, where: str) -> dict[str, Any]:
    try:
        found = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        names = set(found["weight_map"].values())
        if not names or any(Path(name).name != name for name in names):
            raise ValueError("it names files elsewhere")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{where}: {INDEX} cannot be read ({show(error)}); download the model again."
        ) from None
    return dict(found)


def _convert_entry(entry: Mapping[str, Any], dtype: torch.dtype | None) -> dict[str, Any]:
    if dtype is None or entry["dtype"] not in {"F32", "F16", "BF16"}:
        return dict(entry)
    return {**entry, "dtype": NAMES[dtype]}


def _lay_out(
    entries: Mapping[str, Mapping[str, Any]], changed: Mapping[str, Tensor], source: WeightFile
) -> dict[str, dict[str, Any]]:
    """Place all tensors one behind the other: the source's in their order, then the new ones."""
    laid: dict[str, dict[str, Any]] = {}
    place = 0
    for name in sorted(entries, key=lambda one: entries[one]["data_offsets"][0]):
        start, end = entries[name]["data_offsets"]
        if entries[name]["dtype"] != source.tensors[name]["dtype"]:
            end = start + _count(entries[name]["shape"]) * DTYPES[entries[name]["dtype"]].itemsize
        laid[name] = {**entries[name], "data_offsets": [place, place + end - start]}
        place += end - start
    for name, value in changed.items():
        if name in laid:
            if laid[name]["shape"] != list(value.shape):
                raise ValueError(f"{name} has another shape")
            continue
        if place % value.dtype.itemsize:
            raise UserError(
                f"{show(source.path.name)}: its tensors end at an odd byte, behind which none can be added; load it "
                "with transformers and save_pretrained() it to a new folder."
            )
        size = value.numel() * value.dtype.itemsize
        laid[name] = {
            "dtype": NAMES[value.dtype],
            "shape": list(value.shape),
            "data_offsets": [place, place + size],
        }
        place += size
    return laid


def _read_converted(source: WeightFile, name: str, dtype: str) -> bytes:
    entry = source.tensors[name]
    if entry["dtype"] == dtype:
        start, end = entry["data_offsets"]
        with source.path.open("rb") as file:
            file.seek(source.begin + start)
            return file.read(end - start)
    value = source.read(name)
    converted = value.to(DTYPES[dtype])
    if dtype == "F16" and not (torch.isfinite(converted) == torch.isfinite(value)).all():
        raise UserError(
            f"--dtype float16: {show(name)} has numbers beyond {torch.finfo(torch.float16).max:g}, which float16 does "
            "not hold; give bfloat16 or float32."
        )
    return _to_bytes(converted)


def _to_bytes(value: Tensor) -> bytes:
    return value.contiguous().cpu().flatten().view(torch.uint8).numpy().tobytes()


def _count(shape: Any) -> int:
    total = 1
    for side in shape:
        total *= int(side)
    return total


def _copy_range(read: IO[bytes], write: IO[bytes], *, count: int) -> None:
    """Copy bytes from one file's position to another's, inside the kernel where it can."""
    source, place = read.tell(), write.tell()
    for done in _copy_in_kernel(read.fileno(), write.fileno(), count, source, place):
        count, source, place = count - done, source + done, place + done
    read.seek(source)
    write.seek(place)
    while count > 0:
        piece = read.read(min(count, PIECE))
        if not piece:
            raise UserError(f"{show(read.name)}: ends too early; download the model again.")
        write.write(piece)
        count -= len(piece)
    write.flush()


def _copy_in_kernel(read: int, write: int, count: int, source: int, place: int) -> Iterator[int]:
    """Copy what the kernel copies, and yield how many bytes each call did."""
    copy = getattr(os, "copy_file_range", None)
    while copy is not None and count > 0:
        try:
            done = copy(read, write, count, source, place)
        except OSError as error:
            if error.errno in _NOT_HERE:
                return
            raise
        if done == 0:
            return
        yield done
        count, source, place = count - done, source + done, place + done
