"""COCO captions: stream a JSON file of some 100 MB without loading it into memory."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from cmrm.datasets.compressed import open_data
from cmrm.errors import UserError

CHUNK_CHARACTERS = 2**20
# Far above any image or annotation of COCO; bounds the buffer when a damaged file never closes an object.
MAX_OBJECT_CHARACTERS = 16 * 2**20

_SPACE_OR_COMMA = re.compile(r"[\s,]*")
# The 2014 releases put the split before the number; LLaVA's and VLSafe's files leave it out.
_SPLIT_PREFIX = re.compile(r"^COCO_(?:train|val|test)20\d\d_")
SPLIT_PREFIXES = ("COCO_val2014_", "COCO_train2014_")


@dataclass(frozen=True, kw_only=True, slots=True)  # slots: there are 600,000 of them
class Caption:
    """A caption of an image; `image` is the file name."""

    image: str
    text: str


def strip_split(name: str) -> str:
    """Strip the split prefix from a file name of COCO 2014: `COCO_val2014_000000000042.jpg` → `000000000042.jpg`."""
    return _SPLIT_PREFIX.sub("", name)


def read_captions(path: Path) -> Iterator[Caption]:
    """Stream the captions of `{"images": [{id, file_name}], "annotations": [{image_id, caption}]}`, in file order.

    The file is read twice, since either list may come first; only image names are kept in memory. A caption whose image
    is not listed is skipped. Raises `UserError` if the file is missing, damaged or has another schema.
    """
    names = {
        _get(row, "id", int, path): _get(row, "file_name", str, path) for row in read_array(path, "images")
    }
    for row in read_array(path, "annotations"):
        image = names.get(_get(row, "image_id", int, path))
        if image is not None:
            yield Caption(image=image, text=_get(row, "caption", str, path))


def read_array(path: Path, key: str) -> Iterator[Any]:
    """Stream the objects of the array under a top-level key of a JSON document.

    Raises `UserError` if the file cannot be opened, lacks the array, or is truncated or damaged within it.
    """
    if not path.is_file():
        raise UserError(f"{path} is no file; give COCO's captions file, such as captions_train2017.json.")
    try:
        with open_data(path) as data:
            file = io.TextIOWrapper(data, encoding="utf-8-sig")
            yield from _read_elements(file, _seek_array(file, key, path), path)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error.reason}); download it again.") from None


def _seek_array(file: IO[str], key: str, path: Path) -> str:
    """Read up to the array's opening bracket and return what was read beyond it."""
    # Inside a JSON string the key's quotes would be escaped.
    opening = re.compile(rf'(?<!\\)"{re.escape(key)}"\s*:\s*\[')
    window = ""
    while chunk := file.read(CHUNK_CHARACTERS):
        window += chunk
        if found := opening.search(window):
            return window[found.end() :]
        window = window[-1000:]
    raise UserError(
        f'{path} has no list "{key}"; give COCO\'s captions file, such as captions_train2017.json.'
    )


def _read_elements(file: IO[str], buffer: str, path: Path) -> Iterator[Any]:
    decode = json.JSONDecoder().raw_decode
    position = 0
    while True:
        position = _SPACE_OR_COMMA.match(buffer, position).end()  # type: ignore[union-attr]  # matches anything
        if buffer.startswith("]", position):
            return
        try:
            element, position = decode(buffer, position)
        except (ValueError, RecursionError):
            chunk = file.read(CHUNK_CHARACTERS)
            if not chunk or len(buffer) - position > MAX_OBJECT_CHARACTERS:
                raise UserError(
                    f"{path} is damaged or truncated near {buffer[position : position + 60]!r}; download it again."
                ) from None
            buffer, position = buffer[position:] + chunk, 0
        else:
            yield element


def _get(row: Any, name: str, kind: type, path: Path) -> Any:
    value = row.get(name) if isinstance(row, dict) else None
    if not isinstance(value, kind):
        raise UserError(
            f"{path}: an entry lacks {name!r} or has it in another type; download the file again."
        )
    return value
