"""Images embedded in rows, as bytes, base64 or `data:` URLs: extract them to files named by content digest."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import io
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from cmrm.datasets.columns import OwnColumns
from cmrm.datasets.dotted import ABSENT, find_field
from cmrm.datasets.fields import RowError
from cmrm.datasets.format import FetchImages
from cmrm.datasets.rows import Record, make_samples
from cmrm.errors import UserError
from cmrm.prompts.images import FORMATS, open_image
from cmrm.prompts.media_files import MAX_NAME, is_name, locate_file
from cmrm.prompts.sample import Rejected, Sample

# Limit before Pillow decodes a file; no image of a VLM data set is larger.
MOST_BYTES = 256 * 2**20
# Base64 prefixes of PNG and JPEG files, with which no name inside a folder begins; and of GIF, WebP, BMP and TIFF
# files, with which one may.
_CERTAIN = ("iVBORw0KGgo", "/9j/")
_POSSIBLE = ("R0lGOD", "UklGR", "Qk", "SUkqA", "TU0AK")
_LEAST_BASE64 = 40
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]+={0,2}\s*")
_DATA_URL = re.compile(r"data:(?P<type>[^,;]*)(?P<options>(;[^,;]*)*),", re.IGNORECASE)

ReadHeld = Callable[[object], bytes | None]


@dataclass(frozen=True, kw_only=True)
class LostImage:
    """Placeholder in a row for an image whose download failed; the row is rejected with `reason`."""

    reason: str


def make_own_samples(
    records: Iterable[Record | Rejected],
    own: OwnColumns,
    *,
    images: Path | None,
    fetch_images: FetchImages | None,
    read: ReadHeld | None = None,
) -> Iterator[Sample | Rejected]:
    """Convert rows of a user's own file to samples, with embedded images extracted and image URLs downloaded.

    Raises `UserError` as `keep_held_images` and `fetch_images` do.
    """
    if fetch_images is not None:
        # Before the sample is made, so that a content id depends on the image's content and not on its URL.
        records = fetch_images(records, own.names["image"])
    make = keep_held_images(own, images=images, read=read or read_held_image)
    return make_samples(records, make, dataset=own.dataset, id_field=own.names["id"])


def is_image_name(text: str) -> bool:
    """Whether a cell's text is an image file name, rather than base64 or a `data:` URL."""
    return is_name(text) and text[:5].lower() != "data:" and not _may_be_base64(text)


def read_held_image(value: object) -> bytes | None:
    """Return the bytes of an image embedded in a cell, or None if there is none.

    A cell may be bytes, a mapping with `bytes` (as in Hugging Face's Parquet files), base64 or a `data:` URL. Raises
    `RowError` for a text that is none of these and too long for a file name.
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
        return _read_data_url(text)
    if not _may_be_base64(text):
        if len(text) > MAX_NAME:
            raise RowError(
                f"the image is a text of {len(text):,} characters, neither base64 nor a file's name"
            )
        return None
    return _decode(text)


def keep_held_images(
    own: OwnColumns, *, images: Path | None, read: ReadHeld = read_held_image
) -> Callable[[Record], Sample]:
    """Wrap `own.make` so that an image embedded in a row is extracted first and replaced by its file name.

    The file is written to the folder `images` unchanged, once per content; `RowError` if it cannot be decoded. Raises
    `UserError` for an embedded image without a folder.
    """
    column = own.names["image"]

    def make_with_image(record: Record) -> Sample:
        value = find_field(record.fields, column)
        if value is ABSENT or value is None or value == []:
            return own.make(record)
        if isinstance(value, LostImage):
            raise RowError(value.reason)
        value = name_held_image(value, images=images, dataset=own.dataset, column=column, read=read)
        return own.make(dataclasses.replace(record, fields={**record.fields, column: value}))

    return make_with_image


def name_held_image(
    value: object, *, images: Path | None, dataset: str, column: str, read: ReadHeld = read_held_image
) -> object:
    """Extract a cell's embedded image to the folder `images` and return its file name; other cells pass unchanged.

    A list of one cell counts as that cell, and a mapping without bytes as its path; a text that names a file in
    `images` is that name, though it may look like base64. Raises `RowError` as `keep_image`
    does, and `UserError` for an embedded image without a folder.
    """
    if isinstance(value, list) and len(value) <= 1:
        value = value[0] if value else None
    if isinstance(value, str) and images is not None and _is_file(value.strip(), images):
        return value
    content = read(value)
    if content is not None:
        if images is None:
            raise UserError(
                f"data set {dataset!r} holds images in its column {column!r}, and there is no folder to keep them in; "
                "give its `images`."
            )
        return keep_image(content, images)
    if isinstance(value, dict) and value.keys() <= {"bytes", "path"}:
        return value.get("path")
    return value


def keep_image(content: bytes, images: Path) -> str:
    """Write an image file under its digest, unless it exists, and return the name.

    Raises `RowError` if the image cannot be decoded, and `UserError` if the folder cannot be written.
    """
    if len(content) > MOST_BYTES:
        raise RowError(f"its image has {len(content):,} bytes, more than {MOST_BYTES:,}")
    digest = hashlib.sha256(content).hexdigest()[:32]
    try:
        for known in FORMATS:
            name = f"{digest}.{known.lower()}"
            if (images / name).is_file():
                return name
        images.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=images, prefix=".incoming-") as folder:
            incoming = Path(folder) / digest
            incoming.write_bytes(content)
            try:
                open_image(incoming.parent, digest)
            except UserError as error:
                # The temporary name means nothing to a user.
                said = str(error).replace(f"image {digest!r} in {incoming.parent}", "it")
                said = said.replace(repr(str(incoming)), "it")
                raise RowError(f"its image cannot be used: {said}") from None
            with Image.open(incoming, formats=FORMATS) as image:
                name = f"{digest}.{str(image.format).lower()}"
            # Atomic rename, so that no run ever reads a partial image.
            incoming.replace(images / name)
    except OSError as error:
        raise UserError(
            f"no image can be written to {images} ({error.strerror}); check the folder."
        ) from None
    return name


def _read_data_url(text: str) -> bytes:
    found = _DATA_URL.match(text[:1000])
    if found is None or not found["type"].lower().startswith("image/"):
        raise RowError(f"the image is a data URL that holds none: {text[:60]!r}…")
    if "base64" not in found["options"].lower().split(";"):
        raise RowError("the image is a data URL that is not base64")
    return _decode(text[found.end() :])


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


def _decode(text: str) -> bytes:
    plain = "".join(text.split())
    if len(plain) > MOST_BYTES * 4 // 3 + 4:
        raise RowError(f"its image has {len(plain):,} characters of base64, more than {MOST_BYTES:,} bytes")
    try:
        # Some writers omit the base64 padding.
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RowError(f"its image is no base64 ({error})") from None
