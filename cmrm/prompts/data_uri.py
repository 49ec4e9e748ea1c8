"""Images as data URIs (RFC 2397), as chat messages and logs hold them."""

from __future__ import annotations

from base64 import b64encode
from io import BytesIO

from PIL import Image


def to_data_uri(content: bytes, *, kind: str) -> str:
    """Write a file's bytes as a data URI; `kind` is their media type, such as image/png."""
    return f"data:{kind};base64,{b64encode(content).decode()}"


def to_png_uri(image: Image.Image) -> str:
    """Write an image as a data URI of a PNG, which loses nothing."""
    buffer = BytesIO()
    image.save(buffer, format="PNG")
    return to_data_uri(buffer.getvalue(), kind="image/png")
