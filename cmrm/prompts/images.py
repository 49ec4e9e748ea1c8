"""Image files, opened as untrusted input."""

from __future__ import annotations

import hashlib
import re
import struct
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from cmrm.errors import UserError
from cmrm.prompts.meaningless_images import WHITE
from cmrm.prompts.media_files import locate_file, show_name
from cmrm.untrusted.printable import first_line

# The common photograph formats. An allow-list excludes those whose decoders start other programs (EPS).
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "PPM", "WEBP", "AVIF")

# Brands in the first box of HEIC and HEIF files.
_HEIC_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"))

# Pillow only warns up to twice as many pixels (decompression bomb); nobody reads the warnings of a batch job.
MAX_PIXELS = 89_478_485

# Pillow reports damaged metadata by a warning for each image. What hides an image's orientation is refused with a
# reason, and the rest concerns nobody. Set once: `warnings.catch_warnings` is not safe in threads.
warnings.filterwarnings("ignore", module=r"PIL\.")


def open_image(root: Path, name: str) -> Image.Image:
    """Open the image `name` under the folder `root` as 8-bit RGB, upright (EXIF), transparency over white.

    Of an animation, the first frame. Raises `UserError` if the file is missing, lies outside `root` (links resolved),
    has more than `MAX_PIXELS` pixels, or is truncated or damaged.
    """
    path = locate_file(root, name)
    return _read(path, f"image {show_name(name)} in {root}")


def read_image(data: bytes, *, where: str) -> Image.Image:
    """Read an image of a file's bytes as `open_image` does; `where` names it in errors. Raises `UserError`."""
    return _read(BytesIO(data), where)


def _read(file: Path | BytesIO, who: str) -> Image.Image:
    try:
        with Image.open(file, formats=FORMATS) as image:
            _refuse_a_bomb(image, who)
            return make_upright(image, who=who)
    except UserError:
        raise
    except UnidentifiedImageError:
        raise UserError(
            f"{who} cannot be read: it is {_name_format(file)}, and formats that are read are "
            f"{', '.join(FORMATS)}; convert the file or remove the row."
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"{who} is too large ({error}); scale it down.") from None
    except Exception as error:  # noqa: BLE001 - on damaged bytes Pillow's decoders raise nearly any exception
        raise UserError(_explain_damage(error, who)) from None


def make_upright(image: Image.Image, *, who: str) -> Image.Image:
    """Make an opened image 8-bit RGB, upright (EXIF), transparency over white; `who` names it in errors.

    Raises `UserError` if it is truncated or damaged.
    """
    try:
        _refuse_damaged_exif(image, who)
        upright = _to_rgb(ImageOps.exif_transpose(image))
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001 - as above
        raise UserError(_explain_damage(error, who)) from None
    # Other metadata would be applied again by whoever processes the image.
    upright.info.clear()
    upright.getexif().clear()
    return upright


def _explain_damage(error: Exception, who: str) -> str:
    return f"{who} cannot be read ({first_line(error)}); replace the file or remove the row."


def count_pixels(root: Path, name: str) -> int:
    """Count the pixels of the image `name` from its header; 0 if it cannot be read."""
    try:
        with Image.open(locate_file(root, name), formats=FORMATS) as image:
            return image.width * image.height
    except Exception:  # noqa: BLE001 - `open_image` reports what is wrong with it
        return 0


def digest_pixels(image: Image.Image) -> str:
    """Compute a SHA-256 digest that is equal for images that look the same to a model."""
    # The palette and the EXIF orientation are not among the bytes of the pixels.
    shown = image.convert("RGBA") if image.mode in ("P", "PA") else image
    orientation = image.getexif().get(ExifTags.Base.Orientation)
    digest = hashlib.sha256(f"{image.mode} {image.size} {orientation}\n".encode())
    digest.update(shown.tobytes())
    return digest.hexdigest()


def _refuse_a_bomb(image: Image.Image, who: str) -> None:
    # Only the header has been read so far: decoding would allocate the memory.
    if image.width * image.height > MAX_PIXELS:
        raise UserError(
            f"{who} has {image.width} × {image.height} pixels, more than {MAX_PIXELS:,}; scale it down."
        )


def _refuse_damaged_exif(image: Image.Image, who: str) -> None:
    """Raise `UserError` if damaged EXIF data hides the image's orientation.

    Pillow's JPEG decoder skips such data, and raises as soon as it is read again. At a damaged tag, Pillow leaves out
    all tags from there on.
    """
    try:
        found = image.getexif()
        if data := image.info.get("exif"):
            Image.Exif().load(data)
            if ExifTags.Base.Orientation not in found and _may_give_orientation(data):
                raise ValueError("it is cut or damaged at or before the orientation")
    except Exception as error:  # noqa: BLE001 - damaged bytes raise nearly any exception
        # Raises if the image itself is damaged.
        image.load()
        raise UserError(
            f"{who} has EXIF data that cannot be read ({first_line(error)}), so nobody can tell which way is up; "
            "save it without its EXIF data or remove the row."
        ) from None


def _may_give_orientation(data: bytes) -> bool:
    """Whether the tags of EXIF data, as listed in its first directory, include the orientation or are cut off."""
    plain = re.sub(rb"^(Exif\0\0){1,2}", b"", data)
    if not plain:
        return False
    order = "<" if plain.startswith(b"II") else ">"
    (start,) = struct.unpack_from(f"{order}L", plain, 4)
    if len(plain) < start + 2:
        return True
    (count,) = struct.unpack_from(f"{order}H", plain, start)
    entries = plain[start + 2 : start + 2 + 12 * count]
    tags = {tag for tag, _ in struct.iter_unpack(f"{order}H10s", entries[: len(entries) // 12 * 12])}
    return ExifTags.Base.Orientation in tags or len(entries) < 12 * count


def _name_format(file: Path | BytesIO) -> str:
    """Name the format of a file that is not a supported image, by its first bytes."""
    if isinstance(file, BytesIO):
        start = file.getvalue()[:1024]
    else:
        with file.open("rb") as opened:
            start = opened.read(1024)
    if start[4:8] == b"ftyp" and start[8:12] in _HEIC_BRANDS:
        return "HEIC"
    if b"<svg" in start:
        return "SVG (a drawing, not pixels)"
    if start.startswith(b"%!PS"):
        return "PostScript"
    if start.startswith(b"%PDF"):
        return "a PDF document"
    return "empty" if not start else "of no known image format"


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return _to_eight_bits(image).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, (*WHITE, 255)), layer).convert("RGB")
    return image.convert("RGB")


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit, 32-bit and float grey values to 8 bits; Pillow's own conversion would clip them at 255."""
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("pixel values that are not finite")
    highest = values.max(initial=0.0)
    if image.mode == "F":
        full = 1.0 if highest <= 1.0 else 255.0
    else:
        # A 16-bit file spans 0–65535 whatever its brightest pixel; a wider one has no such convention.
        full = 65_535.0 if image.mode.startswith("I;16") or highest <= 65_535.0 else highest
    return Image.fromarray(np.clip(np.rint(values * (255.0 / full)), 0, 255).astype(np.uint8), mode="L")
