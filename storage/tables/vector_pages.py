"""Encode a row group's vectors as one Parquet page, whose numbers are copied and not taken one by one.

Arrow writes a list column number by number, since any list may have another length. Vectors of one file are equally
long, so the levels that say where a vector begins are the same two runs for each, and the numbers are the array's own
bytes.
Source: https://parquet.apache.org/docs/file-format/ (Encodings, Nested Encoding, Checksumming).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa

from storage.tables.hashing_sink import Buffer
from storage.tables.thrift import (
    BINARY,
    I32,
    I64,
    LIST,
    STRUCT,
    Items,
    Struct,
    read_first_struct,
    write_struct,
    write_varint,
)

# For float32, whose numbers of a model in bfloat16 have two low bytes of zeros (docs/decisions/storage.md).
VECTOR_CODEC, VECTOR_LEVEL = "zstd", 1

# Numbers of parquet.thrift: the page's type, physical types, encodings and codecs.
_DATA_PAGE = 0
_FLOAT, _FIXED_LEN_BYTE_ARRAY = 4, 7
_PLAIN, _RLE, _BYTE_STREAM_SPLIT = 0, 3, 9
_UNCOMPRESSED, _ZSTD = 0, 6
# In bytes: eleven fields, whose integers have at most five bytes.
_LONGEST_HEADER = 64


@dataclass(frozen=True, kw_only=True)
class VectorChunk:
    """The vectors of a row group as bytes of a Parquet file, and what the footer says of them."""

    buffers: tuple[Buffer, ...]
    # ColumnMetaData of parquet.thrift without the offset of the page.
    metadata: Struct
    # In bytes, with and without compression, header included.
    stored: int
    plain: int

    def describe(self, offset: int) -> Struct:
        """Make the footer's ColumnChunk of this chunk, which begins at an offset in the file."""
        metadata = dict(sorted({**self.metadata, 9: (I64, offset)}.items()))
        return {2: (I64, 0), 3: (STRUCT, metadata)}


def encode_vectors(vectors: np.ndarray, column: str) -> VectorChunk:
    """Encode vectors [rows, width] of a list column: float16 as they are, float32 split by bytes and compressed.

    The buffers share the memory of `vectors`, which must not change until they are written.
    """
    rows, width = vectors.shape
    levels = _encode_levels(rows, width)
    if vectors.dtype == np.float16:
        kind, encoding, codec = _FIXED_LEN_BYTE_ARRAY, _PLAIN, _UNCOMPRESSED
        body: tuple[Buffer, ...] = (levels, np.ascontiguousarray(vectors).reshape(-1).view(np.uint8).data)
    else:
        kind, encoding, codec = _FLOAT, _BYTE_STREAM_SPLIT, _ZSTD
        zstd = pa.Codec(VECTOR_CODEC, VECTOR_LEVEL)
        # As bytes: the length of a memoryview of Arrow's buffer is that before it was cut to size (PyArrow 26.0.1).
        body = (zstd.compress(_split_bytes(levels, vectors), asbytes=True),)
    entries = rows * max(1, width)
    plain, stored = len(levels) + vectors.nbytes, sum(map(len, body))
    header = _write_header(entries, encoding, plain, stored, body)
    return VectorChunk(
        buffers=(header, *body),
        metadata={
            1: (I32, kind),
            2: (LIST, Items(I32, [encoding, _RLE])),
            3: (LIST, Items(BINARY, [column.encode(), b"list", b"element"])),
            4: (I32, codec),
            5: (I64, entries),
            6: (I64, len(header) + plain),
            7: (I64, len(header) + stored),
            13: (LIST, Items(STRUCT, [_count_pages(encoding)])),
        },
        stored=len(header) + stored,
        plain=len(header) + plain,
    )


def decode_vectors(data: bytes, shape: tuple[int, int], *, half: bool) -> np.ndarray | None:
    """Decode a column chunk of vectors [rows, width], float16 or else float32, and verify its checksum.

    None for a chunk that is not, to the bit of its header and levels, what `encode_vectors` makes of such an array.
    """
    levels = _encode_levels(*shape)
    entries = shape[0] * shape[1]
    encoding, size = (_PLAIN, 2) if half else (_BYTE_STREAM_SPLIT, 4)
    plain = len(levels) + size * entries
    try:
        start = read_first_struct(data)[1]
    except (IndexError, ValueError):
        return None
    body = memoryview(data)[start:]
    # The header holds the checksum of the body.
    if data[:start] != _write_header(entries, encoding, plain, len(body), (body,)):
        return None
    if not half:
        body = memoryview(pa.Codec(VECTOR_CODEC).decompress(body, plain, asbytes=True))
    if body[: len(levels)] != levels:
        return None
    numbers = np.frombuffer(body, np.float16 if half else np.uint8, offset=len(levels))
    return (numbers if half else _join_bytes(numbers)).reshape(shape)


def count_bytes_before(rows: int, width: int) -> int:
    """Count the bytes from which `find_numbers` tells where the numbers of vectors [rows, width] begin, or more."""
    return _LONGEST_HEADER + len(_encode_levels(rows, width))


def find_numbers(data: bytes, shape: tuple[int, int]) -> int | None:
    """Find where the first number of float16 vectors [rows, width] is in a column chunk, from its first bytes.

    None for a chunk whose header and levels are not, to the bit, what `encode_vectors` makes of such an array. The
    checksum in the header is not verified: that would take the whole chunk.
    """
    levels = _encode_levels(*shape)
    try:
        header, start = read_first_struct(data)
        checksum = header[4][1]
    except (IndexError, KeyError, ValueError):
        return None
    entries = shape[0] * shape[1]
    plain = len(levels) + 2 * entries
    if data[:start] != _make_header(entries, _PLAIN, plain, plain, checksum):
        return None
    end = start + len(levels)
    return end if data[start:end] == levels else None


def _split_bytes(levels: bytes, vectors: np.ndarray) -> np.ndarray:
    """The levels, and then the first bytes of all numbers, their second ones, and so on."""
    split = np.empty(len(levels) + vectors.nbytes, np.uint8)
    split[: len(levels)] = np.frombuffer(levels, np.uint8)
    numbers = np.ascontiguousarray(vectors).reshape(-1).view(np.uint32)
    for place, plane in enumerate(split[len(levels) :].reshape(4, -1)):
        np.right_shift(numbers, np.uint32(8 * place), out=plane, casting="unsafe")
    return split


def _join_bytes(split: np.ndarray) -> np.ndarray:
    planes = split.reshape(4, -1)
    numbers = planes[3].astype(np.uint32)
    for plane in planes[2::-1]:
        numbers <<= np.uint32(8)
        # Those of a model in bfloat16 have two low bytes of zeros.
        if plane.any():
            numbers |= plane
    return numbers.view(np.float32)


@lru_cache(maxsize=8)
def _encode_levels(rows: int, width: int) -> bytes:
    """Repetition levels, 0 where a vector begins and 1 after it, and definition levels, 1 for each number."""
    vector = bytearray(_run(0, 1))
    if width > 1:
        vector += _run(1, width - 1)
    repetition = bytes(vector) * rows
    # An empty vector has one entry, which is no number.
    definition = _run(1, rows * width) if width else _run(0, rows)
    return b"".join(len(levels).to_bytes(4, "little") + levels for levels in (repetition, definition))


def _run(level: int, count: int) -> bytes:
    """A run of the RLE and bit-packing hybrid, of levels up to 1."""
    run = bytearray()
    write_varint(run, count << 1)
    run.append(level)
    return bytes(run)


def _write_header(entries: int, encoding: int, plain: int, stored: int, body: tuple[Buffer, ...]) -> bytes:
    checksum = 0
    for piece in body:
        checksum = zlib.crc32(piece, checksum)
    # Thrift has no unsigned integers.
    return _make_header(
        entries, encoding, plain, stored, checksum - (1 << 32) if checksum >> 31 else checksum
    )


def _make_header(entries: int, encoding: int, plain: int, stored: int, checksum: int) -> bytes:
    page = {
        1: (I32, entries),
        2: (I32, encoding),
        3: (I32, _RLE),
        4: (I32, _RLE),
    }
    return write_struct(
        {
            1: (I32, _DATA_PAGE),
            2: (I32, plain),
            3: (I32, stored),
            4: (I32, checksum),
            5: (STRUCT, page),
        }
    )


def _count_pages(encoding: int) -> Struct:
    return {1: (I32, _DATA_PAGE), 2: (I32, encoding), 3: (I32, 1)}
