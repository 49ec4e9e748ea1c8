"""Parquet exports of the Hugging Face hub, made of rows of a fixture in which an image is the name of a colour."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def draw(colour: str) -> bytes:
    """Draw a picture of one colour, as the bytes of a PNG file."""
    sink = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(sink, format="PNG")
    return sink.getvalue()


def name_kept(colour: str) -> str:
    """Name the file of a colour's picture as it is named where images of rows are kept."""
    return f"{hashlib.sha256(draw(colour)).hexdigest()[:32]}.png"


def load_rows(path: Path) -> list[dict[str, Any]]:
    """Load a fixture's rows with each image as the hub's struct of bytes and path."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{**row, "image": {"bytes": draw(row["image"]), "path": "0.png"}} for row in rows]


def write_export(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Write rows as a Parquet file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path
