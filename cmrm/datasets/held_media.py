"""Images, videos and sounds embedded in rows, as bytes, base64 or `data:` URLs: keep them as files by their digest."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import io
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from cmrm.datasets.columns import OwnColumns
from cmrm.datasets.fields import RowError
from cmrm.datasets.format import FetchImages
from cmrm.datasets.media_columns import put_cells
from cmrm.datasets.rows import Record, make_samples
from cmrm.errors import MissingPackageError, UserError
from cmrm.prompts.containers import find_container
from cmrm.prompts.images import FORMATS
from cmrm.prompts.media import Medium, MediumKind
from cmrm.prompts.media_files import MAX_NAME, is_name, locate_file
from cmrm.prompts.open_medium import open_medium
from cmrm.prompts.sample import Rejected, Sample
from cmrm.prompts.videos import ANIMATIONS

# Limit before Pillow decodes a file; no image of a VLM data set is larger.
MOST_BYTES = 256 * 2**20
# Base64 prefixes of PNG and JPEG files, with which no name inside a folder begins; and of GIF, WebP, BMP and TIFF
# files, with which one may.
_CERTAIN = ("iVBORw0KGgo", "/9j/")
_POSSIBLE = ("R0lGOD", "UklGR", "Qk", "SUkqA", "TU0AK")
_LEAST_BASE64 = 40
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]+={0,2}\s*")
_DATA_URL = re.compile(r"data:(?P<type>[^,;]*)(?P<options>(;[^,;]*)*),", re.IGNORECASE)

# Reads what a cell holds for a medium of a kind.
ReadHeld = Callable[[object, MediumKind], bytes | None]
# How kept files are named; those of containers by `find_container`.
_CONTAINER_SUFFIXES = {"mov": "mp4", "matroska": "mkv"}
_PLURALS: Mapping[MediumKind, str] = {"image": "images", "video": "videos", "audio": "sounds"}
_SUFFIXES: Mapping[MediumKind, tuple[str, ...]] = {
    "image": tuple(known.lower() for known in FORMATS),
    "video": ("mp4", "mkv", *(known.lower() for known in ANIMATIONS)),
    "audio": ("wav", "mp4", "mkv", "ogg", "flac", "mp3", "aac"),
}


@dataclass(frozen=True, kw_only=True)
class LostMedium:
    """Placeholder in a row for a file whose download failed; the row is rejected with `reason`."""

    reason: str


def make_own_samples(
    records: Iterable[Record | Rejected],
    own: OwnColumns,
    *,
    images: Path | None,
    fetch_images: FetchImages | None,
    read: ReadHeld | None = None,
) -> Iterator[Sample | Rejected]:
    """Convert rows of a user's own file to samples, with embedded files extracted and files behind URLs downloaded.

    Raises `UserError` as `keep_held_media` and `fetch_images` do.
    """
    if fetch_images is not None:
        # Before the sample is made, so that a content id depends on the image's content and not on its URL.
        records = fetch_images(records, own.media)
    make = keep_held_media(own, images=images, read=read or read_held)
    return make_samples(records, make, dataset=own.dataset, id_field=own.names["id"])


def is_image_name(text: str) -> bool:
    """Whether a cell's text is an image file name, rather than base64 or a `data:` URL."""
    return is_name(text) and text[:5].lower() != "data:" and not _may_be_base64(text)


def read_held(value: object, kind: MediumKind = "image") -> bytes | None:
    """Return the bytes of a medium embedded in a cell, or None if there is none.

    A cell may be bytes, a mapping with `bytes` (as in Hugging Face's Parquet files), a `data:` URL, or of an image
    base64 alone. Raises `RowError` for a text that is none of these and too long for a file name.
    """
    if isinstance(value, dict):
        held, path = value.get("bytes"), value.get("path")
        if held is None and (path is None or isinstance(path, str)):
            return None
        value = held
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        return None  # the field's getter reports the type
    text = value.strip()
    if text[:5].lower() == "data:":
        return _read_data_url(text, kind)
    if kind == "image" and _may_be_base64(text):
        return _decode(text, kind)
    if len(text) > MAX_NAME:
        shapes = "neither base64 nor a file's name" if kind == "image" else "no file's name"
        raise RowError(f"the {kind} is a text of {len(text):,} characters, {shapes}")
    return None


def keep_held_media(
    own: OwnColumns, *, images: Path | None, read: ReadHeld = read_held
) -> Callable[[Record], Sample]:
    """Wrap `own.make` so that files embedded in a row are extracted first and replaced by their names.

    Each is written to the folder `images` unchanged, once per content; `RowError` if it cannot be decoded. Raises
    `UserError` for an embedded file without a folder.
    """

    def make_with_media(record: Record) -> Sample:
        named: dict[str, list[object]] = {}
        for column, cells in own.media.choose(record.fields):
            keep = partial(
                name_held, kind=column.kind, images=images, dataset=own.dataset, column=column.name, read=read
            )
            named[column.name] = [keep(cell) for cell in cells]
        return own.make(dataclasses.replace(record, fields=put_cells(record.fields, named)))

    return make_with_media


def name_held(
    value: object,
    *,
    images: Path | None,
    dataset: str,
    column: str,
    kind: MediumKind = "image",
    read: ReadHeld = read_held,
) -> object:
    """Extract a cell's embedded file to the folder `images` and return its name; other cells pass unchanged.

    A list of one cell counts as that cell, and a mapping without bytes as its path; a text that names a file in
    `images` is that name, though it may look like base64. Raises `RowError` as `keep_file`
    does, and `UserError` for an embedded file without a folder.
    """
    if isinstance(value, list) and len(value) <= 1:
        value = value[0] if value else None
    if isinstance(value, LostMedium):
        raise RowError(value.reason)
    if isinstance(value, str) and images is not None and _is_file(value.strip(), images):
        return value
    content = read(value, kind)
    if content is not None:
        if images is None:
            raise UserError(
                f"data set {dataset!r} holds {_PLURALS[kind]} in its column {column!r}, and there is no folder to keep "
                "them in; give its `images`."
            )
        return keep_file(content, images, kind)
    if isinstance(value, dict) and value.keys() <= {"bytes", "path"}:
        return value.get("path")
    return value


def keep_file(content: bytes, images: Path, kind: MediumKind = "image") -> str:
    """Write a file of a kind under its digest, unless it exists, and return the name.

    Raises `RowError` if it cannot be decoded, and `UserError` if the folder cannot be written or a package that the
    file needs is not installed.
    """
    if len(content) > MOST_BYTES:
        raise RowError(f"its {kind} has {len(content):,} bytes, more than {MOST_BYTES:,}")
    digest = hashlib.sha256(content).hexdigest()[:32]
    try:
        for suffix in _SUFFIXES[kind]:
            if (images / f"{digest}.{suffix}").is_file():
                return f"{digest}.{suffix}"
        images.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=images, prefix=".incoming-") as folder:
            incoming = Path(folder) / digest
            incoming.write_bytes(content)
            _refuse_unusable(incoming, kind)
            name = f"{digest}.{_find_suffix(incoming, kind)}"
            # Atomic rename, so that no run ever reads a partial image.
            incoming.replace(images / name)
    except OSError as error:
        raise UserError(
            f"no {kind} can be written to {images} ({error.strerror}); check the folder."
        ) from None
    return name


def _refuse_unusable(path: Path, kind: MediumKind) -> None:
    """Raise `RowError` for a file that cannot be opened as its kind."""
    frames = 1 if kind == "video" else None
    try:
        open_medium(path.parent, Medium(kind=kind, name=path.name, frames=frames))
    except MissingPackageError:
        raise
    except UserError as error:
        # The temporary name means nothing to a user.
        said = (
            str(error).replace(f"{kind} {path.name!r} in {path.parent}", "it").replace(repr(str(path)), "it")
        )
        raise RowError(f"its {kind} cannot be used: {said}") from None


def _find_suffix(path: Path, kind: MediumKind) -> str:
    """Name a file's suffix by its content, which has been opened as its kind."""
    if kind != "image":
        with path.open("rb") as file:
            start = file.read(12)
        if kind == "audio" and start[8:] == b"WAVE":
            return "wav"
        if (container := find_container(start)) is not None:
            return _CONTAINER_SUFFIXES.get(container, container)
    with Image.open(path, formats=FORMATS) as image:
        return str(image.format).lower()


def _read_data_url(text: str, kind: MediumKind) -> bytes:
    found = _DATA_URL.match(text[:1000])
    if found is None or not found["type"].lower().startswith(f"{kind}/"):
        raise RowError(f"the {kind} is a data URL that holds none: {text[:60]!r}…")
    if "base64" not in found["options"].lower().split(";"):
        raise RowError(f"the {kind} is a data URL that is not base64")
    return _decode(text[found.end() :], kind)


def _is_file(text: str, images: Path) -> bool:
    """Whether a text that could be base64 is the name of a file in the folder."""
    if len(text) > MAX_NAME or _BASE64.fullmatch(text) is None:
        return False
    try:
        locate_file(images, text)
    except UserError:
        return False
    return True


def _may_be_base64(text: str) -> bool:
    if len(text) < _LEAST_BASE64 or _BASE64.fullmatch(text) is None:
        return False
    if len(text) > MAX_NAME or text.startswith(_CERTAIN):
        return True
    return text.startswith(_POSSIBLE) and _has_image_header(text)


def _has_image_header(text: str) -> bool:
    """Whether a short base64 text holds an image's header, which no name holds by chance."""
    try:
        with Image.open(io.BytesIO(_decode(text)), formats=FORMATS):
            return True
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return True
    except Exception:  # noqa: BLE001 - on damaged bytes Pillow raises nearly any exception
        return False


def _decode(text: str, kind: MediumKind = "image") -> bytes:
    plain = "".join(text.split())
    if len(plain) > MOST_BYTES * 4 // 3 + 4:
        raise RowError(f"its {kind} has {len(plain):,} characters of base64, more than {MOST_BYTES:,} bytes")
    try:
        # Some writers omit the base64 padding.
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RowError(f"its {kind} is no base64 ({error})") from None
