"""Download files that a spec or a row names by URL: into memory, or into the user's cache until they change."""

from __future__ import annotations

import io
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, unquote, urlsplit

from storage.backends.http_files import (
    Reach,
    check_http_url,
    fetch_http,
    is_loopback,
    show_url,
)
from storage.backends.http_limits import LIMITS, Limits, NoAnswerError, RemoteFileError
from storage.backends.remote_errors import error_code, remote_explained
from storage.backends.s3 import S3_PROTOCOLS, connection_options
from storage.errors import StoreError, explained
from storage.records.hashing import digest_bytes, digest_file
from storage.records.layout import cache_folder

__all__ = [
    "MOST_FILE_BYTES",
    "MOST_IMAGE_BYTES",
    "NoAnswerError",
    "RemoteFileError",
    "check_url",
    "fetch_bytes",
    "fetch_file",
    "find_host",
    "is_offline",
    "is_remote",
    "join_url",
    "show_url",
]

# Larger tables must be downloaded by the user; a larger image is useless to a language model.
MOST_FILE_BYTES = 16 * 2**30
MOST_IMAGE_BYTES = 64 * 2**20

_REMOTE = re.compile(r"(?:https?|s3a?)://", re.IGNORECASE)
_S3_CHUNK = 8 * 2**20
# Characters replaced in a cached file's name; its suffix is kept for the readers.
# Half a surrogate pair, from a JSON escape.
_UNENCODABLE = re.compile(r"[\ud800-\udfff]")
_UNPLAIN = re.compile(r"[^A-Za-z0-9._-]+")
_MOST_NAME = 80
_OF_SERVERS = frozenset((None, "500", "502", "503", "504", "InternalError", "ServiceUnavailable", "SlowDown"))
_INCOMING = ".incoming-"
_DAY = 86_400
_YES = frozenset(("1", "ON", "YES", "TRUE"))


@dataclass(frozen=True, kw_only=True)
class _Copy:
    """The record of a cached file: its name in the same folder, size in bytes, and the server's validator."""

    name: str
    size: int
    validator: str
    fetched: str


def is_remote(text: str) -> bool:
    """Whether a text is a URL of a supported scheme: https, s3, or http, which is for loopback alone."""
    return _REMOTE.match(text) is not None


def check_url(url: str) -> None:
    """Raise `RemoteFileError` for an invalid URL, or plain HTTP to another host than loopback."""
    if _is_s3(url):
        if not find_host(url) or _UNENCODABLE.search(url):
            raise RemoteFileError(f"{show_url(url)} names no bucket or file; give s3://bucket/file")
    else:
        check_http_url(url)


def is_offline() -> bool:
    """Whether the user disabled the network with the environment variables of the Hugging Face libraries."""
    return any(
        os.environ.get(name, "").upper() in _YES for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


def find_host(url: str) -> str:
    """The host or bucket of a URL; "" if it has none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def join_url(base: str, name: str) -> str:
    """Join the URL of a folder and a file name; raises `RemoteFileError` for a name that leads out of it."""
    # A name is that of a file on disk: `./a//b.png` is `a/b.png`, and a percent sign is one.
    parts = [part for part in name.replace("\\", "/").split("/") if part not in (".", "")]
    if name.startswith("/") or ".." in parts or not parts:
        raise RemoteFileError(f"{name[:120]!r} is no name of a file inside {show_url(base)}; correct it")
    if any(mark in base for mark in "?#"):
        raise RemoteFileError(f"{show_url(base)} is no URL of a folder; give one without ? and #")
    # Keys of S3 are taken as they are written.
    joined = "/".join(parts) if _is_s3(base) else quote("/".join(parts), errors="replace")
    return f"{base.rstrip('/')}/{joined}"


def fetch_bytes(url: str, *, most: int, reach: Reach = "any", limits: Limits = LIMITS) -> bytes:
    """Download a file of at most `most` bytes into memory; raises `RemoteFileError` if that fails."""
    stream = io.BytesIO()
    _fetch(url, stream, most=most, reach=reach, validator=None, limits=limits)
    return stream.getvalue()


def fetch_file(url: str, *, most: int = MOST_FILE_BYTES, limits: Limits = LIMITS) -> Path:
    """Find the file of a URL in the user's cache, downloading it again if the server has a newer one.

    A cached file is never modified, so a reader of its path sees the same bytes to the end. Offline (`is_offline`), or
    if no server answers then, the cached file is used. Raises `RemoteFileError` if there is none.
    """
    check_url(url)
    folder = cache_folder() / "remote" / digest_bytes(url.encode())[:32]
    with explained("write", str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
    known = _read_record(folder)
    if is_offline() and not _is_asked_offline(url):
        if known is not None:
            return folder / known.name
        raise RemoteFileError(
            f"{show_url(url)}: HF_HUB_OFFLINE is set, and no copy of it is kept; unset it, or give a file of this "
            "machine"
        )
    try:
        return _refresh(url, folder, known, most=most, limits=limits)
    except NoAnswerError as error:
        if known is None:
            raise
        if is_offline():
            return folder / known.name
        raise NoAnswerError(
            f"{error}; to go on with the copy of {known.fetched}, set HF_HUB_OFFLINE=1"
        ) from None


def _is_asked_offline(url: str) -> bool:
    # S3 is requested offline as well: the bucket may be in the local network.
    return is_loopback(url) or _is_s3(url)


def _refresh(url: str, folder: Path, known: _Copy | None, *, most: int, limits: Limits) -> Path:
    with _writing(folder) as (stream, incoming):
        validator = _fetch(
            url,
            stream,
            most=most,
            reach="any",
            validator=None if known is None else known.validator,
            limits=limits,
        )
        if validator is None and known is not None:
            return folder / known.name
        stream.flush()
        os.fsync(stream.fileno())
        size = stream.tell()
        # Named by its digest, so that a cached file is never replaced by another.
        name = f"{digest_file(incoming)[:16]}-{_name_file(url)}"
        incoming.replace(folder / name)
    copy = _Copy(
        name=name,
        size=size,
        validator=validator or "",
        fetched=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )
    with _writing(folder) as (stream, incoming):
        stream.write(json.dumps(asdict(copy)).encode())
        stream.flush()
        incoming.replace(folder / "record.json")
    return folder / name


def _fetch(
    url: str, into: IO[bytes], *, most: int, reach: Reach, validator: str | None, limits: Limits
) -> str | None:
    if _is_s3(url):
        return _fetch_s3(url, into, most=most, validator=validator)
    return fetch_http(url, into, most=most, reach=reach, validator=validator, limits=limits)


def _fetch_s3(url: str, into: IO[bytes], *, most: int, validator: str | None) -> str | None:
    import fsspec

    where = show_url(url)
    # fsspec knows its protocols in lower case alone.
    scheme, _, rest = url.partition("://")
    try:
        system, path = fsspec.core.url_to_fs(f"{scheme.lower()}://{rest}", **connection_options())
    except ImportError:
        raise StoreError(
            f"{where} needs the package s3fs, which is not installed; run pip install 'cmrm[s3]'"
        ) from None
    try:
        with remote_explained("read", where):
            found: dict[str, Any] = system.info(path)
            if found.get("type") != "file":
                raise RemoteFileError(f"{where} is no file; give the URL of one")
            tag, size = str(found.get("ETag") or ""), int(found["size"])
            if validator and tag == validator:
                return None
            if size > most:
                raise RemoteFileError(f"{where} has {size:,} bytes, more than {most / 2**20:g} MiB")
            # Each chunk is requested with the ETag, so that none comes from a later version.
            with system.open(path, "rb", block_size=_S3_CHUNK) as stream:
                while chunk := stream.read(_S3_CHUNK):
                    with explained("write", where):
                        into.write(chunk)
    except FileNotFoundError:
        raise RemoteFileError(f"{where} is not there; correct the URL") from None
    except RemoteFileError:
        raise
    except StoreError as error:
        # A code is the server's error; without one, there was no answer.
        kind = NoAnswerError if error_code(error) in _OF_SERVERS else RemoteFileError
        raise kind(str(error).partition(". To go on")[0]) from error
    return tag


def _is_s3(url: str) -> bool:
    return url.partition("://")[0].lower() in S3_PROTOCOLS


def _name_file(url: str) -> str:
    """Name a cached file: the last part of its URL, in plain characters, with its suffixes."""
    try:
        last = unquote(urlsplit(url).path).rstrip("/").rpartition("/")[2]
    except ValueError:
        last = ""
    return _UNPLAIN.sub("_", last)[-_MOST_NAME:].lstrip(".") or "file"


def _read_record(folder: Path) -> _Copy | None:
    """Read the record of the last download, if its file still exists with the recorded size."""
    try:
        copy = _Copy(**json.loads((folder / "record.json").read_bytes()))
        return copy if (folder / copy.name).stat().st_size == copy.size else None
    except (OSError, ValueError, TypeError):
        return None


@contextmanager
def _writing(folder: Path) -> Iterator[tuple[IO[bytes], Path]]:
    """Open a temporary file in a folder, deleted afterwards unless it was renamed."""
    with explained("write", str(folder)):
        for left in folder.glob(f"{_INCOMING}*"):
            # Left by a killed process.
            with suppress(FileNotFoundError):
                if left.stat().st_mtime < time.time() - _DAY:
                    left.unlink()
        handle, place = tempfile.mkstemp(dir=folder, prefix=_INCOMING)
    path = Path(place)
    try:
        with os.fdopen(handle, "w+b") as stream, explained("write", str(folder)):
            yield stream, path
    finally:
        path.unlink(missing_ok=True)
