"""The files of weights in a model's folder: which of them transformers reads, and what is wrong with them.

Nothing here imports torch: a folder is checked before anything is keyed.
"""

from __future__ import annotations

import json
from pathlib import Path

from cmrm.errors import UserError
from cmrm.models.folder_json import read_settings

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
INDEX_ENDING = ".safetensors.index.json"
# The field of config.json by which a folder names another file of weights.
NAMED_BY_CONFIG = "transformers_weights"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
# A safetensors file begins with the length of its header, in so many bytes.
LENGTH_BYTES = 8
# What is cloned without Git LFS in place of a large file.
POINTER = b"version https://git-lfs"


def need_safetensors(folder: Path, *, where: str) -> None:
    """Raise `UserError` unless a folder has the safetensors that transformers reads, all of them beside its config.

    `where` is how errors name the model. An index that names files elsewhere is refused: transformers would read them,
    whatever they are, and the revision would not cover them.
    """
    found = find_weights(folder, where=where)
    if found.name.endswith(INDEX_ENDING):
        _need_shards(folder, found, where=where)


def find_weights(folder: Path, *, where: str) -> Path:
    """Find the file of weights, or the index of several, that transformers reads; `UserError` if there is none."""
    own = read_settings(folder / "config.json").get(NAMED_BY_CONFIG)
    if isinstance(own, str):
        _need_plain_name(own, where=where, place=f"config.json ({NAMED_BY_CONFIG})")
        if (folder / own).is_file():
            return folder / own
        raise UserError(
            f"{where} has no {own}, which its config.json names ({NAMED_BY_CONFIG}). Complete the folder."
        )
    for name in (SINGLE, INDEX):
        if (folder / name).is_file():
            return folder / name
    there = sorted(path.name for path in folder.glob("*.safetensors"))
    if there:
        raise UserError(
            f"{where} has neither {SINGLE} nor {INDEX}, and transformers reads no other weights: it has {there[0]}. "
            f"Rename it if it is the whole model (a variant such as model.fp16.safetensors), or add the index."
        )
    pickled = sorted(path.name for pattern in PICKLED for path in folder.glob(pattern))
    what = f" ({pickled[0]})" if pickled else ""
    raise UserError(
        f"{where} holds no .safetensors weights, and pickled weights{what} are not read. "
        "Convert it once: load it with transformers and save_pretrained() it to a new folder."
    )


def list_shards(index: Path) -> list[str]:
    """List the files that an index names, sorted; raises `ValueError` for what is no index."""
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        names = sorted(set(content["weight_map"].values()))
        content["metadata"].keys()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError("its weight_map names no files")
    return names


def describe_weights(folder: Path) -> tuple[str, str | None]:
    """Describe the weights of a folder that was loaded, and what else is there that could be taken for them."""
    found = find_weights(folder, where=str(folder))
    if found.name.endswith(INDEX_ENDING):
        return f"{len(list_shards(found))} shards of {found.name}", None
    unread = folder / INDEX
    if found.name != SINGLE or not unread.is_file():
        return found.name, None
    return found.name, (
        f"it has both {SINGLE} and {INDEX}: transformers reads the first and none of the shards. Remove the one that "
        "is not meant."
    )


def explain_broken_weights(folder: Path) -> str | None:
    """Name the first file of weights that is not whole, and what is wrong with it; None if all are."""
    for path in sorted(folder.glob("*.safetensors")):
        fault = _find_fault(path)
        if fault is not None:
            return f"{path.name} {fault}"
    return None


def _find_fault(path: Path) -> str | None:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            beginning = file.read(max(LENGTH_BYTES, len(POINTER)))
            if beginning.startswith(POINTER):
                return "is a Git LFS pointer and not the file itself: fetch it with git lfs pull"
            length = int.from_bytes(beginning[:LENGTH_BYTES], "little")
            if size < LENGTH_BYTES + length:
                return f"ends within its header, after {size:,} bytes: copy or download it again"
            file.seek(LENGTH_BYTES)
            header = json.loads(file.read(length))
        ends = [
            one["data_offsets"][1]
            for name, one in header.items()
            if name != "__metadata__" and isinstance(one, dict)
        ]
        expected = LENGTH_BYTES + length + max(ends, default=0)
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return "is no safetensors file: its header cannot be read"
    if size != expected:
        return f"has {size:,} bytes instead of {expected:,}: copy or download it again"
    return None


def _need_shards(folder: Path, index: Path, *, where: str) -> None:
    try:
        names = list_shards(index)
    except ValueError as error:
        raise UserError(
            f"{where} has an index of weights that cannot be used, {index.name} ({error}). Save the model again."
        ) from None
    for name in names:
        _need_plain_name(name, where=where, place=index.name)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(
            f"{where} lacks {missing[0]}{more} of the {len(names)} shards that {index.name} names. Complete the folder."
        )


def _need_plain_name(name: str, *, where: str, place: str) -> None:
    if Path(name).name != name or "\\" in name:
        raise UserError(
            f"{where} takes weights from {name!r} ({place}), outside the folder or below it, and the model's revision "
            "would not cover that file. Put it beside config.json, and write its name alone there."
        )
