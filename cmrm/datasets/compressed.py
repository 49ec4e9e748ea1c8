"""Open a data file for reading bytes, with streaming decompression of gzip, zstd and single-file zip."""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import IO, Any

from cmrm.errors import UserError
from cmrm.untrusted.printable import first_line
from cmrm.untrusted.regular_file import open_regular

# Magic numbers: a file that a server sent under a plain name may be compressed.
_GZIP, _ZSTD, _ZIP = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PK\x03\x04"
_SUFFIXES = {_GZIP: ".gz", _ZSTD: ".zst", _ZIP: ".zip"}


@contextmanager
def open_data(path: Path) -> Iterator[io.BufferedReader]:
    """Open a file for reading bytes, with streaming decompression if it begins like gzip, zstd or zip.

    Raises `UserError` if the file is missing, unreadable, damaged or not compressed though its suffix says so, if a zip
    does not hold exactly one file, or if the content is UTF-16 or compressed twice.
    """
    try:
        with _open(path) as raw, io.BufferedReader(raw) as file:
            _refuse_other_encodings(path, file.peek(4)[:4])
            yield file
    except UserError:
        raise
    except (
        gzip.BadGzipFile,
        zipfile.BadZipFile,
        EOFError,
        zlib.error,
        LZMAError,
        NotImplementedError,
    ) as error:
        raise UserError(f"{path} cannot be decompressed ({first_line(error)}); get the file again.") from None
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise UserError(f"{path} cannot be read ({reason}); check the file.") from None


def strip_compression(path: Path) -> PurePosixPath:
    """Return a file's name without its compression suffix."""
    return PurePosixPath(path.stem if path.suffix.lower() in _SUFFIXES.values() else path.name)


def refuse_what_is_no_file(path: Path) -> None:
    """Raise `UserError` unless `path` is a readable regular file."""
    open_regular(path).close()


def _refuse_other_encodings(path: Path, beginning: bytes) -> None:
    if beginning.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{path} is UTF-16; save it as UTF-8.")
    if beginning.startswith(tuple(_SUFFIXES)):
        raise UserError(f"{path} is compressed twice; unpack it once.")


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    with open_regular(path) as raw:
        beginning = raw.read(4)
        raw.seek(0)
        said = path.suffix.lower()
        suffix = next((suffix for mark, suffix in _SUFFIXES.items() if beginning.startswith(mark)), said)
        if suffix == ".gz":
            with gzip.GzipFile(fileobj=raw) as file:
                yield file
        elif suffix == ".zst":
            # The standard library reads zstd from Python 3.14 on. Lazy import: cmrm needs pyarrow nowhere else.
            import pyarrow as pa

            with pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd") as file:
                yield file
        elif suffix == ".zip":
            with zipfile.ZipFile(raw) as archive, _open_member(archive, path) as file:
                yield file
        else:
            yield raw


def _open_member(archive: zipfile.ZipFile, path: Path) -> IO[bytes]:
    # macOS adds a metadata file for each file.
    members = [
        one for one in archive.infolist() if not one.is_dir() and not one.filename.startswith("__MACOSX/")
    ]
    if len(members) != 1:
        raise UserError(
            f"{path} holds {len(members)} files, and one is read; unpack it, and give the path of one."
        )
    try:
        return archive.open(members[0])
    except (
        RuntimeError,
        NotImplementedError,
    ) as error:  # encrypted, or an unsupported compression method
        raise UserError(f"{path} cannot be unpacked ({first_line(error)}); give the file itself.") from None
